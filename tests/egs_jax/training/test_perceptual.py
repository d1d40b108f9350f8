"""VGG-16 and LPIPS against a plain numpy forward pass and against the published package."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egs_jax.config import LossConfig
from egs_jax.runtime import assets
from egs_jax.runtime.errors import InputError
from egs_jax.training import losses, perceptual


def random_params(kind: str) -> perceptual.PerceptualParams:
    """The same networks with an eighth of the channels and random weights of a fair size."""
    rng = np.random.default_rng(7)
    thin = lambda channels: channels if channels == 3 else channels // 8
    layers = [(k, thin(i), thin(o)) for k, i, o in perceptual._LAYERS[kind]]
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    return perceptual.PerceptualParams(
        kernels=tuple(
            a_(normal(k, k, i, o) * np.float32((2 / (k * k * i)) ** 0.5)) for k, i, o in layers
        ),
        biases=tuple(a_(0.1 * normal(o)) for _, _, o in layers),
        heads=tuple(a_(np.abs(normal(layers[tap][2]))) for tap in perceptual._TAPS[kind]),
        kind=kind,
    )


a_ = jax.device_put
lpips = jax.jit(perceptual.lpips)


@pytest.fixture(scope="module")
def vgg():
    return random_params("vgg16")


@pytest.fixture(scope="module")
def alexnet():
    return random_params("alexnet")


def pair(shape, seed=0):
    """An image and a noisy copy; the generator's stream is part of the published numbers below."""
    rng = np.random.default_rng(seed)
    a = rng.random(shape, dtype=np.float32)
    noise = rng.standard_normal(shape).astype(np.float32)
    return a, np.clip(a + 0.1 * noise, 0, 1)


def conv_relu(x, kernel, bias, stride, padding):
    """Convolution by gathering every patch: [H,W,C] -> [h,w,O], float64."""
    k = kernel.shape[0]
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    patches = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(0, 1))
    patches = patches[::stride, ::stride].transpose(0, 1, 3, 4, 2)  # [h, w, k, k, C]
    flat = patches.reshape(*patches.shape[:2], -1) @ kernel.reshape(-1, kernel.shape[-1])
    return np.maximum(flat + bias, 0)


def pool(x, k):
    """Max-pool k x k, stride 2."""
    return np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(0, 1))[::2, ::2].max((-2, -1))


def features_by_numpy(params, image):
    """All five features of a normalised [H,W,3] image."""
    layer = lambda i, x, stride=1, padding=1: conv_relu(
        x, np.asarray(params.kernels[i], np.float64), np.asarray(params.biases[i]), stride, padding
    )
    if params.kind == "alexnet":
        one = layer(0, image, 4, 2)
        two = layer(1, pool(one, 3), 1, 2)
        three = layer(2, pool(two, 3))
        four = layer(3, three)
        return [one, two, three, four, layer(4, four)]
    out, i = [], 0
    for block in (2, 2, 3, 3, 3):
        image = image if i == 0 else pool(image, 2)
        for _ in range(block):
            image, i = layer(i, image), i + 1
        out.append(image)
    return out


def lpips_by_numpy(params, a, b):
    """LPIPS of one pair, float64."""
    normalise = lambda x: (
        (2.0 * x - 1 - np.array([-0.030, -0.088, -0.188])) / np.array([0.458, 0.448, 0.450])
    )
    unit = lambda f: f / (np.linalg.norm(f, axis=-1, keepdims=True) + 1e-10)
    pairs = zip(
        *(features_by_numpy(params, normalise(x.astype(np.float64))) for x in (a, b)), strict=True
    )
    return sum(
        np.mean(np.square(unit(fa) - unit(fb)) @ np.asarray(head, np.float64))
        for (fa, fb), head in zip(pairs, params.heads, strict=True)
    )


def test_lpips_equals_numpy(vgg, alexnet):
    for params, shape in ((alexnet, (2, 35, 43, 3)), (vgg, (2, 18, 21, 3))):
        a, b = pair(shape)
        expected = [lpips_by_numpy(params, x, y) for x, y in zip(a, b, strict=True)]
        np.testing.assert_allclose(lpips(params, a_(a), a_(b)), expected, rtol=2e-4)


def test_vgg_features_equal_numpy(vgg):
    image, _ = pair((1, 17, 24, 3))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = features_by_numpy(vgg, (image[0] - mean) / std)[:4]
    got = jax.device_get(jax.jit(perceptual.vgg_features)(vgg, a_(image)))
    assert [f.shape[-1] for f in got] == [8, 16, 32, 64]
    for f, e in zip(got, expected, strict=True):
        np.testing.assert_allclose(f[0], e, atol=1e-4 * np.abs(e).max())
    half = jax.jit(perceptual.vgg_features, static_argnums=2)(vgg, a_(image), jnp.bfloat16)
    for f, e in zip(jax.device_get(half), expected, strict=True):
        assert f.dtype == jnp.bfloat16  # what a GPU's loss computes in
        assert np.linalg.norm(np.float64(f[0]) - e) < 0.02 * np.linalg.norm(e)


def test_equal_images_are_at_distance_zero(vgg, alexnet):
    a, b = pair((2, 32, 32, 3))
    assert np.all(np.asarray(lpips(alexnet, a_(a), a_(a))) < 1e-12)
    loss = jax.jit(perceptual.perceptual_loss, static_argnames="size")
    assert loss(vgg, a_(a), a_(a), size=16) == 0
    assert np.all(np.asarray(lpips(alexnet, a_(a), a_(b))) > 1e-4)


