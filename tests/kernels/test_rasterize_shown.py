"""What a CPU does where no gradient is asked for, against what it does where one is."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import rasterize
from kernels.rasterize.cases import head_case, make_case
from kernels.rasterize.xla.binning import _sort_by_keys, _sort_by_marks
from kernels.rasterize.xla.blend_quarters import exp2

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SCENES = {
    "head": lambda: head_case(400, 72, px=2.5),
    "non_finite": lambda: make_case("non_finite"),
}


@pytest.mark.parametrize("name", ["head", pytest.param("non_finite", marks=pytest.mark.slow)])
def test_images_are_those_that_have_a_gradient(name):
    """Floats to 1e-5; bytes are the same, but for ties."""
    case = SCENES[name]()
    draw = partial(rasterize, **{k: v for k, v in case.items() if k != "opacities"})

    def with_gradient(opacities):
        out = draw(opacities=opacities)
        return jnp.sum(out.rgb) * 0, out

    opacities = case["opacities"]
    (_, want), _ = jit(jax.value_and_grad(with_gradient, has_aux=True))(opacities)
    got = jit(lambda v: draw(opacities=v))(opacities)
    for image, expected in zip(got[:3], want[:3], strict=True):
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(image, expected, rtol=0, atol=1e-5 * scale)
    shown = jit(lambda v: draw(opacities=v, as_bytes=True))(opacities)
    for image, expected in ((shown.rgb, want.rgb), (shown.alpha, want.alpha)):
        off = np.abs(np.float32(image) - np.clip(expected, 0, 1) * 255)
        assert off.max() < 0.5 + 255e-5
    jax.tree.map(np.testing.assert_array_equal, shown.aux, want.aux)


@pytest.mark.parametrize("least", [1 / 255, 0.5, 1e-6])
def test_powers_of_two(least):
    x = np.linspace(np.log2(least), 0, 10_000).astype(np.float32)
    got = jit(lambda x: exp2(x, np.log2(least)))(x)
    rounding = 2.0**-22 * max(1.0, -np.log2(least))  # doubled by every squaring
    np.testing.assert_allclose(got, 2.0 ** np.float64(x), rtol=rounding)


def test_a_sort_without_comparison_is_a_sort():
    rng = np.random.default_rng(0)
    n_gaussians, n_tiles = 70, 13
    pairs = np.stack([rng.permutation(n_gaussians * n_tiles)[:300] for _ in range(2)])
    rank, tile = np.divmod(np.sort(pairs, axis=1), n_tiles)
    tile[:, 280:] = n_tiles  # unused
    arguments = np.int32(tile), np.int32(rank)
    slots, bounds = _sort_by_marks(*arguments, n_tiles, n_gaussians)
    want_slots, want_bounds = _sort_by_keys(*arguments, n_tiles)
    np.testing.assert_array_equal(bounds, want_bounds)
    np.testing.assert_array_equal(slots[:, :280], want_slots[:, :280])
