"""Lips told from sound: unseen blocks are told as by refits, amplitude is kept, silence rests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egs_jax.speech import lips
from egs_jax.speech.frame_windows import feature_windows
from egs_jax.speech.lips import FITTED_WINDOW, READ_ROWS, RIDGES, fit_lips, fit_prior, read

F = 5
REST = np.array([-1.5, 0.5], np.float32)
HUSH = np.full((10, F), -9, np.float32)
KERNEL = np.random.default_rng(3).normal(size=(READ_ROWS * F, 2))


def clip(count, seed, noise=1.0, kernel=KERNEL):
    """Sound, and lips of mean 0 and deviation 1 that it tells, but for as much noise."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, READ_ROWS, F)).astype(np.float32)
    told = rows.reshape(count, -1) @ kernel / np.linalg.norm(kernel, axis=0)
    shapes = (told + noise * rng.normal(size=told.shape)) / np.hypot(1, noise)
    return rows, shapes.astype(np.float32)


def correlation(a, b):
    return [np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T, strict=True)]


def test_blocks_are_told_as_if_they_had_not_been_fitted_on():
    rng = np.random.default_rng(0)
    for count, wide in ((170, 30), (170, 400)):  # fewer, and more numbers than frames
        inputs, wanted = rng.normal(size=(count, wide)) + 3, rng.normal(size=(count, 2)) - 1
        ridge, size = lips._Ridge(inputs), 0.3
        told = ridge.left_out(wanted, size)
        held = size * np.square(inputs - inputs.mean(axis=0)).sum() / count
        for first, stop in ((0, 56), (56, 113), (113, 170)):
            # By hand, with a bias that is not held back and all weights that are.
            kept = np.r_[:first, stop:count]
            ones = lambda values: np.hstack([values, np.ones((len(values), 1))])
            x = ones(inputs[kept] - inputs.mean(axis=0))
            back = held * np.diag(np.r_[np.ones(wide), 0])
            weights = np.linalg.solve(x.T @ x + back, x.T @ wanted[kept])
            by_hand = ones(inputs[first:stop] - inputs.mean(axis=0)) @ weights
            np.testing.assert_allclose(told[first:stop], by_hand, atol=1e-8)


def test_new_sound_is_told_as_wide_as_the_lips_are():
    """A regression alone would tell 0.7 of it, the share that sound explains."""
    (rows, shapes), (heard, true) = clip(1500, 0), clip(600, 1)
    fitted = fit_lips(rows, shapes, HUSH, REST)
    told = read(fitted.reader, heard)
    assert min(correlation(told, true)) > 0.6
    np.testing.assert_allclose(told.std(axis=0) / true.std(axis=0), 1, atol=0.1)
    # What training is told of its own frames is no better than what is told of others.
    np.testing.assert_allclose(correlation(fitted.told, shapes), correlation(told, true), atol=0.08)
    np.testing.assert_allclose(fitted.told.std(axis=0), 1, atol=0.05)
    assert set(fitted.ridge) <= set(RIDGES) and not fitted.prior_share.any()


def test_lips_rest_in_silence_and_in_silence_alone():
    rows, shapes = clip(300, 0)
    reader = fit_lips(rows, shapes, HUSH, REST).reader
    silence = np.tile(HUSH[:1], (READ_ROWS, 1))
    ending = np.concatenate([silence[:-1], rows[0, -1:]])
    told = read(reader, np.stack([silence, ending, rows[0]]))
    np.testing.assert_allclose(told[0], REST, atol=1e-6)
    assert np.abs(told[1:] - REST).min() > 0.01


def test_arrays_of_jax_are_read_alike():
    rows, shapes = clip(200, 0)
    reader = fit_lips(rows, shapes, HUSH, REST).reader
    on_device = jax.jit(read)(jax.tree.map(jnp.asarray, reader), jnp.asarray(rows))
    np.testing.assert_allclose(on_device, read(reader, rows), atol=2e-4)


def test_other_peoples_lips_help_where_they_are_alike_and_do_no_harm_where_not():
    own, new = clip(130, 0), clip(600, 1)
    score = lambda prior: np.mean(
        correlation(read(fit_lips(*own, HUSH, REST, prior).reader, new[0]), new[1])
    )
    alone = score(None)
    alike = fit_prior([clip(500, 2), clip(500, 3)])
    assert score(alike) > alone + 0.1
    against = fit_lips(*own, HUSH, REST, -alike)
    assert not against.prior_share.any() and score(-alike) == pytest.approx(alone)


def test_rows_around_a_frame_are_read_from_windows_of_any_length():
    rows = np.arange(200, dtype=np.float32)[:, None]
    for count in (FITTED_WINDOW, 8, 11):
        windows = feature_windows(rows, HUSH[:, :1], np.array([30, 40]), count)
        want = np.arange(60 - READ_ROWS // 2, 60 + READ_ROWS // 2)
        for cut in (lips.read_rows(windows), lips.read_rows(jnp.asarray(windows))):
            np.testing.assert_array_equal(cut[:, :, 0], [want, want + 20])
    with pytest.raises(ValueError, match="window_frames"):
        lips.read_rows(windows[:, :4])
    with pytest.raises(ValueError, match="at least 3 frames"):
        fit_lips(*clip(2, 0), HUSH, REST)
