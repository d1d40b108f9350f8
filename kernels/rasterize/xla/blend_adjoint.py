"""The reverse walk of `blend`: from a block's last chunk to its first, gradients of each splat.

The light in front of a splat is what was left at the end over what all splats behind it kept. Sums
along a chunk are products with a triangular matrix of ones: on a CPU 0.9 ns a pair, against 8 for
shifted products and 2 for a loop over the chunk.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kernels.rasterize.types import BlendSpec
from kernels.rasterize.xla.binning import TILE, TileLists, tile_grid
from kernels.rasterize.xla.blend_chunks import (  # fmt: skip
    Block,
    Splat,
    alpha_of,
    chunk_entries,
    join_frames,
    load_rows,
    load_splats,
    log_alpha_of,
    log_keep_of,
    make_blocks,
    pixel_offsets,
)
from kernels.rasterize.xla.run_sums import sum_runs

EXACT = jax.lax.Precision.HIGHEST  # no TF32 or bfloat16 products


def walk_back(
    spec: BlendSpec,
    layout: tuple[int, int],
    by_slot: bool,
    shapes: Array,
    features: Array,
    lists: TileLists,
    log_left: Array,
    stop: Array,
    middle: Array | None,
    grad_features: Array,
    grad_left: Array,
) -> tuple[Array, Array]:
    """Gradients of the shapes and the features, [B, N, 6] and [B, N, F].

    Args:
      spec: Sizes and thresholds.
      layout: Tiles in a block, splats in a chunk.
      by_slot: Whether rows go to slots of their own and are added up pairwise, or are added in
        place, in whatever order the device's scatter has.
      shapes: As for `blend.blend`.
      features: Likewise.
      lists: Likewise.
      log_left: Logarithm of the light left in every pixel, [B, T, 256].
      stop: List entries up to the stop, [B, T, 256].
      middle: List entry whose last feature is the pixel's, [B, T, 256]; None if it is summed.
      grad_features: Cotangent of the summed features, [B, T, F, 256].
      grad_left: Cotangent of the light left, [B, T, 256].
    """
    n_units, n_chunk = min(layout[0], lists.lengths.size), layout[1]
    n_gaussians, n_features = features.shape[1:]
    n_shape = shapes.shape[-1]
    shapes, features = join_frames(shapes), join_frames(features)
    blocks = make_blocks(lists, n_units, tile_grid(spec.width, spec.height)[0], TILE, shapes.dtype)
    n_frames, capacity = lists.slots.shape
    n_rows = lists.slots.size if by_slot else shapes.shape[0]
    per_tile = tuple(map(join_frames, (log_left, stop, grad_features, grad_left)))
    middles = None if middle is None else join_frames(middle)

    def walk(rows: Array, block: Block) -> tuple[Array, None]:
        log_end, stops, grads, grad_end = (load_rows(values, block.tile) for values in per_tile)
        chosen = None if middles is None else load_rows(middles, block.tile)[:, None]
        # Chunks past the last stop of the block have no gradient.
        longest = jnp.minimum(jnp.max(block.lengths), jnp.max(stops))
        first = (longest - 1) // n_chunk * n_chunk

        def chunk(carry: tuple) -> tuple:
            first, log_end, behind, rows = carry
            position, ids, used = chunk_entries(block, lists, first, n_chunk, n_gaussians)
            place = first + jnp.arange(n_chunk, dtype=jnp.int32)[None, :, None]
            splat = load_splats(shapes, block, ids, used)
            new_rows, log_end, behind = _chunk_gradients(
                spec,
                splat,
                load_rows(features, ids),
                place < stops[:, None],
                None if chosen is None else place == chosen,
                log_end,
                behind,
                grads,
            )
            if by_slot:
                slots = load_rows(lists.slots.reshape(-1), position)
                ids = slots + block.frame[:, None] * capacity
            target = jnp.where(used, ids, n_rows)
            rows = rows.at[target].add(new_rows, mode="drop")
            return first - n_chunk, log_end, behind, rows

        start = (first, log_end, jnp.exp(log_end) * grad_end, rows)
        return jax.lax.while_loop(lambda carry: carry[0] >= 0, chunk, start)[3], None

    zero = jnp.zeros_like(shapes[0, 0]) * features[0, 0].astype(shapes.dtype)
    rows = jnp.zeros((n_rows, n_shape + n_features), shapes.dtype) + zero
    rows, _ = jax.lax.scan(walk, rows, blocks)
    if by_slot:
        sums = sum_runs(rows, lists.tails.reshape(-1)).reshape(n_frames, capacity, -1)
        rows = jax.vmap(lambda v, i: v.at[i].get(mode="fill", fill_value=0.0))(sums, lists.heads)
    rows = rows.reshape(n_frames, n_gaussians, -1)
    return rows[..., :n_shape], rows[..., n_shape:]


def _chunk_gradients(
    spec: BlendSpec,
    splat: Splat,
    features: Float[Array, "U C F"],
    before_stop: Array,
    chosen: Array | None,
    log_end: Float[Array, "U 256"],
    behind: Float[Array, "U 256"],
    grads: Float[Array, "U F 256"],
) -> tuple[Array, Array, Array]:
    """Gradients of a chunk's splats, [U, C, 6 + F], and the carries at the chunk's front.

    `log_end` is the log of the light left behind the chunk; `behind` is the sum of weight times
    <feature, gradient> of all that lies behind it, background included. Where the last feature is
    not summed, `chosen` tells at which pixels it is this splat's.
    """
    if chosen is not None:
        own = jnp.einsum(
            "ucp,up->uc", chosen.astype(grads.dtype), grads[:, -1], precision=EXACT
        )  # fmt: skip
        features, grads = features[..., :-1], grads[:, :-1]
    n_chunk = features.shape[1]
    log_alpha = log_alpha_of(splat)
    alpha = jnp.where(before_stop, alpha_of(spec, log_alpha), 0.0)
    log_keep = log_keep_of(alpha)
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
            *([] if chosen is None else [own[..., None]]),
        ],
        axis=-1,
    )
    return rows, log_end - tail_sums[:, 0], behind_k[:, 0] + weighted[:, 0]


def _sum_along_chunk(matrix: np.ndarray, values: Array) -> Array:
    """[C, C] x [U, C, 256]: partial sums along the chunk."""
    return jnp.einsum("ij,ujp->uip", matrix.astype(values.dtype), values, precision=EXACT)


def _shape_gradients(splat: Splat, grad: Float[Array, "U C 256"]) -> Float[Array, "U C 6"]:
    """Gradients of x, y, p, s, q, log opacity from that of log alpha.

    Power is quadratic in the pixel, so six moments of `grad` over the tile hold all of them: one
    product with a constant [256, 6] instead of six sums.
    """
    x, y = (v.reshape(-1) for v in pixel_offsets(grad.dtype))
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
