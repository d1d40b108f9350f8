"""Strict flags for every test, and the one clip that tests of real data share."""

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
sys.path.insert(0, str(Path(__file__).parent))  # `helpers`: the importlib mode adds no paths


@pytest.fixture
def getkey():
    """Return a function that gives a fresh deterministic PRNG key at every call."""
    count = 0

    def next_key() -> jax.Array:
        nonlocal count
        count += 1
        return jax.random.key(count)

    return next_key


@dataclass(frozen=True)
class PerformerDataset:
    """A preprocessed clip of the synthetic performer (4 s, 192 px, mel features)."""

    video: Path
    folder: Path
    truth: object
    """The `egs_jax.performer.Performance`: what is known about every frame."""
    output: str
    """What preprocess printed."""


@pytest.fixture(scope="session")
def performer_dataset(tmp_path_factory) -> PerformerDataset:
    """Film the performer and preprocess the film, once for all tests; do not write into it."""
    from egs_jax.performer import write_performer_video
    from egs_jax.preprocess import preprocess

    home = tmp_path_factory.mktemp("performer")
    truth = write_performer_video(home / "performer.mp4", seconds=4.0, seed=0, size=192)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        preprocess(home / "performer.mp4", home / "dataset", audio_features="mel")
    return PerformerDataset(
        home / "performer.mp4", home / "dataset", truth, output=printed.getvalue()
    )
