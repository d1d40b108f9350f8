"""The level of speech and where it is: one loudness for training and for speaking, causal.

Loudness is that of ITU-R BS.1770 (its K-weighting by pyloudnorm, blocks of 400 ms every 100 ms, the
absolute gate at -70 LUFS and the relative one at -10 LU), of the blocks in which somebody speaks
(`media.voice_activity`), over the last 10 s of them. Only sound that was heard already counts, so
that a live stream and a file get the same gains, bit for bit. Where nobody speaks, a gate is shut:
noise and music are not raised, and rest is rest.
"""

import collections
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg.blas import dtbsv

from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.media.voice_activity import CHUNK, SPOKEN, Run, VoiceActivity, judge

SPEECH_LOUDNESS = -23.0
"""What speech is brought to [LUFS]: the level of EBU R128, about that of recorded talks."""

WEIGHTING = (
    ((1.444233908713844, -1.839542987741787, 0.685432300820589),
     (1.0, -1.1071392365035588, 0.3972624582962044)),
    ((0.9852425301500196, -1.9704850603000392, 0.9852425301500196),
     (1.0, -1.9703753578723906, 0.9705947627276879)),
)  # fmt: skip
"""The K-weighting's two filters at 16 kHz, numerators and denominators: those of pyloudnorm, which
takes a second to import."""

# Both filters as one, which takes half as long.
_B, _A = (tuple(np.convolve(*parts).tolist()) for parts in zip(*WEIGHTING, strict=True))

_STEP = SAMPLE_RATE // 10  # samples from one block to the next
_STEPS = 4  # of a block
_MEMORY = 100  # blocks
_OFFSET = -0.691  # of BS.1770, dB
_SILENCE = 10 ** ((-70.0 - _OFFSET) / 10)  # power of the absolute gate
_RELATIVE = 0.1  # of the mean power: the relative gate
_OPEN, _SHUT = 0.15, 0.3  # s from the nearest speech: wide open up to here, shut from there on


def loudness(samples: Float[np.ndarray, " S"]) -> float:
    """Return the integrated loudness of 16 kHz mono sound by BS.1770 [LUFS]; -inf: silent."""
    import pyloudnorm  # noqa: PLC0415 (imports all of scipy.signal: 1 s)

    short = round(0.4 * SAMPLE_RATE) - len(samples)
    samples = np.pad(samples.astype(np.float64), (0, max(short, 0)))
    return float(pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(samples))


def filtered(
    b: Sequence[float], a: Sequence[float], samples: Float[np.ndarray, " S"],
    before: Float[np.ndarray, "2 n"],
) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, "2 n"]]:  # fmt: skip
    """Filter the next samples of a sound by n + 1 coefficients of each kind; `a` begins with 1.

    What `scipy.signal.lfilter` does, as the banded triangular system that it solves: to import that
    takes as long as to read an avatar. The same bits come out in pieces of any sizes.

    Args:
      b: Numerator.
      a: Denominator.
      samples: What to filter.
      before: The last n samples before these, and what became of them.

    Returns:
      What becomes of the samples, and their own last n for the next call.
    """
    order, heard = len(b) - 1, np.concatenate([before[0], samples])
    driven = b[0] * samples
    for k in range(1, order + 1):
        driven += b[k] * heard[order - k : len(heard) - k]
    found = np.concatenate([before[1], driven])
    found = dtbsv(order, _bands(tuple(a), len(heard)), found, lower=1, diag=1, overwrite_x=1)
    return found[order:], np.stack([heard[-order:], found[-order:]])


@functools.lru_cache(maxsize=16)
def _bands(a: tuple[float, ...], size: int) -> Float[np.ndarray, "n S"]:
    """Return the system of so many samples, those before them included."""
    bands, order = np.repeat(np.array(a)[:, None], size, axis=1), len(a) - 1
    for k in range(1, order):
        bands[k, : order - k] = 0  # what became of the samples before is known
    return np.asfortranarray(bands)


