"""Pairs of images, and their SSIM in float64 through scipy's own Gaussian filter."""

import numpy as np
import scipy.ndimage


def make_pair(shape, seed=0, noise=0.4):
    """Random images, the second one the first with some noise."""
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, *shape), np.float32)
    return a, (1 - noise) * a + np.float32(noise) * b


def ssim_by_scipy(a, b):
    """Mean SSIM with zeros outside."""
    blur = lambda x: scipy.ndimage.gaussian_filter(
        x, (0, 1.5, 1.5, 0), mode="constant", radius=(0, 5, 5, 0)
    )
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    mu_a, mu_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mu_a**2, blur(b * b) - mu_b**2, blur(a * b) - mu_a * mu_b
    top = (2 * mu_a * mu_b + 1e-4) * (2 * cov + 9e-4)
    return float(np.mean(top / ((mu_a**2 + mu_b**2 + 1e-4) * (var_a + var_b + 9e-4))))


def slopes_by_scipy(a, b, places, step=1e-5):
    """Central differences of `ssim_by_scipy` by single numbers of `a`."""
    slopes = []
    for place in places:
        change = np.zeros(a.shape)
        change[place] = step
        slopes.append((ssim_by_scipy(a + change, b) - ssim_by_scipy(a - change, b)) / (2 * step))
    return np.array(slopes)
