"""Head poses, focal length and mean face shape from 2-D landmarks by robust bundle adjustment.

World: head space in OpenCV axes, fixed to the head and scaled so that the head spans about +-0.8;
the camera moves. The canonical mesh (centimeters, y up, z towards the camera) enters by
`canonical_to_world`. The principal point is the center of the (cropped) frame: for an off-center
crop this trades a small constant rotation for a simpler camera.

Shape of the trusted points and focal length are solved jointly on 128 evenly spread frames, the
poses eliminated; then poses and shape in turn on all frames; at last the poses as one chain, tied
by a very light constant-velocity prior that bridges frames without a face. A still head cannot
tell focal length from distance, so the focal length has a log-normal prior.
"""

from collections.abc import Sequence
from dataclasses import replace

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from egs_jax.face.mesh import NUM_LANDMARKS, NUM_MESH_VERTICES, RIGID_POINTS
from egs_jax.preprocess import bundle_adjustment as ba
from egs_jax.preprocess import geometry
from egs_jax.runtime.errors import InputError
from kernels.checks import require

# World units per centimeter of the canonical mesh, and the canonical point that becomes the origin:
# chin and top of the hair then lie at y = +-0.8, nose tip and back of the head at z = -+0.7.
WORLD_PER_CM = 0.07
CANONICAL_ORIGIN = (0.0, 2.2, -2.0)
FOCAL_PRIOR_WIDTHS = 1.7  # of the frame's width: a head-and-shoulders picture
_EYE_CORNERS = ((33, 133), (263, 362))  # (outer, inner): eye on the left of the image, then right

_EFFECTIVE_FRAMES = 50.0  # landmark errors repeat from frame to frame: so many count as independent
_SHAPE_STD = 0.05  # world units (7 mm): spread of people around the canonical mesh
_FOCAL_STD = 0.05  # of log focal
_SHAPE_STEPS = 4  # of Gauss and Newton where the cameras are given
NOISE_PER_EYE_DISTANCE = 0.01  # landmark noise, in distances between the outer corners of the eyes
_IMPLAUSIBLE = 0.25  # eye distances that a frame's landmarks may be off the average face
_OUTLIER_RATIO = 4.0  # a frame whose error is so many times the median counts as without a face


@flax.struct.dataclass
class HeadTrack:
    """The rigid motion of one head through a clip.

    Attributes:
      viewmats: World-to-camera transforms, OpenCV axes.
      K: Intrinsics [pixels], principal point at the frame's center.
      mean_shape: The person's own mean landmarks in the world.
    """

    viewmats: Float[np.ndarray, "T 4 4"]
    K: Float[np.ndarray, "3 3"]
    mean_shape: Float[np.ndarray, "478 3"]

    def project(
        self, points: Float[np.ndarray, "N 3"], frames: slice | np.ndarray = slice(None)
    ) -> Float[np.ndarray, "frames N 2"]:
        """Project world points into the given frames [pixels]."""
        view = np.asarray(self.viewmats[frames], np.float64)
        camera = np.einsum("tij,nj->tni", view[:, :3, :3], points) + view[:, None, :3, 3]
        return camera[..., :2] / camera[..., 2:] * np.diag(self.K)[:2] + self.K[:2, 2]


def canonical_to_world(points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """Map canonical-mesh points [cm, y up, z to the camera] to world space."""
    scale = np.array([WORLD_PER_CM, -WORLD_PER_CM, -WORLD_PER_CM])
    return ((points - np.array(CANONICAL_ORIGIN)) * scale).astype(np.float32)


def initial_shape(canonical: Float[np.ndarray, "468 3"]) -> Float[np.ndarray, "478 3"]:
    """Return the world-space start of the mean shape from the canonical mesh in cm.

    The mesh has no irises: each is put between its eye's corners, half a centimeter forward, with
    four rim points at the human iris radius of 0.585 cm.
    """
    require(
        canonical.shape == (NUM_MESH_VERTICES, 3),
        f"canonical: expected shape ({NUM_MESH_VERTICES}, 3), got {canonical.shape}; "
        "pass the canonical face mesh",
    )
    rim = 0.585 * np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0)])
    irises = [canonical[list(pair)].mean(axis=0) + (0.0, 0.0, 0.5) + rim for pair in _EYE_CORNERS]
    return canonical_to_world(np.concatenate([canonical, *irises]))


