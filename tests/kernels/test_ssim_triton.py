"""The Triton kernels of `mean_ssim`, in Triton's interpreter, against its definition."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from kernels import dispatch, mean_ssim
from kernels.ssim.cases import make_pair
from kernels.ssim.reference import mean_ssim_reference

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (Linux only)"
)


def in_float64(a, b):
    """Value and gradient of the definition."""
    with jax.enable_x64(True):
        wide = (jnp.asarray(image, jnp.float64) for image in (a, b))
        defined = jax.jit(jax.value_and_grad(mean_ssim_reference))(*wide)
    return tuple(map(np.asarray, defined))


def assert_equal(got, a, b):
    """Equal to the definition."""
    value, gradient = jax.device_get(got)
    want, expected = in_float64(a, b)
    assert gradient.shape == a.shape and gradient.dtype == jnp.float32
    np.testing.assert_allclose(value, want, atol=5e-7)
    assert np.linalg.norm(gradient - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("shape", "rows", "lanes"),
    [
        ((1, 1, 1, 1), 16, 32),
        # Rows under, at and over full programs.
        ((1, 11, 11, 4), 16, 64),
        ((3, 2, 4, 3), 2, 32),
        pytest.param((1, 5, 7, 3), 3, 32, marks=pytest.mark.slow),
        pytest.param((1, 16, 33, 3), 15, 128, marks=pytest.mark.slow),
        # Columns likewise, and programs that just lack, or just have, all neighbours in the row.
        pytest.param((1, 1, 32, 1), 1, 16, marks=pytest.mark.slow),
        pytest.param((1, 1, 36, 1), 1, 16, marks=pytest.mark.slow),
        ((1, 1, 37, 1), 1, 16),
    ],
)
def test_kernels_equal_the_definition(shape, rows, lanes):
    from kernels.ssim.triton.ssim import Tile, ssim_tiles

    a, b = make_pair(shape)
    run = jax.jit(jax.value_and_grad(lambda a: ssim_tiles(Tile(rows, lanes), a, b)))
    assert_equal(run(a), a, b)


def test_api_runs_the_kernels_under_jit_and_shard_map():
    """With a cotangent other than 1; the target gets none."""
    a, b = make_pair((1, 3, 5, 3))
    value = lambda a, b: mean_ssim(a, b, implementation="triton")
    np.testing.assert_allclose(value(a, b), in_float64(a, b)[0], atol=5e-7)  # without slopes
    mesh, spec = Mesh(np.array(jax.devices()[:1]), ("data",)), PartitionSpec("data")
    split = jax.shard_map(
        lambda a, b: jax.lax.pmean(3.0 * value(a, b), "data"),
        mesh=mesh, in_specs=(spec, spec), out_specs=PartitionSpec(),
    )  # fmt: skip
    run = jax.jit(jax.value_and_grad(split, argnums=(0, 1)))
    thrice, (gradient, none) = jax.device_get(run(a, b))
    assert_equal((thrice / 3, gradient / 3), a, b)
    assert not np.any(none)


def test_what_the_kernels_cannot_do_is_said(monkeypatch):
    monkeypatch.setattr(dispatch, "is_default", lambda: True)
    a, b = make_pair((1, 4, 5, 3))
    program = lambda a: str(jax.make_jaxpr(lambda: mean_ssim(a, b))())
    assert "pure_callback" in program(a)
    assert "pure_callback" not in program(jnp.asarray(a, jnp.bfloat16))
    with pytest.raises(NotImplementedError, match="float32 images, got bfloat16 and float32"):
        mean_ssim(jnp.asarray(a, jnp.bfloat16), b, implementation="triton")
    many = (jax.ShapeDtypeStruct((2**17, 128, 128, 1), jnp.float32),) * 2
    with pytest.raises(NotImplementedError, match="fewer than 2147483648 numbers"):
        jax.eval_shape(lambda a, b: mean_ssim(a, b, implementation="triton"), *many)


def test_programs_run_at_once_and_margins_do_not_prevail():
    from kernels.ssim.triton.ssim import PROGRAMS, pick_tile

    for images, side, rows in [(8, 450, 50), (8, 512, 64), (1, 450, 16), (64, 1024, 1024)]:
        assert pick_tile(images, side, side, 3).rows == rows
    assert 8 * -(-450 * 3 // 32) * -(-450 // 50) <= PROGRAMS
