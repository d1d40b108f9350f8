"""Sound of any rate, as it is pushed bit by bit -> checked 16 kHz sound that waits to be heard.

Before: a microphone or a voice; after: `stream` and `sessions`.
"""

import collections
import operator
from typing import Any

import numpy as np
from jaxtyping import Float

from egs_jax.media.audio_file import LARGEST_PEAK
from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.media.sound_tracks import RATES
from egs_jax.runtime.errors import InputError


class LiveSound:
    """A bounded queue of sound; true while some waits.

    Attributes:
      delay: The longest time for which sound stays in the resampler [s].
      is_finished: Whether no sound follows.
      samples: How many wait, at 16 kHz.
    """

    def __init__(self, sample_rate: int, most_waiting: float):
        """Begin with no sound.

        Args:
          sample_rate: Of the sound to come [Hz].
          most_waiting: Sound that may wait when more comes [s].

        Raises:
          InputError: if the rate is no rate of sound, or no sound may wait.
        """
        try:
            self._rate = operator.index(sample_rate)
        except TypeError:
            self._rate = 0
        if not RATES[0] <= self._rate <= RATES[1]:
            raise InputError(
                f"sample_rate: got {sample_rate}, expected a whole number of Hz from {RATES[0]} to "
                f"{RATES[1]}; name the rate of the sound"
            )
        if not most_waiting > 0:
            raise InputError(f"most_waiting: got {most_waiting}, expected more than 0 seconds")
        self._most_waiting, self.delay = most_waiting, _resampling_delay(self._rate)
        self.clear()

    def clear(self) -> None:
        """Forget all sound, also what the resampler holds; it is not finished."""
        self._resampler = _resampler(self._rate)
        self._pieces: collections.deque[np.ndarray] = collections.deque()
        self.is_finished, self.samples = False, 0

    def __bool__(self) -> bool:
        """Say whether sound waits."""
        return bool(self._pieces)

    @property
    def waiting(self) -> float:
        """Seconds of sound that wait."""
        return self.samples / SAMPLE_RATE

    def push(self, samples: Any) -> None:
        """Take the next samples; no sound (S = 0) is always taken.

        Args:
          samples: Mono, [S]: float in [-1, 1] or int16.

        Raises:
          InputError: if they are no such sound, more wait than may, or the sound is finished.
            Nothing of the chunk is taken then.
        """
        chunk = _checked(samples)
        if self.is_finished:
            raise InputError("stream: it is finished; call reset before more sound")
        if len(chunk) and self.waiting > self._most_waiting:
            raise InputError(
                f"stream: {self.waiting:.1f} s of sound wait to be drawn, at most "
                f"{self._most_waiting:g}; take the frames of earlier calls first"
            )
        self._add(chunk if self._resampler is None else self._resampler.resample_chunk(chunk))

    def hush(self, samples: int) -> None:
        """Take so many 16 kHz samples of silence."""
        self._add(np.zeros(samples, np.float32))

    def finish(self) -> None:
        """Take the last sound out of the resampler; none follows."""
        if not self.is_finished and self._resampler is not None:
            self._add(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        self.is_finished = True

    def take(self, most: int) -> Float[np.ndarray, " S"]:
        """Return the next sound, at most so many samples of one chunk, at 16 kHz."""
        sound = self._pieces.popleft()
        if len(sound) > most:
            self._pieces.appendleft(sound[most:])
        self.samples -= min(len(sound), most)
        return sound[:most]

    def take_all(self, most: int) -> Float[np.ndarray, " S"]:
        """Return the next sound of as many chunks as it needs, at most so many samples."""
        found = []
        while self._pieces and most > 0:
            found.append(self.take(most))
            most -= len(found[-1])
        return np.concatenate(found) if found else np.zeros(0, np.float32)

    def _add(self, samples: np.ndarray) -> None:
        if len(samples):
            self._pieces.append(np.minimum(np.maximum(samples, -1.0), 1.0))
            self.samples += len(samples)


def _resampler(rate: int) -> Any:
    """Return a resampler from `rate` to 16 kHz, or None where there is nothing to do."""
    if rate == SAMPLE_RATE:
        return None
    import soxr  # noqa: PLC0415

    return soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", quality="HQ")


def _resampling_delay(rate: int) -> float:
    """Return the longest time for which sound stays in the resampler [s]."""
    resampler, given, delay = _resampler(rate), 0, 0.0
    step = np.zeros(rate // 1000, np.float32)
    for count in range(1, 500 if resampler else 0):
        given += len(resampler.resample_chunk(step))
        delay = max(delay, count * len(step) / rate - given / SAMPLE_RATE)
    return delay


def _checked(samples: Any) -> Float[np.ndarray, " S"]:
    """Return sound as float32, or raise an `InputError`."""
    try:
        samples = np.asarray(samples)
    except ValueError:  # ragged
        samples = np.empty((0, 0), object)
    if samples.ndim != 1 or not (samples.dtype == np.int16 or samples.dtype.kind == "f"):
        raise InputError(
            f"stream: got {samples.dtype} {list(samples.shape)}, expected mono sound of one "
            "dimension, float in -1 ... 1 or int16; convert it first"
        )
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / 32768
    peak = np.abs(samples).max(initial=0.0)  # NaN if one is
    if not np.isfinite(peak):
        raise InputError("stream: the chunk has NaN or infinite samples; drop or repair it")
    if peak > LARGEST_PEAK:
        raise InputError(
            "stream: the chunk is far beyond full scale; float sound must lie in -1 ... 1"
        )
    return samples.astype(np.float32)
