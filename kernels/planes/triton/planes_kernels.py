"""Triton kernels of `sample_planes`' reverse pass: sums of corner contributions in fixed point.

Integers add up to the same bits in any order, so atomics may come as they like. `planes.py` tells
what a unit is and why 63 bits suffice.

Conventions: P planes, L levels, N points, F features; a program of `scatter_kernel` has BLOCK
points of one level of one plane. It reads 8 bytes a point and 4 a feature, and adds 8 bytes at four
places for each. Neighboring programs have different levels, so that those which run together
seldom add to the same entry.
"""

import triton
import triton.language as tl

from kernels.planes import types

PRIME = tl.constexpr(types.HASH_PRIME)


@triton.jit
def _corner(points, mask, cells):
    """First vertex along an axis, and the weight of the next: the arithmetic of `xla/planes.py`."""
    scaled = tl.load(points, mask=mask, other=0.0) * cells.to(tl.float32)
    # Clipped as integers: a point that is not finite must not add outside the table.
    vertex = tl.minimum(tl.maximum(tl.floor(scaled).to(tl.int32), 0), cells - 1)
    return vertex, scaled - vertex.to(tl.float32)


@triton.jit
def _add(sums, x, y, values, up, up2, cells, hashed, MASK: tl.constexpr, FEATURES: tl.constexpr):
    """Add values [BLOCK, COLUMNS] at vertices (x, y) [BLOCK, 1]; what rounds to zero costs nothing.

    Gaussians that are dead or out of sight have no gradient, and all dead ones are at one place.
    """
    dense = y * (cells + 1) + x
    own = ((x.to(tl.uint32) ^ (y.to(tl.uint32) * PRIME)) & MASK).to(tl.int32)
    entry = tl.where(hashed != 0, own, dense)
    units = (values * up * up2).to(tl.int64)  # one by one: their product may exceed float32
    tl.atomic_add(sums + entry * FEATURES, units, mask=units != 0, sem="relaxed")


@triton.jit
def scatter_kernel(
    points, cotangents, layout, factors, sums,
    PLANES: tl.constexpr, LEVELS: tl.constexpr, N: tl.constexpr, FEATURES: tl.constexpr,
    ENTRIES: tl.constexpr, MASK: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Add what every point contributes to the four entries around it.

    Args (pointers):
      points: [2, P, N] float32 in [0, 1].
      cotangents: [P, L, N, F] float32.
      layout: [L, 3] int32: cells along an axis, first entry, whether hashed.
      factors: [4] float32: the first two turn a contribution into units.
      sums: [P, ENTRIES, F] int64 out, as pairs of int32; zero before.
    """
    places: tl.constexpr = PLANES * LEVELS
    place = tl.program_id(0) % places
    plane = place // LEVELS
    level = layout + 3 * (place % LEVELS)
    cells, start, hashed = tl.load(level), tl.load(level + 1), tl.load(level + 2)
    point = (tl.program_id(0) // places * BLOCK + tl.arange(0, BLOCK))[:, None]
    feature = tl.arange(0, COLUMNS)[None, :]
    x, wx = _corner(points + plane * N + point, point < N, cells)
    y, wy = _corner(points + (PLANES + plane) * N + point, point < N, cells)
    within = (point < N) & (feature < FEATURES)
    at = cotangents + (place * N + point) * FEATURES + feature
    values = tl.load(at, mask=within, other=0.0)
    low, high = values * (1 - wy), values * wy
    up, up2 = tl.load(factors), tl.load(factors + 1)
    sums = sums.to(tl.pointer_type(tl.int64)) + (plane * ENTRIES + start) * FEATURES + feature
    _add(sums, x, y, low * (1 - wx), up, up2, cells, hashed, MASK, FEATURES)
    _add(sums, x + 1, y, low * wx, up, up2, cells, hashed, MASK, FEATURES)
    _add(sums, x, y + 1, high * (1 - wx), up, up2, cells, hashed, MASK, FEATURES)
    _add(sums, x + 1, y + 1, high * wx, up, up2, cells, hashed, MASK, FEATURES)


@triton.jit
def finish_kernel(sums, factors, gradients, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Turn units back into numbers; a program has BLOCK of them.

    Args (pointers):
      sums: [SIZE] int64, as pairs of int32.
      factors: [4] float32: the last two turn units into a gradient, or into NaN.
      gradients: [SIZE] float32 out.
    """
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    units = tl.load(sums.to(tl.pointer_type(tl.int64)) + place, mask=place < SIZE, other=0)
    values = units.to(tl.float32) * tl.load(factors + 2) * tl.load(factors + 3)
    tl.store(gradients + place, values, mask=place < SIZE)
