"""The measures of poses that no clip shows, on pictures whose answer is known."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from helpers import FRAMES, make_dataset
from scipy.spatial.transform import Rotation

from egs_jax.data.dataset import Dataset
from experiments import free_pose, held_out_poses

SIZE, WIDTH = 120, 60.0


def disc(slit: int = 0) -> np.ndarray:
    opaque = cv2.circle(np.zeros((SIZE, SIZE), np.uint8), (60, 60), 40, 1, -1) > 0
    if slit:
        opaque[70 : 70 + slit] = False
    return opaque


def test_a_slit_is_a_hole_and_the_room_beside_a_person_is_none():
    assert free_pose.hole_share(disc(), WIDTH) < 0.5
    torn = free_pose.hole_share(disc(3), WIDTH)
    assert torn == pytest.approx(100 * 3 * 78 / disc(3).sum(), rel=0.25)
    assert free_pose.hole_share(disc(30), WIDTH) < 1.5  # two people's worth of room is no tear
    cut = disc()
    cut[:, :25] = True  # a shoulder at the picture's edge is closed there
    assert free_pose.hole_share(cut, WIDTH) < 1


def jaw_points() -> np.ndarray:
    points = np.zeros((478, 2))
    around = np.linspace(0, np.pi, len(free_pose.JAW))
    points[list(free_pose.JAW)] = 60 + 30 * np.stack([np.cos(around), np.sin(around)], 1)
    return points


def test_a_torn_jaw_has_more_high_frequencies_at_any_size():
    ramp = np.repeat(np.linspace(60, 160, SIZE)[:, None], SIZE, 1)
    smooth = np.repeat(ramp[..., None], 3, -1).astype(np.uint8)
    torn = smooth.copy()
    line = np.round(jaw_points()[list(free_pose.JAW)]).astype(np.int32)
    cv2.polylines(torn, [line[:, None]], False, (0, 0, 0), 1)
    energy = lambda image: free_pose.jaw_energy(image, jaw_points(), WIDTH)
    assert energy(torn) > 10 * energy(smooth)
    double = cv2.resize(torn, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    large = free_pose.jaw_energy(double, 2 * jaw_points(), 2 * WIDTH)
    assert large == pytest.approx(energy(torn), rel=0.4)
    assert free_pose.jaw_energy(smooth, jaw_points() - 500, WIDTH) == 0


class Landmarker:
    """Finds the face where it is looked for, but a little wider."""

    def landmark(self, image, roi):
        return SimpleNamespace(landmarks=Landmarker.points, score=1.0)


def test_a_run_is_swept(trained_run, tmp_path, monkeypatch):
    monkeypatch.setattr(free_pose, "FaceLandmarker", Landmarker)
    shape = np.random.default_rng(0).uniform(-0.5, 0.5, (478, 3)).astype(np.float32)
    loaded = free_pose.Avatar.load(trained_run.folder, exact=True)
    loaded.dataset.arrays = loaded.dataset.arrays | {"mean_shape": shape}
    monkeypatch.setattr(free_pose.Avatar, "load", lambda run_dir, exact: loaded)
    swept = free_pose.sweep(loaded, (0,), (0,))
    Landmarker.points = np.pad(swept.points[0] + (5, 7), ((0, 0), (0, 1))).astype(np.float32)
    sheets = tmp_path / "run"
    sheets.mkdir()
    path = free_pose.main([str(sheets), "--tiny", "--out", str(tmp_path)])
    [case] = json.loads(path.read_text())["cases"]
    assert case["poses"] == 6 and case["found_share"] == 1.0 and case["body"] == "person"
    assert case["tear_percent"] >= case["holes_percent"] >= 0 and case["jaw"] > 0
    assert case["landmarks_percent"] > 0  # turned heads are not where the calm one is
    assert cv2.imread(str(sheets / "free_pose.jpg")).shape == (96, 144, 3)


def test_outer_poses_are_those_that_look_farthest():
    yaws = np.linspace(-0.5, 0.5, 101)
    poses = np.tile(np.eye(4), (101, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(np.outer(yaws, (0, 1, 0))).as_matrix()
    out = held_out_poses.outer(poses)
    assert out[:10].all() and out[-10:].all() and not out[15:-15].any()


def test_outer_poses_are_left_out_of_a_linked_dataset(tmp_path):
    folder = make_dataset(tmp_path / "data")
    poses = np.load(folder / "viewmats.npy")
    turns = 0.3 * np.sin(np.arange(FRAMES))
    poses[:, :3, :3] = Rotation.from_rotvec(np.outer(turns, (0, 1, 0))).as_matrix()
    np.save(folder / "viewmats.npy", poses)
    inner = held_out_poses.without_outer_poses(folder, tmp_path / "inner")
    out = inner.meta["left_out"]
    assert set(out) == set(np.flatnonzero(held_out_poses.outer(poses))) and out
    assert set(inner.train_frames) == set(range(FRAMES)) - set(out)
    assert np.array_equal(inner.frame(3), Dataset.open(folder).frame(3))
    assert (tmp_path / "inner" / "frames.zip").stat().st_ino == (
        folder / "frames.zip"
    ).stat().st_ino
