"""Depth kinds and antialiasing of `rasterize`: the definition, finite differences, by hand.

`test_rasterize_triton` has the same for the Triton kernels.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import rasterize
from kernels.rasterize.cases import random_case
from kernels.rasterize.reference import rasterize_reference

# The scenes are small: compiling takes far longer than running, so compile in a hurry.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
OPTIONS = [
    dict(depth_kind="median", antialias=True),
    pytest.param(dict(depth_kind="expected"), marks=pytest.mark.slow),
]


def split(case):
    """Arrays in float64 with an offset, and the image's size."""
    size = {name: case[name] for name in ("width", "height")}
    arrays = {name: np.float64(value) for name, value in case.items() if name not in size}
    return arrays | dict(means2d_offset=np.zeros((len(arrays["means"]), 2))), size


def pullback_of(images, arrays, safe=None):
    """Images, which pixels are safe, and gradients for cotangents that are zero on the others."""

    def run(arrays, safe):
        (*out, own), pullback = jax.vjp(images, arrays)
        safe = own if safe is None else safe
        rng = np.random.default_rng(0)
        noise = [rng.normal(size=v.shape) * (safe if v.ndim == 2 else safe[..., None]) for v in out]
        return out, safe, pullback((*noise, np.zeros(own.shape, jax.dtypes.float0)))[0]

    return jax.tree.map(np.asarray, jit(run)(arrays, safe))


@pytest.mark.parametrize("options", OPTIONS, ids=["median", "expected"])
def test_images_and_gradients_equal_the_definition(options):
    """In float64 both: nothing is left to rounding."""
    arrays, size = split(random_case(14, 20, 12, seed=3, size=0.05))

    def ours(arrays):
        out = rasterize(**arrays, **size, **options, implementation="xla")
        return out.rgb, out.alpha, out.depth, jnp.ones(out.alpha.shape, bool)

    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        define = partial(rasterize_reference, **size, **options)
        want, safe, want_gradients = pullback_of(define, arrays)
        got, _, gradients = pullback_of(ours, arrays, safe)
    assert safe.mean() > 0.9 and np.ptp(want[2]) > 1
    for image, expected in zip(got, want, strict=True):
        np.testing.assert_allclose(image[safe], expected[safe], rtol=1e-8, atol=1e-10)
    for name, expected in want_gradients.items():
        scale = np.max(np.abs(expected))
        assert scale > 0, name
        np.testing.assert_allclose(
            gradients[name], expected, rtol=1e-7, atol=1e-9 * scale, err_msg=name
        )


def test_definitions_gradient_equals_finite_differences():
    """Of antialiased opacities and both depths, where all is smooth: low, wide splats."""
    arrays, _ = split(random_case(4, 12, 10))
    rng = np.random.default_rng(0)
    arrays["means"] = rng.normal(size=(4, 3)) * 0.05
    arrays["scales"] = np.full((4, 3), 0.5) + np.arange(12.0).reshape(4, 3) * 0.02
    arrays["opacities"] = np.array([0.3, 0.4, 0.5, 0.6])
    arrays["Ks"] = np.array([[24.0, 0, 6.5], [0, 25.0, 5.2], [0, 0, 1]])
    probe = rng.normal(size=(10, 12))

    @jit
    def losses(arrays):
        def loss(arrays):
            kinds = ("expected", "median")
            draw = lambda kind: rasterize_reference(arrays, 12, 10, depth_kind=kind, antialias=True)
            return sum(jnp.sum(draw(kind)[2] * probe) for kind in kinds)

        return jax.value_and_grad(loss)(arrays)

    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        gradient = losses(arrays)[1]
        for name in ("means", "quats", "scales", "opacities", "viewmats", "Ks"):
            direction = rng.normal(size=arrays[name].shape)
            up, down = (
                losses(arrays | {name: arrays[name] + step * direction})[0]
                for step in (1e-5, -1e-5)
            )
            slope = np.sum(gradient[name] * direction)
            np.testing.assert_allclose(slope, (up - down) / 2e-5, rtol=1e-5, atol=1e-7)


def facing(scales, opacities, depths):
    """Splats on the optical axis, one pixel per 0.05 units at depth 4, over the middle pixel."""
    n = len(depths)
    viewmat = np.eye(4, dtype=np.float32)
    return dict(
        means=np.float32([[0, 0, z] for z in depths]), quats=np.float32([[1, 0, 0, 0]] * n),
        scales=np.float32(scales), opacities=np.float32(opacities),
        colors=np.ones((n, 1), np.float32), viewmats=viewmat,
        Ks=np.float32([[80, 0, 8.5], [0, 80, 8.5], [0, 0, 1]]), width=17, height=17,
        implementation="xla",
    )  # fmt: skip


def test_antialiased_opacity_by_hand():
    """Opacity sqrt(|cov| / |cov + 0.3 I|): with a round splat v / (v + 0.3), v its variance."""
    case = facing([[1.0] * 3], [0.9], [4.0])
    draw = lambda s: [
        rasterize(**case | dict(scales=s), antialias=on).alpha for on in (False, True)
    ]
    draw = jit(draw)
    for scale in (0.005, 0.02, 0.4):
        variance = (80 * scale / 4) ** 2
        blurred, sharp = (alpha[8, 8] for alpha in draw(np.full((1, 3), scale, np.float32)))
        np.testing.assert_allclose(blurred, 0.9, rtol=1e-6)
        want = 0.9 * variance / (variance + 0.3)
        np.testing.assert_allclose(sharp, want if want >= 1 / 255 else 0.0, rtol=1e-5)


@pytest.mark.slow
def test_antialiasing_keeps_the_light_of_splats_smaller_than_a_pixel():
    """The sum over pixels grows with the splat's area, not with the blur's."""
    totals = [
        float(jnp.sum(rasterize(**facing([[s] * 3], [0.5], [4.0]), antialias=True, alpha_min=1e-6)
                      .alpha)) for s in (0.01, 0.02)
    ]  # fmt: skip
    np.testing.assert_allclose(totals[1] / totals[0], 4.0, rtol=0.02)


def test_depths_by_hand():
    """Faint, half, rest: the second lets less than half of the light to the third."""
    case = facing([[9.0, 9.0, 0.01]] * 3, [0.2, 0.5, 0.9], [3.0, 4.0, 6.0])
    weights = np.array([0.2, 0.8 * 0.5, 0.8 * 0.5 * 0.9])
    summed = weights @ [3.0, 4.0, 6.0]
    wanted = dict(accumulated=summed, expected=summed / weights.sum(), median=4.0)

    @jit
    def depths(means):
        return {
            kind: rasterize(**case | dict(means=means), depth_kind=kind).depth for kind in wanted
        }

    for kind, depth in depths(case["means"]).items():
        np.testing.assert_allclose(depth[8, 8], wanted[kind], rtol=1e-5, err_msg=kind)
    assert not any(map(np.any, depths(-case["means"]).values()))  # nothing drawn: zero, no NaN


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(depth_kind="mean"), "depth_kind: expected one of accumulated, expected, median"),
        (dict(depth_kind="median", as_bytes=True), "as_bytes=True gives no depth"),
        (dict(antialias="yes"), "antialias: expected True or False"),
    ],
)
def test_misuse_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        rasterize(**facing([[1, 1, 1]], [0.5], [4.0]) | change)
