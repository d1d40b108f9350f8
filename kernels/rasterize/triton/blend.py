"""Alpha compositing on a GPU by Triton kernels, with its own reverse walk and fixed orders of sums.

Equations and the stop's slack: see `xla/blend.py`, whose results these equal. One warp composites
a quarter of a tile (8 x 8 pixels), with the background of each pixel added at the end. Backward, it
writes the summed gradient of each list entry to the entry's own row; the rows of one Gaussian
lie side by side and a second kernel adds them up in order. No float atomics: the same call gives
the same bits.

A splat is STRIDE float32: x, y [pixels], p log2(e), s, q log2(e) (p, s, q: see `projection`),
log2(opacity), D colors, depth, zeros up to a multiple of four. Each frame has one more splat, of
opacity zero: lists are filled up with it to whole groups of four entries.

A gradient row is ROW float32: with g the cotangent of log alpha, a and c the two linear forms of
the power p a^2 + q c^2, summed over pixels: g, g a, g c, g a a, g a c, g c c, then the gradients of
the colors, then of the depth if its image has a cotangent.

Memory of the gradient: 4 (6 + features) numbers per instance of capacity.

Place in the pipeline: (3) of 3; before: `binning`.
"""

import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct
from jaxtyping import Array, Float, Int

from kernels import launch
from kernels.checks import require
from kernels.rasterize.triton import blend_adjoint_kernels, blend_kernels
from kernels.rasterize.triton.binning import QuarterLists
from kernels.rasterize.triton.projection import MAX_NUMBERS
from kernels.rasterize.types import Background, BlendSpec
from kernels.rasterize.xla.binning import tile_grid
from kernels.rasterize.xla.blend import N_SHAPE, STOP_SLACK

MAX_COLORS = 15  # per launch: with depth, sums for 16 features stay in registers
REDUCE_BLOCK = 8  # Gaussians per program
LEAST_LIGHT = 1e-37  # the walk stops here even for transmittance_min = 0: floats end at 1e-38


def blend_forward(
    spec: BlendSpec,
    splats: Float[Array, "B N1 S"],
    background: Background,
    lists: QuarterLists,
    n_colors: int,
    *,
    as_bytes: bool = False,
) -> tuple[Array, ...]:
    """Composite colors and depths front to back over a background.

    Args:
      spec: Sizes and thresholds.
      splats: As above, float32.
      background: Colors per pixel or per frame, float32 or bytes; black if None.
      lists: From `binning.build_quarter_lists`.
      n_colors: D, at most MAX_COLORS.
      as_bytes: What is shown, and nothing for a way back.

    Returns:
      Colors with the background, depth (summed, or with `spec.median` that of one splat), what
      light is left, and the number of list entries before the stop, per pixel (with `spec.median`
      [B, H, W, 2]: and the entry whose depth it is, -1 if none). As bytes: colors and opacity.

    Raises:
      ValueError: if there are more colors than one launch takes, or an image has more numbers than
        32 bits can count.
    """
    constants = _constants(spec, splats, background, lists, n_colors)
    image = (splats.shape[0], spec.height, spec.width)
    kind, unused = (jnp.uint8, (1,)) if as_bytes else (jnp.float32, image)
    entries = (*image, 2) if spec.median and not as_bytes else unused
    # A caller gives bytes behind away to have the picture in their place: else XLA would copy it.
    in_place = as_bytes and background is not None and background.ndim == 4
    in_place = in_place and background.dtype == kind
    depth, left, stops, rgb = launch.triton_call(
        blend_kernels.forward_kernel, lists.turns, splats,
        splats if background is None else background, lists.bounds, lists.lengths, lists.ids,
        outputs=(
            ShapeDtypeStruct(unused, jnp.float32), ShapeDtypeStruct(image, kind),
            ShapeDtypeStruct(entries, jnp.int32), ShapeDtypeStruct((*image, n_colors), kind),
        ),
        in_place=2 if in_place else None, grid=lists.lengths.size,
        STOP=max(spec.transmittance_min * STOP_SLACK, LEAST_LIGHT), BYTES=int(as_bytes),
        IN_PLACE=int(in_place), AHEAD=int(splats.shape[0] == 1), **constants,
    )  # fmt: skip
    return (rgb, left) if as_bytes else (rgb, depth, left, stops)


