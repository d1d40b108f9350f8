"""The points that neck, shoulders, hair below the jaw and clothes start from.

What a camera in front sees of a body is its front half, and how deep it lies a clip hardly shows:
shoulders barely turn. So the silhouette is blown up like a cushion. At its edge the surface lies in
the plane of the neck's axis; inside, it comes forward as a circle does, until it is as far in front
of that plane as a chest is. Training moves the points from there. A closed column of skin stands
for the neck where the jaw hides it: poses that the clip does not show look at it.

Conventions: OpenCV axes, +y down; the points are in body space, which is head space at the rest
frame.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from kernels.checks import typechecked

_VIEWS = 24  # frames to use, spread evenly over the clip
_NECK_SHARE = 0.15
# In widths of the face, ear to ear:
_DEPTH = 0.55  # of the chest before the neck's axis
_NECK_RADIUS, _NECK_ABOVE, _NECK_BELOW = 0.36, 0.35, 0.4  # of its column, above and below the chin
_EARS, _CHIN = (234, 454), 152


@typechecked
def body_cloud(
    mean_shape: Float[np.ndarray, "478 3"],
    body_viewmats: Float[np.ndarray, "T 4 4"],
    K: Float[np.ndarray, "3 3"],
    head_masks: Sequence,
    person_masks: Sequence,
    frames: Sequence,
    num_points: int = 15_000,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "P 3"], UInt8[np.ndarray, "P 3"]]:
    """Make points of everything of the person that is not head.

    Args:
      mean_shape: The person's mean landmarks, world units.
      body_viewmats: Body poses, body to camera.
      K: Intrinsics [pixels].
      head_masks: Heads without neck by frame, bool [H, W].
      person_masks: Head, neck and torso by frame, uint8 [H, W]; above 127 is person.
      frames: RGB pictures by frame, uint8 [H, W, 3].
      num_points: Points to make.
      seed: Of the random numbers.

    Returns:
      points: float32 [num_points, 3]; none if no frame shows a body.
      colors: uint8 [num_points, 3], RGB.
    """
    random, count = np.random.default_rng(seed), len(body_viewmats)
    views = np.unique(np.linspace(0, count - 1, min(_VIEWS, count)).round().astype(int))
    shape = mean_shape.astype(np.float64)
    width = float(np.linalg.norm(shape[_EARS[1]] - shape[_EARS[0]]))
    axis = 0.5 * (shape[_EARS[0]] + shape[_EARS[1]])  # of the neck: between the ears' roots
    pieces = []
    for view in views:
        person, head = np.asarray(person_masks[view]) > 127, np.asarray(head_masks[view])
        viewmat = body_viewmats[view].astype(np.float64)
        axis_depth = float((viewmat[:3, :3] @ axis + viewmat[:3, 3])[2])
        rows, columns = np.nonzero(person & ~head)
        chosen = random.integers(0, max(len(rows), 1), -(-num_points // len(views)))
        chosen = chosen[: len(rows)]
        rows, columns = rows[chosen], columns[chosen]
        forward = _cushion(person, _DEPTH * width, axis_depth, K)
        depth = axis_depth - forward[rows, columns]
        camera = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], 1)
        camera = depth[:, None] * (camera @ np.linalg.inv(K.astype(np.float64)).T)
        pieces.append(
            ((camera - viewmat[:3, 3]) @ viewmat[:3, :3], np.asarray(frames[view])[rows, columns])
        )
    points, colors = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    if not len(points):
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
    order = random.permutation(len(points))[: num_points - round(_NECK_SHARE * num_points)]
    points, colors = points[order], colors[order]
    neck = _neck(shape, axis, width, num_points - len(points), random)
    near = np.argsort(np.linalg.norm(points - shape[_CHIN], axis=1))[: max(1, len(points) // 50)]
    skin = np.median(colors[near], axis=0).astype(np.uint8)
    colors = np.concatenate([colors, np.tile(skin, (len(neck), 1))])
    return np.concatenate([points, neck]).astype(np.float32), colors


def _cushion(
    person: Bool[np.ndarray, "H W"], most: float, depth: float, K: np.ndarray
) -> Float[np.ndarray, "H W"]:
    """Return how far before the neck's axis the body's surface lies [world units].

    A quarter of a circle of radius `most` from the silhouette's edge inwards, then flat. The
    picture's border is no edge: the body goes on there.
    """
    padded = np.pad(person.astype(np.uint8), 1, mode="edge")
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    inwards = np.minimum(distance * depth / float(K[0, 0]) / most, 1.0)
    return most * np.sqrt(1 - (1 - inwards) ** 2)


def _neck(
    shape: np.ndarray, axis: np.ndarray, width: float, count: int, random: np.random.Generator
) -> Float[np.ndarray, "count 3"]:
    """Draw points on an upright column around the neck's axis, up under the jaw."""
    around = random.uniform(0, 2 * np.pi, count)
    chin = shape[_CHIN, 1]
    height = random.uniform(chin - _NECK_ABOVE * width, chin + _NECK_BELOW * width, count)
    radius = _NECK_RADIUS * width
    return np.stack(
        [axis[0] + radius * np.sin(around), height, axis[2] + radius * np.cos(around)], axis=1
    )
