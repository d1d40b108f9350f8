"""The demo performer: equal seeds, equal clips; and the landmark network sees what was planned."""

import dataclasses

import numpy as np
import pytest

from egs_jax.face import mesh as face_mesh
from egs_jax.media.video_reader import probe
from egs_jax.performer import film as performer
from egs_jax.performer import head
from egs_jax.performer.mesh import grid_triangles, loop_subdivision, rasterize_triangles
from egs_jax.runtime.errors import InputError

SIZE = 96


@pytest.fixture(scope="module")
def long_take():
    return performer.perform(12.0, seed=1, size=SIZE)


def _lip_gap(landmarks):
    return np.linalg.norm(
        landmarks[:, [82, 13, 312], :2] - landmarks[:, [87, 14, 317], :2], axis=-1
    ).mean(1)


def test_same_seed_same_plan_and_picture():
    first, second = (performer.perform(1.0, seed=5, size=SIZE) for _ in range(2))
    for field in dataclasses.fields(first):
        if field.name != "speech":
            assert np.array_equal(getattr(first, field.name), getattr(second, field.name)), (
                field.name
            )
    assert np.array_equal(performer.draw_frame(first, 7), performer.draw_frame(second, 7))
    other = performer.perform(1.0, seed=6, size=SIZE)
    assert not np.array_equal(first.landmarks, other.landmarks)


def test_plan_has_its_shapes(long_take):
    frames = 12 * 25
    assert long_take.num_frames == frames
    assert long_take.viewmats.shape == long_take.torso_viewmats.shape == (frames, 4, 4)
    assert long_take.landmarks.shape == (frames, 468, 3)
    assert long_take.gaze.shape == (frames, 2)
    picture = performer.draw_frame(long_take, 0)
    assert picture.shape == (SIZE, SIZE, 3) and picture.dtype == np.uint8
    assert performer.perform(1.0, 0, SIZE, fps=30).num_frames == 30


def test_head_turns_smoothly_and_not_too_far(long_take):
    R = long_take.viewmats[:, :3, :3]
    np.testing.assert_allclose(
        R @ R.transpose(0, 2, 1), np.tile(np.eye(3), (len(R), 1, 1)), atol=1e-5
    )
    yaw = np.degrees(np.arcsin(R[:, 0, 2]))
    pitch = np.degrees(np.arcsin(-R[:, 1, 2]))
    assert 5 < np.abs(yaw).max() < 13 and 2 < np.abs(pitch).max() < 8
    assert np.abs(np.diff(yaw)).max() < 1.5
    torso_yaw = np.degrees(np.arcsin(long_take.torso_viewmats[:, 0, 2]))
    assert np.abs(torso_yaw).max() < 0.6 * np.abs(yaw).max()


def test_blinks_are_natural_and_shut_the_eyes(long_take):
    blink = long_take.blink
    shut = blink > 0.5
    starts = np.flatnonzero(shut[1:] & ~shut[:-1])
    assert 3 <= len(starts) <= 6
    assert np.all(np.diff(starts) / 25 > 1.9) and np.all(np.diff(starts) / 25 < 5.1)
    assert 0.1 < shut.sum() / len(starts) / 25 < 0.3
    openness = face_mesh.eye_openness(long_take.landmarks).mean(axis=1)
    assert blink.max() > 0.9
    assert openness[blink > 0.9].max() < 0.35 * np.median(openness[blink < 0.05])


def test_true_lips_follow_the_sound(long_take):
    gap = _lip_gap(long_take.landmarks)
    assert np.corrcoef(gap, long_take.mouth_opening)[0, 1] > 0.97
    closed = long_take.mouth_opening < 0.02
    assert gap[closed].max() < 0.15 * gap.max()


def test_background_stands_still(long_take):
    first, last = (performer.draw_frame(long_take, i) for i in (0, 250))
    assert np.array_equal(first[:4], last[:4]) and np.array_equal(first[:60, :6], last[:60, :6])
    assert not np.array_equal(first, last)


