"""Which track and which channel of a file carry the speech.

Films have a silent desktop track beside the microphone's, music beside a clean voice, channels of
opposite phase that cancel when they are mixed, or a voice on one side and hiss on the other. So
each track's downmix and each of its channels are listened to (`voice_activity`), and the first of
them that carries the speech is taken, unless another carries it far more clearly. Where nobody is
recognized, loudness decides. A file with one channel is what it is.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.media.sound_tracks import (
    channels_of,
    decode,
    downmix,
    downmix_weights,
    track_layouts,
)
from egs_jax.media.voice_activity import CHUNK, SPOKEN, VoiceActivity
from egs_jax.runtime.errors import InputError

if TYPE_CHECKING:
    import av

LISTENED = 600.0
"""Seconds from the start on which the choice is made."""
_MOST_CHANNELS = 8
_LEAST_SPEECH = 0.5  # s: less is taken for none
_AS_MUCH = 0.5  # of the most speech that any signal has
_LOST = 0.1  # of the loudest signal's power: what has less has lost the speech
_CLEARER = 10.0  # dB by which a voice must stand out more to be taken instead of an earlier signal
_NOISE = 1e-6  # of full scale's power: a pause is never taken to be quieter
_RESTING = 0.1  # probability under which nobody speaks


class Source(NamedTuple):
    """A sound track of a file, by its place from 0 on, and one channel of it or the downmix."""

    track: int
    channel: int | None = None

    def mix(self, frame: "av.AudioFrame") -> Float[np.ndarray, "1 S"]:
        """Return this signal of a decoded frame; the downmix where the channel is missing."""
        if self.channel is None or self.channel >= len(frame.layout.channels):
            return downmix(frame)
        return channels_of(frame)[self.channel][None]


class Heard(NamedTuple):
    """What was heard of a signal."""

    source: Source
    spoken: float
    """Seconds of speech."""
    power: float
    """Mean square of the speech, without that of what is between, or of all if nobody speaks; as
    loud as its channels are."""
    clearness: float
    """How far speech stands out from what is between [dB]; 0 if there is nothing between."""


def speech_source(path: Path, track: int | None = None) -> Source:
    """Choose what is heard of a file; says so if that is not simply all of it.

    Args:
      path: The file.
      track: Number of the sound track, the first is 1; None: the one with the speech.

    Raises:
      InputError: if the file cannot be read or does not have that track.
    """
    state = path.stat()
    return _chosen(path, state.st_ino, state.st_size, state.st_mtime_ns, track)


@functools.lru_cache(64)
def _chosen(path: Path, _file: int, _size: int, _changed: int, track: int | None) -> Source:
    """Choose once for the same file: it is read more than once."""
    layouts, best = track_layouts(path)
    if track is not None:
        wanted = [track - 1]
        if not 1 <= track <= len(layouts) or layouts[track - 1] <= 1:
            return Source(track - 1)
    else:
        wanted = sorted(range(len(layouts)), key=lambda place: place != best)
        if layouts in ([0], [1]):
            return Source(0)
    found = [heard for place in wanted if layouts[place] for heard in listen(path, place)]
    if not found:
        return Source(best if track is None else track - 1)  # reading it says what is wrong
    source = pick(found).source
    if len(wanted) > 1:
        print(f"{path.name}: sound track {source.track + 1} of {len(layouts)} is heard")
    if source.channel is not None:
        print(
            f"{path.name}: channel {source.channel + 1} alone is heard: mixed with the others its "
            "speech is lost or less clear"
        )
    return source


def pick(found: Sequence[Heard]) -> Heard:
    """Choose among signals in order of preference: the first that carries the speech.

    One that has lost it, in length or in power, is passed over, and so is one from which a later
    signal's speech stands out far more clearly. Without any speech, power decides.
    """
    most = max(heard.spoken for heard in found)
    if most >= _LEAST_SPEECH:
        found = [heard for heard in found if heard.spoken >= _AS_MUCH * most]
    loudest = max(heard.power for heard in found)
    found = [heard for heard in found if heard.power >= _LOST * loudest]
    clearest = max(found, key=lambda heard: heard.clearness)
    if most >= _LEAST_SPEECH and clearest.clearness > found[0].clearness + _CLEARER:
        return clearest
    return found[0]


def listen(path: Path, track: int) -> list[Heard]:
    """Listen to the start of a track: its downmix, then its channels, the louder ones first.

    A track that cannot be read gives what could be read of it, possibly nothing.
    """
    import soxr  # noqa: PLC0415

    resampler, ears = None, []
    weight, seconds = 1.0, 0.0

    def signals_of(frame: "av.AudioFrame") -> np.ndarray:
        nonlocal weight
        channels = channels_of(frame)[:_MOST_CHANNELS]
        if len(channels) == 1:
            return channels
        weight = float(downmix_weights(c.name for c in frame.layout.channels).max())
        return np.concatenate([downmix(frame), channels])

    try:
        for signals, rate in decode(path, track, signals_of):
            if resampler is None:
                resampler = soxr.ResampleStream(rate, SAMPLE_RATE, len(signals), "float32", "HQ")
                ears = [_Ear() for _ in signals]
            if len(signals) != len(ears) or seconds > LISTENED:
                break
            seconds += signals.shape[1] / rate
            sound = np.clip(np.nan_to_num(signals.T), -1.0, 1.0)
            for ear, samples in zip(ears, resampler.resample_chunk(sound).T, strict=True):
                ear.push(samples)
    except InputError:
        pass  # said when it is read, if it is what is taken
    heard = [
        ear.result(Source(track, None if k == 0 else k - 1), 1.0 if k else weight)
        for k, ear in enumerate(ears)
    ]
    return heard[:1] + sorted(heard[1:], key=lambda one: -one.power)


class _Ear:
    """What listens to one signal."""

    def __init__(self) -> None:
        self._activity = VoiceActivity()
        self._rest = np.zeros(0, np.float32)
        self._speaks: list[np.ndarray] = []
        self._powers: list[np.ndarray] = []

    def push(self, samples: np.ndarray) -> None:
        self._speaks.append(self._activity.push(samples))
        samples = np.concatenate([self._rest, samples])
        count = len(samples) // CHUNK
        self._rest = samples[count * CHUNK :]
        chunks = samples[: count * CHUNK].reshape(count, CHUNK).astype(np.float64)
        self._powers.append(np.square(chunks).mean(1))

    def result(self, source: Source, weight: float) -> Heard:
        """Sum up; `weight` is what the loudest channel counts in this signal."""
        speaks = np.concatenate([np.zeros(0, np.float32), *self._speaks])
        powers = np.concatenate([np.zeros(0), *self._powers])
        is_speech, is_rest = speaks >= SPOKEN, speaks < _RESTING
        mean = lambda chosen: float(powers[chosen].mean()) if chosen.any() else 0.0
        spoken = float(is_speech.sum()) * CHUNK / SAMPLE_RATE
        power = mean(is_speech if spoken >= _LEAST_SPEECH else np.ones_like(is_speech))
        clearness = 0.0
        if spoken >= _LEAST_SPEECH and is_rest.sum() * CHUNK >= _LEAST_SPEECH * SAMPLE_RATE:
            rest = mean(is_rest)
            clearness = 10 * np.log10(max(power, _NOISE) / max(rest, _NOISE))
            power = max(power - rest, 0.0)
        return Heard(source, spoken, power / weight**2, float(clearness))
