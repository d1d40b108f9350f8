"""What must hold of `rasterize` whatever the scene: symmetries, conventions, transformations."""

import importlib
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from kernels import rasterize
from kernels.rasterize.cases import make_case, random_case
from kernels.rasterize.xla.binning import default_capacity

# The scenes are small: compiling takes far longer than running, so compile in a hurry.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
GAUSSIANS = ("means", "quats", "scales", "opacities", "colors")
CLOSE = dict(rtol=1e-4, atol=2e-5)


@pytest.fixture(scope="module")
def tiny():
    return make_case("tiny")


def assert_same(first, second):
    for a, b in zip(first[:3], second[:3], strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


def rotation(axis, angle):
    axis = np.asarray(axis) / np.linalg.norm(axis)
    x, y, z = axis
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew
    return matrix, np.concatenate([[np.cos(angle / 2)], np.sin(angle / 2) * axis])


def quaternion_product(a, b):
    w, v = a[0], a[1:]
    scalar = w * b[:, :1] - b[:, 1:] @ v[:, None]
    vector = w * b[:, 1:] + b[:, :1] * v[None] + np.cross(v[None], b[:, 1:])
    return np.concatenate([scalar, vector], axis=1)


def test_order_of_gaussians_does_not_matter(tiny):
    order = np.random.default_rng(0).permutation(40)
    shuffled = tiny | {name: tiny[name][order] for name in GAUSSIANS}
    assert_same(rasterize(**shuffled), rasterize(**tiny))


def test_quaternion_sign_and_length_do_not_matter(tiny):
    assert_same(rasterize(**tiny | dict(quats=-3.0 * tiny["quats"])), rasterize(**tiny))


def test_moving_scene_and_camera_together_changes_nothing(tiny):
    R, q = rotation([0.3, -1.0, 0.5], 0.8)
    shift = np.array([0.4, -0.7, 1.1])
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = R, shift
    moved = tiny | dict(
        means=np.float32(tiny["means"] @ R.T + shift),
        quats=np.float32(quaternion_product(q, tiny["quats"])),
        viewmats=np.float32(tiny["viewmats"] @ np.linalg.inv(motion)),
    )
    assert_same(rasterize(**moved), rasterize(**tiny))


def loss_of(static):
    def loss(arrays):
        out = rasterize(**arrays, **static)
        return jnp.sum(out.rgb**2) + jnp.sum(jnp.sin(out.depth)) + jnp.sum(out.alpha**2)

    return loss


TRACES = []


@jit
def gradient(arrays):
    """That of scenes of the size of `tiny`: one program for all tests."""
    TRACES.append(1)
    return jax.grad(loss_of(dict(width=40, height=24)))(arrays)


def arrays_of(case):
    return {name: value for name, value in case.items() if name not in ("width", "height")}


def with_walls(tiny, *distances):
    """The scene whose first splats stand wide and opaque so far towards the camera."""
    wall = {name: tiny[name].copy() for name in GAUSSIANS}
    for name in GAUSSIANS:
        wall[name][: len(distances)] = tiny[name][0]
    wall["means"][: len(distances)] = -tiny["viewmats"][2, :3] * np.float32(distances)[:, None]
    wall["scales"][: len(distances)] = 30.0
    wall["opacities"][: len(distances)] = 1.0
    return tiny | wall


def test_opaque_front_hides_all(tiny):
    """Two opaque splats stop the light: what lies behind has no say and no gradient."""
    colors = gradient(arrays_of(with_walls(tiny, 1.0, 1.1, 1.2)))["colors"]  # the last is nearest
    colors = np.asarray(colors)
    assert np.all(colors[1:3] > 0)
    assert not np.any(colors[0]) and not np.any(colors[3:])


def test_two_clamped_splats_leave_exactly_the_least_transmittance(tiny):
    """0.01 * 0.01 is not under 1e-4: the second of two opaque splats is drawn."""
    pair = with_walls(tiny, 1.0, 1.1)
    pair["opacities"][2:] = 0.0
    alpha = rasterize(**pair).alpha
    np.testing.assert_allclose(alpha, 1 - 1e-4, atol=1e-7)


def test_axis_lands_on_the_corner_of_the_four_middle_pixels(tiny):
    viewmat = np.eye(4, dtype=np.float32)
    viewmat[2, 3] = 4.0
    one = dict(
        means=np.zeros((40, 3), np.float32),
        quats=np.tile(np.float32([1, 0, 0, 0]), (40, 1)),
        scales=np.full((40, 3), 0.05, np.float32),
        opacities=np.float32([0.5] + [0.0] * 39),  # as many as elsewhere: the same program
        viewmats=viewmat,
        Ks=np.float32([[80, 0, 20], [0, 80, 12], [0, 0, 1]]),
    )
    out = jax.tree.map(np.asarray, rasterize(**tiny | one))
    middle = out.alpha[11:13, 19:21]
    np.testing.assert_allclose(middle, middle[0, 0], rtol=1e-6)
    assert float(middle[0, 0]) == float(out.alpha.max())
    np.testing.assert_allclose(out.alpha, out.alpha[::-1, ::-1], atol=1e-6)
    np.testing.assert_allclose(out.depth, 4.0 * out.alpha, rtol=1e-5)
    # sigma = 80 * 0.05 / 4 = 1 px, blurred: ceil(3 sqrt(1.3)) = 4
    assert int(out.aux.radii[0]) == 4


@pytest.mark.parametrize(
    "way",
    [
        "leading axes",
        *(pytest.param(f"vmap {end}", marks=pytest.mark.slow) for end in ("inside", "outside")),
    ],
)
def test_gradients_of_several_frames_equal_the_loop(tiny, way):
    """One call with leading axes; the gradient of vmap, inside and outside."""
    arrays, other = arrays_of(tiny), random_case(40, 40, 24, seed=20)
    shared = {name: arrays.pop(name) for name in ("means", "quats", "scales")}
    stacked = {name: np.stack([v, other[name]]) for name, v in arrays.items()}
    both = lambda shared, frame: loss_of(dict(width=40, height=24))(shared | frame)
    if way == "leading axes":
        got = gradient(shared | stacked)
    elif way == "vmap inside":
        summed = lambda *arguments: jnp.sum(jax.vmap(both, (None, 0))(*arguments))
        of_shared, of_frames = jit(jax.grad(summed, argnums=(0, 1)))(shared, stacked)
        got = of_shared | of_frames
    else:
        plain = jax.grad(both, argnums=(0, 1))
        each, of_frames = jit(jax.vmap(plain, (None, 0)))(shared, stacked)
        got = jax.tree.map(lambda v: np.sum(v, axis=0), each) | of_frames
    loop = [gradient(shared | {k: v[i] for k, v in stacked.items()}) for i in range(2)]
    loop = jax.tree.map(np.asarray, loop)
    for name in arrays | shared:
        want = [frame[name] for frame in loop]
        want = np.sum(want, axis=0) if name in shared else np.stack(want)
        atol = 1e-5 * np.max(np.abs(want))
        np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=atol, err_msg=name)


