"""Another microphone's sound on the film's clock: offsets, drift, gaps, and what fits nowhere."""

import functools
from pathlib import Path

import numpy as np
import pytest
import soxr
from scipy.signal import butter, fftconvolve, lfilter

from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.performer.voice import synthesize
from egs_jax.preprocess.microphone import onsets, place, synchronized
from egs_jax.runtime.errors import InputError

SECONDS = 40
HALF_FRAME = 0.02


@functools.cache
def speech(seconds: float, seed: int) -> np.ndarray:
    return 0.5 * synthesize(float(seconds), seed).samples


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    return speech(SECONDS, 0)


@pytest.fixture(scope="module")
def others() -> np.ndarray:
    """What was said before the film: another 25 s, over and over, never twice as loud."""
    part = speech(25, 9)
    return np.concatenate([volume * part for volume in (1.0, 0.7, 0.4, 0.9, 0.5)])


@pytest.fixture(scope="module")
def film(voice) -> np.ndarray:
    """What a camera hears: a room, a small microphone, hiss."""
    rng = np.random.default_rng(0)
    echoes = rng.standard_normal(4000) * np.exp(-np.arange(4000) / 800) * 0.1
    echoes[0] = 1.0
    sound = lfilter(*butter(2, [300, 3000], "band", fs=SAMPLE_RATE), fftconvolve(voice, echoes))
    return (sound[: len(voice)] + 0.01 * rng.standard_normal(len(voice))).astype(np.float32)


@pytest.mark.parametrize("offset", [110.0, 12.34, 0.0, -0.75, -9.5])
def test_an_offset_over_minutes_is_found(voice, film, others, offset, capsys):
    samples = round(abs(offset) * SAMPLE_RATE)
    if offset >= 0:
        recording = np.concatenate([others[:samples], voice, others[:8000]])
    else:
        recording = voice[samples:]
    found = place(film, 0.3 * recording)
    assert abs(found.offset - offset) < HALF_FRAME and abs(found.drift) * SECONDS < HALF_FRAME
    sound, exact = synchronized(film, 0.3 * recording, Path("mic.wav"), Path("film.mp4"))
    assert exact.offset == pytest.approx(offset, abs=2 / SAMPLE_RATE)
    assert len(sound) == len(film) and sound.dtype == np.float32
    at = slice(10 * SAMPLE_RATE, 20 * SAMPLE_RATE)
    assert np.corrcoef(sound[at], voice[at])[0, 1] > 0.9
    told = capsys.readouterr().out
    order = "before" if offset >= 0 else "after"
    assert told.startswith(f"mic.wav: begins {abs(offset):.2f} s {order} film.mp4")
    assert ("does not cover" in told) == (offset < -0.5)


def test_what_the_recording_misses_is_the_film_s_own_sound(voice, film):
    recording = 0.3 * voice[5 * SAMPLE_RATE :]
    sound, _ = synchronized(film, recording, Path("mic.wav"), Path("film.mp4"))
    own, rest = slice(0, 4 * SAMPLE_RATE), slice(6 * SAMPLE_RATE, None)
    assert np.corrcoef(sound[own], film[own])[0, 1] > 0.999
    level = lambda x: np.sqrt(np.mean(np.square(x)))
    assert level(sound[own]) == pytest.approx(level(sound[rest]), rel=0.4)


@pytest.mark.parametrize("seconds", [3, 6])
def test_a_short_film_finds_its_place_too(voice, film, others, seconds):
    """And not where it is not said."""
    at = slice(8 * SAMPLE_RATE, (8 + seconds) * SAMPLE_RATE)
    recording = np.concatenate([others[: 30 * SAMPLE_RATE], voice])
    sound, found = synchronized(film[at], recording, Path("mic.wav"), Path("film.mp4"))
    assert found.offset == pytest.approx(38, abs=2 / SAMPLE_RATE) and found.drift == 0
    np.testing.assert_allclose(sound, voice[at], atol=0.3)
    assert place(film[at], others) is None


@pytest.mark.parametrize("drift", [1e-3, -2e-3])
def test_clocks_that_drift_are_brought_together(voice, film, drift, capsys):
    recording = soxr.resample(voice, SAMPLE_RATE, SAMPLE_RATE * (1 + drift))
    recording = np.concatenate([np.zeros(3 * SAMPLE_RATE, np.float32), recording])
    found = place(film, recording)
    assert found.drift == pytest.approx(drift, abs=2e-4)
    sound, _ = synchronized(film, recording, Path("mic.wav"), Path("film.mp4"))
    assert "its clock drifts" in capsys.readouterr().out
    for second in (2, SECONDS - 8):
        at = slice(second * SAMPLE_RATE, (second + 6) * SAMPLE_RATE)
        shifts = range(-960, 961, 16)
        size = [np.dot(sound[at], np.roll(voice, k)[at]) for k in shifts]
        assert abs(shifts[int(np.argmax(size))]) <= HALF_FRAME * SAMPLE_RATE


@pytest.mark.parametrize(
    "kind", ["another speech", "noise", "silence", "short", "cut in the middle", "cut near its end"]
)
def test_what_fits_nowhere_is_refused(voice, film, others, kind):
    recording = {
        "another speech": others,
        "noise": np.random.default_rng(1).standard_normal(50 * SAMPLE_RATE).astype(np.float32),
        "silence": np.zeros(50 * SAMPLE_RATE, np.float32),
        "short": voice[:SAMPLE_RATE],
        "cut in the middle": np.concatenate([voice[: 19 * SAMPLE_RATE], voice[23 * SAMPLE_RATE :]]),
        "cut near its end": np.concatenate([voice[: 25 * SAMPLE_RATE], voice[26 * SAMPLE_RATE :]]),
    }[kind]
    with pytest.raises(InputError, match=r"mic.wav: fits nowhere to the sound of film.mp4"):
        synchronized(film, recording, Path("mic.wav"), Path("film.mp4"))


@pytest.mark.parametrize(("seconds", "start"), [(40, 10), (20, 0)])
def test_a_recording_of_a_small_part_is_refused(voice, film, seconds, start):
    part = voice[start * SAMPLE_RATE : (start + 2 * seconds // 5) * SAMPLE_RATE]
    covered = rf"mic.wav: covers {2 * seconds // 5} of the {seconds} s of film.mp4"
    with pytest.raises(InputError, match=covered):
        synchronized(film[: seconds * SAMPLE_RATE], part, Path("mic.wav"), Path("film.mp4"))


def test_a_recording_that_stops_early_need_not_be_longer_than_a_piece(voice, film):
    """It begins with the film and has little more than half of it."""
    sound, found = synchronized(
        film[: 16 * SAMPLE_RATE], voice[: 9 * SAMPLE_RATE], Path("mic.wav"), Path("film.mp4")
    )
    assert found.offset == pytest.approx(0, abs=2 / SAMPLE_RATE)
    assert np.corrcoef(sound[: 9 * SAMPLE_RATE], voice[: 9 * SAMPLE_RATE])[0, 1] > 0.9


def test_onsets_are_where_sound_begins():
    click = np.zeros(4 * SAMPLE_RATE, np.float32)
    click[2 * SAMPLE_RATE : 2 * SAMPLE_RATE + 800] = 0.5 * np.sin(np.arange(800) / 3)
    assert np.abs(onsets(click).sum(0).argmax() / 100 - 2.0) < 0.015
