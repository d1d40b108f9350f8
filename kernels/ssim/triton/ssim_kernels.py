"""Triton kernels of `ssim.mean_ssim_triton`: SSIM with its slopes, and the gradient from those.

A row of an image is LENGTH = WIDTH x CHANNELS numbers side by side; the next pixel's number of the
same channel is CHANNELS further on. A program walks down a strip of LANES columns of such numbers
and makes ROWS rows of results. Of every row it loads eleven neighbors of each of its numbers (the
first time from memory, ten times from the first-level cache), blurs them across, and adds the
result to the ten sums down the column that are under way: `sums[k]` lacks the next k + 1 rows. So
nothing but the results is written, and what a program loads twice are margins of five.
"""

import triton
import triton.language as tl

from kernels.ssim import reference

WINDOW = tl.constexpr(reference.WINDOW)
RADIUS = tl.constexpr(reference.WINDOW // 2)
C1 = tl.constexpr(reference.C1)
C2 = tl.constexpr(reference.C2)
WEIGHTS = tl.constexpr(tuple(map(float, reference.gaussian_window())))


@triton.jit
def _strip(
    HEIGHT: tl.constexpr, LENGTH: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr,
    LANES: tl.constexpr,
):  # fmt: skip
    """Place a program: its image, first row, last row + 1, columns, and whether all are amid.

    Columns are amid if the row has five pixels on either side of each. Programs of the same rows
    are neighbors: what they share comes from the second-level cache.
    """
    strips: tl.constexpr = (LENGTH + LANES - 1) // LANES
    chunks: tl.constexpr = (HEIGHT + ROWS - 1) // ROWS
    program = tl.program_id(0)
    left = program % strips * LANES
    first = program // strips % chunks * ROWS
    amid = (left >= RADIUS * CHANNELS) & (left + LANES + RADIUS * CHANNELS <= LENGTH)
    last = tl.minimum(first + ROWS, HEIGHT)
    return program // strips // chunks, first, last, left + tl.arange(0, LANES), amid


@triton.jit
def _neighbors(row, column, inside, amid, LENGTH: tl.constexpr, CHANNELS: tl.constexpr):
    """Eleven pixels around each column of a row, zeros outside the image.

    Args:
      row: pointers to the columns' numbers in it; may lead outside the array.
      column: numbers of the columns.
      inside: whether the image has this row.
      amid: whether the row has all of these pixels: most programs load without masks.
      LENGTH: of the row.
      CHANNELS: numbers of a pixel.
    """
    if amid & inside:
        near = ()
        for k in tl.static_range(WINDOW):
            near = near + (tl.load(row + (k - RADIUS) * CHANNELS),)
    else:
        near = ()
        for k in tl.static_range(WINDOW):
            at = column + (k - RADIUS) * CHANNELS
            exists = inside & (at >= 0) & (at < LENGTH)
            near = near + (tl.load(row + (k - RADIUS) * CHANNELS, mask=exists, other=0.0),)
    return near


@triton.jit
def _pairs(near):
    """Add up what has the same weight: from the outermost neighbors to the pixel itself."""
    pairs = ()
    for k in tl.static_range(RADIUS):
        pairs = pairs + (near[k] + near[WINDOW - 1 - k],)
    return pairs + (near[RADIUS],)


@triton.jit
def _pairs_of_products(a, b):
    """Likewise of a a + b b, and of a b."""
    squares = ()
    cross = ()
    for k in tl.static_range(RADIUS):
        a1, a2, b1, b2 = a[k], a[WINDOW - 1 - k], b[k], b[WINDOW - 1 - k]
        squares = squares + (a1 * a1 + a2 * a2 + b1 * b1 + b2 * b2,)
        cross = cross + (a1 * b1 + a2 * b2,)
    a1, b1 = a[RADIUS], b[RADIUS]
    return squares + (a1 * a1 + b1 * b1,), cross + (a1 * b1,)


@triton.jit
def _across(pairs):
    """Mean of the neighbors by the window."""
    total = WEIGHTS[0] * pairs[0]
    for k in tl.static_range(1, RADIUS + 1):
        total += WEIGHTS[k] * pairs[k]
    return total


@triton.jit
def _begin(zero, COUNT: tl.constexpr):
    """Sums down the columns of COUNT maps before their first row."""
    some = ()
    for _k in tl.static_range(WINDOW - 1):
        some = some + (zero,)
    sums = ()
    for _k in tl.static_range(COUNT):
        sums = sums + (some,)
    return sums


@triton.jit
def _down(sums, row):
    """Add one more row: what it completes, and the sums that are under way after it."""
    moved = ()
    for k in tl.static_range(1, WINDOW - 1):
        moved = moved + (sums[k] + WEIGHTS[k] * row,)
    return sums[0] + WEIGHTS[0] * row, moved + (WEIGHTS[0] * row,)


@triton.jit
def _down_all(sums, rows):
    """`_down` of every map."""
    done = ()
    moved = ()
    for i in tl.static_range(len(rows)):
        one, rest = _down(sums[i], rows[i])
        done = done + (one,)
        moved = moved + (rest,)
    return done, moved


@triton.jit
def _moments(
    rendered, target, frame, y, column, amid,
    HEIGHT: tl.constexpr, LENGTH: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Both images, their squares together and their product, of a row, blurred across."""
    place = (frame * HEIGHT + y) * LENGTH + column
    inside = (y >= 0) & (y < HEIGHT)
    a = _neighbors(rendered + place, column, inside, amid, LENGTH, CHANNELS)
    b = _neighbors(target + place, column, inside, amid, LENGTH, CHANNELS)
    squares, cross = _pairs_of_products(a, b)
    return _across(_pairs(a)), _across(_pairs(b)), _across(squares), _across(cross)


@triton.jit
def _compare(mean_a, mean_b, squares, cross):
    """SSIM, and its derivatives by E[a], by E[a a] and by E[a b]."""
    both = mean_a * mean_b
    power = mean_a * mean_a + mean_b * mean_b
    top1, top2 = 2.0 * both + C1, 2.0 * (cross - both) + C2
    low1, low2 = power + C1, squares - power + C2
    share = 1.0 / (low1 * low2)
    value = top1 * top2 * share
    by_mean = 2.0 * share * (mean_b * (top2 - top1) + mean_a * value * (low1 - low2))
    return value, by_mean, -value * low1 * share, 2.0 * top1 * share


@triton.jit
def forward_kernel(
    rendered, target, sums, by_mean, by_square, by_cross,
    HEIGHT: tl.constexpr, LENGTH: tl.constexpr, CHANNELS: tl.constexpr, SLOPES: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Sum of SSIM over a program's numbers and, if SLOPES, the derivatives of each.

    Args (pointers, float32):
      rendered, target: [B, HEIGHT, LENGTH].
      sums: [programs], written.
      by_mean, by_square, by_cross: [B, HEIGHT, LENGTH], written if SLOPES.
    """
    frame, first, last, column, amid = _strip(HEIGHT, LENGTH, CHANNELS, ROWS, LANES)
    own = column < LENGTH
    total = tl.zeros([LANES], tl.float32)
    down = _begin(total, 4)
    y = first - RADIUS
    while y < first + RADIUS:
        rows = _moments(rendered, target, frame, y, column, amid, HEIGHT, LENGTH, CHANNELS)
        _done, down = _down_all(down, rows)
        y += 1
    y = first
    while y < last:
        rows = _moments(rendered, target, frame, y + RADIUS, column, amid, HEIGHT, LENGTH, CHANNELS)
        means, down = _down_all(down, rows)
        value, mean, square, cross = _compare(means[0], means[1], means[2], means[3])
        total += tl.where(own, value, 0.0)
        if SLOPES:
            place = (frame * HEIGHT + y) * LENGTH + column
            tl.store(by_mean + place, mean, mask=own)
            tl.store(by_square + place, square, mask=own)
            tl.store(by_cross + place, cross, mask=own)
        y += 1
    tl.store(sums + tl.program_id(0), tl.sum(total))


@triton.jit
def _slopes(
    by_mean, by_square, by_cross, frame, y, column, amid,
    HEIGHT: tl.constexpr, LENGTH: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Derivatives of a row, blurred across."""
    place = (frame * HEIGHT + y) * LENGTH + column
    inside = (y >= 0) & (y < HEIGHT)
    mean = _neighbors(by_mean + place, column, inside, amid, LENGTH, CHANNELS)
    square = _neighbors(by_square + place, column, inside, amid, LENGTH, CHANNELS)
    cross = _neighbors(by_cross + place, column, inside, amid, LENGTH, CHANNELS)
    return _across(_pairs(mean)), _across(_pairs(square)), _across(_pairs(cross))


@triton.jit
def backward_kernel(
    rendered, target, by_mean, by_square, by_cross, cotangent, gradient,
    HEIGHT: tl.constexpr, LENGTH: tl.constexpr, CHANNELS: tl.constexpr, SCALE: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Gradient of the mean by `rendered`; the blur is its own transpose.

    Args (pointers, float32):
      rendered, target, by_mean, by_square, by_cross: as in `forward_kernel`.
      cotangent: [1], of the mean.
      gradient: [B, HEIGHT, LENGTH], written.
      SCALE: one over how many numbers there are.
    """
    frame, first, last, column, amid = _strip(HEIGHT, LENGTH, CHANNELS, ROWS, LANES)
    own = column < LENGTH
    scale = tl.load(cotangent) * SCALE
    down = _begin(tl.zeros([LANES], tl.float32), 3)
    y = first - RADIUS
    while y < first + RADIUS:
        rows = _slopes(
            by_mean, by_square, by_cross, frame, y, column, amid, HEIGHT, LENGTH, CHANNELS
        )
        _done, down = _down_all(down, rows)
        y += 1
    y = first
    while y < last:
        rows = _slopes(
            by_mean, by_square, by_cross, frame, y + RADIUS, column, amid, HEIGHT, LENGTH, CHANNELS
        )
        slopes, down = _down_all(down, rows)
        place = (frame * HEIGHT + y) * LENGTH + column
        a = tl.load(rendered + place, mask=own, other=0.0)
        b = tl.load(target + place, mask=own, other=0.0)
        slope = slopes[0] + 2.0 * a * slopes[1] + b * slopes[2]
        tl.store(gradient + place, scale * slope, mask=own)
        y += 1
