"""What `rasterize` makes of what people bring: converted, refused in a line, or warned of once."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kernels
from kernels import capacity_for, dispatch, rasterize
from kernels.rasterize.cases import make_case, random_case

N, WIDTH, HEIGHT = 40, 40, 24


@pytest.fixture(scope="module")
def tiny():
    return make_case("tiny")


@pytest.fixture
def warned(monkeypatch, caplog):
    """Messages of the logger `kernels`, of a process that has told nothing yet."""
    monkeypatch.setattr(dispatch, "_told", set())
    caplog.set_level(logging.WARNING, "kernels")
    return lambda: [record.getMessage() for record in caplog.records]


def as_lists(case):
    return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in case.items()}


def assert_same_bits(got, want):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)


class Tensor:
    """Another library's array."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


class OnItsDevice(Tensor):
    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert cuda:0 device type tensor to numpy.\nUse Tensor.cpu() first")


def test_what_is_accepted_is_converted(tiny):
    """One program for all: the bits are those of arrays of float32."""
    whole = tiny | dict(quats=np.float32(tiny["quats"] * 4).round())
    whole["Ks"] = whole["Ks"].round()
    want = rasterize(**whole)
    sizes = dict(width=np.int64(WIDTH), height=np.int32(HEIGHT), near_plane=np.float64(0.2))
    for changed in (
        as_lists(whole),
        whole | {name: np.float64(whole[name]) for name in ("means", "scales", "viewmats")},
        whole | {name: whole[name].astype(">f4") for name in ("means", "opacities", "colors")},
        whole | dict(means=whole["means"].astype(np.longdouble)),
        whole | dict(quats=whole["quats"].astype(int), Ks=whole["Ks"].astype(np.int64)),
        whole | dict(Ks=jnp.asarray(whole["Ks"], int)),
        whole | dict(means=Tensor(whole["means"]), opacities=list(map(float, whole["opacities"]))),
        whole | sizes | dict(eps2d=np.float64(0.3), capacity=None, deterministic=np.True_),
        whole | dict(viewmats=[jnp.asarray(row) for row in whole["viewmats"]]),
    ):
        assert_same_bits(rasterize(**changed), want)


def test_bytes_of_colors_count_255_as_one(tiny):
    colors = np.random.default_rng(0).integers(0, 256, (N, 3), np.uint8)
    want = rasterize(**tiny | dict(colors=colors / np.float32(255)))
    assert_same_bits(rasterize(**tiny | dict(colors=colors)), want)


def opengl(tiny):
    return np.float32(np.diag([1, -1, -1, 1]) @ tiny["viewmats"])


