"""The demo performer's body: a face that moves, a skull, eyes, teeth, hair, ears, neck and clothes.

Everything is built in centimeters in the axes of the canonical face (x right in the image, y up, z
towards the viewer), and turned into world units at the end. The face is the canonical mesh of the
landmark network with eyes and mouth cut open, lofted backwards into a skull and smoothed by one
Loop subdivision; the rest are parametric surfaces. All numbers are anatomy by eye, chosen here.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from egs_jax.face.mesh import FACE_OVAL, NUM_MESH_VERTICES, canonical_face_mesh
from egs_jax.performer.anatomy import (
    EYE_CENTERS,
    EYE_RADIUS,
    MOUTH,
    SKIN,
    skull_path,
    smoothstep,
)
from egs_jax.performer.mesh import incidence, loop_subdivision, strip
from egs_jax.performer.parts import build_parts
from egs_jax.runtime.assets import asset_path

UNITS_PER_CM = 1 / 14.0
ORIGIN_CM = np.array([0.0, 1.5, 0.0])
"""The point of the canonical face that is the world's origin: the middle of head and hair."""

# Loops of vertices of the canonical face, walked from the image's left over the top and back below.
LIPS_INNER_UP = [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308]
LIPS_INNER_LOW = [324, 318, 402, 317, 14, 87, 178, 88, 95]
LIPS_OUTER = [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291]
LIPS_OUTER += [375, 321, 405, 314, 17, 84, 181, 91, 146]
EYE_UP = (
    [33, 246, 161, 160, 159, 158, 157, 173, 133],
    [362, 398, 384, 385, 386, 387, 388, 466, 263],
)
EYE_LOW = ([155, 154, 153, 145, 144, 163, 7], [249, 390, 373, 374, 380, 381, 382])
LID_CREASE = ([247, 30, 29, 27, 28, 56, 190], [414, 286, 258, 257, 259, 260, 467])

_JAW_HINGE = np.array([0.0, 0.5, -1.0])
_FIRST_MOUTH_RIM = NUM_MESH_VERTICES + 2 * 16  # in the base mesh, after the rims of the lids
_JAW_ANGLE = 0.175
"""Jaw rotation at full opening [radians]: about 1.7 cm between the lips."""


@dataclass(frozen=True)
class Expression:
    """The moving parts of the face: in [0, 1], but gaze in radians (right, up) and brow in cm."""

    blink: float = 0.0
    opening: float = 0.0
    rounding: float = 0.0
    gaze: tuple[float, float] = (0.0, 0.0)
    brow: float = 0.0


@dataclass(frozen=True)
class HeadModel:
    """All meshes of the performer joined into one; vertices of a part are consecutive.

    Attributes:
      face_base: Vertices of the face before subdivision [Vb, 3] cm, mouth closed.
      face_jaw: Their share of the jaw's rotation [Vb].
      subdivide: Matrix [Vf, Vb] from those to the first Vf vertices of the whole mesh.
      rest: All vertices at rest [V, 3] cm.
      coords: What the shader paints by [V, 3]: rest position in cm, or a part's own coordinates.
      triangles: [F, 3]; materials: [F], one of `SKIN` ... `CLOTH`; gather: `incidence` of them.
      torso_weight: [V], 0 moves with the head, 1 with the torso.
      jaw_weight: [V], share of the jaw's rotation of parts behind the lips.
      shade: [V], painted-in occlusion (1 = open to the sky).
      lid_rows: Vertex ids of both upper lash lines.
    """

    face_base: np.ndarray
    face_jaw: np.ndarray
    subdivide: sp.csr_matrix
    rest: np.ndarray
    coords: np.ndarray
    triangles: np.ndarray
    materials: np.ndarray
    gather: sp.csr_matrix
    torso_weight: np.ndarray
    jaw_weight: np.ndarray
    shade: np.ndarray
    lid_rows: tuple[np.ndarray, ...]


