"""Triton kernel of `blend` that composites a quarter, and what the walk back shares with it.

One warp blends one quarter of a tile, 8 x 8 pixels: programs that small never wait for each other,
so no loop here holds a barrier. A lane has two pixels of one column, four rows apart: what depends
on the column is computed once for both. Equations in `xla/blend.py`; the exponential is to the
base 2. Formats of splats, lists and gradient rows: see `blend`.

Everything is written by exactly one program and every sum has one fixed order.
"""

import triton
import triton.language as tl

from kernels.rasterize.triton import ptx
from kernels.rasterize.triton.binning_kernels import QUARTER, TILE

LANES = tl.constexpr(32)
SHAPE = tl.constexpr(6)  # numbers of a splat, and of a gradient row, that are not features
GROUP = tl.constexpr(4)  # list entries per step
TINY = tl.constexpr(1e-30)


@triton.jit
def place_program(
    turns, bounds, lengths,
    FRAMES: tl.constexpr, TILES: tl.constexpr, COLUMNS: tl.constexpr, CAPACITY: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Frame of this program, start and length of its list, and the first pixel of each lane."""
    program = tl.program_id(0)
    quarter = program % 4
    frame = program // 4 % FRAMES
    tile = tl.load(turns + frame * TILES + program // (4 * FRAMES))
    bounds += frame * (TILES + 1) + tile
    first = tl.load(bounds)
    region = (tl.load(bounds + 1) - first + GROUP - 1) // GROUP * GROUP
    start = 4 * first + 16 * tile + quarter * region
    start = frame.to(tl.int64) * (4 * CAPACITY + 16 * TILES) + start
    n = tl.load(lengths + (frame * TILES + tile) * 4 + quarter)
    lane = ptx.lanes(ASM)
    column = tile % COLUMNS * TILE + quarter % 2 * QUARTER + lane % QUARTER
    row = tile // COLUMNS * TILE + quarter // 2 * QUARTER + lane // QUARTER
    return frame, start, n, lane, column, row


@triton.jit
def load_splat(splats, id, STRIDE: tl.constexpr, ASM: tl.constexpr):
    """The numbers of a splat."""
    at = splats + id.to(tl.int64) * STRIDE
    numbers = ()
    for i in tl.static_range(0, STRIDE, 4):
        numbers = numbers + ptx.load4(at + i, ASM)
    return numbers


@triton.jit
def _load_group(splats, some, STRIDE: tl.constexpr, ASM: tl.constexpr):
    """The numbers of four splats."""
    group = ()
    for u in tl.static_range(GROUP):
        group = group + (load_splat(splats, some[u], STRIDE, ASM),)
    return group


@triton.jit
def _load_first(splats, ids, some, n, N: tl.constexpr, STRIDE: tl.constexpr, ASM: tl.constexpr):
    """The first group of a list of n, for AHEAD, and as `_load_next`; of none that does not exist.

    What lies past a list are no splats: its last group is loaded again instead.
    """
    some = (
        tl.where(n > 0, some[0], N), tl.where(n > 0, some[1], N),
        tl.where(n > 0, some[2], N), tl.where(n > 0, some[3], N),
    )  # fmt: skip
    group = _load_group(splats, some, STRIDE, ASM)
    ids += tl.where(n > GROUP, GROUP, 0)
    return group, ids, ptx.load4(ids, ASM)


@triton.jit
def _load_next(
    splats, ids, some, ahead, k, n, STRIDE: tl.constexpr, AHEAD: tl.constexpr, ASM: tl.constexpr
):  # fmt: skip
    """The group of entry k; with AHEAD the one after it; where ids of the next lie, and these."""
    group = _load_group(splats, some, STRIDE, ASM)
    if AHEAD:
        group, ahead = ahead, group
        ids += tl.where(n > k + 2 * GROUP, GROUP, 0)
    else:
        ids += GROUP
    return group, ahead, ids, ptx.load4(ids, ASM)


@triton.jit
def log_alphas(splat, pixel_x, pixel_y):
    """Linear forms of a splat's power, minus the first and of both pixels, and log2 of alpha."""
    along = splat[0] - pixel_x  # this sign spares a negation of s
    across = (pixel_y - splat[1]) + splat[3] * along
    lower = across + GROUP
    level = splat[5] - splat[2] * along * along
    log_alpha = level - splat[4] * across * across
    return along, (across, lower), (log_alpha, level - splat[4] * lower * lower)


@triton.jit
def _weigh_group(
    group, light, cap, pixel_x, pixel_y,
    LOG_MIN: tl.constexpr, ALPHA_MAX: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """By pixel of a lane: alphas and weights of four splats if none stops, and light after them."""
    alphas, weights = ((), ()), ((), ())
    for u in tl.static_range(GROUP):
        log_alpha = log_alphas(group[u], pixel_x, pixel_y)[2]
        new_alphas, new_weights, new_light = (), (), ()
        for h in tl.static_range(2):
            alpha = tl.minimum(ptx.exp2(log_alpha[h], ASM), cap[h])
            alpha = tl.where(log_alpha[h] >= LOG_MIN, alpha, 0.0)
            after = _after(alpha, light[h], ALPHA_MAX)
            new_alphas = new_alphas + (alphas[h] + (alpha,),)
            # A difference of lights: one addition, and the weights of a pixel add up exactly.
            new_weights = new_weights + (weights[h] + (light[h] - after,),)
            new_light = new_light + (after,)
        alphas, weights, light = new_alphas, new_weights, new_light
    return alphas, weights, light


@triton.jit
def _add_features(total, weights, group, FEATURES: tl.constexpr):
    """Add four weighted splats; feature f of pixel h is at 2 f + h."""
    for u in tl.static_range(GROUP):
        more = ()
        for i in tl.static_range(2 * FEATURES):
            more = more + (total[i] + weights[i % 2][u] * group[u][SHAPE + i // 2],)
        total = more
    return total


@triton.jit
def _find_middle(found, weights, group, light, k, PLACE: tl.constexpr):
    """Number PLACE and list entry of the last splat that more than half of the light reaches."""
    number, entry = found
    for u in tl.static_range(GROUP):
        here = (weights[u] > 0.0) & (light > 0.5)
        number = tl.where(here, group[u][PLACE], number)
        entry = tl.where(here, k + u, entry)
        light -= weights[u]
    return number, entry


@triton.jit
def _any(condition):
    return tl.max(condition.to(tl.int32), axis=0) > 0


@triton.jit
def _stop(
    alphas, light, cap, stop, k, STOP: tl.constexpr, ALPHA_MAX: tl.constexpr
):  # fmt: skip
    """Composite a group in which a pixel may stop: weights, and light, cap and stop after it."""
    weights = ()
    for u in tl.static_range(GROUP):
        alpha = tl.where(cap > 0.0, alphas[u], 0.0)
        after = _after(alpha, light, ALPHA_MAX)
        stops = after < STOP
        cap = tl.where(stops, 0.0, cap)
        stop = tl.where(stops, k + u, stop)
        after = tl.where(stops, light, after)
        weights = weights + (light - after,)
        light = after
    return weights, light, cap, stop


@triton.jit
def _after(alpha, light, ALPHA_MAX: tl.constexpr):
    """Light behind a splat: never zero, since the reverse walk divides by it."""
    after = light - alpha * light
    if ALPHA_MAX > 1.0 - 1e-6:
        after = tl.maximum(after, light * TINY)
    return after


@triton.jit
def from_bytes(colors):
    """Colors of either type as floats."""
    if colors.dtype == tl.uint8:
        return colors.to(tl.float32) / 255.0
    else:
        return colors


@triton.jit
def _byte(value):
    """The nearest byte; halfway the larger one, which hardly ever happens."""
    return (tl.minimum(tl.maximum(value, 0.0), 1.0) * 255.0 + 0.5).to(tl.uint8)


@triton.jit
def _store_pixel(
    background, rgb, depth, left, stops, total, light, stop, middle, frame, pixel, on_image,
    COLORS: tl.constexpr, BACKGROUND: tl.constexpr, BYTES: tl.constexpr, MEDIAN: tl.constexpr,
):  # fmt: skip
    """Store a pixel's results; its colors over the background that shines through."""
    for f in tl.static_range(COLORS):
        value = total[f]
        if BACKGROUND == 2:
            behind = tl.load(background + pixel * COLORS + f, mask=on_image, other=0)
            value += light * from_bytes(behind)
        if BACKGROUND == 1:
            value += light * from_bytes(tl.load(background + frame * COLORS + f))
        if BYTES:
            value = _byte(value)
        tl.store(rgb + pixel * COLORS + f, value, mask=on_image)
    if BYTES:
        tl.store(left + pixel, _byte(1.0 - light), mask=on_image)
    else:
        tl.store(depth + pixel, middle[0] if MEDIAN else total[COLORS], mask=on_image)
        tl.store(left + pixel, light, mask=on_image)
        tl.store(stops + (1 + MEDIAN) * pixel, stop, mask=on_image)
        if MEDIAN:
            tl.store(stops + 2 * pixel + 1, middle[1], mask=on_image)


@triton.jit
def forward_kernel(
    turns, splats, background, bounds, lengths, ids, depth, left, stops, rgb,
    FRAMES: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr, HEIGHT: tl.constexpr,
    COLUMNS: tl.constexpr, TILES: tl.constexpr, CAPACITY: tl.constexpr, COLORS: tl.constexpr,
    STRIDE: tl.constexpr, BACKGROUND: tl.constexpr, LOG_MIN: tl.constexpr, ALPHA_MAX: tl.constexpr,
    STOP: tl.constexpr, BYTES: tl.constexpr, IN_PLACE: tl.constexpr, AHEAD: tl.constexpr,
    MEDIAN: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Composite one quarter, front to back.

    Pixels rarely stop, so a group of entries is composited as if none did, and once more with care
    if one turns out to. A pixel that has stopped has its alpha capped to zero. AHEAD loads a group
    while the one before is composited: more registers, so fewer programs at once.

    Args (pointers):
      turns: [B, TILES] int32: in which order the tiles' programs start.
      splats: [B, N + 1, STRIDE] float32.
      background: [B, H, W, D] if BACKGROUND is 2, [B, D] if 1, not read if 0; float32, or bytes.
      bounds, lengths, ids: of `QuarterLists`.
      depth: [B, H, W] out, but not with BYTES: summed, or with MEDIAN that of one splat.
      left: [B, H, W] out: the transmittance; with BYTES the opacity, in bytes.
      stops: [B, H, W] int32 out, but not with BYTES: list entries before the stop; all of them if
        there is none. With MEDIAN [B, H, W, 2]: and the entry whose depth it is, -1 if none.
      rgb: [B, H, W, D] out, float32 or, with BYTES, bytes; with IN_PLACE instead of the background.
    """
    if IN_PLACE:  # a pixel's background is read and its color written by the same lane
        rgb = background
    frame, start, n, _, column, row = place_program(
        turns, bounds, lengths, FRAMES, TILES, COLUMNS, CAPACITY, ASM
    )
    ids += start
    splats += frame.to(tl.int64) * ((N + 1) * STRIDE)
    pixel_x = column.to(tl.float32) + 0.5
    pixel_y = row.to(tl.float32) + 0.5
    light = (tl.full([LANES], 1.0, tl.float32), tl.full([LANES], 1.0, tl.float32))
    cap, stop = (), ()
    for h in tl.static_range(2):
        on_image = (column < WIDTH) & (row + GROUP * h < HEIGHT)
        cap = cap + (tl.where(on_image, ALPHA_MAX, 0.0),)
        stop = stop + (tl.zeros([LANES], tl.int32) + n,)
    FEATURES: tl.constexpr = COLORS + 1 - MEDIAN  # that are summed
    total = ()
    for _ in tl.static_range(2 * FEATURES):
        total = total + (tl.zeros([LANES], tl.float32),)
    middle0, middle1 = (), ()
    if MEDIAN:
        middle0 = (tl.zeros([LANES], tl.float32), tl.zeros([LANES], tl.int32) - 1)
        middle1 = (tl.zeros([LANES], tl.float32), tl.zeros([LANES], tl.int32) - 1)

    k = 0
    n_left = n  # none once every pixel has stopped
    # Which splats come next is loaded a step ahead: past every list lie at least four entries.
    some = ptx.load4(ids, ASM)
    ahead = ()
    if AHEAD:
        ahead, ids, some = _load_first(splats, ids, some, n, N, STRIDE, ASM)
    while k < n_left:
        group, ahead, ids, some = _load_next(splats, ids, some, ahead, k, n, STRIDE, AHEAD, ASM)
        alphas, weights, after = _weigh_group(
            group, light, cap, pixel_x, pixel_y, LOG_MIN, ALPHA_MAX, ASM
        )
        w0, w1, after0, after1 = weights[0], weights[1], after[0], after[1]
        cap0, cap1, stop0, stop1 = cap[0], cap[1], stop[0], stop[1]
        if _any(tl.minimum(after0, after1) < STOP):
            w0, after0, cap0, stop0 = _stop(alphas[0], light[0], cap0, stop0, k, STOP, ALPHA_MAX)
            w1, after1, cap1, stop1 = _stop(alphas[1], light[1], cap1, stop1, k, STOP, ALPHA_MAX)
            n_left = tl.where(_any(tl.maximum(cap0, cap1) > 0.0), n_left, 0)
        if MEDIAN:
            middle0 = _find_middle(middle0, w0, group, light[0], k, SHAPE + COLORS)
            middle1 = _find_middle(middle1, w1, group, light[1], k, SHAPE + COLORS)
        light, cap, stop = (after0, after1), (cap0, cap1), (stop0, stop1)
        total = _add_features(total, (w0, w1), group, FEATURES)
        k += GROUP

    # Computed again, so that they take no registers in the loop.
    column, row = (pixel_x - 0.5).to(tl.int32), (pixel_y - 0.5).to(tl.int32)
    frame = tl.program_id(0) // 4 % FRAMES
    for h in tl.static_range(2):
        on_image = (column < WIDTH) & (row + GROUP * h < HEIGHT)
        pixel = (frame * HEIGHT + row + GROUP * h) * WIDTH + column
        _store_pixel(
            background, rgb, depth, left, stops, total[h::2], light[h], stop[h],
            middle1 if h else middle0, frame, pixel, on_image, COLORS, BACKGROUND, BYTES, MEDIAN,
        )  # fmt: skip
