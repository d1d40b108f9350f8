"""The training loss: L1, D-SSIM, VGG perceptual, lips and eyes rectangles, and head mask.

Images are [B, H, W, 3] in [0, 1]; every term is a mean over the whole batch, so a loss does not
depend on how many frames a step sees. All shapes are static: rectangles become masks.

Both training stages minimize the same sum of these, with the weights of `LossConfig`:
a L1 + b (1 - SSIM) + c VGG + d L1_lips + e L1_eyes + f |alpha - head mask|.
The eyes are ours: a blink is rare and moves one pixel in two hundred. To this sum of images `step`
adds a last term, `hearing` (`Config.hears`): the squared error of the lips' shape that is read from
noised sound alone.

Before: `model`, `perceptual`; after: `step`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from egs_jax.config import LossConfig
from egs_jax.training.perceptual import PerceptualParams, perceptual_loss
from kernels import mean_ssim
from kernels.checks import typechecked

Images = Float[Array, "B H Wd 3"]
Masks = Float[Array, "B H Wd"] | Bool[Array, "B H Wd"]


@typechecked
def l1_loss(rendered: Images, target: Images) -> Float[Array, ""]:
    """Return the mean absolute difference of all pixels and channels."""
    return jnp.mean(jnp.abs(rendered - target))


@typechecked
def dssim_loss(
    rendered: Images, target: Images, implementation: str | None = None
) -> Float[Array, ""]:
    """Return 1 - SSIM (the original's convention; not halved), differentiable in `rendered`.

    Zeros lie outside the images (`kernels.mean_ssim`). `metrics.ssim` is the reported one: it
    leaves the border out.
    """
    return 1.0 - mean_ssim(rendered, target, implementation=implementation)


@typechecked
def rect_mask(
    rects: Int[Array, "B 4"], height: int, width: int
) -> Bool[Array, "B {height} {width}"]:
    """Turn rectangles into masks.

    Args:
      rects: (row_min, row_max, col_min, col_max) [pixels], the maxima excluded; may reach outside.
      height: Rows of the image.
      width: Columns of the image.

    Returns:
      True inside.
    """
    rows, cols = jnp.arange(height)[None, :], jnp.arange(width)[None, :]
    in_rows = (rows >= rects[:, 0:1]) & (rows < rects[:, 1:2])  # [B, H]
    in_cols = (cols >= rects[:, 2:3]) & (cols < rects[:, 3:4])  # [B, W]
    return in_rows[:, :, None] & in_cols[:, None, :]


@typechecked
def rect_loss(rendered: Images, target: Images, rects: Int[Array, "B 4"]) -> Float[Array, ""]:
    """Return the mean over frames of the mean absolute difference in each one's rectangle.

    Rectangles are as in `rect_mask`; an empty one counts as 0.
    """
    mask = rect_mask(rects, *rendered.shape[1:3])
    error = jnp.sum(jnp.abs(rendered - target), axis=-1)
    sums = jnp.sum(jnp.where(mask, error, 0.0), axis=(1, 2))
    return jnp.mean(sums / jnp.maximum(3 * jnp.sum(mask, axis=(1, 2)), 1))


@typechecked
def mask_loss(alpha: Float[Array, "B H Wd"], mask: Masks) -> Float[Array, ""]:
    """Return the mean of |alpha - mask|.

    Differs from the original: that compares the mask with a function of the rendered depth, for
    which its rasterizer has no gradient, so the term never acts. Accumulated alpha has one.
    """
    return jnp.mean(jnp.abs(alpha - mask.astype(alpha.dtype)))


@typechecked
def total_loss(
    weights: LossConfig,
    rendered: Images,
    alpha: Float[Array, "B H Wd"],
    target: Images,
    mask: Masks,
    lips_rects: Int[Array, "B 4"],
    eyes_rects: Int[Array, "B 4"],
    *,
    perceptual: PerceptualParams | None = None,
    perceptual_gain: float | Float[Array, ""] = 1.0,
    implementation: str | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Return the weighted sum and its parts.

    Args:
      weights: Weight of every term, and the side at which the perceptual term works.
      rendered: Rendered composites.
      alpha: Accumulated opacity in [0, 1].
      target: What they must reproduce.
      mask: True, or 1, where head or person is; between 0 and 1 at a soft edge.
      lips_rects: See `rect_mask`.
      eyes_rects: One rectangle around both eyes of each frame.
      perceptual: VGG-16 weights; None leaves the term out (not computed, not in the parts).
      perceptual_gain: Multiplies that term's weight, for steps that stand in for skipped ones.
      implementation: Of `kernels.mean_ssim`.

    Returns:
      The loss to minimize, and the unweighted "l1", "dssim", "lips", "eyes", "mask" (and
      "perceptual").
    """
    parts = {
        "l1": l1_loss(rendered, target),
        "dssim": dssim_loss(rendered, target, implementation),
        "lips": rect_loss(rendered, target, lips_rects),
        "eyes": rect_loss(rendered, target, eyes_rects),
        "mask": mask_loss(alpha, mask),
    }
    total = sum(getattr(weights, name) * value for name, value in parts.items())
    if perceptual is not None:
        size = weights.perceptual_size
        parts["perceptual"] = perceptual_loss(perceptual, rendered, target, size=size)
        total = total + weights.perceptual * perceptual_gain * parts["perceptual"]
    return total, parts
