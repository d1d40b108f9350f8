"""`move_by_codes`: the implementation in JAX against the definition, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import move_by_codes
from kernels.codes.cases import make_case
from kernels.codes.reference import move_by_codes_reference
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
    cloud, form, shine, codes, others = make_case()
    still = move_by_codes(cloud, form, shine, 0 * codes, 0 * others, implementation="xla")
    for value, wanted in zip(still, (cloud.means, cloud.quats, jnp.exp(cloud.log_scales),
                                     jax.nn.sigmoid(cloud.logit_opacities), cloud.sh),
                             strict=True):  # fmt: skip
        np.testing.assert_allclose(value, jnp.stack([wanted] * len(codes)), rtol=1e-6)


def test_one_code_moves_by_its_own_pattern_alone():
    cloud, form, shine, codes, others = make_case(codes=3, shine=2, frames=1)
    last = jnp.zeros_like(codes).at[0, 2].set(2.0)
    moved = move_by_codes(cloud, form, shine, last, 0 * others, implementation="xla")
    by = 2 * np.asarray(form.steps)[2, :3] * np.asarray(form.counts)[2, :3].T
    np.testing.assert_allclose(moved.means[0], cloud.means + by, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(moved.sh[0, :, 1:], cloud.sh[:, 1:])


def test_what_does_not_fit_is_said():
    cloud, form, shine, codes, others = make_case()
    with pytest.raises(ValueError, match=r"form: expected counts \(3, 14, 5\)"):
        move_by_codes(cloud, Patterns(form.counts[:, 1:], form.steps), shine, codes, others)
    with pytest.raises(ValueError, match=r"shine: expected counts \(1, 9, 5\)"):
        move_by_codes(cloud, form, shine, codes, others[:, :1])
    with pytest.raises(ValueError, match="cloud: expected shapes"):
        move_by_codes(cloud._replace(means=cloud.means[1:]), form, shine, codes, others)
    with pytest.raises(ValueError, match="at least one Gaussian, frame and code"):
        move_by_codes(cloud, form, shine, codes[:0], others[:0])
