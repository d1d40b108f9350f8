"""The initial cloud by hand, its dead slots, and its activations."""

import jax
import numpy as np
import pytest

from egs_jax.model import gaussians
from egs_jax.model.gaussians import C0, empty_gaussians

POINTS = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]], np.float32)
COLORS = np.array([[255, 0, 51], [0, 0, 0], [255, 255, 255], [10, 20, 30]], np.uint8)


def init_gaussians(*arguments, **options):
    return jax.device_get(gaussians.init_gaussians(*arguments, **options))


def activate(cloud):
    return jax.device_get(jax.jit(gaussians.activate)(cloud))


def test_scales_come_from_the_three_nearest_neighbours():
    cloud, alive = init_gaussians(POINTS, COLORS, 6)
    np.testing.assert_array_equal(alive, [1, 1, 1, 1, 0, 0])
    squared = np.array([1 + 4 + 9, 1 + 5 + 10, 4 + 5 + 13, 9 + 10 + 13]) / 3
    np.testing.assert_allclose(
        cloud.log_scales[:4], np.repeat(0.5 * np.log(squared)[:, None], 3, axis=1), rtol=1e-6
    )
    np.testing.assert_array_equal(cloud.means[:4], POINTS)


def test_activated_colors_and_opacities_are_those_asked_for():
    cloud, _ = init_gaussians(POINTS, COLORS, 6)
    scales, opacities, sh = activate(cloud)
    assert sh.shape == (6, 16, 3)
    np.testing.assert_allclose(C0 * sh[:4, 0] + 0.5, COLORS / 255, atol=1e-6)
    assert not np.any(sh[:, 1:])
    np.testing.assert_allclose(opacities[:4], 0.1, rtol=1e-5)
    np.testing.assert_allclose(scales[0], np.sqrt(14 / 3), rtol=1e-6)
    np.testing.assert_array_equal(cloud.quats, np.tile([1, 0, 0, 0], (6, 1)))


def test_dead_slots_are_those_of_an_empty_cloud():
    cloud, _ = init_gaussians(POINTS, COLORS, 6)
    for filled, empty in zip(
        *map(jax.tree.leaves, (cloud, jax.device_get(empty_gaussians(6)))), strict=True
    ):
        assert filled.dtype == np.float32 and np.all(np.isfinite(filled))
        np.testing.assert_array_equal(filled[4:], empty[4:])
    assert activate(cloud)[1][5] < 1e-4


def test_coinciding_points_get_the_floor():
    cloud, _ = init_gaussians(np.zeros((5, 3), np.float32), np.zeros((5, 3), np.uint8), 5)
    np.testing.assert_allclose(cloud.log_scales, 0.5 * np.log(1e-7), rtol=1e-6)


def test_lower_degree_stores_fewer_coefficients():
    cloud, _ = init_gaussians(POINTS, COLORS, 4, sh_degree=1)
    assert cloud.shN.shape == (4, 3, 3)
    assert activate(cloud)[2].shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("points", "capacity", "message"),
    [
        (POINTS[:3], 6, "at least 4, got 3"),
        (POINTS, 3, "at most capacity=3, got 4"),
        (POINTS * np.float32(np.nan), 6, "finite"),
    ],
)
def test_misuse_is_named(points, capacity, message):
    with pytest.raises(ValueError, match=message):
        init_gaussians(points, COLORS[: len(points)], capacity)


def test_needles_are_cut_and_flat_gaussians_stay():
    scales = np.float32([[9, 1, 0.1], [0.1, 1, 9], [1, 9, 9], [3, 1, 1], [2, 2, 2], [4, 0.5, 4]])
    cloud = empty_gaussians(6).replace(log_scales=np.log(scales))
    cut = np.exp(
        jax.device_get(jax.jit(gaussians.shortened, static_argnums=1)(cloud, 4.0)).log_scales
    )
    expected = scales.copy()
    expected[0, 0] = expected[1, 2] = 4  # of a middle axis of 1
    np.testing.assert_allclose(cut, expected, rtol=1e-5)
