"""A batch of frames in one call: bytes, padding, lowering."""

import jax
import numpy as np
import pytest

from egs_jax.avatar import draw as infer
from egs_jax.avatar.avatar import Avatar


@pytest.fixture(scope="module")
def avatar(trained_run):
    return Avatar.load(trained_run.folder, exact=True)


def test_bytes_are_the_rounded_numbers(avatar):
    drive = avatar.dataset.drive(np.arange(3), avatar.config.model.window_frames)
    exact, pictures = infer.infer_step(avatar, drive), infer.draw(avatar, drive)
    for got, numbers in ((pictures.rgb, exact.rgb), (pictures.alpha, exact.alpha)):
        want = infer.to_uint8(np.asarray(numbers))
        assert got.dtype == np.uint8 and np.ptp(want) > 80
        # One program may round otherwise than another where a number lies between two bytes.
        assert np.abs(np.asarray(got, int) - want).max() <= 1
        assert np.mean(np.asarray(got) != want) < 1e-3


def test_pictures_take_the_place_of_the_backgrounds_on_the_device(avatar):
    drive = avatar.dataset.drive(np.arange(2), avatar.config.model.window_frames)
    backgrounds, before = jax.device_put(drive.backgrounds.copy()), drive.backgrounds.copy()
    infer.draw(avatar, drive.replace(backgrounds=backgrounds))
    assert backgrounds.is_deleted()
    assert np.any(np.asarray(infer.draw(avatar, drive).rgb) != before)
    np.testing.assert_array_equal(drive.backgrounds, before)  # the host's stay


def test_infer_lowers_for_tpu(avatar):
    drive = avatar.dataset.drive(np.arange(4), avatar.config.model.window_frames)
    traced = infer._infer.trace(avatar.config, avatar.prepared, drive)
    assert "stablehlo" in traced.lower(lowering_platforms=("tpu",)).as_text()[:100_000]


def test_batches_are_padded_by_their_last_frame(avatar):
    drive = avatar.dataset.drive(np.arange(3), 8)
    padded = infer.pad_batch(drive, 5)
    assert padded.backgrounds.shape[0] == len(padded.eyes) == 5
    np.testing.assert_array_equal(padded.audio_windows[4], drive.audio_windows[2])
    np.testing.assert_array_equal(padded.audio_windows[:3], drive.audio_windows)
    assert infer.pad_batch(drive.replace(bodies=None), 5).bodies is None
    bodies = np.arange(48, dtype=np.float32).reshape(3, 4, 4)
    padded = infer.pad_batch(drive.replace(bodies=bodies), 5)
    np.testing.assert_array_equal(padded.bodies, bodies[[0, 1, 2, 2, 2]])


def test_to_uint8_rounds_and_clips():
    got = infer.to_uint8(np.array([-0.1, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 1.3]))
    assert got.dtype == np.uint8 and got.tolist() == [0, 0, 0, 1, 255, 255]
