"""Instructions that Triton does not choose by itself: 16-byte accesses, approximations, shuffles.

Triton turns every scalar and every strided lane into a 4-byte access; a splat's row of numbers, or
four list entries, come with one 16-byte access instead. With ASM false the same values come by
plain Triton operations: that is what the interpreter runs. Addresses must be 16-byte aligned.
"""

import triton
import triton.language as tl


@triton.jit
def load4(pointer, ASM: tl.constexpr):
    """Four neighboring 4-byte numbers, floats or integers by the pointer's type.

    The array must not be written by the same kernel: the load may be cached as read-only.

    Args:
      pointer: scalar or tensor of pointers to the first of the four.
      ASM: one 16-byte load instead of four.
    """
    if ASM:
        if pointer.dtype.element_ty == tl.int32:
            return tl.inline_asm_elementwise(
                "ld.global.nc.v4.b32 {$0, $1, $2, $3}, [$4];", "=r,=r,=r,=r,l", (pointer,),
                (tl.int32, tl.int32, tl.int32, tl.int32), True, 1,
            )  # fmt: skip
        else:
            return tl.inline_asm_elementwise(
                "ld.global.nc.v4.f32 {$0, $1, $2, $3}, [$4];", "=f,=f,=f,=f,l", (pointer,),
                (tl.float32, tl.float32, tl.float32, tl.float32), True, 1,
            )  # fmt: skip
    else:
        return tl.load(pointer), tl.load(pointer + 1), tl.load(pointer + 2), tl.load(pointer + 3)


@triton.jit
def store4(pointer, v0, v1, v2, v3, mask, ASM: tl.constexpr):
    """Store four neighboring values where `mask` is true: floats or integers, by the pointer.

    Args:
      pointer: tensor of pointers to the first of the four.
      v0: tensor of the first values.
      v1: of the second.
      v2: of the third.
      v3: of the fourth.
      mask: tensor of booleans.
      ASM: one 16-byte store instead of four.
    """
    if ASM:
        is_int: tl.constexpr = pointer.dtype.element_ty == tl.int32
        tl.inline_asm_elementwise(
            "{.reg .pred p; setp.ne.s32 p, $6, 0; @p st.global.v4.b32 [$1], {$2, $3, $4, $5};"
            " mov.b32 $0, 0;}",
            "=r,l,r,r,r,r,r" if is_int else "=r,l,f,f,f,f,r",
            (pointer.to(tl.int64), v0, v1, v2, v3, mask.to(tl.int32)), tl.int32, False, 1,
        )  # fmt: skip
    else:
        tl.store(pointer, v0, mask=mask)
        tl.store(pointer + 1, v1, mask=mask)
        tl.store(pointer + 2, v2, mask=mask)
        tl.store(pointer + 3, v3, mask=mask)


@triton.jit
def exp2(x, ASM: tl.constexpr):
    """2^x, relative error 2^-22; results under 2^-126 are zero."""
    if ASM:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", (x,), tl.float32, True, 1
        )
    else:
        return tl.exp2(x)


@triton.jit
def reciprocal(x, ASM: tl.constexpr):
    """1 / x, relative error 2^-23, for normal x."""
    if ASM:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", (x,), tl.float32, True, 1
        )
    else:
        return 1.0 / x


@triton.jit
def lanes(ASM: tl.constexpr):
    """Number of the lane, [32], for a program of one warp: each lane has its own number."""
    if ASM:
        return tl.inline_asm_elementwise(
            "mov.u32 $0, %laneid;", "=r,r", (tl.arange(0, 32),), tl.int32, True, 1
        )
    else:
        return tl.arange(0, 32)


