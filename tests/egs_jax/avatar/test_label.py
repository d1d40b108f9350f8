"""The mark that a picture is synthetic: legible, in its corner, opaque over nothing."""

import numpy as np
import pytest

from egs_jax.avatar.label import DIGITAL_SOURCE, labeled, marked, synthetic
from egs_jax.avatar.look import Look


@pytest.mark.parametrize("shape", [(96, 96), (256, 256), (450, 450), (1080, 1920), (64, 2000)])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_the_mark_is_legible_over_anything_and_changes_its_corner_alone(shape, level):
    picture = np.full((*shape, 3), level, np.uint8)
    made = marked(picture)
    changed = np.argwhere((made != picture).any(axis=2))
    assert (picture == level).all() and made.dtype == np.uint8
    top, right = changed[:, 0].min(), changed[:, 1].max()
    assert top > shape[0] * 0.7 and right < shape[1]
    corner = made[top:, : right + 1].astype(int)
    assert corner.max() > 240 and corner.max() - np.median(corner) > 90


def test_the_mark_is_seen_over_nothing():
    """Drawn over black with its opacity, it is over any background what it is there."""
    rng = np.random.default_rng(0)
    rgb, alpha = (
        rng.integers(0, 100, (96, 96, 3), np.uint8),
        rng.integers(100, 255, (96, 96), np.uint8),
    )
    made, opacity = labeled(Look(label=True), rgb, alpha)
    room = rng.integers(0, 255, (96, 96, 3), np.uint8)
    over = lambda part, share: part + room * (1 - share[..., None] / 255.0)
    want = marked(np.rint(np.clip(over(rgb, alpha), 0, 255)).astype(np.uint8)).astype(float)
    inside = over(rgb, alpha).max(axis=2) < 255
    assert np.abs(over(made, opacity) - want)[inside].max() < 2.5
    assert labeled(Look(), rgb, alpha)[0] is rgb


def test_files_say_that_and_by_what_they_were_made():
    words = synthetic()
    assert words.startswith("Synthetic") and "egs-jax" in words and DIGITAL_SOURCE in words
    assert "\n" not in words
