"""The projection's Triton kernels, in Triton's interpreter, against `projection.project`.

The expected gradients are JAX's own of that, composed here with the splats' form.
"""

import importlib.util
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.rasterize.types import Camera, Gaussians
from kernels.rasterize.xla.binning import SLACK_POWER
from kernels.rasterize.xla.projection import project, radii_of

WIDTH, HEIGHT = 44, 40
ALPHA_MIN = 1 / 255
N = 40  # not a multiple of the kernels' block
DEAD, FAINT, BEHIND, ZERO_QUAT, NAN, INF, HUGE, BIG = range(8)  # culled, each for its own reason
# The scenes are small: compiling takes far longer than running, so compile in a hurry.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (Linux only)"
)


def make_camera(n_frames):
    """Different rotations, focal lengths and centres; some Gaussians are beyond the clamp."""
    rng = np.random.default_rng(3)
    viewmats = np.zeros((n_frames, 4, 4), np.float32)
    viewmats[:, 3, 3] = 1
    for viewmat in viewmats:
        viewmat[:3, :3] = np.linalg.qr(np.eye(3) + 0.15 * rng.normal(size=(3, 3)))[0]
        viewmat[:3, :3] *= np.sign(np.diag(viewmat[:3, :3]))[:, None]
        viewmat[:3, 3] = (0.05, -0.03, 4.0) + 0.1 * rng.normal(size=3)
    focal = rng.uniform(80, 100, (n_frames, 2))
    Ks = np.zeros((n_frames, 3, 3), np.float32)
    Ks[:, 0, 0], Ks[:, 1, 1], Ks[:, 2, 2] = focal[:, 0], focal[:, 1], 1
    Ks[:, 0, 2], Ks[:, 1, 2] = 0.6 * WIDTH, 0.4 * HEIGHT
    return Camera(*jax.device_put((viewmats, Ks)), WIDTH, HEIGHT, 0.2, 0.3)


def make_gaussians(n_frames, per_frame, color_shape, seed=0):
    """Arrays with axis 0 of `n_frames` if named in `per_frame`, else 1; the first eight culled."""
    rng = np.random.default_rng(seed)
    shapes = dict(
        means=(3,), quats=(4,), scales=(3,), opacities=(), colors=color_shape, means2d_offset=(2,)
    )
    values = {
        name: rng.normal(size=(n_frames if name in per_frame else 1, N, *shape))
        for name, shape in shapes.items()
    }
    values["means"] *= np.array([0.7, 0.9, 0.5])
    values["scales"] = 0.08 * np.exp(0.5 * values["scales"])
    values["opacities"] = 0.05 + 0.9 / (1 + np.exp(values["opacities"]))
    values["colors"] *= 0.4
    values["opacities"][:, FAINT] = 0.5 * ALPHA_MIN
    values["means"][:, BEHIND, 2] = -9
    values["quats"][:, ZERO_QUAT] = 0
    values["colors"][:, NAN, ..., -1] = np.nan
    values["scales"][:, INF, 1] = np.inf
    values["means"][:, HUGE, 0] = 1e31
    values["scales"][:, BIG] = 1e9
    alive = np.ones((n_frames if "alive" in per_frame else 1, N), bool)
    alive[:, DEAD] = False
    if "means" in per_frame:  # culled in one frame only
        values["means"][0, 8:12, 0] = np.nan
    gaussians = Gaussians(**{k: np.float32(v) for k, v in values.items()})
    return jax.device_put((gaussians, alive))