def landmark_weights(canonical: Float[np.ndarray, "468 3"]) -> Float[np.ndarray, "478"]:
    """Return the trust in each landmark, 0..1: full on rigid points, little where faces move.

    Lips and jaw (all below the base of the nose) weigh 0.02, lids and the sliding outline of the
    face 0.05, irises 0.01 and what remains 0.3.
    """
    weights = np.full(NUM_LANDMARKS, 0.3, np.float32)
    mesh = weights[:NUM_MESH_VERTICES]
    mesh[np.abs(canonical[:, 0]) > 6.0] = 0.05
    mesh[canonical[:, 1] < canonical[94, 1] - 0.3] = 0.02
    for outer, inner in _EYE_CORNERS:
        center = canonical[[outer, inner]].mean(axis=0)
        half_width = np.linalg.norm(canonical[outer] - canonical[inner]) / 2
        offset = (canonical - center)[:, :2] / (1.1 * half_width, 0.8 * half_width)
        mesh[(offset**2).sum(axis=1) < 1.0] = 0.05
    weights[NUM_MESH_VERTICES:] = 0.01
    weights[RIGID_POINTS] = 1.0
    return weights


_to_rotvec = jax.jit(geometry.matrix_to_rotvec)


@jax.jit
def _to_viewmats(poses: Float[jax.Array, "T 6"]) -> Float[jax.Array, "T 4 4"]:
    return geometry.rigid_transform(geometry.rotvec_to_matrix(poses[:, :3]), poses[:, 3:])


def poses_of(viewmats: Float[np.ndarray, "T 4 4"]) -> Float[np.ndarray, "T 6"]:
    """Return rotation vectors and translations (float64) of world-to-camera transforms."""
    rotvec = _to_rotvec(np.asarray(viewmats[:, :3, :3], np.float32))
    return np.concatenate([np.asarray(rotvec, np.float64), viewmats[:, :3, 3]], axis=1)


def viewmats_of(poses: Float[np.ndarray, "T 6"]) -> Float[np.ndarray, "T 4 4"]:
    """Return world-to-camera transforms (float32) of poses."""
    return np.asarray(_to_viewmats(np.asarray(poses, np.float32)))


def _first_poses(
    landmarks: np.ndarray, shape: np.ndarray, focal: float, center: np.ndarray
) -> np.ndarray:
    """Fit the mean shape to the landmarks in 3-D (their depth is rough): start poses [T, 6]."""
    source = shape[RIGID_POINTS].astype(np.float64)
    target = landmarks[:, RIGID_POINTS].astype(np.float64)
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=1)
    a, b = source - source_mean, target - target_mean[:, None]
    u, singular, vt = np.linalg.svd(np.einsum("tni,nj->tij", b, a))
    sign = np.ones_like(singular)
    sign[:, 2] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * sign[:, None]) @ vt
    scale = (singular * sign).sum(axis=1) / (a**2).sum()  # pixels per world unit
    depth = focal / np.maximum(scale, 1e-6)
    middle = np.concatenate(
        [(target_mean[:, :2] - center) / focal * depth[:, None], depth[:, None]], axis=1
    )
    translation = middle - rotation @ source_mean
    return np.concatenate(
        [np.asarray(_to_rotvec(rotation.astype(np.float32))), translation], axis=1
    )


def eye_distance_px(landmarks: Float[np.ndarray, "T 478 3"]) -> float:
    """Return the face's size: the median distance of the outer eye corners [px]."""
    return float(np.median(np.linalg.norm(landmarks[:, 33, :2] - landmarks[:, 263, :2], axis=-1)))


