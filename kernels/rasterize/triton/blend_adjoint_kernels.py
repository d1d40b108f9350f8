"""Triton kernels of `blend` backward: walk back through a quarter's list, add up the rows.

Conventions: see `blend_kernels`. Every gradient row is written by exactly one program, but for the
dump row, which nobody reads, and every sum has one fixed order.
"""

import triton
import triton.language as tl

from kernels.rasterize.triton import ptx
from kernels.rasterize.triton.blend_kernels import (
    GROUP,
    LANES,
    SHAPE,
    TINY,
    from_bytes,
    load_splat,
    log_alphas,
    place_program,
)


@triton.jit
def _load_cotangents(
    background, grad_rgb, grad_depth, grad_left, frame, pixel, on_image, COLORS: tl.constexpr,
    BACKGROUND: tl.constexpr, DEPTH_GRADIENT: tl.constexpr, LEFT_GRADIENT: tl.constexpr,
):  # fmt: skip
    """Cotangents of a pixel's features, and of the light that is left, background included."""
    behind = tl.zeros([LANES], tl.float32)
    if LEFT_GRADIENT:
        behind += tl.load(grad_left + pixel, mask=on_image, other=0.0)
    grads = ()
    for f in tl.static_range(COLORS):
        grad = tl.load(grad_rgb + pixel * COLORS + f, mask=on_image, other=0.0)
        if BACKGROUND == 2:
            colors = tl.load(background + pixel * COLORS + f, mask=on_image, other=0)
            behind += grad * from_bytes(colors)
        if BACKGROUND == 1:
            behind += grad * from_bytes(tl.load(background + frame * COLORS + f))
        grads = grads + (grad,)
    if DEPTH_GRADIENT:
        grads = grads + (tl.load(grad_depth + pixel, mask=on_image, other=0.0),)
    return grads, behind


