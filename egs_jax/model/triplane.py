"""Spatial features of canonical positions: three 2-D planes, hashed or dense.

Before: `gaussians` (positions). After: `decoders.SpatialEncoder` (features `f_v` of each Gaussian).

Conventions: positions are in head space [world units] and lie in the cube [-bound, bound]^3; what
lies outside is clamped to the border, where its positional gradient is zero. A plane is read
bilinearly along a pair of axes (first, second); the first axis runs along the columns. `N`
Gaussians, `L` levels, `F` features a level.

Both kinds are differentiable in their tables and in the positions. All reads are those of
`kernels.sample_planes`: a gradient of the tables repeats bit for bit on a CPU, where sums have a
fixed order, and by construction on an NVIDIA GPU with Triton, where they are sums of integers.
"""

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels import sample_planes
from kernels.checks import require, typechecked
from kernels.planes import Levels

HASH_AXES = ((0, 1), (1, 2), (0, 2))  # xy, yz, xz
DENSE_AXES = ((0, 1), (0, 2), (1, 2))


def is_plane_parameter(path: tuple) -> bool:
    """Tell table and plane parameters from those of all other networks.

    Args:
      path: Key path of a leaf, as `jax.tree_util.tree_map_with_path` gives it, or a tuple of names.

    Returns:
      True if some name on the path starts with "planes" or "tables".
    """
    names = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
    return any(name.startswith(("planes", "tables")) for name in names)


def level_resolutions(levels: int, base: int, top: int) -> tuple[int, ...]:
    """Cells along an axis, level by level: a geometric series (arXiv:2201.05989, Eq. 2-3).

    Raises:
      ValueError: if there is no level or `top` is below `base`.
    """
    require(levels >= 1, f"levels: expected at least 1, got {levels}; raise it")
    require(1 <= base <= top, f"resolutions: expected 1 <= base <= top, got {base}, {top}")
    if levels == 1:
        return (base,)
    growth = math.log(top / base) / (levels - 1)
    return tuple(round(base * math.exp(level * growth)) for level in range(levels))


class HashTriplane(nn.Module):
    """Three multi-resolution 2-D hash grids (xy, yz, xz), features concatenated (as ER-NeRF).

    A level whose (resolution + 1)^2 vertices fit `table_size` is indexed densely, a finer one by
    `kernels.planes.spatial_hash`. Collisions are left to training, as in arXiv:2201.05989.

    Attributes:
      bound: Half the side of the encoded cube [world units].
      levels: Levels of each plane.
      base_resolution: Cells along an axis at the coarsest level.
      top_resolution: Cells along an axis at the finest level for `bound` = 1; it grows with
        `bound`.
      table_size: Most entries of a level, a power of two.
      features_per_level: Features of a level.
      table_scale: Entries start uniform in +-`table_scale`. The customary 1e-4 is small beside one
        optimizer step of 1.6e-3, so the start is smooth in space and soon forgotten.
      implementation: Of `kernels.sample_planes`.
    """

    bound: float
    levels: int = 12
    base_resolution: int = 64
    top_resolution: int = 512
    table_size: int = 2**14
    features_per_level: int = 1
    table_scale: float = 1e-4
    implementation: str | None = None

    @property
    def out_dim(self) -> int:
        """Length of the feature vector."""
        return 3 * self.levels * self.features_per_level

    @property
    def grids(self) -> Levels:
        """The levels of a plane."""
        top = max(self.base_resolution, round(self.top_resolution * self.bound))
        cells = level_resolutions(self.levels, self.base_resolution, top)
        return Levels(cells, self.table_size)

    @nn.compact
    @typechecked
    def __call__(self, means: Float[Array, "N 3"]) -> Float[Array, "N out_dim"]:
        """Read the features at `means` [world units]."""

        def init(key: Array, shape: tuple[int, ...]) -> Array:
            return jax.random.uniform(key, shape, minval=-self.table_scale, maxval=self.table_scale)

        entries = self.grids.layout().entries
        tables = self.param("tables", init, (3, entries, self.features_per_level))
        points = _unit_planes(means, self.bound, HASH_AXES)
        features = sample_planes(
            tables, points, self.grids, implementation=self.implementation
        )  # [3, L, N, F]
        return features.transpose(2, 0, 1, 3).reshape(means.shape[0], self.out_dim)


