"""Metrics: numbers by hand, scikit-image's SSIM, known lags, and what is null."""

import json

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from egs_jax.evaluation import metrics


def frames(seed: int, shape=(3, 24, 31, 3)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def test_psnr_by_hand():
    a = np.zeros((2, 4, 5, 3), np.float32)
    b = a.copy()
    b[0] += 0.1
    np.testing.assert_allclose(metrics.psnr(a, b), [20.0, np.inf], rtol=1e-6)


def test_masked_and_rectangle_psnr_see_only_their_pixels():
    a, b = frames(0), frames(1)
    mask = np.zeros((3, 24, 31), bool)
    mask[0, 3:9, 5:11] = True
    mask[1] = True
    rects = np.array([[3, 9, 5, 11], [-4, 99, 0, 31], [7, 7, 0, 5]])
    inside = -10 * np.log10(np.mean((a[0, 3:9, 5:11] - b[0, 3:9, 5:11]) ** 2))
    expected = [inside, metrics.psnr(a, b)[1], np.nan]
    np.testing.assert_allclose(metrics.psnr_masked(a, b, mask), expected, rtol=1e-6)
    np.testing.assert_allclose(metrics.psnr_rect(a, b, rects), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 24, 31, 3), (1, 11, 40, 3)])
def test_ssim_equals_scikit_image(shape):
    a = frames(2, shape)
    b = np.clip(0.7 * a + 0.3 * frames(3, shape), 0, 1)
    b[0, :, :12] = 0.5  # a flat part, where variances vanish
    expected = [
        structural_similarity(
            x, y, channel_axis=-1, data_range=1.0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )
        for x, y in zip(a.astype(np.float64), b.astype(np.float64), strict=True)
    ]  # fmt: skip
    np.testing.assert_allclose(metrics.ssim(a, b), expected, atol=1e-9)
    np.testing.assert_allclose(metrics.ssim(a, a), 1.0, atol=1e-12)


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(ValueError, match="at least 11, got 10"):
        metrics.ssim(frames(0, (1, 10, 20, 3)), frames(1, (1, 10, 20, 3)))


def test_mouth_landmark_distance_ignores_where_the_head_is():
    rng = np.random.default_rng(4)
    true = rng.random((3, 478, 3)).astype(np.float32) * 100
    rendered = true + np.array([5.0, -7.0, 9.0], np.float32)
    np.testing.assert_allclose(metrics.lmd(rendered, true), 0, atol=1e-4)
    # Half of the mouth 3 px up and 4 px right, half as much down and left: 5 px each.
    mouth = np.array(metrics.MOUTH_LANDMARKS)
    rendered[1, mouth[::2], :2] += np.array([4.0, -3.0])
    rendered[1, mouth[1::2], :2] -= np.array([4.0, -3.0])
    rendered[2] = np.nan
    np.testing.assert_allclose(metrics.lmd(rendered, true), [0, 5, np.nan], atol=1e-4)
    assert len(set(metrics.MOUTH_LANDMARKS)) == 40


def test_correlation():
    x = np.random.default_rng(5).random(50)
    assert metrics.correlation(x, 3 * x + 1) == (pytest.approx(1.0), None)
    assert metrics.correlation(x, -x).value == pytest.approx(-1.0)
    y = np.random.default_rng(6).random(50)
    assert metrics.correlation(x, y).value == pytest.approx(np.corrcoef(x, y)[0, 1])
    gaps = x.copy()
    gaps[[3, 8]] = np.nan
    figure = metrics.correlation(gaps, y)
    keep = np.isfinite(gaps)
    assert figure.value == pytest.approx(np.corrcoef(x[keep], y[keep])[0, 1])
    assert figure.note == "2 of 50 frames left out: no face found"


def test_gain_is_the_ratio_of_the_movements():
    x = np.array([1.0, 3.0, 2.0, 5.0])
    assert metrics.gain(0.5 * x + 7, x) == (pytest.approx(0.5), None)
    assert metrics.gain(x[[1, 0, 3, 2]], x).value == pytest.approx(1)  # whenever it moves
    rendered = np.array([4.0, np.nan, 0.0, 2.0])
    by_hand = np.std([4, 0, 2]) / np.std([1, 2, 5])
    assert metrics.gain(rendered, x).value == pytest.approx(by_hand)
    assert metrics.gain(rendered, x).note == "1 of 4 frames left out: no face found"
    assert metrics.gain(x, np.ones(4)) == (None, "the true signal does not vary")


