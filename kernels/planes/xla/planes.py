"""`sample_planes` in plain JAX, differentiable, for any machine."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kernels.planes.types import Levels, spatial_hash


def sample_planes_xla(
    tables: Float[Array, "P entries F"], points: Float[Array, "2 P N"], levels: Levels
) -> Float[Array, "P L N F"]:
    """Read with XLA operations; arguments and results as `sample_planes`."""
    resolutions, starts, hashed, entries = levels.layout()
    n_planes, _, n_features = tables.shape
    n_places = n_planes * len(resolutions)  # one axis for both
    rows = tables.reshape(-1, n_features)
    over_points = lambda values: jnp.asarray(np.tile(values, n_planes))[:, None]  # [P L, 1]
    cells = over_points(resolutions.astype(np.int32))
    each = jnp.broadcast_to(points[:, :, None], (2, n_planes, len(resolutions), points.shape[2]))
    scaled = each.reshape(2, n_places, -1) * cells[None].astype(jnp.float32)
    # Clipped as integers: a point that is not finite must not index outside the tables.
    corner = jnp.clip(jnp.floor(scaled).astype(jnp.int32), 0, cells[None] - 1)  # [2, P L, N]
    weight = scaled - corner
    firsts = np.arange(n_planes)[:, None] * entries + starts[None]  # [P, L]
    first = jnp.asarray(firsts.reshape(-1, 1), jnp.int32)
    stride = (cells + 1).astype(jnp.uint32)

    def read(dx: int, dy: int) -> Float[Array, "PL N F"]:
        x, y = (corner[0] + dx).astype(jnp.uint32), (corner[1] + dy).astype(jnp.uint32)
        index = y * stride + x
        if hashed.any():
            own = spatial_hash(x, y, levels.table_size)
            index = jnp.where(over_points(hashed), own, index)
        # In range by construction, so no bounds check is paid for.
        return rows.at[index.astype(jnp.int32) + first].get(mode="promise_in_bounds")

    features = _blend(read, weight[0], weight[1])
    return features.reshape(n_planes, len(resolutions), -1, n_features)


def _blend(read: Callable[[int, int], Array], weight_x: Array, weight_y: Array) -> Array:
    """Bilinear mean of four corners; `read(dx, dy)` gives [..., F], the weights are [...]."""
    wx, wy = weight_x[..., None], weight_y[..., None]
    low = read(0, 0) * (1 - wx) + read(1, 0) * wx
    high = read(0, 1) * (1 - wx) + read(1, 1) * wx
    return low * (1 - wy) + high * wy
