"""Evaluation of a tiny run of the performer: every promised figure, or null and why."""

import json
import math
import shutil

import numpy as np
import pytest
from helpers import SIZE

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import to_uint8
from egs_jax.data.dataset import Dataset
from egs_jax.evaluation import evaluate, metrics
from egs_jax.evaluation.baselines import MeanFrame, NearestFrame
from egs_jax.face.landmarks import FaceLandmarker

KEYS = (
    "split frames width height head_fraction psnr psnr_head psnr_lips psnr_frame "
    "baseline_mean_frame baseline_nearest_frame ssim lpips lmd mouth_r mouth_r_shift_p95 "
    "mouth_silence_percentile sync_lag_frames sync_conf jitter_px blink_r num_gaussians "
    "render_fps device notes"
).split()


@pytest.fixture(scope="module")
def run_dir(series, tmp_path_factory):
    return shutil.copytree(series.run, tmp_path_factory.mktemp("performer") / "run")


@pytest.fixture(scope="module")
def result(run_dir):
    return evaluate.evaluate(run_dir)


def test_eval_json_has_the_promised_keys_and_reasons_for_nulls(result, run_dir, performer_dataset):
    stored = json.loads((run_dir / "eval.json").read_text())
    assert stored == result and set(stored) == set(KEYS)
    start, stop = json.loads((performer_dataset.folder / "meta.json").read_text())["splits"]["val"]
    assert stored["split"] == "val" and stored["frames"] == stop - start
    assert stored["width"] == stored["height"] == SIZE
    for name, value in stored.items():
        assert value is not None or stored["notes"][name], name
        assert not isinstance(value, float) or math.isfinite(value), name
    assert set(stored["notes"]) <= set(KEYS)
    assert stored["mouth_r_shift_p95"] is None  # 9 frames cannot be shifted by a second
    always = "head_fraction psnr psnr_head psnr_lips psnr_frame ssim lpips jitter_px render_fps"
    assert None not in [stored[name] for name in always.split()]
    assert 0.02 < stored["head_fraction"] < 0.9 and 0 < stored["ssim"] <= 1
    assert stored["render_fps"] > 0 and stored["num_gaussians"] > 100


def test_figures_are_those_of_the_raw_renders(result, run_dir):
    avatar = Avatar.load(run_dir)
    data = avatar.dataset
    frames = np.arange(*data.splits["val"])
    images = np.clip(np.stack(list(evaluate.draw(avatar, frames))), 0, 1)
    targets = np.stack([data.target(i) for i in frames]) / 255
    masks = np.stack([data.head_mask(i) for i in frames])
    errors = np.square(images - targets)
    psnr = -10 * np.log10(errors.mean(axis=(1, 2, 3)))
    head = [-10 * np.log10(e[m].mean()) for e, m in zip(errors, masks, strict=True)]
    np.testing.assert_allclose(result["psnr"], psnr.mean(), atol=1e-3)
    np.testing.assert_allclose(result["psnr_head"], np.mean(head), atol=1e-3)
    np.testing.assert_allclose(result["head_fraction"], masks.mean(), atol=1e-6)
    worst = evaluate.worst_frames(avatar, evaluate.Measured(
        frames, {"psnr_head": np.array(head)}, *[np.zeros(0)] * 4), count=1)  # fmt: skip
    [(caption, picture)] = worst
    assert caption.startswith(f"frame {frames[np.argmin(head)]}:")
    assert picture.shape == (SIZE, 2 * SIZE, 3)
    np.testing.assert_array_equal(picture[:, :SIZE], data.target(frames[np.argmin(head)]))


def test_other_sound_is_heard(run_dir):
    avatar = Avatar.load(run_dir)
    frames = np.array([3, 40, 60, 80, 90])
    plain, shifted, same = (
        np.stack(list(evaluate.draw(avatar, frames, heard)))
        for heard in (None, np.roll(frames, 2), frames)
    )
    np.testing.assert_array_equal(plain, same)
    assert np.any(plain != shifted)
    hush = avatar.dataset.silence(5, 8)
    assert np.any(np.stack(list(evaluate.draw(avatar, frames, hush))) != plain)


def test_slices_follow_one_row_and_one_column_through_the_video():
    video = np.random.default_rng(0).integers(0, 256, (2, 250, 6, 8, 3), np.uint8)  # 250 frames
    (told_row, row), (told_column, column) = evaluate.slices_through_time(
        video[:, :, 2], video[:, :, :, 5]
    )
    assert "truth above" in told_column and "truth left" in told_row
    assert column.shape == (12, 500, 3) and row.shape == (500, 16, 3)  # a frame is two pixels
    for which, t in ((0, 7), (1, 249)):
        for at in (2 * t, 2 * t + 1):
            np.testing.assert_array_equal(column[6 * which :][:6, at], video[which, t, :, 5])
            np.testing.assert_array_equal(row[at, 8 * which :][:8], video[which, t, 2])
    long = np.zeros((2, 1200, 8, 3), np.uint8)
    assert [p.shape for _, p in evaluate.slices_through_time(long, long)] == [
        (500, 16, 3), (16, 500, 3)
    ]  # fmt: skip


def test_measured_lines_cross_eyes_and_mouth(run_dir):
    avatar = Avatar.load(run_dir)
    data = avatar.dataset
    frames = np.arange(*data.splits["val"])[:2]
    measured = evaluate._measure_split(avatar, frames, FaceLandmarker())
    for t, (i, image) in enumerate(zip(frames, evaluate.draw(avatar, frames), strict=True)):
        top, bottom, *_ = data.eyes_rect(i)
        *_, left, right = data.lips_rect(i)
        for which, picture in enumerate((data.target(i), to_uint8(image))):
            found = [y for y in range(SIZE) if np.array_equal(picture[y], measured.rows[which, t])]
            assert len(found) == 1 and top <= found[0] <= bottom
            line = measured.columns[which, t]
            found = [x for x in range(SIZE) if np.array_equal(picture[:, x], line)]
            assert len(found) == 1 and left <= found[0] <= right
    assert measured.rows.base is None  # no picture is kept for the sake of a line


def test_report_is_one_self_contained_file(result, run_dir):
    text = (run_dir / "report.html").read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == 6 and "<polyline" in text
    assert 'src="http' not in text and "href" not in text and "<script" not in text
    assert f"{result['psnr']:.4g}" in text


def test_baselines(performer_dataset):
    data = Dataset.open(performer_dataset.folder, size=SIZE)
    start, stop = data.splits["train"]
    mean, nearest = MeanFrame(data), NearestFrame(data)
    want = np.mean([data.target(i) for i in range(start, stop)], axis=0) / 255
    np.testing.assert_allclose(mean(stop), want, atol=1e-5)
    for i in (start, start + 7):  # a training frame is its own nearest
        np.testing.assert_allclose(nearest(i), data.target(i) / np.float32(255), atol=1e-6)
    scores = [
        metrics.psnr_masked(guess(i)[None], data.target(i)[None] / 255.0, data.head_mask(i)[None])
        for guess in (mean, nearest)
        for i in range(stop, data.num_frames)
    ]
    assert np.all(np.isfinite(scores)) and np.min(scores) > 5
