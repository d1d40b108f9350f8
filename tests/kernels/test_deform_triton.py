"""`deform`'s Triton kernel, in Triton's interpreter, against the implementation in JAX."""

import importlib.util

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import dispatch
from kernels.deform import deform
from kernels.deform.cases import make_case, pack
from kernels.deform.xla.deform import deform_xla

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (Linux only)"
)
slow = pytest.mark.slow
# The cases are small: compiling takes far longer than running, so compile in a hurry. And keep XLA
# from dropping a rounding to bfloat16 where the result is wanted in float32.
OPTIONS = {"xla_backend_optimization_level": 0, "xla_allow_excess_precision": False}
in_jax = jax.jit(deform_xla, compiler_options=OPTIONS)


def run(case, rows=32, units=32, dtype=jnp.bfloat16, parts=1):
    """The kernel on small tiles: several programs with little to interpret."""
    from kernels.deform.triton.deform import Tile, deform_tiles

    tile = Tile(rows=rows, units=units, warps=4, stages=2, registers=255, parts=parts)
    return jax.device_get(deform_tiles(tile, *case.arrays, pack(case, dtype)))


def assert_close(got, case):
    """Equal but for sums in another order, which now and then turn the rounding of an operand."""
    got = jax.device_get(got)
    same = jax.device_get(in_jax(*case.arrays, pack(case, jnp.bfloat16)))
    exact = jax.device_get(in_jax(*case.arrays, pack(case)))
    for name, value, want, full in zip(same._fields, got, same, exact, strict=True):
        assert value.shape == want.shape and value.dtype == jnp.float32, name
        scale = np.max(np.abs(full))
        error = np.abs(value - want) / scale
        assert np.quantile(error, 0.75) < 1e-6 and np.max(error) < 2e-3, name
        assert np.max(np.abs(value - full)) < 0.02 * scale, name


@pytest.mark.parametrize(
    ("network", "sizes"),
    [
        pytest.param("taylor", dict(k=16, d=64, units=64, ffn=128, n=33), marks=slow),
        ("taylor", dict(k=4, d=32, units=32, ffn=64, n=64, tokens=20, frames=3)),
        ("mlp", dict(k=9, d=32, units=16, ffn=32, n=40, frames=1, agents=130)),
        pytest.param("mlp", dict(k=1, d=64, units=64, ffn=64, n=31), marks=slow),
        ("taylor", dict(k=1, d=16, units=16, ffn=16, n=1, frames=1, agents=1, tokens=1)),
    ],
)
def test_kernel_equals_jax_with_operands_rounded_alike(network, sizes):
    """Widths, harmonics, frames, agents and tokens, Gaussians under, over and at full programs."""
    case = make_case(network, **(dict(agents=70, tokens=5) | sizes))
    assert_close(run(case), case)


def test_api_runs_the_kernel_with_weights_of_either_type():
    """Cast when packed or in the call: the same bits. `static_mix` may be bfloat16 as well."""
    case = make_case("taylor", n=9, d=32, units=32, ffn=32, frames=1)
    got = deform(*case.arrays, pack(case), implementation="triton")
    assert_close(got, case)
    canonical, features, static, *others = case.arrays
    arrays = (canonical, features, jnp.asarray(static, jnp.bfloat16), *others)
    again = deform(*arrays, pack(case, jnp.bfloat16), implementation="triton")
    chex.assert_trees_all_equal(got, again)


@pytest.mark.parametrize("network", ["taylor", "mlp"])
def test_programs_that_share_the_heads_make_the_same_bits(network):
    case = make_case(network, n=40, d=32, units=32, ffn=32, k=4, frames=2, agents=20, tokens=5)
    chex.assert_trees_all_equal(run(case), run(case, parts=5))


@pytest.mark.parametrize("network", ["taylor", "mlp"])
def test_a_gaussian_that_is_not_finite_harms_no_other(network):
    case = make_case(network, n=40, d=32, units=32, ffn=32, frames=1)
    clean = run(case)
    canonical, features, static, *others = jax.tree.map(np.copy, case.arrays)
    features[3, 5], features[20, 0], static[35, 2] = np.nan, np.inf, np.nan
    canonical.means[7, 1], canonical.sh[8, 0, 2] = np.nan, -np.inf
    case.arrays = (canonical, features, static, *others)
    got = run(case)
    for row in (3, 20, 35):  # poisoned before the heads
        assert not any(np.any(np.isfinite(value[0, row])) for value in got), row
    assert np.isnan(got.means[0, 7, 1]) and np.isinf(got.sh[0, 8, 0, 2])
    others = np.setdiff1d(np.arange(40), (3, 7, 8, 20, 35))
    for value, want in zip(got, clean, strict=True):
        np.testing.assert_array_equal(value[:, others], want[:, others])


def test_what_the_kernel_cannot_do_is_said(monkeypatch):
    monkeypatch.setattr(dispatch, "is_default", lambda: True)
    case = make_case("plain_mlp", n=4, d=16, units=16, ffn=16)
    plain = pack(case)
    with pytest.raises(NotImplementedError, match="begin an MLP with a ReLU; pass 'xla'"):
        deform(*case.arrays, plain, implementation="triton")
    program = str(jax.make_jaxpr(lambda: deform(*case.arrays, plain))())
    assert "pure_callback" not in program  # None picks what can do it
    fine = make_case("mlp", n=4, d=16, units=16, ffn=16)
    assert "pure_callback" in str(jax.make_jaxpr(lambda: deform(*fine.arrays, pack(fine)))())
    case = make_case("mlp", n=4, agents=4, d=16, units=16, ffn=16)
    own = (*case.arrays[:2], None, *case.arrays[3:])  # every Gaussian its own agent
    with pytest.raises(NotImplementedError, match="mixes tokens through agents only"):
        deform(*own, pack(case), implementation="triton")
    case = make_case("mlp", n=4, d=24, units=16, ffn=16)
    with pytest.raises(NotImplementedError, match="got 24 features and width 16"):
        deform(*case.arrays, pack(case), implementation="triton")


def test_no_gradient():
    case = make_case("mlp", n=4, d=16, units=16, ffn=16)
    weights = pack(case)

    def loss(tokens):
        arrays = (*case.arrays[:-1], tokens)
        return jnp.sum(deform(*arrays, weights, implementation="triton").means)

    with pytest.raises(NotImplementedError, match="no derivative; pass implementation='xla'"):
        jax.grad(loss)(case.arrays[-1])


def test_more_numbers_than_the_kernel_can_index_are_refused():
    case = make_case("mlp", n=4, d=16, units=16, ffn=16, frames=1)
    many = lambda v: jax.ShapeDtypeStruct((2**28, *v.shape[1:]), v.dtype)
    canonical, features, static, *others = case.arrays
    arrays = (*jax.tree.map(many, (canonical, features, static)), *others)
    with pytest.raises(ValueError, match="fewer than 2147483648 numbers"):
        jax.eval_shape(lambda *a: deform(*a, pack(case), implementation="triton"), *arrays)
