"""Spatial features of canonical positions: three 2-D planes, hashed or dense (5 of 12).

Before: `gaussians` (positions). After: `decoders.SpatialEncoder` (features `f_v` of each Gaussian).

Conventions: positions are in head space [world units] and lie in the cube [-bound, bound]^3; what
lies outside is clamped to the border, where its positional gradient is zero. A plane is read
bilinearly along a pair of axes (first, second); the first axis runs along the columns. `N`
Gaussians, `L` levels, `F` features a level.

Both kinds are differentiable in their tables and in the positions. The reverse pass of a lookup is
a scatter-add: in a fixed order on CPU and TPU, so bitwise repeatable there; on GPU it is repeatable
under `XLA_FLAGS=--xla_gpu_deterministic_ops=true` only.
"""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from kernels._checks import require, typechecked

HASH_PRIME = 2654435761  # Mueller et al., arXiv:2201.05989, Eq. 4
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


@typechecked
def spatial_hash(
    x: UInt32[Array, "*shape"], y: UInt32[Array, "*shape"], table_size: int
) -> UInt32[Array, "*shape"]:
    """Hash vertex (x, y) to a table entry: (x xor y * prime) mod `table_size`, a power of two."""
    return (x ^ (y * jnp.uint32(HASH_PRIME))) & jnp.uint32(table_size - 1)


class HashTriplane(nn.Module):
    """Three multi-resolution 2-D hash grids (xy, yz, xz), features concatenated (as ER-NeRF).

    A level whose (resolution + 1)^2 vertices fit `table_size` is indexed densely, a finer one by
    `spatial_hash`. Collisions are left to training, as in arXiv:2201.05989.

    Attributes:
      bound: Half the side of the encoded cube [world units].
      levels: Levels of each plane.
      base_resolution: Cells along an axis at the coarsest level.
      top_resolution: Cells along an axis at the finest level for `bound` = 1; it grows with
        `bound`.
      table_size: Most entries of a level, a power of two.
      features_per_level: Features of a level.
      table_scale: Entries start uniform in +-`table_scale`. The customary 1e-4 is small beside one
        optimiser step of 1.6e-3, so the start is smooth in space and soon forgotten.
    """

    bound: float
    levels: int = 12
    base_resolution: int = 64
    top_resolution: int = 512
    table_size: int = 2**14
    features_per_level: int = 1
    table_scale: float = 1e-4

    @property
    def out_dim(self) -> int:
        """Length of the feature vector."""
        return 3 * self.levels * self.features_per_level

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Cells along an axis, level by level."""
        top = max(self.base_resolution, round(self.top_resolution * self.bound))
        return level_resolutions(self.levels, self.base_resolution, top)

    def layout(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Give resolutions [L], first entries [L], whether hashed [L], entries of a plane."""
        size = self.table_size
        require(
            size > 0 and size & (size - 1) == 0, f"table_size: expected a power of two, got {size}"
        )
        resolutions = np.array(self.resolutions)
        vertices = (resolutions + 1) ** 2
        sizes = np.minimum(vertices, size)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        return resolutions, starts, vertices > size, int(sizes.sum())

    @nn.compact
    @typechecked
    def __call__(self, means: Float[Array, "N 3"]) -> Float[Array, "N out_dim"]:
        """Read the features at `means` [world units]."""
        resolutions, starts, hashed, entries = self.layout()

        def init(key, shape):
            return jax.random.uniform(key, shape, minval=-self.table_scale, maxval=self.table_scale)

        tables = self.param("tables", init, (3, entries, self.features_per_level))
        cells = jnp.asarray(resolutions, jnp.int32)[None, :, None]  # [1, L, 1]
        scaled = _unit_planes(means, self.bound, HASH_AXES)[:, :, None, :] * cells[None].astype(
            jnp.float32
        )
        # Clipped as integers: a position that is not finite must not index outside the tables.
        corner = jnp.clip(jnp.floor(scaled).astype(jnp.int32), 0, cells[None] - 1)  # [2, 3, L, N]
        weight = scaled - corner
        offset = jnp.arange(3)[:, None, None] * entries + jnp.asarray(starts)[None, :, None]
        stride = (cells + 1).astype(jnp.uint32)

        def read(dx: int, dy: int) -> Float[Array, "3 L N F"]:
            x, y = (corner[0] + dx).astype(jnp.uint32), (corner[1] + dy).astype(jnp.uint32)
            index = jnp.where(
                jnp.asarray(hashed)[None, :, None],
                spatial_hash(x, y, self.table_size),
                y * stride + x,
            )
            return _rows(
                tables.reshape(-1, self.features_per_level), index.astype(jnp.int32) + offset
            )

        features = _blend(read, weight[0], weight[1])  # [3, L, N, F]
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
    """

    bound: float
    resolutions: tuple[int, ...] = (64, 128)
    channels: int = 32

    @property
    def out_dim(self) -> int:
        """Length of the feature vector."""
        return len(self.resolutions) * self.channels

    @nn.compact
    @typechecked
    def __call__(self, means: Float[Array, "N 3"]) -> Float[Array, "N out_dim"]:
        """Read the features at `means` [world units]."""

        def init(key, shape):
            return jax.random.uniform(key, shape, minval=0.1, maxval=0.5)

        unit = 1.0 - _unit_planes(means, self.bound, DENSE_AXES)  # flipped; [2, 3, N]
        levels = []
        for level, size in enumerate(self.resolutions):
            planes = self.param(f"planes_{level}", init, (3, size, size, self.channels))
            scaled = unit * (size - 1)
            corner = jnp.clip(jnp.floor(scaled).astype(jnp.int32), 0, size - 2)
            weight = scaled - corner
            first_row = jnp.arange(3)[:, None] * size

            def read(
                dx: int, dy: int, planes=planes, corner=corner, size=size, first_row=first_row
            ):
                row = first_row + corner[1] + dy
                return _rows(planes.reshape(-1, self.channels), row * size + corner[0] + dx)

            levels.append(jnp.prod(_blend(read, weight[0], weight[1]), axis=0))  # [N, channels]
        return jnp.concatenate(levels, axis=-1)


def make_triplane(
    kind: Literal["hash", "dense"], bound: float, **fields
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


def _unit_planes(
    means: Float[Array, "N 3"], bound: float, axes: tuple[tuple[int, int], ...]
) -> Float[Array, "2 3 N"]:
    """Map positions to [0, 1] and pick the (first, second) axis of each plane."""
    unit = jnp.clip(means.T * (0.5 / bound) + 0.5, 0.0, 1.0)
    return jnp.stack([jnp.stack([unit[pair[side]] for pair in axes]) for side in (0, 1)])


def _rows(table: Float[Array, "entries F"], index: Array) -> Array:
    """Gather table rows; the index is in range by construction, so no bounds check is paid for."""
    return table.at[index].get(mode="promise_in_bounds")


def _blend(read, weight_x: Array, weight_y: Array) -> Array:
    """Bilinear mean of four corners; `read(dx, dy)` gives [..., F], the weights are [...]."""
    wx, wy = weight_x[..., None], weight_y[..., None]
    low = read(0, 0) * (1 - wx) + read(1, 0) * wx
    high = read(0, 1) * (1 - wx) + read(1, 1) * wx
    return low * (1 - wy) + high * wy
