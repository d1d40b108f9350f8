"""Limits of poses: nothing within what training saw, the nearest seen view beyond, no kink."""

import jax
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from egs_jax.model import limits as module
from egs_jax.model import rigid
from egs_jax.model.limits import REACH, SLACK, Limits, soft
from egs_jax.model.skinning import placed
from egs_jax.types import Drive
from kernels import rasterize
from kernels.deform import Deformed

YAW, PITCH = 20.0, 10.0
SIZE = 32


def turned(yaws, pitches=0.0, distance=4.0):
    """View matrices of cameras in such directions of head space [degrees], which look at it."""
    yaws, pitches = np.broadcast_arrays(np.atleast_1d(yaws), pitches)
    made = np.tile(np.eye(4), (len(yaws), 1, 1))
    turns = Rotation.from_euler("YX", np.stack([yaws, pitches], axis=1), degrees=True)
    made[:, :3, :3] = turns.as_matrix()
    made[:, 2, 3] = distance
    return np.float32(made)


poses_of, placed_by = map(jax.jit, (Limits.poses, placed))


@jax.jit
def turns_of(limits, viewmats):
    return rigid.whole(limits.turns(rigid.parts(viewmats)))


@jax.jit
def cameras_told(limits, viewmats):
    """Where cameras are in head space, once the world is turned."""
    views = rigid.parts(viewmats)
    return rigid.inverse(rigid.product(views, rigid.inverse(limits.turns(views)))).shift


def told(limits, viewmats):
    """Yaw and pitch in head space of the directions in which colors are seen [degrees]."""
    x, y, z = map(np.asarray, cameras_told(limits, viewmats))
    return np.degrees(np.arctan2(x, -z)), np.degrees(np.arctan2(y, np.hypot(x, z)))


@pytest.fixture(scope="module")
def seen():
    """Training frames that turn by `YAW` and nod by `PITCH`, in an ellipse."""
    phase = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = np.tile([0.5, 1.0], 20)
    return turned(YAW * radius * np.cos(phase), PITCH * radius * np.sin(phase))


@pytest.fixture(scope="module")
def limits(seen):
    return Limits.of(seen)


def test_training_frames_keep_every_bit(seen, limits):
    np.testing.assert_array_equal(turns_of(limits, seen), [np.eye(4)] * len(seen))
    np.testing.assert_array_equal(poses_of(limits, seen), seen)


@pytest.mark.parametrize("seed", range(3))
def test_all_training_frames_are_inside_wherever_they_are(seed):
    """Random poses about a head that looks away from the camera, whose yaw passes 180 degrees."""
    rng = np.random.default_rng(seed)
    yaws = [20.0, 170.0, -100.0][seed] + rng.normal(size=200) * 15
    viewmats = turned(yaws, rng.normal(size=200) * 8)
    limits = Limits.of(viewmats)
    np.testing.assert_array_equal(turns_of(limits, viewmats), [np.eye(4)] * 200)
    np.testing.assert_array_equal(poses_of(limits, viewmats), viewmats)
    assert np.asarray(limits.values)[23] < np.radians(
        90
    )  # the range is that of the frames, not of a circle


def test_soft_limit_has_no_kink():
    values = np.float32([0.0, 0.3, 0.5, 1.0, 1.0 + 1e-4, 1.1, 9.0, 100.0])
    both = jax.jit(jax.vmap(jax.value_and_grad(soft)))
    limited, slope = map(np.asarray, both(values))
    np.testing.assert_array_equal(limited[:4], values[:4])
    np.testing.assert_allclose(slope[:5], 1, atol=1e-5)
    assert 0.5 < slope[5] < 1 and slope[6] < 1e-6
    assert limited[7] == pytest.approx(1 + REACH)


