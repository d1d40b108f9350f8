"""The canonical cloud: its PyTree, its start from a point cloud, and its activations.

Stored values are free of constraints (log-scales, opacity logits, quaternions of any length); the
drawn ones follow by `activate`. Arrays have a fixed length, the capacity; a boolean `alive` beside
them marks the slots in use. Axis letters: N capacity, P points.

Before: `preprocess` (points); after: density control and `forward`.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from kernels.checks import require, typechecked

C0 = 0.28209479177387814
"""Value of the constant spherical harmonic, 1 / (2 sqrt(pi)): color = C0 * sh0 + 0.5."""
INITIAL_OPACITY = 0.1
"""Opacity of every Gaussian at the start."""
NEIGHBORS = 3
"""Nearest points that set a Gaussian's initial size."""
LEAST_SQUARED_DISTANCE = 1e-7
"""Floor of the mean squared distance to them, world units^2 (coinciding points)."""


class Gaussians(flax.struct.PyTreeNode):
    """N Gaussians in head space, as stored and trained."""

    means: Float[Array, "N 3"]
    """Centers, world units."""
    log_scales: Float[Array, "N 3"]
    """Logarithms of the standard deviations along the own axes, world units."""
    quats: Float[Array, "N 4"]
    """Rotations (w, x, y, z), of any length; normalized where used."""
    logit_opacities: Float[Array, " N"]
    """Opacities before the sigmoid."""
    sh0: Float[Array, "N 1 3"]
    """Constant spherical-harmonics coefficient (RGB)."""
    shN: Float[Array, "N K 3"]
    """The others; K = (degree + 1)^2 - 1, that is 15 for degree 3."""

    @property
    def capacity(self) -> int:
        """Number of slots."""
        return self.means.shape[0]


@typechecked
def empty_gaussians(capacity: int, *, sh_degree: int = 3) -> Gaussians:
    """Return `capacity` dead slots: at the origin, 1e-3 wide, unrotated, opacity under 5e-5, gray.

    Dead slots hold these values, so that whatever reads them by mistake stays finite.
    """
    filled = lambda *shape, value=0.0: jax.device_put(np.full(shape, value, np.float32))
    return Gaussians(
        means=filled(capacity, 3),
        log_scales=filled(capacity, 3, value=np.log(1e-3)),
        quats=jax.device_put(np.tile(np.float32([1, 0, 0, 0]), (capacity, 1))),
        logit_opacities=filled(capacity, value=-10.0),
        sh0=filled(capacity, 1, 3),
        shN=filled(capacity, (sh_degree + 1) ** 2 - 1, 3),
    )


@typechecked
def init_gaussians(
    points: Float[np.ndarray, "P 3"],
    colors: UInt8[np.ndarray, "P 3"],
    capacity: int,
    *,
    sh_degree: int = 3,
) -> tuple[Gaussians, Bool[Array, " {capacity}"]]:
    """Place one isotropic Gaussian on every point (host code: a k-d tree finds the neighbors).

    Its scale is the root of the mean squared distance to the 3 nearest other points, its opacity
    0.1, its color the point's: the start of 3D Gaussian Splatting.

    Args:
      points: Positions [world units], at least 4.
      colors: Their RGB.
      capacity: Slots; those after the last point are dead (see `empty_gaussians`).
      sh_degree: Highest spherical-harmonics degree stored.

    Returns:
      The cloud and which of its slots are in use.

    Raises:
      ValueError: if there are fewer than 4 points, more than slots, or a point is not finite.
    """
    count = points.shape[0]
    require(count > NEIGHBORS, f"points: expected at least {NEIGHBORS + 1}, got {count}; add some")
    require(
        count <= capacity,
        f"points: expected at most capacity={capacity}, got {count}; take fewer or raise capacity",
    )
    require(bool(np.isfinite(points).all()), "points: expected finite values, got NaN or Inf")
    from scipy.spatial import cKDTree

    distances, _ = cKDTree(points).query(points, k=NEIGHBORS + 1)
    squared = np.mean(np.square(distances[:, 1:]), axis=1)  # the first is the point itself
    log_scales = 0.5 * np.log(np.maximum(squared, LEAST_SQUARED_DISTANCE))
    logit = np.log(INITIAL_OPACITY / (1.0 - INITIAL_OPACITY))
    empty = empty_gaussians(capacity, sh_degree=sh_degree)
    fill = lambda slots, values: slots.at[:count].set(jnp.asarray(values, jnp.float32))
    cloud = empty.replace(
        means=fill(empty.means, points),
        log_scales=fill(empty.log_scales, np.repeat(log_scales[:, None], 3, axis=1)),
        logit_opacities=fill(empty.logit_opacities, np.full(count, logit)),
        sh0=fill(empty.sh0, (colors[:, None, :] / 255.0 - 0.5) / C0),
    )
    return cloud, jnp.arange(capacity) < count


def active_harmonics(count: int, degree: int | Int[Array, ""]) -> Bool[Array, " {count}"]:
    """Say which of `count` spherical harmonics are of a degree up to `degree`."""
    return jnp.arange(count) < (degree + 1) ** 2


def shortened(gaussians: Gaussians, elongation: float) -> Gaussians:
    """Return the cloud with no Gaussian longer than `elongation` times its middle axis.

    From where the clip never looked, its pictures do not say how deep a Gaussian reaches; one that
    grew long there is a needle as soon as the head turns. Flat ones stay as they are.
    """
    x, y, z = (gaussians.log_scales[:, axis] for axis in range(3))
    middle = jnp.maximum(jnp.minimum(x, y), jnp.minimum(jnp.maximum(x, y), z))
    most = middle[:, None] + math.log(elongation)
    return gaussians.replace(log_scales=jnp.minimum(gaussians.log_scales, most))


@typechecked
def activate(
    gaussians: Gaussians,
) -> tuple[Float[Array, "*batch N 3"], Float[Array, "*batch N"], Float[Array, "*batch N K 3"]]:
    """Return what a rasterizer takes: scales, opacities and all SH coefficients.

    Leading axes are those of the leaves (one cloud per frame, say).

    Returns:
      Scales [world units], opacities in [0, 1], and sh0 and shN joined (16 for degree 3).
    """
    sh_coeffs = jnp.concatenate([gaussians.sh0, gaussians.shN], axis=-2)
    return jnp.exp(gaussians.log_scales), jax.nn.sigmoid(gaussians.logit_opacities), sh_coeffs
