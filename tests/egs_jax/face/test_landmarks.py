"""Landmarks on a drawn face: the canonical mesh, shaded, with painted lips, eyes, brows and hair.

The drawing knows where its points are, so the networks and the geometry around them are checked
against it without any photograph.
"""

import dataclasses

import cv2
import numpy as np
import pytest

from egs_jax.face import landmarks
from egs_jax.face import mesh as face_mesh
from egs_jax.face.landmarks import FaceLandmarker, Roi, roi_of_landmarks
from egs_jax.face.mesh import canonical_face_mesh, eye_openness, mouth_opening
from egs_jax.runtime.errors import InputError

SIDE = 400
SCALE = 14.0  # pixels per centimeter
CENTER = np.array([200.0, 215.0])


def draw_face(jaw: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return an image and the [468, 3] pixel positions of its mesh; `jaw` opens the mouth [cm]."""
    mesh = canonical_face_mesh()
    vertices = mesh.vertices.astype(np.float64) * np.array([[1.0, -1.0, -1.0]])
    lower = np.isin(np.arange(468), face_mesh.LIPS_INNER[1:10])
    lower |= np.isin(np.arange(468), face_mesh.LIPS_OUTER[1:10])
    vertices[lower, 1] += jaw
    points = vertices * SCALE
    points[:, :2] += CENTER[None, :]

    image = np.full((SIDE, SIDE, 3), (96, 120, 140), np.uint8)
    cv2.ellipse(image, (200, 470), (175, 130), 0, 0, 360, (50, 60, 90), -1, cv2.LINE_AA)
    cv2.rectangle(image, (155, 300), (245, 380), (170, 125, 100), -1)
    cv2.ellipse(image, (200, 175), (124, 150), 0, 0, 360, (45, 32, 25), -1, cv2.LINE_AA)
    corners = points[mesh.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    light = np.array([0.25, -0.45, -0.86])
    shade = 0.45 + 0.55 * np.clip(np.abs(normals @ light), 0, 1)
    for k in np.argsort(-corners[:, :, 2].mean(1)):  # far to near
        fill(image, corners[k], tuple(float(shade[k] * c) for c in (224, 172, 145)))

    fill(image, points[face_mesh.LIPS_OUTER], (176, 84, 84))
    fill(image, points[face_mesh.LIPS_INNER], (60, 18, 20))
    for brow in (face_mesh.RIGHT_BROW, face_mesh.LEFT_BROW):
        fill(image, points[brow], (58, 40, 30))
    for eye in (face_mesh.RIGHT_EYE, face_mesh.LEFT_EYE):
        fill(image, points[eye], (238, 236, 232))
        x, y = points[eye, :2].mean(0)
        for radius, color in ((7, (84, 58, 40)), (3, (12, 10, 10))):
            cv2.circle(image, (round(x), round(y)), radius, color, -1, cv2.LINE_AA)
    return cv2.GaussianBlur(image, (0, 0), 1.0), points


def fill(image: np.ndarray, points: np.ndarray, color: tuple) -> None:
    """Fill a polygon given in pixels with centers at +0.5."""
    fixed = np.round((points[:, :2] - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(image, [fixed], color, cv2.LINE_AA, shift=4)


@pytest.fixture(scope="module")
def landmarker():
    return FaceLandmarker()


@pytest.fixture(scope="module")
def drawn():
    return draw_face()


@pytest.fixture(scope="module")
def face(landmarker, drawn):
    return landmarker.track(drawn[0], None)


def test_finds_the_drawn_face_where_it_is(landmarker, drawn, face):
    image, points = drawn
    (detection,) = landmarker.detect(image)
    assert detection.score > 0.6
    x_min, y_min, x_max, y_max = detection.box
    assert x_min < points[1, 0] < x_max and y_min < points[1, 1] < y_max
    assert face.score > 0.9
    assert face.landmarks.shape == (478, 3) and face.landmarks.dtype == np.float32
    error = np.linalg.norm(face.landmarks[:468, :2] - points[:, :2], axis=1)
    # The drawing is crude: a few per cent of the width of the face, but no systematic shift.
    assert error.mean() < 6.0
    rigid = face_mesh.RIGID_POINTS
    center = (face.landmarks[rigid, :2] - points[rigid, :2]).mean(0)
    assert np.abs(center).max() < 2.5
    # Depth: the nose tip is nearer than the sides of the face.
    assert face.landmarks[1, 2] < face.landmarks[[127, 356], 2].min()
    assert np.ptp(face.landmarks[:468, 2]) == pytest.approx(np.ptp(points[:, 2]), rel=0.35)


def test_mirroring_maps_x_to_width_minus_x(landmarker, drawn, face):
    """The network's own convention: 255 - x in its crop would shift the sum by over a pixel."""
    vertices = canonical_face_mesh().vertices
    mirrored = vertices * np.array([[-1, 1, 1]], np.float32)
    partner = np.linalg.norm(mirrored[:, None] - vertices[None], axis=-1).argmin(1)
    roi = face.roi
    flipped_roi = Roi(SIDE - roi.center_x, roi.center_y, roi.size, -roi.angle)
    flipped = landmarker.landmark(drawn[0][:, ::-1], flipped_roi).landmarks
    total = landmarker.landmark(drawn[0], roi).landmarks[:468, 0] + flipped[partner, 0]
    assert total.mean() == pytest.approx(SIDE, abs=0.6)


def test_tracking_follows_and_agrees_with_detection(landmarker, drawn, face):
    again = landmarker.track(drawn[0], face)
    assert np.abs(again.landmarks - face.landmarks)[:, :2].mean() < 0.5
    shift = np.float32([[1, 0, 6], [0, 1, -4]])
    moved = cv2.warpAffine(drawn[0], shift, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
    tracked = landmarker.track(moved, face)
    np.testing.assert_allclose(
        (tracked.landmarks - face.landmarks)[:, :2].mean(0), [6, -4], atol=0.7
    )


def test_a_lost_face_is_found_again_or_reported(landmarker, drawn, face):
    assert landmarker.track(np.zeros_like(drawn[0]), face) is None
    assert landmarker.detect(np.zeros_like(drawn[0])) == []
    wide = np.full((SIDE, 1000, 3), 90, np.uint8)
    wide[:, 600:] = drawn[0]
    far = landmarker.track(wide, face)  # `face` points at the empty left side
    np.testing.assert_allclose(
        far.landmarks[:, :2].mean(0), face.landmarks[:, :2].mean(0) + [600, 0], atol=3
    )


def test_of_two_faces_the_previous_one_is_kept_else_the_largest(landmarker, drawn):
    image = np.full((SIDE, 700, 3), 90, np.uint8)
    image[:, :SIDE] = drawn[0]
    image[100:400, 400:] = cv2.resize(drawn[0], (300, 300), interpolation=cv2.INTER_AREA)
    found = landmarker.detect(image)
    assert len(found) == 2 and found[0].area > found[1].area
    assert landmarker.track(image, None).landmarks[1, 0] < 400
    small = landmarker.landmark(image, landmarks.roi_of_detection(found[1]))
    assert landmarker.track(image, small).landmarks[1, 0] > 400
    # A region that holds only the small nose: lost, and found again as the face that overlaps it.
    nose = small.landmarks[1] + 0.02 * (small.landmarks - small.landmarks[1][None, :])
    lost = dataclasses.replace(small, landmarks=nose)
    assert landmarker.landmark(image, roi_of_landmarks(nose)).score < landmarks.MIN_PRESENCE
    assert landmarker.track(image, lost).landmarks[1, 0] > 400


def test_memory_layout_of_the_frame_does_not_matter(landmarker, drawn, face):
    padded = np.zeros((SIDE, SIDE + 14, 3), np.uint8)
    padded[:, :SIDE] = drawn[0]
    for layout in (padded[:, :SIDE], np.asfortranarray(drawn[0])):
        np.testing.assert_array_equal(landmarker.track(layout, None).landmarks, face.landmarks)


def test_crop_samples_pixel_centers_and_averages_when_it_shrinks():
    ramp = np.tile(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], (120, 1, 3))
    crop = landmarks._crop(ramp, Roi(60.0, 60.0, 48.0, 0.0), 16)  # 3 pixels to one, from x = 36
    expected = 2 * (36 + 3 * (np.arange(16) + 0.5) - 0.5)
    np.testing.assert_allclose(crop[8, :, 0], expected, atol=0.51)
    upright = landmarks._crop(ramp, Roi(60.0, 60.0, 48.0, np.pi / 2), 16)
    np.testing.assert_allclose(upright[:, 8, 0], expected[::-1], atol=0.51)
    enlarged = landmarks._crop(ramp, Roi(60.0, 60.0, 20.0, 0.0), 40)
    expected = 2 * (50 + 0.5 * (np.arange(40) + 0.5) - 0.5)
    np.testing.assert_allclose(enlarged[20, :, 0], expected, atol=0.51)
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 200
    crop = landmarks._crop(stripes, Roi(200.3, 200.0, 320.0, 0.0), 40)
    np.testing.assert_allclose(crop, 100.0, atol=8.0)


def test_rotated_region_is_undone(landmarker, drawn, face):
    center = (float(CENTER[0]), float(CENTER[1]))
    turn = cv2.getRotationMatrix2D(center, -25, 1.0)
    image = cv2.warpAffine(drawn[0], turn, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
    found = landmarker.track(image, None)
    assert np.degrees(found.roi.angle - face.roi.angle) == pytest.approx(25, abs=3)
    expected = (face.landmarks[:, :2] - 0.5) @ turn[:, :2].T + turn[:, 2][None, :] + 0.5
    assert np.linalg.norm(found.landmarks[:, :2] - expected, axis=1).mean() < 3.0
    assert roi_of_landmarks(found.landmarks).size == pytest.approx(face.roi.size, rel=0.05)


def test_an_open_mouth_is_seen(landmarker, face):
    wide = landmarker.track(draw_face(jaw=1.5)[0], None)
    assert mouth_opening(wide.landmarks) > mouth_opening(face.landmarks) + 0.08


def test_wrong_task_file_is_bad_input(tmp_path):
    wrong = tmp_path / "wrong.task"
    wrong.write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a face landmarker task file"):
        FaceLandmarker(wrong)
    with pytest.raises(InputError, match="no such file"):
        canonical_face_mesh(tmp_path / "absent.task")


def test_canonical_mesh():
    vertices, triangles, uv = canonical_face_mesh()
    assert vertices.shape == (468, 3) and triangles.shape == (898, 3) and uv.shape == (468, 2)
    assert triangles.min() == 0 and triangles.max() == 467
    assert vertices[263, 0] > 4 and vertices[33, 0] == -vertices[263, 0]  # left eye is at +x
    assert vertices[10, 1] > vertices[152, 1] and uv[10, 1] < uv[152, 1]  # forehead above chin
    assert vertices[:, 2].argmax() in (1, 4)  # the nose points out of the face
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, ::2]]))
    unique, count = np.unique(edges, axis=0, return_counts=True)
    oval = np.sort(np.stack([face_mesh.FACE_OVAL, np.roll(face_mesh.FACE_OVAL, -1)], 1))
    assert {tuple(e) for e in unique[count == 1]} == {tuple(e) for e in oval}
    known = {tuple(edge) for edge in unique}
    for name in ("LIPS_OUTER", "LIPS_INNER", "RIGHT_EYE", "LEFT_EYE", "RIGHT_BROW", "LEFT_BROW"):
        loop = getattr(face_mesh, name)
        assert {tuple(e) for e in np.sort(np.stack([loop, np.roll(loop, -1)], 1))} <= known, name


