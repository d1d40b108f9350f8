"""The cameras of a dataset in the form of AD-NeRF (`adnerf_folder`).

They stand twice there: as `transform_matrix` (camera to world, in units of a meter) in the json of
each split, and as the tracker's angles and shifts (head to camera, in units of 10 cm) in
`track_params.pt`. Both look along -z with y up, and both are the same pose.

World: head space of a 3-D morphable model (x right, y up, z out of the face), in the tracker's
units, which other trackers may choose as they like; `head_placement` brings it to ours.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation, Slerp

from egs_jax.adnerf.folder import AdNerfFolder
from egs_jax.adnerf.restricted_tensors import read_tensors
from egs_jax.runtime.errors import InputError

_OPENCV = np.diag([1.0, -1.0, -1.0])
_METERS = 10.0  # from the json's unit to the tracker's
_AGREE_DEGREES, _AGREE_SHARE = 0.5, 0.01  # of the distance: two records of one pose differ less
_SOURCES = ("transform_matrix", "track_params.pt")
_OFF_CENTER = 0.1  # of the width: the center of a picture may be so far from the optical axis


class Cameras(NamedTuple):
    """The cameras of all frames.

    Attributes:
      viewmats: World-to-camera transforms, OpenCV axes of the camera; interpolated if left out.
      K: Intrinsics [pixels].
      source: Where the poses are told.
      notes: What is to be said of them, a line each.
    """

    viewmats: Float[np.ndarray, "T 4 4"]
    K: Float[np.ndarray, "3 3"]
    source: str
    notes: tuple[str, ...]


class _Tracked(NamedTuple):
    """The tracker's record by frame number."""

    viewmats: Float[np.ndarray, "F 4 4"]
    focal: float | None


def read_cameras(theirs: AdNerfFolder, width: int, height: int) -> Cameras:
    """Read the cameras: the json's, or the tracker's where that has none.

    Args:
      theirs: The folder.
      width: Width of its frames [pixels].
      height: Height of its frames [pixels].

    Raises:
      InputError: if a frame has no camera, or what is told of them cannot be.
    """
    told = [theirs.entries[number].cam_to_world is not None for number in theirs.kept.tolist()]
    tracked = _tracked(theirs.folder, optional=all(told))
    viewmats, notes = _viewmats(theirs, tracked)
    sources = [name for name, has in zip(_SOURCES, (any(told), not all(told)), strict=True) if has]
    K = _intrinsics(theirs, tracked, width, height)
    return Cameras(viewmats, K, " and ".join(sources), notes)


def _tracked(folder: Path, optional: bool) -> _Tracked | None:
    """Read the tracker's own record; None if there is none."""
    path = folder / "track_params.pt"
    if not path.exists():
        return None
    try:
        found = read_tensors(path, ("euler", "trans", "focal"))
    except InputError as error:
        hint = "; the json has all cameras, so that the file may be taken away" if optional else ""
        raise InputError(f"{error}{hint}") from None
    if not {"euler", "trans"} <= set(found):
        raise InputError(f"{path}: has no euler and trans; give what the tracker wrote")
    euler, trans = found["euler"].astype(np.float64), found["trans"].astype(np.float64)
    focal = float(found["focal"].reshape(-1)[0]) if found.get("focal", np.zeros(0)).size else None
    if euler.ndim != 2 or euler.shape[1] != 3 or euler.shape != trans.shape:
        shapes = f"{list(euler.shape)} and {list(trans.shape)}"
        raise InputError(f"{path}: euler and trans are {shapes}, expected [F, 3] both")
    if not (np.isfinite(euler).all() and np.isfinite(trans).all()):
        raise InputError(f"{path}: has poses that are not finite; track the film again")
    return _Tracked(_tracker_viewmats(euler, trans), focal)


def _tracker_viewmats(
    euler: Float[np.ndarray, "F 3"], trans: Float[np.ndarray, "F 3"]
) -> Float[np.ndarray, "F 4 4"]:
    """Return world-to-camera transforms, OpenCV axes, of the tracker's poses.

    The rotation is Rx Ry Rz, the last with the opposite sign; the camera looks along -z, y up.
    """
    turns = Rotation.from_euler("XYZ", euler * [1, 1, -1]).as_matrix()
    viewmats = np.tile(np.eye(4), (len(euler), 1, 1))
    viewmats[:, :3, :3], viewmats[:, :3, 3] = _OPENCV @ turns, trans @ _OPENCV
    return viewmats