def observe(
    landmarks: Float[np.ndarray, "T 478 3"], valid: Bool[np.ndarray, " T"], width: int, height: int,
    weights: Float[np.ndarray, "478"],
) -> ba.Observations:  # fmt: skip
    """Return landmarks in px as centered, weighted observations; invalid frames weigh 0."""
    points2d = np.where(valid[:, None, None], landmarks[..., :2] - (width / 2, height / 2), 0.0)
    noise = NOISE_PER_EYE_DISTANCE * eye_distance_px(landmarks[valid])
    trust = valid[:, None] * weights[None]
    return ba.Observations(*(np.asarray(x, np.float32) for x in (points2d, trust, noise)))


def _solve_shape_and_focal(
    poses: np.ndarray, seen: ba.Observations, found: np.ndarray, prior: ba.Scene
) -> ba.Scene:
    """Solve shape and focal length: trusted points on some frames first, then all on all frames.

    The joint solve is cubic in the points; the distrusted ones would hardly steer it.
    """
    chosen = found[np.linspace(0, len(found) - 1, min(len(found), ba.CHUNK)).round().astype(int)]
    trusted = np.flatnonzero(seen.weights[found[0]] >= 0.3)
    some = ba.Observations(
        seen.points2d[np.ix_(chosen, trusted)], seen.weights[np.ix_(chosen, trusted)], seen.noise
    )
    std = np.append(np.full(3 * len(trusted), _SHAPE_STD), _FOCAL_STD)
    weight = lambda count: min(1.0, _EFFECTIVE_FRAMES / count)
    start = prior._replace(shape=prior.shape[trusted])
    part = ba.solve_scene(poses[chosen], start, some, std, weight(len(chosen)), steps=12)
    shape = np.array(prior.shape)
    shape[trusted] = part.shape
    scene = ba.Scene(jnp.asarray(shape), part.log_focal)
    for _ in range(2):
        poses = ba.solve_poses(poses, scene, seen, steps=6)[0]
        scene = ba.solve_shape(poses, scene, seen, prior, _SHAPE_STD, weight(len(found)))
    return scene


def track_head(
    landmarks: Float[np.ndarray, "T 478 3"],
    valid: Bool[np.ndarray, " T"],
    width: int,
    height: int,
    canonical: Float[np.ndarray, "468 3"],
    runs: Sequence[tuple[int, int]] | None = None,
) -> HeadTrack:
    """Track a head: one pose per frame, one focal length, one mean shape (bundle adjustment).

    Args:
      landmarks: Face landmarks, x and y in pixels of the frame, z in the same scale.
      valid: Whether a face was found; the others may hold anything and get interpolated poses.
      width: Frame width [pixels].
      height: Frame height [pixels].
      canonical: Canonical face mesh in centimeters.
      runs: Frames [start, stop) that follow one another in time; None: all do.

    Returns:
      The track; its principal point is the frame's center.

    Raises:
      InputError: if no frame has a face.
    """
    require(
        landmarks.shape == (len(valid), NUM_LANDMARKS, 3),
        f"landmarks: expected shape ({len(valid)}, {NUM_LANDMARKS}, 3), got {landmarks.shape}; "
        "pass one set per frame",
    )
    valid = np.asarray(valid, bool) & np.isfinite(landmarks).all(axis=(1, 2))
    if not valid.any():
        raise InputError(
            "video: no frame shows a face; use a clip with one person facing the camera"
        )
    shape, focal = initial_shape(canonical), FOCAL_PRIOR_WIDTHS * width
    poses, valid = _start(landmarks, valid, _track_of(shape, focal, width, height))
    seen = observe(landmarks, valid, width, height, landmark_weights(canonical))
    found = np.flatnonzero(valid)
    prior = ba.Scene(jnp.asarray(shape), jnp.float32(np.log(focal)))
    scene = _solve_shape_and_focal(poses, seen, found, prior)
    poses, normal, gradient, _ = ba.solve_poses(poses, scene, seen, steps=6)
    track = _track_of(np.asarray(scene.shape), float(np.exp(scene.log_focal)), width, height)
    error = _rigid_error(replace(track, viewmats=viewmats_of(poses)), landmarks)
    good = valid & (error < _OUTLIER_RATIO * np.median(error[found]))
    mean = np.einsum("tij,tj->ti", normal, poses) - gradient
    normal, mean = np.where(good[:, None, None], normal, 0.0), np.where(good[:, None], mean, 0.0)
    runs = [(0, len(valid))] if runs is None else runs
    return replace(track, viewmats=viewmats_of(ba.solve_chains(normal, mean, poses, runs)))


