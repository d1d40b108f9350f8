"""One loudness for training and for speaking, and rest where nobody speaks."""

import functools
import itertools

import numpy as np
import pyloudnorm
import pytest
from helpers import tone
from scipy.signal import lfilter

from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.performer.voice import synthesize
from egs_jax.speech.features import FeatureStream, extract_features, silence_features
from egs_jax.speech.layout import layout_of
from egs_jax.speech.level import SPEECH_LOUDNESS, WEIGHTING, SpeechLevel, filtered, loudness
from egs_jax.speech.whisper import NETWORKS

HOP = layout_of("whisper").hop_samples


@functools.cache
def voice(seconds: float = 4.0, seed: int = 0) -> np.ndarray:
    return 0.5 * synthesize(seconds, seed).samples


def noise(seconds: float, volume: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (volume * rng.standard_normal(round(seconds * SAMPLE_RATE))).astype(np.float32)


def music(seconds: float) -> np.ndarray:
    """A chord struck twice a second."""
    time = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    chord = sum(np.sin(2 * np.pi * 220 * k * time) / k for k in (1, 1.25, 1.5, 2, 3))
    return np.tile(0.1 * chord * np.exp(-3 * time), round(2 * seconds)).astype(np.float32)


def heard(samples: np.ndarray) -> np.ndarray:
    return extract_features(samples, "mel", loudness=SPEECH_LOUDNESS)


def gains(samples: np.ndarray) -> np.ndarray:
    level, found = SpeechLevel(), []
    for start in range(0, len(samples) - HOP + 1, HOP):
        level.push(samples[start : start + HOP])
        found.append(20 * np.log10(level.gain()))
    return np.array(found)


def test_loudness_is_that_of_the_standard():
    """A full-scale sine of 997 Hz has -3.01 LUFS; halving takes 6.02 dB."""
    sine = tone(3, SAMPLE_RATE, 997.0)
    assert loudness(2 * sine) == pytest.approx(-3.01, abs=0.1)
    assert loudness(sine) == pytest.approx(loudness(2 * sine) - 6.02, abs=0.01)
    assert loudness(np.zeros(100)) == loudness(1e-5 * sine) == -np.inf
    assert np.isfinite(loudness(sine[:100]))  # shorter than a block


def test_the_gain_is_the_librarys_where_all_is_speech():
    """Over the last 10 s the causal meter agrees with the library's own."""
    sound = voice(9.0)
    level = SpeechLevel()
    for start in range(0, len(sound), HOP):
        level.push(sound[start : start + HOP])
    whole = pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(sound.astype(np.float64))
    assert 20 * np.log10(level.gain()) == pytest.approx(SPEECH_LOUDNESS - whole, abs=0.7)


def test_the_gain_settles_within_a_second_and_stays():
    found = gains(voice(8.0))
    assert np.abs(found[8:] - found[-1]).max() < 3.0
    assert np.abs(found[20:] - found[-1]).max() < 1.5


@pytest.mark.parametrize("decibels", [-24, -40, 6])
def test_quiet_and_loud_speech_are_heard_alike(decibels):
    """No matter how loud: the same features to rounding, where they were far apart before."""
    other = (10 ** (decibels / 20) * voice()).astype(np.float32)
    apart = lambda one, two: np.abs(one - two).mean() / one.std()
    assert apart(heard(voice()), heard(other)) < 1e-3
    assert apart(extract_features(voice(), "mel"), extract_features(other, "mel")) > 0.2


def test_another_speaker_s_level_is_taken_up():
    """The second half is 20 dB fainter: after the memory's 10 s it is heard as loud."""
    sound = np.concatenate([voice(3.0), 0.1 * voice(14.0, 1)])
    found = gains(sound)
    assert found[14] == pytest.approx(gains(voice(3.0))[-1], abs=1e-6)
    assert found[-1] - found[14] == pytest.approx(20, abs=2.5)


@pytest.mark.parametrize("before", ["music", "noise", "faint noise"])
def test_where_nobody_speaks_the_mouth_hears_silence(before):
    """Two seconds of it, then speech over it, then two seconds of it again."""
    bed = {"music": music(8), "noise": noise(8, 0.03), "faint noise": noise(8, 1e-3)}[before]
    sound = bed.copy()
    sound[2 * SAMPLE_RATE : 6 * SAMPLE_RATE] += voice()
    rows, hush = heard(sound), silence_features("mel", 400)
    silent = (rows == hush).all(1)
    assert silent[:95].mean() > 0.95 and silent[320:].mean() > 0.95
    assert silent[115:295].mean() < 0.35
    assert not (extract_features(sound, "mel") == hush)[:95].all(1).any()


def test_sound_without_speech_is_silence_and_silence_stays_silence():
    for sound in (music(2), noise(2, 0.1), np.zeros(32_000, np.float32)):
        np.testing.assert_array_equal(heard(sound), silence_features("mel", 100))


@pytest.mark.parametrize(
    "kind", ["mel", *(pytest.param(kind, marks=pytest.mark.slow) for kind in NETWORKS)]
)
def test_chunks_of_any_size_give_the_same_bits(kind):
    sound = np.concatenate([music(1), 0.5 * voice()[: 2 * SAMPLE_RATE], noise(0.37, 1e-3)])
    whole = extract_features(sound, kind, loudness=SPEECH_LOUDNESS)
    silent = (whole == silence_features(kind, len(whole))).all(1)
    assert silent[:45].all() and not silent[80:120].any()
    sizes = np.random.default_rng(0).integers(0, 9000 if kind == "mel" else 30_000, 60)
    stream = FeatureStream(kind, loudness=SPEECH_LOUDNESS)
    cuts = np.cumsum(sizes)
    rows = [stream.push(part) for part in np.split(sound, cuts[cuts < len(sound)])]
    np.testing.assert_array_equal(np.concatenate([*rows, stream.finish()]), whole)


@pytest.mark.parametrize("look_ahead", [None, 0.4])
def test_where_nobody_speaks_nothing_is_encoded(look_ahead):
    """And what is encoded later, at the first word, gives the rows of a stream that encodes all."""
    sound = np.concatenate([np.zeros(3 * SAMPLE_RATE, np.float32), voice(2.0), noise(3, 1e-3)])
    layout = layout_of("whisper", look_ahead)

    def listened(*, all_wanted: bool) -> tuple[np.ndarray, int]:
        stream, calls = FeatureStream("whisper", loudness=SPEECH_LOUDNESS, layout=layout), []
        program = stream.program
        stream.program = lambda windows: (calls.append(len(windows)), program(windows))[1]
        if all_wanted:
            stream.wanted = lambda window: [window]
        rows = [stream.push(part) for part in np.split(sound, 40)]
        return np.concatenate([*rows, stream.finish()]), sum(calls)

    (made, count), (wanted, most) = (listened(all_wanted=flag) for flag in (False, True))
    np.testing.assert_array_equal(made, wanted)
    spoken = 2.0 * SAMPLE_RATE / layout.hop_samples
    assert spoken <= count < 2 * spoken < most


def test_only_what_was_heard_counts():
    """What comes after a window cannot change its rows: mel looks 0.2 s ahead."""
    one, other = voice(6.0), voice(6.0).copy()
    other[4 * SAMPLE_RATE :] = noise(2, 0.5)
    np.testing.assert_array_equal(heard(one)[:188], heard(other)[:188])


def test_the_gate_by_hand():
    level = SpeechLevel()
    level._speaks.extend([False, True, False, False])  # speech from 0.032 to 0.064 s
    level._num_chunks = 4
    times = np.array([0.0, 0.04, 0.064 + 0.15, 0.064 + 0.225, 0.064 + 0.3, 2.0])
    np.testing.assert_allclose(level.openness(times), [1, 1, 1, 0.5, 0, 0], atol=1e-6)
    np.testing.assert_array_equal(SpeechLevel().openness(times), np.zeros(6))
    assert SpeechLevel().gain() == 1


def test_the_gate_is_as_open_as_the_nearest_speech_says():
    rng, wide = np.random.default_rng(0), 0
    for trial in range(200):
        level = SpeechLevel()
        kept = np.repeat(rng.random(4) < 0.6, 16) ^ (rng.random(64) < 0.05)
        level._speaks.extend(kept.tolist())
        level._num_chunks = first = 64 + trial
        times = (first - 64 + rng.integers(0, 54) + np.arange(10)) * 0.032 + rng.uniform(0, 0.032)
        ends = (first - 64 + np.arange(64)[kept])[None] * 0.032  # of speech, from each to 0.032
        away = np.maximum(ends - times[:, None], times[:, None] - ends - 0.032).min(axis=1)
        want = np.clip((0.3 - away) / 0.15, 0, 1)
        np.testing.assert_allclose(level.openness(times), want, atol=1e-5)
        wide += want.min() == 1
    assert 20 < wide < 180


def test_the_weighting_is_the_librarys():
    """And its filters give what SciPy's do, in pieces of any sizes the same bits."""
    found = [(tuple(f.b), tuple(f.a)) for f in pyloudnorm.Meter(SAMPLE_RATE)._filters.values()]
    assert tuple(found) == WEIGHTING
    sound = np.random.default_rng(0).normal(size=9_000)
    both = [np.convolve(*parts) for parts in zip(*WEIGHTING, strict=True)]
    for b, a in (*WEIGHTING, both):
        order = len(b) - 1
        whole, _ = filtered(b, a, sound, np.zeros((2, order)))
        np.testing.assert_allclose(whole, lfilter(b, a, sound), atol=1e-12)
        for sizes in ([1], [2, 3], [1600], [7, 640, 0, 3201]):
            before, parts, at = np.zeros((2, order)), [], 0
            for size in itertools.cycle(sizes):
                part, before = filtered(b, a, sound[at : at + size], before)
                parts.append(part)
                at += size
                if at >= len(sound):
                    break
            np.testing.assert_array_equal(np.concatenate(parts), whole)
