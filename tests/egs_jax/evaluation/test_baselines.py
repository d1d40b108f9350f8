"""The baselines on the painted clip; their scores on made-up pictures are in test_evaluate.py."""

import numpy as np
from helpers import SIZE

from egs_jax.data.dataset import Dataset
from egs_jax.evaluation.baselines import MeanFrame, NearestFrame


def test_the_mean_frame_is_that_of_training(painted):
    data = Dataset.open(painted)
    start, stop = data.splits["train"]
    want = np.mean([data.target(i) for i in range(start, stop)], axis=0) / 255
    np.testing.assert_allclose(MeanFrame(data)(stop), want, atol=1e-5)


def test_a_training_frame_is_its_own_nearest_and_moves_with_its_landmarks(painted):
    data = Dataset.open(painted)
    nearest = NearestFrame(data)
    for i in (0, 7):
        np.testing.assert_allclose(nearest(i), data.target(i) / np.float32(255), atol=1e-6)
    moved = nearest.guess(data.landmarks(7) + np.float32([3, 2, 0]))
    want = data.target(7)[: SIZE - 2, : SIZE - 3] / np.float32(255)
    np.testing.assert_allclose(moved[2:, 3:], want, atol=1e-5)
    np.testing.assert_array_equal(moved[:2], moved[2:3].repeat(2, axis=0))  # the border goes on
