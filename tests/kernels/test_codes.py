"""`move_by_codes` and `read_codes`: in JAX against the definitions, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import move_by_codes
from kernels.codes import before_activation, limited, read_codes
from kernels.codes.cases import make_case, make_reading
from kernels.codes.reference import move_by_codes_reference, read_codes_reference
from kernels.codes.types import Patterns

SIZES = [dict(), dict(harmonics=1, codes=2), dict(shine=0, frames=1, codes=1, harmonics=9)]


def assert_close(got, want):
    for name, value, true in zip(want._fields, got, want, strict=True):
        assert value.shape == true.shape and value.dtype == jnp.float32, name
        np.testing.assert_allclose(value, true, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("sizes", SIZES)
def test_jax_equals_the_definition(sizes):
    case = make_case(**sizes)
    assert_close(move_by_codes(*case, implementation="xla"), move_by_codes_reference(*case))


def test_codes_of_zero_leave_the_cloud_as_it_is():
    cloud, form, shine, follows, codes = make_case()
    still = move_by_codes(cloud, form, shine, follows, 0 * codes, implementation="xla")
    for value, wanted in zip(still, (cloud.means, cloud.quats, jnp.exp(cloud.log_scales),
                                     jax.nn.sigmoid(cloud.logit_opacities), cloud.sh),
                             strict=True):  # fmt: skip
        np.testing.assert_allclose(value, jnp.stack([wanted] * len(codes)), rtol=1e-6)


def test_one_code_moves_by_its_own_pattern_alone():
    cloud, form, shine, follows, codes = make_case(codes=3, shine=2, frames=1)
    last = jnp.zeros_like(codes).at[0, 2].set(2.0)
    moved = move_by_codes(cloud, form, shine, 0 * follows, last, implementation="xla")
    by = 2 * np.asarray(form.steps)[2, :3] * np.asarray(form.counts)[2, :3].T
    np.testing.assert_allclose(moved.means[0], cloud.means + by, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(moved.sh[0, :, 1:], cloud.sh[:, 1:])


def test_what_does_not_fit_is_said():
    cloud, form, shine, follows, codes = make_case()
    with pytest.raises(ValueError, match=r"form: expected counts \(3, 14, 5\)"):
        move_by_codes(cloud, Patterns(form.counts[:, 1:], form.steps), shine, follows, codes)
    with pytest.raises(ValueError, match=r"shine: expected counts \(2, 9, 5\)"):
        move_by_codes(cloud, form, Patterns(shine.counts[:, 1:], shine.steps), follows, codes)
    for wrong in (follows[:, :1], follows[1:], follows.T):
        with pytest.raises(ValueError, match=r"follows: expected shape \(3, 2\)"):
            move_by_codes(cloud, form, shine, wrong, codes)
    with pytest.raises(ValueError, match="cloud: expected shapes"):
        move_by_codes(cloud._replace(means=cloud.means[1:]), form, shine, follows, codes)
    with pytest.raises(ValueError, match="at least one Gaussian, frame and code"):
        move_by_codes(cloud, form, shine, follows, codes[:0])


@pytest.mark.parametrize("sizes", [dict(), dict(n=256, frames=4, codes=32), dict(n=33, codes=1)])
def test_codes_are_read_as_defined(sizes):
    case = make_reading(**sizes)
    got = np.asarray(read_codes(*case, implementation="xla"))
    want, ranges = np.asarray(read_codes_reference(*case)), np.asarray(case.ranges)
    assert got.shape == want.shape and got.dtype == np.float32
    assert np.max(np.abs(got - want) / (ranges[1] - ranges[0])) < 1e-5


def test_the_codes_that_moved_gaussians_are_read():
    """From every number of Gaussians that patterns moved, by the patterns' inverse."""
    cloud, form, shine, follows, codes = make_case(n=40, frames=3, codes=4, shine=0, harmonics=1)
    moved = move_by_codes(cloud, form, shine, follows, codes, implementation="xla")
    still = move_by_codes(cloud, form, shine, follows, 0 * codes, implementation="xla")
    weights = np.float32(np.random.default_rng(1).uniform(0.5, 2, (40, 14)))
    patterns = np.asarray(form.counts * form.steps[..., None]).transpose(0, 2, 1) * weights
    reader = jnp.asarray(np.linalg.pinv(patterns.reshape(4, -1).T), jnp.float32)
    ranges = jnp.outer(jnp.asarray([-5.0, 5.0]), jnp.ones(4))
    arguments = before_activation(still)[0], jnp.asarray(weights), reader, ranges
    got = read_codes(moved, *arguments, implementation="xla")
    np.testing.assert_allclose(got, codes, atol=1e-4)


def test_codes_far_from_any_seen_are_limited_smoothly():
    ranges = jnp.asarray([[-1.0, 0.0], [3.0, 10.0]])
    middle, half = np.array([1.0, 5.0]), np.array([2.0, 5.0])
    inside = jnp.asarray(middle + half * np.linspace(-1, 1, 21)[:, None], jnp.float32)
    np.testing.assert_array_equal(limited(inside, ranges), inside)
    far = limited(jnp.asarray([[1e6, -1e6]]), ranges)
    np.testing.assert_allclose(far, [[middle[0] + 1.25 * half[0], middle[1] - 1.25 * half[1]]])
    slope = jax.vmap(jax.grad(lambda c: limited(jnp.stack([c, 5.0])[None], ranges)[0, 0]))
    at = slope(jnp.asarray([2.99, 3.01, 3.5, 4.0]))
    assert at[0] == 1 and 0.99 < at[1] < 1 and np.all(np.diff(at) <= 0)


def test_a_reader_that_does_not_fit_is_said():
    moved, mean, weights, reader, ranges = make_reading()
    with pytest.raises(ValueError, match="expected 70 numbers a code, 14 a Gaussian, got 69"):
        read_codes(moved, mean, weights, reader[:, 1:], ranges)
    with pytest.raises(ValueError, match="moved: expected shapes"):
        read_codes(moved._replace(sh=jnp.zeros((2, 5, 4, 3))), mean, weights, reader, ranges)
    with pytest.raises(ValueError, match="at least one Gaussian, frame and code"):
        read_codes(moved, mean, weights, reader[:0], ranges[:, :0])
