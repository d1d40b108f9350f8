"""Whisper's encoder in pure JAX, with weights read from a CTranslate2 `model.bin`.

Log-mel frames at 100 Hz go in, features at 50 Hz come out. `NETWORKS` are

* "whisper", tiny.en: 4 layers of 384, trained on English speech only: other languages drive the
  mouth through the sounds that they share with English;
* "whisper-base", base: 6 layers of 512, trained on 99 languages.

The "mel" features of `egs_jax.speech.features` need neither.

Conventions: T = mel frames (even), P = T // 2 = positions (20 ms each), D = model width, L = number
of layers. Arrays are time-major (`[T, 80]`, not the `[80, T]` of the original). Position p looks at
mel frames 2 p - 2 ... 2 p + 2 through its two convolutions, hence is centered on mel frame 2 p, and
sees everything else through attention. A clip shorter than 30 s uses the first positions of the
table; the original pads it to 30 s instead.

`features` cuts the sound into short windows and calls `encode`.

Source: Radford et al. 2022, arXiv:2212.04356, section 2.2.
"""

import functools
import struct
from dataclasses import dataclass
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from egs_jax.runtime.errors import InputError
from kernels.checks import require, typechecked

NUM_MELS = 80
MAX_POSITIONS = 1500  # 30 s
HEAD_WIDTH = 64  # of every attention head, in all of Whisper's sizes

_CTRANSLATE2_DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
_NORM_EPS = 1e-5


@dataclass(frozen=True)
class WhisperSize:
    """Which of Whisper's networks it is."""

    asset: str
    """Its name in `runtime.assets.ASSETS`."""
    width: int
    """D, the size of a feature row."""
    num_layers: int
    """L."""


NETWORKS = {
    "whisper": WhisperSize("whisper_tiny_en", width=384, num_layers=4),
    "whisper-base": WhisperSize("whisper_base", width=512, num_layers=6),
}
"""By the kind of the features that they make."""


@flax.struct.dataclass
class WhisperLayer:
    """Weights of a layer, or of several along a first axis; matrices map rows: `x @ weight`."""

    norm1_scale: Array  # [D]
    norm1_bias: Array  # [D]
    query_weight: Array  # [D, D]
    query_bias: Array  # [D]
    seen_weight: Array  # [D, 2 D], columns ordered key, value
    seen_bias: Array  # [2 D]
    out_weight: Array  # [D, D]
    out_bias: Array  # [D]
    norm2_scale: Array  # [D]
    norm2_bias: Array  # [D]
    up_weight: Array  # [D, 4 D]
    up_bias: Array  # [4 D]
    down_weight: Array  # [4 D, D]
    down_bias: Array  # [D]


@flax.struct.dataclass
class WhisperEncoder:
    """All weights of the encoder, float32."""

    conv1_weight: Array  # [3 * 80, D], rows ordered tap by tap
    conv1_bias: Array  # [D]
    conv2_weight: Array  # [3 * D, D]
    conv2_bias: Array  # [D]
    positions: Array  # [1500, D]
    layers: WhisperLayer  # all but the last: L - 1
    last: WhisperLayer
    norm_scale: Array  # [D]
    norm_bias: Array  # [D]


class _Reader:
    """Little-endian cursor over a file's bytes; running off the end is an error."""

    def __init__(self, data: bytes, path: Path):
        self.data, self.path, self.offset = data, path, 0

    def take(self, size: int) -> bytes:
        if self.offset + size > len(self.data):
            raise _bad_model(self.path, "the file ends too early")
        self.offset += size
        return self.data[self.offset - size : self.offset]

    def integer(self, code: str) -> int:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        raw = self.take(self.integer("H"))  # its length counts the closing zero byte
        if not raw.endswith(b"\0"):
            raise _bad_model(self.path, "a name has no end mark")
        return raw[:-1].decode("utf-8", errors="replace")


def _bad_model(path: Path, cause: str) -> InputError:
    return InputError(f"{path}: not a usable CTranslate2 Whisper model ({cause}); fetch it again")


