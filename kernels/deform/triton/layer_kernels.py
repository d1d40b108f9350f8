"""Layers in Triton that `deform_kernels` and `heads_kernels` share: operands, products, expansions.

Operands of products are rounded to bfloat16, sums and all else are float32. Hidden units come UNITS
at a time: their values stay with the thread, only their weights pass through shared memory,
once for all rows of a program.
"""

import triton
import triton.language as tl

ALL = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def operand(x, ASM: tl.constexpr):
    """Numbers as operands of `dot`: rounded to bfloat16, to the nearest and then the even one.

    Triton's interpreter cuts digits off instead and multiplies the bits of bfloat16 as integers.
    There operands are float32 numbers of so many digits: their products are exact either way, only
    the order of the sums differs.
    """
    if ASM:
        return x.to(tl.bfloat16)
    else:
        bits = x.to(tl.float32).to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        return bits.to(tl.float32, bitcast=True)


@triton.jit
def dot(a, b, total, ASM: tl.constexpr):
    """Add a b to `total`, for operands."""
    return tl.dot(a, operand(b, ASM), total, input_precision="ieee")


@triton.jit
def relu(x):
    """Return the positive part; NaN stays."""
    return tl.maximum(x, 0.0, propagate_nan=ALL)


@triton.jit
def _tanh(x):
    """By the hardware, to 2^-11."""
    return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", (x,), tl.float32, True, 1)


@triton.jit
def silu(x, ASM: tl.constexpr):
    """Return x sigmoid(x); with ASM to 2^-11 of x / 2."""
    if ASM:
        half = x * 0.5
        return half * _tanh(half) + half
    else:
        return x / (1.0 + tl.exp(-x))


@triton.jit
def normalize(x, scale, bias, EPSILON: tl.constexpr):
    """Bring rows to mean 0 and variance 1, then scale and shift."""
    x = x - (tl.sum(x, axis=1) / x.shape[1])[:, None]
    inverse = tl.rsqrt(tl.sum(x * x, axis=1) / x.shape[1] + EPSILON)
    return x * inverse[:, None] * scale[None, :] + bias[None, :]


@triton.jit
def expand(x, TAYLOR: tl.constexpr, ASM: tl.constexpr):
    """Columns of a layer's inputs, as operands."""
    if TAYLOR:
        columns = (operand(silu(x, ASM), ASM), operand(x, ASM), operand(x * x, ASM))
    else:
        columns = (operand(relu(x), ASM),)
    return columns


@triton.jit
def apply(
    columns, kernel, inputs, outputs, total,
    FAN_IN: tl.constexpr, FAN_OUT: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Add columns times the part [:, inputs, outputs] of a [C, in, out] kernel to `total`."""
    for i in tl.static_range(len(columns)):
        matrix = tl.load(kernel + (inputs + i * FAN_IN)[:, None] * FAN_OUT + outputs[None, :])
        total = dot(columns[i], matrix, total, ASM)
    return total


@triton.jit
def two_layers(
    columns, total, inner, inner_bias, outer, feature, column,
    FIRST: tl.constexpr, COUNT: tl.constexpr, ALL: tl.constexpr, STRIDE: tl.constexpr,
    UNITS: tl.constexpr, TAYLOR: tl.constexpr, STAGES: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Add what two layers make of `columns`, by way of the COUNT hidden units from FIRST on.

    The kernels are [C, in, STRIDE] and [C, ALL, out], of which these units are the first.
    """
    fan_in: tl.constexpr = feature.shape[0]
    fan_out: tl.constexpr = column.shape[0]
    for first in tl.range(0, COUNT, UNITS, num_stages=STAGES):
        unit = first + tl.arange(0, UNITS)
        x = tl.zeros([total.shape[0], UNITS], tl.float32)
        x = apply(columns, inner, feature, unit + FIRST, x, fan_in, STRIDE, ASM)
        x = x + tl.load(inner_bias + unit + FIRST)[None, :]
        more = expand(x, TAYLOR, ASM)
        total = apply(more, outer, unit, column, total, ALL, fan_out, ASM)
    return total


@triton.jit
def back_to_inputs(cotangents, x, TAYLOR: tl.constexpr, ASM: tl.constexpr):
    """Cotangent of x, from those of the columns that `expand` makes of it; float32."""
    if TAYLOR:
        if ASM:
            sigmoid = 0.5 * _tanh(0.5 * x) + 0.5
        else:
            sigmoid = 1.0 / (1.0 + tl.exp(-x))
        slope = x * sigmoid * (1.0 - sigmoid) + sigmoid
        return cotangents[0] * slope + (cotangents[2] * (x + x) + cotangents[1])
    else:
        return cotangents[0] * (x > 0.0).to(tl.float32)