def test_measures_by_hand_and_under_rigid_motion():
    points = np.zeros((478, 3), np.float32)
    points[33], points[133] = (-4, 0, 0), (-2, 0, 0)
    points[263], points[362] = (4, 0, 0), (2, 0, 0)
    for lower in (87, 14, 317):
        points[lower, 1] = 0.8
    for lower in (144, 145, 153):
        points[lower] = (0, 0.3, 0.4)
    assert mouth_opening(points) == pytest.approx(0.1)
    np.testing.assert_allclose(eye_openness(points), [0.25, 0.0], atol=1e-6)
    turn, _ = np.linalg.qr(np.arange(9, dtype=np.float32).reshape(3, 3) ** 2 + np.eye(3))
    moved = (7 * points @ turn.T + 3).astype(np.float32)
    clip = np.stack([points, moved])
    np.testing.assert_allclose(mouth_opening(clip), [0.1, 0.1], rtol=1e-4)
    np.testing.assert_allclose(eye_openness(clip), [[0.25, 0.0]] * 2, atol=1e-4)


def test_overlapping_detections_are_averaged_by_score():
    rows = np.array([[0, 0, 10, 10], [0, 2, 10, 12], [50, 50, 60, 60]], float)
    merged = landmarks._merge_overlapping(rows, np.array([0.9, 0.6, 0.7]))
    assert [score for _, score in merged] == [0.9, 0.7]
    np.testing.assert_allclose(merged[0][0], [0, 0.8, 10, 10.8])
    np.testing.assert_allclose(merged[1][0], rows[2])
