"""Triton kernel of `projection`'s adjoint: gradients of all that is projected.

Computes the projection again from the inputs: cheaper than to keep it. As in `projection_kernels`,
one warp walks over the frames and sums the gradients of shared arrays in registers, in the order of
the frames. Mathematics and notation: `projection_parts`. Adjoints are by hand, each beside the
function it belongs to; `grad_x` is the gradient of the loss in `x`.
"""

import triton
import triton.language as tl

from kernels.rasterize.triton.harmonics_kernels import basis_adjoint, basis_of, color_of
from kernels.rasterize.triton.projection_parts import (
    SHAPE,
    add,
    axes_of,
    compensated,
    cross,
    direction_to,
    dot,
    is_visible,
    keep,
    load_camera,
    load_gaussian,
    load_row,
    place,
    project,
    rotation_of,
    store_row,
    times,
    to_world,
    zeros,
)

CAMERA = tl.constexpr(16)  # numbers of the gradient of a camera: rows of [W | w], fx, fy, cx, cy


@triton.jit
def _give(
    pointer, row, mask, total, numbers,
    FLAG: tl.constexpr, LENGTH: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Store a frame's own gradient, or add it to the total of an array that all frames share."""
    if FLAG:
        store_row(pointer, row, numbers, mask, LENGTH, ASM)
    else:
        total = add(total, numbers)
    return total


@triton.jit
def _give_sum(
    pointer, row, mask, total, FLAG: tl.constexpr, LENGTH: tl.constexpr, ASM: tl.constexpr
):
    """Store the total of an array that all frames share."""
    if not FLAG:
        store_row(pointer, row, total, mask, LENGTH, ASM)


@triton.jit
def _splat_adjoint(sums, covariance):
    """Gradients of x, y and of a, b, det from the six sums of the walk back over the pixels."""
    g, g_a, g_c, g_aa, g_ac, g_cc = sums[:6]
    a, b, _, det = covariance
    inverse, inverse_det = 1.0 / a, 1.0 / det
    p, s, q = 0.5 * inverse, b * inverse, 0.5 * a * inverse_det
    grad_s = 2.0 * q * g_ac
    grad_a = (p * g_aa - s * grad_s - q * g_cc) * inverse
    return (
        2.0 * (p * g_a - q * s * g_c), 2.0 * q * g_c, grad_a, grad_s * inverse,
        q * inverse_det * g_cc,
    )  # fmt: skip


@triton.jit
def _rows_adjoint(
    projected, g, grad_a, grad_b, grad_det, EPS: tl.constexpr, ANTIALIAS: tl.constexpr
):
    """Gradients of u and v from those of a, b and det; and of ln opacity, if they scale it."""
    u, v, n = projected[4], projected[5], projected[6]
    if ANTIALIAS:  # by sqrt(n.n / det)
        grad_area = 0.5 * g / dot(n, n)
        grad_det -= 0.5 * g / projected[7][3]
        grad_n = times(2.0 * (grad_det + grad_area), n)
    else:
        grad_n = times(2.0 * grad_det, n)
    grad_xx = 2.0 * (grad_a + EPS * grad_det)
    grad_yy = 2.0 * EPS * grad_det
    from_u, from_v = cross(v, grad_n), cross(grad_n, u)
    grad_u = add(from_u, add(times(grad_xx, u), times(grad_b, v)))
    grad_v = add(from_v, add(times(grad_yy, v), times(grad_b, u)))
    return grad_u, grad_v


@triton.jit
def _times_axes_adjoint(grad, axes):
    """M grad: gradient of a row from that of the row times M."""
    return (
        grad[0] * axes[0] + grad[1] * axes[1] + grad[2] * axes[2],
        grad[0] * axes[3] + grad[1] * axes[4] + grad[2] * axes[5],
        grad[0] * axes[6] + grad[1] * axes[7] + grad[2] * axes[8],
    )


@triton.jit
def _axes_adjoint(grad, quat, scale):
    """Gradients of the quaternion and the scales from that of M.

    R = F / |quat|^2 with F quadratic: grad F = G = grad R / |quat|^2, and |quat|^2 gets -<G, R>.
    """
    rotation, inverse = rotation_of(quat)
    w, x, y, z = quat
    g = ()
    for i in tl.static_range(9):
        g = g + (grad[i] * scale[i % 3] * inverse,)
    norm = g[0] * rotation[0]
    for i in tl.static_range(1, 9):
        norm += g[i] * rotation[i]
    xy, xz, yz = g[1] + g[3], g[2] + g[6], g[5] + g[7]
    wx, wy, wz = g[7] - g[5], g[2] - g[6], g[3] - g[1]
    grad_quat = (
        2.0 * (w * (g[0] + g[4] + g[8] - norm) + x * wx + y * wy + z * wz),
        2.0 * (x * (g[0] - g[4] - g[8] - norm) + w * wx + y * xy + z * xz),
        2.0 * (y * (g[4] - g[0] - g[8] - norm) + w * wy + x * xy + z * yz),
        2.0 * (z * (g[8] - g[0] - g[4] - norm) + w * wz + x * xz + y * yz),
    )
    grad_scale = (
        grad[0] * rotation[0] + grad[3] * rotation[3] + grad[6] * rotation[6],
        grad[1] * rotation[1] + grad[4] * rotation[4] + grad[7] * rotation[7],
        grad[2] * rotation[2] + grad[5] * rotation[5] + grad[8] * rotation[8],
    )
    return grad_quat, grad_scale


@triton.jit
def _center_adjoint(grad_x, grad_y, grad_row_x, grad_row_y, grad_depth, projected, camera):
    """Gradient of t, the center in camera space, and of the focal lengths.

    J = (focal / tz) (W_x - k W_z): the factor gets <grad J, W_x - k W_z>, which is <grad J, J> over
    the factor; k gets -(focal / tz) <grad J, W_z>, and nothing where it is clamped.
    """
    center, inside, row_x, row_y = projected[0], projected[1], projected[2], projected[3]
    along_z, focals = camera[2], camera[4]
    inverse = center[2]
    factor_x, factor_y = focals[0] * inverse, focals[1] * inverse
    ratio_x = tl.where(inside[0], dot(grad_row_x, along_z), 0.0)
    ratio_y = tl.where(inside[1], dot(grad_row_y, along_z), 0.0)
    # Gradients of r, over tz; of ln(focal / tz).
    ratio_x = factor_x * (grad_x - ratio_x * inverse)
    ratio_y = factor_y * (grad_y - ratio_y * inverse)
    log_x, log_y = dot(grad_row_x, row_x), dot(grad_row_y, row_y)
    grad_z = grad_depth - inverse * (log_x + log_y) - center[0] * ratio_x - center[1] * ratio_y
    grad_focals = (
        center[0] * grad_x + log_x / focals[0], center[1] * grad_y + log_y / focals[1]
    )  # fmt: skip
    return (ratio_x, ratio_y, grad_z), grad_focals


@triton.jit
def _times_all(factor, numbers):
    scaled = ()
    for i in tl.static_range(len(numbers)):
        scaled = scaled + (factor * numbers[i],)
    return scaled


@triton.jit
def _keep_positive(values, grads):
    """Gradient through max(0, value)."""
    kept = ()
    for i in tl.static_range(len(values)):
        kept = kept + (tl.where(values[i] > 0.0, grads[i], 0.0),)
    return kept


@triton.jit
def _view_adjoint(direction, inverse, grad, coefficients, DEGREE: tl.constexpr):
    """Gradient of the vector from the camera center to the Gaussian, through its direction."""
    t = ()
    for k in tl.static_range((DEGREE + 1) * (DEGREE + 1)):
        value = coefficients[k * len(grad)] * grad[0]
        for d in tl.static_range(1, len(grad)):
            value += coefficients[k * len(grad) + d] * grad[d]
        t = t + (value,)
    along = basis_adjoint(direction, t, DEGREE)
    return times(inverse, add(along, times(-dot(along, direction), direction)))


@triton.jit
def _camera_adjoint(
    mean, grad_center, grad_view, grad_row_x, grad_row_y, grad_x, grad_y, grad_focals, projected,
    camera,
):  # fmt: skip
    """Gradient of a camera: rows of [W | w], fx, fy, cx, cy.

    Through t, through J and through the direction, whose vector is mean + W^T w.
    """
    along_x, along_y, along_z, shift, focals = camera
    inverse, clamped = projected[0][2], projected[8]
    by_x = times(focals[0] * inverse, grad_row_x)
    by_y = times(focals[1] * inverse, grad_row_y)
    grad = ()
    for i in tl.static_range(3):
        along = camera[i]
        for j in tl.static_range(3):
            value = grad_center[i] * mean[j] + shift[i] * grad_view[j]
            if i == 0:
                value += by_x[j]
            if i == 1:
                value += by_y[j]
            if i == 2:
                value -= clamped[0] * by_x[j] + clamped[1] * by_y[j]
            grad = grad + (value,)
        grad = grad + (grad_center[i] + dot(along, grad_view),)
    return grad + grad_focals + (grad_x, grad_y)


@triton.jit
def _adjoint(
    gaussian, sums, camera, exists,
    CHANNELS: tl.constexpr, DEGREE: tl.constexpr, DEPTH: tl.constexpr, WIDTH: tl.constexpr,
    HEIGHT: tl.constexpr, NEAR: tl.constexpr, EPS: tl.constexpr, ALPHA_MIN: tl.constexpr,
    ANTIALIAS: tl.constexpr,
):  # fmt: skip
    """Visibility; gradients of the mean, M, the offset, the coefficients and the camera.

    Zero for a culled Gaussian: selected at the end, because its numbers may be NaN.
    """
    mean, quat, scale, opacity, coefficients, offset, _ = gaussian
    axes = axes_of(quat, scale)
    projected = project(mean, axes, camera, WIDTH, HEIGHT, EPS)
    row_x, row_y, covariance = projected[2], projected[3], projected[7]
    x, y = place(projected[0], camera, offset)
    visible = is_visible(gaussian, x, y, projected[0][3], covariance, NEAR, ALPHA_MIN)
    visible = visible & exists
    if ANTIALIAS:
        visible = visible & (compensated(opacity, projected) >= ALPHA_MIN)

    grad_x, grad_y, grad_a, grad_b, grad_det = _splat_adjoint(sums, covariance)
    grad_u, grad_v = _rows_adjoint(projected, sums[0], grad_a, grad_b, grad_det, EPS, ANTIALIAS)
    grad_axes = ()
    for i in tl.static_range(9):
        grad_axes = grad_axes + (row_x[i // 3] * grad_u[i % 3] + row_y[i // 3] * grad_v[i % 3],)
    grad_depth = tl.zeros_like(grad_x)
    if DEPTH:
        grad_depth = sums[SHAPE + CHANNELS]
    grad_row_x, grad_row_y = _times_axes_adjoint(grad_u, axes), _times_axes_adjoint(grad_v, axes)
    grad_center, grad_focals = _center_adjoint(
        grad_x, grad_y, grad_row_x, grad_row_y, grad_depth, projected, camera
    )
    grad_mean = to_world(grad_center, camera)
    grad_view = (tl.zeros_like(grad_x), tl.zeros_like(grad_x), tl.zeros_like(grad_x))
    grad_color = keep(visible, sums[SHAPE : SHAPE + CHANNELS])
    grad_coefficients = grad_color
    if DEGREE >= 0:
        direction, inverse = direction_to(mean, camera)
        direction = keep(visible, direction)
        basis = basis_of(direction, DEGREE)
        color = color_of(basis, coefficients, CHANNELS)
        grad_color = _keep_positive(color, grad_color)
        grad_coefficients = ()
        for k in tl.static_range((DEGREE + 1) * (DEGREE + 1)):
            grad_coefficients = grad_coefficients + _times_all(basis[k], grad_color)
        if DEGREE >= 1:
            grad_view = _view_adjoint(direction, inverse, grad_color, coefficients, DEGREE)
            grad_mean = add(grad_mean, grad_view)
    grad_camera = _camera_adjoint(
        mean, grad_center, grad_view, grad_row_x, grad_row_y, grad_x, grad_y, grad_focals,
        projected, camera,
    )  # fmt: skip
    return (
        visible, keep(visible, grad_mean), keep(visible, grad_axes),
        keep(visible, (grad_x, grad_y)), grad_coefficients, keep(visible, grad_camera),
    )  # fmt: skip


@triton.jit
def project_backward_kernel(
    means, quats, scales, opacities, colors, offsets, alive, viewmats, Ks, sums,
    grad_means, grad_quats, grad_scales, grad_opacities, grad_colors, grad_offsets, partials,
    MEANS: tl.constexpr, QUATS: tl.constexpr, SCALES: tl.constexpr, OPACITIES: tl.constexpr,
    COLORS: tl.constexpr, OFFSETS: tl.constexpr, ALIVE: tl.constexpr, N: tl.constexpr,
    CHUNKS: tl.constexpr, FRAMES: tl.constexpr, CHANNELS: tl.constexpr, DEGREE: tl.constexpr,
    USED: tl.constexpr, LENGTH: tl.constexpr, ROW: tl.constexpr, DEPTH: tl.constexpr,
    CAMERA_GRADIENT: tl.constexpr, OFFSET_GRADIENT: tl.constexpr, WIDTH: tl.constexpr,
    HEIGHT: tl.constexpr, NEAR: tl.constexpr, EPS: tl.constexpr, ALPHA_MIN: tl.constexpr,
    ANTIALIAS: tl.constexpr, BLOCK: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Gradients of a chunk of Gaussians from the sums of the walk back over the pixels.

    Args (pointers, float32):
      means ... Ks: as above.
      sums: [B, N, ROW]: with g the cotangent of ln alpha, sums of g, g a, g c, g a a, g a c, g c c
        for the two linear forms a, c of a splat; cotangents of the colors, and of depth if DEPTH.
      grad_means ... grad_offsets: of the inputs' shapes, out; the last only with OFFSET_GRADIENT.
      partials: [B, CHUNKS, 16] out, only with CAMERA_GRADIENT.
    """
    chunk = tl.program_id(0) % CHUNKS
    first = tl.program_id(0) // CHUNKS * FRAMES
    row = chunk * BLOCK + tl.arange(0, BLOCK)
    exists = row < N
    own = tl.minimum(row, N - 1)
    shared = load_gaussian(
        (0, 0, 0, 0, 0, 0, 0), means, quats, scales, opacities, colors, offsets, alive, own,
        1, 1, 1, 1, 1, 1, 1, USED, LENGTH, ASM,
    )  # fmt: skip
    mean_sum, scale_sum, quat_sum = zeros(3, BLOCK), zeros(3, BLOCK), zeros(4, BLOCK)
    axes_sum, offset_sum = zeros(9, BLOCK), zeros(2, BLOCK)
    opacity_sum, color_sum = zeros(1, BLOCK), zeros(USED, BLOCK)
    seen = row < 0  # visible in any frame
    for i in range(FRAMES):
        frame = first + i
        at = frame * N + own
        gaussian = load_gaussian(
            shared, means, quats, scales, opacities, colors, offsets, alive, at,
            MEANS, QUATS, SCALES, OPACITIES, COLORS, OFFSETS, ALIVE, USED, LENGTH, ASM,
        )  # fmt: skip
        given = load_row(sums, at, ROW, ROW, ASM)
        camera = load_camera(viewmats, Ks, frame, ASM)
        visible, mean, axes, offset, color, camera_sum = _adjoint(
            gaussian, given, camera, exists, CHANNELS, DEGREE, DEPTH, WIDTH, HEIGHT, NEAR, EPS,
            ALPHA_MIN, ANTIALIAS,
        )  # fmt: skip
        seen = seen | visible
        mean_sum = _give(grad_means, at, exists, mean_sum, mean, MEANS, 3, ASM)
        if OFFSET_GRADIENT:
            offset_sum = _give(grad_offsets, at, exists, offset_sum, offset, OFFSETS, 2, ASM)
        color_sum = _give(grad_colors, at, exists, color_sum, color, COLORS, LENGTH, ASM)
        # Where a factor of the gradient is shared too, it is applied once, after the sum.
        opacity = (tl.where(visible, given[0], 0.0),)
        if OPACITIES:
            opacity = (tl.where(visible, given[0] / gaussian[3], 0.0),)
        opacity_sum = _give(grad_opacities, at, exists, opacity_sum, opacity, OPACITIES, 1, ASM)
        if QUATS or SCALES:
            quat, scale = _axes_adjoint(axes, gaussian[1], gaussian[2])
            quat, scale = keep(visible, quat), keep(visible, scale)
            quat_sum = _give(grad_quats, at, exists, quat_sum, quat, QUATS, 4, ASM)
            scale_sum = _give(grad_scales, at, exists, scale_sum, scale, SCALES, 3, ASM)
        else:
            axes_sum = add(axes_sum, axes)
        if CAMERA_GRADIENT:
            partial = partials + (frame * CHUNKS + chunk) * CAMERA
            for j in tl.static_range(CAMERA):
                tl.store(partial + j, tl.sum(camera_sum[j], axis=0))

    if not (QUATS or SCALES):
        quat_sum, scale_sum = _axes_adjoint(axes_sum, shared[1], shared[2])
        quat_sum, scale_sum = keep(seen, quat_sum), keep(seen, scale_sum)
    opacity_sum = (tl.where(seen, opacity_sum[0] / shared[3], 0.0),)
    _give_sum(grad_means, own, exists, mean_sum, MEANS, 3, ASM)
    _give_sum(grad_quats, own, exists, quat_sum, QUATS, 4, ASM)
    _give_sum(grad_scales, own, exists, scale_sum, SCALES, 3, ASM)
    _give_sum(grad_opacities, own, exists, opacity_sum, OPACITIES, 1, ASM)
    _give_sum(grad_colors, own, exists, color_sum, COLORS, LENGTH, ASM)
    if OFFSET_GRADIENT:
        _give_sum(grad_offsets, own, exists, offset_sum, OFFSETS, 2, ASM)
