"""Tiled alpha compositing in plain XLA operations, with its own reverse walk.

Tiles are sorted by the length of their lists and taken in blocks of U, so that the tiles of a block
have nearly equal work; within a block the lists are walked in chunks of C splats, all U x C x 256
pairs at once, until the longest list of the block ends or all its pixels are opaque. Time is thus
proportional to the number of instances; memory is one block's chunk plus a few numbers per pixel.
Tiles that nothing touches cost nothing.

Alphas of a chunk are written to memory once; what follows from them is written out splat by splat,
so that XLA makes one loop over the pixels of each result with its C steps inside. The light is
computed again for every result: a product a splat, where keeping it for all of them would take a
sum of logarithms (measured on one CPU core: 1.5 ns a pair instead of 3.5).

Equations, for the k-th splat of a pixel (arXiv:2308.04079, eq. 3), with f_k its features:

    a_k = min(alpha_max, opacity_k exp(-power_k)), 0 if under alpha_min
    T_k = prod_{j<k} (1 - a_j);  stops before the first k with T_k (1 - a_k) < transmittance_min
    features = sum_k a_k T_k f_k;   transmittance = the final T
    dL/da_k = T_k <f_k, g> - (sum_{j>k} a_j T_j <f_j, g> + T_final g_T) / (1 - a_k)

With `spec.median` the last feature is not summed: it is that of the last drawn splat in front of
which more than half of the light is left, max {k: T_k > 1/2} (2DGS, arXiv:2403.17888), and its
gradient goes to that splat's feature alone.

The stop has a relative slack of 2^-16: two splats clamped at 0.99 leave exactly 1e-4, which is not
under 1e-4 in real numbers but is in float32.

Place in the pipeline: (3) of 3; before: `binning`. The reverse walk: `blend_adjoint`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.rasterize.frame_ops import call_frames, call_linear
from kernels.rasterize.types import BlendSpec
from kernels.rasterize.xla.binning import TILE, TileLists, tile_grid
from kernels.rasterize.xla.blend_adjoint import walk_back
from kernels.rasterize.xla.blend_chunks import (  # fmt: skip
    PIXELS,
    Block,
    alpha_of,
    chunk_entries,
    join_frames,
    load_rows,
    load_splats,
    log_alpha_of,
    log_keep_of,
    make_blocks,
    to_tile_order,
)
from kernels.rasterize.xla.blend_quarters import draw as draw_quarters

N_SHAPE = 6  # numbers of a splat that are not features: see `blend`
STOP_SLACK = 1.0 - 2.0**-16
HALF = 0.5  # of the light: where the median depth lies
# Tiles per block and splats per chunk; for a CPU so that a chunk stays in its second-level cache.
CPU_LAYOUT = (8, 16)
DEVICE_LAYOUT = (256, 32)


class _Walked(NamedTuple):
    """Results of the forward walk a pixel; the last three for a gradient only, else None."""

    features: Float[Array, "*n F 256"]
    left: Float[Array, "*n 256"]  # light
    log_left: Float[Array, "*n 256"] | None  # its logarithm, where it is too small for a float
    stop: Int[Array, "*n 256"] | None  # list entries up to the stop
    middle: Int[Array, "*n 256"] | None = None  # list entry of the median; -1: none


@partial(jax.custom_jvp, nondiff_argnums=(0,))
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
    return call_frames(partial(_draw, spec), shapes, features, lists)


@blend.defjvp
def _blend_jvp(spec: BlendSpec, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    """The tangent is a linear function of tangents, whose transpose is the reverse walk."""
    walked = call_frames(partial(_forward, spec, True), *primals)
    known = (*primals, walked.log_left, walked.stop, walked.middle)
    images = walked.features, walked.left
    moved = call_linear(
        partial(_tangent, spec), partial(_backward, spec), known, tangents[:2], images
    )  # fmt: skip
    return images, moved


def _draw(spec: BlendSpec, shapes: Array, features: Array, lists: TileLists) -> tuple[Array, Array]:
    """The images alone."""

    def walk(*arrays: Any) -> tuple[Array, Array]:
        walked = _walk(spec, DEVICE_LAYOUT, False, *arrays)
        return walked.features, walked.left

    if spec.median or shapes.dtype != jnp.float32:
        walked = _forward(spec, False, shapes, features, lists)
        return walked.features, walked.left
    quarters = partial(draw_quarters, spec, _least_light(spec))
    return jax.lax.platform_dependent(shapes, features, lists, cpu=quarters, default=walk)


def _forward(
    spec: BlendSpec, for_gradient: bool, shapes: Array, features: Array, lists: TileLists
) -> _Walked:
    return jax.lax.platform_dependent(
        shapes, features, lists,
        cpu=partial(_walk, spec, CPU_LAYOUT, for_gradient),
        default=partial(_walk, spec, DEVICE_LAYOUT, for_gradient),
    )  # fmt: skip


def _tangent(spec: BlendSpec, known: tuple, moves: tuple[Array, Array]) -> tuple[Array, Array]:
    """Tangents of summed features and light from those of shapes and features."""
    shapes, features, lists, *_ = known

    def images(shapes: Array, features: Array) -> tuple[Array, Array]:
        walked = _forward(spec, False, shapes, features, lists)
        return walked.features, walked.left

    return jax.jvp(images, (shapes, features), moves)[1]


def _backward(spec: BlendSpec, known: tuple, cotangents: tuple) -> tuple[Array, Array]:
    """Gradients of shapes and features.

    On a CPU a scatter adds in order, so rows are added up in place. Elsewhere the order of a
    scatter is not fixed: rows go to their own slots and are added up pairwise.
    """
    return jax.lax.platform_dependent(
        *known, *cotangents,
        cpu=partial(walk_back, spec, CPU_LAYOUT, False),
        default=partial(walk_back, spec, DEVICE_LAYOUT, spec.deterministic),
    )  # fmt: skip


def _walk(
    spec: BlendSpec,
    layout: tuple[int, int],
    for_gradient: bool,
    shapes: Array,
    features: Array,
    lists: TileLists,
) -> _Walked:
    n_units, n_chunk = min(layout[0], lists.lengths.size), layout[1]
    n_gaussians, n_features = features.shape[1:]
    shapes, features = join_frames(shapes), join_frames(features)
    blocks = make_blocks(lists, n_units, tile_grid(spec.width, spec.height)[0], TILE, shapes.dtype)
    # Zero that varies over the mesh as the inputs do: loop carries of a shard_map must.
    zero = jnp.zeros_like(shapes[0, 0]) * features[0, 0].astype(shapes.dtype)

    def chunk(block: Block, carry: tuple) -> tuple:
        first, light, walked = carry
        _, ids, used = chunk_entries(block, lists, first, n_chunk, n_gaussians)
        alpha = alpha_of(spec, log_alpha_of(load_splats(shapes, block, ids, used)))
        light, walked = _composite(spec, alpha, load_rows(features, ids), light, walked, first)
        return first + n_chunk, light, walked

    def walk(_: None, block: Block) -> tuple[None, _Walked]:
        zeros = jnp.zeros((n_units, PIXELS), shapes.dtype) + zero
        nothing = _Walked(
            jnp.zeros((n_units, n_features, PIXELS), shapes.dtype) + zero, zeros + 1,
            zeros if for_gradient else None, zeros.astype(jnp.int32) if for_gradient else None,
            zeros.astype(jnp.int32) - 1 if for_gradient and spec.median else None,
        )  # fmt: skip

        def goes_on(carry: tuple) -> Array:
            first, light, _ = carry
            has_more = first < block.lengths[:, None]
            return jnp.any(has_more & (light >= _least_light(spec)))

        start = (jnp.max(block.lengths) * 0, zeros + 1, nothing)
        return None, jax.lax.while_loop(goes_on, partial(chunk, block), start)[2]

    _, walked = jax.lax.scan(walk, None, blocks)
    return jax.tree.map(partial(to_tile_order, blocks, lists), walked)


def _least_light(spec: BlendSpec) -> float:
    return spec.transmittance_min * STOP_SLACK


def _composite(
    spec: BlendSpec,
    alpha: Float[Array, "U C 256"],
    features: Float[Array, "U C F"],
    light: Float[Array, "U 256"],
    walked: _Walked,
    first: Array,
) -> tuple[Array, _Walked]:
    """Add a chunk, from list entry `first` on, to what was walked before it.

    `light` runs on behind the stop; a splat is drawn as long as the light behind it is enough.
    """
    total, left, log_left, stop, middle = walked
    before = light[:, None]
    for c in range(alpha.shape[1]):
        behind = before * (1.0 - alpha[:, c, None])
        drawn = behind >= _least_light(spec)
        weight = jnp.where(drawn, alpha[:, c, None] * before, 0.0)
        if spec.median:
            here = (weight > 0) & (before > HALF)
            total = jnp.concatenate(
                [
                    total[:, :-1] + weight * features[:, c, :-1, None],
                    jnp.where(here, features[:, c, -1:, None], total[:, -1:]),
                ],
                axis=1,
            )
            if middle is not None:
                middle = jnp.where(here[:, 0], first + c, middle)
        else:
            total = total + weight * features[:, c, :, None]
        left = jnp.where(drawn[:, 0], behind[:, 0], left)
        if log_left is not None:
            log_left = log_left + jnp.where(drawn[:, 0], log_keep_of(alpha[:, c]), 0.0)
            stop = stop + drawn[:, 0].astype(jnp.int32)
        before = behind
    return before[:, 0], _Walked(total, left, log_left, stop, middle)
