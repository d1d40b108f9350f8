"""The table of look-ahead against r: the regression by hand, and its smallest run."""

import json

import numpy as np
import pytest

from egs_jax.data.dataset import Dataset
from egs_jax.runtime.errors import InputError
from egs_jax.speech.layout import Layout, layout_of
from experiments import look_ahead


def test_the_ridge_is_the_textbook_one():
    """Dual, with an intercept: the same as the normal equations of standardized windows."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 6)), rng.standard_normal((40, 2))
    train, test = np.arange(30), np.arange(30, 40)
    found = look_ahead.ridge(x @ x.T, y, train, test)
    mean, base = x[train].mean(0), y[train].mean(0)
    for k in (0, 6):
        a = x[train] - mean
        strength = look_ahead.STRENGTHS[k] * np.eye(6)
        weights = np.linalg.solve(a.T @ a + strength, a.T @ (y[train] - base))
        np.testing.assert_allclose(found[k], (x[test] - mean) @ weights + base, atol=1e-9)


def test_what_is_heard_is_told_and_what_is_not_heard_is_not():
    """A mouth that follows one feature `delay` rows before its sound."""
    rng, frames = np.random.default_rng(0), np.arange(400)
    rows = rng.standard_normal((800, 3)).astype(np.float32)
    layout = Layout(10, 0, 10, False, (0, 0), future_frames=0)  # rows to 2 i + 7
    for delay, hears in ((7, True), (8, False)):
        truth = rows[np.minimum(2 * frames + delay, 799)][:, :1]
        gram = look_ahead.window_gram(rows, frames, layout)
        held_out, crossed = look_ahead.correlations(gram, truth, frames[:300], frames[300:390])
        assert (held_out[0] > 0.8) == hears and (crossed[0] > 0.8) == hears


def test_the_smallest_run_and_a_dataset_laid_out_anew(performer_dataset, tmp_path):
    folder, made = str(performer_dataset.folder), tmp_path / "made"
    out = ["--out", str(tmp_path / "results"), "--tiny"]
    path = look_ahead.main([folder, "--kinds", "mel", *out])
    usual, sooner = json.loads(path.read_text("utf-8"))["cases"]
    assert usual["look_ahead_s"] == 0.45 and sooner["look_ahead_s"] <= 0.4
    assert 0 < usual["cpu_s_per_s_file"] and -1 <= sooner["r_opening"] <= 1
    look_ahead.main([folder, "--make", str(made), *out])
    before, after = Dataset.open(folder), Dataset.open(made)
    assert after.layout == layout_of("mel", 0.4) != before.layout
    assert len(after.arrays["audio_features"]) == len(before.arrays["audio_features"])
    with pytest.raises(InputError, match="is there already; name a new folder"):
        look_ahead.main([folder, "--make", str(made), *out])
