"""Features of speech at 50 Hz, each made of a bounded stretch of sound.

Row r is centered on (r + 0.5) / 50 s; S samples at 16 kHz give R = 2 ceil(S / 640) rows, two for
every video frame (25 fps) that they begin. Outside the file there is digital silence. A row
depends on a bounded stretch of sound around it and on nothing else; it is the same bits on one
machine whether the sound comes as one array, within a longer file or in chunks of any size,
because window b always goes through place b mod 4 of one compiled program (others may be empty).
These are the default windows; those of a shorter look-ahead are in `layout`.

* "whisper" [R, 384]: the Whisper-tiny.en encoder (`egs_jax.speech.whisper`, trained on English) on
  windows of 80 rows (1.6 s) every 10 rows (0.2 s). A window gives its rows 50 ... 69, and two
  neighbors are cross-faded over every block of 10 rows: a row's value also depends on its place
  in the window, and a hard seam would beat at 5 Hz. Row 10 m + k (k = 0 ... 9) is made of the
  samples 3200 m - 19240 ... 3200 m + 9799: from its center 1.2125 + 0.02 k s back and
  0.6025 - 0.02 k s ahead.
* "whisper-base" [R, 512]: the same of Whisper base, trained on 99 languages.
* "mel" [R, 80]: log-mel energies of the 40 ms around the row's center (samples 320 r - 160 ...
  320 r + 479). No network, neutral to language. Streamed in blocks of 10 rows.

Loudness is measured against fixed references, never stretched to a clip's own range: room noise
stays small and digital silence is one known pattern of period 10 rows (`silence_features`). With a
`loudness`, each window is first brought to it by what was heard up to its end, and rows where
nobody speaks become those of silence (`level`); the bounded stretch then is one of the same sound
before it as well.

`feature_windows` cuts what the model takes for each video frame.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from egs_jax.media.audio_file import as_samples
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.runtime.programs import Kept
from egs_jax.speech.layout import DEFAULT, ENTRY_ROWS, ROW_SAMPLES, Layout, layout_of
from egs_jax.speech.level import SpeechLevel
from egs_jax.speech.whisper import NETWORKS, NUM_MELS, WhisperEncoder, encode, load_encoder
from kernels.checks import require, typechecked

FeatureKind = Literal["whisper", "whisper-base", "mel"]
IMPORTED = "imported"
"""Kind of features that another program made: a dataset may have them, no new sound does."""

FRAME_SAMPLES = SAMPLE_RATE // FPS  # one video frame
_WHISPER_FFT = 400  # 25 ms, as the encoder was trained
_WHISPER_HOP = 160
_MEL_FFT = 640  # 40 ms: Hann windows every 20 ms then weigh every sample alike
_WHISPER_REFERENCE = 1.5  # log10 power of the loudest band of ordinary speech
_MEL_FLOOR = 1e-6  # about 80 dB under loud speech


@dataclass(frozen=True)
class AudioFeatures:
    """What one kind of feature is; which sound its rows are made of is a `Layout`."""

    kind: FeatureKind
    feature_dim: int


AUDIO_FEATURES = {
    kind: AudioFeatures(kind, network.width) for kind, network in NETWORKS.items()
} | {"mel": AudioFeatures("mel", NUM_MELS)}


@functools.cache
def _mel_filters(n_fft: int) -> np.ndarray:
    """Return librosa's mel filters (Slaney's scale and norm), float32 [n_fft // 2 + 1, 80]."""
    from librosa.filters import mel  # noqa: PLC0415 (imports numba: 2-6 s)

    return mel(sr=SAMPLE_RATE, n_fft=n_fft, n_mels=NUM_MELS).T.copy()


def _mel_power(samples: Array, filters: Array, hop: int) -> Array:
    """Return mel band powers [T, 80] of Hann-windowed frames every `hop` samples, unpadded.

    Not librosa's transform: that one pads at a clip's ends, and compiles for up to half a minute.
    """
    n_fft = 2 * (filters.shape[0] - 1)
    starts = np.arange(0, samples.shape[0] - n_fft + 1, hop)
    frames = samples[starts[:, None] + np.arange(n_fft)[None, :]]
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)
    spectra = jnp.fft.rfft(frames * hann[None, :], axis=-1)
    power = jnp.square(spectra.real) + jnp.square(spectra.imag)
    return jnp.matmul(power, filters, precision=jax.lax.Precision.HIGHEST)


