"""Triton kernel of `move_by_codes`: patterns times codes, added to Gaussians and activated.

A program has either the geometry of a block of Gaussians or COLUMNS numbers of their colors, in
some frames. Counts come with a Gaussian a column, as they lie in memory, attributes go with a
Gaussian a row; between the two a block is turned. Colors are most of what is written: no mask may
split their columns, or they would be written number by number.

Every program of colors computes the codes of the shine again, which is less work than a launch is.
"""

import triton
import triton.language as tl

from kernels.codes.types import FORM as FORM_NUMBERS

COLUMNS = tl.constexpr(16)
FORM = tl.constexpr(FORM_NUMBERS)
GEOMETRY = tl.constexpr(FORM_NUMBERS - 3)  # of the form, before the constant color
FLOAT = tl.constexpr(tl.pointer_type(tl.float32))


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
def _form_sums(
    counts, steps, codes, number, row, exists, first,
    N: tl.constexpr, FRAMES: tl.constexpr, CODES: tl.constexpr, AT_ONCE: tl.constexpr,
    UNROLL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """By how much some numbers of the form change, by number and Gaussian, in AT_ONCE frames."""
    sums = ()
    for _ in tl.static_range(AT_ONCE):
        sums = sums + (tl.zeros([number.shape[0], row.shape[0]], tl.float32),)
    for k in tl.range(0, CODES, loop_unroll_factor=UNROLL):
        count = _load_counts(counts, k, number, row, exists, FORM, N, ASM)
        step = _load_steps(steps, k, number, FORM)
        more = ()
        for i in tl.static_range(AT_ONCE):
            share = tl.load(codes + _frame(first, i, FRAMES) * CODES + k) * step
            more = more + (sums[i] + share[:, None] * count,)
        sums = more
    return sums


@triton.jit
def _frame(first, i, FRAMES: tl.constexpr):
    """Frame i of a program; beyond the last it is the last one again, to the same bits."""
    return tl.minimum(first + i, FRAMES - 1)


@triton.jit
def _places(means, log_scales, quats, logit_opacities, row, number):
    """Addresses of the geometry of rows, whose numbers lie in four arrays."""
    first = tl.where(number < 3, means.to(tl.int64), log_scales.to(tl.int64) - 12)
    first = tl.where(number < 6, first, quats.to(tl.int64) - 24)
    first = tl.where(number < 10, first, logit_opacities.to(tl.int64) - 40) + 4 * number
    length = tl.where(number < 6, 3, tl.where(number < 10, 4, 1))
    # Numbers of an array are fewer than 2^31.
    place = first[None, :] + (row[:, None] * length[None, :]).to(tl.int64) * 4
    return place.to(FLOAT)


@triton.jit
def _activated(x, number):
    """Scales and opacities of what they are before."""
    is_opacity = (number == 10)[None, :]
    is_scale = ((number >= 3) & (number < 6))[None, :]
    exponential = tl.exp(tl.where(is_opacity, -x, x))
    return tl.where(is_opacity, 1.0 / (1.0 + exponential), tl.where(is_scale, exponential, x))


@triton.jit
def _geometry(
    means, log_scales, quats, logit_opacities, counts, steps, codes,
    out_means, out_quats, out_scales, out_opacities, row, exists, first,
    N: tl.constexpr, FRAMES: tl.constexpr, CODES: tl.constexpr, AT_ONCE: tl.constexpr,
    UNROLL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Move and activate the geometry of a block of Gaussians."""
    number = tl.arange(0, COLUMNS)
    is_own = exists[:, None] & (number < GEOMETRY)[None, :]
    place = _places(means, log_scales, quats, logit_opacities, row, number)
    canonical = tl.load(place, mask=is_own, other=0.0)
    sums = _form_sums(
        counts, steps, codes, number, row, exists, first, N, FRAMES, CODES, AT_ONCE, UNROLL, ASM
    )
    for i in tl.static_range(AT_ONCE):
        at = _frame(first, i, FRAMES) * N + row
        place = _places(out_means, out_scales, out_quats, out_opacities, at, number)
        tl.store(place, _activated(canonical + tl.trans(sums[i]), number), mask=is_own)


@triton.jit
def _first_columns(x):
    """Four numbers of Gaussians, [4, ROWS], as the first of COLUMNS, [ROWS, COLUMNS]; else 0."""
    groups: tl.constexpr = COLUMNS // 4
    is_first = (tl.arange(0, groups) == 0)[None, :, None]
    wide = tl.where(is_first, tl.trans(x)[:, None, :], 0.0)
    return tl.reshape(wide, [x.shape[1], COLUMNS])


@triton.jit
def _load_by_code(values, STRIDE: tl.constexpr, CODES: tl.constexpr, WIDTH: tl.constexpr):
    """A number for every code of the form; 0 where there is none."""
    code = tl.arange(0, WIDTH)
    return tl.load(values + code * STRIDE, mask=code < CODES, other=0.0)


@triton.jit
def _color(
    sh, form_counts, form_steps, counts, steps, follows, codes, out_sh, row, exists,
    column, first,
    N: tl.constexpr, FRAMES: tl.constexpr, CODES: tl.constexpr, WIDTH: tl.constexpr,
    SHINE: tl.constexpr, COLORS: tl.constexpr, BLOCKS: tl.constexpr, IS_FIRST: tl.constexpr,
    AT_ONCE: tl.constexpr, UNROLL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Move COLUMNS numbers of the colors; the first three are of the form, the others shine."""
    is_own = exists[:, None]
    if COLUMNS * BLOCKS != COLORS:
        is_own = is_own & (column < COLORS)[None, :]
    place = row[:, None] * COLORS + column[None, :]
    canonical = tl.load(sh + place, mask=is_own, other=0.0)
    number = column - 3
    parts, steps_of = (), ()
    for k in tl.static_range(SHINE):
        parts = parts + (_load_counts(counts, k, number, row, exists, COLORS - 3, N, ASM),)
        steps_of = steps_of + (_load_steps(steps, k, number, COLORS - 3),)
    if IS_FIRST:
        constant = tl.arange(0, 4) + GEOMETRY
        sums = _form_sums(
            form_counts, form_steps, codes, constant, row, exists, first,
            N, FRAMES, CODES, AT_ONCE, UNROLL, ASM,
        )  # fmt: skip
    # Asked for after the counts: earlier they would take the room of a program at once.
    follows_of = ()
    for k in tl.static_range(SHINE):
        follows_of = follows_of + (_load_by_code(follows + k, SHINE, CODES, WIDTH),)
    for i in tl.static_range(AT_ONCE):
        frame = _frame(first, i, FRAMES)
        own = _load_by_code(codes + frame * CODES, 1, CODES, WIDTH)
        change = tl.zeros([COLUMNS, row.shape[0]], tl.float32)
        for k in tl.static_range(SHINE):
            # A sum of this frame alone, in the same order in every program.
            share = tl.sum(own * follows_of[k]) * steps_of[k]
            change += share[:, None] * parts[k]
        x = canonical + tl.trans(change)
        if IS_FIRST:
            x += _first_columns(sums[i])
        tl.store(out_sh + frame * N * COLORS + place, x, mask=is_own)


@triton.jit
def codes_kernel(
    means, log_scales, quats, logit_opacities, sh, form_counts, form_steps, shine_counts,
    shine_steps, follows, codes, out_means, out_quats, out_scales, out_opacities, out_sh,
    N: tl.constexpr, FRAMES: tl.constexpr, CODES: tl.constexpr, WIDTH: tl.constexpr,
    SHINE: tl.constexpr, COLORS: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr,
    AT_ONCE: tl.constexpr, UNROLL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Move ROWS Gaussians in AT_ONCE frames: of 1 + BLOCKS programs one has their geometry.

    Programs of the same Gaussians in other frames are neighbors: counts come from memory once.

    Args (pointers, float32 unless stated):
      means, log_scales, quats, logit_opacities, sh: [N, 3 | 3 | 4 | 1 | COLORS], canonical.
      form_counts, form_steps: [CODES, 14, N] int8, [CODES, 14].
      shine_counts, shine_steps: [SHINE, COLORS - 3, N] int8, [SHINE, COLORS - 3].
      follows, codes: [CODES, SHINE], [FRAMES, CODES].
      out_means, out_quats, out_scales, out_opacities, out_sh: [FRAMES, N, 3 | 4 | 3 | 1 | COLORS].

    WIDTH is CODES, rounded up to a power of two.
    """
    TURNS: tl.constexpr = (FRAMES + AT_ONCE - 1) // AT_ONCE
    first = tl.program_id(0) % TURNS * AT_ONCE
    block = tl.program_id(0) // TURNS % (1 + BLOCKS)
    row = tl.program_id(0) // (TURNS * (1 + BLOCKS)) * ROWS + tl.arange(0, ROWS)
    exists = row < N
    if block == 0:
        _geometry(
            means, log_scales, quats, logit_opacities, form_counts, form_steps, codes,
            out_means, out_quats, out_scales, out_opacities, row, exists, first,
            N, FRAMES, CODES, AT_ONCE, UNROLL, ASM,
        )  # fmt: skip
    elif block == 1:
        _color(
            sh, form_counts, form_steps, shine_counts, shine_steps, follows, codes, out_sh,
            row, exists,
            tl.arange(0, COLUMNS), first,
            N, FRAMES, CODES, WIDTH, SHINE, COLORS, BLOCKS, True, AT_ONCE, UNROLL, ASM,
        )  # fmt: skip
    else:
        _color(
            sh, form_counts, form_steps, shine_counts, shine_steps, follows, codes, out_sh,
            row, exists,
            (block - 1) * COLUMNS + tl.arange(0, COLUMNS), first,
            N, FRAMES, CODES, WIDTH, SHINE, COLORS, BLOCKS, False, AT_ONCE, UNROLL, ASM,
        )  # fmt: skip
