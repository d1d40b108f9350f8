"""Sound for a page: what comes back is what went in, at its time."""

import numpy as np
from helpers import speech, tone

from egs_jax.media.audio_file import read_audio
from egs_jax.media.sound_encoder import BIT_RATE, encoded_sound


def test_encoded_sound_is_the_same_at_the_same_time(tmp_path, rate=16_000):
    sound = tone(2.0, rate) * np.repeat(speech(0.02), 100)[:32_000] * 5
    sound = np.clip(sound, -1, 1).astype(np.float32)
    data = encoded_sound(np.array_split(sound, 7), rate)
    assert len(data) < BIT_RATE / 8 * 2.0 * 1.3 + 2000
    path = tmp_path / "sound.m4a"
    path.write_bytes(data)
    back = read_audio(path)
    assert abs(len(back) - len(sound)) <= 0.03 * rate
    size = min(len(back), len(sound))
    lags = range(-40, 41)
    fits = [np.corrcoef(np.roll(back[:size], -lag)[100:-100], sound[:size][100:-100])[0, 1]
            for lag in lags]  # fmt: skip
    assert max(fits) > 0.95 and abs(lags[int(np.argmax(fits))]) <= 16  # 1 ms


def test_no_sound_at_all_is_a_file_too():
    assert len(encoded_sound([np.zeros(160, np.float32)], 16_000)) > 100
