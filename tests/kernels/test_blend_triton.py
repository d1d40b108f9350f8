"""The Triton blending kernels, in Triton's interpreter, against a dense compositing in float64."""

import functools
import importlib.util
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.rasterize.types import BlendSpec
from kernels.rasterize.xla.blend import STOP_SLACK

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (Linux only)"
)
WIDTH, HEIGHT, TILES = 20, 12, 2
SPEC = BlendSpec(WIDTH, HEIGHT, 0.99, 1 / 255, 1e-4, True)
LOG2_E = np.log2(np.e)
GARBAGE = 2**31 - 1


def random_splats(n, n_colors, seed, opacity=0.95):
    """Shapes x, y, p, s, q, log opacity and features, nearest first, in natural units."""
    rng = np.random.default_rng(seed)
    p, s, q = 0.3 * rng.random(n) ** 3 + 1e-3, rng.normal(size=n), 0.3 * rng.random(n) ** 3 + 1e-3
    xy = rng.uniform(-4, 1, (n, 2)) + rng.random((n, 2)) * [WIDTH + 3, HEIGHT + 3]
    log_opacity = np.log(rng.uniform(0.1, opacity, n))
    shapes = np.stack([*xy.T, p, s, q, log_opacity], axis=1).astype(np.float32)
    return shapes, rng.normal(size=(n, n_colors + 1)).astype(np.float32)


def as_rows(shapes, features):
    """What the kernels read: base-2 exponents, padding, and the dummy splat at the end."""
    table = np.concatenate([shapes * [1, 1, LOG2_E, 1, LOG2_E, LOG2_E], features], axis=1)
    table = np.pad(table, ((0, 1), (0, -table.shape[1] % 4)))
    table[-1, 5] = -np.inf
    return table.astype(np.float32)


def log_alphas(shapes, x, y):
    """Natural log of alpha before clamp and floor, [N, len(x)]."""
    center_x, center_y, p, s, q, log_opacity = shapes.T[..., None]
    along = x[None] - center_x
    across = y[None] - center_y - s * along
    return log_opacity - p * along**2 - q * across**2


