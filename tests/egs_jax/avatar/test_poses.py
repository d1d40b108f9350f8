"""Paths of poses: never a jump, never a held-out frame, and files that hold none are refused."""

import numpy as np
import pytest
from helpers import FRAMES, make_dataset
from scipy.spatial.transform import Rotation

from egs_jax.avatar.poses import (
    EASE,
    back_and_forth,
    between,
    eased_cycle,
    pose_path,
    read_poses,
)
from egs_jax.avatar.scene import scene_of
from egs_jax.data.dataset import Dataset
from egs_jax.runtime.errors import InputError

TRAIN = FRAMES - 4
STILL = np.eye(4)
STILL[2, 3] = 4.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The painted clip, whose head turns and drifts and whose body follows."""
    folder = make_dataset(tmp_path_factory.mktemp("painted") / "data")
    poses = np.tile(STILL, (FRAMES, 1, 1)).astype(np.float32)
    angles = 0.2 * np.sin(np.arange(FRAMES) * 0.7)
    poses[:, :3, :3] = Rotation.from_rotvec(np.outer(angles, (0, 1, 0))).as_matrix()
    poses[:, 0, 3] = np.linspace(0, 0.4, FRAMES)
    np.save(folder / "viewmats.npy", poses)
    bodies = np.tile(STILL, (FRAMES, 1, 1)).astype(np.float32)
    bodies[:, 0, 3] = 0.5 * poses[:, 0, 3]
    np.save(folder / "body_viewmats.npy", bodies)
    return folder


@pytest.fixture(scope="module")
def person(folder):
    return Dataset.open(folder, body="person")


@pytest.fixture(scope="module")
def head(folder):
    return Dataset.open(folder, body="head")


@pytest.mark.parametrize(("start", "stop"), [(0, 100), (7, 40), (3, 1000), (0, 25)])
def test_playback_never_jumps_and_shows_every_frame(start, stop):
    cycle = back_and_forth(start, stop)
    assert set(cycle) == set(range(start, stop))
    around = np.diff(np.append(cycle, cycle[0]))  # the cycle's end meets its start
    assert np.abs(around).max() <= 2
    assert np.array_equal(cycle, cycle[::-1])  # there and back the same way
    half = len(cycle) // 2
    assert (np.diff(cycle[:half]) >= 0).all() and cycle[0] == start and cycle[half - 1] == stop - 1


def test_playback_slows_down_before_it_turns():
    cycle = back_and_forth(0, 200)
    half = len(cycle) // 2
    pace = np.diff(cycle[:half])
    assert pace[: EASE // 2].mean() < 0.6 and pace[-EASE // 2 :].mean() < 0.6
    middle = pace[EASE + 5 : -EASE - 5]
    assert middle.mean() == pytest.approx(1.0, abs=0.03) and middle.min() >= 0
    smooth = np.convolve(np.append(cycle, cycle[:20]), np.ones(8) / 8, "valid")
    assert np.abs(np.diff(smooth, 2)).max() < 0.35  # frames per frame: no jerk, at the turns too


@pytest.mark.parametrize(("start", "stop"), [(4, 5), (4, 6), (0, 3), (0, EASE)])
def test_playback_of_tiny_clips(start, stop):
    cycle = back_and_forth(start, stop)
    assert set(cycle) == set(range(start, stop))


def test_a_head_shows_whole_frames_and_a_person_what_lies_between(head, person):
    path = pose_path(scene_of(head))
    assert np.array_equal(path.frames, back_and_forth(0, TRAIN)) and path.bodies is None
    assert np.array_equal(path.viewmats, head.arrays["viewmats"][path.frames])
    smooth = pose_path(scene_of(person))
    assert len(smooth.viewmats) == len(path.viewmats) == len(smooth.bodies)
    drift = smooth.viewmats[:, 0, 3]
    assert drift.max() <= head.arrays["viewmats"][TRAIN - 1, 0, 3] + 1e-6  # no held-out frame
    around = np.diff(np.append(drift, drift[0]))
    most = np.abs(np.diff(head.arrays["viewmats"][:, 0, 3])).max()
    assert np.abs(around).max() <= 1.2 * most and np.abs(around[[0, -1]]).max() < 0.2 * most
    np.testing.assert_allclose(smooth.bodies[:, 0, 3], 0.5 * drift, atol=1e-6)
    turns = smooth.viewmats[:, :3, :3]
    np.testing.assert_allclose(turns @ turns.swapaxes(1, 2), np.tile(np.eye(3), (len(turns), 1, 1)),
                               atol=1e-6)  # fmt: skip


def test_a_still_path_is_the_calmest_training_frame(head, person):
    path = pose_path(scene_of(person), "still")
    assert path.viewmats.shape == path.bodies.shape == (1, 4, 4) and path.frames[0] < TRAIN
    assert len(pose_path(scene_of(head), "still").frames) == 1
    for part in path.at(np.arange(7)):
        assert len(part) == 7 and np.array_equal(part[0], part[6])


def test_between_turns_evenly():
    poses = np.tile(STILL, (2, 1, 1))
    poses[1, :3, :3] = Rotation.from_rotvec([0, 0.6, 0]).as_matrix()
    poses[1, :3, 3] = 1, 2, 6
    half = between(poses, np.array([0.5, 0.0, 1.0]))
    np.testing.assert_allclose(Rotation.from_matrix(half[0, :3, :3]).as_rotvec(), [0, 0.3, 0],
                               atol=1e-6)  # fmt: skip
    np.testing.assert_allclose(half[0, :3, 3], [0.5, 1, 5])
    np.testing.assert_allclose(half[1:], poses, atol=1e-6)
    assert eased_cycle(1).tolist() == [0.0]


def test_a_csv_turns_the_still_pose_as_it_says(tmp_path):
    """The face looks along -z of its axes, so that its tip says where it turned."""
    file = tmp_path / "poses.csv"
    file.write_text("yaw,pitch,roll,x,y,z\n10,0,0,0,0,0\n0,10,0,0,0,0\n0,0,50,0,0,0\n0,0,0,1,2,3\n")
    poses = read_poses(file, STILL)
    nose = poses[:, :3, :3] @ (0, 0, -1)
    assert nose[0, 0] > 0.15 and abs(nose[0, 1]) < 1e-9  # to the picture's right
    assert nose[1, 1] < -0.15 and abs(nose[1, 0]) < 1e-9  # up
    crown = poses[2, :3, :3] @ (0, -1, 0)
    assert crown[0] > 0.7 and crown[1] < -0.6  # clockwise
    np.testing.assert_allclose(poses[3, :3, 3], [1, 2, 7])
    file.write_text("\ufeffYaw, Pitch, Roll\n1,2,3\n\n")
    assert read_poses(file, STILL).shape == (1, 4, 4)


def test_a_file_of_poses_is_played_and_the_body_follows(person, tmp_path):
    poses = np.tile(STILL, (40, 1, 1))
    poses[:, 0, 3] = np.linspace(0, 0.4, 40)
    np.save(tmp_path / "poses.npy", poses)
    path = pose_path(scene_of(person), tmp_path / "poses.npy")
    drift = path.viewmats[:, 0, 3]
    assert drift.min() == pytest.approx(0, abs=1e-3) and drift.max() == pytest.approx(0.4, abs=1e-3)
    assert path.bodies.shape == path.viewmats.shape
    for series in (drift, path.bodies[:, 0, 3]):  # the cycle closes
        steps = np.abs(np.diff(series))
        assert abs(series[0] - series[-1]) <= steps.max() + 1e-6


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "yaw,pitch\n1,2\n", "its first line is 'yaw,pitch'"),
        ("a.csv", "yaw,pitch,roll\n1,2\n", "a row has not 3 numbers"),
        ("a.csv", "yaw,pitch,roll\n1,2,x\n", "no poses"),
        ("a.csv", "yaw,pitch,roll\n90,0,0\n", "an angle is over 60 degrees"),
        ("a.csv", "yaw,pitch,roll\nnan,0,0\n", "finite"),
        ("a.csv", "yaw,pitch,roll\n", "expected poses"),
        ("a.csv", "", "no poses"),
        ("a.txt", "", "expected clip, still, a .npy or a .csv"),
        ("a.npy", "hello", "no poses"),
        ("a.npy", np.zeros((3, 4, 4)), "pose 0 is not rigid"),
        ("a.npy", np.zeros((3, 4)), "expected poses"),
        ("a.npy", np.tile(np.diag([1.0, 1, -1, 1]), (2, 1, 1)), "not rigid"),
        ("a.npy", np.tile(np.eye(4), (2, 1, 1)), "pose 0 is at the camera"),
        ("a.npy", np.tile(np.eye(4, dtype=int), (2, 1, 1)), "finite numbers"),
        ("none.npy", None, "missing; --poses takes"),
    ],
)  # fmt: skip
def test_files_without_poses_are_refused_in_one_line(person, tmp_path, name, content, said):
    path = tmp_path / name
    if isinstance(content, str):
        path.write_text(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(InputError) as refused:
        pose_path(scene_of(person), path)
    message = str(refused.value)
    assert name in message and said in message and "\n" not in message


def test_a_head_alone_cannot_leave_its_poses(head, tmp_path):
    with pytest.raises(InputError, match="this avatar is a head .* --model.body person"):
        pose_path(scene_of(head), tmp_path / "poses.npy")
