"""The sums of `sample_planes`' Triton kernels, in Triton's interpreter: exact and repeatable."""

import importlib.util
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from kernels import dispatch, sample_planes
from kernels.planes import Levels
from kernels.planes.cases import SMALL, make_case
from kernels.planes.reference import contributions, table_gradient_reference

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (Linux only)"
)
WIDE = (-60, 60)
ONE_ENTRY = Levels((4,), 1)  # where all corners of all points meet


def gradient_of(case):
    """The gradient of the tables, by the kernels."""
    from kernels.planes.triton.planes import table_gradient

    gradient = jax.jit(partial(table_gradient, levels=case.levels))
    return np.asarray(gradient(jnp.asarray(case.points), jnp.asarray(case.cotangents)))


@pytest.mark.parametrize(
    ("levels", "sizes"),
    [
        (SMALL, dict(count=130)),
        (SMALL, dict(count=40, planes=2, features=3)),
        (Levels((5,)), dict(count=9, features=32)),
        (Levels((1, 3)), dict(count=1, planes=1, features=150)),
    ],
)
def test_values_and_gradients_equal_jax(levels, sizes):
    """Points and features under, at and over full programs."""
    case = make_case(levels=levels, **sizes)

    def run(implementation):
        def read(tables, points):
            return sample_planes(tables, points, levels, implementation=implementation)

        def both(tables, points):
            values, pullback = jax.vjp(read, tables, points)
            return values, *pullback(jnp.asarray(case.cotangents))

        return jax.jit(both)(case.tables, case.points)

    got, want = run("triton"), run("xla")
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_allclose(got[1], want[1], rtol=1e-6, atol=3e-6)
    np.testing.assert_allclose(got[2], want[2], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("exponents", [(0, 0), WIDE])
def test_sums_equal_those_of_integers_without_limit(exponents):
    case = make_case(count=60, features=2, exponents=exponents)
    want = table_gradient_reference(case.points, case.cotangents, case.levels)
    np.testing.assert_array_equal(gradient_of(case), want)


def test_order_of_the_points_changes_no_bit():
    case = make_case(count=300, levels=Levels((4, 8), 32), exponents=(-20, 20))
    first = gradient_of(case)
    order = np.random.default_rng(1).permutation(300)
    case = case._replace(points=case.points[:, :, order], cotangents=case.cotangents[:, :, order])
    np.testing.assert_array_equal(gradient_of(case), first)


def test_error_is_within_its_bound():
    """A unit a contribution, and one rounding: for magnitudes that float sums would lose."""
    case = make_case(count=60, planes=1, exponents=WIDE)
    exact = np.zeros(case.tables.shape, np.longdouble)
    counts = np.zeros(case.tables.shape, int)
    for place, part in contributions(case.points, case.cotangents, case.levels):
        exact[place] += np.longdouble(part)
        counts[place] += 1
    bits = 62 - (60).bit_length()
    most = np.max(np.abs(case.cotangents)) * 2.0 ** (1 - bits) * counts
    error = np.abs(gradient_of(case) - exact)
    assert np.all(error <= most + 2.0**-24 * np.abs(exact)) and np.any(error > 0)


@pytest.mark.parametrize("sign", [1, -1])
def test_all_contributions_to_one_entry_do_not_overflow(sign):
    """As many points as the number of bits is made for, with the largest cotangents there are."""
    case = make_case(count=1023, levels=ONE_ENTRY, planes=1)
    largest = np.nextafter(np.float32(sign), np.float32(0))
    case.cotangents[...] = largest
    case.points[...] = 0.75  # a vertex: weights 1, 0, 0, 0
    np.testing.assert_array_equal(gradient_of(case), np.full((1, 1, 1), largest * 1023))


@pytest.mark.parametrize("exponent", [-100, 100])
def test_powers_of_two_pass_through(exponent):
    """Cotangents near either end of float32 give the same digits."""
    case = make_case(count=30)
    want = np.ldexp(gradient_of(case), exponent)
    case = case._replace(cotangents=np.ldexp(case.cotangents, exponent))
    np.testing.assert_array_equal(gradient_of(case), want)


def test_zeros_give_zeros():
    case = make_case(count=30)
    case.cotangents[...] *= 0.0
    assert np.any(np.signbit(case.cotangents))
    assert not np.any(gradient_of(case))


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["cotangents", "points"])
def test_what_is_not_finite_makes_every_entry_nan(where, value):
    case = make_case(count=10)
    getattr(case, where)[1, 2, 7] = value
    assert np.all(np.isnan(gradient_of(case)))


def test_a_point_outside_makes_every_entry_nan():
    case = make_case(count=10)
    case.points[0, 1, 3] = 1.5
    assert np.all(np.isnan(gradient_of(case)))


def test_vmap_and_shard_map_equal_jax():
    case = make_case(count=20)

    def loss(tables, points, implementation="triton"):
        return jnp.sum(
            jnp.sin(sample_planes(tables, points, case.levels, implementation=implementation))
        )

    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    specs = (PartitionSpec(), PartitionSpec(None, None, "data"))
    over_mesh = lambda tables, points: jax.lax.psum(loss(tables, points), "data")
    mapped = jax.shard_map(over_mesh, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())
    got = jax.jit(jax.grad(mapped, argnums=(0, 1)))(case.tables, case.points)
    of_xla = jax.grad(partial(loss, implementation="xla"), argnums=(0, 1))
    for value, want in zip(got, jax.jit(of_xla)(case.tables, case.points), strict=True):
        np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-5)
    many = np.stack([case.tables, -case.tables])
    got, want = (
        jax.jit(jax.vmap(jax.grad(partial(loss, implementation=name)), (0, None)))(
            many, case.points
        )
        for name in ("triton", "xla")
    )
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_what_cannot_run_is_said(monkeypatch):
    case, other = make_case(count=2), make_case(count=3)  # traced anew
    gradient = lambda case, **options: jax.make_jaxpr(
        jax.grad(lambda t: jnp.sum(sample_planes(t, case.points, case.levels, **options)))
    )
    assert "pure_callback" not in str(
        gradient(case)(case.tables)
    )  # an interpreter is never the best
    monkeypatch.setattr(dispatch, "is_default", lambda: True)
    assert "pure_callback" in str(gradient(other)(other.tables))
    half = case.tables.astype(np.float16)
    assert "pure_callback" not in str(gradient(case)(half))
    with pytest.raises(NotImplementedError, match="float32, got float16.*pass 'xla' or None"):
        gradient(case, implementation="triton")(half)
    many = jax.ShapeDtypeStruct((2, 3, 2**28), jnp.float32)
    with pytest.raises(NotImplementedError, match="fewer than 2147483648 numbers"):
        jax.eval_shape(
            lambda t, p: sample_planes(t, p, case.levels, implementation="triton"),
            case.tables, many,
        )  # fmt: skip
    if jax.default_backend() == "cpu":
        monkeypatch.delenv("TRITON_INTERPRET")
        with pytest.raises(NotImplementedError, match="NVIDIA GPU.*pass 'xla' or None"):
            sample_planes(case.tables, case.points[:, :, :1], case.levels, implementation="triton")
