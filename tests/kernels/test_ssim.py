"""`mean_ssim` in plain JAX against its definition, and what all implementations share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from jax.sharding import Mesh, PartitionSpec

from kernels import mean_ssim
from kernels.ssim import gaussian_window
from kernels.ssim.cases import SHAPES, make_pair
from kernels.ssim.reference import mean_ssim_reference


def test_window_is_normalised_and_symmetric():
    window = gaussian_window()
    assert window.shape == (11,)
    np.testing.assert_allclose(window.sum(), 1.0, rtol=1e-15)
    np.testing.assert_allclose(window, window[::-1], rtol=1e-15)
    np.testing.assert_allclose(window[6] / window[5], np.exp(-1 / 4.5), rtol=1e-12)


def in_float64(a, b):
    """Value and gradient of the definition."""
    with jax.enable_x64(True):
        wide = (jnp.asarray(image, jnp.float64) for image in (a, b))
        defined = jax.jit(jax.value_and_grad(mean_ssim_reference))(*wide)
    return tuple(map(np.asarray, defined))


@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient_equal_the_definition(shape):
    a, b = make_pair(shape)
    value, gradient = jax.value_and_grad(mean_ssim)(a, b, implementation="xla")
    want, expected = in_float64(a, b)
    assert value.shape == () and value.dtype == gradient.dtype == jnp.float32
    np.testing.assert_allclose(value, want, atol=2e-6)
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.max(np.abs(expected)))


def test_definition_equals_scipy():
    a, b = (image.astype(np.float64) for image in make_pair((2, 20, 17, 3)))
    blur = lambda x: scipy.ndimage.gaussian_filter(
        x, (0, 1.5, 1.5, 0), mode="constant", radius=(0, 5, 5, 0)
    )
    mu_a, mu_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mu_a**2, blur(b * b) - mu_b**2, blur(a * b) - mu_a * mu_b
    top = (2 * mu_a * mu_b + 1e-4) * (2 * cov + 9e-4)
    want = np.mean(top / ((mu_a**2 + mu_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    np.testing.assert_allclose(in_float64(a, b)[0], want, rtol=1e-12)


def test_equal_images_have_one_and_no_slope():
    a, _ = make_pair((2, 20, 17, 3))
    value, gradient = jax.value_and_grad(mean_ssim)(a, a)
    np.testing.assert_allclose(value, 1.0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


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