def _neutral_face(points: np.ndarray) -> np.ndarray:
    """Return the canonical face with a closed mouth and wider eyes: its own are half of either."""
    points = points.astype(np.float64).copy()
    low = LIPS_INNER_LOW
    up = LIPS_INNER_UP[1:-1][::-1]
    middle = 0.45 * points[up] + 0.55 * points[low]
    points[up, 1], points[low, 1] = middle[:, 1] - 0.02, middle[:, 1] + 0.02
    smile = np.exp(-(((np.abs(points[:, 0]) - 2.7) / 1.1) ** 2) - ((points[:, 1] + 4.2) / 0.9) ** 2)
    points[:, 1] += 0.27 * smile
    points[:, 0] *= 1 + 0.02 * smile
    points[:, 0] *= 1 - 0.085 * smoothstep(-1.5, -8.0, points[:, 1])  # a lighter jaw
    nose = np.exp(-((points[:, 0] / 2.0) ** 4) - ((points[:, 1] + 0.8) / 2.0) ** 4)
    points[:, 0] *= 1 - 0.09 * nose
    for up_row, low_row, crease in zip(EYE_UP, EYE_LOW, LID_CREASE, strict=True):
        bow = np.sin(np.linspace(0, np.pi, len(up_row)))[1:-1]
        points[up_row[1:-1], 1] += 0.17 * bow
        points[low_row, 1] -= 0.12 * bow
        points[crease, 1] += 0.15 * bow
    for side in (-1, 1):
        eye = np.array([side * 3.15, 2.64])
        near = np.exp(-((np.linalg.norm(points[:, :2] - eye, axis=1) / 1.9) ** 4))[:, None]
        points[:, :2] += 0.13 * near * (points[:, :2] - eye)
    return points


