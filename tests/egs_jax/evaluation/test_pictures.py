"""Slices and the opening of the lips through time; the worst frames are in test_evaluate.py."""

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


def test_lines_of_the_opening_are_at_its_height_and_closures_are_colored():
    true = np.array([1.0, 1.0, 1.0, np.nan, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    rendered = np.full(12, 0.5)
    picture = pictures.opening_lines(true, rendered, np.array([0, 8]), np.array([True, False]))
    assert picture.shape == (161, 24, 3)
    at = lambda t, opening: tuple(picture[round(160 * (1 - opening)), 2 * t + 1].tolist())
    assert at(1, 1) == at(5, 0) == at(11, 0) == pictures.TRUE
    assert at(0, 0.5) == at(3, 0.5) == at(11, 0.5) == pictures.RENDERED
    assert at(3, 0) == at(3, 1) == (255, 255, 255)  # a gap
    bands = [at(t, 0.25) for t in range(12)]
    white = 3 * [(255, 255, 255)]
    assert bands == 3 * [pictures.CLOSED] + white + 5 * [pictures.MISSED] + white[:1]
    nothing = np.full(5, np.nan)
    empty = pictures.opening_lines(nothing, nothing, np.zeros(0, int), np.zeros(0, bool))
    assert (empty == 255).all()
