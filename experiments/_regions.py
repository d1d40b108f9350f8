"""Regions of the head that Gaussians lie in, and their distance to their neighbors."""

import numpy as np
from scipy.spatial import cKDTree

from egs_jax.face.mesh import (
    LEFT_BROW,
    LEFT_EYE,
    LEFT_IRIS,
    LIPS_INNER,
    LIPS_OUTER,
    NUM_LANDMARKS,
    RIGHT_BROW,
    RIGHT_EYE,
    RIGHT_IRIS,
)

REGIONS = ("mouth", "eyes", "brows", "rest of the face", "rest of the head")
NEAR = 0.12
"""Largest distance to a landmark of the face's own Gaussians, world units (17 mm)."""
NEIGHBORS = 3


def regions_of(means: np.ndarray, mean_shape: np.ndarray) -> np.ndarray:
    """Return the number in `REGIONS` of every Gaussian: of the nearest landmark, if it is near.

    Args:
      means: Centers, world units [N,3].
      mean_shape: The person's landmarks in the world [478,3].

    Returns:
      int [N].
    """
    kind = np.full(NUM_LANDMARKS, 3)
    kind[np.concatenate([LIPS_INNER, LIPS_OUTER])] = 0
    kind[np.concatenate([RIGHT_EYE, LEFT_EYE, RIGHT_IRIS, LEFT_IRIS])] = 1
    kind[np.concatenate([RIGHT_BROW, LEFT_BROW])] = 2
    distance, nearest = cKDTree(mean_shape).query(means)
    return np.where(distance < NEAR, kind[nearest], 4)


def region_means(values: np.ndarray, regions: np.ndarray) -> dict[str, float | None]:
    """Return mean of `values` [N] in each region; None where it is empty."""
    return {
        name: float(values[regions == k].mean()) if np.any(regions == k) else None
        for k, name in enumerate(REGIONS)
    }


def spacing(means: np.ndarray) -> np.ndarray:
    """Return mean distance of every Gaussian to its three nearest others, world units [N]."""
    distances, _ = cKDTree(means).query(means, k=NEIGHBORS + 1)
    return distances[:, 1:].mean(axis=1)
