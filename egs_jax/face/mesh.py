"""The 478-point face topology: index groups, canonical mesh, mouth and eye measures.

Point numbers are those of the face landmark network: 0..467 are the vertices of the canonical face
mesh, 468..472 and 473..477 the irises (center first). "Right" and "left" are the person's own; the
right eye is on the left of an unmirrored image.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from egs_jax.runtime.assets import asset_path
from egs_jax.runtime.errors import InputError
from kernels.checks import typechecked

NUM_LANDMARKS = 478
NUM_MESH_VERTICES = 468

# Points that move with the skull, not with expression: nose bridge and wings, eye corners, brows,
# forehead, upper cheeks.
RIGID_POINTS = np.array(
    [168, 6, 197, 195, 5, 4, 1, 19, 94, 33, 133, 362, 263, 70, 63, 105, 66, 107]
    + [336, 296, 334, 293, 300, 151, 9, 8, 55, 285, 50, 280, 205, 425]
)
# Closed outlines, each in order around the shape, starting at the person's right corner.
LIPS_OUTER = np.array(
    [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185]
)
LIPS_INNER = np.array(
    [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191]
)
RIGHT_EYE = np.array([33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246])
LEFT_EYE = np.array(
    [263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466]
)
RIGHT_BROW = np.array([70, 63, 105, 66, 107, 55, 65, 52, 53, 46])
LEFT_BROW = np.array([300, 293, 334, 296, 336, 285, 295, 282, 283, 276])
# Starts at the top of the forehead.
FACE_OVAL = np.array(
    [10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377]
    + [152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109]
)
RIGHT_IRIS = np.arange(468, 473)
LEFT_IRIS = np.arange(473, 478)

# (upper, lower) points facing each other.
_INNER_LIP_PAIRS = np.array([[82, 87], [13, 14], [312, 317]])
_RIGHT_LID_PAIRS = np.array([[160, 144], [159, 145], [158, 153]])
_LEFT_LID_PAIRS = np.array([[387, 373], [386, 374], [385, 380]])
_RIGHT_EYE_CORNERS = (33, 133)
_LEFT_EYE_CORNERS = (263, 362)


@typechecked
def mouth_opening(landmarks: Float[np.ndarray, "*T L 3"]) -> Float[np.ndarray, "*T"]:
    """Return the gap between the inner lips as a fraction of the distance of the outer eye corners.

    Mean 3-D distance of three facing pairs over a 3-D distance of the skull, so that turning the
    head or moving nearer changes little.

    Args:
      landmarks: Points, x, y and z in one unit (pixels, or any other).

    Returns:
      Opening, no unit: about 0.02 closed, 0.1 to 0.3 in speech.
    """
    gap = _pair_distances(landmarks, _INNER_LIP_PAIRS).mean(-1)
    return np.asarray(gap / _distance(landmarks, _RIGHT_EYE_CORNERS[0], _LEFT_EYE_CORNERS[0]))


@typechecked
def mouth_width(landmarks: Float[np.ndarray, "*T L 3"]) -> Float[np.ndarray, "*T"]:
    """Return the distance of the mouth's corners as a fraction of that of the outer eye corners.

    Args:
      landmarks: Points, x, y and z in one unit (pixels, or any other).

    Returns:
      Width, no unit: about 0.5; rounded lips less, a smile more.
    """
    corners = _distance(landmarks, LIPS_OUTER[0], LIPS_OUTER[10])
    return np.asarray(corners / _distance(landmarks, _RIGHT_EYE_CORNERS[0], _LEFT_EYE_CORNERS[0]))


@typechecked
def eye_openness(landmarks: Float[np.ndarray, "*T L 3"]) -> Float[np.ndarray, "*T 2"]:
    """Return how far each eye is open: gap of the lids over the width of the eye, in 3-D.

    Args:
      landmarks: Points, x, y and z in one unit (pixels, or any other).

    Returns:
      Openness of the person's (right, left) eye, no unit: about 0.3 open, below 0.15 shut.
    """
    right = _pair_distances(landmarks, _RIGHT_LID_PAIRS).mean(-1)
    left = _pair_distances(landmarks, _LEFT_LID_PAIRS).mean(-1)
    return np.stack(
        [
            right / _distance(landmarks, *_RIGHT_EYE_CORNERS),
            left / _distance(landmarks, *_LEFT_EYE_CORNERS),
        ],
        axis=-1,
    )


def _distance(landmarks: np.ndarray, first: int, second: int) -> np.ndarray:
    """Return the distance of two points, [*T]."""
    return np.linalg.norm(landmarks[..., first, :] - landmarks[..., second, :], axis=-1)


def _pair_distances(landmarks: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the distances of pairs of points, [*T, number of pairs]."""
    difference = landmarks[..., pairs[:, 0], :] - landmarks[..., pairs[:, 1], :]
    return np.linalg.norm(difference, axis=-1)


class CanonicalMesh(NamedTuple):
    """The average face that belongs to the landmark network."""

    vertices: Float[np.ndarray, "468 3"]
    """Centimeters; +x to the person's left (right of the image), +y up, +z out of the face."""
    triangles: Int[np.ndarray, "898 3"]
    """Vertex numbers, counter-clockwise seen from the front; eyes and mouth are closed."""
    uv: Float[np.ndarray, "468 2"]
    """Texture coordinates in [0, 1]; u to the right, v down from the top of the image."""


def canonical_face_mesh(task_path: str | Path | None = None) -> CanonicalMesh:
    """Read the canonical face mesh out of a face landmarker task file.

    To turn it to this project's world axes (OpenCV: y down, z into the head), negate y and z.

    Args:
      task_path: The task file; by default the pinned one, fetched if needed.

    Raises:
      InputError: if the file is missing or not a face landmarker task file.
    """
    task_path = asset_path("face_landmarker", task_path)
    content = read_task_member(task_path, "geometry_pipeline_metadata_landmarks.binarypb")
    # message PipelineMetadata { Mesh canonical_mesh = 1; ... }
    # message Mesh { int vertex_type = 1; int primitive_type = 2; repeated float vertex_buffer = 3;
    #                repeated uint32 index_buffer = 4; }   a vertex is x, y, z, u, v
    mesh = next(value for field, value in _protobuf_fields(content) if field == 1)
    fields = list(_protobuf_fields(mesh))
    buffer = np.frombuffer(b"".join(v for field, v in fields if field == 3), "<f4").reshape(-1, 5)
    triangles = np.array([v for field, v in fields if field == 4], np.int32).reshape(-1, 3)
    return CanonicalMesh(buffer[:, :3].copy(), triangles, buffer[:, 3:].copy())


def read_task_member(task_path: str | Path, member: str) -> bytes:
    """Return one file of a task file, which is a zip archive.

    Raises:
      InputError: if `task_path` is no such archive or lacks `member`.
    """
    try:
        with zipfile.ZipFile(task_path) as archive:
            return archive.read(member)
    except (OSError, zipfile.BadZipFile, KeyError) as why:
        raise InputError(
            f"{task_path}: not a face landmarker task file ({why}); give face_landmarker.task"
        ) from why


def _protobuf_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) of a protobuf message: varints as int, all else as bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        field, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, at = _varint(message, at)
        else:
            if wire_type == 2:
                size, at = _varint(message, at)
            else:
                size = {1: 8, 5: 4}[wire_type]
            value, at = message[at : at + size], at + size
        yield field, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Read a base-128 integer, least significant group first; return (value, next position)."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
