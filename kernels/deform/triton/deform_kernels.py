"""Triton kernel of `deform`: all that happens to Gaussians between inputs and attributes.

A row is a Gaussian in a frame. Operands of products are rounded to bfloat16, sums and all else are
float32. Hidden units come UNITS at a time: their values never leave the registers, only their
weights pass through shared memory, once for all rows of a program.
"""

import triton
import triton.language as tl

from kernels.deform.triton.layer_kernels import dot, expand, normalize, operand, two_layers
from kernels.deform.types import GEOMETRY as GEOMETRY_COLUMNS

GEOMETRY = tl.constexpr(GEOMETRY_COLUMNS)


@triton.jit
def _rows(
    N: tl.constexpr, FRAMES: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """The frame, the Gaussians and which of them exist; every call computes them anew.

    Otherwise all that depends on them is computed first and takes registers in every loop.
    """
    program = tl.program_id(0)
    if ASM:
        program = tl.inline_asm_elementwise(
            "mov.b32 $0, $1;", "=r,r", (program,), tl.int32, False, 1
        )
    program = program // PARTS
    row = program // FRAMES * ROWS + tl.arange(0, ROWS)
    return program % FRAMES, row, row < N


@triton.jit
def _attend(
    static_mix, dynamic_mix, tokens, row, exists, frame, feature,
    GAIN: tl.constexpr, AGENTS: tl.constexpr, TOKENS: tl.constexpr, D: tl.constexpr,
    ROWS: tl.constexpr, AGENT_BLOCK: tl.constexpr, TOKEN_BLOCK: tl.constexpr,
    STAGES: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """GAIN (P G) S."""
    token = tl.arange(0, TOKEN_BLOCK)
    is_token = token < TOKENS
    shares = tl.zeros([ROWS, TOKEN_BLOCK], tl.float32)
    for first in tl.range(0, AGENTS, AGENT_BLOCK, num_stages=STAGES):
        agent = first + tl.arange(0, AGENT_BLOCK)
        is_agent = agent < AGENTS
        static = tl.load(
            static_mix + row[:, None] * AGENTS + agent[None, :],
            mask=exists[:, None] & is_agent[None, :], other=0.0,
        )  # fmt: skip
        dynamic = tl.load(
            dynamic_mix + (frame * AGENTS + agent)[:, None] * TOKENS + token[None, :],
            mask=is_agent[:, None] & is_token[None, :], other=0.0,
        )  # fmt: skip
        shares = dot(operand(static, ASM), dynamic, shares, ASM)
    values = tl.load(
        tokens + (frame * TOKENS + token)[:, None] * D + feature[None, :],
        mask=is_token[:, None], other=0.0,
    )  # fmt: skip
    nothing = tl.zeros([ROWS, D], tl.float32)
    return dot(operand(shares, ASM), values * GAIN, nothing, ASM)


@triton.jit
def _load_some(pointer, row, exists, column, FIRST: tl.constexpr, SIZE: tl.constexpr):
    """An array [N, SIZE] as the columns from FIRST on of a block of rows, 0 elsewhere."""
    own = (column >= FIRST) & (column < FIRST + SIZE)
    place = row[:, None] * SIZE + (column - FIRST)[None, :]
    return tl.load(pointer + place, mask=exists[:, None] & own[None, :], other=0.0)


@triton.jit
def _store_some(pointer, values, row, exists, column, FIRST: tl.constexpr, SIZE: tl.constexpr):
    own = (column >= FIRST) & (column < FIRST + SIZE)
    place = row[:, None] * SIZE + (column - FIRST)[None, :]
    tl.store(pointer + place, values, mask=exists[:, None] & own[None, :])


@triton.jit
def _load_geometry(means, log_scales, quats, logit_opacities, row, exists, column):
    """Canonical attributes as the columns of `types.DeformWeights.geometry`."""
    x = _load_some(means, row, exists, column, 0, 3)
    x += _load_some(log_scales, row, exists, column, 3, 3)
    x += _load_some(quats, row, exists, column, 6, 4)
    return x + _load_some(logit_opacities, row, exists, column, 10, 1)


@triton.jit
def _store_geometry(x, out_means, out_quats, out_scales, out_opacities, at, exists, column):
    """Activate and store."""
    exponential = tl.exp(tl.where(column == 10, -1.0, 1.0)[None, :] * x)
    _store_some(out_means, x, at, exists, column, 0, 3)
    _store_some(out_scales, exponential, at, exists, column, 3, 3)
    _store_some(out_quats, x, at, exists, column, 6, 4)
    _store_some(out_opacities, 1.0 / (1.0 + exponential), at, exists, column, 10, 1)


@triton.jit
def deform_kernel(
    means, log_scales, quats, logit_opacities, sh, features, static_mix, dynamic_mix, tokens,
    norm1_scale, norm1_bias, ffn_in, ffn_in_bias, ffn_out, ffn_out_bias, norm2_scale, norm2_bias,
    hidden, hidden_bias, geometry, geometry_bias, color, color_bias,
    out_means, out_quats, out_scales, out_opacities, out_sh,
    N: tl.constexpr, FRAMES: tl.constexpr, AGENTS: tl.constexpr, TOKENS: tl.constexpr,
    D: tl.constexpr, FFN: tl.constexpr, WIDTH: tl.constexpr, COLORS: tl.constexpr,
    COLOR_BLOCK: tl.constexpr, TAYLOR: tl.constexpr, GAIN: tl.constexpr,
    EPSILON: tl.constexpr,
    PARTS: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr, AGENT_BLOCK: tl.constexpr,
    TOKEN_BLOCK: tl.constexpr, STAGES: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Deform ROWS Gaussians in one frame; of PARTS programs each has a head, or one has all.

    Programs of the same Gaussians are neighbors: what all frames share comes from the cache.

    Args (pointers, float32 unless stated):
      means, log_scales, quats, logit_opacities, sh: [N, 3 | 3 | 4 | 1 | COLORS], canonical.
      features: [N, D].
      static_mix: [N, AGENTS], of any floating type.
      dynamic_mix: [FRAMES, AGENTS, TOKENS].
      tokens: [FRAMES, TOKENS, D].
      norm1_scale to norm2_bias: [D], but [D, FFN], [FFN], [FFN, D], [D] between; matrices bfloat16.
      hidden, hidden_bias: [C, D, 5 WIDTH] bfloat16, [5 WIDTH].
      geometry, geometry_bias: [C, 4 WIDTH, 16] bfloat16, [16].
      color, color_bias: [C, WIDTH, COLOR_BLOCK] bfloat16, [COLOR_BLOCK].
      out_means, out_quats, out_scales, out_opacities, out_sh: [FRAMES, N, 3 | 4 | 3 | 1 | COLORS].
    """
    frame, row, exists = _rows(N, FRAMES, PARTS, ROWS, ASM)
    feature = tl.arange(0, D)
    x = _attend(
        static_mix, dynamic_mix, tokens, row, exists, frame, feature,
        GAIN, AGENTS, TOKENS, D, ROWS, AGENT_BLOCK, TOKEN_BLOCK, STAGES, ASM,
    )  # fmt: skip
    x += tl.load(features + row[:, None] * D + feature[None, :], mask=exists[:, None], other=0.0)
    x = normalize(x, tl.load(norm1_scale + feature), tl.load(norm1_bias + feature), EPSILON)

    sums = x + tl.load(ffn_out_bias + feature)[None, :]
    x = two_layers(
        (operand(x, ASM),), sums, ffn_in, ffn_in_bias, ffn_out, feature, feature,
        0, FFN, FFN, FFN, UNITS, False, STAGES, ASM,
    )  # fmt: skip
    x = normalize(x, tl.load(norm2_scale + feature), tl.load(norm2_bias + feature), EPSILON)
    columns = expand(x, TAYLOR, ASM)

    head = tl.program_id(0) % PARTS if PARTS > 1 else 0
    if head == PARTS - 1:
        # These sums begin with what is added to them, for want of registers at the end.
        column = tl.arange(0, COLOR_BLOCK)
        colors = _load_some(sh, row, exists, column, 0, COLORS)
        colors += tl.load(color_bias + column)[None, :]
        colors = two_layers(
            columns, colors, hidden, hidden_bias, color, feature, column,
            4 * WIDTH, WIDTH, WIDTH, 5 * WIDTH, UNITS, TAYLOR, STAGES, ASM,
        )  # fmt: skip
        frame, row, exists = _rows(N, FRAMES, PARTS, ROWS, ASM)
        _store_some(out_sh, colors, frame * N + row, exists, column, 0, COLORS)

    if head < 4:
        HEADS: tl.constexpr = 4 if PARTS == 1 else 1
        column = tl.arange(0, GEOMETRY)
        first = head * WIDTH
        total = tl.zeros([ROWS, GEOMETRY], tl.float32) + tl.load(geometry_bias + column)[None, :]
        total = two_layers(
            columns, total, hidden + first, hidden_bias + first, geometry + first * GEOMETRY,
            feature, column,
            0, HEADS * WIDTH, 4 * WIDTH, 5 * WIDTH, UNITS, TAYLOR, STAGES, ASM,
        )  # fmt: skip
        frame, row, exists = _rows(N, FRAMES, PARTS, ROWS, ASM)
        if PARTS > 1:  # no array has the columns of others
            own = (column >= 3).to(tl.int32) + (column >= 6).to(tl.int32)
            own += (column >= 10).to(tl.int32)
            column = tl.where(own == head, column, GEOMETRY)
        total += _load_geometry(means, log_scales, quats, logit_opacities, row, exists, column)
        _store_geometry(
            total, out_means, out_quats, out_scales, out_opacities, frame * N + row, exists, column
        )  # fmt: skip
