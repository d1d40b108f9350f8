"""Blending without a gradient on a CPU: by quarters of tiles, 8 pixels wide.

Of the pixels that a listed splat is offered in a tile of 16, a seventh to a ninth is drawn before
the tile is opaque (trained avatars); of those in the quarters that its ellipse meets, a third to a
quarter. So every list is dealt
to its four quarters, in order, before it is walked as `blend` does it: 64 pixels instead of 256 a
pair, and a quarter that has become opaque ends early. The equations are those of `blend`; 2^x is a
polynomial, good to 1e-6 of itself.

XLA fuses what is cheap into all that reads it and would compute alphas once for each color. What a
`cond` returns it has to write down.

Place in the pipeline: (3) of 3, beside `blend`'s own walk, which is there for gradients.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kernels._written import written
from kernels.rasterize.types import BlendSpec
from kernels.rasterize.xla.binning import (  # fmt: skip
    SLACK_PIXELS,
    SLACK_POWER,
    TILE,
    TileLists,
    owners,
    tile_grid,
)
from kernels.rasterize.xla.blend_chunks import (  # fmt: skip
    Block,
    Splat,
    chunk_entries,
    join_frames,
    load_rows,
    log_alpha_of,
    make_blocks,
    to_tile_order,
)

SIDE = TILE // 2  # of a quarter [pixels]
PIXELS = SIDE * SIDE
# Quarters per block and splats per chunk: half a megabyte, a second-level cache.
LAYOUT = (32, 16)
SPLAT_WORDS = 6  # see `blend`
COUNT_BITS = 6  # of one quarter's count within a block of `SUM_BLOCK`
SUM_BLOCK = 32
DEGREE = 6  # of the polynomial for 2^x in [-1, 0]: 2e-8


def draw(
    spec: BlendSpec,
    least_light: float,
    shapes: Float[Array, "B N 6"],
    features: Float[Array, "B N F"],
    lists: TileLists,
) -> tuple[Float[Array, "B T F 256"], Float[Array, "B T 256"]]:
    """Composite as `blend.blend` does; the light may not fall under `least_light`."""
    n_units, n_chunk = LAYOUT
    n_gaussians, n_features = features.shape[1:]
    quarters = _deal(spec, shapes, lists)
    columns = 2 * tile_grid(spec.width, spec.height)[0]
    blocks = make_blocks(quarters, min(n_units, quarters.lengths.size), columns, SIDE, shapes.dtype)
    in_bits = np.where(np.isin(np.arange(SPLAT_WORDS), (2, 4, 5)), np.log2(np.e), 1.0)
    table = jnp.concatenate([shapes * in_bits.astype(shapes.dtype)[None, None], features], axis=-1)
    table = join_frames(table)
    zero = jnp.sum(table[0]) * 0  # varies over the mesh as the inputs do, like loop carries must

    def alphas(block: Block, entries: tuple) -> tuple[Array, Array]:
        ids, used = entries
        rows = load_rows(table, ids)
        splat = Splat(*(rows[..., i, None] for i in range(SPLAT_WORDS)))
        splat = splat._replace(
            x=splat.x - block.center_x[:, None, None], y=splat.y - block.center_y[:, None, None]
        )
        bits = log_alpha_of(splat, SIDE)
        alpha = jnp.minimum(exp2(bits, np.log2(spec.alpha_min)), spec.alpha_max)
        drawn = used[..., None] & (bits >= np.log2(spec.alpha_min))
        return jnp.where(drawn, alpha, 0.0), rows[..., SPLAT_WORDS:]

    def walk(_: None, block: Block) -> tuple[None, tuple[Array, Array]]:
        units = block.lengths.shape[0]
        longest = jnp.max(block.lengths)
        entries = lambda first: chunk_entries(block, quarters, first, n_chunk, n_gaussians)[1:]
        nothing = lambda _: (
            jnp.zeros((units, n_chunk, PIXELS), shapes.dtype) + zero,
            jnp.zeros((units, n_chunk, n_features), shapes.dtype) + zero,
        )

        def goes_on(carry: tuple) -> Array:
            first, _, light, *_ = carry
            return jnp.any((first < block.lengths[:, None]) & (light >= least_light))

        def chunk(carry: tuple) -> tuple:
            first, at, light, left, total = carry
            alpha, colors = jax.lax.cond(first < longest, partial(alphas, block), nothing, at)
            light, left, total = _composite(least_light, alpha, colors, light, left, total)
            return first + n_chunk, entries(first + n_chunk), light, left, total

        ones = jnp.ones((units, PIXELS), shapes.dtype) + zero
        black = jnp.zeros((units, n_features, PIXELS), shapes.dtype) + zero
        start = (longest * 0, entries(longest * 0), ones, ones, black)
        *_, left, total = jax.lax.while_loop(goes_on, chunk, start)
        return None, (total, left)

    _, drawn = jax.lax.scan(walk, None, blocks)
    total, left = jax.tree.map(partial(to_tile_order, blocks, quarters), drawn)
    join = partial(_join_quarters, tile_grid(spec.width, spec.height))
    return join(total), join(left)


def exp2(x: Array, least: float) -> Array:
    """2^x for `least` <= x <= 0; of an x beyond, that of the nearer end.

    A polynomial for 2^(x / 2^k) on [-1, 0], squared k times: half the work of XLA's own.
    """
    n_squares = max(0, int(np.ceil(np.log2(-least)))) if least < 0 else 0
    at = 0.5 * np.cos(np.pi * (np.arange(200) + 0.5) / 200) - 0.5
    series = np.polynomial.polynomial.polyfit(at, 2.0**at, DEGREE, w=2.0**-at)
    series = series / 2.0 ** (n_squares * np.arange(DEGREE + 1))
    x = jnp.clip(x, least, 0.0)
    power = jnp.full_like(x, series[-1])
    for factor in series[-2::-1]:
        power = power * x + factor
    for _ in range(n_squares):
        power = power * power
    return power


def _composite(
    least_light: float,
    alpha: Float[Array, "U C 64"],
    colors: Float[Array, "U C F"],
    light: Float[Array, "U 64"],
    left: Float[Array, "U 64"],
    total: Float[Array, "U F 64"],
) -> tuple[Array, Array, Array]:
    """Add a chunk; `light` runs on behind the stop."""
    before = light[:, None]
    for c in range(alpha.shape[1]):
        behind = before * (1.0 - alpha[:, c, None])
        drawn = behind >= least_light
        weight = jnp.where(drawn, alpha[:, c, None] * before, 0.0)
        total = total + weight * colors[:, c, :, None]
        left = jnp.where(drawn[:, 0], behind[:, 0], left)
        before = behind
    return before[:, 0], left, total


def _deal(spec: BlendSpec, shapes: Float[Array, "B N 6"], lists: TileLists) -> TileLists:
    """Lists of the quarters of every tile, numbered row by row through the image.

    Those of the upper left quarters come first, then the upper right ones' and so on; in each, the
    tiles keep their order, so that a place is a count of the entries before it. The counts of the
    four within a block share the 24 bits of a float: one product with a triangular matrix of ones
    counts all of them.
    """
    n_frames, capacity = lists.ids.shape
    size = capacity + -capacity % SUM_BLOCK  # arrays of whole blocks: to pad one later costs more
    place = jnp.minimum(jnp.arange(size, dtype=jnp.int32), capacity - 1)[None]
    place = jnp.broadcast_to(place, (n_frames, size))
    ids = jax.vmap(load_rows)(lists.ids, place)
    met = written(partial(_quarters_met, spec), lists.n_instances, shapes, lists, ids)
    blocks = met.reshape(n_frames, -1, SUM_BLOCK)
    up_to = np.triu(np.ones((SUM_BLOCK, SUM_BLOCK), np.float32))
    sums = jnp.matmul(blocks, up_to, precision=jax.lax.Precision.HIGHEST).astype(jnp.int32)
    met = met.astype(jnp.int32)
    one = np.int32(2**COUNT_BITS - 1)
    starts, lengths, targets = [], [], []
    for part in range(4):
        shift = np.int32(COUNT_BITS * part)
        within = (sums >> shift) & one  # [B, blocks, 32]
        whole = within[..., -1]
        counts = (within + (jnp.cumsum(whole, axis=1) - whole)[..., None]).reshape(n_frames, size)
        target = part * size + counts - 1
        targets.append(jnp.where((met >> shift) & one == 1, target, 4 * size))
        ends = [lists.starts, lists.starts + lists.lengths]
        first, end = (
            jnp.where(v > 0, jax.vmap(load_rows)(counts, jnp.maximum(v - 1, 0)), 0) for v in ends
        )
        starts.append(first + part * size)
        lengths.append(end - first)

    def put(*targets: Array, ids: Array) -> Array:
        dealt = jnp.zeros(4 * size, jnp.int32)
        for target in targets:
            dealt = dealt.at[target].set(ids, mode="drop", unique_indices=True)
        return dealt

    columns, rows = tile_grid(spec.width, spec.height)

    def by_row(values: list[Array]) -> Int[Array, "B 4T"]:
        each = jnp.stack(values, axis=1).reshape(n_frames, 2, 2, rows, columns)
        return jnp.transpose(each, (0, 3, 1, 4, 2)).reshape(n_frames, -1)

    dealt = jax.vmap(lambda ids, targets: put(*targets, ids=ids))(ids, targets)
    return lists._replace(ids=dealt, starts=by_row(starts), lengths=by_row(lengths))


def _quarters_met(
    spec: BlendSpec, shapes: Float[Array, "B N 6"], lists: TileLists, ids: Int[Array, "B C"]
) -> Float[Array, "B C"]:
    """Which quarters of its tile the ellipse of a list's entry meets: 1 + 64 + 64^2 + 64^3.

    An ellipse cut to a band of columns: see `binning.extent`, of which all that a Gaussian's
    entries share is computed once.
    """
    x, y, p, s, q, log_opacity = (shapes[..., i] for i in range(SPLAT_WORDS))
    level = jnp.maximum(log_opacity - np.log(spec.alpha_min) + SLACK_POWER, 0.0)
    reach = jnp.sqrt(level / p)  # of x
    tangent = s * reach / jnp.sqrt(s * s + p / q)  # x at the highest point
    frame = jnp.arange(len(ids), dtype=jnp.int32)[:, None] * shapes.shape[1]
    fields = (x, y, reach, tangent, s, level / q, p / q)
    load = lambda place, *fields: [load_rows(v.reshape(-1), place) for v in fields]
    fields = written(load, lists.n_instances, ids + frame, *fields)
    x, y, reach, tangent, s, a, b = fields
    owner = partial(owners, size=ids.shape[1])
    tile = written(owner, lists.n_instances, lists.starts + lists.lengths)
    columns, _ = tile_grid(spec.width, spec.height)
    x = x - (tile % columns * TILE).astype(x.dtype)
    y = y - (tile // columns * TILE).astype(y.dtype)
    end = lists.starts[:, -1:] + lists.lengths[:, -1:]
    listed = jnp.arange(ids.shape[1], dtype=jnp.int32)[None] < end
    met = jnp.zeros(ids.shape, jnp.float32)
    for column in range(2):
        first = column * SIDE + 0.5
        low, high = first - x - SLACK_PIXELS, first + (SIDE - 1) - x + SLACK_PIXELS
        meets = listed & (low <= reach) & (high >= -reach)
        low, high = jnp.clip(low, -reach, reach), jnp.clip(high, -reach, reach)
        at, below = jnp.clip(tangent, low, high), jnp.clip(-tangent, low, high)
        top = y + s * at + jnp.sqrt(jnp.maximum(a - b * at * at, 0.0)) + SLACK_PIXELS
        bottom = y + s * below - jnp.sqrt(jnp.maximum(a - b * below * below, 0.0)) - SLACK_PIXELS
        for row in range(2):
            first = row * SIDE + 0.5
            inside = meets & (bottom <= first + (SIDE - 1)) & (top >= first)
            met = met + jnp.where(inside, np.float32(2.0 ** (COUNT_BITS * (2 * row + column))), 0.0)
    return met


def _join_quarters(grid: tuple[int, int], values: Float[Array, "B Q *F 64"]) -> Array:
    """Make [B, T, ..., 256] of quarters numbered row by row."""
    columns, rows = grid
    n_frames, _, *channels, _ = values.shape
    tiles = values.reshape(n_frames, rows, 2, columns, 2, -1, SIDE, SIDE)
    tiles = jnp.transpose(tiles, (0, 1, 3, 5, 2, 6, 4, 7))
    return tiles.reshape(n_frames, rows * columns, *channels, TILE * TILE)
