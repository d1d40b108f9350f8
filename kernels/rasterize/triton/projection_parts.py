"""Triton functions that the projection, its adjoint and (rows of numbers) the lists share.

Mathematics of `projection`. One Gaussian per lane; a vector is a tuple of numbers per lane, or of
scalars where it belongs to the camera.

Notation: W, w rotation and translation of the camera; M = R S the Gaussian's axes times their
standard deviations, M[j, k] at 3 j + k; t = W m + w the center in camera space; r = (tx, ty) / tz,
and k the same clamped near the image; u, v the rows of a square root of the 2-D covariance:

    J_x = fx / tz (W_x - k_x W_z),   u = J_x M,   a = u.u + eps,   b = u.v
    J_y = fy / tz (W_y - k_y W_z),   v = J_y M,   c = v.v + eps,   n = u x v
    det = n.n + eps (u.u + v.v) + eps^2  (Cauchy-Binet),   p = 1 / 2a,  s = b / a,  q = a / 2 det

With ANTIALIAS the opacity is scaled by sqrt(n.n / det): n.n is the determinant without eps.
"""

import triton
import triton.language as tl

from kernels.rasterize.triton.ptx import load4, store4
from kernels.rasterize.xla.projection import MAX_CENTER, MAX_NUMBER, MAX_VARIANCE

NUMBER = tl.constexpr(MAX_NUMBER)
CENTER = tl.constexpr(MAX_CENTER)
VARIANCE = tl.constexpr(MAX_VARIANCE)
SHAPE = tl.constexpr(6)  # numbers of a splat, and of a row of sums, that are not features


@triton.jit
def load_row(pointer, row, COUNT: tl.constexpr, LENGTH: tl.constexpr, ASM: tl.constexpr):
    """The first COUNT numbers of rows that have LENGTH each."""
    at = pointer + row * LENGTH
    numbers = ()
    if LENGTH % 4 == 0:
        for i in tl.static_range(0, COUNT, 4):
            v0, v1, v2, v3 = load4(at + i, ASM)
            numbers = numbers + (v0, v1, v2, v3)
    else:
        for i in tl.static_range(COUNT):
            numbers = numbers + (tl.load(at + i),)
    return numbers[0:COUNT]


@triton.jit
def store_row(pointer, row, numbers, mask, LENGTH: tl.constexpr, ASM: tl.constexpr):
    """Store rows of LENGTH numbers: these, then zeros."""
    at = pointer + row * LENGTH
    for _ in tl.static_range(len(numbers), LENGTH):
        numbers = numbers + (tl.zeros_like(numbers[0]),)
    if LENGTH % 4 == 0:
        for i in tl.static_range(0, LENGTH, 4):
            store4(
                at + i, numbers[i], numbers[i + 1], numbers[i + 2], numbers[i + 3], mask, ASM
            )  # fmt: skip
    else:
        for i in tl.static_range(LENGTH):
            tl.store(at + i, numbers[i], mask=mask)


