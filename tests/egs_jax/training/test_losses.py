"""Losses: numbers worked out by hand, gradients, one trace."""

import functools

import jax
import numpy as np

from egs_jax.config import LossConfig
from egs_jax.training import losses

l1_loss, rect_loss, mask_loss = map(jax.jit, (losses.l1_loss, losses.rect_loss, losses.mask_loss))


def images(seed: int, shape=(2, 20, 17, 3)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def test_l1_by_hand():
    a = np.zeros((1, 2, 2, 3), np.float32)
    a[0, 0, 0] = 0.3, -0.6, 0.3
    np.testing.assert_allclose(l1_loss(a, np.zeros_like(a)), 1.2 / 12, rtol=1e-6)


def test_dssim_of_equal_images_is_zero_and_grows_with_the_difference():
    a, b = images(3), images(4)
    dssim = jax.jit(losses.dssim_loss)
    np.testing.assert_allclose(dssim(a, a), 0.0, atol=1e-6)
    near, far = (np.float32(1 - share) * a + np.float32(share) * b for share in (0.1, 0.5))
    assert 0 < dssim(a, near) < dssim(a, far) < dssim(a, b) < 1.1


def test_rect_mask_equals_slicing():
    rects = np.int32([[2, 5, 1, 4], [0, 99, -3, 2], [6, 6, 0, 9]])
    mask = np.asarray(jax.jit(losses.rect_mask, static_argnums=(1, 2))(rects, 8, 9))
    expected = np.zeros((3, 8, 9), bool)
    expected[0, 2:5, 1:4] = True
    expected[1, :, :2] = True
    np.testing.assert_array_equal(mask, expected)


def test_rect_loss_is_the_mean_of_the_frames_whatever_the_size_of_their_rectangles():
    a, b = images(9), images(10)
    rects = np.int32([[3, 9, 2, 8], [5, 7, 0, 3]])
    parts = [np.abs(a - b)[0, 3:9, 2:8].mean(), np.abs(a - b)[1, 5:7, 0:3].mean()]
    np.testing.assert_allclose(rect_loss(a, b, rects), np.mean(parts), rtol=1e-5)
    rects[1] = 0
    np.testing.assert_allclose(rect_loss(a, b, rects), parts[0] / 2, rtol=1e-5)


def test_rect_loss_of_nothing_is_zero_with_finite_gradient():
    a, b = images(11), images(12)
    value, gradient = jax.jit(jax.value_and_grad(losses.rect_loss))(
        a, b, np.zeros((2, 4), np.int32)
    )
    assert value == 0
    assert not np.any(gradient)


def test_mask_loss_moves_alpha_towards_the_mask():
    alpha = np.full((1, 2, 2), 0.25, np.float32)
    mask = np.array([[[True, False], [False, False]]])
    value, gradient = jax.jit(jax.value_and_grad(losses.mask_loss))(alpha, mask)
    np.testing.assert_allclose(value, (0.75 + 3 * 0.25) / 4)
    np.testing.assert_allclose(gradient, np.array([[[-0.25, 0.25], [0.25, 0.25]]]))
    np.testing.assert_allclose(mask_loss(alpha, mask.astype(np.float32)), value)


@functools.partial(jax.jit, static_argnums=0)
def total(weights, a, b, alpha, mask, rects):
    return losses.total_loss(weights, a, alpha, b, mask, rects, rects - 1)


def test_total_is_the_weighted_sum_of_its_parts():
    a, b, alpha = images(13), images(14), images(15)[..., 0]
    mask, rects = alpha > 0.5, np.int32([[3, 9, 2, 8], [5, 7, 0, 3]])
    shares = {"l1": 0.7, "dssim": 0.3, "lips": 0.2, "eyes": 0.4, "mask": 0.1}
    value, parts = jax.device_get(total(LossConfig(**shares), a, b, alpha, mask, rects))
    assert set(parts) == set(shares)
    by_hand = sum(share * parts[name] for name, share in shares.items())
    np.testing.assert_allclose(value, by_hand, rtol=1e-6)
    np.testing.assert_allclose(parts["eyes"], rect_loss(a, b, rects - 1), rtol=1e-6)
    assert parts["eyes"] != parts["lips"]
    np.testing.assert_allclose(parts["l1"], np.mean(np.abs(a - b)), rtol=1e-6)


def test_total_is_differentiable_and_traced_once():
    alpha, rects = images(15)[..., 0], np.int32([[3, 9, 2, 8], [5, 7, 0, 3]])
    traces = []

    @jax.jit
    def gradient(a, b, rects):
        traces.append(1)
        value = lambda a: total(LossConfig(), a, b, alpha, alpha > 0.5, rects)[0]
        return jax.grad(value)(a)

    for seed in (20, 22):
        out = gradient(images(seed), images(seed + 1), rects + np.int32(seed % 3))
        assert np.all(np.isfinite(out)) and np.any(out)
    assert len(traces) == 1
