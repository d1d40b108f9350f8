"""`rasterize` against its definition in float64: images and the gradient of every argument."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import rasterize
from kernels.rasterize.cases import CASES, make_case
from kernels.rasterize.reference import rasterize_reference, tile_pairs_reference

NAMES = (
    "means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "backgrounds",
    "means2d_offset",
)  # fmt: skip
PER_GAUSSIAN = NAMES[:5] + ("means2d_offset",)
# The scenes are small: compiling takes far longer than running, so compile in a hurry.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
FINITE = sorted(set(CASES) - {"head_512", "non_finite", "empty"})
LONG = (
    "all_culled",
    "dead",
    "dense_tile",
    "many_channels",
    "odd_size",
    "opaque",
)  # as Triton tests


def split(case):
    """Arrays to differentiate, alive, static arguments."""
    case = dict(case)
    case.setdefault("means2d_offset", np.zeros((len(case["means"]), 2), np.float32))
    alive = case.pop("alive", None)
    arrays = {name: case.pop(name) for name in NAMES}
    return arrays, alive, case


@cache
def value_and_pullback(static):
    """Jitted once per set of static arguments, so that scenes of one shape share a program."""
    static = dict(static)

    def run(arrays, alive, cotangents):
        def images(arrays):
            out = rasterize(**arrays, alive=alive, **static)
            return (out.rgb, out.alpha, out.depth), out.aux

        out, pullback, aux = jax.vjp(images, arrays, has_aux=True)
        return out, pullback(cotangents)[0], aux

    return jit(run)


def ours(arrays, alive, static, cotangents):
    n = len(arrays["means"])
    alive = np.ones(n, bool) if alive is None else alive
    program = value_and_pullback(tuple(sorted(static.items())))
    return jax.tree.map(np.asarray, program(arrays, alive, cotangents))


@cache
def definition_program(width, height, sh_degree):
    def run(wide, pairs, noise):
        def images(wide):
            out = rasterize_reference(wide, width, height, sh_degree=sh_degree, pairs=pairs)
            return out[:3], out[3]

        out, pullback, safe = jax.vjp(images, wide, has_aux=True)
        cotangents = tuple(v * (safe if v.ndim == 2 else safe[..., None]) for v in noise)
        return out, cotangents, pullback(cotangents)[0], safe

    return jit(run)


def theirs(arrays, alive, static, pairs=None):
    """Defined images, cotangents that are zero near thresholds, defined gradients, safe pixels."""
    shape = (static["height"], static["width"])
    rng = np.random.default_rng(0)
    noise = tuple(
        rng.normal(size=s).astype(np.float32)
        for s in (shape + arrays["colors"].shape[-1:], shape, shape)
    )
    pairs = np.ones((len(arrays["means"]), *shape), bool) if pairs is None else pairs
    if alive is not None:
        pairs = pairs & alive[:, None, None]
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        wide, noise = jax.tree.map(lambda v: np.asarray(v, np.float64), (arrays, noise))
        program = definition_program(static["width"], static["height"], static.get("sh_degree"))
        out, cotangents, gradients, safe = jax.tree.map(np.asarray, program(wide, pairs, noise))
    return out, tuple(v.astype(np.float32) for v in cotangents), gradients, safe


def assert_gradients_close(got, want, tolerance=1e-4):
    for name in want:
        scale = np.max(np.abs(want[name]), initial=0.0)
        np.testing.assert_allclose(
            got[name], want[name], rtol=tolerance, atol=tolerance * scale, err_msg=name
        )


def assert_images_close(got, want, safe, tolerance=1e-5):
    for image, expected, name in zip(got, want, ("rgb", "alpha", "depth"), strict=True):
        scale = max(1.0, np.max(np.abs(expected)))
        difference = np.abs(image - expected)[safe]
        assert difference.max() < tolerance * scale, name


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in FINITE]
)
def test_images_and_all_gradients_equal_the_definition(name):
    arrays, alive, static = split(make_case(name))
    want, cotangents, want_gradients, safe = theirs(arrays, alive, static)
    got, gradients, aux = ours(arrays, alive, static, cotangents)
    assert safe.mean() > 0.9
    assert_images_close(got, want, safe)
    assert_gradients_close(gradients, want_gradients)
    assert int(aux.overflow) == 0


def test_gradient_of_the_definition_equals_finite_differences():
    """The definition itself, where it is smooth: no alpha near a threshold at low, wide splats."""
    arrays, _, _ = split(make_case("tiny"))
    wide = {k: np.float64(v[:4] if v.shape[0] == 40 else v) for k, v in arrays.items()}
    wide["means"] = np.random.default_rng(0).normal(size=(4, 3)) * 0.05
    wide["scales"] = np.full((4, 3), 0.5) + np.arange(12.0).reshape(4, 3) * 0.02
    wide["opacities"] = np.array([0.3, 0.4, 0.5, 0.6])
    probe = np.random.default_rng(1).normal(size=(10, 12, 3))
    wide["Ks"] = np.array([[24.0, 0, 6.5], [0, 25.0, 5.2], [0, 0, 1]])
    wide["backgrounds"] = probe * 0.2 + 0.4

    @jit
    def loss_and_gradient(wide):
        def loss(wide):
            rgb, alpha, depth, _ = rasterize_reference(wide, 12, 10)
            return jnp.sum(rgb * probe) + jnp.sum(alpha * probe[..., 0]) + jnp.mean(depth)

        return jax.value_and_grad(loss)(wide)

    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        gradient = jax.tree.map(np.asarray, loss_and_gradient(wide)[1])
        for name, value in wide.items():
            direction = np.random.default_rng(2).normal(size=value.shape)
            step = 1e-5
            up, _ = loss_and_gradient(wide | {name: value + step * direction})
            down, _ = loss_and_gradient(wide | {name: value - step * direction})
            slope = np.sum(gradient[name] * direction)
            difference = (float(up) - float(down)) / (2 * step)
            np.testing.assert_allclose(slope, difference, rtol=1e-5, atol=1e-7)


def test_empty_is_the_background():
    case = make_case("empty")
    out = rasterize(**case)
    np.testing.assert_allclose(out.rgb, case["backgrounds"], rtol=1e-6)
    assert not out.alpha.any() and not out.depth.any() and out.aux.radii.shape == (0,)


def test_non_finite_gaussians_leave_the_others_unharmed():
    case = make_case("non_finite")
    arrays, _, static = split(case)
    harmless = make_case("tiny")
    finite = dict(arrays)
    for name in PER_GAUSSIAN[:5]:
        finite[name] = np.concatenate([harmless[name][:15], arrays[name][15:]])
    want, cotangents, want_gradients, safe = theirs(finite, np.arange(40) >= 15, static)
    got, gradients, aux = ours(arrays, None, static, cotangents)
    assert_images_close(got, want, safe)
    for name in PER_GAUSSIAN:
        assert not np.any(gradients[name][:15]), name  # exactly zero, so not NaN
    assert_gradients_close(gradients, want_gradients)
    assert not np.any(aux.radii[:15]) and np.any(aux.radii[15:])


def tile_lists_of(arrays, width, height):
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        wide = jax.tree.map(np.float64, arrays)
        return tile_pairs_reference(wide, width, height)


@pytest.mark.parametrize("name", ["tiny", "huge_splat", "degenerate", "odd_size"])
def test_footprints_are_exact(name):
    arrays, _, static = split(make_case(name))
    pairs, _ = tile_lists_of(arrays, static["width"], static["height"])
    aux = ours(arrays, None, static, zero_cotangents(arrays, static))[2]
    # Only slivers between columns of pixel centres may be counted on top.
    assert pairs.sum() <= int(aux.n_instances) <= 1.02 * pairs.sum() + 1


def zero_cotangents(arrays, static):
    shape = (static["height"], static["width"])
    channels = arrays["colors"].shape[-1]
    return tuple(np.zeros(s, np.float32) for s in (shape + (channels,), shape, shape))


@pytest.mark.parametrize("spare", [pytest.param(0, marks=pytest.mark.slow), -1])
def test_capacity_drops_the_farthest(spare):
    arrays, _, static = split(make_case("tiny"))
    width, height = static["width"], static["height"]
    pairs, depths = tile_lists_of(arrays, width, height)
    total = int(pairs.sum())
    order = np.argsort(depths, kind="stable")
    kept = np.zeros(pairs.size, bool)
    kept[np.flatnonzero(pairs[order].reshape(-1))[: total + spare]] = True
    mask = np.zeros_like(pairs)
    mask[order] = kept.reshape(pairs.shape)
    mask = np.repeat(np.repeat(mask, 16, 1), 16, 2)[:, :height, :width]
    want, cotangents, want_gradients, safe = theirs(arrays, None, static, pairs=mask)
    static = static | dict(capacity=total + spare)
    got, gradients, aux = ours(arrays, None, static, cotangents)
    assert int(aux.n_instances) == total and int(aux.overflow) == -spare
    assert_images_close(got, want, safe)
    assert_gradients_close(gradients, want_gradients)


def test_overflow_is_counted_when_even_the_rows_do_not_fit():
    arrays, _, static = split(make_case("huge_splat"))
    enough = ours(arrays, None, static, zero_cotangents(arrays, static))[2]
    few = rasterize(**arrays, **static | dict(capacity=3)).aux
    assert int(few.n_instances) == int(enough.n_instances)
    assert int(few.overflow) == int(enough.n_instances) - 3
