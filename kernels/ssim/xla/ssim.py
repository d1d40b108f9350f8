"""`mean_ssim` in plain JAX, for any machine: the window as two passes of shifted sums."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.ssim.reference import C1, C2, WINDOW, gaussian_window


def mean_ssim_xla(
    rendered: Float[Array, "B H Wd C"], target: Float[Array, "B H Wd C"]
) -> Float[Array, ""]:
    """Compute it with XLA operations; arguments and result as `mean_ssim`."""
    target = jax.lax.stop_gradient(target)
    mu_a, aa, ab = _blur(jnp.stack([rendered, rendered**2, rendered * target]))
    mu_b, bb = _blur(jnp.stack([target, target**2]))  # apart: no reverse pass for these two
    var_a, var_b, cov = aa - mu_a**2, bb - mu_b**2, ab - mu_a * mu_b
    luminance = (2 * mu_a * mu_b + C1) / (mu_a**2 + mu_b**2 + C1)
    structure = (2 * cov + C2) / (var_a + var_b + C2)
    return jnp.mean(luminance * structure)


@jax.custom_vjp
def _blur(images: Float[Array, "M B H Wd C"]) -> Float[Array, "M B H Wd C"]:
    """Blur columns, then rows, with zeros outside.

    Sums of shifted copies fuse into one loop, where a grouped convolution is slow on a CPU. The
    blur is its own transpose, which as a reverse pass is many times cheaper than derived padding.
    """
    *_, height, width, n_channels = images.shape
    blurred = _shifted_sum(images.reshape(-1, height, width * n_channels), 1, 1)
    return _shifted_sum(blurred, 2, n_channels).reshape(images.shape)


_blur.defvjp(lambda images: (_blur(images), None), lambda _, cotangent: (_blur(cotangent),))


def _shifted_sum(rows: Float[Array, "R H X"], axis: int, stride: int) -> Float[Array, "R H X"]:
    """Convolve with the window along an axis on which the next pixel is `stride` numbers away."""
    window, radius = gaussian_window(), WINDOW // 2
    side, margin = rows.shape[axis], radius * stride
    padded = jnp.pad(rows, [(margin, margin) if a == axis else (0, 0) for a in range(3)])
    at = lambda k: jax.lax.slice_in_dim(padded, k * stride, k * stride + side, axis=axis)
    pairs = (float(window[k]) * (at(k) + at(WINDOW - 1 - k)) for k in range(radius))
    return float(window[radius]) * rows + sum(pairs)