def test_resize_is_bilinear_with_half_pixel_centers():
    """Worked out by hand: 4 -> 2 pixels averages the middle pairs, without antialiasing."""
    ramp = np.tile(np.array([0.0, 1.0, 4.0, 9.0], np.float32)[None, :, None, None], (1, 1, 4, 3))
    resized = jax.jit(perceptual._resized, static_argnums=1)
    small = np.asarray(resized(ramp, 2))
    np.testing.assert_allclose(small[0, :, 0, 0], [0.5, 6.5], rtol=1e-6)
    ramp6 = np.tile(np.arange(6, dtype=np.float32)[None, :, None, None] ** 2, (1, 1, 6, 3))
    # centers of two pixels lie at 1.0 and 4.0: exactly on samples, so neighbours must not mix in
    np.testing.assert_allclose(np.asarray(resized(ramp6, 2))[0, :, 0, 0], [1, 16])


def test_perceptual_loss_has_a_gradient_for_the_rendered_image_only(vgg):
    a, b = pair((1, 20, 20, 3))
    loss = jax.jit(lambda x, y: perceptual.perceptual_loss(vgg, x, y, size=16))
    gradient, to_target = jax.device_get(jax.jit(jax.grad(loss, argnums=(0, 1)))(a, b))
    assert np.all(np.isfinite(gradient)) and not np.any(to_target)
    step = np.float32(1e-3) * gradient / np.linalg.norm(gradient)
    slope = (loss(a + step, b) - loss(a - step, b)) / 2e-3
    np.testing.assert_allclose(slope, np.linalg.norm(gradient), rtol=0.05)


def test_black_images_give_finite_gradients(alexnet):
    black = np.zeros((1, 31, 31, 3), np.float32)
    gradient = jax.jit(jax.grad(lambda x: lpips(alexnet, x, black + np.float32(0.5)).sum()))(black)
    assert np.all(np.isfinite(gradient))


def test_total_loss_takes_the_perceptual_term(vgg):
    a, b = pair((1, 20, 20, 3))
    alpha, rects = a_(a[..., 0]), a_(np.int32([[3, 9, 2, 8]]))
    a, b, mask = a_(a), a_(b), a_(a[..., 0] > 0.5)
    weights = LossConfig(perceptual=0.5, perceptual_size=32)
    call = jax.jit(
        lambda **options: losses.total_loss(weights, a, alpha, b, mask, rects, rects, **options)
    )
    without, _ = call()
    with_it, parts = call(perceptual=vgg, perceptual_gain=3.0)
    np.testing.assert_allclose(with_it - without, 0.5 * 3 * parts["perceptual"], rtol=1e-4)


def test_misuse_is_named(vgg, alexnet):
    small = a_(np.zeros((1, 30, 40, 3), np.float32))
    with pytest.raises(ValueError, match="at least 31 pixels, got 30"):
        perceptual.lpips(alexnet, small, small)
    with pytest.raises(ValueError, match="expected kind 'vgg16'"):
        perceptual.vgg_features(alexnet, small)
    with pytest.raises(ValueError, match="kind"):
        perceptual.load_perceptual("squeeze")


def test_cached_copy_is_read_back_exactly_and_a_damaged_or_foreign_one_is_not(tmp_path):
    path, arrays = tmp_path / "w.safetensors", {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    assert perceptual._read_safetensors(path, "abc") is None
    perceptual._write_safetensors(path, arrays, "abc")
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    (tmp_path / "new").touch()
    assert path.stat().st_mode == (tmp_path / "new").stat().st_mode  # others may read it too
    np.testing.assert_array_equal(perceptual._read_safetensors(path, "abc")["x"], arrays["x"])
    assert perceptual._read_safetensors(path, "other") is None
    path.write_bytes(path.read_bytes()[:-5])
    assert perceptual._read_safetensors(path, "abc") is None


def test_wrong_weights_are_refused_with_one_line():
    with pytest.raises(InputError, match="not the alexnet weights"):
        perceptual._flatten_pickle("alexnet", {"AlexNet_0": {}}, "x.ckpt")
    with pytest.raises(InputError, match="bias00 is not that of vgg16"):
        perceptual._to_params("vgg16", {}, "x.safetensors")


def published(kind: str) -> perceptual.PerceptualParams:
    """The real weights; without network or cache the comparison cannot be made."""
    try:
        return perceptual.load_perceptual(kind)
    except InputError as missing:
        pytest.skip(f"published weights not available here: {missing}")


def test_alexnet_agrees_with_the_published_package():
    """Numbers: lpips 0.1.4 on torch 2.13 (its own forward pass and heads), same images."""
    params = published("alexnet")
    a, b = pair((3, 64, 80, 3))
    expected = [0.02111214, 0.01802655, 0.0133334]
    np.testing.assert_allclose(lpips(params, a_(a), a_(b)), expected, atol=1e-6)
    # From the cache now: no pickle is opened a second time.
    stored = assets.cache_folder() / "lpips_alexnet.safetensors"
    assert perceptual._read_safetensors(stored, assets.ASSETS["lpips_alexnet"].sha256) is not None


@pytest.mark.slow
def test_vgg_agrees_with_the_published_package():
    """Numbers: as above; the loss is that package's VGG-16 trunk with torch's own resizing."""
    params = published("vgg16")
    a, b = pair((3, 64, 80, 3))
    got = lpips(params, a_(a[:1]), a_(b[:1]))
    np.testing.assert_allclose(got, [0.04621702], atol=1e-6)
    loss = jax.jit(lambda p, x, y: perceptual.perceptual_loss(p, x, y, size=48))(
        params, a_(a), a_(b)
    )
    np.testing.assert_allclose(loss, 1.5729342699, rtol=1e-5)
