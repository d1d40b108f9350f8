"""Losses: numbers worked out by hand, gradients, one trace."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from egs_jax.config import LossConfig
from egs_jax.training import losses


def images(seed: int, shape=(2, 20, 17, 3)) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).random(shape, dtype=np.float32))


def test_l1_by_hand():
    a = jnp.zeros((1, 2, 2, 3)).at[0, 0, 0].set(jnp.array([0.3, -0.6, 0.3]))
    np.testing.assert_allclose(losses.l1_loss(a, jnp.zeros_like(a)), 1.2 / 12, rtol=1e-6)


def test_dssim_of_equal_images_is_zero_and_grows_with_the_difference():
    a, b = images(3), images(4)
    dssim = jax.jit(losses.dssim_loss)
    np.testing.assert_allclose(dssim(a, a), 0.0, atol=1e-6)
    assert 0 < dssim(a, 0.9 * a + 0.1 * b) < dssim(a, 0.5 * a + 0.5 * b) < dssim(a, b) < 1.1


def test_rect_mask_equals_slicing():
    rects = jnp.array([[2, 5, 1, 4], [0, 99, -3, 2], [6, 6, 0, 9]])
    mask = np.asarray(losses.rect_mask(rects, 8, 9))
    expected = np.zeros((3, 8, 9), bool)
    expected[0, 2:5, 1:4] = True
    expected[1, :, :2] = True
    np.testing.assert_array_equal(mask, expected)


def test_rect_loss_is_the_mean_of_the_frames_whatever_the_size_of_their_rectangles():
    a, b = images(9), images(10)
    rects = jnp.array([[3, 9, 2, 8], [5, 7, 0, 3]])
    parts = [np.abs(a - b)[0, 3:9, 2:8].mean(), np.abs(a - b)[1, 5:7, 0:3].mean()]
    np.testing.assert_allclose(losses.rect_loss(a, b, rects), np.mean(parts), rtol=1e-5)
    rects = rects.at[1].set(0)
    np.testing.assert_allclose(losses.rect_loss(a, b, rects), parts[0] / 2, rtol=1e-5)


def test_rect_loss_of_nothing_is_zero_with_finite_gradient():
    a, b = images(11), images(12)
    value, gradient = jax.jit(jax.value_and_grad(losses.rect_loss))(
        a, b, jnp.zeros((2, 4), jnp.int32)
    )
    assert value == 0
    assert not np.any(gradient)


def test_mask_loss_moves_alpha_towards_the_mask():
    alpha = jnp.full((1, 2, 2), 0.25)
    mask = jnp.array([[[True, False], [False, False]]])
    value, gradient = jax.value_and_grad(losses.mask_loss)(alpha, mask)
    np.testing.assert_allclose(value, (0.75 + 3 * 0.25) / 4)
    np.testing.assert_allclose(gradient, np.array([[[-0.25, 0.25], [0.25, 0.25]]]))
    np.testing.assert_allclose(losses.mask_loss(alpha, mask.astype(jnp.float32)), value)


@functools.partial(jax.jit, static_argnums=0)
def total(weights, a, b, alpha, mask, rects):
    return losses.total_loss(weights, a, alpha, b, mask, rects, rects - 1)


def test_total_is_the_weighted_sum_of_its_parts():
    a, b, alpha = images(13), images(14), images(15)[..., 0]
    mask, rects = alpha > 0.5, jnp.array([[3, 9, 2, 8], [5, 7, 0, 3]])
    shares = {"l1": 0.7, "dssim": 0.3, "lips": 0.2, "eyes": 0.4, "mask": 0.1}
    value, parts = total(LossConfig(**shares), a, b, alpha, mask, rects)
    assert set(parts) == set(shares)
    by_hand = sum(share * parts[name] for name, share in shares.items())
    np.testing.assert_allclose(value, by_hand, rtol=1e-6)
    np.testing.assert_allclose(parts["eyes"], losses.rect_loss(a, b, rects - 1), rtol=1e-6)
    assert parts["eyes"] != parts["lips"]
    np.testing.assert_allclose(parts["l1"], np.mean(np.abs(a - b)), rtol=1e-6)


def test_total_is_differentiable_and_traced_once():
    alpha, rects = images(15)[..., 0], jnp.array([[3, 9, 2, 8], [5, 7, 0, 3]])
    traces = []

    @jax.jit
    def gradient(a, b, rects):
        traces.append(1)
        value = lambda a: total(LossConfig(), a, b, alpha, alpha > 0.5, rects)[0]
        return jax.grad(value)(a)

    for seed in (20, 22):
        out = gradient(images(seed), images(seed + 1), rects + seed % 3)
        assert np.all(np.isfinite(out)) and np.any(out)
    assert len(traces) == 1
