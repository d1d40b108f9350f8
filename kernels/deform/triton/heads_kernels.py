"""Triton kernels of `heads`: the heads of `deform` for training, and their adjoint.

Letters: c_i the columns that a layer makes of its inputs (`layer_kernels.expand`), A_i and B_i the
matrices of the inner and the outer layer, g the cotangent of the outputs:

    h = sum_i c_i(x) A_i + a,   y = sum_i c_i(h) B_i + b,
    dh = sum_i (g B_i^T) c_i'(h),   dx = sum_i (dh A_i^T) c_i'(x),
    dA_i = c_i(x)^T dh,   dB_i = c_i(h)^T g,   da = sum dh.

Nothing between x and y is kept: both adjoint kernels compute h and dh again, from x and g. One has
a block of rows and goes through all hidden units, for dx; the other has a block of units and goes
through a share of the rows, for the weights. Every number is written by one program, and every sum
has one fixed order. Operands are rounded to bfloat16, which has the range of float32, so small
cotangents stay; sums are float32.
"""

import triton
import triton.language as tl

from kernels.deform.triton.layer_kernels import back_to_inputs, dot, expand, operand, two_layers
from kernels.deform.types import GEOMETRY as GEOMETRY_COLUMNS

GEOMETRY = tl.constexpr(GEOMETRY_COLUMNS)


@triton.jit
def _load_rows(pointer, row, column, TOTAL: tl.constexpr):
    """Rows of an array [TOTAL, columns]; zeros past the end."""
    at = pointer + row.to(tl.int64)[:, None] * column.shape[0] + column[None, :]
    return tl.load(at, mask=(row < TOTAL)[:, None] & (column >= 0)[None, :], other=0.0)


@triton.jit
def _store_rows(pointer, values, row, column, TOTAL: tl.constexpr):
    at = pointer + row.to(tl.int64)[:, None] * column.shape[0] + column[None, :]
    tl.store(at, values, mask=(row < TOTAL)[:, None] & (column >= 0)[None, :])


