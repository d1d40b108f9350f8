"""Adam by groups against plain NumPy, and the learning rates at their ends."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egs_jax.config import OptimConfig
from egs_jax.model.gaussians import Gaussians
from egs_jax.training import optimizer

CONFIG = OptimConfig(decay_steps=10, rate_scale=2.0)
INIT = jax.jit(optimizer.init)
UPDATE = jax.jit(optimizer.update, static_argnums=0)
NETWORKS = {"spatial": {"tables": (3, 4)}, "static": {"kernel": (2, 5), "bias": (5,)}}


def make_params(seed):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: np.float32(rng.standard_normal(shape))
    cloud = Gaussians(
        means=draw(4, 3), log_scales=draw(4, 3), quats=draw(4, 4), logit_opacities=draw(4),
        sh0=draw(4, 1, 3), shN=draw(4, 15, 3),
    )  # fmt: skip
    networks = {m: {n: draw(*s) for n, s in leaves.items()} for m, leaves in NETWORKS.items()}
    return {"gaussians": cloud, "networks": networks}


def expected_rate(group, count):
    value = getattr(CONFIG, group)
    if isinstance(value, float):
        return 2 * value
    start, end = value
    return 2 * start * (end / start) ** min(count / 10, 1)


def test_update_equals_plain_adam_for_every_leaf():
    params, grads = make_params(0), [make_params(seed) for seed in range(1, 15)]
    state, got = INIT(params), params
    for grad in grads:
        got, state = UPDATE(CONFIG, grad, state, got, jnp.float32(0.5))

    def group_of(path):
        name = path[-1].name if hasattr(path[-1], "name") else path[-1].key
        if name in ("tables", "kernel", "bias"):
            return "planes" if name == "tables" else "networks"
        return name

    def plain(path, leaf, *leaf_grads):
        value, m, v = np.float64(leaf), 0.0, 0.0
        for t, grad in enumerate(map(np.float64, leaf_grads), start=1):
            m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
            step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-15)
            value = value - 0.5 * expected_rate(group_of(path), t - 1) * step
        return value

    want = jax.tree_util.tree_map_with_path(plain, params, *grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), got, want)
    assert int(state["gaussians"].count) == int(state["planes"].count) == len(grads)


@pytest.mark.parametrize("name", ["means", "networks", "planes"])
def test_rates_fall_log_linearly_and_stay(name):
    start, end = (2 * v for v in getattr(CONFIG, name))
    rates = [float(optimizer.rate(CONFIG, name, jnp.int32(n))) for n in (0, 5, 10, 1000)]
    np.testing.assert_allclose(rates, [start, (start * end) ** 0.5, end, end], rtol=1e-5)


def test_warmup_slows_the_first_steps_of_the_networks_only():
    params, grads = make_params(0), make_params(1)
    warm = jax.jit(optimizer.update, static_argnums=0, static_argnames="warmup_steps")
    both = {0: params, 3: params}
    states = {steps: INIT(params) for steps in both}
    for count in range(5):
        moved = {}
        for steps, before in both.items():
            both[steps], states[steps] = warm(
                CONFIG, grads, states[steps], before, jnp.float32(1), warmup_steps=steps
            )
            both[steps] = jax.device_get(both[steps])
            moved[steps] = jax.tree.map(np.subtract, both[steps], before)
        ratio = jax.tree.map(lambda slow, full: float(np.mean(slow / full)), moved[3], moved[0])
        share = min(1.0, (count + 1) / 4)
        np.testing.assert_allclose(jax.tree.leaves(ratio["networks"]), share, rtol=1e-2)
        np.testing.assert_allclose(jax.tree.leaves(ratio["gaussians"]), 1.0, rtol=1e-2)


def test_no_gradient_moves_nothing():
    params = make_params(0)
    zeros = jax.tree.map(np.zeros_like, params)
    after, _ = UPDATE(CONFIG, zeros, INIT(params), params, jnp.float32(1))
    chex.assert_trees_all_equal(after, params)
