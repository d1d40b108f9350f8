"""Features of speech at 50 Hz, each made of a bounded stretch of sound.

Row r is centered on (r + 0.5) / 50 s; S samples at 16 kHz give R = 2 ceil(S / 640) rows, two for
every video frame (25 fps) that they begin. Outside the file there is digital silence. A row
depends on a bounded stretch of sound around it and on nothing else; it is the same bits on one
machine whether the sound comes as one array, within a longer file or in chunks of any size,
because every window goes alone through one compiled program, or not at all where nobody speaks.
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

`frame_windows` cuts what the model takes for each video frame.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from egs_jax.media.audio_file import as_samples
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.media.voice_activity import Run
from egs_jax.speech.layout import ROW_SAMPLES, Layout, layout_of
from egs_jax.speech.level import SpeechLevel, push_all
from egs_jax.speech.whisper import NETWORKS, NUM_MELS, WhisperEncoder
from egs_jax.speech.window_rows import Window, encode_windows, window_program
from kernels.checks import require

FeatureKind = Literal["whisper", "whisper-base", "mel"]
IMPORTED = "imported"
"""Kind of features that another program made: a dataset may have them, no new sound does."""

FRAME_SAMPLES = SAMPLE_RATE // FPS  # one video frame


@dataclass(frozen=True)
class AudioFeatures:
    """What one kind of feature is; which sound its rows are made of is a `Layout`."""

    kind: FeatureKind
    feature_dim: int


AUDIO_FEATURES = {
    kind: AudioFeatures(kind, network.width) for kind, network in NETWORKS.items()
} | {"mel": AudioFeatures("mel", NUM_MELS)}


def num_rows(num_samples: int) -> int:
    """Return R = 2 ceil(S / 640): two rows for every 25 fps frame that S samples begin."""
    return 2 * -(-num_samples // FRAME_SAMPLES)


class Rows(NamedTuple):
    """Finished rows, possibly none."""

    features: Float[np.ndarray, "R F"]
    openness: Float[np.ndarray, " R"]
    """How far the gate is open at each; 1 if all sound is heard."""


class FeatureStream:
    """A stream that turns chunks of sound of any size into feature rows, in constant memory.

    The rows of all calls, one after the other, are bit for bit those of `extract_features` on the
    whole sound. `push` is `cut`, `listen`, `encode_windows` of what is `wanted`, and `finished` in
    turn: the two in the middle can be done for several streams at once.
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
        self.program = window_program(kind, encoder, self.layout)
        self._buffer = np.zeros(-self.layout.window_offset, np.float32)  # before the start
        hop = self.layout.hop_rows
        self._rise = ((np.arange(hop, dtype=np.float32) + 0.5) / hop)[:, None]  # of a cross-fade
        self._before: Window | np.ndarray | None = None  # the last window, or its rows
        self._level = None if loudness is None else SpeechLevel(loudness)
        if loudness is None:
            self._hush = None
        else:
            self._hush = self._silence() if encoder is not None else _hush(kind, self.layout)
        self._num_samples = self._num_cut = self._num_heard = self._num_rows = 0
        self._end: int | None = None  # rows in all, once that is known

    @property
    def missing(self) -> int:
        """Samples until the next window is complete."""
        return self.layout.window_samples - len(self._buffer)

    @property
    def nothing(self) -> Rows:
        """No rows."""
        return Rows(np.zeros((0, self.features.feature_dim), np.float32), np.zeros(0, np.float32))

    def push(self, chunk: Float[np.ndarray, " S"]) -> Float[np.ndarray, "R F"]:
        """Take the next samples (16 kHz mono); return the rows that they finish, possibly none.

        Raises:
          ValueError: if the chunk is not one-dimensional or not finite, or after `finish`.
        """
        return self.hear(chunk).features

    def finish(self) -> Float[np.ndarray, "R F"]:
        """Return the remaining rows, as if digital silence followed; the stream is then closed.

        Raises:
          ValueError: if called twice.
        """
        return self.hear_rest().features

    def hear(self, chunk: Float[np.ndarray, " S"]) -> Rows:
        """Do the same as `push`, and say where somebody speaks."""
        return self._heard(self.cut(chunk))

    def hear_rest(self) -> Rows:
        """Do the same as `finish`, and say where somebody speaks."""
        return self._heard(self.cut_rest())

    def cut(self, chunk: Float[np.ndarray, " S"]) -> list[np.ndarray]:
        """Take the next samples; return the sound of the windows that they complete."""
        require(self._end is None, "push: got a chunk after finish; start a new FeatureStream")
        chunk = as_samples(chunk)
        self._num_samples += len(chunk)
        buffer = np.concatenate([self._buffer, chunk])
        return self._cut(buffer, max(len(buffer) - self.layout.window_samples, -1))

    def cut_rest(self) -> list[np.ndarray]:
        """Return the sound of the remaining windows, as if digital silence followed."""
        require(self._end is None, "finish: was called before; start a new FeatureStream")
        self._end, layout = num_rows(self._num_samples), self.layout
        cut = layout.hop_rows * max(self._num_cut - layout.is_crossfaded, 0)  # rows of those
        ends = -(-self._end // layout.hop_rows) + layout.is_crossfaded  # windows in all
        count = ends - self._num_cut if self._end > cut else 0
        silence = np.zeros(count * layout.hop_samples + layout.window_samples, np.float32)
        last = (count - 1) * layout.hop_samples
        return self._cut(np.concatenate([self._buffer, silence]), last)

    def _cut(self, buffer: np.ndarray, last: int) -> list[np.ndarray]:
        """Cut windows of a buffer, of which the last may start at sample `last` (< 0: none)."""
        size, hop = self.layout.window_samples, self.layout.hop_samples
        starts = range(0, last + 1, hop)
        self._buffer = buffer[len(starts) * hop :]
        self._num_cut += len(starts)
        return [buffer[start : start + size] for start in starts]

    def wanted(self, window: Window) -> list[Window]:
        """Return what is to be encoded for the rows that a window finishes.

        That is nothing where nobody speaks. Cross-faded rows are of the window before as well,
        which may not have been encoded yet.
        """
        if not window.openness.any():
            return []
        return [self._before, window] if isinstance(self._before, Window) else [window]

    def finished(self, window: Window, encoded: Sequence[np.ndarray]) -> Rows:
        """Return the rows that the next window finishes, given those kept of what is `wanted`."""
        if len(encoded) == 2:
            self._before = encoded[0]
        rows = self._block(window, encoded[-1] if encoded else None)
        if self.layout.is_crossfaded:
            self._before = encoded[-1] if encoded else window
        rows = rows[: None if self._end is None else max(self._end - self._num_rows, 0)]
        self._num_rows += len(rows)
        return Rows(rows, window.openness[: len(rows)])

    def _heard(self, cuts: list[np.ndarray]) -> Rows:
        """Return the rows that windows of this sound finish."""
        found = [self.nothing]
        for cut in cuts:
            [window] = listen([self], [cut])
            found.append(self.finished(window, encode_windows(self.program, self.wanted(window))))
        return Rows(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _fresh(self, cut: np.ndarray) -> np.ndarray:
        """Return what of the next window's sound no window before it had."""
        layout, is_first = self.layout, self._num_heard == 0
        return cut[-(len(cut) + layout.window_offset if is_first else layout.hop_samples) :]

    def _window(self, cut: np.ndarray) -> Window:
        """Return the next window, once the level has heard its sound."""
        layout, number = self.layout, self._num_heard
        self._num_heard += 1
        if self._level is None:
            return Window(cut, np.ones(layout.hop_rows, np.float32))
        first = layout.hop_rows * (number - layout.is_crossfaded)
        times = (first + np.arange(layout.hop_rows) + 0.5) * ROW_SAMPLES / SAMPLE_RATE
        return Window(cut * self._level.gain(), self._level.openness(times))

    def _block(self, window: Window, kept: np.ndarray | None) -> np.ndarray:
        """Return the rows that a window finishes: a block, or none for the first cross-faded.

        Where nobody speaks they fade to those of silence; `kept` is None if nobody does at all.
        """
        if self.layout.is_crossfaded and self._before is None:
            return self.nothing.features
        if kept is None:
            return self._hush
        rows = kept if not self.layout.is_crossfaded else self._crossfaded(self._before, kept)
        if self._level is None:
            return rows
        openness = window.openness[:, None]
        return rows * openness + self._hush * (1 - openness)

    def _silence(self) -> np.ndarray:
        """Return the rows of digital silence, one block of them."""
        [rows] = self.program(np.zeros((1, self.layout.window_samples), np.float32))
        return self._crossfaded(rows, rows) if self.layout.is_crossfaded else rows

    def _crossfaded(self, before: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return a block of the rows that are kept of the two windows which have it."""
        hop = self.layout.hop_rows
        return before[hop:] * (1 - self._rise) + rows[:hop] * self._rise


def listen(
    streams: Sequence[FeatureStream], cuts: Sequence[np.ndarray], run: Run | None = None
) -> list[Window]:
    """Let several streams hear the sound of their next window; the same bits as one by one.

    Args:
      streams: Those that hear.
      cuts: The sound.
      run: As of `voice_activity.judge`.
    """
    pairs = [(s._level, s._fresh(c)) for s, c in zip(streams, cuts, strict=True) if s._level]
    if pairs:
        levels, sounds = zip(*pairs, strict=True)
        push_all(levels, sounds, run)
    return [stream._window(cut) for stream, cut in zip(streams, cuts, strict=True)]


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
