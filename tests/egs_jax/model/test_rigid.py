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


parts = rigid.parts
product = jax.jit(lambda a, b: rigid.whole(rigid.product(parts(a), parts(b))))
inverse = jax.jit(lambda a: rigid.whole(rigid.inverse(parts(a))))
quats_of = jax.jit(lambda a: jnp.stack(rigid.quats_of(parts(a).turn), axis=1))
NOTHING = np.tile(np.eye(4, dtype=np.float32), (5, 1, 1))


@jax.jit
def rotations_of(quats):
    turn = rigid.rotations_of(tuple(quats[:, k] for k in range(4)))
    return jnp.stack([jnp.stack(row, axis=1) for row in turn], axis=1)


def test_products_and_inverses_are_those_of_matrices():
    a, b = random_transforms(0), random_transforms(1)
    np.testing.assert_allclose(product(a, b), a @ b, atol=1e-6)
    np.testing.assert_allclose(inverse(a), np.linalg.inv(a), atol=1e-6)


def test_the_identity_changes_no_bit():
    a = random_transforms(0)
    for same in (product(a, NOTHING), product(NOTHING, a), rigid.whole(parts(a))):
        np.testing.assert_array_equal(same, a)
    np.testing.assert_array_equal(inverse(NOTHING), NOTHING)
    np.testing.assert_array_equal(quats_of(NOTHING), [[1, 0, 0, 0]] * 5)
    np.testing.assert_array_equal(rigid.whole(rigid.identities(jnp.arange(5.0))), NOTHING)


def test_quaternions_of_every_angle():
    axes = np.random.default_rng(0).normal(size=(40, 3))
    axes = np.concatenate([axes / np.linalg.norm(axes, axis=1, keepdims=True), np.eye(3)])
    for angle in (0.0, 1e-4, 1.0, 3.0, np.pi - 1e-4, np.pi):
        turns = Rotation.from_rotvec(angle * axes)
        transforms = np.tile(np.eye(4, dtype=np.float32), (len(axes), 1, 1))
        transforms[:, :3, :3] = turns.as_matrix()
        quats = np.asarray(quats_of(transforms))
        assert np.all(quats[:, 0] >= 0)
        np.testing.assert_allclose(np.linalg.norm(quats, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(
            rotations_of(-2.5 * quats), turns.as_matrix(), atol=2e-6
        )  # of any length and sign


def test_gradients_are_finite_where_nothing_is_turned():
    loss = lambda a: jnp.sum(rigid.rotations_of(rigid.quats_of(parts(a).turn))[0][0])
    assert np.isfinite(jax.jit(jax.grad(loss))(NOTHING)).all()
