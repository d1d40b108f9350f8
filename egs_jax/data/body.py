"""The body's pose told from the head's path: shoulders follow the head, later and by less.

The six numbers of the body's motion about the rest pose (rotation vector and translation) are a
linear function of the head's at a few frames up to the one told, fitted by ridge regression. The
function looks back and never ahead, and no further than `HISTORY` frames: a path told in pieces
gives the bits that it gives in one. Where a path starts, its first pose is held before it.

Conventions: OpenCV axes; a pose is a rigid [4, 4] matrix to the camera. Letters: T frames, F the
head's numbers over all lags.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int
from scipy.spatial.transform import Rotation

from kernels.checks import require, typechecked

LAGS = (0, 5)
"""Frames back that the head's pose is looked at: more tell parts of a clip not seen no better."""
HISTORY = max(LAGS)
"""Frames before the one told that can matter."""
_RIDGE = 0.003  # of a standardized number's variance
_PARTS = 5  # stretches of the training frames, each held back once to ask whether it helps
_LEAST_GAIN = 0.05  # of a still body's error there: below, the body is still
_REACH = 0.25  # of the range seen in training, beyond its ends
# Where errors are measured, in body space: shoulders and chest of a head of about 2 units.
_SHOULDERS = np.array([[-0.9, 1.4, 0.1], [0.9, 1.4, 0.1], [0.0, 1.1, -0.1], [0.0, 1.8, -0.1]])


@dataclass(frozen=True)
class BodyModel:
    """A linear model of the body's motion; `fit` makes one.

    Attributes:
      rest: [4, 4] pose that head and body have in common at the rest frame.
      coefficients: [F + 1, 6] from the head's numbers about rest, lag by lag, and 1 (last).
      limits: [2, 6] least and largest body numbers that are ever told.
      error, still_error: Rms error of told shoulders on the training frames held back, and that of
        a body at its mean pose [radians of view; times the focal length: pixels].
    """

    rest: Float[np.ndarray, "4 4"]
    coefficients: Float[np.ndarray, "F 6"]
    limits: Float[np.ndarray, "2 6"]
    error: float
    still_error: float

    @property
    def follows(self) -> bool:
        """Whether the body moves at all."""
        return bool(np.any(self.coefficients[:-1] != 0))

    @classmethod
    @typechecked
    def fit(
        cls,
        viewmats: Float[np.ndarray, "T 4 4"],
        body_viewmats: Float[np.ndarray, "T 4 4"],
        rest: Float[np.ndarray, "4 4"],
        frames: Int[np.ndarray, " N"] | None = None,
        starts: Int[np.ndarray, " T"] | None = None,
    ) -> "BodyModel":
        """Fit to frames of a clip whose poses follow one another.

        Fifths of the frames are held back in turn and told from the rest; where that is not clearly
        better than a still body, the body is still at its mean pose.

        Args:
          viewmats: Head poses.
          body_viewmats: Body poses.
          rest: The head's pose at the rest frame, which is the body's too.
          frames: Those to learn from, such as the training frames, in order; None: all.
          starts: First frame of every frame's path, where the poses are of several; None: 0.

        Raises:
          ValueError: if there are fewer than 10 frames.
        """
        frames = np.arange(len(viewmats)) if frames is None else frames
        count = len(frames)
        require(count >= 10, f"frames: expected at least 10 to learn from, got {count}")
        rest = rest.astype(np.float64)
        head = _lagged(motion_about(viewmats, rest), frames, starts)
        body_viewmats = body_viewmats[frames]
        body = motion_about(body_viewmats, rest)
        part = np.arange(count) * _PARTS // count

        def error(ridge: float | None) -> float:
            body_told = np.empty_like(body)
            for k in range(_PARTS):
                learned = _ridge(head[part != k], body[part != k], ridge)
                body_told[part == k] = _applied(learned, head[part == k])
            return shoulder_rms(poses_about(body_told, rest), body_viewmats)

        found, still_error = error(_RIDGE), error(None)
        follows = found <= (1 - _LEAST_GAIN) * still_error
        low, high = body.min(axis=0), body.max(axis=0)
        limits = np.stack([low - _REACH * (high - low), high + _REACH * (high - low)])
        coefficients = _ridge(head, body, _RIDGE if follows else None)
        return cls(rest, coefficients, limits, found if follows else still_error, still_error)

    @typechecked
    def told(
        self,
        viewmats: Float[np.ndarray, "T 4 4"],
        frames: Int[np.ndarray, " N"] | None = None,
        starts: Int[np.ndarray, " T"] | None = None,
    ) -> Float32[np.ndarray, "N 4 4"]:
        """Return body poses at some frames of a head's path.

        Args:
          viewmats: The path, from its start or from `HISTORY` frames before the first frame told.
          frames: Numbers of its frames to tell; None: all.
          starts: First frame of every frame's path, where there are several; None: 0.

        Raises:
          ValueError: if a number is no frame of the path.
        """
        count = len(viewmats)
        numbers = np.arange(count) if frames is None else frames
        require(
            not len(numbers) or bool(0 <= numbers.min() and numbers.max() < count),
            f"frames: expected numbers in [0, {count}), got {list(numbers[:5])} ...",
        )
        head = _lagged(motion_about(viewmats, self.rest), numbers, starts)
        body = np.clip(_applied(self.coefficients, head), *self.limits)
        return poses_about(body, self.rest).astype(np.float32)


