"""Scores of doing nothing clever: the mean training frame, and the nearest one shifted to fit."""

import cv2
import numpy as np
from jaxtyping import Float, Int

from egs_jax.data.dataset import Dataset
from egs_jax.evaluation.metrics import Figure, mean_figure, psnr_masked


def baseline_figures(dataset: Dataset, frames: Int[np.ndarray, " T"]) -> dict[str, Figure]:
    """Return the `psnr_head` of both baselines, means over the clip's `frames`."""
    guesses = {
        "baseline_mean_frame": MeanFrame(dataset),
        "baseline_nearest_frame": NearestFrame(dataset),
    }
    figures = {}
    for name, guess in guesses.items():
        values = [
            psnr_masked(guess(i)[None], dataset.target(i)[None] / 255.0, dataset.head_mask(i)[None])
            for i in frames
        ]
        figures[name] = mean_figure(np.concatenate(values), "no head pixels")
    return figures


class MeanFrame:
    """The mean of all training composites, whatever the frame asked for."""

    def __init__(self, dataset: Dataset):
        total = np.zeros((dataset.height, dataset.width, 3))
        for i in dataset.train_frames:
            total += dataset.target(i)
        self._mean = (total / len(dataset.train_frames) / 255).astype(np.float32)

    def __call__(self, i: int) -> Float[np.ndarray, "H Wd 3"]:
        """Guess frame i."""
        return self._mean


class NearestFrame:
    """The training composite whose landmarks, centered, are nearest; shifted onto the frame's."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset
        points = np.stack([dataset.landmarks(i)[:, :2] for i in dataset.train_frames])
        self._centers = points.mean(1)
        self._shapes = points - self._centers[:, None]

    def __call__(self, i: int) -> Float[np.ndarray, "H Wd 3"]:
        """Guess frame i."""
        return self.guess(self._dataset.landmarks(i))

    def guess(self, landmarks: Float[np.ndarray, "478 3"]) -> Float[np.ndarray, "H Wd 3"]:
        """Guess the frame with these landmarks [pixels]."""
        data, points = self._dataset, landmarks[:, :2]
        center = points.mean(0)
        distance = np.linalg.norm(self._shapes - (points - center)[None], axis=-1).mean(1)
        k = int(np.argmin(distance))
        shift = np.eye(2, 3)
        shift[:, 2] = center - self._centers[k]
        moved = cv2.warpAffine(
            data.target(data.train_frames[k]), shift, (data.width, data.height),
            flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
        return moved.astype(np.float32) / 255
