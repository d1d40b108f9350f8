"""The Triton kernel of `move_by_codes`, in Triton's interpreter, against the definition."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import move_by_codes
from kernels.codes.cases import make_case
from kernels.codes.reference import move_by_codes_reference

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (Linux only)"
)


def run(case, rows=16, frames=2):
    """The kernel on small tiles: several programs with little to interpret."""
    from kernels.codes.triton.codes import Tile, move_tiles

    return move_tiles(Tile(rows=rows, frames=frames, warps=4, patterns=2), *case)


@pytest.mark.parametrize(
    "sizes",
    [
        dict(n=33, frames=3, codes=6, shine=4, harmonics=16),
        dict(n=16, frames=1, codes=1, shine=1, harmonics=9),
        dict(n=5, frames=2, codes=3, shine=2, harmonics=1),
        dict(n=20, frames=5, codes=2, shine=0, harmonics=4),
    ],
)
def test_kernel_equals_the_definition(sizes):
    """Gaussians under, over and at full programs; frames that do not fill their turns."""
    case = make_case(**sizes)
    want = move_by_codes_reference(*case)
    for name, value, true in zip(want._fields, run(case), want, strict=True):
        assert value.shape == true.shape and value.dtype == jnp.float32, name
        np.testing.assert_allclose(value, true, rtol=1e-5, atol=1e-5, err_msg=name)


def test_api_runs_the_kernel():
    case = make_case(n=9)
    got = move_by_codes(*case, implementation="triton")
    jax.tree.map(np.testing.assert_array_equal, got, run(case, rows=32))
    program = str(jax.make_jaxpr(lambda: move_by_codes(*case, implementation="triton"))())
    assert "pure_callback" in program


def test_a_gaussian_that_is_not_finite_harms_no_other():
    case = make_case(n=20)
    means, sh = case.cloud.means.at[3, 1].set(jnp.nan), case.cloud.sh.at[7, 2, 0].set(jnp.inf)
    got = run(case._replace(cloud=case.cloud._replace(means=means, sh=sh)))
    assert np.isnan(got.means[:, 3, 1]).all() and np.isinf(got.sh[:, 7, 2, 0]).all()
    others = np.setdiff1d(np.arange(20), (3, 7))
    for value, want in zip(got, run(case), strict=True):
        np.testing.assert_array_equal(value[:, others], want[:, others])


def test_what_the_kernel_cannot_do_is_said():
    case = make_case()
    move = lambda codes: move_by_codes(*case[:3], codes, case[4], implementation="triton")
    loss = lambda codes: move(codes).means.sum()
    with pytest.raises(NotImplementedError, match="no derivative; pass implementation='xla'"):
        jax.grad(loss)(case.codes)
    narrow = case._replace(codes=case.codes.astype(jnp.bfloat16))
    with pytest.raises(NotImplementedError, match="it takes float32"):
        move_by_codes(*narrow, implementation="triton")
    many = lambda v, *shape: jax.ShapeDtypeStruct(shape, v.dtype)
    count = 2**27
    cloud = jax.tree.map(lambda v: many(v, count, *v.shape[1:]), case.cloud)
    wide = lambda p: p._replace(counts=many(p.counts, *p.counts.shape[:2], count))
    arguments = cloud, wide(case.form), wide(case.shine), case.codes, case.shine_codes
    with pytest.raises(NotImplementedError, match="can count 2147483647 numbers"):
        jax.eval_shape(lambda *a: move_by_codes(*a, implementation="triton"), *arguments)