@triton.jit
def _store_row(
    row, lane, place, along, across, g, w, grads, chosen, F: tl.constexpr, SUMMED: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Add up a gradient row over the pixels and store it; `chosen` is the weight of the rest."""
    g_across = (g[0] * across[0], g[1] * across[1])
    values = (
        g[0] + g[1],
        g_across[0] + g_across[1],
        g_across[0] * across[0] + g_across[1] * across[1],
    )
    for f in tl.static_range(SUMMED):
        values = values + (w[0] * grads[0][f] + w[1] * grads[1][f],)
    for f in tl.static_range(SUMMED, F):
        values = values + (chosen[0] * grads[0][f] + chosen[1] * grads[1][f],)
    if ASM:
        ptx.store_row(row, lane, place, along, values, F)
    else:
        g, g_c, g_cc = values[0], values[1], values[2]
        sums = (g, -g * along, g_c, g * along * along, -g_c * along, g_cc) + values[3:]
        for j in tl.static_range(SHAPE + F):
            tl.store(row + j, tl.sum(sums[j], axis=0))


@triton.jit
def _step_back(
    splat, log_alpha, seen, light, behind, grads,
    F: tl.constexpr, ALPHA_MAX: tl.constexpr, LOG_MAX: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """At one pixel: cotangent of log alpha, weight, and `light` and `behind` before the splat."""
    alpha = tl.where(seen, tl.minimum(ptx.exp2(log_alpha, ASM), ALPHA_MAX), 0.0)
    keep = 1.0 - alpha
    if ALPHA_MAX > 1.0 - 1e-6:
        keep = tl.maximum(keep, TINY)
    light *= ptx.reciprocal(keep, ASM)
    excess = -behind
    for f in tl.static_range(F):
        excess += splat[SHAPE + f] * grads[f]
    weight = alpha * light
    g = tl.where(log_alpha < LOG_MAX, weight * excess, 0.0)
    return g, weight, light, behind + alpha * excess


@triton.jit
def _are_chosen(middle, entry):
    """Where the depth of a pixel is this entry's: one, else zero."""
    chosen = ()
    for h in tl.static_range(len(middle)):
        chosen = chosen + (tl.where(middle[h] == entry, 1.0, 0.0),)
    return chosen


@triton.jit
def _clear_rows(gradients, rows, first, n, ROW: tl.constexpr):
    """Zero the rows of entries behind the last stop: no gradient, but they will be added up."""
    zeros = tl.zeros([LANES], tl.float32)
    i = tl.arange(0, LANES)
    while first < n:
        mask = first + i < n
        target = tl.load(rows + first + i, mask=mask, other=0).to(tl.int64) * ROW
        for j in tl.static_range(ROW):
            tl.store(gradients + target + j, zeros, mask=mask)
        first += LANES


@triton.jit
def backward_kernel(
    turns, splats, background, bounds, lengths, ids, rows, left, stops, grad_rgb, grad_depth,
    grad_left, gradients,
    FRAMES: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr, HEIGHT: tl.constexpr,
    COLUMNS: tl.constexpr, TILES: tl.constexpr, CAPACITY: tl.constexpr, COLORS: tl.constexpr,
    STRIDE: tl.constexpr, BACKGROUND: tl.constexpr, LOG_MIN: tl.constexpr, ALPHA_MAX: tl.constexpr,
    LOG_MAX: tl.constexpr, DEPTH_GRADIENT: tl.constexpr, LEFT_GRADIENT: tl.constexpr,
    MEDIAN: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Walk one quarter's list from its last drawn entry to the front: one gradient row per entry.

    With S_k the mean of <feature, gradient> that shines from behind entry k, per unit of light:
    dL/dlog a_k = a_k T_k (<f_k, g> - S_k), and S_{k-1} = S_k + a_k (<f_k, g> - S_k).

    With MEDIAN a pixel's depth is that of one entry, to which its cotangent goes alone.

    Args (pointers):
      turns, splats, background, bounds, lengths, ids, left, stops: as above.
      rows: of `QuarterLists`.
      grad_rgb, grad_depth, grad_left: cotangents; the last two not read without *_GRADIENT.
      gradients: [B, 4 CAPACITY + 1, ROW] out, only the rows that are listed.
    """
    frame, start, n, lane, column, row = place_program(
        turns, bounds, lengths, FRAMES, TILES, COLUMNS, CAPACITY, ASM
    )
    splats += frame.to(tl.int64) * ((N + 1) * STRIDE)
    F: tl.constexpr = COLORS + DEPTH_GRADIENT
    SUMMED: tl.constexpr = F - DEPTH_GRADIENT * MEDIAN
    ROW: tl.constexpr = SHAPE + F
    gradients += frame.to(tl.int64) * ((4 * CAPACITY + 1) * ROW)
    rows += start
    pixel_x = column.to(tl.float32) + 0.5
    pixel_y = row.to(tl.float32) + 0.5
    light, stop, grads, behind, middle = (), (), (), (), ()
    for h in tl.static_range(2):
        on_image = (column < WIDTH) & (row + GROUP * h < HEIGHT)
        pixel = (frame * HEIGHT + row + GROUP * h) * WIDTH + column
        light = light + (tl.load(left + pixel, mask=on_image, other=1.0),)
        stop = stop + (tl.load(stops + (1 + MEDIAN) * pixel, mask=on_image, other=0),)
        if SUMMED < F:
            middle = middle + (tl.load(stops + 2 * pixel + 1, mask=on_image, other=-1),)
        features, light_grad = _load_cotangents(
            background, grad_rgb, grad_depth, grad_left, frame, pixel, on_image, COLORS,
            BACKGROUND, DEPTH_GRADIENT, LEFT_GRADIENT,
        )  # fmt: skip
        grads = grads + (features,)
        behind = behind + (light_grad,)
    place = lane
    if ASM:
        place = ptx.row_places(lane, F)
    # Whole groups: entries past the last stop get zero rows, those past the list the dump row.
    last = (tl.max(tl.maximum(stop[0], stop[1]), axis=0) + GROUP - 1) // GROUP * GROUP
    k = last - GROUP
    if k >= 0:
        ids += start + k
        group_rows = rows + k
        some = ptx.load4(ids, ASM)
        splat = load_splat(splats, some[3], STRIDE, ASM)
        while k >= 0:
            # The next splat and the next group's names are loaded ahead.
            ids -= tl.where(k > 0, GROUP, 0)
            now = some
            some = ptx.load4(ids, ASM)
            targets = ptx.load4(group_rows, ASM)
            group_rows -= GROUP
            for u in tl.static_range(GROUP - 1, -1, -1):
                this = splat
                next_id = now[u - 1] if u > 0 else some[3]
                splat = load_splat(splats, next_id, STRIDE, ASM)
                along, across, log_alpha = log_alphas(this, pixel_x, pixel_y)
                g, w, new_light, new_behind = (), (), (), ()
                for h in tl.static_range(2):
                    seen = (log_alpha[h] >= LOG_MIN) & (k + u < stop[h])
                    step = _step_back(
                        this, log_alpha[h], seen, light[h], behind[h], grads[h], SUMMED, ALPHA_MAX,
                        LOG_MAX, ASM,
                    )  # fmt: skip
                    g, w = g + (step[0],), w + (step[1],)
                    new_light, new_behind = new_light + (step[2],), new_behind + (step[3],)
                light, behind = new_light, new_behind
                target = gradients + targets[u].to(tl.int64) * ROW
                _store_row(
                    target, lane, place, along, across, g, w, grads, _are_chosen(middle, k + u),
                    F, SUMMED, ASM,
                )  # fmt: skip
            k -= GROUP
    _clear_rows(gradients, rows, last, n, ROW)


@triton.jit
def reduce_kernel(
    gradients, heads, counts, sums,
    TOTAL: tl.constexpr, N: tl.constexpr, CAPACITY: tl.constexpr, ROW: tl.constexpr,
    AT_ONCE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add up the rows of every Gaussian, which lie side by side, AT_ONCE rows at a time.

    Args (pointers):
      gradients: [B, 4 CAPACITY + 1, ROW] float32.
      heads, counts: `row_heads` and `row_counts` of `QuarterLists`.
      sums: [B N, ROW] out.
    """
    gaussian = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = gaussian < TOTAL
    head = tl.load(heads + gaussian, mask=exists, other=0)
    numbers = tl.load(counts + gaussian, mask=exists, other=0) * ROW
    first = (gaussian // N).to(tl.int64) * (4 * CAPACITY + 1) + head
    lane = tl.arange(0, LANES)[None, :]
    at = gradients + first[:, None] * ROW + lane
    STEP: tl.constexpr = AT_ONCE * ROW
    left = tl.where(lane < STEP, numbers[:, None] - lane, 0)
    total = tl.zeros([BLOCK, LANES], tl.float32)
    most = tl.max(numbers, axis=0)
    i = 0
    while i < most:
        for u in tl.static_range(2):
            total += tl.load(at + u * STEP, mask=i + u * STEP < left, other=0.0)
        at += 2 * STEP
        i += 2 * STEP
    total = _add_parts(total, ROW, AT_ONCE)
    mask = exists[:, None] & (lane < ROW)
    tl.store(sums + gaussian[:, None] * ROW + lane, total, mask=mask)


@triton.jit
def _add_parts(total, ROW: tl.constexpr, AT_ONCE: tl.constexpr):
    """Number i plus i + ROW, i + 2 ROW, ... of [BLOCK, LANES]."""
    lane = tl.zeros(total.shape, tl.int32) + tl.arange(0, LANES)[None, :]
    result = total
    for part in tl.static_range(1, AT_ONCE):
        result += tl.gather(total, (lane + part * ROW) % LANES, axis=1)
    return result
