"""The definition of `sample_planes`, point by point; every implementation is tested by it."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kernels.planes.types import HASH_PRIME, Levels

CORNERS = ((0, 0), (1, 0), (0, 1), (1, 1))
"""Steps along columns and rows from a cell's first vertex to each of its four."""


def sample_planes_reference(
    tables: Float[Array, "P entries F"], points: Float[Array, "2 P N"], levels: Levels
) -> Float[Array, "P L N F"]:
    """Read the features of every point; arguments and result as `sample_planes`."""
    cells, starts, hashed, _ = levels.layout()

    def read(level: int, table: Float[Array, "entries F"], point: Float[Array, "2"]) -> Array:
        scaled = point * int(cells[level])
        first = jnp.clip(jnp.floor(scaled), 0, int(cells[level]) - 1)
        features = 0.0
        for corner in CORNERS:
            x, y = (first + np.array(corner)).astype(jnp.uint32)
            entry = y * (int(cells[level]) + 1) + x
            if hashed[level]:
                entry = (x ^ (y * jnp.uint32(HASH_PRIME))) % levels.table_size
            weights = jnp.where(np.array(corner) == 1, scaled - first, 1 - (scaled - first))
            features += weights[0] * weights[1] * table[int(starts[level]) + entry]
        return features

    of_level = lambda level: jax.vmap(  # over planes, then points
        jax.vmap(lambda table, point: read(level, table, point), (None, 1)), (0, 1)
    )(tables, points)
    return jnp.stack([of_level(level) for level in range(len(cells))], axis=1)


def table_gradient_reference(
    points: Float[np.ndarray, "2 P N"], cotangents: Float[np.ndarray, "P L N F"], levels: Levels
) -> Float[np.ndarray, "P entries F"]:
    """Add up the gradient of the tables to the bit as "triton" does, in Python's integers.

    Every contribution counts in whole units, rounded to zero (see `triton/planes.py`).
    """
    n_planes, _, _, n_features = cotangents.shape
    largest = float(np.max(np.abs(cotangents)))
    shift = 62 - points.shape[2].bit_length() - int(np.frexp(largest)[1])
    sums = np.zeros((n_planes, levels.layout().entries, n_features), object)
    for place, part in contributions(points, cotangents, levels):
        sums[place] += int(np.ldexp(np.float64(part), shift))
    # An array of int64 refuses what does not fit, and rounds to float32 once.
    return np.ldexp(sums.astype(np.int64).astype(np.float32), -shift)


def contributions(
    points: Float[np.ndarray, "2 P N"], cotangents: Float[np.ndarray, "P L N F"], levels: Levels
) -> Iterator[tuple[tuple[int, int, int], np.float32]]:
    """Yield what each cotangent adds to the tables: plane, entry and feature, and the number."""
    layout = levels.layout()
    for plane, level, point, feature in np.ndindex(*cotangents.shape):
        cells = int(layout.cells[level])
        scaled = points[:, plane, point] * np.float32(cells)
        first = [min(max(int(np.floor(value)), 0), cells - 1) for value in scaled]
        weights = scaled - np.array(first, np.float32)
        for dx, dy in CORNERS:
            x, y = first[0] + dx, first[1] + dy
            entry = y * (cells + 1) + x
            if layout.hashed[level]:
                entry = (x ^ (y * HASH_PRIME % 2**32)) % levels.table_size
            part = cotangents[plane, level, point, feature]
            for step, weight in ((dy, weights[1]), (dx, weights[0])):
                part = np.float32(part * (weight if step else np.float32(1) - weight))
            yield (plane, int(layout.starts[level]) + entry, feature), part
