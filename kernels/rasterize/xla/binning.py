"""Binning: which splat touches which 16-pixel tile, as one sorted list with a static capacity.

The footprint of a splat is the exact ellipse on which alpha reaches `alpha_min`; there is no cut at
three standard deviations. An ellipse is convex, so it meets a row of tiles in one run of columns:
an instance (splat, tile) is found by two closed-form intervals and no test is wasted.

Order of instances, which fixes what an overflow drops: by depth (ties by index), then tile row,
then tile column. The first `capacity` are kept, so the farthest go. Nothing here is differentiable.

Words: `slot` = place of an instance in that order; `rank` = place of a Gaussian in depth order.
Tiles are numbered row * columns + column; all numbers are local to their frame.

Place in the pipeline: (2) of 3; before: `projection`, after: `blend`.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from kernels._sharding import match_varying
from kernels._written import written
from kernels.rasterize.xla.projection import Splats

TILE = 16
COUNT_LIMIT = 2**30  # a count of instances beyond it is reported as this
# Slack of the footprint, so that rounding never loses a pixel that blending would draw.
SLACK_PIXELS = 2e-3
SLACK_POWER = 1e-4
HALF_BITS = 16  # of a 32-bit sort key
SUM_BLOCK = 64
WORD = 32  # bits
MOST_WORDS = 2  # of bits, a slot: with more of them a sort is as fast


class TileLists(NamedTuple):
    """Instances sorted by (tile, depth), and what the backward pass needs to undo the sort."""

    ids: Int[Array, "B C"]  # Gaussian of each sorted instance; N where unused
    slots: Int[Array, "B C"]  # slot of each sorted instance
    starts: Int[Array, "B T"]  # first sorted instance of each tile
    lengths: Int[Array, "B T"]  # how many
    heads: Int[Array, "B N"]  # first slot of each Gaussian; C when it has none
    tails: Int[Array, "B C"]  # per slot: how many further slots belong to the same Gaussian
    n_instances: Int[Array, " B"]  # wanted, before the capacity
    on_image: Bool[Array, "B N"]  # touches a tile, kept or not


class _Slots(NamedTuple):
    """Instances in order of (depth, row, column), before the sort by tile."""

    rank: Int[Array, "B C"]
    tile: Int[Array, "B C"]  # within the frame
    starts: Int[Array, "B N"]  # by rank: first slot, may lie past the capacity
    ends: Int[Array, "B N"]
    n_instances: Int[Array, " B"]


class _Footprint(NamedTuple):
    """The ellipse of a splat and its range of tile rows, per Gaussian or per (Gaussian, row)."""

    x: Float[Array, "B M"]
    y: Float[Array, "B M"]
    xx: Float[Array, "B M"]
    xy: Float[Array, "B M"]
    yy: Float[Array, "B M"]
    det: Float[Array, "B M"]
    level: Float[Array, "B M"]  # 2 ln(opacity / alpha_min): squared Mahalanobis radius
    first_row: Int[Array, "B M"]
    n_rows: Int[Array, "B M"]


def tile_grid(width: int, height: int) -> tuple[int, int]:
    """Columns and rows of tiles that cover the image."""
    return -(-width // TILE), -(-height // TILE)


def default_capacity(n_gaussians: int, width: int, height: int) -> int:
    """Pick how many instances a frame may have: min(N * T, 4 N + 64 T) for T tiles.

    Small splats touch few tiles each (heads: 1.8 to 3.5 at 512 px), hence 4 N. Large ones are
    limited by how often they cover the image, hence 64 T: the alpha_min footprints may overlap
    64-fold.
    """
    columns, rows = tile_grid(width, height)
    tiles = columns * rows
    return max(1, min(n_gaussians * tiles, 4 * n_gaussians + 64 * tiles))


def build_tile_lists(
    splats: Splats, *, width: int, height: int, alpha_min: float, capacity: int
) -> TileLists:
    """Sort the splats of every frame into lists per tile, nearest first.

    Args:
      splats: Projected Gaussians, one set per frame.
      width: Of the image [pixels].
      height: Of the image [pixels].
      alpha_min: Alpha under which nothing is drawn.
      capacity: Most instances per frame.

    Returns:
      Lists of every frame.
    """
    splats = jax.lax.stop_gradient(splats)
    n_gaussians = splats.depths.shape[1]
    n_tiles = tile_grid(width, height)[0] * tile_grid(width, height)[1]
    order = _sort_by_depth(jnp.where(splats.visible, splats.depths, jnp.inf))
    sorted_splats = jax.tree.map(lambda v: _take_rows(v, order), splats._replace(colors=order))
    footprints = _footprints(sorted_splats, width, height, alpha_min)
    slots = _emit(footprints, width, height, capacity)

    slot = jnp.arange(capacity, dtype=jnp.int32)[None]
    valid = slot < jnp.minimum(slots.n_instances, capacity)[:, None]
    ends = jnp.minimum(_take_rows(slots.ends, slots.rank), capacity)
    on_list = (slots.starts < slots.ends) & (slots.starts < capacity)
    tile = jnp.where(valid, slots.tile, n_tiles)
    sorted_slots, bounds = _sort_by_tile(tile, slots.rank, n_tiles, n_gaussians)
    ids = _take_rows(_take_rows(order.astype(jnp.int32), slots.rank), sorted_slots)
    live = slot < bounds[:, -1:]
    return TileLists(
        ids=jnp.where(live, ids, n_gaussians),
        slots=sorted_slots,
        starts=bounds[:, :-1],
        lengths=jnp.diff(bounds, axis=1),
        heads=_put_rows(jnp.where(on_list, slots.starts, capacity), order),
        tails=jnp.where(valid, ends - 1 - slot, 0),
        n_instances=slots.n_instances,
        on_image=_put_rows(footprints.n_rows > 0, order),
    )


def _sort_by_depth(depths: Float[Array, "B N"]) -> Int[Array, "B N"]:
    """Order of every frame's depths, ties by index.

    A CPU sorts one operand several times faster than two, so there the index sits in the key beside
    half of the depth's bits: first the lower half, then the upper (20,000: 1.6 ms instead of 3.3).
    """

    def argsort(depths: Array) -> Array:
        order = jnp.argsort(depths, axis=1, stable=True).astype(jnp.int32)
        return match_varying((order, depths))[0]  # it forgets that it varies

    if depths.dtype != jnp.float32 or depths.shape[1] > 2**HALF_BITS:
        return argsort(depths)
    return jax.lax.platform_dependent(depths, cpu=_sort_by_halves, default=argsort)


def _sort_by_halves(depths: Float[Array, "B N"]) -> Int[Array, "B N"]:
    bits = jax.lax.bitcast_convert_type(depths, jnp.uint32)
    negative = bits >> 31 == 1
    bits = jnp.where(negative, ~bits, bits | jnp.uint32(1 << 31))  # in the order of the floats
    low = jnp.uint32((1 << HALF_BITS) - 1)
    place = jnp.broadcast_to(jnp.arange(bits.shape[1], dtype=jnp.uint32)[None], bits.shape)
    order = place
    for half in (bits & low, bits >> HALF_BITS):
        keys = (_take_rows(half, order) << HALF_BITS) | place
        order = _take_rows(order, jax.lax.sort(keys, is_stable=False) & low)
    return order.astype(jnp.int32)


def _take_rows(values: Array, index: Int[Array, "B M"]) -> Array:
    """values[b, index[b, m]] for indices known to be in range."""
    return jax.vmap(lambda v, i: v.at[i].get(mode="clip"))(values, index)


def _put_rows(values: Array, index: Int[Array, "B M"]) -> Array:
    """Inverse of `_take_rows` for a permutation."""
    return jax.vmap(lambda v, i: jnp.zeros_like(v).at[i].set(v, unique_indices=True))(values, index)


def _footprints(splats: Splats, width: int, height: int, alpha_min: float) -> _Footprint:
    """Ellipse of every splat and the tile rows that it meets inside the image."""
    level = 2.0 * (jnp.log(splats.opacities / alpha_min) + SLACK_POWER)
    level = jnp.where(splats.visible, jnp.maximum(level, 0.0), 0.0)
    x, y = splats.means2d[..., 0], splats.means2d[..., 1]
    ellipse = (splats.cov_xx, splats.cov_xy, splats.cov_yy, splats.cov_det, level)
    # The part of the ellipse between the first and the last column of pixel centers.
    low, high, meets = extent(*ellipse, 0.5 - x, width - 0.5 - x)
    first, last, inside = _tile_range(y + low, y + high, height)
    n_rows = jnp.where(splats.visible & meets & inside, last - first + 1, 0)
    n_rows = jnp.maximum(n_rows, 0)
    xx, xy, yy, det, _ = ellipse
    return _Footprint(x, y, xx, xy, yy, det, level, first, n_rows)


def extent(
    xx: Array, xy: Array, yy: Array, det: Array, level: Array, low: Array, high: Array
) -> tuple[Array, Array, Array]:
    """Range of y, relative to the center, of an ellipse cut to x in [low, high].

    At offset x the ellipse spans xy/xx * x +- sqrt((level - x^2/xx) det/xx). The upper end is
    concave in x with its top at x = xy sqrt(level/yy), so the top of the cut is at that x, clamped;
    the lower end mirrors it. For a range of x in a band of y swap the roles of `xx` and `yy`.
    """
    reach = jnp.sqrt(level * xx)
    low = low - SLACK_PIXELS
    high = high + SLACK_PIXELS
    meets = (low <= reach) & (high >= -reach)
    tangent = xy * jnp.sqrt(level / yy)
    low, high = jnp.clip(low, -reach, reach), jnp.clip(high, -reach, reach)

    def end(x: Array, sign: float) -> Array:
        half = jnp.sqrt(jnp.maximum(level - x * x / xx, 0.0) * det / xx)
        return xy / xx * x + sign * half

    top = end(jnp.clip(tangent, low, high), 1.0)
    bottom = end(jnp.clip(-tangent, low, high), -1.0)
    return bottom, top, meets


def _tile_range(low: Array, high: Array, size: int) -> tuple[Array, Array, Array]:
    """Tiles whose pixel centers span some of [low, high] (pixels), and whether any does."""
    low, high = low - SLACK_PIXELS, high + SLACK_PIXELS
    inside = (low <= size - 0.5) & (high >= 0.5)
    low, high = jnp.clip(low, 0.5, size - 0.5), jnp.clip(high, 0.5, size - 0.5)
    first = jnp.ceil((low - (TILE - 0.5)) / TILE).astype(jnp.int32)
    last = jnp.floor((high - 0.5) / TILE).astype(jnp.int32)
    return first, last, inside


def _columns(
    footprints: _Footprint, row: Int[Array, "B M"], width: int
) -> tuple[Int[Array, "B M"], Int[Array, "B M"]]:
    """First tile column and number of columns that an ellipse meets in a tile row; at least one.

    A sliver between two columns of pixel centers counts as one: then every (Gaussian, row) has an
    instance, and the list of rows fits wherever the list of instances does.
    """
    low = row * TILE + 0.5 - footprints.y
    left, right, _ = extent(
        footprints.yy,
        footprints.xy,
        footprints.xx,
        footprints.det,
        footprints.level,
        low,
        low + (TILE - 1),
    )
    first, last, _ = _tile_range(footprints.x + left, footprints.x + right, width)
    n_columns = tile_grid(width, TILE)[0]
    first = jnp.clip(first, 0, n_columns - 1)
    return first, jnp.maximum(jnp.minimum(last, n_columns - 1) - first + 1, 1)


def _count_instances(
    footprints: _Footprint, needed: Bool[Array, " B"], width: int
) -> Int[Array, " B"]:
    """Instances of every frame: walks the tile rows of all Gaussians side by side, if needed."""

    def add_row(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        i, counts = carry
        _, n = _columns(footprints, footprints.first_row + i, width)
        return i + 1, counts + jnp.where(i < footprints.n_rows, n, 0)

    tallest = jnp.max(jnp.where(needed[:, None], footprints.n_rows, 0))
    start = (tallest * 0, footprints.n_rows * 0)  # from inputs: varies as they do in a shard_map
    counts = jax.lax.while_loop(lambda carry: carry[0] < tallest, add_row, start)[1]
    total = jnp.sum(counts, axis=1, dtype=jnp.int32)
    fits = jnp.sum(counts, axis=1, dtype=jnp.float32) < COUNT_LIMIT  # a float sum cannot wrap
    return jnp.where(fits, total, COUNT_LIMIT)


def _running_sum(counts: Int[Array, "B M"]) -> Int[Array, "B M"]:
    """Sum of every row up to and including each entry.

    Within blocks by a product with a triangular matrix of ones, exact as long as a block's sum is
    under 2^24: on a CPU in half the time of `jnp.cumsum`.
    """
    n_frames, size = counts.shape
    blocks = jnp.pad(counts, ((0, 0), (0, -size % SUM_BLOCK))).reshape(n_frames, -1, SUM_BLOCK)
    up_to = np.triu(np.ones((SUM_BLOCK, SUM_BLOCK), np.float32))
    sums = jnp.matmul(blocks.astype(jnp.float32), up_to, precision=jax.lax.Precision.HIGHEST)
    sums = sums.astype(jnp.int32)
    before = jnp.cumsum(sums[..., -1], axis=1) - sums[..., -1]
    return (sums + before[..., None]).reshape(n_frames, -1)[:, :size]


def owners(ends: Int[Array, "B M"], size: int) -> Int[Array, "B size"]:
    """Which entry owns each of `size` slots, given where every entry's slots end.

    As many entries come before a slot as end at it or earlier: marks at the ends, added up.
    """
    count = lambda row: jnp.zeros(size, ends.dtype).at[row].add(1, mode="drop")
    return jnp.minimum(_running_sum(jax.vmap(count)(ends)), ends.shape[1] - 1)


def _emit(footprints: _Footprint, width: int, height: int, capacity: int) -> _Slots:
    """Give every instance its slot: first rows of tiles per Gaussian, then columns per row.

    If the list of rows is full then so is the list of instances, since a row has at least one: the
    exact number wanted then takes a walk over all rows, which is skipped otherwise.
    """
    columns, rows = tile_grid(width, height)
    n_row_slots = min(capacity, footprints.x.shape[1] * rows)
    n_rows = footprints.n_rows
    keep = lambda function, *arrays: written(function, n_rows, *arrays)
    row_ends = keep(_running_sum, n_rows)
    rank = keep(partial(owners, size=n_row_slots), row_ends)
    spread = lambda fields, rank: _Footprint(*(_take_rows(field, rank) for field in fields))
    per_row = keep(spread, footprints, rank)
    row_slot = jnp.arange(n_row_slots, dtype=jnp.int32)[None]
    left = _take_rows(row_ends, rank) - row_slot  # rows of the Gaussian from this one on
    row = per_row.first_row + per_row.n_rows - left
    first_column, n_columns = keep(partial(_columns, width=width), per_row, row)
    n_columns = jnp.where(left > 0, n_columns, 0)
    slot_ends = keep(_running_sum, n_columns)
    entry = keep(partial(owners, size=capacity), slot_ends)
    slot = jnp.arange(capacity, dtype=jnp.int32)[None]
    column_end = row * columns + first_column + n_columns
    # Slots before each row, with the total at the end: from the numbers that the slots come from.
    before = jnp.pad(slot_ends, ((0, 0), (1, 0)))
    rows_fit = row_ends[:, -1] <= n_row_slots
    wanted = _count_instances(footprints, ~rows_fit, width)
    return _Slots(
        rank=_take_rows(rank, entry),
        tile=_take_rows(column_end, entry) - (_take_rows(slot_ends, entry) - slot),
        starts=_take_rows(before, row_ends - footprints.n_rows),
        ends=_take_rows(before, row_ends),
        n_instances=jnp.where(rows_fit, before[:, -1], wanted),
    )


def _sort_by_tile(
    tile: Int[Array, "B C"], rank: Int[Array, "B C"], n_tiles: int, n_gaussians: int
) -> tuple[Int[Array, "B C"], Int[Array, "B T1"]]:
    """Stable sort of every frame's slots by tile; slots in order, and bounds of the tiles (T + 1).

    What the order of unused slots is, and whether they are there, is left open.
    """
    by_keys = partial(_sort_by_keys, n_tiles=n_tiles)
    if n_tiles * (n_gaussians // WORD + 1) > MOST_WORDS * tile.shape[1]:
        return by_keys(tile, rank)
    by_marks = partial(_sort_by_marks, n_tiles=n_tiles, n_gaussians=n_gaussians)
    return jax.lax.platform_dependent(tile, rank, cpu=by_marks, default=by_keys)


def _sort_by_marks(
    tile: Int[Array, "B C"], rank: Int[Array, "B C"], n_tiles: int, n_gaussians: int
) -> tuple[Int[Array, "B C"], Int[Array, "B T1"]]:
    """Sort without a comparison: a bit for every tile and rank, and counts of the bits before.

    On a CPU, where scattered writes cost next to nothing, a quarter of the time of a sort.
    """
    n_frames, capacity = tile.shape
    n_words = n_gaussians // WORD + 1
    n_words += -n_words % (SUM_BLOCK // math.gcd(n_tiles, SUM_BLOCK))  # whole blocks: no padding
    bit = jnp.uint32(1) << (rank % WORD).astype(jnp.uint32)
    word = written(lambda tile, rank: tile * n_words + rank // WORD, rank, tile, rank)
    mark = lambda word, bit: jnp.zeros(n_tiles * n_words, jnp.uint32).at[word].add(bit, mode="drop")
    marks = jax.vmap(mark)(word, bit)
    counts = jax.lax.population_count(marks).astype(jnp.int32)
    ends = written(_running_sum, rank, counts)
    before = ends - counts
    own = _take_rows(marks, word) & (bit - 1)
    place = _take_rows(before, word) + jax.lax.population_count(own).astype(jnp.int32)
    used = tile < n_tiles
    place = jnp.where(used, place, capacity)
    slot = jnp.arange(capacity, dtype=jnp.int32)
    put = lambda place: jnp.zeros_like(place).at[place].set(slot, mode="drop", unique_indices=True)
    bounds = ends.reshape(n_frames, n_tiles, n_words)[:, :, -1]
    return jax.vmap(put)(place), jnp.pad(bounds, ((0, 0), (1, 0)))


def _sort_by_keys(
    tile: Int[Array, "B C"], rank: Int[Array, "B C"], n_tiles: int
) -> tuple[Int[Array, "B C"], Int[Array, "B T1"]]:
    """Sort by comparison.

    One flat sort for all frames: batched sorts leave the fast path of a GPU. Every frame keeps its
    own stretch of the result, since its unused slots carry the tile number `n_tiles`. When tile and
    slot fit one 32-bit key the sort has a single operand, which a CPU does six times faster than a
    pair.
    """
    del rank  # slots are in its order
    n_frames, capacity = tile.shape
    frame = jnp.arange(n_frames, dtype=jnp.int32)[:, None]
    slot = jnp.broadcast_to(jnp.arange(capacity, dtype=jnp.int32)[None], tile.shape)
    frame_tile = frame * (n_tiles + 1) + tile
    if n_frames * (n_tiles + 1) * capacity < 2**32:
        step = jnp.uint32(capacity)
        keys = frame_tile.astype(jnp.uint32) * step + slot.astype(jnp.uint32)
        keys = jax.lax.sort(keys.reshape(-1), is_stable=False).reshape(tile.shape)
        sorted_tile, slots = (keys // step).astype(jnp.int32), (keys % step).astype(jnp.int32)
    else:
        flat = (frame_tile.reshape(-1), slot.reshape(-1))
        flat = jax.lax.sort(flat, num_keys=1, is_stable=True)
        sorted_tile, slots = (value.reshape(tile.shape) for value in flat)
    wanted = frame * (n_tiles + 1) + jnp.arange(n_tiles + 1, dtype=jnp.int32)[None]
    bounds = jax.vmap(lambda row, v: jnp.searchsorted(row, v, side="left"))(sorted_tile, wanted)
    return slots, bounds.astype(jnp.int32)
