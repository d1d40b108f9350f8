"""Layers in Triton that `deform_kernels` and `heads_kernels` share: operands, products, expansions.

Operands of products are rounded to bfloat16, sums and all else are float32. Hidden units come UNITS
at a time: their values stay with the thread, only their weights pass through shared memory,
once for all rows of a program.
"""

import triton
import triton.language as tl

ALL = tl.constexpr(tl.PropagateNan.ALL)

RATIOS = tl.constexpr(
    "{ .reg .f32 a<12>;"
    + " ".join(
        f"ld.global.nc.v4.f32 {{a{i}, a{i + 1}, a{i + 2}, a{i + 3}}}, [$7+{4 * i}];"
        for i in (0, 4, 8)
    )
    + " ".join(f"fma.rn.sat.f32 ${i}, $6, a{2 * i}, a{2 * i + 1};" for i in range(6))
    + "}"
)


def _place_one(i: int) -> str:
    """PTX: words u0 to u3, two columns each, of one neighbor of two; v0 to v3 of the other."""
    # The complement of 0x76543210, which takes the four values in turn; all ones take the sign.
    words = "uv"[i]
    b = [f"${8 + 2 * m + i}" for m in range(4)]
    lines = [
        f"cvt.rn.bf16x2.f32 p{i}, {b[1]}, {b[0]}",
        f"cvt.rn.bf16x2.f32 q{i}, {b[3]}, {b[2]}",
        f"shl.b32 n, ${16 + i}, 3",  # a byte of the selector is a column
    ]
    for first, word in ((32, 0), (64, 2)):
        lines += [
            f"sub.s32 d, {first}, n", "shr.u32 s, 0x89ABCDEF, d",  # shifts by 32 and more give 0,
            f"sub.s32 d, n, {first}", "shl.b32 t, 0x89ABCDEF, d",  # and by less than 0 as well
            "or.b32 s, s, t", "not.b32 s, s", f"prmt.b32 {words}{word}, p{i}, q{i}, s",
            "shr.u32 s, s, 16", f"prmt.b32 {words}{word + 1}, p{i}, q{i}, s",
        ]  # fmt: skip
    return "".join(line + "; " for line in lines)


PLACE = tl.constexpr(
    "{ .reg .b32 p<2>, q<2>, n, d, s, t, u<4>, v<4>; "
    + _place_one(0)
    + _place_one(1)
    + " ".join(
        f"prmt.b32 ${2 * j}, u{j}, v{j}, 0x5410; prmt.b32 ${2 * j + 1}, u{j}, v{j}, 0x7632;"
        for j in range(4)
    )
    + " }"
)


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
def normalise(x, scale, bias, EPSILON: tl.constexpr):
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
def _splines(x, splines, feature, COUNT: tl.constexpr, FAN_IN: tl.constexpr, ASM: tl.constexpr):
    """SiLU and the COUNT cubic B-splines of inputs as operands; `splines` is a `SplineTable`.

    By the recursion of Cox and de Boor on the one interval of knots that holds the input: only four
    splines are not zero there.
    """
    knots, ratios = splines
    interval = tl.zeros(x.shape, tl.int32)
    for k in tl.static_range(COUNT + 4):
        interval += (x >= tl.load(knots + k * FAN_IN + feature)[None, :]).to(tl.int32)
    entry = ratios + ((feature * (COUNT + 5))[None, :] + interval) * 12
    r10, r20, r21, r30, r31, r32 = _read_ratios(x, entry, ASM)
    part = 1.0 - r10
    low, high = r20 * part, r21 * r10
    first, second, third = part - low, low + (r10 - high), high
    low, middle, high = r30 * first, r31 * second, r32 * third
    values = (first - low, low + (second - middle), middle + (third - high), high)
    return (operand(silu(x, ASM), ASM),) + _place(values, interval, COUNT, ASM)


@triton.jit
def _read_ratios(x, entry, ASM: tl.constexpr):
    """Tell how far x is into the supports of splines that begin before it: six numbers of [0, 1].

    In assembly, so that every thread fetches what its own numbers need: Triton would hand them
    over to other threads and back.
    """
    if ASM:
        return tl.inline_asm_elementwise(
            RATIOS, "=&f,=&f,=&f,=&f,=&f,=&f,f,l", (x, entry.to(tl.int64)),
            (tl.float32, tl.float32, tl.float32, tl.float32, tl.float32, tl.float32), True, 1,
        )  # fmt: skip
    else:
        found = ()
        for i in tl.static_range(6):
            ratio = x * tl.load(entry + 2 * i) + tl.load(entry + 2 * i + 1)
            found = found + (tl.minimum(tl.maximum(ratio, 0.0), 1.0),)
        return found


@triton.jit
def _place(values, interval, COUNT: tl.constexpr, ASM: tl.constexpr):
    """Put four splines' values, none negative, in the columns of their interval, as operands.

    In assembly the four are 8 bytes, of which a permutation takes those of two columns at a time;
    for a column that has none it repeats the sign of the last, which is zero.
    """
    if ASM:
        columns = tl.inline_asm_elementwise(
            PLACE, "=r,=r,=r,=r,=r,=r,=r,=r,f,f,f,f,f,f,f,f,r,r", values + (interval,),
            (tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16,
             tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16), True, 2,
        )  # fmt: skip
        return columns[:COUNT]
    else:
        columns = ()
        for c in tl.static_range(COUNT):
            column = tl.zeros(interval.shape, tl.float32)
            for m in tl.static_range(4):
                column = tl.where(interval == c + 4 - m, values[m], column)
            columns = columns + (operand(column, ASM),)
        return columns


@triton.jit
def expand_any(
    x, splines, feature,
    FAN_IN: tl.constexpr, TAYLOR: tl.constexpr, SPLINES: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Columns of inputs, whose numbers among the layer's FAN_IN are `feature`, B-splines too."""
    if SPLINES:
        columns = _splines(x, splines, feature, SPLINES, FAN_IN, ASM)
    else:
        columns = expand(x, TAYLOR, ASM)
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
    columns, total, inner, inner_bias, outer, splines, feature, column,
    FIRST: tl.constexpr, COUNT: tl.constexpr, STRIDE: tl.constexpr, UNITS: tl.constexpr,
    TAYLOR: tl.constexpr, SPLINES: tl.constexpr, STAGES: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Add what two layers make of `columns`, by way of the COUNT hidden units from FIRST on.

    The kernels are [C, in, STRIDE] and [C, COUNT, out]; `splines` is the `SplineTable`
    of the STRIDE units.
    """
    fan_in: tl.constexpr = feature.shape[0]
    fan_out: tl.constexpr = column.shape[0]
    for first in tl.range(0, COUNT, UNITS, num_stages=STAGES):
        unit = first + tl.arange(0, UNITS)
        x = tl.zeros([total.shape[0], UNITS], tl.float32)
        x = apply(columns, inner, feature, unit + FIRST, x, fan_in, STRIDE, ASM)
        x = x + tl.load(inner_bias + unit + FIRST)[None, :]
        more = expand_any(x, splines, unit + FIRST, STRIDE, TAYLOR, SPLINES, ASM)
        total = apply(more, outer, unit, column, total, COUNT, fan_out, ASM)
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
