"""Tiled alpha compositing in plain XLA operations, with its own reverse walk.

Tiles are sorted by the length of their lists and taken in blocks of U, so that the tiles of a block
have nearly equal work; within a block the lists are walked in chunks of C splats, all U x C x 256
pairs at once, until the longest list of the block ends or all its pixels are opaque. Time is thus
proportional to the number of instances; memory is one block's chunk plus a few numbers per pixel.
Tiles that nothing touches cost nothing.

Forward, alphas of a chunk are written to memory once; what follows from them is written out splat
by splat, so that XLA makes one loop over the pixels of each result with its C steps inside. The
light is computed again for every result: a product a splat, where keeping it for all of them would
take a sum of logarithms (measured on one CPU core: 1.5 ns a pair instead of 3.5).

Backward, light within a chunk is a sum of logarithms, by a product with a triangular matrix of ones
(on a CPU 0.9 ns a pair, against 8 for shifted products and 2 for a loop over the chunk).

Equations, for the k-th splat of a pixel (arXiv:2308.04079, eq. 3), with f_k its features:

    a_k = min(alpha_max, opacity_k exp(-power_k)), 0 if under alpha_min
    T_k = prod_{j<k} (1 - a_j);  stops before the first k with T_k (1 - a_k) < transmittance_min
    features = sum_k a_k T_k f_k;   transmittance = the final T
    dL/da_k = T_k <f_k, g> - (sum_{j>k} a_j T_j <f_j, g> + T_final g_T) / (1 - a_k)

The stop has a relative slack of 2^-16: two splats clamped at 0.99 leave exactly 1e-4, which is not
under 1e-4 in real numbers but is in float32.

Place in the pipeline: (3) of 3; before: `binning`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kernels.rasterize.binning import TILE, TileLists, tile_grid
from kernels.rasterize.folding import fold_frames
from kernels.rasterize.runs import sum_runs

PIXELS = TILE * TILE
N_SHAPE = 6  # numbers of a splat that are not features: see `Splat`
STOP_SLACK = 1.0 - 2.0**-16
EXACT = jax.lax.Precision.HIGHEST  # no TF32 or bfloat16 products
# Tiles per block and splats per chunk; for a CPU so that a chunk stays in its second-level cache.
CPU_LAYOUT = (16, 16)
DEVICE_LAYOUT = (256, 32)


class BlendSpec(NamedTuple):
    """Static numbers of the blending (hashable)."""

    width: int
    height: int
    alpha_max: float
    alpha_min: float
    transmittance_min: float
    deterministic: bool


class _Splat(NamedTuple):
    """The shape of splats of a chunk, each [U, C, 1], relative to the centre of the tile."""

    x: Array
    y: Array
    p: Array
    s: Array
    q: Array
    log_opacity: Array


class _Block(NamedTuple):
    """U tiles: where their lists lie in the lists of all frames, and their centres [pixels]."""

    starts: Int[Array, "*n U"]
    lengths: Int[Array, "*n U"]
    center_x: Float[Array, "*n U"]
    center_y: Float[Array, "*n U"]
    tile: Int[Array, "*n U"]  # numbered through all frames
    frame: Int[Array, "*n U"]


class _Walked(NamedTuple):
    """What the forward walk knows of every pixel; the last two for a gradient only, else None."""

    features: Float[Array, "*n F 256"]
    left: Float[Array, "*n 256"]  # light
    log_left: Float[Array, "*n 256"] | None  # its logarithm, where it is too small for a float
    stop: Int[Array, "*n 256"] | None  # list entries up to the stop


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def blend(
    spec: BlendSpec,
    shapes: Float[Array, "B N 6"],
    features: Float[Array, "B N F"],
    lists: TileLists,
) -> tuple[Float[Array, "B T F 256"], Float[Array, "B T 256"]]:
    """Composite the features of every tile's splats, front to back.

    Args:
      spec: Sizes and thresholds.
      shapes: Per Gaussian x, y [pixels], p, s, q (see `projection`), log opacity.
      features: Per Gaussian, any number of channels.
      lists: From `binning.build_tile_lists`.

    Returns:
      Summed features and what light is left, per pixel of each tile, pixels row by row.
    """
    walked = _forward(spec, False, shapes, features, lists)
    return walked.features, walked.left


def _blend_forward(spec: BlendSpec, shapes: Array, features: Array, lists: TileLists) -> tuple:
    walked = _forward(spec, True, shapes, features, lists)
    residuals = (shapes, features, lists, walked.log_left, walked.stop)
    return (walked.features, walked.left), residuals


def _blend_backward(spec: BlendSpec, residuals: tuple, cotangents: tuple) -> tuple:
    grad_shapes, grad_features = _backward(spec, *residuals, *cotangents)
    return grad_shapes, grad_features, None


blend.defvjp(_blend_forward, _blend_backward)


def _forward(
    spec: BlendSpec, for_gradient: bool, shapes: Array, features: Array, lists: TileLists
) -> _Walked:
    def run(*arrays: Array | TileLists) -> _Walked:
        return jax.lax.platform_dependent(
            *arrays,
            cpu=partial(_forward_walk, spec, CPU_LAYOUT, for_gradient),
            default=partial(_forward_walk, spec, DEVICE_LAYOUT, for_gradient),
        )

    return fold_frames(run)(shapes, features, lists)


def _backward(spec: BlendSpec, *arrays: Array | TileLists) -> tuple[Array, Array]:
    """Gradients of shapes and features.

    On a CPU a scatter adds in order, so rows are added up in place. Elsewhere the order of a
    scatter is not fixed: rows go to their own slots and are added up pairwise.
    """

    def run(*arrays: Array | TileLists) -> tuple[Array, Array]:
        return jax.lax.platform_dependent(
            *arrays,
            cpu=partial(_backward_walk, spec, CPU_LAYOUT, False),
            default=partial(_backward_walk, spec, DEVICE_LAYOUT, spec.deterministic),
        )

    return fold_frames(run)(*arrays)


def _blocks(spec: BlendSpec, lists: TileLists, n_units: int, dtype: jnp.dtype) -> _Block:
    """Tiles by falling list length, padded to whole blocks with empty ones: arrays [blocks, U]."""
    columns, _ = tile_grid(spec.width, spec.height)
    n_frames, n_tiles = lists.lengths.shape
    lengths, starts = lists.lengths.reshape(-1), lists.starts.reshape(-1)
    order = jnp.argsort(-lengths, stable=True).astype(jnp.int32)
    frame, within = order // n_tiles, order % n_tiles
    block = _Block(
        starts=starts[order] + frame * lists.ids.shape[1],
        lengths=lengths[order],
        center_x=((within % columns) * TILE + TILE / 2).astype(dtype),
        center_y=((within // columns) * TILE + TILE / 2).astype(dtype),
        tile=order,
        frame=frame,
    )
    padding = -lengths.size % n_units
    block = _Block(*(jnp.pad(field, (0, padding)) for field in block))
    block = block._replace(tile=block.tile.at[lengths.size :].set(lengths.size))
    return _Block(*(field.reshape(-1, n_units) for field in block))


def _pixel_offsets(dtype: jnp.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Give x and y of a tile's pixel centres from its centre, row by row: each [1, 1, 256]."""
    y, x = np.divmod(np.arange(PIXELS), TILE)
    shift = (TILE - 1) / 2
    return (x - shift).astype(dtype)[None, None], (y - shift).astype(dtype)[None, None]


