"""Projection of 3-D Gaussians to image splats, and color from spherical harmonics.

Conventions: world -> camera `viewmats` with OpenCV axes (+x right, +y down, +z forward); pixels
with centers at integer + 0.5. Everything is plain differentiable JAX, written out component by
component except where a product keeps XLA's fusions small (see `_rotations`).

A splat is kept in factored form instead of a conic, because a sum of squares cannot cancel:

    power(dx, dy) = p * dx^2 + q * (dy - s * dx)^2,    p = 1/(2a),  s = b/a,  q = a/(2 det)

for the 2-D covariance [[a, b], [b, c]].

Place in the pipeline: (1) of 3; after: `binning`, `blend`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from kernels._written import written
from kernels.rasterize.types import Camera, Gaussians
from kernels.rasterize.xla.harmonics import spherical_harmonics, written_out

# Beyond these a splat means nothing in float32 and its gradient would overflow: culled.
MAX_NUMBER = 1e30  # anything
MAX_CENTER = 1e8  # pixels
MAX_VARIANCE = 1e14  # pixels^2
EXACT = jax.lax.Precision.HIGHEST  # no TF32 or bfloat16 products
# Coefficients of ww, wx, wy, wz, xx, xy, xz, yy, yz, zz in the rows of R |q|^2, then in |q|^2.
ROTATION_FORMS = np.array(
    [
        [1, 0, 0, 0, 1, 0, 0, -1, 0, -1],
        [0, 0, 0, -2, 0, 2, 0, 0, 0, 0],
        [0, 0, 2, 0, 0, 0, 2, 0, 0, 0],
        [0, 0, 0, 2, 0, 2, 0, 0, 0, 0],
        [1, 0, 0, 0, -1, 0, 0, 1, 0, -1],
        [0, -2, 0, 0, 0, 0, 0, 0, 2, 0],
        [0, 0, -2, 0, 0, 0, 2, 0, 0, 0],
        [0, 2, 0, 0, 0, 0, 0, 0, 2, 0],
        [1, 0, 0, 0, -1, 0, 0, -1, 0, 1],
        [1, 0, 0, 0, 1, 0, 0, 1, 0, 1],
    ]
).T


class Splats(NamedTuple):
    """Projected Gaussians. Culled ones hold finite harmless numbers and `visible` is False."""

    means2d: Float[Array, "B N 2"]
    depths: Float[Array, "B N"]
    cov_xx: Float[Array, "B N"]
    cov_xy: Float[Array, "B N"]
    cov_yy: Float[Array, "B N"]
    cov_det: Float[Array, "B N"]
    opacities: Float[Array, "B N"]  # with the compensation of `antialias`
    colors: Float[Array, "B N D"]
    visible: Bool[Array, "B N"]


def project(
    gaussians: Gaussians,
    alive: Bool[Array, "B N"],
    camera: Camera,
    *,
    sh_degree: int | None,
    alpha_min: float,
    shown: bool = False,
) -> Splats:
    """Project Gaussians and evaluate their colors, with culled ones made harmless.

    A Gaussian is culled when it is dead, in front of the near plane, too faint to reach `alpha_min`
    anywhere (with `camera.antialias` after its opacity is scaled), or when any number that belongs
    to it is not finite. A culled Gaussian is replaced by a sane one *before* the differentiated
    computation, so that no NaN can reach any gradient: a mask after it would multiply zero by NaN.

    Args:
      gaussians: Sets of Gaussians, one per frame.
      alive: False draws nothing.
      camera: Cameras, one per frame.
      sh_degree: Degree of the harmonics in `gaussians.colors`, or None for plain colors.
      alpha_min: Least opacity that draws.
      shown: Whether the images are only shown: the same once, not twice, and without the products
        below that make a gradient cheap. Culled splats are replaced afterwards then.

    Returns:
      Splats in pixels; depths in scene units.
    """
    fixed, fixed_camera = jax.lax.stop_gradient((gaussians, camera))
    fixed_camera = fixed_camera._replace(antialias=camera.antialias)  # a choice, no number
    if shown:
        trial = _project_unchecked(fixed, fixed_camera, sh_degree, alive)
    else:
        trial = _project_unchecked(fixed._replace(colors=fixed.colors[..., :0]), fixed_camera, None)
    visible = alive & (trial.opacities >= alpha_min) & (trial.depths >= camera.near_plane)
    for leaf in fixed + tuple(trial[:-1]):
        bounded = jnp.abs(leaf) < MAX_NUMBER  # False for NaN
        visible = visible & jnp.all(bounded, axis=tuple(range(2, bounded.ndim)))
    visible = visible & jnp.all(jnp.abs(trial.means2d) < MAX_CENTER, axis=-1)
    visible = visible & (trial.cov_xx < MAX_VARIANCE) & (trial.cov_yy < MAX_VARIANCE)
    if shown:
        choose = lambda v: jnp.where(visible if v.ndim == 2 else visible[..., None], v, 1)
        return jax.tree.map(choose, trial)._replace(visible=visible)
    safe = _replace_culled(gaussians, visible, fixed_camera)
    return _project_unchecked(safe, camera, sh_degree)._replace(visible=visible)


def radii_of(splats: Splats) -> Float[Array, "B N"]:
    """Three standard deviations along the longest axis, rounded up [pixels]."""
    half_trace = 0.5 * (splats.cov_xx + splats.cov_yy)
    half_gap = 0.5 * (splats.cov_xx - splats.cov_yy)
    largest = half_trace + jnp.sqrt(half_gap**2 + splats.cov_xy**2)
    return jnp.ceil(3.0 * jnp.sqrt(largest))


def _replace_culled(gaussians: Gaussians, visible: Bool[Array, "B N"], camera: Camera) -> Gaussians:
    """Put a unit Gaussian, 1 behind the near plane, in place of each culled one."""
    rotation, translation = camera.viewmats[:, :3, :3], camera.viewmats[:, :3, 3]
    # R^T (e_z * distance - t): multiply and sum, not a dot, which a TPU would round to bfloat16.
    in_camera = (
        -translation + jnp.array([0.0, 0.0, camera.near_plane + 1.0], translation.dtype)[None]
    )
    center = jnp.sum(rotation * in_camera[:, :, None], axis=1)[:, None, :]  # [B, 1, 3]
    dtype = gaussians.means.dtype
    unit_quat = jnp.array([1.0, 0.0, 0.0, 0.0], dtype)[None, None]
    fill = Gaussians(
        means=center,
        quats=unit_quat,
        scales=jnp.ones((1, 1, 1), dtype),
        opacities=jnp.ones((1, 1), dtype),
        colors=jnp.zeros((1,) * gaussians.colors.ndim, dtype),
        means2d_offset=jnp.zeros((1, 1, 1), dtype),
    )

    def choose(value: Array, other: Array) -> Array:
        mask = visible.reshape(visible.shape + (1,) * (value.ndim - 2))
        return jnp.where(mask, value, other)

    return Gaussians(*map(choose, gaussians, fill))


def _project_unchecked(
    gaussians: Gaussians, camera: Camera, sh_degree: int | None, alive: Array | None = None
) -> Splats:
    """The projection itself; `visible` is all True. With `alive` as it is only shown."""
    shown = alive is not None
    W = [[camera.viewmats[:, i, j, None] for j in range(4)] for i in range(3)]  # each [B, 1]
    if shown:
        means = [gaussians.means[..., j] for j in range(3)]
        in_camera = jnp.stack([sum(W[i][j] * means[j] for j in range(3)) for i in range(3)], -1)
    else:
        in_camera = jnp.einsum(
            "bnj,bij->bni", gaussians.means, camera.viewmats[:, :3, :3], precision=EXACT
        )
    tx, ty, depths = (in_camera[..., i] + W[i][3] for i in range(3))
    fx, fy = camera.Ks[:, 0, 0, None], camera.Ks[:, 1, 1, None]
    cx, cy = camera.Ks[:, 0, 2, None], camera.Ks[:, 1, 2, None]
    inverse_z = 1.0 / depths
    ratio_x, ratio_y = tx * inverse_z, ty * inverse_z
    means2d = jnp.stack([fx * ratio_x + cx, fy * ratio_y + cy], axis=-1) + gaussians.means2d_offset

    row_x, row_y = _jacobian_rows(
        gaussians, W, fx * inverse_z, fy * inverse_z,
        _clamp_ratio(ratio_x, fx, cx, camera.width), _clamp_ratio(ratio_y, fy, cy, camera.height),
        shown,
    )  # fmt: skip
    xx, yy = (sum(value * value for value in row) for row in (row_x, row_y))
    xy = sum(left * right for left, right in zip(row_x, row_y, strict=True))
    # Cauchy-Binet: det(M M^T) is the squared area of the two rows. It cannot cancel below zero,
    # which a*c - b^2 does for long thin splats.
    minors = (row_x[i] * row_y[j] - row_x[j] * row_y[i] for i, j in ((0, 1), (0, 2), (1, 2)))
    area = sum(minor * minor for minor in minors)
    det = area + camera.eps2d * (xx + yy) + camera.eps2d**2
    opacities = gaussians.opacities
    if camera.antialias:  # what the blur adds to the area, it takes from the opacity
        opacities = opacities * jnp.sqrt(area / det)
    colors = gaussians.colors
    if sh_degree is not None:
        directions = _view_directions(gaussians.means, camera.viewmats)
        if shown:
            evaluate = partial(written_out, sh_degree)
            colors = jnp.stack(written(evaluate, alive, directions, colors), axis=-1)
        else:
            colors = spherical_harmonics(sh_degree, directions, colors)
        colors = jnp.maximum(colors + 0.5, 0.0)
    return Splats(
        means2d=means2d,
        depths=depths,
        cov_xx=xx + camera.eps2d,
        cov_xy=xy,
        cov_yy=yy + camera.eps2d,
        cov_det=det,
        opacities=opacities,
        colors=colors,
        visible=jnp.ones(depths.shape, bool),
    )


def _clamp_ratio(ratio: Array, focal: Array, center: Array, size: int) -> Array:
    """Keep x/z within 15 % beyond the image; constant for the gradient where it is clamped."""
    low = jax.lax.stop_gradient(-(center + 0.15 * size) / focal)
    high = jax.lax.stop_gradient((1.15 * size - center) / focal)
    inside = (ratio >= low) & (ratio <= high)
    return jnp.where(inside, ratio, jax.lax.stop_gradient(jnp.clip(ratio, low, high)))


def _jacobian_rows(
    gaussians: Gaussians,
    W: list,
    focal_x: Array,
    focal_y: Array,
    ratio_x: Array,
    ratio_y: Array,
    shown: bool,
) -> tuple[list[Array], list[Array]]:
    """The two rows of J W R S, whose product with its transpose is the 2-D covariance."""
    R = (_rotations_written_out if shown else _rotations)(gaussians.quats)
    row_x, row_y = [], []
    for k in range(3):
        # Column k of the Gaussian's axes, in camera space, times its standard deviation.
        ax, ay, az = (sum(W[i][j] * R[j][k] for j in range(3)) for i in range(3))
        scale = gaussians.scales[..., k]
        row_x.append(focal_x * (ax - ratio_x * az) * scale)
        row_y.append(focal_y * (ay - ratio_y * az) * scale)
    if shown:
        return row_x, row_y
    rows = _materialize(jnp.stack(row_x + row_y, axis=-1))
    return [rows[..., i] for i in range(3)], [rows[..., i] for i in range(3, 6)]


def _materialize(values: Array) -> Array:
    """Multiply by the identity, so that XLA keeps `values` and their cotangents in memory.

    Left to itself it computes both again in every loop that reads them; it does so past
    `optimization_barrier` too. The projection's gradient takes ten times as long on a CPU then.
    """
    return jnp.matmul(values, np.eye(values.shape[-1]).astype(values.dtype), precision=EXACT)


def _rotations(quats: Float[Array, "B N 4"]) -> list[list[Array]]:
    """Rotation matrices of quaternions (w, x, y, z) of any length, entry by entry.

    Every entry is a quadratic form over the squared length: two products with 0/1 matrices pick the
    factors of the ten monomials, a third sums them. The products also keep XLA from computing the
    pullback of each entry again for each of the quaternion's: 160 ms for 20,000 on a CPU.
    """
    dtype = quats.dtype
    left, right = (
        jnp.matmul(quats, np.eye(4)[index].T.astype(dtype), precision=EXACT)
        for index in np.triu_indices(4)
    )
    forms = jnp.matmul(left * right, ROTATION_FORMS.astype(dtype), precision=EXACT)  # [B, N, 10]
    inverse = 1.0 / forms[..., 9]
    return [[forms[..., 3 * i + j] * inverse for j in range(3)] for i in range(3)]


def _rotations_written_out(quats: Float[Array, "B N 4"]) -> list[list[Array]]:
    """The same where no gradient is asked for."""
    quat = [quats[..., i] for i in range(4)]
    pairs = list(zip(*np.triu_indices(4), strict=True))

    def form(column: int) -> Array:
        terms = zip(ROTATION_FORMS[:, column], pairs, strict=True)
        return sum(float(factor) * (quat[i] * quat[j]) for factor, (i, j) in terms if factor)

    inverse = 1.0 / form(9)
    return [[form(3 * i + j) * inverse for j in range(3)] for i in range(3)]


def _view_directions(means: Float[Array, "B N 3"], viewmats: Float[Array, "B 4 4"]) -> Array:
    """Unit vectors from the camera center -R^T t to the Gaussians."""
    rotation, translation = viewmats[:, :3, :3], viewmats[:, :3, 3]
    center = -jnp.sum(rotation * translation[:, :, None], axis=1)  # [B, 3]
    # By component: XLA on a CPU takes 100 times as long for the gradient of a sum over three.
    x, y, z = (means[..., i] - center[:, i, None] for i in range(3))
    inverse_norm = 1.0 / jnp.sqrt(x * x + y * y + z * z)
    return jnp.stack([x * inverse_norm, y * inverse_norm, z * inverse_norm], axis=-1)