def _whisper_rows(kept: tuple[int, int], encoder: WhisperEncoder, samples: Array) -> Array:
    """Encode windows [4, 25840]; return the rows that are `kept` of each, [4, 20, D]."""
    filters = _mel_filters(_WHISPER_FFT)

    def rows(window: Array) -> Array:
        log_power = jnp.log10(jnp.maximum(_mel_power(window, filters, _WHISPER_HOP), 1e-10))
        # Differs from the original: it takes the clip's maximum alone. The floor under a pause
        # would then depend on the whole clip, and that of a silent clip would sink to the noise of
        # rounding.
        floor = jnp.maximum(log_power.max(), _WHISPER_REFERENCE) - 8.0
        log_mel = (jnp.maximum(log_power, floor) + 4.0) / 4.0
        return encode(encoder, log_mel)[slice(*kept)]

    return jax.vmap(rows)(samples)


def _mel_rows(kept: tuple[int, int], samples: Array) -> Array:
    """Return the log-mel rows [4, 10, 80] of windows [4, 3520]: -1 in silence, 1 when loud."""
    filters = _mel_filters(_MEL_FFT)

    def rows(window: Array) -> Array:
        power = _mel_power(window, filters, ROW_SAMPLES)[slice(*kept)]
        return (jnp.log10(jnp.maximum(power, _MEL_FLOOR)) + 2.0) / 4.0

    return jax.vmap(rows)(samples)


# The filters are constants of the programs: where these are kept nobody waits for librosa.
_whisper_windows = Kept(_whisper_rows, lambda rows: rows)
_mel_windows = Kept(_mel_rows, lambda rows: rows)