@triton.jit
def zeros(COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """A tuple of COUNT zeros."""
    numbers = ()
    for _ in tl.static_range(COUNT):
        numbers = numbers + (tl.zeros([BLOCK], tl.float32),)
    return numbers


@triton.jit
def add(left, right):
    """Sum of two tuples, number by number."""
    total = ()
    for i in tl.static_range(len(left)):
        total = total + (left[i] + right[i],)
    return total


@triton.jit
def keep(mask, numbers):
    """Zero where `mask` is false, NaN or not."""
    kept = ()
    for i in tl.static_range(len(numbers)):
        kept = kept + (tl.where(mask, numbers[i], 0.0),)
    return kept


@triton.jit
def dot(a, b):
    """Inner product of two vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@triton.jit
def cross(a, b):
    """Vector product."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@triton.jit
def times(factor, a):
    """A vector times a number."""
    return factor * a[0], factor * a[1], factor * a[2]


@triton.jit
def load_gaussian(
    before, means, quats, scales, opacities, colors, offsets, alive, row,
    MEANS: tl.constexpr, QUATS: tl.constexpr, SCALES: tl.constexpr, OPACITIES: tl.constexpr,
    COLORS: tl.constexpr, OFFSETS: tl.constexpr, ALIVE: tl.constexpr, USED: tl.constexpr,
    LENGTH: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """All numbers of the Gaussians of a row; `before` for the arrays whose flag is 0."""
    mean, quat, scale, opacity, coefficients, offset, is_alive = before
    if MEANS:
        mean = load_row(means, row, 3, 3, ASM)
    if QUATS:
        quat = load_row(quats, row, 4, 4, ASM)
    if SCALES:
        scale = load_row(scales, row, 3, 3, ASM)
    if OPACITIES:
        opacity = tl.load(opacities + row)
    if COLORS:
        coefficients = load_row(colors, row, USED, LENGTH, ASM)
    if OFFSETS:
        offset = load_row(offsets, row, 2, 2, ASM)
    if ALIVE:
        is_alive = tl.load(alive + row).to(tl.int1)
    return mean, quat, scale, opacity, coefficients, offset, is_alive


@triton.jit
def load_camera(viewmats, Ks, frame, ASM: tl.constexpr):
    """W_x, W_y, W_z, w and fx, fy, cx, cy: scalars."""
    x0, x1, x2, x3 = load4(viewmats + frame * 16, ASM)
    y0, y1, y2, y3 = load4(viewmats + frame * 16 + 4, ASM)
    z0, z1, z2, z3 = load4(viewmats + frame * 16 + 8, ASM)
    K = Ks + frame * 9
    focals = (tl.load(K), tl.load(K + 4), tl.load(K + 2), tl.load(K + 5))
    return (x0, x1, x2), (y0, y1, y2), (z0, z1, z2), (x3, y3, z3), focals


@triton.jit
def rotation_of(quat):
    """R and 1 / |quat|^2 of a quaternion (w, x, y, z) of any length but 0."""
    w, x, y, z = quat
    ww, xx, yy, zz = w * w, x * x, y * y, z * z
    inverse = 1.0 / (ww + xx + yy + zz)
    twice = 2.0 * inverse
    rotation = (
        (ww + xx - yy - zz) * inverse, (x * y - w * z) * twice, (x * z + w * y) * twice,
        (x * y + w * z) * twice, (ww - xx + yy - zz) * inverse, (y * z - w * x) * twice,
        (x * z - w * y) * twice, (y * z + w * x) * twice, (ww - xx - yy + zz) * inverse,
    )  # fmt: skip
    return rotation, inverse


@triton.jit
def axes_of(quat, scale):
    """M = R S."""
    rotation, _ = rotation_of(quat)
    axes = ()
    for i in tl.static_range(9):
        axes = axes + (rotation[i] * scale[i % 3],)
    return axes


@triton.jit
def _center(mean, camera):
    """Ratios r and inverse depth, depth."""
    along_x, along_y, along_z, shift, _ = camera
    depth = dot(along_z, mean) + shift[2]
    inverse = 1.0 / depth
    return (
        (dot(along_x, mean) + shift[0]) * inverse, (dot(along_y, mean) + shift[1]) * inverse,
        inverse, depth,
    )  # fmt: skip


@triton.jit
def _clamp(ratio, focal, center, SIZE: tl.constexpr):
    """Keep a ratio within 15 % beyond the image; and whether it was."""
    low = -(center + 0.15 * SIZE) / focal
    high = (1.15 * SIZE - center) / focal
    return tl.minimum(tl.maximum(ratio, low), high), (ratio >= low) & (ratio <= high)


@triton.jit
def _jacobian(factor, ratio, along, along_z):
    """J_x or J_y: factor (W_x - k W_z)."""
    return times(
        factor,
        (
            along[0] - ratio * along_z[0], along[1] - ratio * along_z[1],
            along[2] - ratio * along_z[2],
        ),
    )  # fmt: skip


@triton.jit
def _times_axes(row, axes):
    """The row vector times M."""
    return (
        row[0] * axes[0] + row[1] * axes[3] + row[2] * axes[6],
        row[0] * axes[1] + row[1] * axes[4] + row[2] * axes[7],
        row[0] * axes[2] + row[1] * axes[5] + row[2] * axes[8],
    )


@triton.jit
def project(mean, axes, camera, WIDTH: tl.constexpr, HEIGHT: tl.constexpr, EPS: tl.constexpr):
    """Center; whether its ratios are inside; J_x, J_y; u, v, n; a, b, c, det; clamped ratios."""
    along_x, along_y, along_z, _, focals = camera
    center = _center(mean, camera)
    ratio_x, inside_x = _clamp(center[0], focals[0], focals[2], WIDTH)
    ratio_y, inside_y = _clamp(center[1], focals[1], focals[3], HEIGHT)
    row_x = _jacobian(focals[0] * center[2], ratio_x, along_x, along_z)
    row_y = _jacobian(focals[1] * center[2], ratio_y, along_y, along_z)
    u = _times_axes(row_x, axes)
    v = _times_axes(row_y, axes)
    n = cross(u, v)
    xx = dot(u, u)
    yy = dot(v, v)
    det = dot(n, n) + EPS * (xx + yy) + EPS * EPS
    return (
        center, (inside_x, inside_y), row_x, row_y, u, v, n,
        (xx + EPS, dot(u, v), yy + EPS, det), (ratio_x, ratio_y),
    )  # fmt: skip


@triton.jit
def compensated(opacity, projected):
    """Opacity of which the blur takes what it adds to the area."""
    n = projected[6]
    return opacity * tl.sqrt(dot(n, n) / projected[7][3])


@triton.jit
def place(center, camera, offset):
    """Pixel coordinates."""
    focals = camera[4]
    return (
        focals[0] * center[0] + focals[2] + offset[0],
        focals[1] * center[1] + focals[3] + offset[1],
    )


@triton.jit
def _are_bounded(numbers):
    """Tell whether all are finite and of some use; false for NaN."""
    bounded = tl.abs(numbers[0]) < NUMBER
    for i in tl.static_range(1, len(numbers)):
        bounded = bounded & (tl.abs(numbers[i]) < NUMBER)
    return bounded


@triton.jit
def is_visible(
    gaussian, x, y, depth, covariance,
    NEAR: tl.constexpr, ALPHA_MIN: tl.constexpr,
):  # fmt: skip
    """Tell which Gaussians are drawn. Covariance and determinant are finite if a and c are."""
    mean, quat, scale, opacity, coefficients, offset, is_alive = gaussian
    visible = is_alive & (opacity >= ALPHA_MIN) & (opacity < NUMBER)
    visible = visible & _are_bounded(mean) & _are_bounded(quat) & _are_bounded(scale)
    visible = visible & _are_bounded(offset)
    for i in tl.static_range(0, len(coefficients), 4):
        visible = visible & _are_bounded(coefficients[i : i + 4])
    visible = visible & (depth >= NEAR) & (depth < NUMBER)
    visible = visible & (tl.abs(x) < CENTER) & (tl.abs(y) < CENTER)
    return visible & (covariance[0] < VARIANCE) & (covariance[2] < VARIANCE)


@triton.jit
def to_world(a, camera):
    """W^T a."""
    along_x, along_y, along_z = camera[0], camera[1], camera[2]
    return (
        along_x[0] * a[0] + along_y[0] * a[1] + along_z[0] * a[2],
        along_x[1] * a[0] + along_y[1] * a[1] + along_z[1] * a[2],
        along_x[2] * a[0] + along_y[2] * a[1] + along_z[2] * a[2],
    )


@triton.jit
def direction_to(mean, camera):
    """Unit vector from the camera center -W^T w to the Gaussian, and the inverse distance."""
    x, y, z = add(mean, to_world(camera[3], camera))
    inverse = tl.rsqrt(x * x + y * y + z * z)
    return (x * inverse, y * inverse, z * inverse), inverse
