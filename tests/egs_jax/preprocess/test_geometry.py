"""Rotations and rigid transforms: worked examples, round trips and gradients."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.transform

from egs_jax.preprocess import geometry as plain

PUBLIC = (
    "rotvec_to_quat quat_to_matrix rotvec_to_matrix matrix_to_quat matrix_to_rotvec "
    "rigid_transform safe_normalize"
).split()
ANGLES = (0.0, 1e-7, 1e-3, 1.0, 3.0, np.pi - 1e-3)


# Each function under `jit`: one compilation instead of one per operation.
geometry = types.SimpleNamespace(
    **{name: jax.jit(function) for name, function in vars(plain).items() if name in PUBLIC}
)


def rotvecs(seed: int = 0) -> np.ndarray:
    axis = np.random.default_rng(seed).normal(size=(len(ANGLES), 3))
    return (axis / np.linalg.norm(axis, axis=1)[:, None] * np.array(ANGLES)[:, None]).astype(
        np.float32
    )


def test_quarter_turn_about_z_takes_x_to_y():
    matrix = geometry.rotvec_to_matrix(jnp.array([0.0, 0.0, np.pi / 2]))
    np.testing.assert_allclose(matrix @ jnp.array([1.0, 0, 0]), [0, 1, 0], atol=1e-6)
    half = np.sqrt(0.5)
    quat = geometry.rotvec_to_quat(jnp.array([0.0, 0.0, np.pi / 2]))
    np.testing.assert_allclose(quat, [half, 0, 0, half], atol=1e-6)


def test_rotations_match_scipy_and_return():
    vectors = rotvecs()
    oracle = scipy.spatial.transform.Rotation.from_rotvec(vectors.astype(np.float64))
    matrices = geometry.rotvec_to_matrix(jnp.asarray(vectors))
    np.testing.assert_allclose(matrices, oracle.as_matrix(), atol=1e-6)
    np.testing.assert_allclose(geometry.matrix_to_rotvec(matrices), vectors, atol=3e-6)


def test_a_rigid_transform_turns_then_moves():
    turn = geometry.rotvec_to_matrix(jnp.array([0.0, 0.0, np.pi / 2]))
    transform = geometry.rigid_transform(turn, jnp.array([5.0, 6.0, 7.0]))
    np.testing.assert_allclose(transform @ jnp.array([1.0, 0, 0, 1]), [5, 7, 7, 1], atol=1e-6)


@pytest.mark.parametrize("axis", range(3))
def test_half_turn_has_a_quaternion(axis):
    matrix = np.diag(np.where(np.arange(3) == axis, 1.0, -1.0)).astype(np.float32)
    quat = geometry.matrix_to_quat(jnp.asarray(matrix))
    np.testing.assert_allclose(np.abs(quat), np.eye(4)[axis + 1], atol=1e-6)


def test_sign_and_length_of_a_quaternion_do_not_matter():
    quat = jnp.array([0.3, -0.2, 0.5, 0.7])
    expected = geometry.quat_to_matrix(quat)
    np.testing.assert_allclose(geometry.quat_to_matrix(-3.0 * quat), expected, atol=1e-6)
    np.testing.assert_allclose(expected @ expected.T, np.eye(3), atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        geometry.safe_normalize,
        geometry.rotvec_to_matrix,
        lambda v: geometry.matrix_to_rotvec(geometry.rotvec_to_matrix(v)),
    ],
)
def test_gradients_are_finite_at_zero(function):
    gradient = jax.jit(jax.jacobian(function))(jnp.zeros(3))
    assert np.isfinite(gradient).all()


def test_rotation_derivative_at_zero_is_the_cross_product():
    derivative = jax.jit(jax.jacobian(geometry.rotvec_to_matrix))(jnp.zeros(3))  # [3, 3, axis]
    for axis in range(3):
        cross = np.cross(np.eye(3)[axis], np.eye(3)).T  # its columns: axis x each unit vector
        np.testing.assert_allclose(derivative[..., axis], cross, atol=1e-6)


def test_a_vector_is_normalized_exactly_away_from_zero():
    v = jnp.array([3.0, 0.0, -4.0])
    np.testing.assert_allclose(geometry.safe_normalize(v), [0.6, 0.0, -0.8], rtol=1e-6)
