"""Pairs of images for the tests and benchmarks of every implementation of `mean_ssim`."""

import numpy as np

SHAPES = ((2, 20, 17, 3), (1, 7, 40, 3), (1, 1, 1, 1), (3, 12, 5, 4))
"""Images, rows, columns, channels: larger and smaller than the window, one channel and four."""


def make_pair(
    shape: tuple[int, ...], seed: int = 0, noise: float = 0.4
) -> tuple[np.ndarray, np.ndarray]:
    """Draw random images (float32), and the same ones with a share of `noise`."""
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, *shape), np.float32)
    return a, (1 - noise) * a + np.float32(noise) * b