def test_directions_beyond_end_near_the_edge(limits):
    yaws = np.array([-170.0, -60, -25, -5, 0, 5, 15, 25, 60, 90, 170])
    yaw, pitch = told(limits, turned(yaws))
    edge = YAW * SLACK
    beyond = np.maximum(np.abs(yaws) / edge - 1, 0)
    want = np.where(beyond > 0, edge * (1 + REACH * np.tanh(beyond / REACH)), np.abs(yaws))
    np.testing.assert_allclose(yaw, np.sign(yaws) * want, atol=0.1)
    assert np.abs(yaw).max() <= edge * (1 + REACH) + 0.1
    np.testing.assert_allclose(pitch, 0, atol=0.1)
    assert np.all(np.diff(yaw) > -1e-4) and np.all(np.diff(yaw)[1:-2] > 0)


def test_the_edge_is_crossed_without_a_step_or_a_kink(limits):
    yaws = YAW * SLACK + np.linspace(-1, 1, 201)
    yaw, _ = told(limits, turned(yaws, 0.01))
    slopes = np.diff(yaw) / np.diff(yaws)
    np.testing.assert_allclose(slopes[:99], 1, atol=2e-2)  # of float32 at hundredths of a degree
    assert np.abs(np.diff(slopes[::10])).max() < 0.05 and slopes[-1] < 0.97


def test_the_world_is_turned_by_the_least_rotation(limits):
    viewmats = turned([60.0, -40, 10], [0.0, 30, -50])
    turns = np.asarray(turns_of(limits, viewmats), float)
    before = np.linalg.inv(np.float64(viewmats))[:, :3, 3]
    after = np.einsum("bij,bj->bi", turns[:, :3, :3], before)
    cosine = np.sum(before * after, axis=1) / 16
    angles = Rotation.from_matrix(turns[:, :3, :3]).magnitude()
    np.testing.assert_allclose(np.cos(angles), cosine, atol=1e-5)
    assert np.all(turns[:, :3, 3] == 0) and np.degrees(angles).min() > 20


def test_from_behind_is_finite(limits):
    viewmats = turned([180.0, 179.99, 0.0], [0.0, 0.0, 90.0])
    turns = np.asarray(turns_of(limits, viewmats))[:, :3, :3]
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), [np.eye(3)] * 3, atol=1e-4)
    assert np.isfinite(poses_of(limits, viewmats)).all()


def test_a_still_head_may_move_by_a_degree():
    limits = Limits.of(turned([0.0] * 5))
    yaw, _ = told(limits, turned([0.9, 10.0]))
    np.testing.assert_allclose(yaw, [0.9, 1 + REACH], atol=0.02)
    pose = np.asarray(poses_of(limits, turned([0.9, 10.0])))
    assert np.array_equal(pose[0], turned([0.9])[0])
    turn = Rotation.from_matrix(pose[1, :3, :3]).magnitude()
    assert np.degrees(turn) == pytest.approx(1 + REACH, abs=0.02)


def test_told_poses_end_near_the_seen_ones(seen, limits):
    far = turned([80.0, -80.0], distance=6.0)
    pose = np.asarray(poses_of(limits, far))
    turns = Rotation.from_matrix(pose[:, :3, :3]).as_rotvec(degrees=True)
    np.testing.assert_allclose(turns[:, 1], [25, -25], atol=0.5)
    np.testing.assert_allclose(turns[:, [0, 2]], 0, atol=1.5)
    np.testing.assert_allclose(pose[:, 2, 3], 4 + module.LEAST * (1 + REACH), atol=1e-3)
    # A little beyond is told nearly as it is.
    near = turned([YAW * 1.02, 0.0])
    np.testing.assert_allclose(poses_of(limits, near), near, atol=2e-3)
    assert np.any(np.asarray(poses_of(limits, near))[0] != near[0])


