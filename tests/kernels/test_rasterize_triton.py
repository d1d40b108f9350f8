"""The Triton kernels, run by Triton's interpreter on the CPU, against the XLA implementation."""

import importlib.util
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from kernels import rasterize
from kernels.rasterize.cases import make_case, random_case

NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "backgrounds")
SHARED = NAMES[:5]
# The scenes are small: compiling takes far longer than running, so compile in a hurry.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (Linux only)"
)


def pullback_of(arrays, static, implementation):
    """Images, counts, and the gradient of every array for one fixed random cotangent."""

    def images(arrays):
        out = rasterize(**arrays, **static, implementation=implementation)
        return (out.rgb, out.alpha, out.depth), out.aux

    def run(arrays):
        out, pullback, aux = jax.vjp(images, arrays, has_aux=True)
        rng = np.random.default_rng(0)
        noise = tuple(jnp.asarray(rng.normal(size=v.shape), v.dtype) for v in out)
        return out, aux, pullback(noise)[0]

    return jit(run)(arrays)


def assert_equal_implementations(case, **change):
    case = dict(case) | change
    shape = (*case["means"].shape[:-1], 2)
    case.setdefault("means2d_offset", np.zeros(shape, np.float32))
    arrays = {k: jnp.asarray(case.pop(k)) for k in (*NAMES, "means2d_offset") if k in case}
    want, want_aux, want_gradients = pullback_of(arrays, case, "xla")
    got, aux, gradients = pullback_of(arrays, case, "triton")
    for image, expected, name in zip(got, want, ("rgb", "alpha", "depth"), strict=True):
        scale = max(1.0, float(jnp.max(jnp.abs(expected))))
        np.testing.assert_allclose(image, expected, rtol=0, atol=1e-5 * scale, err_msg=name)
    chex.assert_trees_all_equal(aux, want_aux)
    assert_gradients_close(gradients, want_gradients)
    return aux


def assert_gradients_close(got, want):
    for name in want:
        scale = np.max(np.abs(want[name]), initial=0.0)
        np.testing.assert_allclose(
            got[name], want[name], rtol=1e-4, atol=1e-4 * scale, err_msg=name
        )


def stack(cases):
    """One case of several frames."""
    return {
        name: np.stack([case[name] for case in cases]) if np.ndim(value) else value
        for name, value in cases[0].items()
    }


def cut_out(case, width, height):
    """The middle of a scene's image, with few tiles."""
    left, top = (case["width"] - width) // 2, (case["height"] - height) // 2
    K = case["Ks"] - np.array([[0, 0, left], [0, 0, top], [0, 0, 0]], np.float32)
    backgrounds = case["backgrounds"][top : top + height, left : left + width]
    return case | dict(Ks=K, backgrounds=backgrounds, width=width, height=height)


