"""Triton kernel of `move_by_codes`: patterns times codes, added to Gaussians and activated.

A program has either the form of a block of Gaussians or COLUMNS numbers of their colors, for all
frames. Counts come with a Gaussian a column, as they lie in memory, attributes go with a Gaussian a
row; between the two a block is turned.
"""

import triton
import triton.language as tl

from kernels.codes.types import FORM as FORM_NUMBERS
from kernels.deform.triton.attribute_kernels import (
    load_geometry,
    load_some,
    store_geometry,
    store_some,
)

COLUMNS = tl.constexpr(16)
FORM = tl.constexpr(FORM_NUMBERS)
COLOR = tl.constexpr(FORM_NUMBERS - 3)  # place of the constant color


@triton.jit
def numbers_of(counts, ASM: tl.constexpr):
    """Counts of 8 bits as floating-point numbers.

    With ASM four at a time, by three instructions each that a multiprocessor does fast: the byte,
    plus 128, becomes the last one of 2^23, and 2^23 + 128 is taken away. The instruction that
    converts is eight times as slow.
    """
    if ASM:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 bytes, high;
            xor.b32 bytes, $4, 0x80808080;
            mov.b32 high, 0x4B000000;
            prmt.b32 $0, bytes, high, 0x7440;
            prmt.b32 $1, bytes, high, 0x7441;
            prmt.b32 $2, bytes, high, 0x7442;
            prmt.b32 $3, bytes, high, 0x7443;
            add.f32 $0, $0, 0fCB000080;
            add.f32 $1, $1, 0fCB000080;
            add.f32 $2, $2, 0fCB000080;
            add.f32 $3, $3, 0fCB000080;
            }""",
            "=&f,=&f,=&f,=&f,r", (counts,), tl.float32, True, 4,
        )  # fmt: skip
    else:
        return counts.to(tl.float32)


@triton.jit
def _load_counts(counts, pattern, number, row, exists, NUMBERS: tl.constexpr, N: tl.constexpr,
                 ASM: tl.constexpr):  # fmt: skip
    """Some numbers of a pattern by number and Gaussian; 0 where there is none."""
    own = (number >= 0) & (number < NUMBERS)
    place = (number + pattern * NUMBERS)[:, None] * N + row[None, :]
    return numbers_of(
        tl.load(counts + place, mask=own[:, None] & exists[None, :], other=0), ASM
    )  # fmt: skip


@triton.jit
def _load_steps(steps, pattern, number, NUMBERS: tl.constexpr):
    own = (number >= 0) & (number < NUMBERS)
    return tl.load(steps + (number + pattern * NUMBERS), mask=own, other=0.0)


@triton.jit
def _form(
    means, log_scales, quats, logit_opacities, sh, counts, steps, codes,
    out_means, out_quats, out_scales, out_opacities, out_sh, row, exists,
    N: tl.constexpr, FRAMES: tl.constexpr, CODES: tl.constexpr, COLORS: tl.constexpr,
    ROWS: tl.constexpr, AT_ONCE: tl.constexpr, TURNS: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Move the form of a block of Gaussians, AT_ONCE frames at a time."""
    number = tl.arange(0, COLUMNS)
    canonical = load_geometry(means, log_scales, quats, logit_opacities, row, exists, number)
    canonical += load_some(sh, row, exists, number, COLOR, 3, COLORS)
    for turn in range(TURNS):
        sums = ()
        for _ in tl.static_range(AT_ONCE):
            sums = sums + (tl.zeros([COLUMNS, ROWS], tl.float32),)
        for k in tl.range(0, CODES, loop_unroll_factor=4):
            count = _load_counts(counts, k, number, row, exists, FORM, N, ASM)
            step = _load_steps(steps, k, number, FORM)
            more = ()
            for i in tl.static_range(AT_ONCE):
                frame = tl.minimum(turn * AT_ONCE + i, FRAMES - 1)
                share = tl.load(codes + frame * CODES + k) * step
                more = more + (sums[i] + share[:, None] * count,)
            sums = more
        for i in tl.static_range(AT_ONCE):
            # A turn with too few frames does the last one again, to the same bits.
            at = tl.minimum(turn * AT_ONCE + i, FRAMES - 1) * N + row
            x = canonical + tl.trans(sums[i])
            store_geometry(x, out_means, out_quats, out_scales, out_opacities, at, exists, number)
            store_some(out_sh, x, at, exists, number, COLOR, 3, COLORS)


@triton.jit
def _shine(
    sh, counts, steps, codes, out_sh, row, exists, column,
    N: tl.constexpr, FRAMES: tl.constexpr, CODES: tl.constexpr, SHINE: tl.constexpr,
    COLORS: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Move some columns of the colors of a block of Gaussians, without the constant color."""
    is_own = exists[:, None] & ((column >= 3) & (column < COLORS))[None, :]
    place = row[:, None] * COLORS + column[None, :]
    canonical = tl.load(sh + place, mask=is_own, other=0.0)
    number = column - 3
    parts, steps_of = (), ()
    for k in tl.static_range(SHINE):
        part = _load_counts(counts, k, number, row, exists, COLORS - 3, N, ASM)
        parts = parts + (tl.trans(part),)
        steps_of = steps_of + (_load_steps(steps, k, number, COLORS - 3),)
    for frame in range(FRAMES):
        change = tl.zeros(canonical.shape, tl.float32)
        for k in tl.static_range(SHINE):
            share = tl.load(codes + frame * CODES + k) * steps_of[k]
            change += share[None, :] * parts[k]
        tl.store(out_sh + frame * N * COLORS + place, canonical + change, mask=is_own)


@triton.jit
def codes_kernel(
    means, log_scales, quats, logit_opacities, sh, form_counts, form_steps, shine_counts,
    shine_steps, codes, out_means, out_quats, out_scales, out_opacities, out_sh,
    N: tl.constexpr, FRAMES: tl.constexpr, CODES: tl.constexpr, SHINE: tl.constexpr,
    COLORS: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr, AT_ONCE: tl.constexpr,
    TURNS: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Move ROWS Gaussians in all frames: of 1 + BLOCKS programs one has their form.

    Args (pointers, float32 unless stated):
      means, log_scales, quats, logit_opacities, sh: [N, 3 | 3 | 4 | 1 | COLORS], canonical.
      form_counts, form_steps: [CODES, 14, N] int8, [CODES, 14].
      shine_counts, shine_steps: [SHINE, COLORS - 3, N] int8, [SHINE, COLORS - 3].
      codes: [FRAMES, CODES].
      out_means, out_quats, out_scales, out_opacities, out_sh: [FRAMES, N, 3 | 4 | 3 | 1 | COLORS].
    """
    row = tl.program_id(0) // (1 + BLOCKS) * ROWS + tl.arange(0, ROWS)
    exists = row < N
    block = tl.program_id(0) % (1 + BLOCKS)
    if block == 0:
        _form(
            means, log_scales, quats, logit_opacities, sh, form_counts, form_steps, codes,
            out_means, out_quats, out_scales, out_opacities, out_sh, row, exists,
            N, FRAMES, CODES, COLORS, ROWS, AT_ONCE, TURNS, ASM,
        )  # fmt: skip
    else:
        column = (block - 1) * COLUMNS + tl.arange(0, COLUMNS)
        _shine(
            sh, shine_counts, shine_steps, codes, out_sh, row, exists, column,
            N, FRAMES, CODES, SHINE, COLORS, ASM,
        )  # fmt: skip