def read_ctranslate2(path: str | Path) -> tuple[str, dict[str, np.ndarray]]:
    """Read every variable of a CTranslate2 `model.bin` (binary version 6).

    Layout, little-endian: uint32 version; string specification name; uint32 revision; uint32
    count, then for each variable: string name, uint8 rank, uint32 sizes, uint8 dtype, uint32 byte
    count, bytes; uint32 count, then pairs of strings (alias, variable). A string is a uint16
    length that counts a closing zero byte, then the bytes.

    Args:
      path: The file.

    Returns:
      The specification's name ("WhisperSpec") and the variables by name, read-only, in their
      stored dtype, aliases included.

    Raises:
      InputError: if the file is missing, cut short or of another format.
    """
    path = Path(path)
    try:
        reader = _Reader(path.read_bytes(), path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if reader.integer("I") != 6:
        raise _bad_model(path, "its binary version is not 6")
    name = reader.string()
    reader.integer("I")  # revision: renames inside the decoder, none that matter here
    variables = {}
    for _ in range(reader.integer("I")):
        key = reader.string()
        shape = tuple(reader.integer("I") for _ in range(reader.integer("B")))
        code = reader.integer("B")
        raw = reader.take(reader.integer("I"))
        if code not in _CTRANSLATE2_DTYPES:
            raise _bad_model(path, f"{key} has the unknown dtype {code}")
        dtype = np.dtype(_CTRANSLATE2_DTYPES[code])
        if len(raw) != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
            raise _bad_model(path, f"{key} has {len(raw)} bytes for shape {shape}")
        variables[key] = np.frombuffer(raw, dtype).reshape(shape)
    for _ in range(reader.integer("I")):
        alias, key = reader.string(), reader.string()
        if key not in variables:
            raise _bad_model(path, f"{alias} stands for {key}, which is not there")
        variables[alias] = variables[key]
    return name, variables


def _shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the encoder's variables; `#` stands for a layer's number."""
    layer = {
        "self_attention/layer_norm/gamma": (width,),
        "self_attention/layer_norm/beta": (width,),
        "self_attention/linear_0/weight": (3 * width, width),
        "self_attention/linear_0/bias": (3 * width,),
        "self_attention/linear_1/weight": (width, width),
        "self_attention/linear_1/bias": (width,),
        "ffn/layer_norm/gamma": (width,),
        "ffn/layer_norm/beta": (width,),
        "ffn/linear_0/weight": (4 * width, width),
        "ffn/linear_0/bias": (4 * width,),
        "ffn/linear_1/weight": (width, 4 * width),
        "ffn/linear_1/bias": (width,),
    }
    return {
        "conv1/weight": (width, NUM_MELS, 3),
        "conv1/bias": (width,),
        "conv2/weight": (width, width, 3),
        "conv2/bias": (width,),
        "position_encodings/encodings": (MAX_POSITIONS, width),
        **{f"layer_#/{key}": shape for key, shape in layer.items()},
        "layer_norm/gamma": (width,),
        "layer_norm/beta": (width,),
    }


@functools.lru_cache(maxsize=2)
def load_encoder(
    path: str | Path | None = None, size: WhisperSize = NETWORKS["whisper"]
) -> WhisperEncoder:
    """Load the encoder's weights, once per path and size.

    Args:
      path: A CTranslate2 `model.bin` of a Whisper network of that size; None takes its asset.
      size: The network.

    Returns:
      Weights in float32 (the file holds float16).

    Raises:
      InputError: if the file is missing, damaged or holds another network.
    """
    if path is None:
        from egs_jax.runtime.assets import asset_path  # noqa: PLC0415 (imports its downloader)

        path = asset_path(size.asset)
    path = Path(path)
    spec, variables = read_ctranslate2(path)
    if spec != "WhisperSpec":
        raise _bad_model(path, f"it holds a {spec}")

    def get(key: str) -> np.ndarray:
        shape = _shapes(size.width)[key]
        numbers = range(size.num_layers) if "#" in key else [""]
        arrays = [variables.get("encoder/" + key.replace("#", str(n))) for n in numbers]
        if any(a is None or a.shape != shape or a.dtype.kind != "f" for a in arrays):
            raise _bad_model(path, f"encoder/{key} is not a float array of shape {shape}")
        return np.stack(arrays).astype(np.float32) if "#" in key else arrays[0].astype(np.float32)

    def matrix(key: str) -> np.ndarray:
        return np.swapaxes(get(key), -1, -2)

    def taps(key: str) -> Array:  # [out, in, 3] -> [3 * in, out]
        return jax.device_put(get(key).transpose(2, 1, 0).reshape(-1, size.width).copy())

    def vector(key: str) -> Array:
        return jax.device_put(get(key))

    attention, feed_forward, width = "layer_#/self_attention/", "layer_#/ffn/", size.width
    joint, joint_bias = matrix(attention + "linear_0/weight"), get(attention + "linear_0/bias")
    layers = WhisperLayer(
        norm1_scale=get(attention + "layer_norm/gamma"),
        norm1_bias=get(attention + "layer_norm/beta"),
        query_weight=joint[..., :width],
        query_bias=joint_bias[..., :width],
        seen_weight=joint[..., width:],
        seen_bias=joint_bias[..., width:],
        out_weight=matrix(attention + "linear_1/weight"),
        out_bias=get(attention + "linear_1/bias"),
        norm2_scale=get(feed_forward + "layer_norm/gamma"),
        norm2_bias=get(feed_forward + "layer_norm/beta"),
        up_weight=matrix(feed_forward + "linear_0/weight"),
        up_bias=get(feed_forward + "linear_0/bias"),
        down_weight=matrix(feed_forward + "linear_1/weight"),
        down_bias=get(feed_forward + "linear_1/bias"),
    )
    part = lambda chosen: jax.tree.map(lambda v: jax.device_put(v[chosen].copy()), layers)
    return WhisperEncoder(
        conv1_weight=taps("conv1/weight"),
        conv1_bias=vector("conv1/bias"),
        conv2_weight=taps("conv2/weight"),
        conv2_bias=vector("conv2/bias"),
        positions=vector("position_encodings/encodings"),
        layers=part(slice(-1)),
        last=part(-1),
        norm_scale=vector("layer_norm/gamma"),
        norm_bias=vector("layer_norm/beta"),
    )


def _affine(x: Array, weight: Array, bias: Array) -> Array:
    return x @ weight + bias[None, :]


def _layer_norm(x: Array, scale: Array, bias: Array) -> Array:
    mean = x.mean(axis=-1, keepdims=True)
    variance = jnp.square(x - mean).mean(axis=-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + _NORM_EPS) * scale[None, :] + bias[None, :]


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


def _convolve(x: Array, weight: Array, bias: Array, stride: int) -> Array:
    """Convolve over time with three taps and one zero at each end, as one matrix product."""
    padded = jnp.pad(x, ((1, 1), (0, 0)))
    count = x.shape[0]
    taps = [padded[k : k + count : stride] for k in range(3)]
    return _affine(jnp.concatenate(taps, axis=1), weight, bias)


def _attend(x: Array, layer: WhisperLayer, kept: slice) -> Array:
    """Apply multi-head self-attention of some positions to all, without a mask."""
    queries = _affine(x[kept], layer.query_weight, layer.query_bias)
    seen = _affine(x, layer.seen_weight, layer.seen_bias)
    heads = seen.reshape(len(x), 2, -1, HEAD_WIDTH)
    keys, values = heads[:, 0], heads[:, 1]  # [P, heads, 64]
    own = queries.reshape(len(queries), -1, HEAD_WIDTH)
    scores = jnp.einsum("phd,qhd->hpq", own, keys) * HEAD_WIDTH**-0.5
    mixed = jnp.einsum("hpq,qhd->phd", jax.nn.softmax(scores, axis=-1), values)
    return _affine(mixed.reshape(queries.shape), layer.out_weight, layer.out_bias)


def _transformed(x: Array, layer: WhisperLayer, kept: slice = slice(None)) -> Array:
    """Apply a pre-norm transformer layer, at some positions."""
    attended = _attend(_layer_norm(x, layer.norm1_scale, layer.norm1_bias), layer, kept)
    x = x[kept] + attended
    normed = _layer_norm(x, layer.norm2_scale, layer.norm2_bias)
    hidden = _gelu(_affine(normed, layer.up_weight, layer.up_bias))
    return x + _affine(hidden, layer.down_weight, layer.down_bias)


@typechecked
def encode(
    encoder: WhisperEncoder, log_mel: Float[Array, "T 80"], kept: slice = slice(None),
    *, is_exact: bool = True,
) -> Float[Array, "p D"]:  # fmt: skip
    """Run the encoder: two convolutions, L pre-norm transformer layers, a last norm.

    Args:
      encoder: The weights.
      log_mel: Whisper's log-mel frames at 100 Hz, `(max(log10(power), floor) + 4) / 4`; T is
        even, at most 3000.
      kept: Which of the P = T // 2 positions are wanted: the last layer computes no other.
      is_exact: Whether products have factors of full float32. A GPU rounds them to 10 bits (TF32)
        otherwise, for its quicker units; features change by 4e-4 of their deviation.

    Returns:
      Their features, at 50 Hz.

    Raises:
      ValueError: if T is odd, zero or longer than 30 s.
    """
    frames = log_mel.shape[0]
    require(
        frames % 2 == 0 and 0 < frames <= 2 * MAX_POSITIONS,
        f"encode: expected an even number of mel frames in 2 ... 3000, got {frames}; pad or cut",
    )
    with jax.default_matmul_precision("highest" if is_exact else "default"):
        x = _gelu(_convolve(log_mel, encoder.conv1_weight, encoder.conv1_bias, stride=1))
        x = _gelu(_convolve(x, encoder.conv2_weight, encoder.conv2_bias, stride=2))
        x = x + encoder.positions[: x.shape[0]]
        # Written out, a GPU need not copy every layer's weights, and begins all of it at once.
        layer = lambda x, layer: (_transformed(x, layer), None)
        x, _ = jax.lax.scan(layer, x, encoder.layers, unroll=1 if is_exact else True)
        x = _transformed(x, encoder.last, kept)
    return _layer_norm(x, encoder.norm_scale, encoder.norm_bias)
