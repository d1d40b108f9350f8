"""The tokens' Triton kernels, in Triton's interpreter, against the modules that they stand for."""

import functools
import importlib.util
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import fill_shapes

from egs_jax.avatar.precomputed import listen
from egs_jax.avatar.token_kernels.frame_tokens import (
    WIDTH,
    frame_tokens,
    pack,
    sizes,
)
from egs_jax.avatar.token_kernels.reference import frame_tokens_reference
from egs_jax.avatar.token_kernels.weights import (
    token_weights,
    uses_token_kernels,
    why_not_networks,
)
from egs_jax.config import Config, ModelConfig
from egs_jax.model import forward as model
from egs_jax.model.attention import dynamic_mix
from egs_jax.types import Drive

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (Linux only)"
)


def scene(window, features, agents, frames, ppe, lips="learned"):
    """Config, parameters far from their start, agents, what drives the frames; their weights.

    With fitted lips the last frame but one is nearly silent, and the last one is.
    """
    config = ModelConfig(window_frames=window, ppe=ppe, lips=lips)
    init = functools.partial(model.init_networks, config, audio_dim=features)
    params = fill_shapes(jax.eval_shape(init, jax.random.key(0)))["tokens"]
    rng = np.random.default_rng(0)
    draw = lambda *shape: np.float32(rng.normal(size=shape))
    viewmats = draw(frames, 4, 4)
    viewmats[:, :3, 3] *= 4
    drive = Drive(draw(frames, window, 16, features), np.abs(draw(frames)) % 1, viewmats,
                  draw(frames, 3, 3), np.zeros((frames, 8, 8, 3), np.uint8))  # fmt: skip
    if lips == "fitted":
        reader = params["lips_reader"]
        reader |= {name: jnp.sort(5 * reader[name], axis=0) for name in ("told", "true")}
        reader["spread"] = jnp.float32(features**0.5)
        drive.audio_windows[-2:] *= np.float32([0.3, 0])[:, None, None, None]
        drive.audio_windows[-2:] += np.asarray(reader["hush"])
    weights = jax.jit(token_weights, static_argnums=0)(config, params)
    chosen, drive = jax.device_put((draw(agents, WIDTH), drive))
    return config, params, chosen, drive, weights


@pytest.mark.parametrize(
    "size",
    [
        (8, 80, 70, 2, "temporal"),
        (2, 16, 5, 1, "off"),
        (5, 80, 5, 3, "off", "fitted"),
        pytest.param((12, 10, 64, 3, "temporal"), marks=pytest.mark.slow),
        pytest.param((8, 10, 5, 9, "temporal", "fitted"), marks=pytest.mark.slow),
    ],
)
def test_kernel_and_its_definition_equal_the_modules(size):
    config, params, chosen, drive, weights = scene(*size)
    nets = model.networks(config)

    @jax.jit
    def modules(params, drive, chosen):
        tokens, bias = model.condition(config, params, drive)
        return tokens, dynamic_mix(chosen, tokens, nets.attention.temperature, bias)

    want, mix = map(np.asarray, modules(params, drive, chosen))
    args = drive.audio_windows, drive.eyes, drive.viewmats, chosen, weights
    numbers = dict(distance=nets.tokens.pose_distance, temperature=nets.attention.temperature,
                   fits_lips=config.fits_lips)  # fmt: skip
    kept = SimpleNamespace(limits=None, token_weights=weights, agents=chosen)
    tokens, got = map(np.asarray, listen(Config(model=config), kept, drive))
    defined = jax.jit(functools.partial(frame_tokens_reference, **numbers))(*args)
    np.testing.assert_allclose(defined[0], want, atol=2e-5 * np.abs(want).max())
    np.testing.assert_allclose(defined[1], mix, atol=1e-5)
    assert tokens.shape == (len(drive.eyes), size[0] + 4, WIDTH) and np.ptp(want) > 1
    np.testing.assert_allclose(tokens, want, atol=2e-4 * np.abs(want).max())
    np.testing.assert_allclose(got, mix, atol=1e-4)
    np.testing.assert_allclose(got.sum(-1), 1, rtol=1e-5)
    if config.fits_lips:  # in float32, and each frame told otherwise
        np.testing.assert_allclose(tokens[:, -1], want[:, -1], atol=2e-5)
        assert np.abs(np.diff(want[:, -1], axis=0)).max(axis=1).min() > 0.05


