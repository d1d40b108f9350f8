"""Measures of every frame of a split: image figures, landmarks, a row and a column.

Each render is compared with what it should be (`Dataset.target`), and a landmark network looks at
both. Figures of the head are of composites: of an avatar of a person its head over the frame.
"""

import functools
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import to_uint8
from egs_jax.data.dataset import Dataset
from egs_jax.evaluation import metrics
from egs_jax.evaluation.renders import rendered_frames
from egs_jax.face.landmarks import MIN_PRESENCE, FaceLandmarker, roi_of_landmarks
from egs_jax.runtime.progress import progress
from egs_jax.training import perceptual
from egs_jax.training.perceptual import PerceptualParams, load_perceptual

lpips = jax.jit(perceptual.lpips)  # one program, not one for each of its operations


@dataclass
class Measured:
    """Measures of every frame of a split, on the render and on the true composite."""

    frames: Int[np.ndarray, " T"]
    """Indices in the clip."""
    images: dict[str, Float[np.ndarray, " T"]]
    """Image figures by name; head_fraction too."""
    landmarks: Float[np.ndarray, "T 478 3"]
    """Points of the renders [pixels], NaN where no face was seen."""
    true_landmarks: Float[np.ndarray, "T 478 3"]
    """Points of the true composites, likewise."""
    rows: UInt8[np.ndarray, "2 T Wd 3"]
    """A row of pixels through the eyes, of the true composite and of the render."""
    columns: UInt8[np.ndarray, "2 T H 3"]
    """A column through the mouth, likewise."""


def measure_split(
    avatar: Avatar, frames: Int[np.ndarray, " T"], landmarker: FaceLandmarker
) -> Measured:
    """Render the clip's `frames` and measure every one."""
    data, alexnet = avatar.dataset, load_perceptual("alexnet")
    points = np.empty((len(frames), 478, 3), np.float32)
    true = np.empty_like(points)
    images: dict[str, list[float]] = {}
    row = int(np.mean([data.eyes_rect(i)[:2] for i in frames]))
    column = int(np.mean([data.lips_rect(i)[2:] for i in frames]))
    rows, columns = [], []
    with progress(len(frames), "evaluate: frames", "frame") as bar:
        renders = rendered_frames(avatar, frames)
        seen = rendered_frames(avatar, frames, told=False) if data.body == "person" else None
        for k, (i, image) in enumerate(zip(frames, renders, strict=True)):
            with_body = image if seen is None else next(seen)
            for name, value in image_figures(data, int(i), image, with_body, alexnet).items():
                images.setdefault(name, []).append(value)
            both = data.target(i), to_uint8(image)
            true[k], points[k] = (
                landmarks_near(landmarker, view, data.landmarks(i)) for view in both
            )
            rows.append(np.stack([view[row] for view in both]))
            columns.append(np.stack([view[:, column] for view in both]))
            bar.update(0, completed=k + 1)
    values = {name: np.array(each) for name, each in images.items()}
    return Measured(frames, values, points, true, np.stack(rows, 1), np.stack(columns, 1))


def image_figures(
    data: Dataset,
    i: int,
    image: Float[np.ndarray, "H Wd 3"],
    with_body: Float[np.ndarray, "H Wd 3"],
    alexnet: PerceptualParams,
) -> dict[str, float]:
    """Return all image figures of one render of frame i; `with_body` is given the body's pose."""
    image, with_body = np.clip(image, 0, 1)[None], np.clip(with_body, 0, 1)[None]
    unit = lambda picture: (picture[None] / 255).astype(np.float32)
    frame, target, plate = unit(data.frame(i)), unit(data.target(i)), unit(data.plate)
    head, rect, person = data.head_mask(i)[None], data.lips_rect(i)[None], data.person_mask(i)[None]
    distance = functools.partial(lpips, alexnet)
    cut = lambda picture: np.where(person[..., None], picture, plate)
    composite = np.where(head[..., None], image, frame) if data.body == "person" else image
    values = {
        "head_fraction": head.mean(axis=(1, 2)),
        "psnr": metrics.psnr(composite, target),
        "psnr_head": metrics.psnr_masked(image, target, head),
        "psnr_lips": metrics.psnr_rect(image, target, rect),
        "ssim": metrics.ssim(composite, target),
        "lpips": distance(composite, target),
        "psnr_frame": metrics.psnr(image, frame),
        "person_fraction": person.mean(axis=(1, 2)),
        "psnr_person": metrics.psnr_masked(image, frame, person),
        "ssim_person": metrics.ssim_masked(image, frame, person),
        "lpips_person": distance(cut(image), cut(frame)),
        "psnr_person_given_body": metrics.psnr_masked(with_body, frame, person),
    }
    return {name: float(value[0]) for name, value in values.items()}


def landmarks_near(
    landmarker: FaceLandmarker, image: UInt8[np.ndarray, "H Wd 3"], near: Float[np.ndarray, "478 3"]
) -> Float[np.ndarray, "478 3"]:
    """Find the landmarks of the face that lies about where `near` does; NaN if there is none.

    Args:
      landmarker: The networks.
      image: Picture.
      near: Landmarks of a face at about the same place [pixels].
    """
    face = landmarker.landmark(image, roi_of_landmarks(near))
    return face.landmarks if face.score >= MIN_PRESENCE else np.full_like(near, np.nan)
