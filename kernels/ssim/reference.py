"""The definition of `mean_ssim`, written from its formula; every implementation is tested by it.

Wang et al. 2004, Eq. 13, with data range 1, biased variances and zeros outside the image, as in 3D
Gaussian Splatting.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

WINDOW = 11
"""Side of the window [pixels]."""
SIGMA = 1.5
"""Standard deviation of the window [pixels]."""
C1 = 0.01**2
C2 = 0.03**2


def gaussian_window(size: int = WINDOW, sigma: float = SIGMA) -> np.ndarray:
    """Return `size` samples of a Gaussian around the middle one, with sum 1 (float64)."""
    x = np.arange(size) - (size - 1) / 2
    window = np.exp(-(x**2) / (2 * sigma**2))
    return window / window.sum()


def mean_ssim_reference(
    rendered: Float[Array, "B H Wd C"], target: Float[Array, "B H Wd C"]
) -> Float[Array, ""]:
    """Return the mean structural similarity; arguments and result as `mean_ssim`."""
    a, b = rendered, jax.lax.stop_gradient(target)
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    var_a = _window_mean(a * a) - mean_a**2
    var_b = _window_mean(b * b) - mean_b**2
    covariance = _window_mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = (2 * covariance + C2) / (var_a + var_b + C2)
    return jnp.mean(luminance * structure)


def _window_mean(images: Float[Array, "B H Wd C"]) -> Float[Array, "B H Wd C"]:
    """Weigh the neighbors of every pixel by the window: a product along each axis."""
    rows, columns = (_weights(size) for size in images.shape[1:3])
    return jnp.einsum("yi,bijc,xj->byxc", rows, images, columns)


def _weights(size: int) -> np.ndarray:
    """Return the share [size, size] of every other pixel of a row in the mean of each."""
    steps = np.arange(size)[None] - np.arange(size)[:, None] + WINDOW // 2
    inside = (steps >= 0) & (steps < WINDOW)
    return np.where(inside, gaussian_window()[np.clip(steps, 0, WINDOW - 1)], 0.0)