def blend_backward(
    spec: BlendSpec,
    splats: Float[Array, "B N1 S"],
    background: Background,
    lists: QuarterLists,
    left: Float[Array, "B H Wd"],
    stops: Int[Array, "B H Wd *two"],
    grad_rgb: Float[Array, "B H Wd D"],
    grad_depth: Float[Array, "B H Wd"] | None,
    grad_left: Float[Array, "B H Wd"] | None,
    n_colors: int,
) -> Float[Array, "B N ROW"]:
    """Sum the gradient rows of every Gaussian over the pixels.

    Args:
      spec: As in `blend_forward`, whose `left` and `stops` these are.
      splats: Likewise.
      background: Likewise. Its own cotangent is `left` times `grad_rgb`.
      lists: Likewise.
      left: Light that is left.
      stops: List entries before the stop, as `blend_forward` gives them.
      grad_rgb: Cotangent of the colors, float32.
      grad_depth: Of the summed depth; if None, rows have no column for the depth.
      grad_left: Of the light that is left; zero if None.
      n_colors: D.

    Returns:
      Gradient rows as above, ROW = 6 + D or, with a cotangent of the depth, 7 + D.

    Raises:
      ValueError: as `blend_forward`.
    """
    constants = _constants(spec, splats, background, lists, n_colors)
    n_frames, n_gaussians = splats.shape[0], splats.shape[1] - 1
    capacity, n_row = constants["CAPACITY"], N_SHAPE + n_colors + (grad_depth is not None)
    rows = launch.triton_call(
        blend_adjoint_kernels.backward_kernel, lists.turns, splats,
        splats if background is None else background, lists.bounds, lists.lengths, lists.ids,
        lists.rows, left, stops, grad_rgb,
        left if grad_depth is None else grad_depth, left if grad_left is None else grad_left,
        outputs=(ShapeDtypeStruct((n_frames, 4 * capacity + 1, n_row), jnp.float32),),
        grid=lists.lengths.size, LOG_MAX=float(np.log2(spec.alpha_max)),
        DEPTH_GRADIENT=int(grad_depth is not None), LEFT_GRADIENT=int(grad_left is not None),
        **constants,
    )[0]  # fmt: skip
    return launch.triton_call(
        blend_adjoint_kernels.reduce_kernel, rows, lists.row_heads, lists.row_counts,
        outputs=(ShapeDtypeStruct((n_frames, n_gaussians, n_row), jnp.float32),),
        grid=-(-n_frames * n_gaussians // REDUCE_BLOCK), TOTAL=n_frames * n_gaussians,
        N=n_gaussians, CAPACITY=capacity, ROW=n_row, AT_ONCE=32 // n_row, BLOCK=REDUCE_BLOCK,
    )[0]  # fmt: skip


def _constants(
    spec: BlendSpec, splats: Array, background: Array | None, lists: QuarterLists, n_colors: int
) -> dict:
    """Compile-time numbers of both walks."""
    n_frames, n_splats, stride = splats.shape
    columns, rows = tile_grid(spec.width, spec.height)
    require(
        n_colors <= MAX_COLORS,
        f"n_colors: expected at most {MAX_COLORS}, got {n_colors}; blend the rest in a second call",
    )
    largest = n_frames * max(
        spec.height * spec.width * n_colors, n_splats * (N_SHAPE + n_colors + 1)
    )
    require(
        largest < MAX_NUMBERS,
        f"frames: expected arrays of fewer than {MAX_NUMBERS} numbers, got {largest} for "
        f"{n_frames} frames; render fewer frames at once",
    )
    forms = {None: 0, 2: 1, 4: 2}
    return dict(
        FRAMES=n_frames, N=n_splats - 1, WIDTH=spec.width, HEIGHT=spec.height, COLUMNS=columns,
        TILES=columns * rows, CAPACITY=lists.ids.shape[1] // 4 - 4 * columns * rows,
        COLORS=n_colors, STRIDE=stride,
        BACKGROUND=forms[None if background is None else background.ndim],
        LOG_MIN=float(np.log2(spec.alpha_min)), ALPHA_MAX=float(spec.alpha_max),
        MEDIAN=int(spec.median), ASM=not launch.is_interpreting(),
    )  # fmt: skip
