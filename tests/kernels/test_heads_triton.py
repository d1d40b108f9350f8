"""The Triton kernels of the heads, in Triton's interpreter, against the implementation in JAX."""

import functools
import importlib.util
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import traced_apart

from kernels import dispatch
from kernels.deform import decode_heads
from kernels.deform.cases import make_case, pack

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (Linux only)"
)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several programs, blocks of units and shares with little to interpret."""
    from kernels.deform.triton import heads as heads_triton

    for name in ("HEADS", "INPUTS", "WEIGHTS"):
        monkeypatch.setattr(heads_triton, name, heads_triton.Tile(32, 16, 4, 2))
    monkeypatch.setattr(heads_triton, "PROGRAMS", 20)
    with traced_apart("highest"):  # the tiles are no argument
        yield


@functools.partial(jax.jit, static_argnames="implementation")
def run(x, weights, cotangents, implementation):
    def decode(x, weights):
        rounded = weights if implementation == "triton" else weights.astype(jnp.bfloat16)
        return decode_heads(x, rounded, implementation=implementation)

    out, pullback = jax.vjp(decode, x, weights)
    return out, pullback(cotangents)


def both_ways(*arguments):
    """Outputs, and cotangents of x and the weights; operands are bfloat16 either way."""
    return jax.device_get(run(*arguments))


def assert_close(got, want, most):
    """By vector, of which an entry may be off by the rounding of operands."""
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
    ):
        assert a.shape == b.shape and np.all(np.isfinite(a)), path
        error = np.linalg.norm(np.float64(a) - np.float64(b))
        assert error < most * np.linalg.norm(np.float64(b)), jax.tree_util.keystr(path)


@pytest.mark.parametrize(
    ("network", "rows", "d", "units", "k"),
    [
        ("taylor", 70, 64, 32, 16),
        ("taylor", 32, 16, 16, 1),
        pytest.param("mlp", 161, 32, 64, 9, marks=pytest.mark.slow),
    ],
)
def test_outputs_and_gradients_equal_those_of_jax(network, rows, d, units, k):
    """Rows under, at and over whole programs; one block of units a head, and several."""
    weights = pack(make_case(network, d=d, units=units, k=k)).heads
    rng = np.random.default_rng(1)
    draw = lambda *shape: np.float32(rng.normal(size=shape))
    x = draw(rows, d)
    cotangents = draw(rows, 16), draw(rows, weights.color.bias.size)
    got = both_ways(x, weights, cotangents, "triton")
    want = both_ways(x, weights, cotangents, "xla")
    assert_close(got, want, 0.01)


def test_small_cotangents_are_not_lost():
    """A loss is a mean over millions of numbers."""
    weights = pack(make_case("taylor", d=16, units=16, k=1)).heads
    rng = np.random.default_rng(2)
    x = np.float32(rng.normal(size=(40, 16)))
    cotangents = tuple(np.float32(1e-12 * rng.normal(size=(40, 16))) for _ in range(2))
    got = both_ways(x, weights, cotangents, "triton")[1]
    assert_close(got, both_ways(x, weights, cotangents, "xla")[1], 0.01)


def test_a_row_that_is_not_finite_harms_no_other_and_is_noticed():
    weights = pack(make_case("taylor", d=16, units=16, k=1)).heads
    x = np.float32(np.random.default_rng(3).normal(size=(40, 16)))
    ones = np.ones((40, 16), np.float32), np.ones((40, 16), np.float32)
    clean, (clean_x, _) = both_ways(x, weights, ones, "triton")
    x[5, 3] = np.nan
    got, (grad_x, grad_weights) = both_ways(x, weights, ones, "triton")
    others = np.delete(np.arange(40), 5)
    for a, b in zip((*got, grad_x), (*clean, clean_x), strict=True):
        np.testing.assert_array_equal(a[others], b[others])
        assert np.all(np.isnan(a[5, :11]))
    assert np.any(np.isnan(grad_weights.hidden.kernel))


def test_what_the_kernels_cannot_do_is_said(monkeypatch):
    monkeypatch.setattr(dispatch, "is_default", lambda: True)
    plain = make_case("plain_mlp", d=16, units=16)
    cases = (plain, "begin an MLP with a ReLU"), (make_case("mlp", d=24, units=16), "got 24 feat")
    for case, message in cases:
        weights = pack(case).heads
        x = jnp.zeros((3, weights.hidden.kernel.shape[1]))
        with pytest.raises(NotImplementedError, match=f"decode_heads: .*{message}.*; pass 'xla'"):
            decode_heads(x, weights, implementation="triton")
        jaxpr = str(jax.make_jaxpr(decode_heads)(x, weights))
        assert "pure_callback" not in jaxpr  # None picks what can do it
    weights = pack(make_case("mlp", d=16, units=16)).heads
    none, wide = jnp.zeros((0, 16)), jnp.zeros((3, 16), jnp.bfloat16)
    for x in (none, wide):
        with pytest.raises(NotImplementedError, match="it takes 1 to 8388607 rows of float32, got"):
            decode_heads(x, weights, implementation="triton")
        assert decode_heads(x, weights)[0].shape == (len(x), 16)


def test_small_gpus_decode_by_xla(monkeypatch):
    """An RTX 30 or 40 has 99 KiB of shared memory a program."""

    class Device:
        platform, compute_capability = "gpu", "8.9"
        client = SimpleNamespace(platform_version="cuda 12")

    monkeypatch.setattr(dispatch, "is_default", lambda: True)
    monkeypatch.setattr(dispatch.jax, "devices", lambda *_: [Device()])
    weights = pack(make_case("mlp", d=16, units=16)).heads
    with pytest.raises(NotImplementedError, match="takes 105 KiB .* a program, this GPU has 99"):
        decode_heads(jnp.zeros((3, 16)), weights, implementation="triton")
    assert "pure_callback" not in str(jax.make_jaxpr(decode_heads)(jnp.zeros((3, 16)), weights))
    Device.compute_capability = "7.5"  # it has no bfloat16
    with pytest.raises(NotImplementedError, match="compute capability 8.0, this one has 7.5"):
        decode_heads(jnp.zeros((3, 16)), weights, implementation="triton")
