"""Triton kernel of `projection`: project every Gaussian into every frame.

One warp has a Gaussian per lane and walks over frames, so that what all frames share is loaded
once. For each array a flag (MEANS, QUATS, ...) is 0 if all frames share it, else 1. Mathematics and
notation: `projection_parts`.
"""

import triton
import triton.language as tl

from kernels.rasterize.triton.binning_kernels import ELLIPSE, count_tiles
from kernels.rasterize.triton.harmonics_kernels import basis_of, color_of
from kernels.rasterize.triton.projection_parts import (
    axes_of,
    compensated,
    direction_to,
    is_visible,
    keep,
    load_camera,
    load_gaussian,
    place,
    project,
    store_row,
)

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _depth_key(depth, visible):
    """Bits that sort as unsigned numbers in the order of depth; culled ones last."""
    bits = tl.where(depth == 0.0, 0.0, depth).to(tl.uint32, bitcast=True)
    bits = tl.where(depth < 0.0, bits ^ 0xFFFFFFFF, bits | 0x80000000)
    return tl.where(visible, bits, 0xFFFFFFFF)


@triton.jit
def _radius(a, b, c):
    """Three standard deviations along the longest axis, rounded up."""
    half_gap = 0.5 * (a - c)
    largest = 0.5 * (a + c) + tl.sqrt(half_gap * half_gap + b * b)
    return tl.ceil(3.0 * tl.sqrt(largest)).to(tl.int32)


@triton.jit
def _at_least_0(numbers):
    clamped = ()
    for i in tl.static_range(len(numbers)):
        clamped = clamped + (tl.maximum(numbers[i], 0.0),)
    return clamped


@triton.jit
def project_kernel(
    means, quats, scales, opacities, colors, offsets, alive, viewmats, Ks,
    splats, ellipses, keys, tiles, sums, radii,
    MEANS: tl.constexpr, QUATS: tl.constexpr, SCALES: tl.constexpr, OPACITIES: tl.constexpr,
    COLORS: tl.constexpr, OFFSETS: tl.constexpr, ALIVE: tl.constexpr, N: tl.constexpr,
    CHUNKS: tl.constexpr, FRAMES: tl.constexpr, CHANNELS: tl.constexpr, DEGREE: tl.constexpr,
    USED: tl.constexpr, LENGTH: tl.constexpr, STRIDE: tl.constexpr, WIDTH: tl.constexpr,
    HEIGHT: tl.constexpr, COLUMNS: tl.constexpr, NEAR: tl.constexpr, EPS: tl.constexpr,
    ALPHA_MIN: tl.constexpr, ANTIALIAS: tl.constexpr, LEVEL_MIN: tl.constexpr, BLOCK: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Project a chunk of Gaussians into FRAMES frames. Axis 0 of an input is B, or 1 by its flag.

    Args (pointers, float32 unless stated):
      means, quats, scales, opacities, offsets: [B, N, 3 | 4 | 3 | 1 | 2].
      colors: [B, N, LENGTH], of which the first USED are read.
      alive: [B, N] bool.
      viewmats, Ks: [B, 4, 4], [B, 3, 3].
      splats: [B, N + 1, STRIDE] out: x, y, p log2(e), s, q log2(e), log2(opacity), colors, depth,
        zeros; row N, like the row of a culled Gaussian, is zero with an opacity of zero.
      ellipses: [B, N, 8] out: x, y, a, b, c, det, level (-1: culled), depth.
      keys: [B, N] uint32 out: order of depth.
      tiles, radii: [B, N] int32 out: tiles it meets, three sigma [pixels].
      sums: [B, CHUNKS] int32 out: of `tiles`, by chunk of BLOCK Gaussians.
    """
    chunk = tl.program_id(0) % CHUNKS
    first = tl.program_id(0) // CHUNKS * FRAMES
    row = chunk * BLOCK + tl.arange(0, BLOCK)
    exists = row < N
    own = tl.minimum(row, N - 1)
    shared = load_gaussian(
        (0, 0, 0, 0, 0, 0, 0), means, quats, scales, opacities, colors, offsets, alive, own,
        1, 1, 1, 1, 1, 1, 1, USED, LENGTH, ASM,
    )  # fmt: skip
    for i in range(FRAMES):
        frame = first + i
        at = frame * N + own
        gaussian = load_gaussian(
            shared, means, quats, scales, opacities, colors, offsets, alive, at,
            MEANS, QUATS, SCALES, OPACITIES, COLORS, OFFSETS, ALIVE, USED, LENGTH, ASM,
        )  # fmt: skip
        mean, quat, scale, opacity, coefficients, offset, _ = gaussian
        camera = load_camera(viewmats, Ks, frame, ASM)
        color = coefficients
        if DEGREE >= 0:
            basis = basis_of(direction_to(mean, camera)[0], DEGREE)
            color = _at_least_0(color_of(basis, coefficients, CHANNELS))
        projected = project(mean, axes_of(quat, scale), camera, WIDTH, HEIGHT, EPS)
        center, covariance = projected[0], projected[7]
        if ANTIALIAS:
            opacity = compensated(opacity, projected)
        x, y = place(center, camera, offset)
        depth = center[3]
        visible = exists & is_visible(gaussian, x, y, depth, covariance, NEAR, ALPHA_MIN)
        if ANTIALIAS:
            visible = visible & (opacity >= ALPHA_MIN)
        key = _depth_key(depth, visible)
        x, y, depth = keep(visible, (x, y, depth))
        a = tl.where(visible, covariance[0], 1.0)
        b = tl.where(visible, covariance[1], 0.0)
        c = tl.where(visible, covariance[2], 1.0)
        det = tl.where(visible, covariance[3], 1.0)
        inverse = 1.0 / a
        p, q = keep(visible, (inverse * (0.5 * LOG2_E), a * (0.5 * LOG2_E) / det))
        log_opacity = tl.where(visible, tl.log2(opacity), float("-inf"))
        color = keep(visible, color)
        numbers = (x, y, p, b * inverse, q, log_opacity) + color + (depth,)
        store_row(splats, frame * (N + 1) + row, numbers, row <= N, STRIDE, ASM)
        level = tl.maximum(log_opacity * (2.0 * LN_2) - LEVEL_MIN, 0.0)
        level = tl.where(visible, level, -1.0)
        store_row(ellipses, at, (x, y, a, b, c, det, level, depth), exists, ELLIPSE, ASM)
        n_tiles = count_tiles(x, y, a, b, c, det, level, WIDTH, HEIGHT, COLUMNS)
        tl.store(keys + at, key, mask=exists)
        tl.store(tiles + at, n_tiles, mask=exists)
        tl.store(sums + frame * CHUNKS + chunk, tl.sum(tl.where(exists, n_tiles, 0), axis=0))
        tl.store(radii + at, tl.where(n_tiles > 0, _radius(a, b, c), 0), mask=exists)
