"""Bundle adjustment and image refinement on synthetic heads whose poses are known."""

import cv2
import numpy as np
import pytest
import scipy.spatial

from egs_jax.face.mesh import RIGID_POINTS
from egs_jax.preprocess import pose_refinement, track_report, tracking
from egs_jax.runtime.errors import InputError

WIDTH = 256


def make_canonical(relief: float) -> tuple[np.ndarray, np.ndarray]:
    """A face-like height field [468, 3] in cm, `relief` 1 a face, 0 flat; and its triangles."""
    rng = np.random.default_rng(5)
    xy = rng.uniform((-6.5, -9.0), (6.5, 8.0), (468, 2))
    xy[RIGID_POINTS] = rng.uniform((-4.0, -1.5), (4.0, 6.0), (len(RIGID_POINTS), 2))
    corners = {33: (-4.5, 2.6), 133: (-1.8, 2.4), 362: (1.8, 2.4), 263: (4.5, 2.6), 94: (0, -2.0)}
    for index, place in corners.items():
        xy[index] = place
    x, y = xy.T
    z = relief * (6 - 0.09 * x**2 - 0.03 * y**2 + 2.5 * np.exp(-(x**2 + (y + 0.5) ** 2) / 3)) - 2
    triangles = scipy.spatial.Delaunay(xy).simplices
    return np.column_stack([x, y, z]).astype(np.float32), triangles


def make_poses(count: int, sway: float = 1.0, speed: float = 1.0) -> np.ndarray:
    """Smooth head motion [T, 6]: turning, nodding, moving."""
    t = speed * np.arange(count) / 25.0
    turn = [0.1 * np.sin(2.1 * t), 0.35 * np.sin(1.3 * t), 0.05 * np.sin(3.0 * t)]
    move = [0.1 * np.sin(1.7 * t), 0.05 * np.cos(2.3 * t), 4.0 + 0.1 * np.sin(t)]
    return np.stack(turn + move, axis=1) * ([sway] * 5 + [1.0])


def observe(track: tracking.HeadTrack) -> np.ndarray:
    """Noise-free landmarks [T, 478, 3] of a track, depth in the scale of x and y."""
    view = track.viewmats
    depth = np.einsum("tj,nj->tn", view[:, 2, :3], track.mean_shape) + view[:, None, 2, 3]
    scale = track.K[0, 0] / view[:, 2, 3]
    relative = (depth - view[:, None, 2, 3]) * scale[:, None]
    return np.concatenate([track.project(track.mean_shape), relative[..., None]], axis=-1)


def make_track(shape: np.ndarray, poses: np.ndarray, focal: float) -> tracking.HeadTrack:
    K = np.array([[focal, 0, WIDTH / 2], [0, focal, WIDTH / 2], [0, 0, 1]], np.float32)
    return tracking.HeadTrack(tracking.viewmats_of(poses), K, shape.astype(np.float32))


@pytest.fixture(scope="module")
def moving_head():
    """A head unlike the canonical one, seen with noise, a gap of 6 frames and 3 spoiled frames."""
    rng = np.random.default_rng(0)
    canonical, _ = make_canonical(1.0)
    start = tracking.initial_shape(canonical)
    warp = 0.04 * np.sin(start @ np.array([[5.0, 2, 1], [1, 6, 2], [3, 1, 4]]) + 1.0)
    truth = make_track(start + warp, make_poses(150), 1.75 * WIDTH)
    clean = observe(truth)
    landmarks = clean + rng.normal(0, 0.4, clean.shape)
    spoiled, gap = np.array([20, 77, 131]), np.arange(60, 66)
    landmarks[spoiled] = rng.uniform(0, WIDTH, (3, *clean.shape[1:]))
    landmarks[gap] = np.nan
    valid = np.ones(150, bool)
    valid[gap] = False
    landmarks = landmarks.astype(np.float32)
    track = tracking.track_head(landmarks, valid, WIDTH, WIDTH, canonical)
    return canonical, truth, clean, landmarks, valid, spoiled, gap, track


def rms(difference: np.ndarray) -> float:
    return float(np.sqrt((difference**2).sum(axis=-1).mean()))