def _entries(
    block: _Block, lists: TileLists, first: Array, n_chunk: int, n_gaussians: int
) -> tuple[Array, Array, Array]:
    """List positions, Gaussians and use of the chunk that starts at `first`, each [U, C].

    The first two are numbered through all frames and mean nothing where the last is False.
    """
    place = first + jnp.arange(n_chunk, dtype=jnp.int32)[None]
    position = block.starts[:, None] + place
    ids = _load(lists.ids.reshape(-1), position) + block.frame[:, None] * n_gaussians
    return position, ids, place < block.lengths[:, None]


def _load(table: Array, index: Array) -> Array:
    return table.at[index].get(mode="clip")


def _flat(table: Array) -> Array:
    """[B, N, ...] -> [B * N, ...]."""
    return table.reshape(-1, *table.shape[2:])


def _load_splats(shapes: Array, block: _Block, ids: Array, used: Array) -> _Splat:
    """Shapes of a chunk; an entry past the list's end gets opacity zero."""
    x, y, p, s, q, log_opacity = jnp.moveaxis(_load(shapes, ids), -1, 0)[..., None]
    log_opacity = jnp.where(used[..., None], log_opacity, -jnp.inf)
    return _Splat(
        x - block.center_x[:, None, None], y - block.center_y[:, None, None], p, s, q, log_opacity
    )


