"""Condition tokens of a frame: speech, eyes, head pose, null and lips.

Before: `speech` features and the drive of a frame; after: `attention` (the tokens are its keys and
values).

Letters: B frames, W audio window [frames at 25 Hz], F audio feature, T tokens, D model size. A
window entry holds 16 rows of audio features at 50 Hz around its frame.
"""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from egs_jax.model.kan import Block, Linear, Network, uniform_init
from egs_jax.speech.lips import KNOTS, LipsReader, read, read_rows
from kernels.checks import require, typechecked

LEAK = 0.02
EYE_DIM = 32


class Conv(nn.Module):
    """1-D convolution of width 3, padded by 1; starts in +-gain/sqrt(3 in)."""

    features: int
    stride: int = 1
    gain: float = 1.0

    @nn.compact
    @typechecked
    def __call__(self, x: Float[Array, "B steps C"]) -> Float[Array, "B out_steps features"]:
        """Convolve along the second axis."""
        init = uniform_init((3 * x.shape[-1]) ** -0.5)
        kernel_init = uniform_init(self.gain * (3 * x.shape[-1]) ** -0.5)
        kernel = self.param("kernel", kernel_init, (3, x.shape[-1], self.features))
        bias = self.param("bias", init, (self.features,))
        steps = -(-x.shape[1] // self.stride)
        padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        taps = [padded[:, k : k + (steps - 1) * self.stride + 1 : self.stride] for k in range(3)]
        # Three shifted copies and one product: the numbers of a convolution, faster on CPU.
        columns = jnp.concatenate(taps, axis=-1)
        return columns @ kernel.reshape(-1, self.features) + bias[None, None, :]


class AudioNet(nn.Module):
    """Audio encoder of one window entry, [..., 16, F] -> [..., 32] (as scene/networks.py).

    Four convolutions of stride 2 (F-32-32-64-64; 16 rows become 1), then 64-64-32, LeakyReLU 0.02
    between.

    Attributes:
      gain: Of the convolutions' start. The original's is 1: every layer then passes on a third of
        its input, so at the start the output hardly depends on the sound. sqrt(6) keeps its size
        (arXiv:1502.01852).
    """

    gain: float = 1.0

    @nn.compact
    @typechecked
    def __call__(self, windows: Float[Array, "*batch 16 F"]) -> Float[Array, "*batch 32"]:
        """Encode the rows around a frame."""
        x = windows.reshape(-1, *windows.shape[-2:])
        for index, features in enumerate((32, 32, 64, 64)):
            x = Conv(features, stride=2, gain=self.gain, name=f"conv_{index}")(x)
            x = nn.leaky_relu(x, LEAK)
        x = nn.leaky_relu(Linear(64, name="hidden")(x[:, 0]), LEAK)
        return Linear(32, name="out")(x).reshape(*windows.shape[:-2], 32)


class AudioAttNet(nn.Module):
    """Mean over the window, [B, W, 32] -> [B, 32], weighted by five convolutions along it."""

    @nn.compact
    @typechecked
    def __call__(self, encoded: Float[Array, "B W 32"]) -> Float[Array, "B 32"]:
        """Return one vector a frame."""
        x = encoded
        for index, features in enumerate((16, 8, 4, 2, 1)):
            x = nn.leaky_relu(Conv(features, name=f"conv_{index}")(x), LEAK)
        weights = nn.softmax(Linear(encoded.shape[1], name="weights")(x[..., 0]), axis=-1)
        return jnp.einsum("bw,bwc->bc", weights, encoded)


class FittedReader(nn.Module):
    """Lips told from the sound by a `LipsReader`, which no training changes.

    Its parameters start at zero; whoever makes a state puts in those of a fitted one.
    """

    @nn.compact
    @typechecked
    def __call__(self, windows: Float[Array, "B W 16 F"]) -> Float[Array, "B 2"]:
        """Tell opening and width."""
        rows = read_rows(windows)
        shapes = LipsReader(
            kernel=(rows.shape[1] * rows.shape[2], 2), bias=(2,), told=(KNOTS, 2), true=(KNOTS, 2),
            rest=(2,), hush=(rows.shape[2],), spread=(),
        )  # fmt: skip
        zeros = nn.initializers.zeros
        found = (self.param(name, zeros, shape) for name, shape in shapes._asdict().items())
        return read(LipsReader(*map(jax.lax.stop_gradient, found)), rows)


@typechecked
def encode_eye(
    eye: Float[Array, " B"], encoding: Literal["smooth", "code"] = "smooth"
) -> Float[Array, "B 32"]:
    """Encode the blink in [0, 1] by 16 pairs (sin, cos).

    Differs from the original: its frequencies are 10000^(i/16), 1 to 5.6e3 rad, so measurement
    noise of 0.001 scrambles most of them ("code"). "smooth" spaces them geometrically from 1 to 4
    pi rad.
    """
    pair = jnp.arange(EYE_DIM // 2, dtype=jnp.float32)
    top = 10000.0 ** (15 / 16) if encoding == "code" else 4.0 * math.pi
    phase = eye[:, None] * jnp.exp(pair * (math.log(top) / 15))[None, :]
    return jnp.stack([jnp.sin(phase), jnp.cos(phase)], axis=-1).reshape(-1, EYE_DIM)


@typechecked
def encode_pose(pose: Float[Array, "B 12"], distance: float | None) -> Float[Array, "B 12"]:
    """Scale a camera vector (9 rotation entries, then 3 of translation) to numbers of order one.

    Args:
      pose: Rotation and translation [world units].
      distance: Typical camera distance [world units] by which the translation is divided; None:
        raw, as the original's code, whose KAN squares a distance of about 7.7.
    """
    if distance is None:
        return pose
    return jnp.concatenate([pose[:, :9], pose[:, 9:] / distance], axis=1)


def pose_vector(viewmats: Float[Array, "B 4 4"]) -> Float[Array, "B 12"]:
    """Make camera vectors: camera-to-world rotation, row by row, then the translation."""
    rotation = viewmats[:, :3, :3].transpose(0, 2, 1)
    return jnp.concatenate([rotation.reshape(-1, 9), viewmats[:, :3, 3]], axis=1)


def periodic_encoding(steps: int, dim: int, period: int) -> Float[Array, "steps dim"]:
    """Return the PPE: sin and cos of (t mod period) * 10000^(-2i/dim) in turn.

    The periodic positional encoding of FaceFormer (arXiv:2112.05329, Sec. 3.3).
    """
    time = (jnp.arange(steps) % period).astype(jnp.float32)
    rate = jnp.exp(jnp.arange(0, dim, 2) * (-math.log(10000.0) / dim))
    phase = time[:, None] * rate[None, :]
    return jnp.stack([jnp.sin(phase), jnp.cos(phase)], axis=-1).reshape(steps, dim)


def period_bias(window_frames: int, period: int, others: int = 3) -> Float[Array, " T"] | None:
    """Period-stepped bias of `ppe="temporal"`: -floor(frames before the newest / period).

    Tokens other than audio get 0.

    The paper's figure draws it as a triangular matrix (ALiBi-like, FaceFormer's). Within one period
    it is identically zero, so it is built for longer windows only.

    Args:
      window_frames: Frames of the audio window.
      period: Period of the PPE [frames].
      others: Tokens after the audio sequence.

    Returns:
      The bias, or None where all of it would be zero.
    """
    if window_frames <= period:
        return None
    age = jnp.arange(window_frames - 1, -1, -1)
    return jnp.concatenate([-(age // period).astype(jnp.float32), jnp.zeros(others)])


class SpeechTokens(nn.Module):
    """Tokens of each frame, [B, T, D].

    `ppe`:
      "temporal": the window's W encoded frames stay a sequence; PPE acts on their index within the
        window, never on absolute time. T = W + 3: the sequence, eye, pose, null; and lips.
      "token": as the original's code. AudioAttNet makes one audio token; rows 0-3 of the PPE are
        added to audio, eye, pose and null, a constant that tells token types apart. T = 4; and
        lips.
      "off": "temporal" without PPE: the window is a set, without order.

    Attributes:
      d_model: Size of a token.
      hidden: Hidden size of the token encoders.
      ppe: See above.
      ppe_period: Period of the PPE [frames].
      network: "kan" or "mlp" token encoders.
      eye_encoding: See `encode_eye`.
      pose_distance: See `encode_pose`; None: raw.
      normalize: Bring audio, eye and pose tokens to unit size (LayerNorm), start the audio network
        with its gain at sqrt(6) and have no ReLU between KAN layers. The original does none of
        this: its tokens start at a tenth of the constant rows they are added to, and its mouths
        take thousands of steps to move.
      lips_token: A last token that says the lips' opening and width, read from the audio token of
        the frame itself; in training they are also learned directly (`read_lips`). Needs
        `normalize`. The original has none. A code of two numbers, like that of the eyes, is used
        within hundreds of steps, where the audio tokens alone take thousands.
      fits_lips: That token says what a `FittedReader` tells instead; `read_lips` then is a task of
        the audio tokens alone.
      dropout: Share of token entries dropped while training.
    """

    d_model: int = 64
    hidden: int = 64
    ppe: Literal["temporal", "token", "off"] = "temporal"
    ppe_period: int = 25
    network: Network = "kan"
    eye_encoding: Literal["smooth", "code"] = "smooth"
    pose_distance: float | None = 5.0
    normalize: bool = True
    lips_token: bool = True
    fits_lips: bool = False
    dropout: float = 0.0

    def setup(self) -> None:
        """Make one encoder and one normalization a kind of token."""
        require(self.ppe in ("temporal", "token", "off"), f"ppe: unknown choice {self.ppe!r}")
        self.audio_net = AudioNet(math.sqrt(6.0) if self.normalize else 1.0)
        if self.ppe == "token":
            self.audio_att_net = AudioAttNet()
        block = lambda: Block(self.hidden, self.d_model, self.network, relu=not self.normalize)
        self.audio, self.eye, self.pose = block(), block(), block()
        if self.normalize:
            norm = lambda: nn.LayerNorm(use_fast_variance=False)
            self.audio_norm, self.eye_norm, self.pose_norm = norm(), norm(), norm()
        if self.lips_token:
            require(self.normalize, "lips_token: needs normalize; set both or neither")
            self.lips_read = Linear(2)
            if self.fits_lips:
                self.lips_reader = FittedReader()
            self.lips, self.lips_norm = block(), norm()
        self.null = self.param("null", jax.random.normal, (self.d_model,))
        self.drop = nn.Dropout(self.dropout)

    @typechecked
    def __call__(
        self,
        audio_windows: Float[Array, "B W 16 F"],
        eye: Float[Array, " B"],
        pose: Float[Array, "B 12"],
        lips: Float[Array, "B 2"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B T D"]:
        """Encode a batch of frames.

        Args:
          audio_windows: Rows of audio features around each frame of each window.
          eye: Blink in [0, 1].
          pose: Camera vectors (`pose_vector`).
          lips: What the lips' token says (`fits_lips`); None: what the sound tells.
          deterministic: No dropout; else it takes the rng "dropout".

        Raises:
          ValueError: if `ppe` is unknown, or there are lips without `normalize`.
        """
        encoded = self.audio_net(audio_windows)
        if self.ppe == "token":
            encoded = self.audio_att_net(encoded)[:, None]
        audio = self._normal("audio", self.audio(encoded))  # [B, W or 1, D]
        eye_token = self._normal("eye", self.eye(encode_eye(eye, self.eye_encoding)))
        pose_token = self._normal("pose", self.pose(encode_pose(pose, self.pose_distance)))
        null = jnp.broadcast_to(self.null[None, :], eye_token.shape)
        others = jnp.stack([eye_token, pose_token, null], axis=1)
        if self.lips_token:
            shape = self._shape_of(audio_windows, audio) if lips is None else lips
            others = jnp.concatenate([others, self.lips_norm(self.lips(shape))[:, None]], axis=1)
        tokens = jnp.concatenate([audio, others], axis=1)
        if self.ppe != "off":
            rows = audio.shape[1] if self.ppe == "temporal" else 4
            code = periodic_encoding(rows, self.d_model, self.ppe_period)
            tokens = tokens + jnp.pad(code, ((0, tokens.shape[1] - rows), (0, 0)))[None]
        return self.drop(tokens, deterministic=deterministic)

    def _shape_of(
        self, windows: Float[Array, "B W 16 F"], audio: Float[Array, "B T D"]
    ) -> Float[Array, "B 2"]:
        """Tell the lips of frames from their windows, or from the audio tokens of these."""
        if not self.fits_lips or self.is_initializing():  # which makes the layer in any case
            learned = self.lips_read(audio[:, audio.shape[1] // 2])
        return self.lips_reader(windows) if self.fits_lips else learned

    @typechecked
    def read_lips(self, entries: Float[Array, "M 16 F"]) -> Float[Array, "M 2"]:
        """Tell the lips' opening and width (`Dataset.lip_shapes`) of single window entries."""
        return self.lips_read(self._normal("audio", self.audio(self.audio_net(entries))))

    def _normal(self, kind: str, token: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        return getattr(self, f"{kind}_norm")(token) if self.normalize else token