WRONG = {
    "opacities in a column": (lambda c: dict(opacities=c["opacities"][:, None]), "[..., 0]"),
    "half of the opacities": (lambda c: dict(opacities=c["opacities"][:20]), "with N = 40"),
    "logits": (lambda c: dict(opacities=c["opacities"] * 9 - 4), "sigmoid(opacities)"),
    "log scales": (lambda c: dict(scales=np.log(c["scales"])), "exp(scales)"),
    "one negative scale": (
        lambda c: dict(scales=jnp.asarray(c["scales"]).at[7, 1].set(-0.1)), "scales: expected",
    ),
    "isotropic scales": (lambda c: dict(scales=c["scales"][:, 0]), "three standard deviations"),
    "columns of means": (lambda c: dict(means=c["means"].T), "pass its transpose"),
    "Euler angles": (lambda c: dict(quats=c["quats"][:, :3]), "w, x, y, z"),
    "no array": (lambda c: dict(quats=None), "quats: expected an array of numbers, got object"),
    "words": (lambda c: dict(scales="large"), "scales: expected"),
    "a ragged list": (lambda c: dict(means=[[0, 0, 0], [1, 1]]), "means: expected an array"),
    "another device's tensor": (lambda c: dict(means=OnItsDevice(c["means"])), "Tensor.cpu()"),
    "complex": (lambda c: dict(means=c["means"] * 1j), "means: expected an array of numbers"),
    "COLMAP's 3 x 4": (lambda c: dict(viewmats=c["viewmats"][:3]), "append the row (0, 0, 0, 1)"),
    "COLMAP's parameters": (lambda c: dict(Ks=[80.0, 80.0, 20.0, 12.0]), "not fx, fy, cx, cy"),
    "a homogeneous K": (lambda c: dict(Ks=np.eye(4)), "Ks: expected [..., 3, 3]"),
    "a normalized K": (
        lambda c: dict(Ks=c["Ks"] / [[WIDTH], [HEIGHT], [1]] / 2), "multiply the first row by width"
    ),
    "a K of another scale": (lambda c: dict(Ks=c["Ks"] * 2), "divide by Ks[2, 2]"),
    "K without its last row": (
        lambda c: dict(Ks=c["Ks"] * np.float32([[1], [1], [0]])), "Ks: expected the last row"
    ),
    "COLMAP's rotation and shift": (
        lambda c: dict(viewmats=(c["quats"][0], c["means"][0])), "viewmats: expected an array"
    ),
    "K transposed": (lambda c: dict(Ks=c["Ks"].T), "Ks: expected focal"),
    "OpenGL's focal length": (
        lambda c: dict(Ks=c["Ks"] * np.float32([[1], [-1], [1]])), "Ks: expected focal lengths > 0"
    ),
    "viewmat transposed": (lambda c: dict(viewmats=c["viewmats"].T), "pass its transpose"),
    "a mirror": (
        lambda c: dict(viewmats=np.float32(np.diag([1, -1, 1, 1]) @ c["viewmats"])), "diag(1, -1,"
    ),
    "a lost pose": (lambda c: dict(viewmats=c["viewmats"] * np.nan), "viewmats: expected finite"),
    "0 ... 255 as integers": (lambda c: dict(colors=np.full((N, 3), 200)), "pass uint8"),
    "bytes of harmonics": (
        lambda c: dict(colors=np.zeros((N, 16, 3), np.uint8), sh_degree=3), "got bytes"
    ),
    "colors of others": (lambda c: dict(colors=c["colors"][:9]), "colors: expected [..., N, D]"),
    "a turned background": (
        lambda c: dict(backgrounds=np.swapaxes(c["backgrounds"], 0, 1)), "pass its transpose"
    ),
    "a background with alpha": (
        lambda c: dict(backgrounds=np.ones((HEIGHT, WIDTH, 4), np.float32)), "backgrounds: expected"
    ),
    "alive as floats": (lambda c: dict(alive=np.ones(N)), "alive: expected booleans"),
    "a truth for a size": (lambda c: dict(width=True), "width: expected a whole number"),
    "a truth for a number": (lambda c: dict(eps2d=True), "eps2d: expected a number"),
    "a blur without end": (lambda c: dict(eps2d=np.inf), "eps2d: expected > 0"),
    "room without end": (lambda c: dict(capacity=2**40), "capacity: expected None or 1 to"),
    "several implementations": (lambda c: dict(implementation=["xla"]), "implementation: expected"),
    "half a pixel": (lambda c: dict(width=40.5), "width: expected a whole number"),
    "a size as words": (lambda c: dict(height="24"), "height: expected a whole number"),
    "no size": (lambda c: dict(width=0), "at least 1 pixel"),
    "a list for a number": (lambda c: dict(eps2d=[0.3]), "eps2d: expected a number"),
    "a negative plane": (lambda c: dict(near_plane=-1.0), "near_plane: expected >= 0"),
    "frames that do not match": (
        lambda c: dict(means=np.stack([c["means"]] * 2), viewmats=np.stack([c["viewmats"]] * 3)),
        "leading axes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_in_a_line(tiny, name):
    make, words = WRONG[name]
    with pytest.raises(ValueError) as caught:
        rasterize(**tiny | make(tiny))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_traced_sizes_are_named(tiny):
    draw = lambda width: rasterize(**tiny | dict(width=width)).rgb
    with pytest.raises(ValueError, match="width: expected a Python number, .* static_argnames"):
        jax.jit(draw)(40)


def test_numbers_are_not_looked_at_inside_jit(tiny, warned):
    """Negative scales, logits and OpenGL's camera trace; dead Gaussians may hold anything."""
    wrong = dict(scales=-tiny["scales"], opacities=tiny["opacities"] * 9, viewmats=opengl(tiny))
    jax.eval_shape(lambda changed: rasterize(**tiny | changed), wrong)
    case = tiny | dict(scales=tiny["scales"].copy(), alive=np.arange(N))  # booleans, as integers
    case["scales"][0] = -5.0
    rasterize(**case)
    assert warned() == []


def test_a_camera_that_looks_away_is_told_once(tiny, warned):
    for _ in range(2):
        assert not np.any(rasterize(**tiny | dict(viewmats=opengl(tiny))).alpha)
    (message,) = warned()
    assert "behind the camera" in message and "diag(1, -1, -1, 1) @ viewmat" in message
    assert "\n" not in message


@pytest.mark.slow
def test_dropped_pairs_are_told_once_with_the_capacity_that_holds_them(warned):
    """The recipe of the docstring: draw once, then with what `capacity_for` finds."""
    case = random_case(40, 40, 24, seed=2, size=2.0)
    case["opacities"] *= 0.02
    few = [rasterize(**case, capacity=50) for _ in range(2)][0]
    (message,) = warned()
    wanted = int(few.aux.n_instances)
    assert f"{wanted - 50:,} of {wanted:,} pairs" in message and "\n" not in message
    assert f"{capacity_for(few.aux):,}" in message and "capacity 50 " in message
    enough = rasterize(**case, capacity=capacity_for(few.aux))
    assert int(few.aux.overflow) > 0 and int(enough.aux.overflow) == 0
    assert_same_bits(enough.rgb, rasterize(**case).rgb)  # 40 Gaussians, 6 tiles: room for all


def test_capacity_for():
    aux = kernels.RasterizeAux(np.array([[1000, 30_000], [5, 0]]), np.zeros((2, 2)), np.zeros(3))
    assert capacity_for(aux) == 36 * 1024 and capacity_for(aux, margin=1) == 30 * 1024
    assert capacity_for(aux._replace(n_instances=np.array(0))) == 1024
    with pytest.raises(ValueError, match="outside of jit"):
        jax.eval_shape(lambda n: capacity_for(aux._replace(n_instances=n)) * n, np.array(5))
    with pytest.raises(ValueError, match="far too large"):
        capacity_for(aux._replace(n_instances=np.array(2**30)))
    with pytest.raises(ValueError, match="aux: expected"):
        capacity_for(None)
    for margin in (0.5, np.inf):
        with pytest.raises(ValueError, match="margin"):
            capacity_for(aux, margin=margin)