def _build_face(
    canonical: np.ndarray, triangles: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Build the base mesh of face and skull: points [Vb, 3], triangles [F, 3], material [F]."""
    mouth = LIPS_INNER_UP + LIPS_INNER_LOW
    eyes = [up + low for up, low in zip(EYE_UP, EYE_LOW, strict=True)]
    for loop in (mouth, *eyes):
        triangles = triangles[~np.isin(triangles, loop).all(axis=1)]
    points, faces, kinds = (
        [_neutral_face(canonical)], [triangles], [np.full(len(triangles), SKIN)],
    )  # fmt: skip
    total = NUM_MESH_VERTICES

    def append(new_points: np.ndarray, new_faces: np.ndarray, kind: int) -> None:
        nonlocal total
        points.append(new_points)
        faces.append(new_faces)
        kinds.append(np.full(len(new_faces), kind))
        total += len(new_points)

    face = points[0]
    for eye, loop in enumerate(eyes):  # the lids' thickness: a rim turned in towards the eyeball
        arm = face[loop] - EYE_CENTERS[eye]
        rim = EYE_CENTERS[eye] + arm * (EYE_RADIUS - 0.1) / np.linalg.norm(arm, axis=1)[:, None]
        append(rim, strip(total + np.arange(len(loop)), loop), SKIN)
    previous = np.array(mouth)  # the lips roll in, then a bag closes the mouth
    for depth, spread in ((0.45, 0.22), (1.2, 0.9), (2.2, 1.2), (3.0, 0.9)):
        ring = face[mouth].copy()
        ring[:, 2] -= depth
        ring[: len(LIPS_INNER_UP), 1] += spread
        ring[len(LIPS_INNER_UP) :, 1] -= spread
        ids = total + np.arange(len(mouth))
        append(ring, strip(ids, previous), SKIN if depth < 1 else MOUTH)
        previous = ids
    fan = np.stack([np.roll(previous, -1), previous, np.full(len(mouth), total)], axis=1)
    append(np.array([[0.0, -4.2, 1.2]]), fan, MOUTH)

    ring_t = np.array([0.05, 0.12, 0.21, 0.32, 0.45, 0.6, 0.75, 0.9])
    rings = skull_path(face[FACE_OVAL], ring_t)
    previous = FACE_OVAL
    for ring in rings:
        ids = total + np.arange(len(FACE_OVAL))
        append(ring, strip(previous, ids), SKIN)
        previous = ids
    pole = skull_path(face[FACE_OVAL[:1]], np.ones(1))[0]
    close = np.stack([np.full(len(FACE_OVAL), total), previous, np.roll(previous, -1)], axis=1)
    append(pole, close, SKIN)
    return np.concatenate(points), np.concatenate(faces), np.concatenate(kinds)


def jaw_share(points: Float[np.ndarray, "Vb 3"]) -> Float[np.ndarray, " Vb"]:
    """Return the share of the jaw's rotation that each point of the neutral base mesh takes."""
    half = 0.05 + 0.55 * np.clip((np.abs(points[:, 0]) - 1.5) / 1.5, 0, 3.2)
    share = smoothstep(-4.26 + half, -4.26 - half, points[:, 1])
    share[LIPS_INNER_UP[1:-1]], share[LIPS_INNER_LOW] = 0.0, 1.0
    rims = share[_FIRST_MOUTH_RIM:].copy()
    for ring in range(4):
        rims[20 * ring : 20 * ring + 20] = share[LIPS_INNER_UP + LIPS_INNER_LOW]
    share[_FIRST_MOUTH_RIM:] = rims
    return share * smoothstep(-7.0, -0.5, points[:, 2])


def _rotate_jaw(points: np.ndarray, share: np.ndarray, opening: float) -> np.ndarray:
    """Turn `points` about the hinge by `share` of the jaw's angle; the chin goes down and back."""
    angle = _JAW_ANGLE * opening * share
    y, z = points[:, 1] - _JAW_HINGE[1], points[:, 2] - _JAW_HINGE[2]
    cos, sin = np.cos(angle), np.sin(angle)
    turned = points.copy()
    turned[:, 1] = _JAW_HINGE[1] + cos * y - sin * z
    turned[:, 2] = _JAW_HINGE[2] + sin * y + cos * z
    return turned


def deform_face(
    base: Float[np.ndarray, "Vb 3"], jaw: Float[np.ndarray, " Vb"], expression: Expression
) -> Float[np.ndarray, "Vb 3"]:
    """Move the base mesh of the face (before subdivision): jaw, lips, lids, brows.

    Args:
      base: Neutral vertices [cm].
      jaw: Their `jaw_share`.
      expression: The expression to make.

    Returns:
      Moved vertices [cm].
    """
    points = _rotate_jaw(base, jaw, expression.opening)
    x, y, z = base.T
    near = np.exp(-((x / 2.7) ** 2) - ((y + 4.3) / 1.7) ** 2) * smoothstep(1.0, 3.5, z)
    purse = expression.rounding - 0.22
    points[:, 0] -= 0.44 * purse * x * near
    points[:, 2] += 0.75 * purse * near
    points[:, 1] += 0.16 * expression.opening * near * (jaw < 0.5)
    brow = np.exp(-(((np.abs(x) - 3.2) / 2.6) ** 2) - ((y - 4.7) / 1.3) ** 2) * (z > 2)
    points[:, 1] += expression.brow * brow
    for up, low, crease in zip(EYE_UP, EYE_LOW, LID_CREASE, strict=True):
        upper, lower = points[up[1:-1]], points[low[::-1]]
        height = upper - lower
        target = lower + 0.02 * height
        droop = 0.10 * max(-expression.gaze[1], 0) / 0.15  # lids follow a look downwards
        amount = max(expression.blink, droop)
        points[up[1:-1]] = upper + amount * (target - upper)
        points[low[::-1]] = lower + 0.10 * expression.blink * height * np.array([0.0, 1.0, 0.0])
        points[crease] -= np.array([0.0, 0.30, 0.0]) * amount
    return points


def _keep_off_eyes(points: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Push the lids [V, 3] out of the eyeballs; `base` are the same vertices at rest."""
    points = points.copy()
    for center in EYE_CENTERS:
        near = np.flatnonzero((np.linalg.norm(base - center, axis=1) < 2.6) & (base[:, 2] > 2.6))
        arm = points[near] - center
        distance = np.linalg.norm(arm, axis=1)
        rim = np.linalg.norm(base[near] - center, axis=1) < EYE_RADIUS - 0.02
        wanted = np.maximum(distance, EYE_RADIUS + 0.12)
        points[near] = np.where(
            rim[:, None], points[near], center + arm * (wanted / distance)[:, None]
        )
    return points


def pose_face(model: HeadModel, expression: Expression) -> Float[np.ndarray, "Vf 3"]:
    """Return the surface of face and skull in cm; the first 468 are the landmarks' own."""
    face = model.subdivide @ deform_face(model.face_base, model.face_jaw, expression)
    return _keep_off_eyes(face, model.rest[: len(face)])


def pose_vertices(model: HeadModel, expression: Expression) -> Float[np.ndarray, "V 3"]:
    """Return all vertices in cm for one expression; those of `pose_face` come first."""
    points = _rotate_jaw(model.rest, model.jaw_weight, expression.opening)
    face = pose_face(model, expression)
    points[: len(face)] = face
    return points


def to_world(points: Float[np.ndarray, "*N 3"]) -> Float[np.ndarray, "*N 3"]:
    """Map points in centimeters to the world: OpenCV axes, the head spans about +-0.8."""
    return (points - ORIGIN_CM) * np.array([1.0, -1.0, -1.0]) * UNITS_PER_CM


@lru_cache(maxsize=1)
def build_head() -> HeadModel:
    """Build all meshes once (a fraction of a second)."""
    canonical = canonical_face_mesh(asset_path("face_landmarker"))
    base, base_triangles, base_kinds = _build_face(canonical.vertices, canonical.triangles)
    matrix, triangles = loop_subdivision(base_triangles, len(base))
    # Subdivision shrinks; over-correct the old vertices first so that the nose keeps its tip.
    even = matrix[: len(base)]
    matrix = (matrix @ (1.6 * sp.identity(len(base)) - 0.6 * even)).tocsr()
    face = _keep_off_eyes(matrix @ base, matrix @ base)
    parts = build_parts(base[FACE_OVAL])
    kinds = [np.tile(base_kinds, 4)] + [np.full(len(p.triangles), p.material) for p in parts]
    offset, faces = len(face), [triangles]
    for part in parts:
        faces.append(part.triangles + offset)
        offset += len(part.points)
    faces = np.concatenate(faces)
    flat = lambda name, first: np.concatenate([first] + [getattr(part, name) for part in parts])
    zeros = np.zeros(len(face))
    lids = tuple(_lash_row(base_triangles, len(base), row) for row in EYE_UP)
    return HeadModel(
        face_base=base,
        face_jaw=jaw_share(base),
        subdivide=matrix,
        rest=flat("points", face),
        coords=flat("coords", face),
        triangles=faces,
        materials=np.concatenate(kinds),
        gather=incidence(faces, offset),
        torso_weight=flat("torso_weight", zeros),
        jaw_weight=flat("jaw_weight", zeros),
        shade=flat("shade", np.ones(len(face))),
        lid_rows=lids,
    )


def _lash_row(triangles: np.ndarray, num_base: int, row: list[int]) -> np.ndarray:
    """Return vertex ids along an upper lid after subdivision: old ones and the middles between."""
    edges = np.unique(np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0)
    ids = [row[0]]
    for a, b in zip(row[:-1], row[1:], strict=True):
        pair = np.array([min(a, b), max(a, b)])
        middle = int(np.flatnonzero((edges == pair).all(axis=1))[0])
        ids += [num_base + middle, b]
    return np.array(ids)
