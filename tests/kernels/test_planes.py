"""`sample_planes` in plain JAX against its definition in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import sample_planes
from kernels.planes import Levels, spatial_hash
from kernels.planes.cases import SMALL, make_case
from kernels.planes.reference import sample_planes_reference


def test_hash_equals_the_formula_in_unbounded_integers():
    x, y = np.array([0, 1, 511, 77]), np.array([0, 3, 640, 1001])
    want = [(int(a) ^ (int(b) * 2654435761 % 2**32)) % 4096 for a, b in zip(x, y, strict=True)]
    got = jax.jit(spatial_hash, static_argnums=2)(np.uint32(x), np.uint32(y), 4096)
    np.testing.assert_array_equal(got, want)


def test_layout_by_hand():
    cells, starts, hashed, entries = SMALL.layout()
    assert (cells.tolist(), starts.tolist(), entries) == ([4, 8, 16], [0, 25, 89], 25 + 64 + 64)
    assert hashed.tolist() == [False, True, True]
    _, starts, hashed, entries = Levels((1, 3)).layout()
    assert (starts.tolist(), hashed.tolist(), entries) == ([0, 4], [False, False], 4 + 16)
    assert not Levels((7,), 64).layout().hashed.any()  # 64 vertices fit


@pytest.mark.parametrize(
    ("levels", "planes", "features"), [(SMALL, 3, 1), (SMALL, 2, 3), (Levels((5,)), 1, 4)]
)
def test_values_and_gradients_equal_the_definition(levels, planes, features):
    case = make_case(levels=levels, planes=planes, features=features)

    def both_ways(read):
        """The jitted function to values and gradients."""

        @jax.jit
        def program(tables, points, cotangents):
            values, pullback = jax.vjp(lambda *arrays: read(*arrays, levels), tables, points)
            return values, pullback(cotangents)

        return program

    arrays = case.tables, case.points, case.cotangents
    read = functools.partial(sample_planes, implementation="xla")
    got, got_gradients = both_ways(read)(*arrays)
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        want, gradients = both_ways(sample_planes_reference)(*map(np.float64, arrays))
    assert got.shape == want.shape and got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, atol=2e-5)
    for gradient, expected in zip(got_gradients, gradients, strict=True):
        largest = np.max(np.abs(expected))
        np.testing.assert_allclose(gradient, expected, atol=1e-5 * largest)


def test_corners_of_the_square_are_entries_and_what_is_not_finite_harms_no_other():
    levels = Levels((2,))
    tables = np.arange(9, dtype=np.float32).reshape(1, 9, 1)
    points = np.array([[0, 1, 0, 1, 0.5, np.nan], [0, 0, 1, 1, 0.5, np.inf]], np.float32)[:, None]
    got = np.asarray(sample_planes(tables, points, levels))[0, 0, :, 0]
    np.testing.assert_array_equal(got[:5], [0, 2, 6, 8, 4])
    assert np.isnan(got[5])


def test_what_makes_no_sense_is_refused():
    case = make_case(count=2)
    read = lambda levels=SMALL, **options: sample_planes(
        case.tables, options.pop("points", case.points), levels, **options
    )
    with pytest.raises(ValueError, match=r"tables: expected 25 entries a plane.*got 153"):
        read(Levels((4,)))
    with pytest.raises(ValueError, match="table_size: expected a power of two, got 48"):
        read(Levels((4,), 48))
    for cells in ((), (0,), (2**20 + 1,)):
        with pytest.raises(ValueError, match="resolutions: expected one or more from 1 to 1048576"):
            read(Levels(cells))
    with pytest.raises(ValueError, match="points: expected at least one"):
        read(points=case.points[:, :, :0])
    with pytest.raises(ValueError, match="expected None, 'xla' or 'triton', got 'cuda'"):
        read(implementation="cuda")