def _window_function(
    kind: FeatureKind, encoder: WhisperEncoder | None, layout: Layout
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from a batch of windows of samples to their rows."""
    kept = layout.kept_rows
    if kind not in NETWORKS:
        return lambda samples: np.asarray(_mel_windows(kept, samples))
    encoder = load_encoder(size=NETWORKS[kind]) if encoder is None else encoder
    require(
        encoder.norm_scale.shape == (NETWORKS[kind].width,),
        f"encoder: its width is {encoder.norm_scale.shape[0]}, for {kind!r} give one of "
        f"{NETWORKS[kind].width}",
    )
    return lambda samples: np.asarray(_whisper_windows(kept, encoder, samples))


def num_rows(num_samples: int) -> int:
    """Return R = 2 ceil(S / 640): two rows for every 25 fps frame that S samples begin."""
    return 2 * -(-num_samples // FRAME_SAMPLES)


class FeatureStream:
    """A stream that turns chunks of sound of any size into feature rows, in constant memory.

    The rows of all calls, one after the other, are bit for bit those of `extract_features` on the
    whole sound.
    """

    def __init__(
        self,
        kind: FeatureKind,
        encoder: WhisperEncoder | None = None,
        loudness: float | None = None,
        layout: Layout | None = None,
    ):
        """Start at sample 0.

        Args:
          kind: A key of `AUDIO_FEATURES`.
          encoder: Weights of its network; None loads the asset.
          loudness: What speech is brought to before it is heard [LUFS]; None: sound is heard as it
            is, and all of it.
          layout: Which sound rows are made of; None: the default of the kind.

        Raises:
          ValueError: if the kind is unknown, or the encoder is another network's.
          InputError: if a network's file cannot be had.
        """
        require(
            kind in AUDIO_FEATURES,
            f"kind: expected one of {', '.join(AUDIO_FEATURES)}; got {kind!r}",
        )
        self.features, self.layout = AUDIO_FEATURES[kind], layout or layout_of(kind)
        self._run = _window_function(kind, encoder, self.layout)
        self._buffer = np.zeros(-self.layout.window_offset, np.float32)  # before the start
        hop = self.layout.hop_rows
        self._rise = ((np.arange(hop, dtype=np.float32) + 0.5) / hop)[:, None]  # of a cross-fade
        self._fading: np.ndarray | None = None
        self._level = None if loudness is None else SpeechLevel(loudness)
        if loudness is None:
            self._hush = None
        else:
            self._hush = self._silence() if encoder is not None else _hush(kind, self.layout)
        self._num_samples = 0
        self._num_rows = 0
        self._num_windows = 0
        self._is_finished = False

    def _advance(self, windows: list[np.ndarray]) -> np.ndarray:
        """Return the rows that the next windows finish, [R, F] with R = 0 if there are none."""
        finished = [np.zeros((0, self.features.feature_dim), np.float32)]
        size = self.layout.batch
        while windows:
            place = self._num_windows % size
            group, windows = windows[: size - place], windows[size - place :]
            batch = self._empty_batch()
            openness = []
            for k, window in enumerate(group, place):
                batch[k], opened = self._levelled(window)
                openness.append(opened)
                self._num_windows += 1
            rows = map(self._fade, self._run(batch)[place : place + len(group)])
            finished += map(self._gated, rows, openness)
        rows = np.concatenate(finished)
        self._num_rows += len(rows)
        return rows

    def _levelled(self, window: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the next window at the wanted level, and how far its rows are of speech."""
        if self._level is None:
            return window, None
        layout = self.layout
        is_first = self._num_windows == 0
        fresh = len(window) + layout.window_offset if is_first else layout.hop_samples
        self._level.push(window[-fresh:])
        first = layout.hop_rows * (self._num_windows - layout.is_crossfaded)
        times = (first + np.arange(layout.hop_rows) + 0.5) * ROW_SAMPLES / SAMPLE_RATE
        return window * self._level.gain(), self._level.openness(times)

    def _gated(self, rows: np.ndarray, openness: np.ndarray | None) -> np.ndarray:
        """Fade finished rows to those of silence where nobody speaks."""
        if openness is None or not len(rows):
            return rows
        return rows * openness[:, None] + self._hush * (1 - openness)[:, None]

    def _empty_batch(self) -> np.ndarray:
        return np.zeros((self.layout.batch, self.layout.window_samples), np.float32)

    def _silence(self) -> np.ndarray:
        """Return the rows of digital silence, one block of them."""
        rows, hop = self._run(self._empty_batch())[0], self.layout.hop_rows
        if not self.layout.is_crossfaded:
            return rows
        return rows[hop:] * (1 - self._rise) + rows[:hop] * self._rise

    def _fade(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows that a window finishes: a block, or none for the first cross-faded."""
        if not self.layout.is_crossfaded:
            return rows
        hop = self.layout.hop_rows
        before, self._fading = self._fading, rows[hop:] * (1 - self._rise)
        return rows[:0] if before is None else before + rows[:hop] * self._rise

    def push(self, chunk: Float[np.ndarray, " S"]) -> Float[np.ndarray, "R F"]:
        """Take the next samples (16 kHz mono); return the rows that they finish, possibly none.

        Raises:
          ValueError: if the chunk is not one-dimensional or not finite, or after `finish`.
        """
        require(not self._is_finished, "push: got a chunk after finish; start a new FeatureStream")
        chunk = as_samples(chunk)
        self._num_samples += len(chunk)
        buffer = np.concatenate([self._buffer, chunk])
        size, hop = self.layout.window_samples, self.layout.hop_samples
        starts = range(0, len(buffer) - size + 1, hop)
        self._buffer = buffer[len(starts) * hop :].copy()
        return self._advance([buffer[start : start + size] for start in starts])

    def finish(self) -> Float[np.ndarray, "R F"]:
        """Return the remaining rows, as if digital silence followed; the stream is then closed.

        Raises:
          ValueError: if called twice.
        """
        require(not self._is_finished, "finish: was called before; start a new FeatureStream")
        self._is_finished = True
        total, layout = num_rows(self._num_samples), self.layout
        size, hop = layout.window_samples, layout.hop_samples
        missing = max(total - self._num_rows, 0)
        ends = -(-total // layout.hop_rows) + layout.is_crossfaded  # windows in all
        count = ends - self._num_windows if missing else 0
        buffer = np.concatenate([self._buffer, np.zeros(count * hop + size, np.float32)])
        starts = [hop * k for k in range(count)]
        return self._advance([buffer[start : start + size] for start in starts])[:missing]


@functools.cache
def _hush(kind: FeatureKind, layout: Layout) -> np.ndarray:
    """Return the rows of digital silence, one block of them, computed once a process."""
    return FeatureStream(kind, layout=layout)._silence()


def extract_features(
    samples: Float[np.ndarray, " S"],
    kind: FeatureKind,
    encoder: WhisperEncoder | None = None,
    loudness: float | None = None,
    layout: Layout | None = None,
) -> Float[np.ndarray, "R F"]:
    """Compute all feature rows of a sound.

    Args:
      samples: 16 kHz mono in [-1, 1].
      kind: "whisper" (F = 384), "whisper-base" (F = 512) or "mel" (F = 80).
      encoder: Weights of its network; None loads the asset.
      loudness: What speech is brought to first [LUFS]; None: the sound is heard as it is.
      layout: Which sound rows are made of; None: the default of the kind.

    Returns:
      Rows at 50 Hz, R = 2 ceil(S / 640); row r is centered on (r + 0.5) / 50 s.

    Raises:
      ValueError: if the samples are not one-dimensional or not finite, or the kind is unknown.
      InputError: if the encoder's file cannot be had.
    """
    stream = FeatureStream(kind, encoder, loudness, layout)
    return np.concatenate([stream.push(samples), stream.finish()])


def silence_features(
    kind: FeatureKind,
    num_rows: int | None = None,
    encoder: WhisperEncoder | None = None,
    layout: Layout | None = None,
) -> Float[np.ndarray, "num_rows F"]:
    """Compute the rows of digital silence, bit for bit those of `extract_features` on zeros.

    Args:
      kind: A key of `AUDIO_FEATURES`.
      num_rows: How many, from row 0 on; None: one period, the rows that a window finishes.
      encoder: Weights of its network; None loads the asset.
      layout: As in `extract_features`.

    Returns:
      The rows.

    Raises:
      ValueError: if the kind is unknown.
      InputError: if the encoder's file cannot be had.
    """
    layout = layout or layout_of(kind)
    period = extract_features(
        np.zeros(layout.hop_samples, np.float32), kind, encoder, layout=layout
    )
    return np.resize(period, (num_rows or len(period), period.shape[1]))


@typechecked
def feature_windows(
    rows: Float[Array | np.ndarray, "R F"],
    silence: Float[Array | np.ndarray, "Q F"],
    frames: Int[Array | np.ndarray, " B"],
    window_frames: int = 8,
    first_row: int = 0,
    spans: Int[Array | np.ndarray, "B 2"] | None = None,
    layout: Layout | None = None,
) -> Float[Array | np.ndarray, "B {window_frames} 16 F"]:
    """Cut the model's input for video frames (25 fps; frame i at i / 25 s).

    Frame i's entry is the rows 2 i - 8 ... 2 i + 7, symmetric about the frame's time. Its window
    is the entries of `window_frames` frames from i - window_frames // 2 on (i - 4 ... i + 3), or
    those that a `layout` has instead (`Layout.offsets`).

    Args:
      rows: Features at 50 Hz, from row `first_row` on.
      silence: `silence_features`, a whole number of its periods.
        Row r outside `rows` is taken as silence[r mod Q].
      frames: Frame numbers; any integers, also outside the sound.
      window_frames: Entries of a window.
      first_row: Number of the first of `rows`, for a piece of a longer sound.
      spans: Rows [first, end) that each frame may hear, where `rows` are of several sounds; the
        others are taken as silence. None: all.
      layout: That of the features; None: the default.

    Returns:
      Windows; a NumPy array if no input is a JAX array (memory-mapped rows are then read only
      where needed).

    Raises:
      ValueError: if `silence` or `window_frames` is empty.
    """
    # Differs from the original: zeros there, which no sound gives, and too few rows past the end.
    require(
        silence.shape[0] > 0 and window_frames > 0,
        f"feature_windows: expected silence rows and window_frames >= 1, got {silence.shape[0]} "
        f"and {window_frames}; see silence_features",
    )
    on_device = any(isinstance(x, jax.Array) for x in (rows, silence, frames))
    xp = jnp if on_device else np
    rows, silence, frames = (xp.asarray(x) for x in (rows, silence, frames))
    entries = (layout or DEFAULT).offsets(window_frames)
    offsets = 2 * entries[:, None] + np.arange(-ENTRY_ROWS // 2, ENTRY_ROWS // 2)[None, :]
    index = 2 * frames[:, None, None] + offsets[None]  # [B, window_frames, 16]
    place = index - first_row
    is_inside = (place >= 0) & (place < rows.shape[0])
    if spans is not None:
        first, end = xp.asarray(spans).T[:, :, None, None]
        is_inside = is_inside & (index >= first) & (index < end)
    if not on_device and is_inside.all():  # nearly always: a megabyte less to touch
        return rows[place]
    outside = silence[index % silence.shape[0]]
    if rows.shape[0] == 0:
        return outside
    inside = rows[xp.clip(place, 0, rows.shape[0] - 1)]
    return xp.where(is_inside[..., None], inside, outside)