def test_background_forms_agree(tiny):
    plain = np.float32([0.2, 0.5, 0.8])
    image = np.tile(plain, (24, 40, 1))
    per_pixel = rasterize(**tiny | dict(backgrounds=image)).rgb
    np.testing.assert_array_equal(rasterize(**tiny | dict(backgrounds=plain)).rgb, per_pixel)
    black = jax.tree.map(np.asarray, rasterize(**tiny | dict(backgrounds=None)))
    left = (1.0 - black.alpha)[..., None]
    np.testing.assert_allclose(black.rgb + left * image, per_pixel, atol=1e-6)


def test_gradients_repeat_bit_for_bit_and_data_do_not_retrace(tiny):
    arrays = arrays_of(tiny)
    first = gradient(arrays)
    traces = len(TRACES)
    chex.assert_trees_all_equal(first, gradient(arrays))
    for factor in (0.0, 0.1, 5.0):  # none drawn, few instances, many
        gradient(arrays | dict(scales=arrays["scales"] * np.float32(factor)))
    gradient(arrays | dict(opacities=arrays["opacities"] * 0))
    assert len(TRACES) == traces


def test_tiles_that_nothing_touches_show_the_background():
    """A head in the corner of a large image is that of a small image; the rest is background."""
    case = random_case(40, 40, 24, seed=5, size=0.03)
    case["means"] *= 0.5  # inside the small image, away from the clamp beyond its border
    rng = np.random.default_rng(0)
    background = rng.random((88, 104, 3)).astype(np.float32)
    small = rasterize(**case | dict(backgrounds=background[:24, :40]))
    large = rasterize(**case | dict(backgrounds=background, width=104, height=88))
    small, large = jax.tree.map(np.asarray, (small, large))
    assert float(small.alpha.max()) > 0.5
    for corner, whole in zip(small[:3], large[:3], strict=True):
        np.testing.assert_allclose(whole[:24, :40], corner, **CLOSE)
    rest = np.ones((88, 104), bool)
    rest[:24, :40] = False
    np.testing.assert_array_equal(large.rgb[rest], background[rest])
    nothing = rasterize(**case | dict(opacities=np.zeros(40, np.float32)))
    np.testing.assert_array_equal(nothing.rgb, case["backgrounds"])
    assert not np.any(nothing.alpha) and not np.any(nothing.depth)