@triton.jit
def heads_kernel(
    x, hidden, hidden_bias, geometry, geometry_bias, color, color_bias, out_geometry, out_color,
    TOTAL: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, COLOR_BLOCK: tl.constexpr,
    TAYLOR: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr, STAGES: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Apply the heads to ROWS rows.

    Args (pointers, float32 unless stated):
      x: [TOTAL, D].
      hidden, hidden_bias: [C, D, 5 WIDTH] bfloat16, [5 WIDTH].
      geometry, geometry_bias: [C, 4 WIDTH, 16] bfloat16, [16].
      color, color_bias: [C, WIDTH, COLOR_BLOCK] bfloat16, [COLOR_BLOCK].
      out_geometry, out_color: [TOTAL, 16], [TOTAL, COLOR_BLOCK].
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    feature = tl.arange(0, D)
    columns = expand(_load_rows(x, row, feature, TOTAL), TAYLOR, ASM)
    part = tl.arange(0, GEOMETRY)
    total = tl.zeros([ROWS, GEOMETRY], tl.float32) + tl.load(geometry_bias + part)[None, :]
    total = two_layers(
        columns, total, hidden, hidden_bias, geometry, feature, part,
        0, 4 * WIDTH, 4 * WIDTH, 5 * WIDTH, UNITS, TAYLOR, STAGES, ASM,
    )  # fmt: skip
    _store_rows(out_geometry, total, row, part, TOTAL)
    column = tl.arange(0, COLOR_BLOCK)
    colors = tl.zeros([ROWS, COLOR_BLOCK], tl.float32) + tl.load(color_bias + column)[None, :]
    colors = two_layers(
        columns, colors, hidden, hidden_bias, color, feature, column,
        4 * WIDTH, WIDTH, WIDTH, 5 * WIDTH, UNITS, TAYLOR, STAGES, ASM,
    )  # fmt: skip
    _store_rows(out_color, colors, row, column, TOTAL)


@triton.jit
def _inner(columns, matrices, bias, ASM: tl.constexpr):
    """Values of a block of units."""
    h = tl.zeros([columns[0].shape[0], bias.shape[0]], tl.float32) + bias[None, :]
    for i in tl.static_range(len(columns)):
        h = dot(columns[i], matrices[i], h, ASM)
    return h


@triton.jit
def _inner_cotangent(h, cotangent, matrices, TAYLOR: tl.constexpr, ASM: tl.constexpr):
    """Their cotangent; the outer matrices are [UNITS, out]."""
    columns = ()
    for i in tl.static_range(len(matrices)):
        nothing = tl.zeros(h.shape, tl.float32)
        columns = columns + (dot(cotangent, tl.trans(matrices[i]), nothing, ASM),)
    return back_to_inputs(columns, h, TAYLOR, ASM)


@triton.jit
def _load_matrices(
    kernel, inputs, outputs, COLUMNS: tl.constexpr, FAN_IN: tl.constexpr, FAN_OUT: tl.constexpr
):  # fmt: skip
    """The parts [:, inputs, outputs] of a [C, FAN_IN, FAN_OUT] kernel."""
    matrices = ()
    for i in tl.static_range(COLUMNS):
        at = kernel + (inputs + i * FAN_IN)[:, None] * FAN_OUT + outputs[None, :]
        matrices = matrices + (tl.load(at),)
    return matrices


@triton.jit
def _add_part(
    sums, columns, cotangent, hidden, hidden_bias, outer, feature, output,
    FIRST: tl.constexpr, COUNT: tl.constexpr, STRIDE: tl.constexpr, UNITS: tl.constexpr,
    TAYLOR: tl.constexpr, STAGES: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Add dh A_i^T over the COUNT units from FIRST on, whose outer kernel is [C, COUNT, out]."""
    C: tl.constexpr = len(columns)
    D: tl.constexpr = feature.shape[0]
    OUT: tl.constexpr = output.shape[0]
    for first in tl.range(0, COUNT, UNITS, num_stages=STAGES):
        unit = first + tl.arange(0, UNITS)
        inner = _load_matrices(hidden, feature, unit + FIRST, C, D, STRIDE)
        h = _inner(columns, inner, tl.load(hidden_bias + unit + FIRST), ASM)
        matrices = _load_matrices(outer, unit, output, C, COUNT, OUT)
        dh = operand(_inner_cotangent(h, cotangent, matrices, TAYLOR, ASM), ASM)
        more = ()
        for i in tl.static_range(C):
            more = more + (dot(dh, tl.trans(inner[i]), sums[i], ASM),)
        sums = more
    return sums


@triton.jit
def inputs_kernel(
    x, columns, grad_geometry, grad_color, hidden, hidden_bias, geometry, color, grad_x,
    TOTAL: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, COLOR_BLOCK: tl.constexpr,
    TAYLOR: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr, STAGES: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Cotangent of ROWS rows of x.

    Args (pointers): as `heads_kernel`; what `expand` makes of x, [C, TOTAL, D] bfloat16; cotangents
      shaped as what they belong to, those of the outputs bfloat16; `grad_x` out.
    """
    C: tl.constexpr = 3 if TAYLOR else 1
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    feature = tl.arange(0, D)
    part, column = tl.arange(0, GEOMETRY), tl.arange(0, COLOR_BLOCK)
    expanded, sums = (), ()
    for k in tl.static_range(C):
        values = _load_rows(columns + k * TOTAL * D, row, feature, TOTAL)
        expanded = expanded + (operand(values, ASM),)
        sums = sums + (tl.zeros([ROWS, D], tl.float32),)
    sums = _add_part(
        sums, expanded, operand(_load_rows(grad_color, row, column, TOTAL), ASM),
        hidden, hidden_bias, color, feature, column,
        4 * WIDTH, WIDTH, 5 * WIDTH, UNITS, TAYLOR, STAGES, ASM,
    )  # fmt: skip
    sums = _add_part(
        sums, expanded, operand(_load_rows(grad_geometry, row, part, TOTAL), ASM),
        hidden, hidden_bias, geometry, feature, part,
        0, 4 * WIDTH, 5 * WIDTH, UNITS, TAYLOR, STAGES, ASM,
    )  # fmt: skip
    result = back_to_inputs(sums, _load_rows(x, row, feature, TOTAL), TAYLOR, ASM)
    _store_rows(grad_x, result, row, feature, TOTAL)


@triton.jit
def weights_kernel(
    columns, cotangent, hidden, hidden_bias, outer, grad_inner, grad_bias, grad_outer,
    TOTAL: tl.constexpr, D: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr,
    STRIDE: tl.constexpr, OUT: tl.constexpr, TAYLOR: tl.constexpr, ROWS: tl.constexpr,
    UNITS: tl.constexpr, SHARES: tl.constexpr, STAGES: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Cotangents of the weights of UNITS of COUNT units from FIRST on, from a share of the rows.

    Everything is transposed: units are the rows of the products. So what is computed of them is
    the left operand of the next product, which tensor cores take from registers, and what is
    loaded is the right one, which they take from shared memory.

    Args (pointers, float32 unless stated):
      columns: [C, TOTAL, D] bfloat16, what `expand` makes of x.
      cotangent: [TOTAL, OUT] bfloat16.
      hidden, hidden_bias: [C, D, STRIDE] bfloat16, [STRIDE].
      outer: [C, COUNT, OUT] bfloat16.
      grad_inner: [SHARES, C, COUNT, D] out.
      grad_bias: [SHARES, COUNT] out.
      grad_outer: [SHARES, C, COUNT, OUT] out.
    """
    C: tl.constexpr = 3 if TAYLOR else 1
    STEPS: tl.constexpr = (TOTAL + ROWS * SHARES - 1) // (ROWS * SHARES)
    share = tl.program_id(0) % SHARES
    unit = tl.program_id(0) // SHARES * UNITS + tl.arange(0, UNITS)
    feature, output = tl.arange(0, D), tl.arange(0, OUT)
    inner = _load_matrices(hidden, feature, unit + FIRST, C, D, STRIDE)
    matrices = _load_matrices(outer, unit, output, C, COUNT, OUT)
    bias = tl.load(hidden_bias + unit + FIRST)
    sums, outer_sums = (), ()
    for _ in tl.static_range(C):
        sums = sums + (tl.zeros([UNITS, D], tl.float32),)
        outer_sums = outer_sums + (tl.zeros([UNITS, OUT], tl.float32),)
    bias_sum = tl.zeros([UNITS], tl.float32)
    for i in tl.range(0, STEPS, num_stages=STAGES):
        row = (i * SHARES + share) * ROWS + tl.arange(0, ROWS)
        g = operand(_load_rows(cotangent, row, output, TOTAL), ASM)
        h = tl.zeros([UNITS, ROWS], tl.float32) + bias[:, None]
        x = ()
        for k in tl.static_range(C):
            column = _load_rows(columns + k * TOTAL * D, row, feature, TOTAL)
            x = x + (operand(column, ASM),)
            h = dot(operand(tl.trans(inner[k]), ASM), tl.trans(x[k]), h, ASM)
        units = expand(h, TAYLOR, ASM)
        more = ()
        for k in tl.static_range(C):
            more = more + (dot(units[k], g, outer_sums[k], ASM),)
        outer_sums = more
        back = ()
        for k in tl.static_range(C):
            nothing = tl.zeros(h.shape, tl.float32)
            back = back + (dot(operand(matrices[k], ASM), tl.trans(g), nothing, ASM),)
        dh = back_to_inputs(back, h, TAYLOR, ASM)
        bias_sum += tl.sum(dh, axis=1)
        dh = operand(dh, ASM)
        more = ()
        for k in tl.static_range(C):
            more = more + (dot(dh, x[k], sums[k], ASM),)
        sums = more
    for k in tl.static_range(C):
        at = ((share * C + k) * COUNT + unit)[:, None]
        tl.store(grad_inner + at * D + feature[None, :], sums[k])
        tl.store(grad_outer + at * OUT + output[None, :], outer_sums[k])
    tl.store(grad_bias + share * COUNT + unit, bias_sum)