def test_correlation_that_cannot_be_computed_is_null_with_its_reason():
    x = np.random.default_rng(7).random(20)
    assert metrics.correlation(np.full(20, 0.3), x) == (None, "the rendered signal does not vary")
    assert metrics.correlation(x, np.zeros(20)) == (None, "the true signal does not vary")
    assert metrics.correlation(np.full(20, np.nan), x).value is None


def test_shift_offsets_stay_a_second_away():
    offsets = metrics.shift_offsets(136, 25)
    assert len(offsets) == len(set(offsets)) == 50
    assert offsets.min() >= 25 and 136 - offsets.max() >= 25
    np.testing.assert_array_equal(metrics.shift_offsets(52, 25), [25, 26, 27])
    assert len(metrics.shift_offsets(49, 25)) == 0


def test_shift_percentile():
    rng = np.random.default_rng(8)
    true, runs = rng.random(40), rng.random((60, 40))
    by_hand = np.percentile([np.corrcoef(run, true)[0, 1] for run in runs], 95)
    assert metrics.shift_percentile(runs, true).value == pytest.approx(by_hand)
    few = metrics.shift_percentile(runs[:49], true)
    assert few == (None, "49 shifted runs have a value; 50 are needed")


def test_silence_percentile():
    spoken = np.array([0.1, 0.2, 0.3, 0.4, np.nan])
    assert metrics.silence_percentile(np.array([0.05]), spoken).value == 0
    assert metrics.silence_percentile(np.array([0.1, 0.25, 0.9]), spoken).value == 50
    assert metrics.silence_percentile(np.array([0.2]), spoken).value == pytest.approx(37.5)
    assert metrics.silence_percentile(np.array([np.nan]), spoken).value is None


def test_sound_energy_is_that_around_the_frame():
    audio = np.zeros(16000, np.float32)
    audio[16000 * 3 // 25 - 320 : 16000 * 3 // 25 + 320] = 0.1  # around frame 3
    energy = metrics.sound_energy(audio, 16000, 27, 25.0)
    expected = np.full(27, -60.0)
    expected[3] = -20.0
    np.testing.assert_allclose(energy, expected, atol=1e-5)


@pytest.mark.parametrize("lag", [-15, -4, 0, 3, 15])
def test_sync_lag_is_positive_when_the_mouth_is_late(lag):
    rng = np.random.default_rng(9)
    sound = np.convolve(rng.random(240), np.ones(5) / 5, "same")
    mouth = sound[20 - lag : 220 - lag] * 0.4 + 0.02 * rng.random(200)
    found, confidence = metrics.sync_lag(mouth, sound[20:220])
    assert found == (lag, None)
    assert confidence.value > 0.5


def test_sync_confidence_of_strangers_is_low_and_short_clips_are_null():
    rng = np.random.default_rng(10)
    _, confidence = metrics.sync_lag(rng.random(500), rng.random(500))
    assert 0 <= confidence.value < 0.25
    lag, confidence = metrics.sync_lag(rng.random(40), rng.random(40))
    assert lag == confidence == (None, "40 frames are too few for lags up to 15; 45 needed")
    lag, _ = metrics.sync_lag(np.ones(100), rng.random(100))
    assert lag == (None, "the mouth signal does not vary")


def test_mean_figure_says_what_it_left_out():
    values = np.array([20.0, np.inf, 30.0, np.nan])
    figure = metrics.mean_figure(values, "no head")
    assert figure == (25.0, "2 of 4 frames left out: no head")
    assert metrics.mean_figure(values[:1], "no head") == (20.0, None)
    assert metrics.mean_figure(values[3:], "no head") == (None, "no head in all 1 frames")
    assert metrics.mean_figure(values[:0], "no head").value is None


def test_report_is_json_and_refuses_silent_gaps():
    values, notes = metrics.report(
        {"psnr": metrics.Figure(20.0), "lmd": metrics.Figure(None, "no face found")}
    )
    assert json.dumps(values, allow_nan=False) == '{"psnr": 20.0, "lmd": null}'
    assert notes == {"lmd": "no face found"}
    for bad in (metrics.Figure(float("nan")), metrics.Figure(None)):
        with pytest.raises(ValueError, match="lmd: expected a finite value or None with a reason"):
            metrics.report({"lmd": bad})
