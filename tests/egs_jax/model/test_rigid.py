"""Rigid transforms by component against SciPy's rotations and NumPy's products."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from egs_jax.model import rigid


def random_transforms(seed, count=5):
    transforms = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
    transforms[:, :3, :3] = Rotation.random(count, random_state=seed).as_matrix()
    transforms[:, :3, 3] = np.random.default_rng(seed).normal(size=(count, 3))
    return transforms


product, inverse, quats_of, rotations_of = map(
    jax.jit, (rigid.product, rigid.inverse, rigid.quats_of, rigid.rotations_of)
)


def test_products_and_inverses_are_those_of_matrices():
    a, b = random_transforms(0), random_transforms(1)
    np.testing.assert_allclose(product(a, b), a @ b, atol=1e-6)
    np.testing.assert_allclose(inverse(a), np.linalg.inv(a), atol=1e-6)


def test_the_identity_changes_no_bit():
    a, nothing = random_transforms(0), np.asarray(rigid.identities(5))
    for same in (product(a, nothing), product(nothing, a)):
        np.testing.assert_array_equal(same, a)
    np.testing.assert_array_equal(inverse(nothing), nothing)
    np.testing.assert_array_equal(quats_of(nothing[:, :3, :3]), [[1, 0, 0, 0]] * 5)


def test_quaternions_of_every_angle():
    axes = np.random.default_rng(0).normal(size=(40, 3))
    axes = np.concatenate([axes / np.linalg.norm(axes, axis=1, keepdims=True), np.eye(3)])
    for angle in (0.0, 1e-4, 1.0, 3.0, np.pi - 1e-4, np.pi):
        turns = Rotation.from_rotvec(angle * axes)
        quats = np.asarray(quats_of(np.float32(turns.as_matrix())))
        assert np.all(quats[:, 0] >= 0)
        np.testing.assert_allclose(np.linalg.norm(quats, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(
            rotations_of(-2.5 * quats), turns.as_matrix(), atol=2e-6
        )  # of any length and sign


def test_gradients_are_finite_where_nothing_is_turned():
    loss = lambda turned: jnp.sum(rigid.rotations_of(rigid.quats_of(turned))[0, 0])
    nothing = np.asarray(rigid.identities(2))[:, :3, :3]
    assert np.isfinite(jax.jit(jax.grad(loss))(nothing)).all()