@partial(jit, static_argnames=("sh_degree", "size"))
def expected(gaussians, alive, viewmats, Ks, sums, sh_degree, size):
    """Splats, their numbers in the kernel's form, and gradients for the cotangents in `sums`."""
    n_frames = viewmats.shape[0]
    alive = jnp.broadcast_to(alive, (n_frames, N))

    def run(gaussians, viewmats, Ks):
        camera = Camera(viewmats, Ks, *size)
        own = [jnp.broadcast_to(v, (n_frames, *v.shape[1:])) for v in gaussians]
        splats = project(Gaussians(*own), alive, camera, sh_degree=sh_degree, alpha_min=ALPHA_MIN)
        a, b, det = splats.cov_xx, splats.cov_xy, splats.cov_det
        shape = (*jnp.moveaxis(splats.means2d, -1, 0), 0.5 / a, b / a, 0.5 * a / det)
        shape = (*shape, jnp.log(splats.opacities))
        return (jnp.stack(shape, -1), splats.colors, splats.depths), splats

    (shape, colors, depths), pullback, splats = jax.vjp(run, gaussians, viewmats, Ks, has_aux=True)
    p, s, q = (shape[..., i] for i in (2, 3, 4))
    g, g_a, g_c, g_aa, g_ac, g_cc = (sums[..., i] for i in range(6))
    grad = (2 * (p * g_a - q * s * g_c), 2 * q * g_c, -g_aa, 2 * q * g_ac, -g_cc, g)
    grad = jnp.stack(grad, -1) * splats.visible[..., None]
    n_colors = colors.shape[-1]
    grad_colors = sums[..., 6 : 6 + n_colors] * splats.visible[..., None]
    grad_depths = sums[..., 6 + n_colors :].sum(-1) * splats.visible
    return splats, shape, pullback((grad, grad_colors, grad_depths)), radii_of(splats)


def check(
    n_frames, per_frame, color_shape, sh_degree, depth=False, camera_gradient=False,
    offset_gradient=True,
):  # fmt: skip
    from kernels.rasterize.triton.projection import project_backward, project_triton

    gaussians, alive = make_gaussians(n_frames, per_frame, color_shape)
    camera = make_camera(n_frames)
    n_colors = color_shape[-1]
    rng = np.random.default_rng(1)
    sums = rng.normal(size=(n_frames, N, 6 + n_colors + depth)).astype(np.float32)
    # As large as such sums are: the linear forms are a few pixels.
    sums[..., :6] *= np.array([1, 3, 3, 9, 9, 9])
    options = dict(sh_degree=sh_degree, alpha_min=ALPHA_MIN)
    splats, shape, (want, want_viewmats, want_Ks), radii = jax.device_get(
        expected(gaussians, alive, *camera[:2], sums, sh_degree, tuple(camera[2:]))
    )
    assert not np.any(splats.visible[:, :8]) and np.sum(splats.visible[-1]) > 25

    @jit
    def run(gaussians, alive, viewmats, Ks, sums):
        camera = Camera(viewmats, Ks, WIDTH, HEIGHT, 0.2, 0.3)
        return project_triton(gaussians, alive, camera, **options), project_backward(
            gaussians, alive, camera, sums, **options, depth_gradient=depth,
            camera_gradient=camera_gradient, offset_gradient=offset_gradient,
        )  # fmt: skip

    got, (grads, viewmats, Ks) = jax.device_get(run(gaussians, alive, *camera[:2], sums))
    assert_values(got, splats, shape, radii)
    if not offset_gradient:
        assert grads.means2d_offset is None
        grads, want = grads[:-1], want[:-1]
    for name, grad, expect in zip(Gaussians._fields, grads, want, strict=False):
        assert_close(grad, expect, 1e-4, name)
        assert not np.any(grad[:, :8]), name
    if camera_gradient:
        assert_close(viewmats, want_viewmats, 1e-4, "viewmats")
        assert_close(Ks, want_Ks, 1e-4, "Ks")
    else:
        assert viewmats is None and Ks is None
    return grads


def assert_close(got, want, tolerance, name):
    scale = np.max(np.abs(want), initial=0.0)
    np.testing.assert_allclose(
        got, want, rtol=tolerance, atol=tolerance * 0.1 * scale, err_msg=name
    )


