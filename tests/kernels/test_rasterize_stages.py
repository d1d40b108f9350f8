"""The stages as functions, and derivatives that need the forward mode of "xla"."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import blend, project, rasterize, tile_lists
from kernels.rasterize.cases import make_case, random_case
from kernels.rasterize.reference import rasterize_reference

# The scenes are small: compiling takes far longer than running, so compile in a hurry.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SIZE = dict(width=40, height=24)


def two_frames():
    """One set of Gaussians with harmonics under two cameras, some dead, one not finite."""
    case = make_case("harmonics")
    viewmats = np.stack([case["viewmats"]] * 2)
    viewmats[1, 0, 3] += 0.1
    case["means"][3] = np.nan
    return case | dict(viewmats=viewmats, alive=np.arange(40) % 5 > 0)


def split(case):
    names = ("colors", "backgrounds", "width", "height", "sh_degree")
    return {k: v for k, v in case.items() if k not in names}, {k: case[k] for k in names[:2]}


@pytest.mark.slow
def test_stages_compose_to_the_bits_of_rasterize():
    """Images, counts and gradients of two frames, with every option that a stage has."""
    case = two_frames()
    arrays, more = split(case)
    alive = arrays.pop("alive")
    options = dict(antialias=True, near_plane=0.3, alpha_min=1 / 200)
    later = dict(depth_kind="expected", transmittance_min=1e-3, alpha_max=0.95)

    def composed(arrays, colors, backgrounds):
        splats = project(
            **arrays, **SIZE, colors=colors, sh_degree=3, alive=alive, **options
        )  # fmt: skip
        lists = tile_lists(splats, **SIZE, capacity=300, alpha_min=1 / 200)
        assert splats.depths.shape == (2, 40) and lists.ids.shape == (2, 300)
        return blend(splats, lists, **SIZE, backgrounds=backgrounds, alpha_min=1 / 200, **later)

    def whole(arrays, colors, backgrounds):
        return rasterize(
            **arrays, colors=colors, **SIZE, sh_degree=3, alive=alive, backgrounds=backgrounds,
            capacity=300, **options, **later, implementation="xla",
        )  # fmt: skip

    def both_ways(draw):
        def loss(*given):
            out = draw(*given)
            return jnp.sum(out.rgb**2) + jnp.sum(jnp.sin(out.depth)) + jnp.sum(out.alpha**2), out

        return jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))

    got, want = (
        both_ways(f)(arrays, more["colors"], more["backgrounds"]) for f in (composed, whole)
    )
    assert np.ptp(want[1].depth) > 1 and np.any(want[0][0]["viewmats"])
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_own_colors_of_what_is_projected():
    """Colors of any number of channels by depth, outside of jit; the depth image is one of them."""
    arrays, _ = split(two_frames())
    splats = project(**arrays, **SIZE)
    assert splats.colors.shape == (2, 40, 0) and not np.any(splats.visible[:, ::5])
    lists = tile_lists(splats, **SIZE)
    colors = jnp.stack([splats.depths, splats.depths**2], axis=-1)
    out = blend(splats, lists, **SIZE, colors=colors)
    assert out.rgb.shape == (2, 24, 40, 2) and np.all(out.aux.overflow == 0)
    np.testing.assert_allclose(out.rgb[..., 0], out.depth, rtol=1e-6)
    np.testing.assert_array_equal(lists.n_instances, out.aux.n_instances)
    nothing = project(**{k: v[:0] if len(v) == 40 else v for k, v in arrays.items()}, **SIZE)
    empty = blend(nothing, tile_lists(nothing, **SIZE), **SIZE, colors=np.zeros((0, 3)))
    assert empty.rgb.shape == (2, 24, 40, 3) and not np.any(empty.rgb)


def test_misuse_of_a_stage_is_named():
    arrays, more = split(make_case("tiny") | dict(sh_degree=None))
    splats = jax.eval_shape(lambda: project(**arrays, **SIZE))
    splats = jax.tree.map(lambda v: np.zeros(v.shape, v.dtype), splats)
    lists = jax.eval_shape(lambda: tile_lists(splats, **SIZE))
    lists = jax.tree.map(lambda v: np.zeros(v.shape, v.dtype), lists)
    colors = more["colors"]
    for call, words in (
        (lambda: project(**arrays, **SIZE, sh_degree=3), "expected None without colors"),
        (lambda: project(**arrays | dict(quats=colors), **SIZE), "quats: expected"),
        (lambda: tile_lists(splats, **SIZE, capacity=0), "capacity: expected"),
        (lambda: blend(splats, lists, 80, 24, colors=colors), "lists: expected 10 tiles"),
        (lambda: blend(lists, splats, **SIZE, colors=colors), "splats: expected what kernels.proj"),
        (lambda: tile_lists(None, **SIZE), "splats: expected what kernels.project gives"),
        (
            lambda: blend(splats, jax.tree.map(lambda v: v[None], lists), **SIZE, colors=colors),
            "lists: expected those of splats of shape",
        ),
        (lambda: blend(splats, lists, **SIZE), "colors: expected"),
        (lambda: blend(splats, lists, **SIZE, colors=colors[:9]), "colors: expected"),
        (lambda: blend(splats, lists, **SIZE, colors=np.stack([colors] * 2)), "leading axes"),
        (lambda: blend(splats, lists, **SIZE, colors=colors, depth_kind=1), "depth_kind"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_stages_with_own_colors_are_mapped():
    """Splats without colors of their own have arrays of no size, whose frames fold all the same."""
    arrays, more = split(make_case("tiny") | dict(sh_degree=None))

    def draw(viewmats):
        splats = project(**arrays | dict(viewmats=viewmats), **SIZE)
        return blend(splats, tile_lists(splats, **SIZE), **SIZE, colors=more["colors"]).rgb

    viewmats = np.stack([arrays["viewmats"]] * 3)
    assert jax.eval_shape(jax.vmap(draw), viewmats).shape == (3, 24, 40, 3)
    with pytest.raises(ValueError, match="vmap: expected at least one frame"):
        jax.eval_shape(jax.vmap(draw), viewmats[:0])


# --- forward mode ---------------------------------------------------------------------------------


def smooth_scene():
    """Four low, wide splats in float64: no pair is near a threshold."""
    case = random_case(4, 12, 10)
    size = {name: case.pop(name) for name in ("width", "height")}
    arrays = {name: np.float64(value) for name, value in case.items()}
    rng = np.random.default_rng(0)
    arrays["means"] = rng.normal(size=(4, 3)) * 0.05
    arrays["scales"] = np.full((4, 3), 0.5) + np.arange(12.0).reshape(4, 3) * 0.02
    arrays["opacities"] = np.array([0.3, 0.4, 0.5, 0.6])
    arrays["Ks"] = np.array([[24.0, 0, 6.5], [0, 25.0, 5.2], [0, 0, 1]])
    arrays["means2d_offset"] = np.zeros((4, 2))
    return arrays, size, {k: rng.normal(size=v.shape) * 0.1 for k, v in arrays.items()}


def loss_of(draw):
    def loss(arrays):
        rgb, alpha, depth, *_ = draw(arrays)
        return jnp.sum(rgb**2) + jnp.sum(jnp.sin(depth)) + jnp.sum(alpha**3)

    return loss


def derivatives(loss, arrays, moves):
    """The tangent, and the product of the Hessian with the direction, forward over reverse."""
    forward = jax.jvp(loss, (arrays,), (moves,))[1]
    return forward, jax.jvp(jax.grad(loss), (arrays,), (moves,))[1]


@pytest.mark.slow
def test_tangents_and_hessian_products_equal_the_definitions():
    arrays, size, moves = smooth_scene()
    ours = lambda a: rasterize(**a, **size, implementation="xla")[:3]
    theirs = lambda a: rasterize_reference(a, **size)
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        got, want = (
            jax.tree.map(np.asarray, jit(partial(derivatives, loss_of(f)))(arrays, moves))
            for f in (ours, theirs)
        )
    np.testing.assert_allclose(got[0], want[0], rtol=1e-9)
    for name, expected in want[1].items():
        scale = np.max(np.abs(expected))
        assert scale > 0, name
        np.testing.assert_allclose(
            got[1][name], expected, rtol=1e-7, atol=1e-9 * scale, err_msg=name
        )


@pytest.mark.slow
def test_forward_mode_of_several_frames_is_that_of_reverse_mode():
    """`jacfwd` through `vmap` and leading axes, medians, and the Hessian of a camera."""
    case = random_case(5, 9, 7, seed=1, size=0.3)
    viewmats = jnp.stack([jnp.asarray(case.pop("viewmats"))] * 2)
    draw = partial(rasterize, **case, implementation="xla", depth_kind="median", antialias=True)
    loss = loss_of(lambda v: draw(viewmats=v)[:3])
    mapped = lambda v: jnp.sum(jax.vmap(loss)(v))
    want = jit(jax.grad(loss))(viewmats)
    for f in (loss, mapped):
        np.testing.assert_allclose(jit(jax.jacfwd(f))(viewmats), want, rtol=1e-4, atol=1e-4)
    hessian = jit(jax.hessian(loss))(viewmats)
    np.testing.assert_allclose(hessian, np.einsum("abcdef->defabc", hessian), rtol=1e-3, atol=1e-2)


@pytest.mark.slow
def test_reverse_mode_of_a_derivative_is_refused_by_name():
    case = random_case(5, 9, 7, seed=1, size=0.3)
    viewmat = case.pop("viewmats")
    loss = lambda v: jnp.sum(rasterize(**case, viewmats=v, implementation="xla").rgb ** 2)
    for derivative in (
        jax.grad(lambda v: jnp.sum(jax.grad(loss)(v))),
        jax.grad(lambda v: jax.jvp(loss, (v,), (jnp.ones((4, 4)),))[1]),
    ):
        with pytest.raises(NotImplementedError, match="reverse mode over a derivative.*hessian"):
            jax.eval_shape(derivative, viewmat)