def _log_alpha(splat: _Splat) -> Array:
    """log(opacity) - power, before clamp and floor: [U, C, 256]."""
    pixel_x, pixel_y = _pixel_offsets(splat.x.dtype)
    along = pixel_x - splat.x
    across = (pixel_y - splat.y) - splat.s * along
    return splat.log_opacity - (splat.p * along * along + splat.q * across * across)


def _alpha(spec: BlendSpec, log_alpha: Array) -> Array:
    drawn = log_alpha >= np.log(spec.alpha_min)
    return jnp.where(drawn, jnp.minimum(jnp.exp(log_alpha), spec.alpha_max), 0.0)


def _log_left(alpha: Array) -> Array:
    """log(1 - alpha), finite also at alpha 1."""
    return jnp.log(jnp.maximum(1.0 - alpha, 1e-30))


def _sum_along_chunk(matrix: np.ndarray, values: Array) -> Array:
    """[C, C] x [U, C, 256]: partial sums along the chunk."""
    return jnp.einsum("ij,ujp->uip", matrix.astype(values.dtype), values, precision=EXACT)


def _forward_walk(
    spec: BlendSpec,
    layout: tuple[int, int],
    for_gradient: bool,
    shapes: Array,
    features: Array,
    lists: TileLists,
) -> _Walked:
    n_units, n_chunk = min(layout[0], lists.lengths.size), layout[1]
    n_gaussians, n_features = features.shape[1:]
    shapes, features = _flat(shapes), _flat(features)
    blocks = _blocks(spec, lists, n_units, shapes.dtype)
    # Zero that varies over the mesh as the inputs do: loop carries of a shard_map must.
    zero = jnp.zeros_like(shapes[0, 0]) * features[0, 0].astype(shapes.dtype)

    def chunk(block: _Block, carry: tuple) -> tuple:
        first, light, walked = carry
        _, ids, used = _entries(block, lists, first, n_chunk, n_gaussians)
        alpha = _alpha(spec, _log_alpha(_load_splats(shapes, block, ids, used)))
        light, walked = _composite(spec, alpha, _load(features, ids), light, walked)
        return first + n_chunk, light, walked

    def walk(_: None, block: _Block) -> tuple[None, _Walked]:
        zeros = jnp.zeros((n_units, PIXELS), shapes.dtype) + zero
        nothing = _Walked(
            jnp.zeros((n_units, n_features, PIXELS), shapes.dtype) + zero, zeros + 1,
            zeros if for_gradient else None, zeros.astype(jnp.int32) if for_gradient else None,
        )  # fmt: skip

        def goes_on(carry: tuple) -> Array:
            first, light, _ = carry
            has_more = first < block.lengths[:, None]
            return jnp.any(has_more & (light >= _least_light(spec)))

        start = (jnp.max(block.lengths) * 0, zeros + 1, nothing)
        return None, jax.lax.while_loop(goes_on, partial(chunk, block), start)[2]

    _, walked = jax.lax.scan(walk, None, blocks)
    return jax.tree.map(partial(_to_tile_order, blocks, lists), walked)