def test_open_mouth_is_dark_between_teeth_and_lip():
    camera = performer.perform(1.0, 0, 192)
    viewmat, K = np.eye(4), camera.K.astype(np.float64)
    viewmat[1:3, 3] = -0.22, 5.2
    pictures = [
        performer.draw_pose(head.Expression(opening=o), viewmat, viewmat, K, 192)
        for o in (0.0, 1.0)
    ]
    points = head.to_world(
        head.pose_face(head.build_head(), head.Expression(opening=1.0))[[13, 14]]
    )
    pixel = (points + viewmat[:3, 3]) @ K.T
    x, y = (0.35 * pixel[0] + 0.65 * pixel[1])[:2] / (0.35 * pixel[0] + 0.65 * pixel[1])[2]
    closed, opened = (picture[int(y), int(x)].astype(int).sum() for picture in pictures)
    assert opened < 0.5 * closed


def test_subdivision_keeps_planes_and_counts():
    triangles = grid_triangles(4, 5, closed=False)
    matrix, finer = loop_subdivision(triangles, 20)
    assert finer.shape == (4 * len(triangles), 3)
    np.testing.assert_allclose(np.asarray(matrix.sum(axis=1)).ravel(), 1.0)
    rows, cols = np.divmod(np.arange(20), 5)
    points = np.stack([cols, rows, 2.0 * cols - rows + 1], axis=1)
    moved = matrix @ points
    np.testing.assert_allclose(moved[:, 2], 2 * moved[:, 0] - moved[:, 1] + 1, atol=1e-12)


def test_rasterizer_agrees_with_the_definition():
    rng = np.random.default_rng(2)
    points, depths = rng.uniform(-4, 36, (60, 2)), rng.uniform(1, 3, 60)
    triangles = np.arange(60).reshape(20, 3)
    pixels, faces, weights = rasterize_triangles(points, depths, triangles, 32, 24)
    best = np.full((24, 32), np.inf)
    owner = np.full((24, 32), -1)
    for f, (a, b, c) in enumerate(points[triangles]):
        area = np.cross(np.append(b - a, 0), np.append(c - a, 0))[2]
        for row in range(24):
            for col in range(32):
                weight = np.linalg.solve(
                    np.stack([[*a, 1], [*b, 1], [*c, 1]], axis=1), [col + 0.5, row + 0.5, 1]
                )
                depth = weight @ depths[triangles[f]]
                if area < 0 and weight.min() >= 0 and depth < best[row, col]:
                    best[row, col], owner[row, col] = depth, f
    assert np.array_equal(pixels, np.flatnonzero(owner.ravel() >= 0))
    assert np.array_equal(faces, owner.ravel()[pixels])
    found = (weights * depths[triangles[faces]]).sum(axis=1)
    np.testing.assert_allclose(found, best.ravel()[pixels], rtol=1e-5)


def test_network_sees_what_was_planned(performer_dataset):
    """The landmarks that preprocessing found in the film against those of the plan."""
    info, true = probe(performer_dataset.video), performer_dataset.truth
    assert (info.width, info.height, info.has_audio) == (192, 192, True)
    seen = np.load(performer_dataset.folder / "landmarks.npy", allow_pickle=False)
    assert len(seen) == true.num_frames == 100
    assert np.corrcoef(_lip_gap(seen), _lip_gap(true.landmarks))[0, 1] > 0.9
    assert np.corrcoef(face_mesh.eye_openness(seen).mean(axis=1), true.blink)[0, 1] < -0.7
    rigid = face_mesh.RIGID_POINTS[face_mesh.RIGID_POINTS < 468]
    offset = seen[:, rigid, :2] - true.landmarks[:, rigid, :2]
    assert np.linalg.norm(offset, axis=-1).mean() < 2.25  # pixels of 192
    steady = offset - offset.mean(axis=0, keepdims=True)
    assert np.linalg.norm(steady, axis=-1).mean() < 0.6


def test_refuses_bad_places_and_sizes(tmp_path):
    with pytest.raises(InputError):
        performer.write_performer_video(tmp_path / "nowhere" / "take.mp4", seconds=1, size=32)
    with pytest.raises(ValueError, match="size, fps: expected"):
        performer.perform(1.0, 0, 16)
