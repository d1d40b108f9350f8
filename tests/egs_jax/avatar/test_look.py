"""What a look changes, and what of it is refused: frame rates, blinks, sizes."""

import numpy as np
import pytest
from helpers import AUDIO_DIM, make_dataset

from egs_jax.avatar.drive import compose, eyes_of
from egs_jax.avatar.look import MOST_BLINKS, Look
from egs_jax.avatar.poses import pose_path
from egs_jax.avatar.scene import scene_of
from egs_jax.data.dataset import Dataset
from egs_jax.media.clock import FRAME_RATES, places
from egs_jax.runtime.errors import InputError


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = make_dataset(tmp_path_factory.mktemp("painted") / "data")
    poses = np.load(folder / "viewmats.npy")
    poses[:, 0, 3] = np.linspace(-0.2, 0.2, len(poses))
    np.save(folder / "viewmats.npy", poses)
    return scene_of(Dataset.open(folder))


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).standard_normal((400, AUDIO_DIM)).astype(np.float32)


def drive(scene, rows, fps, frames):
    return compose(scene, pose_path(scene), rows, 0, np.asarray(frames), 8, 3, Look(fps=fps))


def test_frames_at_the_times_of_the_usual_ones_are_the_same_bits(scene, rows):
    for fps in FRAME_RATES:
        every = np.arange(0, 4 * fps, fps // 5)  # five a second
        got, want = drive(scene, rows, fps, every), drive(scene, rows, 25, np.arange(0, 100, 5))
        for name in ("audio_windows", "eyes", "viewmats", "bodies", "backgrounds"):
            np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)


def test_frames_between_hear_a_row_later_and_lie_between_in_pose_and_lids(scene, rows):
    usual, twice = (
        drive(scene, rows, 25, np.arange(60, 121)),
        drive(scene, rows, 50, range(121, 241, 2)),
    )
    np.testing.assert_array_equal(twice.audio_windows[0, 4, 7], rows[120])
    for name in ("viewmats", "bodies", "eyes"):
        values = np.asarray(getattr(usual, name))
        middle = (values[:-1] + values[1:]) / 2
        np.testing.assert_allclose(getattr(twice, name), middle, atol=1e-5, err_msg=name)
    sixty = drive(scene, rows, 60, [1])  # at row 5/6
    want = rows[0] + (rows[1] - rows[0]) * np.float32(5 / 6)
    np.testing.assert_allclose(sixty.audio_windows[0, 4, 8], want, atol=1e-6)


def test_no_film_moves_by_more_than_its_share_of_a_frame(scene, rows):
    steps = {}
    for fps in FRAME_RATES:
        path = drive(scene, rows, fps, np.arange(4 * fps)).viewmats[:, 0, 3]
        steps[fps] = np.abs(np.diff(path)).max()
        assert steps[fps] <= steps[25] * 25 / fps + 1e-6


@pytest.mark.parametrize("per_minute", [0, 1, 7, 15, 40, MOST_BLINKS])
@pytest.mark.parametrize("fps", [25, 60])
def test_people_blink_as_often_as_asked_for(per_minute, fps):
    minutes = 4
    lids = eyes_of(Look(blinks=per_minute, fps=fps), 5, np.arange(minutes * 60 * fps))
    shut = lids > 0.5
    assert np.flatnonzero(shut[1:] & ~shut[:-1]).size == minutes * per_minute
    assert lids.min() == 0 and np.abs(np.diff(lids)).max() <= 0.6 * 25 / fps + 1e-6
    assert lids.dtype == np.float32


@pytest.mark.parametrize("fps", FRAME_RATES)
def test_places_are_exact(fps):
    numbers = np.arange(0, 100_000_000, 9_999_991)
    whole, share = places(numbers, fps, 50)
    for number, at, rest in zip(numbers.tolist(), whole.tolist(), share.tolist(), strict=True):
        assert at == number * 50 // fps and rest == np.float32(number * 50 % fps / fps)


@pytest.mark.parametrize(
    ("field", "value"),
    [("fps", 24), ("fps", 0), ("blinks", -1), ("blinks", 61), ("blinks", float("nan")),
     ("size", 31), ("size", 101), ("size", 5000), ("size", 0), ("size", -64)],
)  # fmt: skip
def test_what_no_look_has_is_refused(field, value):
    with pytest.raises(InputError, match=f"{field}: got"):
        Look(**{field: value})
