"""A drawn person whose masks are known: a face over neck and shirt in a room of two ramps."""

import cv2
import numpy as np

from egs_jax.face.mesh import FACE_OVAL, LIPS_OUTER

SIZE = 200
HEAD, NECK, SHIRT = (200, 90, 80), (190, 120, 90), (30, 40, 120)


def landmarks_at(x: float, y: float, radius: float = 40.0) -> np.ndarray:
    """Landmarks of an upright face whose outline is an ellipse 0.8 as wide as high."""
    points = np.random.default_rng(0).uniform(-0.4, 0.4, (478, 3))
    around = np.linspace(0, 2 * np.pi, len(FACE_OVAL), endpoint=False)
    points[FACE_OVAL, 0], points[FACE_OVAL, 1] = 0.8 * np.sin(around), -np.cos(around)
    points[[33, 263], :2] = [[-0.5, -0.3], [0.5, -0.3]]
    lips = np.linspace(0, 2 * np.pi, len(LIPS_OUTER), endpoint=False)
    points[LIPS_OUTER, 0], points[LIPS_OUTER, 1] = 0.3 * np.cos(lips), 0.5 + 0.1 * np.sin(lips)
    return (points * radius + np.asarray([x, y, 0.0])).astype(np.float32)


def room() -> np.ndarray:
    ramp = np.linspace(60, 160, SIZE)
    rows = np.broadcast_to(ramp[:, None], (SIZE, SIZE))
    return np.stack([rows, rows.T, np.full_like(rows, 90)], -1).astype(np.uint8)


def person_at(x: float, y: float = 90.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw a person: frame, true head (skull, face, ears), true person, landmarks."""
    head, rest = np.zeros((2, SIZE, SIZE), np.uint8)
    frame = room()
    cv2.rectangle(rest, (round(x - 20), round(y)), (round(x + 20), SIZE), 1, -1)
    cv2.ellipse(rest, (round(x), SIZE), (80, round(SIZE - y - 65)), 0, 0, 360, 2, -1)
    cv2.ellipse(head, (round(x), round(y)), (32, 40), 0, 0, 360, 1, -1)  # face
    cv2.ellipse(head, (round(x), round(y - 22)), (38, 38), 0, 180, 360, 1, -1)  # hair
    for side in (-1, 1):
        cv2.ellipse(head, (round(x + side * 36), round(y - 4)), (5, 12), 0, 0, 360, 1, -1)
    frame[rest == 1], frame[rest == 2], frame[head > 0] = NECK, SHIRT, HEAD
    return frame, head > 0, (head > 0) | (rest > 0), landmarks_at(x, y)
