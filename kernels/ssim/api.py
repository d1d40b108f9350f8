"""`mean_ssim`: how alike two batches of images are, for a training loss.

With E the mean over a Gaussian window of 11 x 11 pixels and sigma 1.5, zeros outside the image, in
every channel by itself, and a, b the two images (Wang et al. 2004, Eq. 13, with data range 1 and
biased variances, as in 3D Gaussian Splatting):

    SSIM = (2 E[a] E[b] + C1) / (E[a]^2 + E[b]^2 + C1)
         * (2 E[a b] - 2 E[a] E[b] + C2) / (E[a a + b b] - E[a]^2 - E[b]^2 + C2).

Two implementations: `xla`, and on an NVIDIA GPU `triton`: one kernel forward and one back.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels import dispatch
from kernels.checks import require, typechecked
from kernels.ssim.xla.ssim import mean_ssim_xla

MAX_NUMBERS = 2**31  # the kernels' indices have 32 bits


@partial(jax.jit, static_argnames="implementation")
@typechecked
def mean_ssim(
    rendered: Float[Array, "B H Wd C"],
    target: Float[Array, "B H Wd C"],
    *,
    implementation: str | None = None,
) -> Float[Array, ""]:
    """Return the mean structural similarity over all pixels, channels and images.

    Already jitted; works under `grad` and `shard_map`, not under `vmap` with "triton" (the batch is
    its own axis), once differentiable. The gradient goes to `rendered` alone; that of `target` is
    zero. It is a small difference of large numbers where the images nearly agree: in float32 its
    relative error was 1e-6 for smooth images with noise of 0.1, 1e-5 for 0.01, 7e-5 for 0.001, with
    either implementation. No float atomics: the same call gives the same bits on the same machine.
    Memory from the way forward to the way back with "triton": three arrays as large as the images.

    Args:
      rendered: Images in [0, 1]; numbers outside are taken as they are.
      target: Images of the same shape.
      implementation: "xla": plain JAX, any floating type. "triton": two kernels, float32. None
        picks "triton" on an NVIDIA GPU where it can do the work, else "xla".

    Returns:
      1 for equal images, less for others.

    Raises:
      NotImplementedError: if the implementation asked for cannot run; the message says why.
      ValueError: if a shape or a name makes no sense.
    """
    require(
        rendered.size > 0,
        f"rendered: expected at least one pixel, got shape {rendered.shape}; do not call it for "
        "none",
    )
    if dispatch.uses_triton("mean_ssim", implementation, _why_not(rendered, target)):
        from kernels.ssim.triton.ssim import mean_ssim_triton as run
    else:
        run = mean_ssim_xla
    return run(rendered, target)


def _why_not(rendered: Array, target: Array) -> str | None:
    """Say in one line why the kernels do not take these images; None if they do."""
    if rendered.dtype != jnp.float32 or target.dtype != jnp.float32:
        return f"it takes float32 images, got {rendered.dtype} and {target.dtype}"
    if rendered.size >= MAX_NUMBERS:
        return f"it takes fewer than {MAX_NUMBERS} numbers, got {rendered.size}"
    return None