@pytest.mark.parametrize("size", [(3, 10, 33, 3, "temporal"), (5, 10, 33, 3, "off", "fitted")])
def test_a_frame_has_the_same_bits_in_any_batch(size):
    """And one that is not finite harms no other."""
    config, _, chosen, drive, weights = scene(*size)

    def call(*arguments):
        numbers = dict(distance=5.0, temperature=8.0, fits_lips=config.fits_lips)
        return jax.tree.map(np.asarray, frame_tokens(*arguments, **numbers))

    arrays = jax.device_get([drive.audio_windows, drive.eyes, drive.viewmats])
    together = call(*jax.device_put(arrays), chosen, weights)
    arrays[0] = arrays[0].copy()
    arrays[0][1, 0, 5, 2] = np.nan
    spoilt = call(*jax.device_put(arrays), chosen, weights)
    for frame in (0, 2):
        alone = call(*jax.device_put([a[frame : frame + 1] for a in arrays]), chosen, weights)
        for one, *others in zip(alone, together, spoilt, strict=True):
            for other in others:
                np.testing.assert_array_equal(one[0], other[frame])
    assert np.all(np.isnan(spoilt[0][1, 0])) and np.all(np.isnan(spoilt[1][1]))
    assert np.all(np.isnan(spoilt[0][1, -1])) == config.fits_lips


def test_what_the_kernel_does_not_have_is_refused():
    zeros = lambda *shape: jax.device_put(np.zeros(shape, np.float32))
    args = [zeros(*shape) for shape in ((1,), (1, 4, 4), (3, 64), (9,))]
    call = functools.partial(frame_tokens, distance=5.0, temperature=8.0)
    with pytest.raises(ValueError, match="at most 12 frames a window"):
        call(zeros(1, 13, 16, 8), *args)
    with pytest.raises(ValueError, match="weights: expected [0-9]+ numbers, got 9"):
        call(zeros(1, 8, 16, 8), *args)
    parts = {name: zeros(*shape) for name, shape in sizes(8, 8).items()}
    with pytest.raises(ValueError, match=r"parts: \['lips_read.bias'\]: expected None, got \(2,\)"):
        pack(parts, 8, 8, True)
    with pytest.raises(ValueError, match=r"parts: \['null'\]: expected \(64,\), got None"):
        pack({name: value for name, value in parts.items() if name != "null"}, 8, 8)


def test_avatars_on_a_gpu_keep_weights_for_it(monkeypatch):
    monkeypatch.setattr("kernels.dispatch.is_default", lambda: True)
    has = lambda **fields: uses_token_kernels(Config(model=ModelConfig(**fields)))
    assert has() and has(ppe="off") and has(window_frames=12, ppe_period=12) and has(lips="fitted")
    assert has(window_frames=12, ppe_period=5, ppe="off")
    assert not has(window_frames=12, ppe_period=5)  # PPE's bias, which the kernel does not know
    assert not any((has(architecture="parity"), has(ppe="token"), has(token_kan="mlp"),
                    has(window_frames=13), has(attention="cross")))  # fmt: skip
    assert not uses_token_kernels(Config(rasterizer="xla"))
    why_not = lambda **fields: why_not_networks(ModelConfig(**fields).resolved)
    assert why_not() is None
    assert "one period, 5 frames, not 12" in why_not(window_frames=12, ppe_period=5)
    assert "tokens of 64 numbers, not 32" in why_not(d_model=32)
