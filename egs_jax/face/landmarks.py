"""Find a face and its 478 landmarks in video frames, tracking from frame to frame.

Runs the networks of `face_landmarker.task` with the LiteRT interpreter on the CPU; anchors,
decoding, non-maximum suppression, region of interest and tracking are written here. A frame is
detected once, then each frame's region comes from the landmarks of the frame before, until the
presence score falls.

Conventions: images uint8 [H, W, 3] RGB; positions are pixels with pixel centers at integer + 0.5,
so that x / W is in [0, 1] (checked on the network: mirroring an image maps x to W - x); z has the
scale of x and y, grows away from the camera and is 0 near the middle of the face.

The index groups, the canonical mesh and the mouth and eye measures are in `mesh`.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from egs_jax.face.litert import Network
from egs_jax.face.mesh import NUM_LANDMARKS, read_task_member
from egs_jax.runtime.assets import asset_path
from kernels.checks import typechecked

DETECTOR_SIZE = 128
LANDMARK_SIZE = 256
ROI_MARGIN = 1.5
MIN_DETECTION_SCORE = 0.5
MIN_PRESENCE = 0.5
NMS_IOU = 0.3


@dataclass(frozen=True)
class Roi:
    """A rotated square of the image that the landmark network looks at."""

    center_x: float
    """Center [pixels]."""
    center_y: float
    """Center [pixels]."""
    size: float
    """Side [pixels]."""
    angle: float
    """Angle of the line through the eyes, positive clockwise in the image [radians]."""

    def to_image(self) -> np.ndarray:
        """Return the affine map [2, 3] from crop coordinates in [0, 1]^2 to image pixels."""
        cos, sin = self.size * math.cos(self.angle), self.size * math.sin(self.angle)
        return np.array(
            [
                [cos, -sin, self.center_x - 0.5 * (cos - sin)],
                [sin, cos, self.center_y - 0.5 * (sin + cos)],
            ]
        )


@dataclass(frozen=True, eq=False)
class Detection:
    """One face found by the detector."""

    box: Float[np.ndarray, "4"]
    """x_min, y_min, x_max, y_max [pixels]; from the brows to the chin, tight."""
    score: float
    """Confidence in [0, 1]."""
    keypoints: Float[np.ndarray, "6 2"]
    """Right eye, left eye, nose tip, mouth, right ear, left ear [pixels]."""

    @property
    def area(self) -> float:
        """Area of the box [pixels^2]."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))


@dataclass(frozen=True, eq=False)
class Face:
    """The landmarks of one face in one frame."""

    landmarks: Float[np.ndarray, "478 3"]
    """x, y, z [pixels]."""
    score: float
    """Presence of a face in the region, in [0, 1]."""
    roi: Roi
    """The region that was looked at."""

    @property
    def box(self) -> np.ndarray:
        """Bounding box of the landmarks: x_min, y_min, x_max, y_max [pixels]."""
        points = self.landmarks[:, :2]
        return np.concatenate([points.min(0), points.max(0)])


class FaceLandmarker:
    """A finder of faces and their landmarks: the loaded networks and no other state.

    Typical use::

        landmarker = FaceLandmarker()
        face = None
        for frame in frames:
            face = landmarker.track(frame, face)   # None where no face is seen
    """

    def __init__(self, task_path: str | Path | None = None, *, threads: int = 2):
        """Load the networks.

        Args:
          task_path: The task file; by default the pinned one, fetched if needed.
          threads: CPU threads of each network.

        Raises:
          InputError: if the task file is missing or is something else.
        """
        path = asset_path("face_landmarker", task_path)

        def load(member: str, *input_shape: int) -> Network:
            content = read_task_member(path, member)
            return Network(
                content, label=f"{path}/{member}", input_shape=(1, *input_shape), threads=threads
            )

        self._detector = load("face_detector.tflite", DETECTOR_SIZE, DETECTOR_SIZE, 3)
        self._landmarker = load("face_landmarks_detector.tflite", LANDMARK_SIZE, LANDMARK_SIZE, 3)
        self._anchors = _anchors()

    @typechecked
    def detect(self, rgb: UInt8[np.ndarray, "H Wd 3"]) -> list[Detection]:
        """Find all faces of an image, largest first: heads of an eighth of its longer side or more.

        Args:
          rgb: The image; any memory layout.

        Returns:
          Detections with score >= `MIN_DETECTION_SCORE`, overlapping ones merged.
        """
        height, width = rgb.shape[:2]
        side = max(height, width)
        crop = _crop(rgb, Roi(width / 2, height / 2, side, 0.0), DETECTOR_SIZE, border_black=True)
        outputs = self._detector(crop / 127.5 - 1.0)
        raw = outputs["regressors"][0].reshape(-1, 8, 2) / DETECTOR_SIZE  # center, size, 6 points
        scores = _sigmoid(outputs["classificators"][0, :, 0])
        keep = scores >= MIN_DETECTION_SCORE
        points = raw[keep] + self._anchors[keep][:, None, :]
        half = raw[keep, 1] / 2
        rows = np.concatenate(
            [points[:, 0] - half, points[:, 0] + half, points[:, 2:].reshape(-1, 12)], axis=1
        )
        offset = np.tile([(width - side) / 2, (height - side) / 2], 8)[None, :]
        found = [
            Detection(row[:4], score, row[4:].reshape(6, 2))
            for row, score in _merge_overlapping(rows * side + offset, scores[keep])
        ]
        return sorted(found, key=lambda detection: -detection.area)

    @typechecked
    def track(self, rgb: UInt8[np.ndarray, "H Wd 3"], previous: Face | None) -> Face | None:
        """Find the landmarks of one face, near where it was in the previous frame.

        With `previous`, its landmarks give the region; the detector runs only if no face is there
        any more, or if `previous` is None. Of several detected faces the one that overlaps
        `previous` most is taken, else the largest.

        Args:
          rgb: The frame; any memory layout.
          previous: The same face one frame before, or None.

        Returns:
          The face, or None if there is none.
        """
        if previous is not None:
            face = self.landmark(rgb, roi_of_landmarks(previous.landmarks))
            if face.score >= MIN_PRESENCE:
                return face
        found = self.detect(rgb)
        if not found:
            return None
        if previous is not None:
            box = previous.box
            found.sort(key=lambda detection: -_iou(detection.box, box[None])[0])
        return self.landmark_detection(rgb, found[0])

    def landmark_detection(
        self, rgb: UInt8[np.ndarray, "H Wd 3"], detection: Detection
    ) -> Face | None:
        """Find the landmarks of a detected face; None if it turns out to be none."""
        face = self.landmark(rgb, roi_of_detection(detection))
        if face.score >= MIN_PRESENCE:
            # Once more from its own landmarks, so that first frames look like tracked ones.
            face = self.landmark(rgb, roi_of_landmarks(face.landmarks))
        return face if face.score >= MIN_PRESENCE else None

    @typechecked
    def landmark(self, rgb: UInt8[np.ndarray, "H Wd 3"], roi: Roi) -> Face:
        """Run the landmark network on one region; the score may say that no face is there."""
        crop = _crop(rgb, roi, LANDMARK_SIZE)
        outputs = self._landmarker(crop / 255.0)
        raw = outputs["Identity"].reshape(NUM_LANDMARKS, 3) / LANDMARK_SIZE
        image_from_crop = roi.to_image()
        landmarks = np.empty((NUM_LANDMARKS, 3), np.float32)
        landmarks[:, :2] = raw[:, :2] @ image_from_crop[:, :2].T + image_from_crop[:, 2][None, :]
        landmarks[:, 2] = raw[:, 2] * roi.size
        score = float(_sigmoid(outputs["Identity_1"].reshape(())))
        return Face(landmarks, score, roi)


