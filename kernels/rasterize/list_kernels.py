"""Triton kernels of `binning_triton` that make the lists: bounds, gather, sort.

Conventions as in `binning_kernels`. The instances of a tile arrive in no order; one program sorts
them all, by depth and then by slot, so that no two are equal and the result is always the same.
"""

import triton
import triton.language as tl

from kernels.rasterize import asm
from kernels.rasterize.binning_kernels import INSTANCE, count_bits


@triton.jit
def bounds_kernel(tile_counts, bounds, TILES: tl.constexpr, BLOCK: tl.constexpr):
    """First instance of each tile of a frame, and their number: a program per frame.

    Args (pointers):
      tile_counts: [B, TILES] int32.
      bounds: [B, TILES + 1] int32 out.
    """
    frame = tl.program_id(0)
    bounds += frame * (TILES + 1)
    total = tl.full([], 0, tl.int32)
    for start in range(0, TILES, BLOCK):
        tile = start + tl.arange(0, BLOCK)
        count = tl.load(tile_counts + frame * TILES + tile, mask=tile < TILES, other=0)
        tl.store(bounds + tile, total + tl.cumsum(count, axis=0) - count, mask=tile < TILES)
        total += tl.sum(count, axis=0)
    tl.store(bounds + TILES, total)


@triton.jit
def gather_kernel(
    instances, keys, bounds, totals, entries,
    N: tl.constexpr, TILES: tl.constexpr, CAPACITY: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Bring the instances of each tile together: a program per block of slots.

    Args (pointers):
      instances, keys, bounds, totals: from `binning_kernels` and above.
      entries: [B, CAPACITY, 2] int32 out, tile by tile: order of depth of each instance (bits of
        the key), and 16 times its slot, plus the bits of its quarters.
    """
    frame = tl.program_id(0) // BLOCKS
    slot = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    bounds += frame * (TILES + 1)
    mask = slot < tl.minimum(tl.load(totals + frame), CAPACITY)
    # Slots past the last used one hold anything: their numbers may be loaded, not used.
    at = instances + (frame * CAPACITY + tl.minimum(slot, CAPACITY - 1)).to(tl.int64) * INSTANCE
    tile, place, owner, _ = asm.load4(at, ASM)
    mask = mask & (tile >= 0)
    tile = tl.where(mask, tile, 0)
    owner = tl.where(mask, owner, 0)
    key = tl.load(keys + frame * N + owner // 16, mask=mask, other=0).to(tl.int32, bitcast=True)
    place += frame * CAPACITY + tl.load(bounds + tile, mask=mask, other=0)
    _store_pair(entries, place, key, slot * 16 + (owner & 15), mask)


@triton.jit
def _store_pair(entries, place, first, second, mask):
    """Two numbers side by side, so that both go in one store."""
    half = tl.arange(0, 2)[None, :]
    at = entries + place[:, None] * 2 + half
    tl.store(at, tl.join(first, second), mask=mask[:, None] & (half >= 0))


@triton.jit
def _load_order(entries, place, mask):
    """Depth, then slot, in one number: no two instances have the same; the largest past the end."""
    half = tl.arange(0, 2)[None, :]
    both = tl.load(
        entries + place[:, None] * 2 + half, mask=mask[:, None] & (half >= 0), other=-1
    )  # fmt: skip
    key, slot = tl.split(both)
    return (_unsigned(key) << 32) | _unsigned(slot)


@triton.jit
def _unsigned(bits):
    return bits.to(tl.uint32, bitcast=True).to(tl.uint64)


@triton.jit
def _store_order(entries, place, order, mask):
    """Inverse of `_load_order`."""
    _store_pair(entries, place, (order >> 32).to(tl.int32), order.to(tl.int32), mask)


@triton.jit
def _deal(
    order, mask, listed, instances, ids, rows, region,
):  # fmt: skip
    """Deal sorted instances out to the lists of the quarters, which hold `listed` entries each."""
    slot = (order.to(tl.int32) >> 4).to(tl.int64)
    owner = tl.load(instances + slot * INSTANCE + 2, mask=mask, other=0)
    row = tl.load(instances + slot * INSTANCE + 3, mask=mask, other=0)
    now = ()
    for half in tl.static_range(2):
        # Two counters of 16 bits in one number.
        bits = owner >> (2 * half)
        one = (bits & 1) + ((bits & 2) << 15)
        before = tl.cumsum(one, axis=0) - one
        in_all = tl.sum(one, axis=0)
        for side in tl.static_range(2):
            n = listed[2 * half + side]
            at = (2 * half + side) * region + n + (before >> (16 * side) & 0xFFFF)
            meets = (bits & (1 << side)) != 0
            earlier = count_bits(owner & ((1 << (2 * half + side)) - 1))
            tl.store(ids + at, owner // 16, mask=meets)
            tl.store(rows + at, row + earlier, mask=meets)
            now = now + (n + (in_all >> (16 * side) & 0xFFFF),)
    return now


@triton.jit
def _finish_lists(
    lengths, ids, rows, listed, region, N: tl.constexpr, CAPACITY: tl.constexpr
):  # fmt: skip
    """Store how long the lists of the quarters are, and fill them up to multiples of four."""
    pad = tl.arange(0, 4)
    for quarter in tl.static_range(4):
        n = listed[quarter]
        tl.store(lengths + quarter, n)
        at = quarter * region + n + pad
        mask = n + pad < (n + 3) // 4 * 4
        tl.store(ids + at, pad * 0 + N, mask=mask)
        tl.store(rows + at, pad * 0 + 4 * CAPACITY, mask=mask)


@triton.jit
def _rank(run, length, order):
    """How many of a sorted run come before each of `order`, by binary search."""
    low = (order & 0).to(tl.int32)
    high = low + length
    while tl.max(high - low, axis=0) > 0:
        middle = (low + high) // 2
        is_before = _load_order(run, middle, low < high) < order
        low, high = (
            tl.where((low < high) & is_before, middle + 1, low),
            tl.where((low < high) & ~is_before, middle, high),
        )
    return low


@triton.jit
def _merge_runs(source, target, length, SIZE: tl.constexpr):
    """Merge neighbouring runs of SIZE, two by two, until there is one; returns where it is."""
    width = SIZE
    while width < length:
        first = 0
        while first < length:
            place = first + tl.arange(0, SIZE)
            order = _load_order(source, place, place < length)
            run = first // width
            partner = (run ^ 1) * width
            n = tl.maximum(tl.minimum(length - partner, width), 0)
            rank = _rank(source + 2 * partner, n, order)
            at = run // 2 * 2 * width + place - run * width + rank
            _store_order(target, at, order, place < length)
            first += SIZE
        tl.debug_barrier()
        source, target = target, source
        width *= 2
    return source


@triton.jit
def sort_kernel(
    entries, instances, bounds, ids, rows, lengths, runs, merged,
    N: tl.constexpr, TILES: tl.constexpr, CAPACITY: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Make the lists of a tile's quarters: a program per tile.

    At most SIZE instances are sorted at once; more in runs of SIZE, which are then merged.

    Args (pointers):
      entries, instances, bounds: as above.
      ids, rows: [B, 4 CAPACITY + 16 TILES] int32 out: Gaussian and gradient row of each entry.
      lengths: [B, 4 TILES] int32 out.
      runs, merged: [B, CAPACITY, 2] int32, room to work in.
    """
    frame = tl.program_id(0) // TILES
    tile = tl.program_id(0) % TILES
    start = tl.load(bounds + frame * (TILES + 1) + tile)
    length = tl.load(bounds + frame * (TILES + 1) + tile + 1) - start
    region = (length + 3) // 4 * 4
    at = frame * (4 * CAPACITY + 16 * TILES) + 4 * start + 16 * tile
    ids += at
    rows += at
    lengths += tl.program_id(0) * 4
    at = (frame * CAPACITY + start) * 2
    entries += at
    instances += (frame * CAPACITY).to(tl.int64) * INSTANCE
    zero = length * 0
    listed = (zero, zero, zero, zero)
    first = 0
    while first < length:
        place = first + tl.arange(0, SIZE)
        order = tl.sort(_load_order(entries, place, place < length))
        if length <= SIZE:
            listed = _deal(order, place < length, listed, instances, ids, rows, region)
        else:
            _store_order(runs + at, place, order, place < length)
        first += SIZE
    if length > SIZE:
        tl.debug_barrier()
        ordered = _merge_runs(runs + at, merged + at, length, SIZE)
        first = 0
        while first < length:
            place = first + tl.arange(0, SIZE)
            order = _load_order(ordered, place, place < length)
            listed = _deal(order, place < length, listed, instances, ids, rows, region)
            first += SIZE
    _finish_lists(lengths, ids, rows, listed, region, N, CAPACITY)
