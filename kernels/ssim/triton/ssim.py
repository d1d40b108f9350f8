"""`mean_ssim` on an NVIDIA GPU: a Triton kernel forward and one back.

Forward, each number's three derivatives by its moments are written beside the sum; back, they are
blurred (the blur is its own transpose) and multiplied by the images:

    gradient = scale (blur(by_mean) + 2 a blur(by_square) + b blur(by_cross)).

Floors for 8 images of 450 x 450 x 3 (19.4 MB a map) on an H200. Memory: forward 2 maps read and 3
written, back 5 and 1, 214 MB in all, 50 us at 4.3 TB/s; with the blurs of rows and of columns in
kernels of their own it would be 25 maps. Instructions, from the machine code: a warp takes 220 for
32 numbers forward and 146 back, and ten rows in sixty are margins: 43 us and 29 us if every
scheduler issues in every cycle. Loads from the first-level cache: 25 and 36 of a warp a row, 20 us
and 29 us at one a cycle, twice that if a load that is not aligned takes two. Since these overlap
but in part, the estimate is 50-60 us forward and 40-60 us back. What the kernels take is in the
README of the experiments (`check_training_kernels_gpu`).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct
from jaxtyping import Array, Float

from kernels import launch
from kernels._sharding import match_varying
from kernels.ssim.triton import ssim_kernels

PROGRAMS = 132 * 24  # multiprocessors of an H200, and warps of either kernel that each holds
LEAST_ROWS = 16  # a program walks down ten more rows than it makes


class Tile(NamedTuple):
    """Rows and columns that a program, one warp, makes."""

    rows: int
    lanes: int = 32  # numbers of a row: a pixel has one a channel; a power of two


def mean_ssim_triton(
    rendered: Float[Array, "B H Wd C"], target: Float[Array, "B H Wd C"]
) -> Float[Array, ""]:
    """Compute it with the Triton kernels; arguments and result as `mean_ssim`.

    Raises:
      ValueError: if there are more numbers than 32 bits can count.
    """
    return ssim_tiles(pick_tile(*rendered.shape), *match_varying((rendered, target)))


def pick_tile(n_images: int, height: int, width: int, n_channels: int) -> Tile:
    """The fewest rows with which all programs run at once, but not so few that margins prevail."""
    strips = n_images * -(-width * n_channels // Tile(1).lanes)
    chunks = max(1, PROGRAMS // strips)
    return Tile(max(LEAST_ROWS, -(-height // chunks)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def ssim_tiles(tile: Tile, rendered: Array, target: Array) -> Float[Array, ""]:
    """`mean_ssim_triton` with programs of a given kind."""
    return _forward(tile, rendered, target, slopes=False)[0]


def _ssim_forward(tile: Tile, rendered: Array, target: Array) -> tuple[Array, tuple]:
    value, slopes = _forward(tile, rendered, target, slopes=True)
    return value, (rendered, target, *slopes)


def _ssim_backward(tile: Tile, saved: tuple[Array, ...], cotangent: Array) -> tuple:
    rendered = saved[0]
    gradient = launch.triton_call(
        ssim_kernels.backward_kernel, *saved, cotangent.reshape(1),
        outputs=(ShapeDtypeStruct(rendered.shape, jnp.float32),), SCALE=1.0 / rendered.size,
        **_launch(tile, rendered),
    )[0]  # fmt: skip
    return gradient, None  # the target is a constant


ssim_tiles.defvjp(_ssim_forward, _ssim_backward)


def _forward(
    tile: Tile, rendered: Array, target: Array, *, slopes: bool
) -> tuple[Array, tuple[Array, ...]]:
    """The mean and, if wanted, the derivatives of every number by its moments."""
    options = _launch(tile, rendered)
    slope = ShapeDtypeStruct(rendered.shape if slopes else (1,), jnp.float32)
    sums, *maps = launch.triton_call(
        ssim_kernels.forward_kernel, rendered, target,
        outputs=(ShapeDtypeStruct((options["grid"],), jnp.float32), slope, slope, slope),
        SLOPES=int(slopes), **options,
    )  # fmt: skip
    return jnp.sum(sums) / rendered.size, tuple(maps)


def _launch(tile: Tile, images: Array) -> dict:
    """Grid and compile-time numbers of both kernels."""
    n_images, height, width, n_channels = images.shape
    length = width * n_channels
    grid = n_images * -(-height // tile.rows) * -(-length // tile.lanes)
    return dict(
        grid=grid, HEIGHT=height, LENGTH=length, CHANNELS=n_channels, ROWS=tile.rows,
        LANES=tile.lanes,
    )  # fmt: skip