@typechecked
def motion_about(
    viewmats: Float[np.ndarray, "T 4 4"], rest: Float[np.ndarray, "4 4"]
) -> Float[np.ndarray, "T 6"]:
    """Return rotation vectors (in the camera's axes) and translations of poses since `rest`."""
    viewmats, rest = viewmats.astype(np.float64), rest.astype(np.float64)
    # Sums written out: a product of matrices may round otherwise for another number of rows.
    turned = sum(viewmats[:, :3, None, k] * rest[None, None, :3, k] for k in range(3))
    vectors = Rotation.from_matrix(turned).as_rotvec()
    return np.concatenate([vectors, viewmats[:, :3, 3] - rest[None, :3, 3]], axis=1)


@typechecked
def poses_about(
    motion: Float[np.ndarray, "T 6"], rest: Float[np.ndarray, "4 4"]
) -> Float[np.ndarray, "T 4 4"]:
    """Undo `motion_about`."""
    turns = Rotation.from_rotvec(motion[:, :3]).as_matrix()
    poses = np.tile(np.eye(4), (len(motion), 1, 1))
    poses[:, :3, :3] = sum(turns[:, :, k, None] * rest[None, None, k, :3] for k in range(3))
    poses[:, :3, 3] = motion[:, 3:] + rest[None, :3, 3]
    return poses


@typechecked
def shoulder_rms(
    told: Float[np.ndarray, "T 4 4"], body_viewmats: Float[np.ndarray, "T 4 4"]
) -> float:
    """Return how far apart two bodies' shoulders are seen, rms [radians; x focal length: px]."""
    seen = []
    for poses in (told, body_viewmats):
        points = np.einsum("tij,nj->tni", poses[:, :3, :3].astype(np.float64), _SHOULDERS)
        points += poses[:, None, :3, 3]
        seen.append(points[..., :2] / points[..., 2:])
    return float(np.sqrt(np.square(seen[0] - seen[1]).sum(axis=-1).mean()))


def _lagged(
    head: np.ndarray, numbers: np.ndarray, starts: np.ndarray | None = None
) -> Float[np.ndarray, "N F"]:
    """Return the head's numbers at all lags before some frames, the first pose held before it."""
    first = 0 if starts is None else starts[numbers]
    return np.concatenate([head[np.maximum(numbers - lag, first)] for lag in LAGS], axis=1)


def _applied(coefficients: np.ndarray, head: np.ndarray) -> Float[np.ndarray, "N 6"]:
    """Return the body's numbers; summed in a fixed order, so that every row has its own bits."""
    body = np.tile(coefficients[-1], (len(head), 1))
    for k in range(head.shape[1]):
        body = body + head[:, k : k + 1] * coefficients[k]
    return body


def _ridge(
    head: Float[np.ndarray, "T F"], body: Float[np.ndarray, "T 6"], ridge: float | None
) -> Float[np.ndarray, "F+1 6"]:
    """Fit coefficients, the constant last and free; None: the constant only."""
    mean, body_mean = head.mean(axis=0), body.mean(axis=0)
    if ridge is None:
        return np.concatenate([np.zeros((head.shape[1], body.shape[1])), body_mean[None]])
    # Turns and shifts are about alike in size; a number that never moved must not be blown up.
    spread = np.maximum(head.std(axis=0), 1e-3)
    scaled = (head - mean) / spread
    normal = scaled.T @ scaled / len(head) + ridge * np.eye(head.shape[1])
    slopes = np.linalg.solve(normal, scaled.T @ (body - body_mean) / len(head)) / spread[:, None]
    return np.concatenate([slopes, (body_mean - mean @ slopes)[None]])
