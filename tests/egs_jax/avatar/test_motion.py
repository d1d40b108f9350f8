"""Records of frames: what is packed is the codes and poses, to the step that is promised."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from egs_jax.avatar.motion import counted, packed, record, steps_of
from kernels.codes import limited


def ranges_of(rng, count):
    middles = rng.normal(size=count)
    half = rng.uniform(0.01, 30, count)
    return np.stack([middles - half, middles + half]).astype(np.float32)


@pytest.mark.parametrize("count", [1, 5, 32])
def test_packed_codes_and_poses_come_back(count, frames=7):
    rng = np.random.default_rng(count)
    ranges = ranges_of(rng, count)
    wild = 3 * (ranges[1] - ranges[0]) * rng.normal(size=(frames, count)).astype(np.float32)
    codes = np.asarray(limited(wild, ranges))
    poses = np.tile(np.eye(4, dtype=np.float32), (2, frames, 1, 1))
    turns = Rotation.random(2 * frames, rng=rng)
    poses[:, :, :3, :3] = turns.as_matrix().reshape(2, frames, 3, 3)
    poses[:, :, :3, 3] = rng.normal(size=(2, frames, 3))
    found = np.frombuffer(packed(ranges, codes, *poses).tobytes(), record(count))
    assert found.itemsize % 4 == 0 and found.itemsize <= 56 + 2 * count + 2
    middles = (ranges[0] + ranges[1]) / 2
    back = middles + found["codes"][:, :count] * steps_of(ranges)
    # Half a step, and what float32 rounds.
    most = 0.51 * steps_of(ranges) + 1e-6 * np.abs(ranges).max(axis=0)
    assert np.all(np.abs(back - codes) <= most[None])
    for name, wanted in zip(("head", "body"), poses, strict=True):
        w, shift = found[name][:, :1], found[name][:, 4:]
        got = Rotation.from_quat(np.concatenate([found[name][:, 1:4], w], axis=1)).as_matrix()
        np.testing.assert_allclose(got, wanted[:, :3, :3], atol=1e-6)
        np.testing.assert_array_equal(shift, wanted[:, :3, 3])


def test_the_ends_of_what_is_limited_are_the_ends_of_the_counts():
    ranges = np.float32([[-1.0, 2.0], [3.0, 2.5]])
    ends = np.asarray(limited(np.float32([[-1e9, 1e9], [1e9, -1e9]]), ranges))
    np.testing.assert_array_equal(counted(ranges, ends), [[-32767, 32767], [32767, -32767]])
