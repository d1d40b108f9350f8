"""`mean_ssim` in plain JAX against scipy in float64, and what all implementations share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from ssim_cases import make_pair, slopes_by_scipy, ssim_by_scipy

from kernels import mean_ssim
from kernels.ssim import gaussian_window


def test_window_is_normalised_and_symmetric():
    window = gaussian_window()
    assert window.shape == (11,)
    np.testing.assert_allclose(window.sum(), 1.0, rtol=1e-15)
    np.testing.assert_allclose(window, window[::-1], rtol=1e-15)
    np.testing.assert_allclose(window[6] / window[5], np.exp(-1 / 4.5), rtol=1e-12)


@pytest.mark.parametrize("shape", [(2, 20, 17, 3), (1, 7, 40, 3), (1, 1, 1, 1), (3, 12, 5, 4)])
def test_value_equals_scipy(shape):
    a, b = make_pair(shape)
    got = mean_ssim(a, b, implementation="xla")
    assert got.shape == () and got.dtype == jnp.float32
    np.testing.assert_allclose(got, ssim_by_scipy(a, b), atol=2e-6)


def test_equal_images_have_one_and_no_slope():
    a, _ = make_pair((2, 20, 17, 3))
    value, gradient = jax.value_and_grad(mean_ssim)(a, a)
    np.testing.assert_allclose(value, 1.0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


def test_gradient_by_finite_differences():
    """In a random direction, and of single numbers in the corners and amid."""
    a, b = make_pair((1, 13, 12, 3), noise=0.5)
    gradient = np.asarray(jax.grad(mean_ssim)(a, b))
    direction = np.random.default_rng(6).standard_normal(a.shape)
    step, base = 1e-4 * direction, np.asarray(a, np.float64)
    slope = (ssim_by_scipy(base + step, b) - ssim_by_scipy(base - step, b)) / 2e-4
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-4)
    places = [(0, 0, 0, 0), (0, 12, 0, 1), (0, 0, 11, 2), (0, 6, 7, 1)]
    want = slopes_by_scipy(a.astype(np.float64), b, places)
    got = [gradient[place] for place in places]
    np.testing.assert_allclose(got, want, atol=1e-4 * np.max(np.abs(gradient)))


def test_target_gets_no_gradient():
    a, b = make_pair((2, 20, 17, 3))
    assert not np.any(jax.grad(mean_ssim, argnums=1)(a, b))


def test_images_split_over_devices():
    a, b = make_pair((2, 6, 5, 3))
    mesh, spec = Mesh(np.array(jax.devices()[:1]), ("data",)), PartitionSpec("data")
    split = jax.shard_map(
        lambda a, b: jax.lax.pmean(mean_ssim(a, b), "data"),
        mesh=mesh, in_specs=(spec, spec), out_specs=PartitionSpec(),
    )  # fmt: skip
    got, want = (jax.value_and_grad(function)(a, b) for function in (split, mean_ssim))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), got, want)


def test_what_makes_no_sense_is_refused():
    a, b = make_pair((1, 4, 5, 3))
    with pytest.raises(ValueError, match="implementation: expected None, 'xla' or 'triton'"):
        mean_ssim(a, b, implementation="cuda")
    with pytest.raises(ValueError, match="rendered: expected at least one pixel"):
        mean_ssim(a[:, :0], b[:, :0])
    with pytest.raises(Exception, match="target"):  # jaxtyping's, by shape
        mean_ssim(a, b[:, :2])
