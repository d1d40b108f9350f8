"""A slice through time follows one line; the worst frames are in test_evaluate.py."""

import numpy as np

from egs_jax.evaluation import pictures


def test_slices_follow_one_row_and_one_column_through_the_video():
    video = np.random.default_rng(0).integers(0, 256, (2, 250, 6, 8, 3), np.uint8)  # 250 frames
    (told_row, row), (told_column, column) = pictures.slices_through_time(
        video[:, :, 2], video[:, :, :, 5]
    )
    assert "truth above" in told_column and "truth left" in told_row
    assert column.shape == (12, 500, 3) and row.shape == (500, 16, 3)  # a frame is two pixels
    for which, t in ((0, 7), (1, 249)):
        for at in (2 * t, 2 * t + 1):
            np.testing.assert_array_equal(column[6 * which :][:6, at], video[which, t, :, 5])
            np.testing.assert_array_equal(row[at, 8 * which :][:8], video[which, t, 2])
    long = np.zeros((2, 1200, 8, 3), np.uint8)
    assert [p.shape for _, p in pictures.slices_through_time(long, long)] == [
        (500, 16, 3), (16, 500, 3)
    ]  # fmt: skip
