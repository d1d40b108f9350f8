"""The initial cloud of a head whose true shape is known: an ellipsoid with ears, turned about."""

import numpy as np
import pytest
from scipy.spatial import Delaunay

from egs_jax.face.mesh import FACE_OVAL, LIPS_OUTER
from egs_jax.preprocess.head_cloud import head_cloud
from egs_jax.runtime.errors import InputError

SIZE, FOCAL = 96, 170.0
HEAD = np.asarray([0.55, 0.75, 0.62])  # half-axes of the true head
K = np.asarray([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]], np.float32)


def face() -> tuple[np.ndarray, np.ndarray]:
    """478 points on the front of the ellipsoid, numbered as the landmarks are, and triangles."""
    random = np.random.default_rng(0)
    angle, radius = random.uniform(0, 2 * np.pi, 478), np.sqrt(random.uniform(0, 0.9, 478))
    flat = np.stack([np.sin(angle), -np.cos(angle)], 1) * radius[:, None]
    around = np.linspace(0, 2 * np.pi, len(FACE_OVAL), endpoint=False)
    flat[FACE_OVAL] = np.stack([np.sin(around), -np.cos(around)], 1)
    lips = np.linspace(0, 2 * np.pi, len(LIPS_OUTER), endpoint=False)
    flat[LIPS_OUTER] = np.stack([-0.3 * np.cos(lips), 0.5 + 0.08 * np.sin(lips)], 1)
    flat = flat * [0.5, 0.45] + [0.0, 0.15]
    flat[[234, 454]] = [[-0.54, 0.0], [0.54, 0.0]]
    depth = -HEAD[2] * np.sqrt(np.maximum(1 - ((flat / HEAD[:2]) ** 2).sum(1), 0))
    mesh = Delaunay(flat[:468]).simplices.astype(np.int32)
    return np.concatenate([flat, depth[:, None]], 1).astype(np.float32), mesh


def turned(yaw: float, pitch: float, depth: float = 4.0) -> np.ndarray:
    a, b = np.radians([yaw, pitch])
    across = np.asarray([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    along = np.asarray([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    view = np.eye(4)
    view[:3, :3], view[:3, 3] = along @ across, [0, 0, depth]
    return view


def silhouette(view: np.ndarray) -> np.ndarray:
    """Exact mask of the ellipsoid: pixels whose ray meets it."""
    grid = (np.arange(SIZE) + 0.5 - SIZE / 2) / FOCAL
    rays = np.stack([*np.meshgrid(grid, grid), np.ones((SIZE, SIZE))], -1) @ view[:3, :3]
    eye = -view[:3, :3].T @ view[:3, 3]
    d, o = rays / HEAD, eye / HEAD
    return (d @ o) ** 2 >= (d * d).sum(-1) * (o @ o - 1)


def clip(turn: float = 12.0, count: int = 9):
    """Views of a head that turns a little; left half red, right half green, room blue."""
    yaws, pitches = turn * np.sin(np.arange(count)), 0.5 * turn * np.cos(np.arange(count))
    views = np.stack([turned(y, p) for y, p in zip(yaws, pitches, strict=True)]).astype(np.float32)
    masks = np.stack([silhouette(view) for view in views])
    images = np.zeros((count, SIZE, SIZE, 3), np.uint8)
    images[..., 2] = 250
    for image, mask, view in zip(images, masks, views, strict=True):
        middle = FOCAL * view[0, 3] / view[2, 3] + SIZE / 2
        left = mask & (np.arange(SIZE)[None] < middle)
        image[mask], image[left] = (20, 200, 20), (200, 20, 20)
    return views, masks, images


def cloud(num_points=6000, seed=0, turn=12.0, **kwargs):
    shape, triangles = face()
    views, masks, images = clip(turn)
    masks = kwargs.get("masks", masks)
    return head_cloud(shape, triangles, views, K, lambda k: masks[k], images, num_points, seed)


def test_cloud_has_the_shape_and_scale_of_the_head():
    points, colors = cloud()
    assert points.shape == colors.shape == (6000, 3)
    assert points.dtype == np.float32 and colors.dtype == np.uint8
    radius = np.linalg.norm(points / HEAD, axis=1)
    assert (radius < 1.35).all()
    # Top and sides come from the masks, the back from what heads are like.
    low, high = points.min(0), points.max(0)
    assert np.abs([low[0], high[0]] - np.asarray([-0.55, 0.55])).max() < 0.09
    assert low[1] == pytest.approx(-0.75, abs=0.1)
    assert 0.35 < high[2] < 0.9
    front = points[np.linalg.norm(points[:, :2] / HEAD[:2], axis=1) < 0.8]
    front = front[front[:, 2] < 0]
    expected = -HEAD[2] * np.sqrt(1 - ((front[:, :2] / HEAD[:2]) ** 2).sum(1))
    assert np.median(np.abs(front[:, 2] - expected)) < 0.03


def test_points_fall_inside_every_mask_and_fill_it():
    points, _ = cloud(20_000)
    views, masks, _ = clip()
    for view, mask in zip(views, masks, strict=True):
        camera = points @ view[:3, :3].T + view[:3, 3]
        pixels = np.floor(camera[:, :2] / camera[:, 2:] * FOCAL + SIZE / 2).astype(int)
        hit = np.zeros_like(mask)
        hit[pixels[:, 1], pixels[:, 0]] = True
        assert mask[pixels[:, 1], pixels[:, 0]].mean() > 0.97
        assert hit[mask].mean() > 0.95


def test_mouth_has_points_behind_the_lips():
    shape, _ = face()
    points, _ = cloud()
    lips = shape[LIPS_OUTER]
    near = (np.abs(points[:, :2] - lips[:, :2].mean(0)) < [0.1, 0.06]).all(1)
    depth = points[near, 2] - lips[:, 2].mean()
    assert ((depth > 0.01) & (depth < 0.2)).sum() > 40


def test_colors_are_those_of_the_frames_and_never_the_room():
    points, colors = cloud()
    assert (colors[:, 2] < 60).mean() > 0.97  # blue is the room
    left, right = points[:, 0] < -0.25, points[:, 0] > 0.25
    assert np.median(colors[left, 0]) > 150 and np.median(colors[left, 1]) < 60
    assert np.median(colors[right, 1]) > 150 and np.median(colors[right, 0]) < 60


def test_still_head_gets_a_depth_all_the_same():
    points, _ = cloud(turn=0.0)
    assert 0.35 < points[:, 2].max() < 0.9 and points[:, 2].min() > -0.75


def test_same_seed_same_cloud():
    first, again, other = cloud(500), cloud(500), cloud(500, seed=1)
    assert (first[0] == again[0]).all() and (first[1] == again[1]).all()
    assert (first[0] != other[0]).any()


def test_other_things_in_the_room_are_left_out():
    _, masks, _ = clip()
    masks = masks.copy()
    masks[:, :12, :12] = True
    points, _ = cloud(masks=masks)
    assert np.abs(points[:, 0]).max() < 0.7


def test_no_head_is_told():
    _, masks, _ = clip()
    with pytest.raises(InputError, match="no head"):
        cloud(masks=np.zeros_like(masks))
    with pytest.raises(ValueError, match="num_points"):
        cloud(num_points=10)
