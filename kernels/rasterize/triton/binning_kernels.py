"""Triton kernels of `binning` that find the tiles of every Gaussian: scan, emit.

The geometry is that of `binning`, which explains it. Conventions: index of a Gaussian within its
frame; results repeat bit for bit, but for places within a tile, which `list_kernels` puts in order.

INSTANCE numbers of a (Gaussian, tile) pair: tile (-1: none); a place of its own among the tile's
instances, in no order; 16 times the Gaussian, plus a bit for each quarter that it meets; gradient
row of the first of these quarters.
ELLIPSE numbers per Gaussian: x, y, cov_xx, cov_xy, cov_yy, cov_det, level (-1: culled), z.
"""

import triton
import triton.language as tl

from kernels.rasterize.triton import ptx
from kernels.rasterize.triton.projection_parts import load_row
from kernels.rasterize.xla import binning

TILE = tl.constexpr(binning.TILE)
QUARTER = tl.constexpr(8)  # a tile has four quarters, numbered row by row
ELLIPSE = tl.constexpr(8)
INSTANCE = tl.constexpr(4)
PAIRS = tl.constexpr(32)  # of a Gaussian and a row of its tiles, that a program has at once
AT_ONCE = tl.constexpr(4)  # tiles of a pair for which places are asked together
# From a tile's counter to the next one's: a GPU counts one by one in what lies side by side, and
# hands the places of a frame out in 7.7 instead of 14.1 us.
APART = tl.constexpr(8)
LIMIT = tl.constexpr(binning.COUNT_LIMIT)
SLACK = tl.constexpr(binning.SLACK_PIXELS)


@triton.jit
def count_bits(bits):
    """Bits set in a number of four bits."""
    pairs = bits - ((bits >> 1) & 5)
    return (pairs & 3) + (pairs >> 2)


@triton.jit
def _extent(xx, xy, yy, det, level, low, high):
    """Range of y of an ellipse cut to x in [low, high], and whether it meets it; all relative."""
    inverse = 1.0 / xx
    reach = tl.sqrt(level * xx)
    tangent = xy * tl.sqrt(level / yy)
    slope = xy * inverse
    height = det * inverse
    low = low - SLACK
    high = high + SLACK
    meets = (low <= reach) & (high >= -reach)
    low = tl.minimum(tl.maximum(low, -reach), reach)
    high = tl.minimum(tl.maximum(high, -reach), reach)
    at_top = tl.minimum(tl.maximum(tangent, low), high)
    at_bottom = tl.minimum(tl.maximum(-tangent, low), high)
    top = slope * at_top + tl.sqrt(tl.maximum(level - at_top * at_top * inverse, 0.0) * height)
    bottom = slope * at_bottom - tl.sqrt(
        tl.maximum(level - at_bottom * at_bottom * inverse, 0.0) * height
    )
    return bottom, top, meets


@triton.jit
def _cell_range(low, high, SIZE: tl.constexpr, CELL: tl.constexpr):
    """Cells of CELL pixels whose pixel centers span some of [low, high], and whether any does."""
    low = low - SLACK
    high = high + SLACK
    inside = (low <= SIZE - 0.5) & (high >= 0.5)
    low = tl.minimum(tl.maximum(low, 0.5), SIZE - 0.5)
    high = tl.minimum(tl.maximum(high, 0.5), SIZE - 0.5)
    first = tl.ceil((low - (CELL - 0.5)) / CELL).to(tl.int32)
    last = tl.floor((high - 0.5) / CELL).to(tl.int32)
    return first, last, inside


@triton.jit
def _tile_rows(x, y, xx, xy, yy, det, level, WIDTH: tl.constexpr, HEIGHT: tl.constexpr):
    """First tile row that an ellipse meets inside the image, and number of rows."""
    low, high, meets = _extent(xx, xy, yy, det, tl.maximum(level, 0.0), 0.5 - x, WIDTH - 0.5 - x)
    first, last, inside = _cell_range(y + low, y + high, HEIGHT, TILE)
    n_rows = tl.where((level >= 0.0) & meets & inside, tl.maximum(last - first + 1, 0), 0)
    return first, n_rows


