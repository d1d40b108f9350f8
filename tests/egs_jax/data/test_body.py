"""Told bodies: known coefficients are found, pieces give the bits of the whole."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from egs_jax.data.body import HISTORY, LAGS, BodyModel, motion_about, poses_about, shoulder_rms

REST = np.eye(4)
REST[:3, :3] = Rotation.from_rotvec([0.1, -0.2, 0.05]).as_matrix()
REST[:3, 3] = 0.1, -0.2, 5.0


def head_path(frames: int = 400, seed: int = 0) -> np.ndarray:
    """Smooth wandering about the rest pose, [T,4,4]."""
    motion = gaussian_filter1d(np.random.default_rng(seed).normal(size=(frames, 6)), 3, axis=0)
    return poses_about(0.5 * motion, REST)


def body_of(path: np.ndarray, slopes: np.ndarray, lag: int) -> np.ndarray:
    """A body that follows the head's six numbers by `slopes`, `lag` frames later."""
    motion = motion_about(path, REST)
    return poses_about(motion[np.maximum(np.arange(len(path)) - lag, 0)] * slopes[None], REST)


def test_motion_and_poses_undo_each_other():
    path = head_path()
    np.testing.assert_allclose(poses_about(motion_about(path, REST), REST), path, atol=1e-12)
    np.testing.assert_allclose(motion_about(REST[None], REST), 0, atol=1e-12)


@pytest.mark.parametrize("lag", [0, 5])
def test_known_coefficients_are_found(lag):
    path, slopes = head_path(800), np.array([0.1, 0.2, 0.4, 0.5, 0.3, 0.6])
    body = body_of(path, slopes, lag)
    model = BodyModel.fit(path[:600], body[:600], REST)
    assert model.follows and model.error < 0.15 * model.still_error
    still = np.tile(REST, (200, 1, 1))
    assert shoulder_rms(model.told(path)[600:], body[600:]) < 0.15 * shoulder_rms(still, body[600:])
    first = 6 * LAGS.index(lag)
    np.testing.assert_allclose(np.diag(model.coefficients[first:]), slopes, rtol=0.2)


def test_body_that_does_not_follow_is_still():
    path, other = head_path(seed=1), head_path(seed=2)
    model = BodyModel.fit(path, body_of(other, np.full(6, 0.3), 0), REST)
    told = model.told(head_path(seed=3))
    assert not model.follows and model.error == model.still_error
    assert (told == told[:1]).all()
    still = BodyModel.fit(path, np.tile(REST, (len(path), 1, 1)), REST)
    np.testing.assert_allclose(still.told(path), np.tile(REST, (len(path), 1, 1)), atol=1e-6)


def test_pieces_give_the_bits_of_the_whole():
    path = head_path()
    model = BodyModel.fit(path, body_of(path, np.full(6, 0.4), 2), REST)
    whole = model.told(path)
    assert whole.dtype == np.float32 and whole.shape == path.shape
    for start, stop in ((0, 1), (1, 4), (4, 120), (120, 400)):
        first = max(0, start - HISTORY)
        piece = model.told(path[first:stop], np.arange(start - first, stop - first))
        np.testing.assert_array_equal(piece, whole[start:stop])
    np.testing.assert_array_equal(model.told(path, np.array([7, 300, 7])), whole[[7, 300, 7]])
    assert model.told(path, np.arange(0)).shape == (0, 4, 4)


def test_told_looks_back_only():
    path = head_path()
    model = BodyModel.fit(path, body_of(path, np.full(6, 0.4), 2), REST)
    changed = path.copy()
    changed[200:] = REST
    whole, other = model.told(path), model.told(changed)
    np.testing.assert_array_equal(whole[:200], other[:200])
    assert not np.array_equal(whole[200], other[200])
    held = np.concatenate([np.tile(path[:1], (HISTORY, 1, 1)), path])
    np.testing.assert_array_equal(model.told(held)[HISTORY:], whole)


def test_body_does_not_fly_away():
    path = head_path()
    body = body_of(path, np.full(6, 0.4), 0)
    model = BodyModel.fit(path, body, REST)
    far = motion_about(model.told(poses_about(np.full((30, 6), 2.0), REST)), REST)
    seen = motion_about(body, REST)
    span = np.ptp(seen, axis=0)
    assert (far <= seen.max(0) + 0.25 * span + 1e-5).all()
    assert (far >= seen.min(0) - 0.25 * span - 1e-5).all()


def test_what_cannot_be_told_is_refused():
    path = head_path(30)
    with pytest.raises(ValueError, match="at least 10 to learn from"):
        BodyModel.fit(path[:9], path[:9], REST)
    model = BodyModel.fit(path, path, REST)
    with pytest.raises(ValueError, match=r"numbers in \[0, 30\)"):
        model.told(path, np.array([30]))