def make_lists(shapes, capacity, rng):
    """Lists of one frame, with some entries that draw nothing and garbage wherever none are."""
    n = len(shapes)
    entries = []
    for place in range(4 * TILES):
        tile, quarter = divmod(place, 4)
        i = np.arange(64)
        x = tile * 16 + quarter % 2 * 8 + i % 8 + 0.5
        y = quarter // 2 * 8 + i // 8 + 0.5
        drawn = np.max(log_alphas(shapes, x, y), axis=1) > np.log(SPEC.alpha_min) - 0.01
        useless = (shapes[:, 5] > -20) & (rng.random(n) < 0.1)
        entries.append(np.flatnonzero(drawn | useless))
    per_tile = [len(np.unique(np.concatenate(entries[4 * t : 4 * t + 4]))) for t in range(TILES)]
    bounds = np.concatenate([[0], np.cumsum(per_tile)])
    assert bounds[-1] <= capacity
    counts = np.bincount(np.concatenate(entries), minlength=n)
    order = rng.permutation(n)  # Gaussians need not be in the order of their indices
    heads = np.empty(n, int)
    heads[order] = np.cumsum(counts[order]) - counts[order]
    ids = np.full(4 * capacity + 16 * TILES, GARBAGE)
    rows = ids.copy()
    used = np.zeros(n, int)
    for place, names in enumerate(entries):
        tile, quarter = divmod(place, 4)
        at = 4 * bounds[tile] + 16 * tile + quarter * (-(-per_tile[tile] // 4) * 4)
        ids[at : at + -(-len(names) // 4) * 4] = n
        rows[at : at + -(-len(names) // 4) * 4] = 4 * capacity
        ids[at : at + len(names)] = names
        rows[at : at + len(names)] = heads[names] + used[names]
        used[names] += 1
    fields = dict(
        bounds=bounds, lengths=[len(names) for names in entries], ids=ids, rows=rows,
        row_heads=heads, row_counts=counts, turns=rng.permutation(TILES),
    )  # fmt: skip
    return {name: np.asarray(value, np.int32) for name, value in fields.items()}


def dense(spec, shapes, features, background):
    """Images [H, W, D], [H, W], [H, W] from the definition, every pixel with every splat."""
    row, column = np.divmod(np.arange(WIDTH * HEIGHT), WIDTH)
    log_alpha = log_alphas(shapes, column + 0.5, row + 0.5)
    alpha = jnp.minimum(jnp.exp(log_alpha), spec.alpha_max)
    alpha = jnp.where(log_alpha >= np.log(spec.alpha_min), alpha, 0.0)
    after = jnp.cumprod(1 - alpha, axis=0)
    goes_on = jnp.cumprod(after >= spec.transmittance_min * STOP_SLACK, axis=0)
    alpha = alpha * goes_on
    keep = jnp.cumprod(1 - alpha, axis=0)
    light = jnp.concatenate([jnp.ones_like(keep[:1]), keep[:-1]])
    n = features.shape[1] - 1
    total = jnp.einsum("np,nf->pf", alpha * light, features).reshape(HEIGHT, WIDTH, n + 1)
    left = keep[-1].reshape(HEIGHT, WIDTH)
    return (
        total[..., :-1] + left[..., None] * jnp.broadcast_to(background, (HEIGHT, WIDTH, n)),
        total[..., -1],
        left,
    )


@functools.partial(jax.jit, static_argnums=0)
def dense_both_ways(spec, shapes, features, background, cotangent):
    """Those images and the gradients of shapes and features."""
    images, pullback = jax.vjp(lambda *a: dense(spec, *a, background), shapes, features)
    return images, pullback(cotangent)


def shape_gradients(shapes, sums):
    """Gradients of x, y, p, s, q, log opacity from the six sums."""
    p, s, q = shapes[:, 2], shapes[:, 3], shapes[:, 4]
    g, g_a, g_c, g_aa, g_ac, g_cc = sums[:, :6].T
    return np.stack(
        [2 * (p * g_a - q * s * g_c), 2 * q * g_c, -g_aa, 2 * q * g_ac, -g_cc, g], axis=1
    )


def assert_close(got, want, name):
    scale = np.max(np.abs(want))
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * scale, err_msg=name)


def assert_equals_dense(scenes, backgrounds, n_colors, spec=SPEC, with_depth=True, with_left=True):
    """Images and gradients of every frame; returns the numbers of entries before the stops."""
    from kernels.rasterize.triton import blend

    rng = np.random.default_rng(9)
    capacity = TILES * max(len(shapes) for shapes, _ in scenes)
    lists = [make_lists(shapes, capacity, rng) for shapes, _ in scenes]
    stacked = {name: np.stack([one[name] for one in lists]) for name in lists[0]}
    splats = np.stack([as_rows(*scene) for scene in scenes])
    frames = len(scenes)
    grads = [
        rng.normal(size=(frames, HEIGHT, WIDTH, *more)).astype(np.float32)
        for more in ((n_colors,), (), ())
    ]
    used = [grads[0], grads[1] if with_depth else None, grads[2] if with_left else None]

    @jax.jit
    def run(splats, backgrounds, lists, used):
        arguments = spec, splats, backgrounds, SimpleNamespace(**lists)
        images = blend.blend_forward(*arguments, n_colors)
        return images, blend.blend_backward(*arguments, *images[2:], *used, n_colors)

    done = run(splats, backgrounds, stacked, used)
    (rgb, depth, left, stops), sums = jax.device_get(done)
    assert sums.shape[-1] == 6 + n_colors + with_depth
    for b, (shapes, features) in enumerate(scenes):
        behind = np.zeros(n_colors) if backgrounds is None else np.float64(backgrounds[b])
        cotangent = tuple(
            np.float64(grad[b]) * on
            for grad, on in zip(grads, (1, with_depth, with_left), strict=True)
        )
        with jax.enable_x64(True):
            images, (grad_shapes, grad_features) = jax.tree.map(
                np.asarray,
                dense_both_ways(spec, np.float64(shapes), np.float64(features), behind, cotangent),
            )
        for got, want, name in zip(
            (rgb, depth, left), images, ("rgb", "depth", "left"), strict=True
        ):
            assert_close(got[b], want, name)
        got = shape_gradients(shapes, sums[b])
        for i, name in enumerate(("x", "y", "p", "s", "q", "opacity")):
            assert_close(got[:, i], grad_shapes[:, i], name)
        assert_close(sums[b, :, 6:], grad_features[:, : n_colors + with_depth], "features")
    return stops, SimpleNamespace(**stacked)


def test_frames_with_stops_clamped_splats_and_empty_lists():
    """Two frames: one that goes opaque, with opacities over the clamp, and one of 2 splats."""
    shapes, features = random_splats(26, 3, seed=1, opacity=1.5)
    few = (shapes.copy(), features)
    few[0][2:, 5] = -30.0
    rng = np.random.default_rng(0)
    backgrounds = rng.random((2, HEIGHT, WIDTH, 3)).astype(np.float32)
    stops, lists = assert_equals_dense([(shapes, features), few], backgrounds, 3)
    assert len(np.unique(stops[0])) > 8 and np.max(stops[1]) < 20
    assert np.any(lists.lengths % 4) and not np.all(lists.lengths[1])


@pytest.mark.parametrize("n_colors", [1, 2, 4])
def test_other_numbers_of_colors_and_cotangents(n_colors):
    background = np.full((1, n_colors), 0.3, np.float32) if n_colors != 2 else None
    scene = random_splats(12, n_colors, seed=n_colors)
    assert_equals_dense(
        [scene], background, n_colors, with_depth=n_colors == 4, with_left=n_colors == 1
    )


def test_no_stop_and_no_clamp():
    """Light that all but vanishes must come back in the reverse walk."""
    shapes, features = random_splats(12, 1, seed=5)
    shapes[:, 5] = np.log(0.97)
    spec = SPEC._replace(transmittance_min=0.0, alpha_max=1.0)
    assert_equals_dense([(shapes, features)], None, 1, spec)


def run_ptx(text, operands):
    """Run straight-line PTX on a warp, operands by name; returns what it stores and all values."""
    registers = dict(operands)
    rules = dict(
        mov=lambda a: a, neg=np.negative, selp=lambda a, b, p: np.where(p, a, b), add=np.add,
        mul=np.multiply,
        shfl=lambda a, distance, _clamp, _lanes: a[np.arange(32) ^ distance],
    ) | {"and": np.bitwise_and, "setp.ne": np.not_equal, "setp.eq": np.equal,
         "setp.ge": np.greater_equal}  # fmt: skip
    stored = {}

    def read(name):
        return registers[name] if name in registers else np.full(32, int(name))

    for line in re.sub(r"[{}]|\.reg [^;]*;", "", text).split(";"):
        operation, *names = re.split(r"[\s,]+", line.strip())
        if operation.startswith("@"):  # a guarded store
            address, value, guard = read(names[1].strip("[]")), read(names[2]), read(operation[1:])
            assert len(set(address[guard])) == np.sum(guard)
            stored |= dict(zip(address[guard], value[guard], strict=True))
        elif operation:
            kind = operation.split(".")[0]
            rule = rules[".".join(operation.split(".")[:2]) if kind == "setp" else kind]
            registers[names[0]] = rule(*map(read, names[1:]))
    return stored, registers


@pytest.mark.parametrize("n_features", range(1, 17))
def test_butterfly_stores_one_sum_per_lane(n_features):
    """The inline assembly of the backward kernel, which Triton's interpreter cannot run."""
    from kernels.rasterize.triton import ptx

    rng = np.random.default_rng(0)
    values = rng.integers(0, 1000, (3 + n_features, 32))
    along = np.tile(rng.integers(0, 9, 8), 4)  # one per column
    lane = np.arange(32)
    place = run_ptx(ptx._row_places_ptx(n_features), {"$1": lane})[1]["$0"]
    operands = {"$1": lane, "$2": -along, "$3": place, "$4": np.full(32, 4096)}
    operands |= {f"${5 + i}": value for i, value in enumerate(values)}
    stored = run_ptx(ptx._store_row_ptx(n_features), operands)[0]
    g, g_c, g_cc = values[:3]
    row = [g, g * along, g_c, g * along**2, g_c * along, g_cc, *values[3:]]
    assert stored == {4096 + 4 * i: np.sum(value) for i, value in enumerate(row)}