class DenseTriplane(nn.Module):
    """Dense planes at a few resolutions: product over the three planes, levels concatenated.

    As the original code has it (its scene/hexplane.py): axes (0,1), (0,2), (1,2); coordinates
    flipped, so that +bound maps to the first row or column; vertices at the borders
    (`align_corners`); values start uniform in [0.1, 0.5).

    Attributes:
      bound: Half the side of the encoded cube [world units].
      resolutions: Vertices along an axis, level by level.
      channels: Features of a level.
      implementation: Of `kernels.sample_planes`.
    """

    bound: float
    resolutions: tuple[int, ...] = (64, 128)
    channels: int = 32
    implementation: str | None = None

    @property
    def out_dim(self) -> int:
        """Length of the feature vector."""
        return len(self.resolutions) * self.channels

    @nn.compact
    @typechecked
    def __call__(self, means: Float[Array, "N 3"]) -> Float[Array, "N out_dim"]:
        """Read the features at `means` [world units]."""

        def init(key: Array, shape: tuple[int, ...]) -> Array:
            return jax.random.uniform(key, shape, minval=0.1, maxval=0.5)

        points = 1.0 - _unit_planes(means, self.bound, DENSE_AXES)  # flipped
        levels = []
        for level, size in enumerate(self.resolutions):
            planes = self.param(f"planes_{level}", init, (3, size, size, self.channels))
            tables = planes.reshape(3, size * size, self.channels)
            features = sample_planes(
                tables, points, Levels((size - 1,)), implementation=self.implementation
            )  # [3, 1, N, channels]
            levels.append(jnp.prod(features[:, 0], axis=0))  # [N, channels]
        return jnp.concatenate(levels, axis=-1)


def make_triplane(
    kind: Literal["hash", "dense"], bound: float, **fields: Any
) -> HashTriplane | DenseTriplane:
    """Make a tri-plane encoder: a module `means [N, 3] -> [N, out_dim]` with `out_dim`.

    Args:
      kind: "hash" (the paper's text) or "dense" (its code).
      bound: Half the side of the encoded cube [world units].
      **fields: Further attributes of `HashTriplane` or `DenseTriplane`.

    Raises:
      ValueError: if `kind` is unknown or `bound` is not positive.
    """
    kinds = {"hash": HashTriplane, "dense": DenseTriplane}
    require(kind in kinds, f"kind: expected one of {sorted(kinds)}, got {kind!r}")
    require(bound > 0, f"bound: expected a positive length, got {bound}")
    return kinds[kind](bound=bound, **fields)


@typechecked
def squeezed(means: Float[Array, "N 3"], inner: float, bound: float) -> Float[Array, "N 3"]:
    """Bring all of space into a cube, axis by axis, and leave its inner part as it is.

    A coordinate of size inner + a goes to inner + a r / (a + r) with r = bound - inner: its slope
    is 1 at the inner cube's side and falls with the distance, so that what is far shares cells.

    Args:
      means: Positions [world units].
      inner: Half the side of the part that stays.
      bound: Half the side of the whole, more than `inner`.
    """
    room = bound - inner
    beyond = jnp.maximum(jnp.abs(means) - inner, 0)
    return jnp.clip(means, -inner, inner) + jnp.sign(means) * room * beyond / (beyond + room)


def _unit_planes(
    means: Float[Array, "N 3"], bound: float, axes: tuple[tuple[int, int], ...]
) -> Float[Array, "2 3 N"]:
    """Map positions to [0, 1] and pick the (first, second) axis of each plane."""
    unit = jnp.clip(means.T * (0.5 / bound) + 0.5, 0.0, 1.0)
    return jnp.stack([jnp.stack([unit[pair[side]] for pair in axes]) for side in (0, 1)])