def _least_light(spec: BlendSpec) -> float:
    return spec.transmittance_min * STOP_SLACK


def _composite(
    spec: BlendSpec,
    alpha: Float[Array, "U C 256"],
    features: Float[Array, "U C F"],
    light: Float[Array, "U 256"],
    walked: _Walked,
) -> tuple[Array, _Walked]:
    """Add a chunk to what was walked before it.

    `light` runs on behind the stop; a splat is drawn as long as the light behind it is enough.
    """
    total, left, log_left, stop = walked
    before = light[:, None]
    for c in range(alpha.shape[1]):
        behind = before * (1.0 - alpha[:, c, None])
        drawn = behind >= _least_light(spec)
        weight = jnp.where(drawn, alpha[:, c, None] * before, 0.0)
        total = total + weight * features[:, c, :, None]
        left = jnp.where(drawn[:, 0], behind[:, 0], left)
        if log_left is not None:
            log_left = log_left + jnp.where(drawn[:, 0], _log_left(alpha[:, c]), 0.0)
            stop = stop + drawn[:, 0].astype(jnp.int32)
        before = behind
    return before[:, 0], _Walked(total, left, log_left, stop)


def _to_tile_order(blocks: _Block, lists: TileLists, values: Array) -> Array:
    """[blocks, U, ...] by list length -> [B, T, ...]."""
    flat = _flat(values)
    index = jnp.arange(flat.shape[0], dtype=jnp.int32)
    place = jnp.zeros(lists.lengths.size, jnp.int32)
    place = place.at[blocks.tile.reshape(-1)].set(index, mode="drop")
    return flat[place].reshape(*lists.lengths.shape, *flat.shape[1:])


def _backward_walk(
    spec: BlendSpec,
    layout: tuple[int, int],
    by_slot: bool,
    shapes: Array,
    features: Array,
    lists: TileLists,
    log_left: Array,
    stop: Array,
    grad_features: Array,
    grad_left: Array,
) -> tuple[Array, Array]:
    n_units, n_chunk = min(layout[0], lists.lengths.size), layout[1]
    n_gaussians, n_features = features.shape[1:]
    shapes, features = _flat(shapes), _flat(features)
    blocks = _blocks(spec, lists, n_units, shapes.dtype)
    n_frames, capacity = lists.slots.shape
    n_rows = lists.slots.size if by_slot else shapes.shape[0]
    per_tile = tuple(map(_flat, (log_left, stop, grad_features, grad_left)))

    def walk(rows: Array, block: _Block) -> tuple[Array, None]:
        log_end, stops, grads, grad_end = (_load(values, block.tile) for values in per_tile)
        # Chunks past the last stop of the block have no gradient.
        longest = jnp.minimum(jnp.max(block.lengths), jnp.max(stops))
        first = (longest - 1) // n_chunk * n_chunk

        def chunk(carry: tuple) -> tuple:
            first, log_end, behind, rows = carry
            position, ids, used = _entries(block, lists, first, n_chunk, n_gaussians)
            place = first + jnp.arange(n_chunk, dtype=jnp.int32)[None, :, None]
            splat = _load_splats(shapes, block, ids, used)
            new_rows, log_end, behind = _chunk_gradients(
                spec, splat, _load(features, ids), place < stops[:, None], log_end, behind, grads
            )
            if by_slot:
                slots = _load(lists.slots.reshape(-1), position)
                ids = slots + block.frame[:, None] * capacity
            target = jnp.where(used, ids, n_rows)
            rows = rows.at[target].add(new_rows, mode="drop")
            return first - n_chunk, log_end, behind, rows

        start = (first, log_end, jnp.exp(log_end) * grad_end, rows)
        return jax.lax.while_loop(lambda carry: carry[0] >= 0, chunk, start)[3], None

    zero = jnp.zeros_like(shapes[0, 0]) * features[0, 0].astype(shapes.dtype)
    rows = jnp.zeros((n_rows, N_SHAPE + n_features), shapes.dtype) + zero
    rows, _ = jax.lax.scan(walk, rows, blocks)
    if by_slot:
        sums = sum_runs(rows, lists.tails.reshape(-1)).reshape(n_frames, capacity, -1)
        rows = jax.vmap(lambda v, i: v.at[i].get(mode="fill", fill_value=0.0))(sums, lists.heads)
    rows = rows.reshape(n_frames, n_gaussians, -1)
    return rows[..., :N_SHAPE], rows[..., N_SHAPE:]