def test_poses_and_shape_come_back(moving_head):
    canonical, truth, clean, _, valid, spoiled, gap, track = moving_head
    good = np.setdiff1d(np.arange(150), np.concatenate([spoiled, gap]))
    error = track.project(track.mean_shape[RIGID_POINTS]) - clean[:, RIGID_POINTS, :2]
    assert rms(error[good]) < 0.15  # of 0.57 px noise
    relative = np.einsum("tji,tjk->tik", truth.viewmats[:, :3, :3], track.viewmats[:, :3, :3])
    # The axes of the mean shape are free by a small constant rotation: compare the rest.
    u, _, vt = np.linalg.svd(relative[good].mean(axis=0))
    constant = u @ vt
    trace = np.einsum("tij,ij->t", relative[good], constant)
    angles = np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
    assert angles.max() < 1.5
    assert abs(track.K[0, 0] / truth.K[0, 0] - 1) < 0.1
    assert track.K[0, 2] == WIDTH / 2

    def shape_error(shape):
        return scipy.spatial.procrustes(truth.mean_shape[RIGID_POINTS], shape[RIGID_POINTS])[2]

    assert shape_error(track.mean_shape) < 0.1 * shape_error(tracking.initial_shape(canonical))


def test_outlier_frames_are_harmless_and_gaps_are_bridged(moving_head):
    _, _, clean, _, _, spoiled, gap, track = moving_head
    error = track.project(track.mean_shape[RIGID_POINTS]) - clean[:, RIGID_POINTS, :2]
    assert rms(error[spoiled]) < 0.5
    assert rms(error[gap]) < 2.0
    assert np.isfinite(track.viewmats).all()


def test_reprojection_rms_counts_valid_frames_only(moving_head):
    _, truth, clean, _, valid, _, gap, _ = moving_head
    shifted = clean + np.array([0.3, 0.4, 0.0])
    shifted[gap] = np.nan
    assert abs(tracking.reprojection_rms(truth, shifted, valid) - 0.5) < 1e-4


@pytest.mark.slow
def test_same_input_same_bits(moving_head):
    canonical, _, _, landmarks, valid, _, _, track = moving_head
    again = tracking.track_head(landmarks, valid, WIDTH, WIDTH, canonical)
    assert again.viewmats.tobytes() == track.viewmats.tobytes()
    assert again.mean_shape.tobytes() == track.mean_shape.tobytes()


def test_poses_survive_the_round_trip_through_matrices():
    poses = make_poses(50)
    np.testing.assert_allclose(tracking.poses_of(tracking.viewmats_of(poses)), poses, atol=1e-6)


def test_head_spans_the_agreed_world():
    # Chin and nose tip of an average face: y +0.8 below, z -0.7 towards the camera.
    chin, nose = tracking.canonical_to_world(np.array([[0.0, -9.4, 4.3], [0.0, -1.1, 7.5]]))
    np.testing.assert_allclose(chin, [0.0, 0.81, -0.44], atol=0.01)
    np.testing.assert_allclose(nose, [0.0, 0.23, -0.67], atol=0.01)


def test_no_face_at_all_is_the_users_fault():
    canonical, _ = make_canonical(1.0)
    with pytest.raises(InputError, match="no frame shows a face"):
        tracking.track_head(np.zeros((4, 478, 3)), np.zeros(4, bool), WIDTH, WIDTH, canonical)
    with pytest.raises(ValueError, match="canonical: expected shape"):
        tracking.track_head(np.zeros((4, 478, 3)), np.ones(4, bool), WIDTH, WIDTH, canonical[:9])


