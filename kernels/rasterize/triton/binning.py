"""Binning on a GPU: lists per quarter of a tile (8 x 8 pixels), by Triton kernels.

Same instances, same order and same overflow as `xla.binning`, counted in 16-pixel tiles; the kept
ones are then split exactly among the quarters of their tile, which halves the pairs to blend.

Steps: scan the Gaussians' counts, and cut off the farthest if the capacity does not suffice -> emit
instances to their slots, each with a place within its tile and the quarters that it meets -> bounds
of the tiles -> gather every tile's instances -> sort them by depth, in runs -> deal the runs out to
the lists. Places are handed out by an integer counter in whatever order the GPU runs; the lists do
not depend on it. No sort spans the tiles: XLA's radix sorts of depths and of tiles took most of the
time. Memory: 72 bytes per instance of capacity.

Place in the pipeline: (2) of 3; before: `projection`; after: `blend`.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import ShapeDtypeStruct
from jaxtyping import Array, Float, Int, UInt

from kernels import launch
from kernels.checks import require
from kernels.rasterize.triton import binning_kernels, list_kernels
from kernels.rasterize.xla.binning import tile_grid

QUARTERS = 4  # of a tile
MAX_INSTANCES = 2**27  # per frame, and Gaussians: a number and four bits share 31
MAX_TILES = 2**list_kernels.BITS.value
CHUNK = 32  # Gaussians per program, as in `projection`
SCAN_BLOCK, SCAN_WARPS = 2048, 8
GATHER_BLOCK = 128
# Instances of a tile in a run; few in Triton's interpreter, which takes long.
SORT_RUN = 16 if launch.is_interpreting() else 256
SORT_WARPS, DEAL_WARPS = 1, 4


class QuarterLists(NamedTuple):
    """Lists per quarter of a tile, nearest first; all numbers are local to their frame.

    The list of quarter q of tile t starts at place 4 bounds[t] + 16 t + q m, m the length of the
    tile's own list rounded up to a multiple of 4. Lists are padded to multiples of 4 with the
    Gaussian N, which does not exist, and the row 4 capacity.
    """

    bounds: Int[Array, "B T1"]  # first sorted instance of each tile, and their number
    lengths: Int[Array, "B T4"]  # entries of each quarter's list
    ids: Int[Array, "B L"]  # Gaussian of each entry
    rows: Int[Array, "B L"]  # where the gradient of each entry goes
    row_heads: Int[Array, "B N"]  # first gradient row of each Gaussian
    row_counts: Int[Array, "B N"]  # its gradient rows, which have no gaps
    turns: Int[Array, "B T"]  # tiles in the order in which they are blended
    n_instances: Int[Array, " B"]  # (Gaussian, 16-px tile) pairs wanted, before the capacity


def build_quarter_lists(
    ellipses: Float[Array, "B N 8"],
    keys: UInt[Array, "B N"],
    tiles: Int[Array, "B N"],
    sums: Int[Array, "B M"],
    *,
    width: int,
    height: int,
    capacity: int,
) -> QuarterLists:
    """Sort the splats of every frame into lists per quarter of a tile, nearest first.

    Args:
      ellipses: Footprints, see `binning_kernels`.
      keys: Depths in bits that sort as unsigned numbers; culled ones last.
      tiles: How many tiles each footprint meets.
      sums: The same for each chunk of CHUNK Gaussians.
      width: Of the image [pixels].
      height: Of the image [pixels].
      capacity: Most (Gaussian, tile) instances per frame.

    Returns:
      Lists of every frame.

    Raises:
      ValueError: if the instances of all frames cannot be numbered in 32 bits.
    """
    n_frames, n_gaussians = tiles.shape
    n_tiles = math.prod(tile_grid(width, height))
    n_entries = QUARTERS * capacity + 16 * n_tiles
    _check(n_frames, n_gaussians, n_tiles, capacity)
    n_chunks, int32 = sums.shape[1], jnp.int32
    per_gaussian = ShapeDtypeStruct((n_frames, n_gaussians), int32)
    per_tile = ShapeDtypeStruct((n_frames, n_tiles, binning_kernels.APART.value), int32)
    asm = not launch.is_interpreting()
    chunks = dict(CHUNKS=n_chunks, CHUNK=CHUNK)
    bases, cuts, totals, zeros = launch.triton_call(
        binning_kernels.scan_kernel, sums, keys, tiles,
        outputs=(
            ShapeDtypeStruct((n_frames, n_chunks), int32), ShapeDtypeStruct((n_frames, 3), int32),
            ShapeDtypeStruct((n_frames,), int32), per_tile,
        ),
        grid=n_frames, num_warps=SCAN_WARPS, N=n_gaussians, BITS=n_gaussians.bit_length(),
        TILES=n_tiles, CAPACITY=capacity, BLOCK=SCAN_BLOCK, **chunks,
    )  # fmt: skip
    instances, *gradient_rows, tile_counts = launch.triton_call(
        binning_kernels.emit_kernel, ellipses, keys, tiles, bases, cuts, zeros,
        outputs=(
            ShapeDtypeStruct((n_frames, capacity, 4), int32), per_gaussian, per_gaussian, per_tile,
        ),
        in_place=5, grid=n_frames * n_chunks, N=n_gaussians, WIDTH=width, HEIGHT=height,
        COLUMNS=tile_grid(width, height)[0], TILES=n_tiles, CAPACITY=capacity, ASM=asm, **chunks,
    )  # fmt: skip
    n_runs = capacity // SORT_RUN + n_tiles  # at most, if tiles are cut into runs
    runs = dict(TILES=n_tiles, RUNS=n_runs, SIZE=SORT_RUN)
    bounds, run_places, run_counts, turns = launch.triton_call(
        list_kernels.bounds_kernel, tile_counts,
        outputs=(
            ShapeDtypeStruct((n_frames, n_tiles + 1), int32),
            ShapeDtypeStruct((n_frames, n_runs, 2), int32), ShapeDtypeStruct((n_frames,), int32),
            ShapeDtypeStruct((n_frames, n_tiles), int32),
        ),
        grid=n_frames, num_warps=SCAN_WARPS, BLOCK=SCAN_BLOCK, **runs,
    )  # fmt: skip
    n_blocks = -(-capacity // GATHER_BLOCK)
    entries = launch.triton_call(
        list_kernels.gather_kernel, instances, keys, bounds, totals,
        outputs=(ShapeDtypeStruct((n_frames, capacity, 2), int32),), grid=n_frames * n_blocks,
        BLOCKS=n_blocks, BLOCK=GATHER_BLOCK, ASM=asm, N=n_gaussians, TILES=n_tiles,
        CAPACITY=capacity,
    )[0]  # fmt: skip
    where = (bounds, run_places, run_counts)
    pairs = ShapeDtypeStruct(entries.shape, int32)
    orders, counts = launch.triton_call(
        list_kernels.sort_kernel, entries, *where, outputs=(pairs, pairs),
        grid=n_frames * n_runs, num_warps=SORT_WARPS, CAPACITY=capacity, **runs,
    )  # fmt: skip
    per_entry = ShapeDtypeStruct((n_frames, n_entries), int32)
    ids, rows, lengths = launch.triton_call(
        list_kernels.deal_kernel, orders, counts, instances, *where,
        outputs=(
            per_entry, per_entry, ShapeDtypeStruct((n_frames, QUARTERS * n_tiles), int32),
        ),
        grid=n_frames * n_runs, num_warps=DEAL_WARPS, N=n_gaussians, CAPACITY=capacity, **runs,
    )  # fmt: skip
    more = (*gradient_rows, turns, totals)
    return QuarterLists(bounds, lengths, ids, rows, *more)


def _check(n_frames: int, n_gaussians: int, n_tiles: int, capacity: int) -> None:
    """Check what 32 bits, and 21 of a tile, can count."""
    n_entries = QUARTERS * capacity + 16 * n_tiles
    require(
        n_frames * n_entries < 2**31 and max(n_gaussians, capacity) < MAX_INSTANCES,
        "capacity: expected frames * (4 capacity + 16 tiles) < 2^31, and capacity and Gaussians "
        f"under {MAX_INSTANCES}, got {n_frames} * {n_entries}, {capacity} and {n_gaussians}; pass "
        "a smaller capacity or fewer frames at once",
    )
    require(
        n_tiles < MAX_TILES,
        f"width, height: expected fewer than {MAX_TILES} tiles of 16 x 16 pixels, got {n_tiles}; "
        "draw a smaller image",
    )
