"""Points of a body lie where its silhouette is, in front of the neck's axis, in its colors."""

import numpy as np
import pytest
from drawn_person import NECK, SHIRT, SIZE, person_at

from egs_jax.preprocess.body_cloud import body_cloud

FOCAL, DEPTH = 300.0, 4.0
K = np.array([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]], np.float32)
VIEWMAT = np.eye(4, dtype=np.float32)
VIEWMAT[2, 3] = DEPTH


def mean_shape() -> np.ndarray:
    """The landmarks that matter: the ears' roots and the chin of the drawn person."""
    shape = np.zeros((478, 3), np.float32)
    scale = DEPTH / FOCAL
    shape[234], shape[454] = [-36 * scale, -10 * scale, 0.1], [36 * scale, -10 * scale, 0.1]
    shape[152] = [0, 30 * scale, -0.3]
    return shape


def clip(frames: int, shift: float = 0.0):
    """Frames, head masks, person masks and body poses of a person who moves aside."""
    drawn = [person_at(100.0 + shift * k) for k in range(frames)]
    poses = np.tile(VIEWMAT, (frames, 1, 1))
    poses[:, 0, 3] = shift * np.arange(frames) * DEPTH / FOCAL
    pictures, heads, people, _ = zip(*drawn, strict=True)
    return pictures, heads, [p * np.uint8(255) for p in people], poses


def seen_at(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    camera = points @ pose[:3, :3].T + pose[:3, 3]
    pixels = camera @ K.T
    return pixels[:, :2] / pixels[:, 2:]


def test_points_are_seen_inside_the_body_in_its_colors():
    frames, heads, people, poses = clip(3, shift=10.0)
    points, colors = body_cloud(mean_shape(), poses, K, heads, people, frames, 4000)
    assert points.shape == (4000, 3) and points.dtype == np.float32 and colors.dtype == np.uint8
    surface, neck = points[:3400], points[3400:]
    columns, rows = np.floor(seen_at(surface, poses[0])).astype(int).T
    inside = (0 <= columns) & (columns < SIZE) & (0 <= rows) & (rows < SIZE)
    body = (people[0] > 127) & ~heads[0]
    assert inside.mean() > 0.9 and body[rows[inside], columns[inside]].mean() > 0.95
    assert (colors[:3400] == frames[0][rows.clip(0, 199), columns.clip(0, 199)])[
        inside
    ].mean() > 0.9
    assert set(map(tuple, colors[:3400])) == {NECK, SHIRT}
    assert np.all(colors[3400:] == NECK)
    depth = 0.55 * 72 * DEPTH / FOCAL
    assert np.all(surface[:, 2] <= 0.1 + 1e-3) and np.all(surface[:, 2] >= 0.1 - depth - 1e-3)
    assert np.ptp(neck[:, 2]) > 0.6 * depth  # it is closed at the back
    assert neck[:, 1].min() < mean_shape()[152, 1] < neck[:, 1].max()


def test_the_middle_is_nearer_than_the_edge():
    frames, heads, people, poses = clip(1)
    points, _ = body_cloud(mean_shape(), poses, K, heads, people, frames, 4000)
    surface = points[:3400]
    low = surface[seen_at(surface, poses[0])[:, 1] > 190]
    middle = np.abs(low[:, 0]) < 0.2
    edge = np.abs(low[:, 0]) > np.quantile(np.abs(low[:, 0]), 0.95)
    assert low[middle, 2].mean() < low[edge, 2].mean() - 0.2


def test_same_input_same_points():
    made = [body_cloud(mean_shape(), c[3], K, c[1], c[2], c[0], 500) for c in (clip(2), clip(2))]
    for a, b in zip(*made, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("frames", [1, 3])
def test_a_head_without_a_body_gives_none(frames):
    pictures, heads, _, poses = clip(frames)
    alone = [head * np.uint8(255) for head in heads]
    points, colors = body_cloud(mean_shape(), poses, K, heads, alone, pictures)
    assert points.shape == colors.shape == (0, 3)
