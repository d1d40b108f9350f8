"""Losses: numbers worked out by hand, an independent SSIM, gradients, one trace."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from egs_jax import losses
from egs_jax.config import LossConfig


def images(seed: int, shape=(2, 20, 17, 3)) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).random(shape, dtype=np.float32))


def ssim_by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM with zeros outside, float64, through scipy's own Gaussian filter."""
    blur = lambda x: scipy.ndimage.gaussian_filter(
        x, (0, 1.5, 1.5, 0), mode="constant", radius=(0, 5, 5, 0)
    )
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    mu_a, mu_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mu_a**2, blur(b * b) - mu_b**2, blur(a * b) - mu_a * mu_b
    top = (2 * mu_a * mu_b + 1e-4) * (2 * cov + 9e-4)
    return float(np.mean(top / ((mu_a**2 + mu_b**2 + 1e-4) * (var_a + var_b + 9e-4))))


def test_window_is_normalised_and_symmetric():
    window = losses.gaussian_window()
    assert window.shape == (11,)
    np.testing.assert_allclose(window.sum(), 1.0, rtol=1e-15)
    np.testing.assert_allclose(window, window[::-1], rtol=1e-15)
    np.testing.assert_allclose(window[6] / window[5], np.exp(-1 / 4.5), rtol=1e-12)


def test_l1_by_hand():
    a = jnp.zeros((1, 2, 2, 3)).at[0, 0, 0].set(jnp.array([0.3, -0.6, 0.3]))
    np.testing.assert_allclose(losses.l1_loss(a, jnp.zeros_like(a)), 1.2 / 12, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 20, 17, 3), (1, 7, 40, 3)])
def test_ssim_equals_scipy(shape):
    a, b = images(1, shape), images(2, shape)
    b = 0.6 * a + 0.4 * b
    np.testing.assert_allclose(jax.jit(losses.ssim)(a, b), ssim_by_scipy(a, b), atol=2e-6)


def test_ssim_of_equal_images_is_one():
    a = images(3)
    np.testing.assert_allclose(jax.jit(losses.ssim)(a, a), 1.0, atol=1e-6)
    np.testing.assert_allclose(jax.jit(losses.dssim_loss)(a, a), 0.0, atol=1e-6)


def test_ssim_gradient_by_finite_differences():
    """Float64 differences of the scipy version: the custom reverse pass of the blur is right."""
    a, b = images(4, (1, 13, 12, 3)), images(5, (1, 13, 12, 3))
    b = 0.5 * (a + b)
    gradient = jax.jit(jax.grad(losses.ssim))(a, b)
    direction = np.random.default_rng(6).standard_normal(a.shape)
    step, base = 1e-4 * direction, np.asarray(a, np.float64)
    slope = (ssim_by_scipy(base + step, b) - ssim_by_scipy(base - step, b)) / 2e-4
    np.testing.assert_allclose(np.sum(np.asarray(gradient) * direction), slope, rtol=1e-4)


def test_target_gets_no_gradient_through_ssim():
    a, b = images(7), images(8)
    assert not np.any(jax.jit(jax.grad(losses.ssim, argnums=1))(a, b))


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