def fit_mean_shape(
    track: HeadTrack,
    landmarks: Float[np.ndarray, "T 478 3"],
    valid: Bool[np.ndarray, " T"],
    canonical: Float[np.ndarray, "468 3"],
) -> HeadTrack:
    """Solve the mean shape of a head whose cameras are known and held.

    Args:
      track: The cameras; its shape is where the solver starts.
      landmarks: Face landmarks, x and y in pixels of the frame.
      valid: Whether a face was found.
      canonical: Canonical face mesh in centimeters.

    Returns:
      The track with the person's own mean shape.
    """
    width, height = 2 * track.K[:2, 2]
    seen = observe(landmarks, valid, width, height, landmark_weights(canonical))
    prior = ba.Scene(jnp.asarray(initial_shape(canonical)), jnp.float32(np.log(track.K[0, 0])))
    scene = prior._replace(shape=jnp.asarray(track.mean_shape, jnp.float32))
    poses, weight = poses_of(track.viewmats), min(1.0, _EFFECTIVE_FRAMES / int(valid.sum()))
    for _ in range(_SHAPE_STEPS):
        scene = ba.solve_shape(poses, scene, seen, prior, _SHAPE_STD, weight)
    return replace(track, mean_shape=np.asarray(scene.shape))


def _track_of(shape: np.ndarray, focal: float, width: int, height: int) -> HeadTrack:
    """Make a track without frames."""
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], np.float32)
    return HeadTrack(viewmats=np.zeros((0, 4, 4), np.float32), K=K, mean_shape=shape)


def _rigid_error(track: HeadTrack, landmarks: np.ndarray) -> np.ndarray:
    """Return the median distance [T] of projected rigid points to their landmarks [px]."""
    difference = track.project(track.mean_shape[RIGID_POINTS]) - landmarks[:, RIGID_POINTS, :2]
    return np.median(np.linalg.norm(difference, axis=-1), axis=-1)


def _start(
    landmarks: np.ndarray, valid: np.ndarray, track: HeadTrack
) -> tuple[Float[np.ndarray, "T 6"], Bool[np.ndarray, " T"]]:
    """Return start poses, interpolated where there is no face, and the frames that show one.

    Landmarks that no pose of a face can explain, even roughly, are taken for a false detection.
    """
    focal, center = float(track.K[0, 0]), track.K[:2, 2]
    found = np.flatnonzero(valid)
    starts = _first_poses(landmarks[found], track.mean_shape, focal, center)
    error = _rigid_error(replace(track, viewmats=viewmats_of(starts)), landmarks[found])
    plausible = error < _IMPLAUSIBLE * eye_distance_px(landmarks[found])
    if not plausible.any():
        raise InputError(
            "video: the face is never seen well enough to track; use a clip of one person facing "
            "the camera in good light"
        )
    valid, starts = valid.copy(), starts[plausible]
    valid[found[~plausible]] = False
    found = found[plausible]
    frames = np.arange(len(valid))
    return np.stack([np.interp(frames, found, column) for column in starts.T], axis=1), valid


def reprojection_rms(
    track: HeadTrack, landmarks: Float[np.ndarray, "T 478 3"], valid: Bool[np.ndarray, " T"]
) -> float:
    """Return the root mean square distance [px] of rigid points to landmarks, valid frames only."""
    error = track.project(track.mean_shape[RIGID_POINTS]) - landmarks[:, RIGID_POINTS, :2]
    return float(np.sqrt((error[valid] ** 2).sum(axis=-1).mean()))