class SpeechLevel:
    """A listener to 16 kHz sound that knows its gain and where speech is, in constant memory."""

    def __init__(self, target: float = SPEECH_LOUDNESS):
        """Start at sample 0.

        Args:
          target: What speech is to be brought to [LUFS].

        Raises:
          InputError: if the voice-activity network cannot be had.
        """
        self._target = target
        self._activity = VoiceActivity()
        self._before = np.zeros((2, len(_A) - 1))  # last samples, plain and weighted
        self._rest = np.zeros(0)
        self._steps: collections.deque[float] = collections.deque(maxlen=_STEPS)  # mean squares
        self._spoken: collections.deque[float] = collections.deque(maxlen=_MEMORY)  # of blocks
        self._speaks: collections.deque[bool] = collections.deque(maxlen=64)  # of chunks, 2 s
        self._num_chunks = self._num_steps = 0

    def push(self, samples: Float[np.ndarray, " S"]) -> None:
        """Listen to the next samples.

        The same bits come out however much is pushed at once, up to a second.
        """
        push_all([self], [samples])

    def _heard(self, samples: np.ndarray, speaks: Bool[np.ndarray, " C"]) -> None:
        """Take in the next samples, and in which of the chunks that they complete speech is."""
        self._speaks.extend(speaks.tolist())
        self._num_chunks += len(speaks)
        weighted, self._before = filtered(_B, _A, samples.astype(np.float64), self._before)
        weighted = np.concatenate([self._rest, weighted])
        count = len(weighted) // _STEP
        self._rest = weighted[count * _STEP :]
        steps = weighted[: count * _STEP].reshape(count, _STEP)
        for power in np.square(steps).mean(axis=1).tolist():
            self._steps.append(power)
            self._num_steps += 1
            if len(self._steps) == _STEPS and self._is_spoken():
                self._spoken.append(sum(self._steps) / _STEPS)

    def _is_spoken(self) -> bool:
        """Tell if somebody speaks in half of the last block or more."""
        stop = self._num_steps * _STEP // CHUNK
        first = stop - _STEPS * _STEP // CHUNK
        kept = self._num_chunks - len(self._speaks)  # number of the first chunk that is kept
        block = list(self._speaks)[max(first - kept, 0) : stop - kept]
        return bool(block) and 2 * sum(block) >= len(block)

    def gain(self) -> np.float32:
        """Return the factor that brings the speech heard so far to the target.

        While no block of speech is complete, the loudest of the last steps stands for it.
        """
        powers = np.array(self._spoken if self._spoken else [max(self._steps, default=0.0)])
        powers = powers[powers >= _SILENCE]
        if not powers.size:
            return np.float32(1)
        power = powers[powers >= _RELATIVE * powers.mean()].mean()
        return np.float32(10 ** ((self._target - _OFFSET - 10 * np.log10(power)) / 20))

    def openness(self, times: Float[np.ndarray, " R"]) -> Float[np.ndarray, " R"]:
        """Return how far the gate is open at `times` [s]: 0 shut, 1 open.

        They ascend, and none is over a second ago.
        """
        speaks, kept = list(self._speaks), self._num_chunks - len(self._speaks)
        if not any(speaks):
            return np.zeros(len(times), np.float32)
        first, last = (int(time * SAMPLE_RATE) // CHUNK - kept for time in times[[0, -1]].tolist())
        if 0 <= first and last < len(speaks) and all(speaks[first : last + 1]):
            return np.ones(len(times), np.float32)
        chunks = np.flatnonzero(speaks) + kept
        middles = (chunks + 0.5) * CHUNK / SAMPLE_RATE
        away = np.abs(times[:, None] - middles[None]).min(1) - 0.5 * CHUNK / SAMPLE_RATE
        return np.clip((_SHUT - away) / (_SHUT - _OPEN), 0, 1).astype(np.float32)


def push_all(
    levels: Sequence[SpeechLevel], sounds: Sequence[Float[np.ndarray, " S"]],
    run: Run | None = None,
) -> None:  # fmt: skip
    """Let several listeners hear their next samples; `run` as of `voice_activity.judge`."""
    found = judge([level._activity for level in levels], sounds, run)
    for level, sound, probabilities in zip(levels, sounds, found, strict=True):
        level._heard(sound, probabilities >= SPOKEN)