@pytest.fixture(scope="module")
def filmed_plane():
    """A flat, textured face filmed while it moves; its landmarks tremble as one by 0.7 px."""
    rng = np.random.default_rng(1)
    canonical, triangles = make_canonical(0.0)
    truth = make_track(tracking.initial_shape(canonical), make_poses(30, 0.5, 4.0), 1.7 * WIDTH)
    truth.mean_shape[:468, 2] = truth.mean_shape[0, 2]
    texture = cv2.GaussianBlur(rng.uniform(0, 255, (400, 400)).astype(np.float32), (0, 0), 4)
    texture = np.clip((texture - texture.mean()) * 8 + 128, 0, 255)
    background = cv2.GaussianBlur(rng.uniform(0, 255, (WIDTH, WIDTH)).astype(np.float32), (0, 0), 3)
    # Texture pixel centers (u, v) -> world plane: x = (u + 0.5) / 400 * 2 - 1, likewise y.
    to_world = np.array([[1 / 200, 0, 0.5 / 200 - 1], [0, 1 / 200, 0.5 / 200 - 1], [0, 0, 1]])
    shift = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])  # pixel centers at integers for cv2
    frames = []
    for view in truth.viewmats.astype(np.float64):
        plane = view[:3, :3] @ [0, 0, truth.mean_shape[0, 2]] + view[:3, 3]
        homography = shift @ truth.K @ np.column_stack([view[:3, 0], view[:3, 1], plane]) @ to_world
        image = background.copy()
        cv2.warpPerspective(
            texture, homography, (WIDTH, WIDTH), dst=image, borderMode=cv2.BORDER_TRANSPARENT
        )
        gray = np.clip(image + rng.normal(0, 1.5, image.shape), 0, 255).astype(np.uint8)
        frames.append(np.repeat(gray[..., None], 3, axis=2))
    clean = observe(truth)
    tremble = rng.normal(0, 0.5, (30, 1, 3)) + rng.normal(0, 0.3, clean.shape)
    landmarks = (clean + tremble).astype(np.float32)
    valid = np.ones(30, bool)
    track = tracking.track_head(landmarks, valid, WIDTH, WIDTH, canonical)
    refine = lambda images, track, landmarks: pose_refinement.refine_poses(
        images, track, landmarks, valid, canonical=canonical, triangles=triangles
    )
    return np.stack(frames), truth, clean, landmarks, valid, track, refine


def test_refined_poses_follow_the_image(filmed_plane):
    frames, truth, clean, landmarks, valid, track, refine = filmed_plane
    refined = refine(frames, track, landmarks)
    motion = np.diff(clean[:, RIGID_POINTS, :2], axis=0)
    moved = lambda t: np.diff(t.project(t.mean_shape[RIGID_POINTS]), axis=0)
    assert rms(motion) > 0.8  # there is something to follow
    assert rms(moved(track) - motion) > 0.6  # and landmarks alone tremble
    assert rms(moved(refined) - motion) < 0.1
    assert tracking.reprojection_rms(refined, clean.astype(np.float32), valid) < 0.6
    again = refine(lambda i: frames[i], track, landmarks)
    assert again.viewmats.tobytes() == refined.viewmats.tobytes()

    report = track_report.jitter_rms(frames, refined, landmarks, valid)
    assert report.posed < 0.25
    assert report.landmarks > 0.6
    assert report.head_posed < 0.15
    assert report.still > 0.8
    assert report.measured > 0.9


def test_a_still_head_is_still(filmed_plane):
    frames, _, clean, landmarks, valid, track, refine = filmed_plane
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 1.0, (30, *frames.shape[1:]))
    still = np.clip(frames[:1] + noise, 0, 255).astype(np.uint8)
    trembling = (clean[:1] + landmarks - clean).astype(np.float32)
    start = tracking.viewmats_of(np.repeat(tracking.poses_of(track.viewmats[:1]), 30, axis=0))
    refined = refine(still, track.replace(viewmats=start), trembling)
    moved = np.diff(refined.project(refined.mean_shape[RIGID_POINTS]), axis=0)
    assert rms(moved) < 0.06
    report = track_report.jitter_rms(still, refined, trembling, valid)
    assert report.posed < 0.1
    assert report.still < 0.1
    assert report.landmarks > 0.6


@pytest.mark.parametrize("count", [1, 2])
def test_the_shortest_clips_are_tracked(filmed_plane, count):
    frames, _, clean, landmarks, _, _, _ = filmed_plane
    canonical, triangles = make_canonical(0.0)
    valid = np.ones(count, bool)
    track = tracking.track_head(landmarks[:count], valid, WIDTH, WIDTH, canonical)
    refined = pose_refinement.refine_poses(
        frames, track, landmarks[:count], valid, canonical=canonical, triangles=triangles
    )
    assert refined.viewmats.shape == (count, 4, 4)
    assert tracking.reprojection_rms(refined, clean[:count], valid) < 1.5


def test_jitter_needs_two_faces_in_a_row(filmed_plane):
    frames, _, _, landmarks, _, track, _ = filmed_plane
    with pytest.raises(ValueError, match="two consecutive frames"):
        track_report.jitter_rms(frames, track, landmarks, np.arange(30) % 2 == 0)