def assert_values(got, splats, shape, radii):
    """All outputs of the forward kernel."""
    visible = splats.visible
    n_colors = splats.colors.shape[-1]
    rows = got.splats
    dummy = np.where(np.arange(rows.shape[-1]) == 5, -np.inf, 0)[None]
    for unseen in (rows[:, -1], rows[:, :-1][~visible]):
        np.testing.assert_array_equal(unseen, np.broadcast_to(dummy, unseen.shape))
    want = np.concatenate([shape, splats.colors, splats.depths[..., None]], axis=-1)[visible]
    want[:, [2, 4, 5]] *= np.log2(np.e)
    own = rows[:, :-1][visible]
    assert own.shape[-1] % 4 == 0 and not np.any(own[:, 7 + n_colors :])
    for i in range(7 + n_colors):
        assert_close(own[:, i], want[:, i], 1e-5, f"number {i} of a splat")
    level = np.maximum(2 * (np.log(splats.opacities / ALPHA_MIN) + SLACK_POWER), 0)
    fields = (*np.moveaxis(splats.means2d, -1, 0), *splats[2:6], level, splats.depths)
    for i, field in enumerate(fields):
        assert_close(got.ellipses[..., i][visible], field[visible], 1e-5, f"ellipse {i}")
    assert np.all(got.ellipses[..., 6][~visible] == -1) and np.all(np.isfinite(got.ellipses))
    keys = got.keys.reshape(visible.shape)
    assert np.all(keys[~visible] == 2**32 - 1)
    order = np.argsort(rows[:, :-1, 7 + n_colors - 1][visible], kind="stable")
    np.testing.assert_array_equal(order, np.argsort(keys[visible], kind="stable"))
    assert not np.any(got.tiles[~visible])
    np.testing.assert_array_equal(got.radii, np.where(got.tiles > 0, radii, 0))


@pytest.mark.parametrize("sh_degree", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_harmonics_shared_by_three_frames(sh_degree):
    """Sixteen coefficients; those beyond the degree get no gradient."""
    grads = check(3, ("means2d_offset",), (16, 3), sh_degree)
    assert not np.any(grads.colors[:, :, (sh_degree + 1) ** 2 :])
    assert np.any(grads.colors[:, :, (sh_degree + 1) ** 2 - 1])


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.slow
def test_plain_colors_of_one_frame_with_gradient_of_the_camera(channels):
    check(1, (), (channels,), None, depth=channels == 5, camera_gradient=True)


@pytest.mark.parametrize(
    ("per_frame", "color_shape", "sh_degree"),
    [
        ((*Gaussians._fields, "alive"), (9, 3), 2),
        pytest.param(("means", "quats"), (5, 1), 1, marks=pytest.mark.slow),
        (("scales", "opacities", "colors"), (3,), None),
    ],
)
def test_arrays_of_each_frame_beside_shared_ones(per_frame, color_shape, sh_degree):
    """And the gradient of the camera through every path."""
    check(2, per_frame, color_shape, sh_degree, depth=True, camera_gradient=True)


def test_no_gradient_of_a_shared_offset():
    check(2, (*Gaussians._fields[:-1], "alive"), (3,), None, offset_gradient=False)


def test_coefficients_beyond_the_degree_are_not_read():
    from kernels.rasterize.triton.projection import project_triton

    gaussians, alive = make_gaussians(1, (), (16, 3))
    options = dict(alive=alive, camera=make_camera(1), alpha_min=ALPHA_MIN, sh_degree=1)
    run = jit(lambda gaussians: project_triton(gaussians, **options))
    few = np.asarray(gaussians.colors)[:, :, :4]
    none = np.full((1, N, 12, 3), np.nan, np.float32)
    got = run(gaussians._replace(colors=np.concatenate([few, none], axis=2)))
    want = run(gaussians._replace(colors=few))
    chex.assert_trees_all_equal(got, want)


def test_programs_walk_over_frames_only_where_many_are_left():
    from kernels.rasterize.triton.projection import MIN_PROGRAMS, _frames_per_program

    for n_frames, n_chunks, want in [
        (1, 5, 1),
        (8, 5, 1),
        (8, MIN_PROGRAMS, 8),
        (8, MIN_PROGRAMS // 4, 2),
    ]:
        assert _frames_per_program(n_frames, n_chunks) == want