@triton.jit
def _tile_columns(row, x, y, xx, xy, yy, det, level, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    """First tile column that an ellipse meets in a tile row, and number of columns: at least 1."""
    low = row * TILE + 0.5 - y
    level = tl.maximum(level, 0.0)
    left, right, _meets = _extent(yy, xy, xx, det, level, low, low + (TILE - 1))
    first, last, _inside = _cell_range(x + left, x + right, WIDTH, TILE)
    first = tl.minimum(tl.maximum(first, 0), COLUMNS - 1)
    return first, tl.maximum(tl.minimum(last, COLUMNS - 1) - first + 1, 1)


@triton.jit
def _quarter_columns(
    row, x, y, xx, xy, yy, det, level, WIDTH: tl.constexpr, HEIGHT: tl.constexpr
):  # fmt: skip
    """First and last column of quarters that an ellipse meets in a row of quarters; none: 1, 0."""
    top = row * QUARTER + 0.5
    bottom = tl.minimum(top + (QUARTER - 1), HEIGHT - 0.5)
    level = tl.maximum(level, 0.0)
    left, right, meets = _extent(yy, xy, xx, det, level, top - y, bottom - y)
    first, last, inside = _cell_range(x + left, x + right, WIDTH, QUARTER)
    meets = meets & inside & (top < HEIGHT)
    return tl.where(meets, first, 1), tl.where(meets, last, 0)


@triton.jit
def count_tiles(
    x, y, xx, xy, yy, det, level,
    WIDTH: tl.constexpr, HEIGHT: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Count the tiles that each of a block of ellipses meets; 0 for a level of -1."""
    row, n_rows = _tile_rows(x, y, xx, xy, yy, det, level, WIDTH, HEIGHT)
    count = n_rows * 0
    tallest = tl.max(n_rows, axis=0)
    i = 0
    while i < tallest:
        _, n = _tile_columns(row + i, x, y, xx, xy, yy, det, level, WIDTH, COLUMNS)
        count += tl.where(i < n_rows, n, 0)
        i += 1
    return count


@triton.jit
def _kept(tiles, key, index, cut_key, cut_index, rest):
    """Instances in front of the cut: all of Gaussians before it, `rest` of the one at it."""
    before = (key < cut_key) | ((key == cut_key) & (index < cut_index))
    at = (key == cut_key) & (index == cut_index)
    return tl.where(before, tiles, tl.where(at, rest, 0))


@triton.jit
def _count_before(keys, tiles, cut_key, cut_index, N: tl.constexpr, BLOCK: tl.constexpr):
    """Instances of the Gaussians before (cut_key, cut_index) in the order of depth."""
    total = tl.zeros([BLOCK], tl.int64)
    for start in range(0, N, BLOCK):
        index = start + tl.arange(0, BLOCK)
        key = tl.load(keys + index, mask=index < N, other=0xFFFFFFFF)
        count = tl.load(tiles + index, mask=index < N, other=0)
        total += _kept(count, key, index, cut_key, cut_index, 0).to(tl.int64)
    return tl.sum(total, axis=0)


@triton.jit
def _find_cut(
    keys, tiles, N: tl.constexpr, BITS: tl.constexpr, CAPACITY: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Key and index of the first Gaussian that does not fit whole, and how much of it does."""
    cut_key = tl.full([], 0, tl.uint32)
    for i in range(32):
        more = cut_key | (tl.full([], 0x80000000, tl.uint32) >> i)
        fits = _count_before(keys, tiles, more, 0, N, BLOCK) <= CAPACITY
        cut_key = tl.where(fits, more, cut_key)
    cut_index = tl.full([], 0, tl.int32)
    for i in range(BITS):
        more = cut_index | (1 << (BITS - 1 - i))
        fits = _count_before(keys, tiles, cut_key, more, N, BLOCK) <= CAPACITY
        cut_index = tl.where(fits, more, cut_index)
    before = _count_before(keys, tiles, cut_key, cut_index, N, BLOCK)
    return cut_key, cut_index, (CAPACITY - before).to(tl.int32)


@triton.jit
def scan_kernel(
    sums, keys, tiles, bases, cuts, totals, zeros,
    N: tl.constexpr, BITS: tl.constexpr, CHUNKS: tl.constexpr, CHUNK: tl.constexpr,
    TILES: tl.constexpr, CAPACITY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Slots before each chunk of Gaussians, and where the capacity cuts them off.

    Only a frame with too many instances searches for the cut, bit by bit: that takes milliseconds.

    Args (pointers):
      sums: [B, CHUNKS] int32: instances of each chunk of CHUNK Gaussians.
      keys: [B, N] uint32: order of depth.
      tiles: [B, N] int32: instances of each Gaussian.
      bases: [B, CHUNKS] int32 out.
      cuts: [B, 3] int32 out: key, index and instances of the Gaussian at the cut.
      totals: [B] int32 out: instances wanted; what exceeds 2^30 is called 2^30.
      zeros: [B, TILES, APART] int32 out, for `emit_kernel` to count in.
    """
    frame = tl.program_id(0)
    for start in range(0, TILES * APART, BLOCK):
        place = start + tl.arange(0, BLOCK)
        tl.store(zeros + frame * TILES * APART + place, place * 0, mask=place < TILES * APART)
    sums += frame * CHUNKS
    bases += frame * CHUNKS
    keys += frame * N
    tiles += frame * N
    total = tl.zeros([BLOCK], tl.int64)
    for start in range(0, CHUNKS, BLOCK):
        chunk = start + tl.arange(0, BLOCK)
        count = tl.load(sums + chunk, mask=chunk < CHUNKS, other=0).to(tl.int64)
        before = total + tl.cumsum(count, axis=0) - count
        tl.store(bases + chunk, tl.minimum(before, LIMIT).to(tl.int32), mask=chunk < CHUNKS)
        total += tl.sum(count, axis=0)
    wanted = tl.max(total, axis=0)
    cut_key = tl.full([], 0xFFFFFFFF, tl.uint32)
    cut_index = tl.full([], N, tl.int32)
    rest = tl.full([], 0, tl.int32)
    if wanted > CAPACITY:
        cut_key, cut_index, rest = _find_cut(keys, tiles, N, BITS, CAPACITY, BLOCK)
        slots = tl.full([], 0, tl.int32)
        for start in range(0, CHUNKS, CHUNK):
            chunk = start + tl.arange(0, CHUNK)
            index = chunk[:, None] * CHUNK + tl.arange(0, CHUNK)[None, :]
            key = tl.load(keys + index, mask=index < N, other=0xFFFFFFFF)
            count = tl.load(tiles + index, mask=index < N, other=0)
            count = tl.sum(_kept(count, key, index, cut_key, cut_index, rest), axis=1)
            before = slots + tl.cumsum(count, axis=0) - count
            tl.store(bases + chunk, before, mask=chunk < CHUNKS)
            slots += tl.sum(count, axis=0)
    tl.store(cuts + 3 * frame, cut_key.to(tl.int32, bitcast=True))
    tl.store(cuts + 3 * frame + 1, cut_index)
    tl.store(cuts + 3 * frame + 2, rest)
    tl.store(totals + frame, tl.minimum(wanted, LIMIT).to(tl.int32))


@triton.jit
def _quarter_bits(left, upper, upper_end, lower, lower_end):
    """A bit per quarter of a tile whose left quarters stand in column `left`."""
    upper_left = (left >= upper) & (left <= upper_end)
    upper_right = (left >= upper - 1) & (left <= upper_end - 1)
    lower_left = (left >= lower) & (left <= lower_end)
    lower_right = (left >= lower - 1) & (left <= lower_end - 1)
    bits = upper_left.to(tl.int32) + upper_right.to(tl.int32) * 2
    return bits + lower_left.to(tl.int32) * 4 + lower_right.to(tl.int32) * 8


@triton.jit
def _count_quarters(n, left, first, last):
    """Quarters in columns first to last of n neighboring tiles that begin in column `left`."""
    return tl.maximum(tl.minimum(last, left + 2 * n - 1) - tl.maximum(first, left) + 1, 0)


@triton.jit
def _number_pairs(
    ellipses, own, exists, WIDTH: tl.constexpr, HEIGHT: tl.constexpr, ASM: tl.constexpr
):  # fmt: skip
    """Number the pairs of Gaussians with a tile row, in order.

    Returns:
      What is to be added to a pair for its tile row, the first pair and the one after the last.
    """
    x, y, xx, xy, yy, det, level = load_row(ellipses, own, 7, ELLIPSE, ASM)
    row, n_rows = _tile_rows(x, y, xx, xy, yy, det, level, WIDTH, HEIGHT)
    n_rows = tl.where(exists, n_rows, 0)
    past = tl.cumsum(n_rows, axis=0)
    return row - (past - n_rows), past - n_rows, past


@triton.jit
def _find_owners(past, pair):
    """Gaussian of each pair in a chunk of 32: the first that ends after it; the last if none does.

    Args:
      past: The pair after the last of each Gaussian.
      pair: Numbers of pairs.
    """
    owner = pair * 0
    for i in tl.static_range(5):
        is_before = tl.gather(past, owner + ((16 >> i) - 1), axis=0) <= pair
        owner += tl.where(is_before, 16 >> i, 0)
    return owner


@triton.jit
def _sum_before(sums, place):
    """Sum of the numbers before a place, from running sums of the numbers."""
    return tl.where(place > 0, tl.gather(sums, tl.maximum(place - 1, 0), axis=0), 0)


@triton.jit
def _append(free, numbers, owner, first, past):
    """Hand out neighboring numbers to the pairs of each Gaussian, in their order.

    Args:
      free: First number of each Gaussian that is free.
      numbers: How many each pair gets.
      owner: Gaussian of each pair.
      first: First pair of each Gaussian.
      past: The pair after its last.

    Returns:
      First number of each pair, and the first of each Gaussian that is free then.
    """
    sums = tl.cumsum(numbers, axis=0)
    free -= _sum_before(sums, first)
    return tl.gather(free, owner, axis=0) + sums - numbers, free + _sum_before(sums, past)


@triton.jit
def _emit_tiles(
    tile_counts, instances, slot, gradient_row,
    n, tile, owner, left, upper, upper_end, lower, lower_end, ASM: tl.constexpr,
):  # fmt: skip
    """Write the n neighboring tiles of each pair to slots.

    AT_ONCE at a time: it takes long until a place comes back.
    """
    widest = tl.max(n, axis=0)
    j = 0
    while j < widest:
        places = ()
        for u in tl.static_range(AT_ONCE):
            counter = tile_counts + (tile + u) * APART
            place = tl.atomic_add(counter, 1, mask=j + u < n, sem="relaxed")
            places = places + (place,)
        at = instances + slot.to(tl.int64) * INSTANCE
        for u in tl.static_range(AT_ONCE):
            fits = j + u < n
            bits = _quarter_bits(left + 2 * u, upper, upper_end, lower, lower_end)
            ptx.store4(
                at + u * INSTANCE, tile + u, places[u], owner + bits, gradient_row, fits, ASM
            )  # fmt: skip
            gradient_row += count_bits(bits)
        slot += AT_ONCE
        tile += AT_ONCE
        left += 2 * AT_ONCE
        j += AT_ONCE


@triton.jit
def emit_kernel(
    ellipses, keys, tiles, bases, cuts, tile_counts, instances, row_heads, row_counts, same_counts,
    N: tl.constexpr, CHUNKS: tl.constexpr, WIDTH: tl.constexpr, HEIGHT: tl.constexpr,
    COLUMNS: tl.constexpr, TILES: tl.constexpr, CAPACITY: tl.constexpr, CHUNK: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Write every instance to its slot: a program per chunk of Gaussians.

    In a turn each lane has a pair, a Gaussian and a row of tiles that it meets: few turns do them
    all, where the tallest Gaussian's rows one after the other would take many. The gradient rows of
    a Gaussian begin at four times its first slot and have no gaps.

    Args (pointers):
      ellipses, keys, tiles, bases, cuts: as above.
      tile_counts: [B, TILES, APART] int32, zero before, changed in place: first instances of each
        tile, then nothing.
      instances: [B, CAPACITY, INSTANCE] int32 out, by slot.
      row_heads, row_counts: [B, N] int32 out: first gradient row of each Gaussian, and how many.
      same_counts: the same as an output, not used: see `launch`.
    """
    chunk = tl.program_id(0) % CHUNKS
    frame = tl.program_id(0) // CHUNKS
    index = chunk * CHUNK + tl.arange(0, CHUNK)
    mask = index < N
    flat = frame * N + index
    count = tl.load(tiles + flat, mask=mask, other=0)
    key = tl.load(keys + flat, mask=mask, other=0xFFFFFFFF)
    cut_key = tl.load(cuts + 3 * frame).to(tl.uint32, bitcast=True)
    cut_index = tl.load(cuts + 3 * frame + 1)
    count = _kept(count, key, index, cut_key, cut_index, tl.load(cuts + 3 * frame + 2))
    slot = tl.load(bases + frame * CHUNKS + chunk) + tl.cumsum(count, axis=0) - count
    row_head = 4 * slot
    gradient_row = row_head
    slot += frame * CAPACITY
    end = slot + count

    own = frame * N + tl.minimum(index, N - 1)
    top, first, past = _number_pairs(ellipses, own, count > 0, WIDTH, HEIGHT, ASM)
    n_pairs = tl.max(past, axis=0)
    for start in range(0, n_pairs, PAIRS):
        pair = start + tl.arange(0, PAIRS)
        owner = _find_owners(past, pair)
        gaussian = tl.minimum(chunk * CHUNK + owner, N - 1)
        x, y, xx, xy, yy, det, level = load_row(ellipses, frame * N + gaussian, 7, ELLIPSE, ASM)
        row = tl.gather(top, owner, axis=0) + pair
        column, n = _tile_columns(row, x, y, xx, xy, yy, det, level, WIDTH, COLUMNS)
        upper, upper_end = _quarter_columns(
            2 * row, x, y, xx, xy, yy, det, level, WIDTH, HEIGHT
        )  # fmt: skip
        lower, lower_end = _quarter_columns(
            2 * row + 1, x, y, xx, xy, yy, det, level, WIDTH, HEIGHT
        )  # fmt: skip
        first_here = tl.minimum(tl.maximum(first - start, 0), PAIRS)
        past_here = tl.minimum(tl.maximum(past - start, 0), PAIRS)
        n = tl.where(pair < n_pairs, n, 0)
        slots, slot = _append(slot, n, owner, first_here, past_here)
        n = tl.minimum(n, tl.maximum(tl.gather(end, owner, axis=0) - slots, 0))
        left = 2 * column
        quarters = _count_quarters(n, left, upper, upper_end)
        quarters += _count_quarters(n, left, lower, lower_end)
        rows, gradient_row = _append(gradient_row, quarters, owner, first_here, past_here)
        _emit_tiles(
            tile_counts + frame * TILES * APART, instances, slots, rows, n, row * COLUMNS + column,
            gaussian * 16, left, upper, upper_end, lower, lower_end, ASM,
        )  # fmt: skip
    # Were fewer found than were counted, say because of rounding, nobody may take the slots left.
    while tl.max(end - slot, axis=0) > 0:
        at = instances + slot.to(tl.int64) * INSTANCE
        tl.store(at, slot * 0 - 1, mask=slot < end)
        slot += 1
    tl.store(row_heads + flat, row_head, mask=mask)
    tl.store(row_counts + flat, gradient_row - row_head, mask=mask)
