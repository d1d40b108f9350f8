"""What is used of all films, joined."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.preprocess import material
from egs_jax.speech.features import FRAME_SAMPLES
from egs_jax.speech.layout import layout_of


def test_silence_stays_in_step_with_the_numbers_of_its_rows(monkeypatch):
    """Of two silent films, whose features count up to their period, odd parts are used."""
    lengths, parts = (93, 110), ([(3, 40), (57, 93)], [(31, 109)])
    runs = [(0, 37), (37, 73), (73, 151)]
    films = SimpleNamespace(
        used=(0, 1),
        films=[SimpleNamespace(path=Path(f"{k}.mp4"), start=0) for k in range(2)],
        faces=[SimpleNamespace(valid=np.ones(n, bool)) for n in lengths],
        parts=parts,
        runs=runs,
        lag=lambda k: None,
    )
    hushed = [
        SimpleNamespace(samples=np.zeros(n * SAMPLE_RATE // FPS, np.float32)) for n in lengths
    ]

    layout = layout_of("mel")

    def count(samples, kind, loudness, layout):
        rows = np.arange(2 * len(samples) // FRAME_SAMPLES)
        return np.float32(rows % layout.hop_rows)[:, None]

    monkeypatch.setattr(material, "extract_features", count)
    sound = material.join_sound(films, hushed, "mel", layout)
    for part, used in zip(sound.stretches, [*parts[0], *parts[1]], strict=True):
        first, end = part.sound_rows
        assert np.array_equal(sound.features[first:end, 0], np.arange(first, end) % layout.hop_rows)
        assert (part.start, part.stop) in runs and part.film_start == used[0]
        assert first <= 2 * part.sound_frame and end >= 2 * (part.sound_frame + used[1] - used[0])