def _json_viewmat(cam_to_world: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """Return the same of a pose in a json, with the tracker's units."""
    viewmat, turn = np.eye(4), cam_to_world[:3, :3].T
    viewmat[:3, :3] = _OPENCV @ turn
    viewmat[:3, 3] = -_METERS * _OPENCV @ turn @ cam_to_world[:3, 3]
    return viewmat


def _viewmats(
    theirs: AdNerfFolder, tracked: _Tracked | None
) -> tuple[Float[np.ndarray, "T 4 4"], tuple[str, ...]]:
    """Return the poses of all frames, and what is to be said of them."""
    rows = 0 if tracked is None else len(tracked.viewmats)
    known, apart = [], []
    for number in theirs.kept.tolist():
        matrix, of_tracker = theirs.entries[number].cam_to_world, None
        if tracked is not None and number < rows:
            of_tracker = tracked.viewmats[number]
        if matrix is None and of_tracker is None:
            where = (
                "there is no track_params.pt"
                if tracked is None
                else f"track_params.pt has {rows} poses"
            )
            raise InputError(
                f"{theirs.folder}: frame {number} has no transform_matrix, and {where}; track the "
                "film again"
            )
        known.append(of_tracker if matrix is None else _json_viewmat(matrix))
        if matrix is not None and of_tracker is not None:
            apart.append(_difference(known[-1], of_tracker))
    degrees, share = np.median(apart, axis=0) if apart else (0.0, 0.0)
    notes = (
        f"track_params.pt and transforms_*.json differ by {degrees:.1f} degrees and "
        f"{share:.1%} of the distance: the json's cameras are taken",
    )
    is_same = degrees < _AGREE_DEGREES and share < _AGREE_SHARE
    return _interpolated(theirs.kept, np.stack(known), theirs.numbers), () if is_same else notes


def _difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Return the angle [degrees] between two poses and how far apart they are, of the distance."""
    turn = Rotation.from_matrix(a[:3, :3] @ b[:3, :3].T).magnitude()
    apart = np.linalg.norm(a[:3, 3] - b[:3, 3]) / max(float(np.linalg.norm(a[:3, 3])), 1e-9)
    return float(np.degrees(turn)), float(apart)


def _interpolated(
    kept: Int[np.ndarray, " N"], known: Float[np.ndarray, "N 4 4"], wanted: Int[np.ndarray, " T"]
) -> Float[np.ndarray, "T 4 4"]:
    """Return poses at the numbers `wanted`, which lie within those that are known."""
    if len(known) == 1:
        return np.tile(known, (len(wanted), 1, 1))
    viewmats = np.tile(np.eye(4), (len(wanted), 1, 1))
    viewmats[:, :3, :3] = Slerp(kept, Rotation.from_matrix(known[:, :3, :3]))(wanted).as_matrix()
    shifts = [np.interp(wanted, kept, column) for column in known[:, :3, 3].T]
    viewmats[:, :3, 3] = np.stack(shifts, -1)
    return viewmats


def _intrinsics(
    theirs: AdNerfFolder, tracked: _Tracked | None, width: int, height: int
) -> Float[np.ndarray, "3 3"]:
    """Return K; both splits must have the same."""
    found = []
    for split, path in theirs.files.items():
        told = theirs.told[split]
        focal = told.get("focal_len", told.get("fl_x", tracked and tracked.focal))
        try:
            row = np.array((focal, told.get("cx", width / 2), told.get("cy", height / 2)), float)
            if not (np.isfinite(row).all() and row[0] > 0):
                raise ValueError
        except (TypeError, ValueError):
            raise InputError(
                f"{path}: has no focal_len, cx and cy that make a camera; track the film again"
            ) from None
        if abs(2 * row[1] - width) > _OFF_CENTER * width:
            raise InputError(
                f"{path}: its cameras are of frames {2 * row[1]:g} px wide (cx {row[1]:g}), the "
                f"frames here have {width}; give the frames that were tracked"
            )
        found.append(row)
    if not np.allclose(*found, rtol=1e-4):
        train, val = (path.name for path in theirs.files.values())
        raise InputError(
            f"{theirs.folder}: {train} and {val} have different cameras (focal length "
            f"{found[0][0]:g} and {found[1][0]:g} px); make both of one tracking"
        )
    focal, cx, cy = found[0]
    return np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1]])
