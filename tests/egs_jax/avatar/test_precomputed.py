"""What an avatar keeps draws what the training's forward pass draws."""

import functools

import jax
import numpy as np
import pytest
from helpers import AUDIO_DIM, POINTS, fill_shapes

from egs_jax.avatar import precomputed as prepared
from egs_jax.config import Config, ModelConfig
from egs_jax.data.dataset import Dataset
from egs_jax.model import forward as model
from egs_jax.model.gaussians import init_gaussians

FAST = {"xla_backend_optimization_level": 0}  # these programs run once
SMALL = {"width": 16, "agents_count": 20, "hash_levels": 4, "d_model": 32}
CHOICES = {
    "taylor": {"sh_degree": 1},
    "mlp": {"decoder": "mlp", "ppe": "off", "sh_degree": 2},
    "cross": {"attention": "cross", "token_kan": "mlp", "sh_degree": 0},
    "parity": {"architecture": "parity", "sh_degree": 3, "d_model": 64},
}


@pytest.fixture(scope="module")
def scene(painted):
    """A drive of three frames, and a cloud whose dead slots lie among the live ones."""
    data = Dataset.open(painted)
    points, colors = np.array(data.arrays["points"]), np.array(data.arrays["point_colors"])
    free, alive = init_gaussians(points, colors, POINTS + 40)
    order = np.random.default_rng(0).permutation(POINTS + 40)
    free, alive = jax.device_put(jax.tree.map(lambda v: np.asarray(v)[order], (free, alive)))
    return data.drive(np.array([1, 5, 9]), 8), free, alive


def random_params(config, free):
    """Parameters far from their start, where deltas are zero."""
    init = lambda key: model.init_networks(config, key, AUDIO_DIM)
    return {"gaussians": free, "networks": fill_shapes(jax.eval_shape(init, jax.random.key(0)))}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in ("mlp", "cross"))) for n in CHOICES]
)
def test_gaussians_are_those_of_the_forward_pass(scene, name):
    drive, free, alive = scene
    config = ModelConfig(**(SMALL | CHOICES[name]))
    params = random_params(config, free)
    whole = Config(model=config)
    kept = prepared.prepare(whole, params, alive, config.sh_degree)
    got = jax.jit(functools.partial(prepared.move, whole), compiler_options=FAST)(kept, drive)
    forward = lambda *a: model.deformed_gaussians(whole, *a, dropout_key=None)
    want = jax.jit(forward, compiler_options=FAST)(params, alive, drive)
    for mine, theirs in zip(got, want, strict=True):
        live = np.asarray(theirs)[:, np.asarray(alive)]
        assert mine.shape == (3, prepared.rounded(POINTS), *live.shape[2:])
        np.testing.assert_allclose(mine[:, :POINTS], live, rtol=1e-4, atol=1e-4)
    assert np.asarray(kept.alive).tolist() == [True] * POINTS + [False] * (len(kept.alive) - POINTS)
    assert not np.asarray(got.opacities)[:, POINTS:].any()
    assert np.abs(np.asarray(want.means) - np.asarray(free.means)).max() > 1e-3  # deltas act


def test_an_avatar_without_a_live_gaussian_keeps_one_that_draws_nothing(scene):
    _, free, alive = scene
    config = ModelConfig(**SMALL, sh_degree=0)
    params = random_params(config, free)
    kept = prepared.prepare(Config(model=config), params, np.zeros_like(alive), 0)
    assert kept.features.shape[0] == 1
    assert np.isfinite(kept.static_mix).all() and np.isneginf(kept.canonical.logit_opacities)
    assert not kept.alive.any()


@pytest.mark.parametrize(
    ("count", "wanted"),
    [(0, 1), (1, 1), (63, 63), (64, 64), (65, 66), (150, 152), (6_401, 6_528), (50_000, 50_176)],
)
def test_numbers_of_gaussians_are_rounded_up_to_six_digits(count, wanted):
    assert prepared.rounded(count) == wanted


def test_rounding_stays_under_three_percent_and_within_the_slots(scene):
    assert all(n <= prepared.rounded(n) <= max(1.032 * n, 1) for n in range(1, 200_000, 7))
    _, free, alive = scene
    config = ModelConfig(**SMALL, sh_degree=0)
    params = random_params(config, free)
    full = prepared.prepare(Config(model=config), params, np.ones_like(alive), 0)
    assert len(full.alive) == len(alive) < prepared.rounded(len(alive)) and full.alive.all()
