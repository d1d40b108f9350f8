"""What drives a speech: poses played back and forth, blinks, and the same in pieces of any size."""

import jax
import numpy as np
import pytest
from helpers import AUDIO_DIM, FRAMES, SIZE, make_dataset

from egs_jax.avatar.drive import SpeechDrive, blinks, compose
from egs_jax.avatar.poses import back_and_forth, pose_path
from egs_jax.avatar.scene import scene_of
from egs_jax.data.dataset import Dataset

TRAIN = FRAMES - 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    folder = make_dataset(tmp_path_factory.mktemp("painted") / "data")
    viewmats = np.load(folder / "viewmats.npy")
    viewmats[:, 0, 3] = np.linspace(-0.2, 0.2, len(viewmats))  # a head that moves
    np.save(folder / "viewmats.npy", viewmats)
    return Dataset.open(folder, body="head")


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((200, AUDIO_DIM)).astype(np.float32)


def equal(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b)))


def test_blink_is_a_function_of_the_frame():
    frames = np.arange(5000)
    whole = blinks(3, frames)
    assert np.array_equal(whole, np.concatenate([blinks(3, f) for f in np.array_split(frames, 77)]))
    assert np.array_equal(whole[::-1], blinks(3, frames[::-1]))
    assert not np.array_equal(whole, blinks(4, frames))
    assert whole.dtype == np.float32 and whole.min() == 0 and whole.max() == 1


def test_people_blink_once_in_four_seconds():
    shut = blinks(0, np.arange(100 * 100)) > 0.5
    starts = np.flatnonzero(shut[1:] & ~shut[:-1])
    assert len(starts) == 100  # one in every block of 4 s, so 15 a minute
    assert len(set(np.diff(starts))) > 30  # at no fixed beat
    assert 2 <= shut.sum() / len(starts) <= 5  # frames of 40 ms


def spoken(dataset, rows):
    scene = scene_of(dataset)
    return SpeechDrive(scene, pose_path(scene), rows, num_frames=100, window_frames=8, seed=5)


@pytest.mark.parametrize("size", [1, 3, 7, 64, 99])
def test_any_chunking_gives_the_same(dataset, rows, size):
    drive = spoken(dataset, rows)
    whole = drive.frames(0, 100)
    for start in range(0, 100, size):
        stop = min(start + size, 100)
        piece = jax.tree.map(lambda x, a=start, b=stop: x[a:b], whole)
        assert equal(piece, drive.frames(start, stop))


@pytest.mark.parametrize("first_row", [0, 20, 52])
def test_rows_long_past_are_not_needed(dataset, rows, first_row):
    frames, path = np.arange(40, 50), pose_path(scene_of(dataset))
    piece = compose(scene_of(dataset), path, rows[first_row:], first_row, frames, 8, seed=0)
    assert equal(piece, compose(scene_of(dataset), path, rows, 0, frames, 8, seed=0))


def test_speech_has_its_own_sound_and_blinks_over_the_clips_poses(dataset, rows):
    drive = spoken(dataset, rows).frames(0, 60)
    assert drive.audio_windows.shape == (60, 8, 16, AUDIO_DIM)
    assert drive.backgrounds.shape == (60, SIZE, SIZE, 3) and drive.Ks.shape == (60, 3, 3)
    np.testing.assert_array_equal(drive.audio_windows[20, 4, 8], rows[40])
    np.testing.assert_array_equal(drive.eyes, blinks(5, np.arange(60)))
    shown = back_and_forth(0, TRAIN)[np.arange(60) % len(back_and_forth(0, TRAIN))]
    assert shown.max() < TRAIN  # never a held-out frame
    np.testing.assert_array_equal(drive.viewmats, dataset.arrays["viewmats"][shown])
    step = 0.4 / (FRAMES - 1)
    assert np.abs(np.diff(drive.viewmats[:, 0, 3])).max() <= 2 * step + 1e-6


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (5, 5), (6, 5), (90, 101), (100, 101)])
def test_frames_that_are_not_there(dataset, rows, start, stop):
    drive = spoken(dataset, rows)
    with pytest.raises(IndexError, match=f"frames {start} to {stop}: this speech has 100"):
        drive.frames(start, stop)
