"""Layout of the entries of a plane: levels of rising resolution, dense or hashed."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from kernels.checks import require, typechecked

HASH_PRIME = 2654435761  # Mueller et al., arXiv:2201.05989, Eq. 4
MAX_CELLS = 2**20  # beyond it float32 has hardly any place left between two vertices


@typechecked
def spatial_hash(
    x: UInt32[Array, "*shape"], y: UInt32[Array, "*shape"], table_size: int
) -> UInt32[Array, "*shape"]:
    """Hash vertex (x, y) to a table entry: (x xor y * prime) mod `table_size`, a power of two."""
    return (x ^ (y * jnp.uint32(HASH_PRIME))) & jnp.uint32(table_size - 1)


class Layout(NamedTuple):
    """Places of the levels of a plane."""

    cells: np.ndarray  # [L], along an axis
    starts: np.ndarray  # [L], first entry
    hashed: np.ndarray  # [L], booleans
    entries: int  # of a plane: of all levels together


class Levels(NamedTuple):
    """Grids that a plane consists of, one behind the other.

    A level of R cells along an axis has (R + 1)^2 vertices: a dense one has an entry for each, row
    by row; a level with more vertices than `table_size` shares that many entries by `spatial_hash`.
    """

    resolutions: tuple[int, ...]  # cells along an axis
    table_size: int | None = None  # most entries of a level, a power of two; None: all are dense

    def layout(self) -> Layout:
        """Place the levels.

        Raises:
          ValueError: if there is no level, or a size is out of range.
        """
        size = self.table_size
        require(
            size is None or (size > 0 and size & (size - 1) == 0),
            f"table_size: expected a power of two, got {size}",
        )
        require(
            bool(self.resolutions) and all(1 <= cells <= MAX_CELLS for cells in self.resolutions),
            f"resolutions: expected one or more from 1 to {MAX_CELLS}, got {self.resolutions}",
        )
        cells = np.array(self.resolutions)
        vertices = (cells + 1) ** 2
        sizes = vertices if size is None else np.minimum(vertices, size)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        return Layout(cells, starts, vertices > sizes, int(sizes.sum()))
