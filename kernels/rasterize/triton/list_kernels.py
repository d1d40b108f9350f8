"""Triton kernels of `binning` that make the lists: bounds, gather, sort, deal.

Conventions as in `binning_kernels`. The instances of a tile arrive in no order and are sorted by
depth and then by slot, so that no two are equal and the result is always the same. Tiles are cut
into runs of SIZE instances, each of them a program's work: where a face is, tiles have many times
as many as elsewhere, and a program that did all of one would be waited for.
"""

import triton
import triton.language as tl

from kernels.rasterize.triton import ptx
from kernels.rasterize.triton.binning_kernels import APART, INSTANCE, count_bits

BITS = tl.constexpr(21)  # of each of three counters of tiles in one number of 64
MASK = tl.constexpr(2**21 - 1)


@triton.jit
def _load_counts(tile_counts, tile, TILES: tl.constexpr):
    return tl.load(tile_counts + tile * APART, mask=tile < TILES, other=0)


@triton.jit
def _class(tile, count, most, TILES: tl.constexpr):
    """0 for the longest tiles of a frame, 3 for those of less than a quarter of the longest.

    And its counter's unit: none of class 3.
    """
    own = 3 - tl.minimum(4 * count // (most + 1), 3)
    unit = tl.where((own < 3) & (tile < TILES), tl.full([], 1, tl.int64) << (own * BITS), 0)
    return own, unit


@triton.jit
def _nth(counters, i):
    return (counters >> (i * BITS) & MASK).to(tl.int32)


@triton.jit
def _store_turns(
    turns, tile_counts, most, TILES: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The tiles of a frame by how long they are, in four classes."""
    total = tl.zeros([BLOCK], tl.int64)
    for start in range(0, TILES, BLOCK):
        tile = start + tl.arange(0, BLOCK)
        total += _class(tile, _load_counts(tile_counts, tile, TILES), most, TILES)[1]
    total = tl.sum(total, axis=0)
    first, second, third = _nth(total, 0), _nth(total, 1), _nth(total, 2)
    placed = tl.full([], 0, tl.int64)
    for start in range(0, TILES, BLOCK):
        tile = start + tl.arange(0, BLOCK)
        own, unit = _class(tile, _load_counts(tile_counts, tile, TILES), most, TILES)
        before = placed + tl.cumsum(unit, axis=0) - unit
        others = _nth(before, 0) + _nth(before, 1) + _nth(before, 2)
        place = tl.where(own < 3, _nth(before, own), tile - others)
        place += tl.where(own > 0, first, 0) + tl.where(own > 1, second, 0)
        place += tl.where(own > 2, third, 0)
        tl.store(turns + place, tile, mask=tile < TILES)
        placed += tl.sum(unit, axis=0)


@triton.jit
def bounds_kernel(
    tile_counts, bounds, runs, run_counts, turns,
    TILES: tl.constexpr, RUNS: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """First instance of each tile of a frame, their number, and the runs: a program per frame.

    And in which order to blend the tiles: of two processors one would wait for the other if each
    had as many lists, but of any length.

    Args (pointers):
      tile_counts: [B, TILES, APART] int32, the first of each.
      bounds: [B, TILES + 1] int32 out.
      runs: [B, RUNS, 2] int32 out: tile of each run, and its place among those of the tile. Every
        tile has at least one, so that somebody says how long its lists are.
      run_counts: [B] int32 out.
      turns: [B, TILES] int32 out: tiles, the longest first.
    """
    frame = tl.program_id(0)
    tile_counts += frame * TILES * APART
    bounds += frame * (TILES + 1)
    runs += frame * RUNS * 2
    total = tl.full([], 0, tl.int32)
    total_runs = tl.full([], 0, tl.int32)
    most = tl.full([], 0, tl.int32)
    for start in range(0, TILES, BLOCK):
        tile = start + tl.arange(0, BLOCK)
        count = _load_counts(tile_counts, tile, TILES)
        tl.store(bounds + tile, total + tl.cumsum(count, axis=0) - count, mask=tile < TILES)
        total += tl.sum(count, axis=0)
        most = tl.maximum(most, tl.max(count, axis=0))
        n_runs = tl.where(tile < TILES, tl.maximum((count + SIZE - 1) // SIZE, 1), 0)
        run = total_runs + tl.cumsum(n_runs, axis=0) - n_runs
        for place in range(0, tl.max(n_runs, axis=0)):
            _store_pair(runs, run + place, tile, tile * 0 + place, place < n_runs)
        total_runs += tl.sum(n_runs, axis=0)
    tl.store(bounds + TILES, total)
    tl.store(run_counts + frame, total_runs)
    _store_turns(turns + frame * TILES, tile_counts, most, TILES, BLOCK)


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
    tile, place, owner, _ = ptx.load4(at, ASM)
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
def _load_pair(entries, place, mask, other):
    """Two numbers side by side, in one load."""
    half = tl.arange(0, 2)[None, :]
    both = tl.load(
        entries + place[:, None] * 2 + half, mask=mask[:, None] & (half >= 0), other=other
    )  # fmt: skip
    return tl.split(both)


@triton.jit
def _load_order(entries, place, mask):
    """Depth, then slot, in one number: no two instances have the same; the largest past the end."""
    key, slot = _load_pair(entries, place, mask, -1)
    return (_unsigned(key) << 32) | _unsigned(slot)


@triton.jit
def _unsigned(bits):
    return bits.to(tl.uint32, bitcast=True).to(tl.uint64)


@triton.jit
def _find_run(runs, bounds, frame, run, RUNS: tl.constexpr, TILES: tl.constexpr):
    """Tile of a run, its place among those of the tile, the tile's first instance and length."""
    runs += (frame * RUNS + run) * 2
    tile = tl.load(runs)
    bounds += frame * (TILES + 1) + tile
    first = tl.load(bounds)
    return tile, tl.load(runs + 1), first, tl.load(bounds + 1) - first


@triton.jit
def sort_kernel(
    entries, bounds, runs, run_counts, orders, counts,
    TILES: tl.constexpr, CAPACITY: tl.constexpr, RUNS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Sort a run, and count for each of its entries those up to it that each quarter has.

    Args (pointers):
      entries, bounds, runs, run_counts: as above.
      orders: [B, CAPACITY, 2] int32 out: the entries, sorted run by run.
      counts: [B, CAPACITY, 2] int32 out: of the upper and the lower two quarters, 16 bits each.
    """
    frame = tl.program_id(0) // RUNS
    run = tl.program_id(0) % RUNS
    if run < tl.load(run_counts + frame):
        _, place, first, length = _find_run(runs, bounds, frame, run, RUNS, TILES)
        at = (frame * CAPACITY + first + place * SIZE).to(tl.int64) * 2
        entry = tl.arange(0, SIZE)
        mask = entry < length - place * SIZE
        order = tl.sort(_load_order(entries + at, entry, mask))
        _store_pair(orders + at, entry, (order >> 32).to(tl.int32), order.to(tl.int32), mask)
        upper, lower = _by_quarter(order.to(tl.int32))
        upper, lower = tl.cumsum(upper, axis=0), tl.cumsum(lower, axis=0)
        _store_pair(counts + at, entry, upper, lower, mask)


@triton.jit
def _by_quarter(bits):
    """The lowest four bits, one per quarter, as counters of 16 bits: two in each of two numbers."""
    upper = (bits & 1) + ((bits & 2) << 15)
    return upper, (bits >> 2 & 1) + ((bits & 8) << 13)


@triton.jit
def _add(listed, upper, lower):
    """Add counters to one number for each quarter."""
    return (
        listed[0] + (upper & 0xFFFF), listed[1] + (upper >> 16),
        listed[2] + (lower & 0xFFFF), listed[3] + (lower >> 16),
    )  # fmt: skip


@triton.jit
def _rank(run, length, order, SIZE: tl.constexpr):
    """Count how many of a sorted run come before each of `order`, by binary search."""
    rank = (order & 0).to(tl.int32)
    step = SIZE
    while step > 0:
        probe = rank + step - 1
        is_before = _load_order(run, probe, probe < length) < order
        rank = tl.where(is_before, probe + 1, rank)
        step //= 2
    return rank


@triton.jit
def deal_kernel(
    orders, counts, instances, bounds, runs, run_counts, ids, rows, lengths,
    N: tl.constexpr, TILES: tl.constexpr, CAPACITY: tl.constexpr, RUNS: tl.constexpr,
    SIZE: tl.constexpr,
):  # fmt: skip
    """Deal the entries of a run out to the lists of its tile's quarters.

    An entry's place in a list is the number of the list's entries before it, in its own run and in
    every other of the tile: no program waits for another one.

    Args (pointers):
      orders, counts, instances, bounds, runs, run_counts: as above.
      ids, rows: [B, 4 CAPACITY + 16 TILES] int32 out: Gaussian and gradient row of each entry.
      lengths: [B, 4 TILES] int32 out.
    """
    frame = tl.program_id(0) // RUNS
    run = tl.program_id(0) % RUNS
    if run < tl.load(run_counts + frame):
        tile, place, first, length = _find_run(runs, bounds, frame, run, RUNS, TILES)
        at = (frame * CAPACITY + first).to(tl.int64) * 2
        orders += at
        counts += at
        instances += (frame * CAPACITY).to(tl.int64) * INSTANCE
        at = frame * (4 * CAPACITY + 16 * TILES) + 4 * first + 16 * tile
        ids += at
        rows += at
        region = (length + 3) // 4 * 4
        n_runs = (length + SIZE - 1) // SIZE

        entry = place * SIZE + tl.arange(0, SIZE)
        mask = entry < length
        order = _load_order(orders, entry, mask)
        slot = (order.to(tl.int32) >> 4).to(tl.int64)
        owner = tl.load(instances + slot * INSTANCE + 2, mask=mask, other=0)
        row = tl.load(instances + slot * INSTANCE + 3, mask=mask, other=0)
        upper, lower = _load_pair(counts, entry, mask, 0)
        own = _by_quarter(owner)
        zero = entry * 0
        listed = _add((zero, zero, zero, zero), upper - own[0], lower - own[1])
        for step in range(1, n_runs):
            start = (place + step) % n_runs * SIZE
            rank = _rank(orders + 2 * start, tl.minimum(length - start, SIZE), order, SIZE)
            upper, lower = _load_pair(counts + 2 * start, rank - 1, mask & (rank > 0), 0)
            listed = _add(listed, upper, lower)
        for quarter in tl.static_range(4):
            at = quarter * region + listed[quarter]
            meets = mask & ((owner >> quarter & 1) != 0)
            earlier = count_bits(owner & ((1 << quarter) - 1))
            tl.store(ids + at, owner // 16, mask=meets)
            tl.store(rows + at, row + earlier, mask=meets)
        if place == 0:
            _finish_lists(
                lengths + (frame * TILES + tile) * 4, ids, rows, counts, length, region,
                N, CAPACITY, SIZE,
            )  # fmt: skip


@triton.jit
def _finish_lists(
    lengths, ids, rows, counts, length, region,
    N: tl.constexpr, CAPACITY: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Store how long the lists of the quarters are, and fill them up to multiples of four."""
    zero = length * 0
    listed = (zero, zero, zero, zero)
    for start in range(0, length, SIZE):
        last = tl.minimum(start + SIZE, length) - 1
        listed = _add(listed, tl.load(counts + 2 * last), tl.load(counts + 2 * last + 1))
    pad = tl.arange(0, 4)
    for quarter in tl.static_range(4):
        n = listed[quarter]
        tl.store(lengths + quarter, n)
        at = quarter * region + n + pad
        mask = n + pad < (n + 3) // 4 * 4
        tl.store(ids + at, pad * 0 + N, mask=mask)
        tl.store(rows + at, pad * 0 + 4 * CAPACITY, mask=mask)
