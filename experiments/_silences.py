"""Sound without a voice, made up: digital silence, room noise, music; 16 kHz, float32 [S]."""

import numpy as np
from scipy.signal import butter, sosfilt

from egs_jax.media.clock import SAMPLE_RATE

ROOM_DB = -60.0
"""Level of the room noise [dB of full scale, rms]."""
MUSIC_DB = -18.0
"""Level of the music, as that of speech in films."""
_BEAT = 0.5  # s
_CHORDS = ((48, 52, 55, 60), (43, 47, 50, 59), (45, 48, 52, 60), (41, 45, 48, 57))
# MIDI numbers of C, G, A minor and F, two beats each
_HARMONICS = 8


def silence(seconds: float) -> np.ndarray:
    """Return digital silence."""
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def room_noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Return the hiss of a quiet room: noise below 2 kHz."""
    white = np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE))
    return _at_level(sosfilt(butter(1, 2000, fs=SAMPLE_RATE, output="sos"), white), ROOM_DB)


def music(seconds: float, seed: int = 0) -> np.ndarray:
    """Return chords of plucked strings over kick, snare and hi-hat, 120 beats a minute."""
    rng, count = np.random.default_rng(seed), round(seconds * SAMPLE_RATE)
    sound = np.zeros(count + 4 * SAMPLE_RATE)
    for beat in range(int(np.ceil(seconds / _BEAT))):
        if beat % 2 == 0:
            for note in _CHORDS[beat // 2 % len(_CHORDS)]:
                _add(sound, _string(note), beat * _BEAT, 0.25)
        _add(sound, _snare(rng) if beat % 2 else _kick(), beat * _BEAT, 0.8)
        for half in (0.0, 0.5):
            _add(sound, _hat(rng), (beat + half) * _BEAT, 0.2)
    return _at_level(sound[:count], MUSIC_DB)


SOUNDS = {"silence": silence, "room noise": room_noise, "music": music}


def _at_level(sound: np.ndarray, decibels: float) -> np.ndarray:
    return (sound * 10 ** (decibels / 20) / np.sqrt(np.mean(np.square(sound)))).astype(np.float32)


def _add(sound: np.ndarray, part: np.ndarray, seconds: float, gain: float) -> None:
    start = round(seconds * SAMPLE_RATE)
    sound[start : start + len(part)] += gain * part


def _time(seconds: float) -> np.ndarray:
    return np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def _string(note: int) -> np.ndarray:
    """Harmonics of a note, the higher the sooner gone."""
    time, pitch = _time(1.5), 440.0 * 2 ** ((note - 69) / 12)
    parts = [np.sin(2 * np.pi * k * pitch * time) * np.exp(-(1 + 0.5 * k) * time) / k
             for k in range(1, _HARMONICS + 1)]  # fmt: skip
    return np.sum(parts, axis=0) * np.minimum(time / 0.005, 1)


def _kick() -> np.ndarray:
    """A tone that falls from 120 to 45 Hz."""
    time = _time(0.3)
    phase = 45 * time + 75 * 0.04 * (1 - np.exp(-time / 0.04))
    return np.sin(2 * np.pi * phase) * np.exp(-time / 0.08)


def _snare(rng: np.random.Generator) -> np.ndarray:
    time = _time(0.2)
    hiss = sosfilt(butter(2, (800, 6000), "bandpass", fs=SAMPLE_RATE, output="sos"),
                   rng.standard_normal(len(time)))  # fmt: skip
    return (0.5 * np.sin(2 * np.pi * 190 * time) + hiss) * np.exp(-time / 0.05)


def _hat(rng: np.random.Generator) -> np.ndarray:
    time = _time(0.06)
    filters = butter(2, 6000, "highpass", fs=SAMPLE_RATE, output="sos")
    return sosfilt(filters, rng.standard_normal(len(time))) * np.exp(-time / 0.015)