def picture(viewmats, limits, sh):
    """One round Gaussian at the middle of the head, as a person is drawn."""
    count = len(viewmats)
    filled = lambda *shape, value=0.0: np.full(shape, value, np.float32)
    cloud = Deformed(
        filled(1, 3), np.float32([[1, 0, 0, 0]]), filled(1, 3, value=0.4), filled(1, value=0.9), sh
    )
    K = np.float32([[50, 0, SIZE / 2], [0, 50, SIZE / 2], [0, 0, 1]])
    drive = Drive(
        audio_windows=filled(count, 8, 16, 1), eyes=filled(count), viewmats=viewmats,
        Ks=np.stack([K] * count), backgrounds=filled(count, SIZE, SIZE, 3),
    )  # fmt: skip
    moved, views = placed_by(cloud, filled(1), drive, limits)
    out = rasterize(*moved, views, drive.Ks, SIZE, SIZE, sh_degree=1, implementation="xla")
    return np.asarray(out.rgb), np.asarray(out.alpha)


def test_beyond_colors_are_those_of_the_edge_and_the_silhouette_is_the_true_one(limits):
    rng = np.random.default_rng(0)
    sh = np.float32(0.5 * rng.normal(size=(1, 4, 3)))
    far = turned([70.0, -70.0], [0.0, 0.0])
    edge = turned(np.degrees(np.asarray(limits.values)[23]) * (1 + REACH) * np.array([1.0, -1.0]))
    (mine, alpha), (free, silhouette) = (picture(far, limit, sh) for limit in (limits, None))
    np.testing.assert_allclose(mine, picture(edge, None, sh)[0], atol=1e-4)
    np.testing.assert_allclose(alpha, silhouette, atol=1e-5)
    assert np.abs(mine - free).max() > 0.05
    inside = turned([15.0, -12.0], [2.0, 3.0])
    for one, other in zip(picture(inside, limits, sh), picture(inside, None, sh), strict=True):
        np.testing.assert_array_equal(one, other)


def directions(viewmats):
    """Yaw and pitch of where cameras are in head space [degrees]."""
    x, y, z = np.einsum("tji,tj->it", viewmats[:, :3, :3], -viewmats[:, :3, 3])
    return np.degrees(np.stack([np.arctan2(x, -z), np.arctan2(y, np.hypot(x, z))], axis=1))


def test_who_goes_around_a_head_sees_it_from_there(limits):
    heads, bodies = turned([-5.0, 4.0], [2.0, 0.0]), turned([8.0, 1.0], distance=4.5)
    angles = np.array([[12.0, 3.0], [-9.0, -4.0]])
    seen, beside = limits.looked_at(heads, bodies, np.radians(angles))
    np.testing.assert_allclose(directions(seen), directions(heads) + angles, atol=1e-3)
    np.testing.assert_allclose(seen[:, :3, 3], heads[:, :3, 3], atol=1e-6)  # it stays in its place
    place = np.linalg.inv(heads) @ bodies
    np.testing.assert_allclose(np.linalg.inv(seen) @ beside, place, atol=1e-5)
    # By the shortest way: the picture does not roll more than it has to.
    turns = Rotation.from_matrix(heads[:, :3, :3]).inv() * Rotation.from_matrix(seen[:, :3, :3])
    ways = np.linalg.inv(heads)[:, :3, 3], np.linalg.inv(seen)[:, :3, 3]
    cosines = (ways[0] * ways[1]).sum(axis=1) / np.prod(np.linalg.norm(ways, axis=2), axis=0)
    np.testing.assert_allclose(turns.magnitude(), np.arccos(cosines), atol=1e-3)


def test_nobody_goes_further_than_training_and_a_little_more(limits):
    far = 1 + REACH
    heads, bodies = turned([0.0, 0.0, 3 * YAW]), turned([0.0] * 3)
    angles = np.radians([[90.0, 0.0], [0.0, -80.0], [10.0, 0.0]])
    found = directions(limits.looked_at(heads, bodies, angles)[0])
    want = [[far * YAW, 0], [0, -far * PITCH], [3 * YAW, 0]]  # the last stays as far out as it was
    np.testing.assert_allclose(found, want, atol=0.1)
    back = limits.looked_at(heads[2:], bodies[2:], np.radians([[-50.0, 0.0]]))[0]
    np.testing.assert_allclose(directions(back), [[3 * YAW - 50, 0]], atol=0.01)
