"""Rotations, rigid transforms and projection: worked examples, round trips and gradients."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.transform

from egs_jax.preprocess import geometry as plain

PUBLIC = (
    "skew rotvec_to_quat quat_to_matrix rotvec_to_matrix matrix_to_quat matrix_to_rotvec safe_norm "
    "quat_multiply rigid_transform invert_rigid transform_points project_points safe_normalize"
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


def test_quaternion_product_is_matrix_product():
    a, b = (geometry.rotvec_to_quat(jnp.asarray(rotvecs(seed))) for seed in (1, 2))
    product = geometry.quat_to_matrix(geometry.quat_multiply(a, b))
    expected = geometry.quat_to_matrix(a) @ geometry.quat_to_matrix(b)
    np.testing.assert_allclose(product, expected, atol=2e-6)


def test_inverse_undoes_a_rigid_transform():
    transform = geometry.rigid_transform(
        geometry.rotvec_to_matrix(jnp.asarray(rotvecs())), jnp.asarray(rotvecs(3))
    )
    points = jnp.asarray(np.random.default_rng(4).normal(size=(len(ANGLES), 5, 3)), jnp.float32)
    there = geometry.transform_points(transform, points)
    back = geometry.transform_points(geometry.invert_rigid(transform), there)
    np.testing.assert_allclose(back, points, atol=1e-5)
    assert not np.allclose(there, points, atol=0.1)


def test_skew_is_the_cross_product():
    a, b = jnp.array([1.0, 2.0, 3.0]), jnp.array([-2.0, 0.5, 1.0])
    np.testing.assert_allclose(geometry.skew(a) @ b, np.cross(a, b), atol=1e-6)


def test_projection_by_hand():
    K = jnp.array([[100.0, 0, 50], [0, 200, 40], [0, 0, 1]])
    projected = geometry.project_points(jnp.array([[1.0, -0.5, 2.0]]), K)
    np.testing.assert_allclose(projected, [[100.0, -10.0]])


@pytest.mark.parametrize(
    "function",
    [
        geometry.safe_norm,
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
        np.testing.assert_allclose(
            derivative[..., axis], geometry.skew(jnp.eye(3)[axis]), atol=1e-6
        )


def test_safe_functions_are_exact_away_from_zero():
    v = jnp.array([3.0, 0.0, -4.0])
    assert geometry.safe_norm(v) == 5.0
    np.testing.assert_allclose(geometry.safe_normalize(v), [0.6, 0.0, -0.8], rtol=1e-6)
    assert jax.grad(plain.safe_sqrt)(0.0) == 0.0
