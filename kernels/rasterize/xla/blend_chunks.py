"""Blocks of tiles and chunks of their lists: of which both walks of `blend` are made.

A block is U tiles with nearly equal lists; a chunk is C splats of each of them.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kernels.rasterize.types import BlendSpec
from kernels.rasterize.xla.binning import TILE, TileLists

PIXELS = TILE * TILE


class Splat(NamedTuple):
    """The shape of splats of a chunk, each [U, C, 1], relative to the center of the tile."""

    x: Array
    y: Array
    p: Array
    s: Array
    q: Array
    log_opacity: Array


class Block(NamedTuple):
    """U tiles: where their lists lie in the lists of all frames, and their centers [pixels]."""

    starts: Int[Array, "*n U"]
    lengths: Int[Array, "*n U"]
    center_x: Float[Array, "*n U"]
    center_y: Float[Array, "*n U"]
    tile: Int[Array, "*n U"]  # numbered through all frames
    frame: Int[Array, "*n U"]


def make_blocks(lists: TileLists, n_units: int, columns: int, side: int, dtype: jnp.dtype) -> Block:
    """Tiles by falling list length, padded to whole blocks with empty ones: arrays [blocks, U].

    There are `columns` tiles in a row, `side` pixels wide each.
    """
    n_frames, n_tiles = lists.lengths.shape
    lengths, starts = lists.lengths.reshape(-1), lists.starts.reshape(-1)
    order = jnp.argsort(-lengths, stable=True).astype(jnp.int32)
    frame, within = order // n_tiles, order % n_tiles
    block = Block(
        starts=starts[order] + frame * lists.ids.shape[1],
        lengths=lengths[order],
        center_x=((within % columns) * side + side / 2).astype(dtype),
        center_y=((within // columns) * side + side / 2).astype(dtype),
        tile=order,
        frame=frame,
    )
    padding = -lengths.size % n_units
    block = Block(*(jnp.pad(field, (0, padding)) for field in block))
    block = block._replace(tile=block.tile.at[lengths.size :].set(lengths.size))
    return Block(*(field.reshape(-1, n_units) for field in block))


def pixel_offsets(dtype: jnp.dtype, side: int = TILE) -> tuple[np.ndarray, np.ndarray]:
    """Give x and y of a tile's pixel centers from its center, row by row: each [1, 1, 256]."""
    y, x = np.divmod(np.arange(side * side), side)
    shift = (side - 1) / 2
    return (x - shift).astype(dtype)[None, None], (y - shift).astype(dtype)[None, None]


def chunk_entries(
    block: Block, lists: TileLists, first: Array, n_chunk: int, n_gaussians: int
) -> tuple[Array, Array, Array]:
    """List positions, Gaussians and use of the chunk that starts at `first`, each [U, C].

    The first two are numbered through all frames and mean nothing where the last is False.
    """
    place = first + jnp.arange(n_chunk, dtype=jnp.int32)[None]
    position = block.starts[:, None] + place
    ids = load_rows(lists.ids.reshape(-1), position) + block.frame[:, None] * n_gaussians
    return position, ids, place < block.lengths[:, None]


def load_rows(table: Array, index: Array) -> Array:
    """Take table[index] for indices known to be in range, or of no meaning."""
    return table.at[index].get(mode="clip")


def join_frames(table: Array) -> Array:
    """Make [B * N, ...] of [B, N, ...]."""
    return table.reshape(-1, *table.shape[2:])


def load_splats(shapes: Array, block: Block, ids: Array, used: Array) -> Splat:
    """Shapes of a chunk; an entry past the list's end gets opacity zero."""
    x, y, p, s, q, log_opacity = jnp.moveaxis(load_rows(shapes, ids), -1, 0)[..., None]
    log_opacity = jnp.where(used[..., None], log_opacity, -jnp.inf)
    return Splat(
        x - block.center_x[:, None, None], y - block.center_y[:, None, None], p, s, q, log_opacity
    )


def log_alpha_of(splat: Splat, side: int = TILE) -> Array:
    """Give log(opacity) - power, before clamp and floor: [U, C, 256]."""
    pixel_x, pixel_y = pixel_offsets(splat.x.dtype, side)
    along = pixel_x - splat.x
    across = (pixel_y - splat.y) - splat.s * along
    return splat.log_opacity - (splat.p * along * along + splat.q * across * across)


def alpha_of(spec: BlendSpec, log_alpha: Array) -> Array:
    """Clamp alpha from above, and drop it where it is too faint to draw."""
    drawn = log_alpha >= np.log(spec.alpha_min)
    return jnp.where(drawn, jnp.minimum(jnp.exp(log_alpha), spec.alpha_max), 0.0)


def log_keep_of(alpha: Array) -> Array:
    """Give log(1 - alpha), finite also at alpha 1."""
    return jnp.log(jnp.maximum(1.0 - alpha, 1e-30))


def to_tile_order(blocks: Block, lists: TileLists, values: Array) -> Array:
    """Make [B, T, ...] of [blocks, U, ...] in the order of list lengths."""
    flat = join_frames(values)
    index = jnp.arange(flat.shape[0], dtype=jnp.int32)
    place = jnp.zeros(lists.lengths.size, jnp.int32)
    place = place.at[blocks.tile.reshape(-1)].set(index, mode="drop")
    return flat[place].reshape(*lists.lengths.shape, *flat.shape[1:])
