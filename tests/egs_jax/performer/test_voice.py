"""The synthetic voice: same seed, same bits; the mouth belongs to the sound."""

import numpy as np
import pytest

from egs_jax.media.clock import FPS
from egs_jax.performer.voice import LEAD, synthesize

RATE = 16_000


@pytest.fixture(scope="module")
def speech():
    return synthesize(20.0, seed=3)


def _middle(speech, symbol, share=0.5):
    """Sound of the middle of every `symbol`, joined."""
    parts = []
    for name, start, stop in speech.phonemes:
        if name == symbol:
            middle, half = (start + stop) / 2, share * (stop - start) / 2
            parts.append(speech.samples[int((middle - half) * RATE) : int((middle + half) * RATE)])
    return np.concatenate(parts)


def _band_share(samples, low, high):
    """Share of the energy between two frequencies [Hz]."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    frequency = np.fft.rfftfreq(len(samples), 1 / RATE)
    return power[(frequency >= low) & (frequency < high)].sum() / power.sum()


def test_same_seed_same_bits(speech):
    again = synthesize(20.0, seed=3)
    assert np.array_equal(speech.samples, again.samples)
    assert np.array_equal(speech.mouth_opening, again.mouth_opening)
    assert speech.phonemes == again.phonemes
    assert not np.array_equal(speech.samples, synthesize(20.0, seed=4).samples)


def test_shapes_and_ranges(speech):
    assert speech.samples.shape == (20 * RATE,) and speech.samples.dtype == np.float32
    assert speech.mouth_opening.shape == speech.rounding.shape == (20 * FPS,)
    assert 0.2 < np.abs(speech.samples).max() <= 1
    assert speech.mouth_opening.min() >= 0 and 0.8 < speech.mouth_opening.max() <= 1
    assert synthesize(1.0, 0, sample_rate=24_000).samples.shape == (24_000,)


def test_silence_at_both_ends_and_in_pauses(speech):
    assert np.abs(speech.samples[: RATE // 10]).max() < 1e-3
    assert np.abs(speech.samples[-RATE // 10 :]).max() < 1e-3
    gaps = [(a[2], b[1]) for a, b in zip(speech.phonemes, speech.phonemes[1:], strict=False)]
    pauses = [(start, stop) for start, stop in gaps if stop - start > 0.05]
    assert len(pauses) >= 3
    for start, stop in pauses:
        assert 0.29 < stop - start < 0.81
        inside = speech.samples[int((start + 0.08) * RATE) : int((stop - 0.08) * RATE)]
        assert np.sqrt(np.mean(inside**2)) < 2e-3
        assert speech.mouth_opening[int((start + stop) / 2 * FPS)] < 0.1


def test_syllables_come_at_the_pace_of_speech(speech):
    vowels = [p for p in speech.phonemes if p[0] in "aeiouA@"]
    talking = sum(stop - start for _, start, stop in speech.phonemes)
    assert 3.3 < len(vowels) / talking < 5.5


def test_mouth_follows_the_sound(speech):
    energy = np.sqrt((speech.samples.reshape(-1, RATE // FPS) ** 2).mean(axis=1))
    lead = round(LEAD * FPS)
    assert np.corrcoef(energy[lead:], speech.mouth_opening[:-lead])[0, 1] > 0.55


def test_mouth_follows_the_phonemes(speech):
    def mean(track, symbol):
        at = [(start + stop) / 2 for name, start, stop in speech.phonemes if name == symbol]
        return np.interp(np.array(at) - LEAD, np.arange(len(track)) / FPS, track).mean()

    assert mean(speech.mouth_opening, "a") > mean(speech.mouth_opening, "e") + 0.15
    assert mean(speech.mouth_opening, "e") > mean(speech.mouth_opening, "m") + 0.15
    assert mean(speech.rounding, "u") > mean(speech.rounding, "i") + 0.4


def test_vowels_have_their_formants(speech):
    # First formant: 860 Hz in "a", 340 Hz in "i"; the second of "i" lies near 2550 Hz.
    assert _band_share(_middle(speech, "a"), 650, 1500) > 2 * _band_share(
        _middle(speech, "i"), 650, 1500
    )
    assert _band_share(_middle(speech, "i"), 2000, 3300) > 3 * _band_share(
        _middle(speech, "u"), 2000, 3300
    )


def test_fricatives_hiss_and_vowels_do_not(speech):
    assert _band_share(_middle(speech, "s"), 3500, 8000) > 0.5
    assert _band_share(_middle(speech, "a"), 3500, 8000) < 0.05


@pytest.mark.parametrize(("seconds", "rate"), [(0.5, 16_000), (2.0, 4000)])
def test_refuses_too_little(seconds, rate):
    with pytest.raises(ValueError, match="seconds, sample_rate: expected"):
        synthesize(seconds, 0, rate)