def test_every_tile_full():
    """Forty splats over all of 42 tiles: more than one block of tiles, more than one chunk."""
    case = random_case(40, 104, 88)
    faint = case["opacities"] * 0.1
    out = rasterize(**case | dict(scales=np.full((40, 3), 1e3, np.float32), opacities=faint))
    assert int(out.aux.n_instances) == 40 * 42
    np.testing.assert_allclose(out.alpha, 1 - np.prod(1.0 - faint), rtol=1e-4)


def test_depths_are_sorted_as_floats_are():
    """Halves of one key give the order of a stable sort: ties, signs, infinities."""
    binning = importlib.import_module("kernels.rasterize.xla.binning")
    rng = np.random.default_rng(0)
    depths = np.float32(rng.normal(size=(3, 500)) * 10.0 ** rng.integers(-30, 30, (3, 500)))
    depths[:, 100:200] = depths[:, :100]
    depths[:, 200:230] = np.inf
    got = jit(binning._sort_by_depth)(depths)
    np.testing.assert_array_equal(got, np.argsort(depths, axis=1, kind="stable"))


@pytest.mark.slow
def test_runs_under_shard_map(tiny):
    """Frames are split over a mesh; shared Gaussians get the sum of the frames' gradients."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    frames = PartitionSpec("data")
    static = dict(width=40, height=24)
    shared = {name: tiny[name] for name in GAUSSIANS}
    cameras = {name: tiny[name][None] for name in ("viewmats", "Ks", "backgrounds")}

    def loss(shared, cameras):
        return jax.lax.psum(loss_of(static)(shared | cameras), "data")

    mapped = jax.shard_map(
        loss, mesh=mesh, in_specs=(PartitionSpec(), frames), out_specs=PartitionSpec()
    )
    got = jit(jax.grad(mapped))(shared, cameras)
    want = gradient(shared | cameras)
    for name in shared:
        np.testing.assert_allclose(got[name], want[name], **CLOSE)


def test_lowers_for_tpu(tiny):
    arrays = arrays_of(tiny)
    step = jax.jit(jax.value_and_grad(loss_of(dict(width=40, height=24))))
    text = step.trace(arrays).lower(lowering_platforms=("tpu",)).as_text()
    assert "stablehlo.while" in text and "callback" not in text


@pytest.mark.slow
def test_slot_sums_of_accelerators_equal_direct_sums(tiny, monkeypatch):
    """Off the CPU gradient rows go through slots and pairwise sums: run that path here."""
    blend = importlib.import_module("kernels.rasterize.xla.blend")
    arrays = arrays_of(tiny)
    want = gradient(arrays)
    monkeypatch.setattr(
        blend.jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args)
    )
    # Another capacity, so that the jit cache of the CPU's path is not hit.
    static = dict(width=40, height=24, capacity=239)
    got = jit(jax.grad(loss_of(static)))(arrays)
    for name in arrays:
        scale = np.max(np.abs(want[name]))
        np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (dict(implementation="cuda"), ValueError, "implementation"),
        (dict(capacity=0), ValueError, "capacity"),
        (dict(sh_degree=3), ValueError, "colors"),
        (dict(sh_degree=4), ValueError, "sh_degree"),
        (dict(alpha_min=0.0), ValueError, "alpha_min"),
    ],
)
def test_misuse_is_named(tiny, change, error, words):
    with pytest.raises(error, match=words):
        rasterize(**tiny | change)


@pytest.mark.slow
def test_default_capacity_holds_heads():
    out = rasterize(**make_case("head_512"))
    assert int(out.aux.overflow) == 0
    assert int(out.aux.n_instances) < 0.5 * default_capacity(20_000, 512, 512)
