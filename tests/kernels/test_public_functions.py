"""What all public functions share: the same numbers called as they are and inside another jit."""

import chex
import jax
import numpy as np

import kernels
from kernels import deform
from kernels.deform.cases import make_case as deform_case
from kernels.deform.cases import pack
from kernels.deform.reference import deform_reference
from kernels.planes.cases import make_case as planes_case
from kernels.planes.reference import sample_planes_reference
from kernels.rasterize.cases import random_case
from kernels.rasterize.reference import rasterize_reference
from kernels.ssim.cases import make_pair
from kernels.ssim.reference import mean_ssim_reference


def in_float64(function, *arrays):
    """What a definition makes of arrays, rounded once."""
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        wide = jax.tree.map(np.float64, arrays)
        return jax.tree.map(np.float32, jax.jit(function)(*wide))


class PublicFunctions(chex.TestCase):
    """Each against its definition, by plain JAX."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_mean_ssim(self):
        pair = make_pair((1, 7, 9, 3))
        got = self.variant(lambda *images: kernels.mean_ssim(*images, implementation="xla"))(*pair)
        chex.assert_trees_all_close(got, in_float64(mean_ssim_reference, *pair), atol=2e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_sample_planes(self):
        case = planes_case(count=7)
        arrays = case.tables, case.points
        read = lambda *a: kernels.sample_planes(*a, case.levels, implementation="xla")
        got = self.variant(read)(*arrays)
        chex.assert_shape(got, (3, 3, 7, 1))
        define = lambda *a: sample_planes_reference(*a, case.levels)
        chex.assert_trees_all_close(got, in_float64(define, *arrays), atol=2e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_rasterize(self):
        case = random_case(5, 9, 7, seed=1, size=0.3)
        size = {name: case.pop(name) for name in ("width", "height")}
        got = self.variant(lambda a: kernels.rasterize(**a, **size, implementation="xla"))(case)
        case["means2d_offset"] = np.zeros((5, 2))
        rgb, alpha, depth, safe = in_float64(lambda a: rasterize_reference(a, **size), case)
        chex.assert_shape(got.rgb, (7, 9, 3))
        assert np.all(safe)  # the definition's own: no pair is on a threshold
        chex.assert_trees_all_close((got.rgb, got.alpha, got.depth), (rgb, alpha, depth), atol=3e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_deform(self):
        case = deform_case("mlp", n=4, frames=1)
        move = lambda *a: deform(*a, pack(case), implementation="xla")
        got = self.variant(move)(*case.arrays)
        define = lambda arrays, weights: deform_reference("mlp", *arrays, **weights)
        want = in_float64(define, case.arrays, case.weights)
        chex.assert_trees_all_close(got, want, rtol=2e-5, atol=2e-5)
