"""Several sounds are judged as each of them alone: in NumPy the same bits, on a device nearly."""

import numpy as np
import pytest

from egs_jax.media.voice_activity import VoiceActivity, judge
from egs_jax.performer.voice import synthesize
from egs_jax.speech.voice_on_device import run_on_device


@pytest.mark.parametrize("run", [None, run_on_device])
def test_several_sounds_are_judged_as_each_alone(run):
    """Of different lengths, some without a whole chunk, one silent; over several calls."""
    sounds = [0.5 * synthesize(1.5, seed).samples for seed in range(3)] + [np.zeros(24_000, "f4")]
    together, apart = ([VoiceActivity() for _ in sounds] for _ in range(2))
    spoken = 0
    for at, sizes in ((0, (3200, 700, 100, 3200)), (6600, (6600, 3200, 511, 0))):
        parts = [sound[at : at + size] for sound, size in zip(sounds, sizes, strict=True)]
        found = judge(together, parts, run)
        for alone, part, got in zip(apart, parts, found, strict=True):
            want = alone.push(part)
            np.testing.assert_allclose(got, want, atol=0 if run is None else 1e-5)
            assert got.shape == want.shape and not np.isnan(got).any()
            spoken += (got > 0.5).sum()
    assert spoken > 5