def _chunk_gradients(
    spec: BlendSpec,
    splat: _Splat,
    features: Float[Array, "U C F"],
    before_stop: Array,
    log_end: Float[Array, "U 256"],
    behind: Float[Array, "U 256"],
    grads: Float[Array, "U F 256"],
) -> tuple[Array, Array, Array]:
    """Gradients of a chunk's splats, [U, C, 6 + F], and the carries at the chunk's front.

    `log_end` is the log of the light left behind the chunk; `behind` is the sum of weight times
    <feature, gradient> of all that lies behind it, background included.
    """
    n_chunk = features.shape[1]
    log_alpha = _log_alpha(splat)
    alpha = jnp.where(before_stop, _alpha(spec, log_alpha), 0.0)
    log_keep = _log_left(alpha)
    tail_sums = _sum_along_chunk(np.tri(n_chunk).T, log_keep)  # of this splat and those behind it
    light = jnp.exp(log_end[:, None] - tail_sums)  # T_k
    weights = alpha * light
    along_grad = jnp.einsum("ucf,ufp->ucp", features, grads, precision=EXACT)
    weighted = weights * along_grad
    behind_k = behind[:, None] + _sum_along_chunk(np.tri(n_chunk, k=-1).T, weighted)
    grad_alpha = light * along_grad - behind_k / jnp.maximum(1.0 - alpha, 1e-30)
    # d alpha / d log_alpha = alpha, zero where clamped or not drawn.
    unclamped = log_alpha < np.log(spec.alpha_max)
    grad_log_alpha = jnp.where(unclamped, grad_alpha * alpha, 0.0)
    rows = jnp.concatenate(
        [
            _shape_gradients(splat, grad_log_alpha),
            jnp.einsum("ucp,ufp->ucf", weights, grads, precision=EXACT),
        ],
        axis=-1,
    )
    return rows, log_end - tail_sums[:, 0], behind_k[:, 0] + weighted[:, 0]


def _shape_gradients(splat: _Splat, grad: Float[Array, "U C 256"]) -> Float[Array, "U C 6"]:
    """Gradients of x, y, p, s, q, log opacity from that of log alpha.

    Power is quadratic in the pixel, so six moments of `grad` over the tile hold all of them: one
    product with a constant [256, 6] instead of six sums.
    """
    x, y = (v.reshape(-1) for v in _pixel_offsets(grad.dtype))
    monomials = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    moments = jnp.einsum("ucp,pm->ucm", grad, monomials, precision=EXACT)
    m_1, m_x, m_y, m_xx, m_xy, m_yy = jnp.moveaxis(moments, -1, 0)
    center_x, center_y, p, s, q, _ = (v[..., 0] for v in splat)
    # along = x - center_x;  across = y - s x - k. Sums of grad times their products:
    k = center_y - s * center_x
    along = m_x - center_x * m_1
    across_x = m_xy - s * m_xx - k * m_x  # with x
    across = m_y - s * m_x - k * m_1
    along_along = m_xx - 2 * center_x * m_x + center_x**2 * m_1
    across_along = across_x - center_x * across
    across_across = (m_yy - s * m_xy - k * m_y) - s * across_x - k * across
    return jnp.stack(
        [
            2 * (p * along - q * s * across),
            2 * q * across,
            -along_along,
            2 * q * across_along,
            -across_across,
            m_1,
        ],
        axis=-1,
    )