@triton.constexpr_function
def _exchange(sums: list, distance: int) -> tuple:
    """One exchange of a butterfly between lanes `distance` apart.

    Of every two registers a lane keeps one, adds the other lane's part to it, and gives its part of
    the other one away.

    Args:
      sums: Per register v0, v1, ..., which sum each lane holds a part of.
      distance: A power of two.

    Returns:
      The PTX, and the same for the half as many registers that are left.
    """
    lines, left = [], []
    for i in range(0, len(sums), 2):
        low, high, kept = f"v{i}", f"v{i + 1}", f"v{i // 2}"
        if i + 1 < len(sums):
            lines.append(f"selp.f32 send, {low}, {high}, odd{distance};")
            lines.append(f"selp.f32 {kept}, {high}, {low}, odd{distance};")
            left.append([sums[i + (lane // distance % 2)][lane] for lane in range(32)])
        else:
            lines += [f"mov.f32 send, {low};", f"mov.f32 {kept}, {low};"]
            left.append(sums[i])
        lines.append(f"shfl.sync.bfly.b32 send, send, {distance}, 31, -1;")
        lines.append(f"add.f32 {kept}, {kept}, send;")
    return lines, left


@triton.constexpr_function
def _row_sums(n_features: int) -> tuple:
    """PTX that leaves one sum of a gradient row in each lane, and which one: see `store_row`.

    All pixels of a column have one `along`, so sums over a column's four lanes come first, and
    only then the products with `along`: 12 exchanges for 9 sums instead of 45.
    """
    # Places in a row of g, g across, g across^2 and the features.
    places = [[place] * 32 for place in (0, 2, 5, *range(6, 6 + n_features))]
    lines = []
    for distance in (8, 16):
        more, places = _exchange(places, distance)
        lines += more
    n = len(places)
    lines += ["neg.f32 send, $2;", f"mul.f32 v{n}, v0, send;", f"mul.f32 v{n + 1}, v{n}, send;"]
    times_along = {0: 1, 2: 4}  # g -> g along; g across -> g along across
    places.append([times_along.get(place, -1) for place in places[0]])
    places.append([3 if place == 0 else -1 for place in places[0]])
    for distance in (1, 2, 4):
        more, places = _exchange(places, distance)
        lines += more
    return "\n".join(lines), places[0]


@triton.constexpr_function
def _row_places_ptx(n_features: int) -> str:
    """PTX of the place in a gradient row of the sum that a lane ends up with; -1 if none."""
    places = _row_sums(n_features)[1]
    lines = ["{", ".reg .pred here;", "mov.s32 $0, -1;"]
    for place in range(6 + n_features):
        lines.append(f"setp.eq.u32 here, $1, {places.index(place)};")
        lines.append(f"selp.s32 $0, {place}, $0, here;")
    return "\n".join([*lines, "}"])


@triton.constexpr_function
def _store_row_ptx(n_features: int) -> str:
    """PTX of `store_row`. Operands: lane, along, place, address, values; $0 is not used."""
    n = 3 + n_features
    lines = ["{", f".reg .f32 send, v<{n + 2}>;", ".reg .b32 bit;", ".reg .b64 address;"]
    lines.append(".reg .pred here, odd1, odd2, odd4, odd8, odd16;")
    for distance in (1, 2, 4, 8, 16):
        lines += [f"and.b32 bit, $1, {distance};", f"setp.ne.u32 odd{distance}, bit, 0;"]
    lines += [f"mov.f32 v{i}, ${5 + i};" for i in range(n)]
    lines += [_row_sums(n_features)[0], "setp.ge.s32 here, $3, 0;"]
    lines += ["mul.wide.s32 address, $3, 4;", "add.s64 address, address, $4;"]
    lines += ["@here st.global.f32 [address], v0;", "mov.f32 $0, v0;", "}"]
    return "\n".join(lines)


@triton.constexpr_function
def _store_row_operands(n_features: int) -> str:
    return ",".join(["=f", "r", "f", "r", "l"] + ["f"] * (3 + n_features))


@triton.jit
def row_places(lane, FEATURES: tl.constexpr):
    """The `place` operand of `store_row`, from the lane's number."""
    return tl.inline_asm_elementwise(_row_places_ptx(FEATURES), "=&r,r", (lane,), tl.int32, True, 1)


@triton.jit
def store_row(row, lane, place, along, values, FEATURES: tl.constexpr):
    """Sum over a warp and store the sums of a gradient row side by side; needs ASM.

    Args:
      row: pointer to the row.
      lane: from `lanes`; lanes that differ by 8 or 16 must have the same `along`.
      place: from `row_places`.
      along: minus the first linear form, [32].
      values: g, g across, g across^2 (g is the cotangent of log alpha), then those of the
        features; each [32].
      FEATURES: number of the latter.
    """
    tl.inline_asm_elementwise(
        _store_row_ptx(FEATURES), _store_row_operands(FEATURES),
        (lane, along, place, row.to(tl.int64)) + values, tl.float32, False, 1,
    )  # fmt: skip
