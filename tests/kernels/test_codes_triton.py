"""The Triton kernels of `move_by_codes` and `read_codes`, in Triton's interpreter.

Against the definitions.
"""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import move_by_codes
from kernels.codes import read_codes
from kernels.codes.cases import make_case, make_reading
from kernels.codes.reference import move_by_codes_reference, read_codes_reference

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


def test_codes_that_are_not_finite_harm_no_other_frame():
    case = make_case(n=9, frames=3)
    got = run(case._replace(codes=case.codes.at[1, 2].set(jnp.nan)), frames=3)
    for value, want in zip(got, run(case, frames=3), strict=True):
        assert not np.isfinite(value[1]).all()
        np.testing.assert_array_equal(value[0::2], want[0::2])


def test_what_the_kernel_cannot_do_is_said():
    case = make_case()
    move = lambda codes: move_by_codes(*case[:4], codes, implementation="triton")
    loss = lambda codes: move(codes).means.sum()
    with pytest.raises(NotImplementedError, match="no derivative; pass implementation='xla'"):
        jax.grad(loss)(case.codes)
    for name in ("codes", "follows"):
        narrow = case._replace(**{name: getattr(case, name).astype(jnp.bfloat16)})
        with pytest.raises(NotImplementedError, match="it takes float32"):
            move_by_codes(*narrow, implementation="triton")
    many = lambda v, *shape: jax.ShapeDtypeStruct(shape, v.dtype)
    count = 2**27
    cloud = jax.tree.map(lambda v: many(v, count, *v.shape[1:]), case.cloud)
    wide = lambda p: p._replace(counts=many(p.counts, *p.counts.shape[:2], count))
    arguments = cloud, wide(case.form), wide(case.shine), case.follows, case.codes
    with pytest.raises(NotImplementedError, match="can count 2147483647 numbers"):
        jax.eval_shape(lambda *a: move_by_codes(*a, implementation="triton"), *arguments)


@pytest.mark.parametrize(
    "sizes",
    [
        dict(n=256, frames=1, codes=32),
        dict(n=256, frames=4, codes=24),
        dict(n=301, frames=3, codes=5),
        dict(n=33, frames=2, codes=1),
    ],
)
def test_codes_are_read_as_defined(sizes):
    """Gaussians under, over and at full blocks; opacities near 0 and 1."""
    case = make_reading(**sizes)
    got, plain = (np.asarray(read_codes(*case, implementation=n)) for n in ("triton", "xla"))
    want, ranges = np.asarray(read_codes_reference(*case)), np.asarray(case.ranges)
    assert got.shape == want.shape and got.dtype == np.float32
    width = ranges[1] - ranges[0]
    beyond = np.abs(want - ranges.mean(axis=0)) / (width / 2)
    assert sizes["codes"] < 5 or beyond.min() < 1 < beyond.max() < 1.2501
    assert np.max(np.abs(got - want) / width) < 1e-5
    assert np.max(np.abs(got - plain) / width) < 1e-5


def test_codes_at_the_ends_of_their_ranges():
    """By readers of zeros and a single number: inside the sum itself, far beyond a quarter more."""
    moved, mean, _, _, _ = make_reading(n=3, frames=1)
    numbers = np.float32([-1e30, -2.5, -1, 0.25, 1, 1.5, 1e30])
    reader = np.zeros((len(numbers), 42), np.float32)
    reader[:, 2] = numbers
    one = moved._replace(means=moved.means.at[0, 0, 2].set(1 + mean[0, 2]))
    ranges = jnp.outer(jnp.asarray([-1.0, 1.0]), jnp.ones(len(numbers)))
    arguments = one, mean, jnp.ones((3, 14)), jnp.asarray(reader), ranges
    got = read_codes(*arguments, implementation="triton")[0]
    np.testing.assert_allclose(got[jnp.asarray([2, 3, 4])], [-1, 0.25, 1], rtol=1e-6)
    np.testing.assert_allclose(got[jnp.asarray([0, 6])], [-1.25, 1.25], rtol=1e-6)
    assert -1.25 <= got[1] < -1.2 and got[5] == pytest.approx(1 + 0.25 * np.tanh(2), rel=1e-5)


def test_many_frames_are_read_by_a_matrix_product():
    from kernels.codes.triton.reading import MOST_FRAMES

    def program(frames):
        case = make_reading(frames=frames)
        read = lambda: read_codes(*case, implementation="triton")
        return str(jax.make_jaxpr(read)())

    assert "pure_callback" in program(MOST_FRAMES)
    assert "pure_callback" not in program(MOST_FRAMES + 1)
    case = make_reading(frames=MOST_FRAMES + 1)
    got, want = (read_codes(*case, implementation=name) for name in ("triton", "xla"))
    np.testing.assert_array_equal(got, want)


def test_a_frame_that_is_not_finite_harms_no_other():
    case = make_reading(frames=3)
    bad = case.moved._replace(means=case.moved.means.at[1, 2, 0].set(jnp.nan))
    got = read_codes(bad, *case[1:], implementation="triton")
    want = read_codes(*case, implementation="triton")
    assert np.isnan(got[1]).all()
    np.testing.assert_array_equal(got[jnp.asarray([0, 2])], want[jnp.asarray([0, 2])])


@pytest.mark.parametrize("frames", [1, 9])
def test_what_reading_cannot_do_is_said(frames):
    case = make_reading(frames=frames)
    read = lambda reader: read_codes(*case[:3], reader, case[4], implementation="triton").sum()
    with pytest.raises(NotImplementedError, match="no derivative; pass implementation='xla'"):
        jax.grad(read)(case.reader)
    with pytest.raises(NotImplementedError, match="it takes float32"):
        read(case.reader.astype(jnp.bfloat16))