@needs_triton
@pytest.mark.parametrize(
    ("names", "size"),
    [
        (("opaque", "non_finite", "all_culled", "dead"), (17, 9)),
        pytest.param(
            ("off_center", "huge_splat", "degenerate", "non_finite", "all_culled", "dead"),
            (40, 24), marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_frames_of_different_scenes_equal_the_xla_implementation(names, size):
    cases = [cut_out(dict(alive=np.ones(40, bool)) | make_case(name), *size) for name in names]
    aux = assert_equal_implementations(stack(cases))
    assert aux.n_instances.shape == (len(names),) and int(aux.n_instances[-2]) == 0
    assert not np.any(aux.radii[-1][~cases[-1]["alive"]]) and np.any(aux.radii[-1])


@needs_triton
@pytest.mark.parametrize("depth_kind", ["median", pytest.param("expected", marks=pytest.mark.slow)])
def test_depth_kinds_of_antialiased_splats(depth_kind):
    """Two frames that share no array: culled by their scaled opacity, NaN, groups of entries."""
    case = stack([random_case(13, 17, 9, seed=seed, size=0.12) for seed in (3, 4)])
    case["scales"][0, :3] *= 0.01
    case["means"][1, 3] = np.nan
    aux = assert_equal_implementations(case, depth_kind=depth_kind, antialias=True)
    assert not np.any(aux.radii[0, :3]) and np.any(aux.radii[0, 3:])


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("name", ["opaque", "degenerate", "off_center"])
def test_median_of_antialiased_splats_with_stops_and_discs(name):
    assert_equal_implementations(make_case(name), depth_kind="median", antialias=True)


@needs_triton
def test_forward_mode_is_refused_by_name():
    case = random_case(3, 8, 8, seed=1, size=0.3)
    viewmat = jnp.asarray(case.pop("viewmats"))
    draw = lambda v: jnp.sum(rasterize(**case, viewmats=v, implementation="triton").rgb)
    along = lambda v: jax.jvp(draw, (v,), (v,))[1]
    twice = jax.grad(lambda v: jnp.sum(jax.grad(draw)(v)))
    for derivative in (along, jit(along), jax.jacfwd(draw), jax.hessian(draw), twice):
        with pytest.raises(NotImplementedError, match="'triton' has no forward mode.*'xla'"):
            derivative(viewmat)


@pytest.mark.slow
@needs_triton
def test_no_gaussians():
    assert_equal_implementations(make_case("empty"))


@pytest.mark.slow
@needs_triton
def test_lengths_around_every_block_and_equal_depths():
    """Groups of 4, sorts of 8, runs of 16 (also six of them), warps of 32.

    Every depth twice: then by index. The longest list goes opaque on its way.
    """
    case = random_case(90, 8, 8, seed=4, size=0.5)
    case["opacities"][:33] *= 0.2
    case["means"][1::2] = case["means"][:-1:2]
    counts = np.array([3, 4, 5, 8, 9, 16, 17, 31, 32, 33, 90])
    frames = stack([case] * len(counts)) | dict(alive=np.arange(90) < counts[:, None])
    aux = assert_equal_implementations(frames)
    np.testing.assert_array_equal(aux.n_instances, counts)


@needs_triton
@pytest.mark.slow
def test_what_exceeds_the_capacity_is_dropped_farthest_first_in_each_frame():
    """Exactly full, one over, many over: the same capacity for frames that want more and more."""
    n, case = 14, random_case(14, 20, 12, seed=7, size=0.15)
    count = jit(lambda alive: rasterize(**case, alive=alive).aux.n_instances)
    tiles = [int(count(np.arange(n) == i)) for i in range(n)]
    total = sum(tiles)
    case["alive"] = np.ones(n, bool)
    fewer = case | dict(alive=np.arange(n) != tiles.index(1))
    many = case | dict(scales=3 * case["scales"])
    aux = assert_equal_implementations(stack([fewer, case, many]), capacity=total - 1)
    assert list(map(int, aux.overflow[:2])) == [0, 1] and int(aux.overflow[2]) > 10
    assert int(aux.n_instances[1]) == total


@pytest.mark.slow
@needs_triton
def test_black_background_and_more_channels_than_one_launch_takes():
    case = random_case(12, 17, 9, seed=7, size=0.2, channels=17)
    del case["backgrounds"]
    case["colors"][3, 16] = np.nan  # culled, though only the second launch sees it
    assert_equal_implementations(case)


@pytest.mark.slow
@needs_triton
def test_frames_that_share_gaussians_and_a_background():
    case = random_case(12, 17, 9, seed=8, size=0.2)
    case["viewmats"] = np.stack([case["viewmats"]] * 3)
    case["viewmats"][:, 0, 3] += np.linspace(-0.1, 0.1, 3)
    case["backgrounds"] = np.random.default_rng(0).random((9, 17, 3), np.float32)
    assert_equal_implementations(case)


@pytest.mark.slow
@needs_triton
def test_no_offset_is_an_offset_of_zero_without_gradient(monkeypatch):
    """And if all arrays with a gradient are per frame, no program walks over several frames."""
    from kernels import launch

    walked = []
    call = launch.triton_call

    def spy(kernel, *arrays, **options):
        if kernel.__name__ == "project_backward_kernel":
            walked.append(options["FRAMES"])
        return call(kernel, *arrays, **options)

    monkeypatch.setattr(launch, "triton_call", spy)
    case = stack([random_case(11, 16, 16, seed=seed, size=0.2) for seed in (30, 31)])
    arrays = {name: jnp.asarray(case.pop(name)) for name in NAMES}
    _, _, want = pullback_of(arrays | dict(means2d_offset=jnp.zeros((11, 2))), case, "triton")
    _, _, got = pullback_of(arrays, case, "triton")
    assert walked == [2, 1] and np.any(want.pop("means2d_offset"))
    chex.assert_trees_all_equal(got, want)


@pytest.mark.parametrize("implementation", ["xla", pytest.param("triton", marks=needs_triton)])
@pytest.mark.parametrize("channels", [3, pytest.param(17, marks=pytest.mark.slow)])  # two launches
@pytest.mark.parametrize(
    "background", ["per pixel", *(pytest.param(b, marks=pytest.mark.slow) for b in ("plain", None))]
)
def test_bytes_are_the_rounded_images(implementation, channels, background):
    """Over a background of bytes; wider than 0 ... 1 before."""
    case = random_case(15, 21, 13, seed=3, size=0.3, channels=channels)
    case["colors"] = 4 * case["colors"] - 1.5
    bytes_behind = np.random.default_rng(0).integers(0, 256, (13, 21, channels), np.uint8)
    del case["width"], case["height"]
    draw = partial(rasterize, **case, width=21, height=13, implementation=implementation)

    @jit
    def draw_all(behind):
        floats = None if behind is None else behind.astype(jnp.float32) / 255
        return (
            draw(backgrounds=behind), draw(backgrounds=floats),
            draw(backgrounds=behind, as_bytes=True),
        )  # fmt: skip

    behind = {"per pixel": bytes_behind, "plain": bytes_behind[0, 0], None: None}[background]
    exact, same, got = draw_all(behind)
    np.testing.assert_allclose(exact.rgb, same.rgb, atol=1e-6)
    assert got.depth is None and np.array_equal(got.aux.radii, exact.aux.radii)
    for image, numbers in ((got.rgb, exact.rgb), (got.alpha, exact.alpha)):
        want = np.rint(255 * np.clip(numbers, 0, 1))
        assert image.dtype == np.uint8 and np.ptp(want) > 150
        off = np.abs(np.asarray(image, float) - want)
        assert off.max() <= 1 and np.mean(off) < 1e-3


@pytest.mark.slow
@needs_triton
def test_gradients_over_bytes_are_those_over_floats():
    case = random_case(10, 16, 9, seed=5, size=0.2)
    behind = np.random.default_rng(1).integers(0, 256, (9, 16, 3), np.uint8)

    def loss(means, backgrounds):
        out = rasterize(**case | dict(means=means, backgrounds=backgrounds),
                        implementation="triton")  # fmt: skip
        return jnp.sum(out.rgb**2)

    got, want = (jit(jax.grad(loss))(case["means"], b) for b in (behind, np.float32(behind) / 255))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@needs_triton
def test_no_stop_and_no_clamp_before_a_constant_background():
    """Light that all but vanishes must come back in the reverse walk."""
    case = random_case(24, 17, 9, seed=5, size=0.3)
    case["opacities"][:] = np.where(np.arange(24) % 2, 1.0, 0.97)
    case["backgrounds"] = np.array([0.2, 0.5, 0.8], np.float32)
    assert_equal_implementations(case, transmittance_min=0.0, alpha_max=1.0)


@needs_triton
@pytest.mark.slow
def test_vmap_and_shard_map_equal_the_xla_implementation():
    static = dict(width=17, height=9)
    cases = [random_case(12, 17, 9, seed=seed, size=0.2) for seed in (20, 21)]
    shared = {name: jnp.asarray(cases[0][name]) for name in SHARED}
    frames = {name: jnp.stack([jnp.asarray(case[name]) for case in cases]) for name in NAMES[5:]}
    frames["viewmats"] = frames["viewmats"].at[1, 0, 3].add(0.1)

    def loss(shared, frame, implementation="triton"):
        out = rasterize(**shared, **frame, **static, implementation=implementation)
        return jnp.sum(out.rgb**2) + jnp.sum(jnp.sin(out.depth)) + jnp.sum(out.alpha**2)

    def over_mesh(shared, frames):
        return jax.lax.psum(loss(shared, frames), "data")

    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    spec = PartitionSpec("data")
    mapped = jax.shard_map(
        over_mesh, mesh=mesh, in_specs=(PartitionSpec(), spec), out_specs=PartitionSpec()
    )
    of_vmap = lambda shared, frames: jnp.sum(jax.vmap(loss, (None, 0))(shared, frames))
    of_xla = partial(loss, implementation="xla")
    want = jit(jax.grad(of_xla, argnums=(0, 1)))(shared, frames)
    for function in (of_vmap, mapped):
        got = jit(jax.grad(function, argnums=(0, 1)))(shared, frames)
        for part, expected in zip(got, want, strict=True):
            assert_gradients_close(part, expected)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="here it can run")
def test_a_machine_that_cannot_run_it_is_told_why(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(NotImplementedError, match=r"rasterize: .* here: .*; pass 'xla' or None"):
        rasterize(**make_case("tiny"), capacity=77, implementation="triton")