def roi_of_detection(detection: Detection) -> Roi:
    """Return the region for the landmark network: the box, widened, upright by the eyes."""
    right_eye, left_eye = detection.keypoints[0], detection.keypoints[1]
    center = (detection.box[:2] + detection.box[2:]) / 2
    size = ROI_MARGIN * np.max(detection.box[2:] - detection.box[:2])
    return Roi(float(center[0]), float(center[1]), float(size), _angle(left_eye - right_eye))


def roi_of_landmarks(landmarks: Float[np.ndarray, "478 3"]) -> Roi:
    """Return the region for the next frame: the bounding square upright by the eyes, widened."""
    angle = _angle(landmarks[263, :2] - landmarks[33, :2])
    cos, sin = math.cos(angle), math.sin(angle)
    face_from_image = np.array([[cos, sin], [-sin, cos]])
    points = landmarks[:, :2] @ face_from_image.T
    low, high = points.min(0), points.max(0)
    center = face_from_image.T @ ((low + high) / 2)
    return Roi(float(center[0]), float(center[1]), float(ROI_MARGIN * np.max(high - low)), angle)


def _angle(direction: np.ndarray) -> float:
    """Return the angle of a vector from +x towards +y [radians]."""
    return math.atan2(float(direction[1]), float(direction[0]))


def _crop(rgb: np.ndarray, roi: Roi, side: int, *, border_black: bool = False) -> np.ndarray:
    """Resample a region to float32 [side, side, 3] in 0..255, averaging where it shrinks a lot."""
    # cv2 reads rows by their stride; decoders hand out padded rows, so make them contiguous.
    image = np.ascontiguousarray(rgb)
    factor = max(1, int(roi.size / side))
    fine = side * factor
    affine = roi.to_image()
    affine[:, :2] /= fine  # index of the fine crop -> image, still with pixel corners at integers
    affine[:, 2] += 0.5 * affine[:, :2].sum(1) - 0.5  # cv2 has pixel centers at integers
    crop = cv2.warpAffine(
        image,
        affine,
        (fine, fine),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT if border_black else cv2.BORDER_REPLICATE,
    )
    if factor > 1:
        crop = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    return crop.astype(np.float32)


def _anchors() -> np.ndarray:
    """Return the centers [896, 2] of the detector's cells in [0, 1]: 2 of 16x16, then 6 of 8x8."""
    grids = []
    for cells, repeats in ((16, 2), (8, 6)):
        line = (np.arange(cells) + 0.5) / cells
        y, x = np.meshgrid(line, line, indexing="ij")
        grids.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), repeats, axis=0))
    return np.concatenate(grids)


def _merge_overlapping(rows: np.ndarray, scores: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """Average each cluster of overlapping rows by score; the first 4 numbers are the box."""
    left = np.argsort(-scores, kind="stable")
    merged = []
    while left.size:
        best = left[0]
        near = _iou(rows[best], rows[left]) > NMS_IOU
        near[0] = True  # a box of no area overlaps nothing, not even itself
        cluster = left[near]
        mean = np.average(rows[cluster], axis=0, weights=scores[cluster])
        merged.append((mean, float(scores[best])))
        left = left[~near]
    return merged


def _iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return intersection over union of one box with [N] others; rows may be longer than 4."""
    low = np.maximum(box[None, :2], boxes[:, :2])
    high = np.minimum(box[None, 2:4], boxes[:, 2:4])
    common = np.prod(np.clip(high - low, 0, None), axis=1)
    area = np.prod(box[2:4] - box[:2]) + np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1)
    return common / np.maximum(area - common, 1e-9)


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    """Return the logistic function, safe against overflow."""
    return 1.0 / (1.0 + np.exp(-np.clip(logit, -80.0, 80.0)))
