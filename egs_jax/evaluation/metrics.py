"""Formulas of what is reported: image quality, lips, synchrony and blinks, on raw frames.

Everything here runs on the host in float64, so that a number does not depend on the device. Images
are [B, H, W, 3] in [0, 1] (float); signals have one value per video frame. Functions on frames
return one value per frame, NaN where the frame has none (an empty mask, no face found).

A figure that cannot be computed is a `Figure` without value but with the reason: it becomes null
in `eval.json`, never a guess. LPIPS is in `training.perceptual`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from egs_jax.face.mesh import LIPS_INNER, LIPS_OUTER
from kernels.checks import require, typechecked
from kernels.ssim import C1, C2, WINDOW, gaussian_window

Images = Float[np.ndarray, "B H Wd 3"]
PerFrame = Float[np.ndarray, " B"]
Signal = Float[np.ndarray, " T"]

MOUTH_LANDMARKS = tuple(np.concatenate([LIPS_OUTER, LIPS_INNER]).tolist())
"""Lip contours, as indices of the 478 landmarks."""
MAX_LAG = 15
"""Sync search range, frames either way."""
SHIFT_RUNS = 50
"""Least number of shifted runs behind a percentile."""
ENERGY_FLOOR_DB = -60.0
"""Sound below this counts as silence, dB relative to full scale."""


class Figure(NamedTuple):
    """A number for the report, or None; `note` says why it is None, or what it leaves out."""

    value: float | None
    note: str | None = None


def mean_figure(values: PerFrame, what: str) -> Figure:
    """Average the finite entries.

    Args:
      values: Per-frame values; NaN or infinite where a frame has none.
      what: Why a frame may have none, such as "no face found".

    Returns:
      The mean over the frames that have a value, with a note on the others; None if none has.
    """
    finite = np.isfinite(values)
    kept, total = int(finite.sum()), int(values.size)
    if kept == 0:
        return Figure(None, f"{what} in all {total} frames" if total else "no frames")
    note = None if kept == total else f"{total - kept} of {total} frames left out: {what}"
    return Figure(float(np.mean(values[finite], dtype=np.float64)), note)


def report(figures: Mapping[str, Figure]) -> tuple[dict[str, float | None], dict[str, str]]:
    """Split figures into the values and the notes of `eval.json`.

    Raises:
      ValueError: if a value is not finite, or is missing without a reason.
    """
    for name, figure in figures.items():
        require(
            figure.note is not None if figure.value is None else math.isfinite(figure.value),
            f"{name}: expected a finite value or None with a reason, got {figure}; use mean_figure",
        )
    values = {name: figure.value for name, figure in figures.items()}
    return values, {name: figure.note for name, figure in figures.items() if figure.note}


@typechecked
def psnr(rendered: Images, target: Images) -> PerFrame:
    """Return the peak signal-to-noise ratio of every frame [dB]; infinite for equal frames."""
    return _decibels(np.mean(_squared(rendered, target), axis=(1, 2)))


@typechecked
def psnr_masked(rendered: Images, target: Images, mask: Bool[np.ndarray, "B H Wd"]) -> PerFrame:
    """Return the PSNR of every frame over the pixels of its mask [dB]; NaN if it has none."""
    error = np.sum(_squared(rendered, target), axis=(1, 2), where=mask)
    count = mask.sum(axis=(1, 2))
    return _decibels(np.divide(error, count, out=np.full(len(mask), np.nan), where=count > 0))


@typechecked
def psnr_rect(rendered: Images, target: Images, rects: Int[np.ndarray, "B 4"]) -> PerFrame:
    """Return the PSNR of every frame over its rectangle [dB].

    Args:
      rendered: Frames.
      target: Frames.
      rects: (row_min, row_max, col_min, col_max) [pixels], the maxima excluded.

    Returns:
      One value per frame; NaN where the rectangle is empty.
    """
    mask = np.zeros(rendered.shape[:3], bool)
    for frame, (top, bottom, left, right) in zip(mask, np.maximum(rects, 0), strict=True):
        frame[top:bottom, left:right] = True
    return psnr_masked(rendered, target, mask)


def _squared(rendered: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Squared error of every pixel, mean over channels, float64."""
    return np.mean(np.square(rendered.astype(np.float64) - target), axis=-1)


def _decibels(mean_squared_error: np.ndarray) -> np.ndarray:
    """PSNR of errors relative to a peak of 1."""
    with np.errstate(divide="ignore"):
        return -10.0 * np.log10(mean_squared_error)


@typechecked
def ssim(rendered: Images, target: Images) -> PerFrame:
    """Return the structural similarity of every frame.

    Gaussian window 11 x 11 with sigma 1.5, biased variances, data range 1, per channel, mean over
    the pixels whose window lies inside the image: what scikit-image computes with
    `gaussian_weights=True, sigma=1.5, use_sample_covariance=False`.

    Raises:
      ValueError: if a side is under 11 pixels.
    """
    return ssim_masked(rendered, target, np.ones(rendered.shape[:3], bool))


@typechecked
def ssim_masked(rendered: Images, target: Images, mask: Bool[np.ndarray, "B H Wd"]) -> PerFrame:
    """Return `ssim` as a mean over the pixels of each frame's mask; NaN if it has none.

    Raises:
      ValueError: if a side is under 11 pixels.
    """
    least, border = min(rendered.shape[1:3]), WINDOW // 2
    require(least >= WINDOW, f"rendered: sides must be at least {WINDOW}, got {least}")
    triples = zip(rendered.astype(np.float64), target.astype(np.float64), mask, strict=True)
    values = [_ssim(a, b)[m[border:-border, border:-border]] for a, b, m in triples]
    return np.array([np.mean(each) if each.size else np.nan for each in values], np.float64)


def _ssim(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, "h w 3"]:
    """SSIM of the pixels of one pair of images, without a border of half a window."""
    border = WINDOW // 2
    window = gaussian_window()
    blur = lambda x: cv2.sepFilter2D(x, cv2.CV_64F, window, window)[border:-border, border:-border]
    mu_a, mu_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mu_a**2, blur(b * b) - mu_b**2, blur(a * b) - mu_a * mu_b
    luminance = (2 * mu_a * mu_b + C1) / (mu_a**2 + mu_b**2 + C1)
    return luminance * (2 * cov + C2) / (var_a + var_b + C2)


@typechecked
def lmd(
    rendered: Shaped[np.ndarray, "T L D"],
    true: Shaped[np.ndarray, "T L D"],
    *,
    landmarks: Sequence[int] = MOUTH_LANDMARKS,
) -> Signal:
    """Return the mouth landmark distance of every frame [pixels].

    Each frame's mouth landmarks are centered on their own mean, so a moved head costs nothing; the
    figure is the mean Euclidean distance in the image. It grows with the resolution.

    Args:
      rendered: Landmarks of the rendered frames [pixels]; x and y first, further axes unused.
      true: Landmarks of the true frames [pixels].
      landmarks: Which of the L count.

    Returns:
      One value per frame; NaN where either has no face (NaN landmarks).
    """
    index = np.asarray(landmarks)
    a, b = (np.asarray(x[:, index, :2], np.float64) for x in (rendered, true))
    centered = (a - a.mean(axis=1, keepdims=True)) - (b - b.mean(axis=1, keepdims=True))
    return np.linalg.norm(centered, axis=-1).mean(axis=-1)


@typechecked
def correlation(rendered: Signal, true: Signal) -> Figure:
    """Return Pearson's correlation of two signals: `mouth_r` of openings, `blink_r` of blinks.

    Frames in which either is NaN are left out and counted in the note. None if fewer than three
    remain, or if one of the signals does not vary.
    """
    return _compared(rendered, true, _pearson)


@typechecked
def gain(rendered: Signal, true: Signal) -> Figure:
    """Return the standard deviation of one signal over that of the other: `mouth_gain`.

    1 is a mouth that moves as far as the true one, whether at the right moments (`correlation`) or
    not. Frames are left out, and None is returned, as in `correlation`.
    """
    return _compared(rendered, true, lambda a, b: float(np.std(a) / np.std(b)))


def _compared(
    rendered: np.ndarray, true: np.ndarray, compare: Callable[[np.ndarray, np.ndarray], float]
) -> Figure:
    """Compare two signals over the frames where both exist, if there are enough and they vary."""
    both = np.isfinite(rendered) & np.isfinite(true)
    left_out = int(both.size - both.sum())
    if both.sum() < 3:
        return Figure(None, f"only {int(both.sum())} of {both.size} frames have both values")
    for name, signal in (("rendered", rendered), ("true", true)):
        if not _varies(signal[both]):
            return Figure(None, f"the {name} signal does not vary")
    note = f"{left_out} of {both.size} frames left out: no face found" if left_out else None
    return Figure(compare(rendered[both], true[both]), note)


def _varies(signal: np.ndarray) -> bool:
    """Say whether a signal has variation beyond rounding."""
    return bool(np.ptp(signal) > 1e-6 * max(1e-6, float(np.abs(signal).max())))


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two signals that vary."""
    a, b = a.astype(np.float64) - a.mean(), b.astype(np.float64) - b.mean()
    return float(np.clip(a @ b / math.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def shift_offsets(num_frames: int, fps: float, *, count: int = SHIFT_RUNS) -> Int[np.ndarray, " R"]:
    """Choose by how much to roll the audio of a clip for runs that must not fit the picture.

    Args:
      num_frames: Frames of the clip whose audio is rolled.
      fps: Frames per second.
      count: Offsets wanted.

    Returns:
      Distinct offsets [frames], evenly spread, each at least 1 s from no shift at all in either
      direction of the roll; fewer than `count` if the clip has no more.
    """
    least = math.ceil(fps)
    available = np.arange(least, num_frames - least + 1)
    if len(available) <= count:
        return available
    return available[np.linspace(0, len(available) - 1, count).round().astype(int)]


@typechecked
def shift_percentile(
    runs: Float[np.ndarray, "R T"], true: Signal, *, percentile: float = 95.0
) -> Figure:
    """Return the percentile of `correlation` over runs whose audio was shifted.

    A mouth that follows the sound beats this figure; one that merely moves does not.

    Args:
      runs: Lip opening rendered with each shift of `shift_offsets`.
      true: True lip opening.
      percentile: In [0, 100].

    Returns:
      The percentile; None if fewer than 50 runs have a correlation.
    """
    values = [r.value for r in (correlation(run, true) for run in runs) if r.value is not None]
    if len(values) < SHIFT_RUNS:
        return Figure(None, f"{len(values)} shifted runs have a value; {SHIFT_RUNS} are needed")
    return Figure(float(np.percentile(values, percentile)))


@typechecked
def silence_percentile(silent: Float[np.ndarray, " S"], spoken: Signal) -> Figure:
    """Return where the lip opening under silence falls among those of speech, in percent.

    Args:
      silent: Lip openings of frames rendered under digital silence; their median counts.
      spoken: Lip openings of rendered training frames.

    Returns:
      Share of `spoken` that is smaller (ties count half): 0 is shut, 50 a middling mouth.
    """
    silent, spoken = silent[np.isfinite(silent)], spoken[np.isfinite(spoken)]
    if not (silent.size and spoken.size):
        return Figure(None, "no face found in the silent or in the spoken frames")
    rest = float(np.median(silent))
    return Figure(100.0 * float(np.mean(spoken < rest) + 0.5 * np.mean(spoken == rest)))


@typechecked
def sound_energy(
    audio: Float[np.ndarray, " S"], sample_rate: int, num_frames: int, fps: float
) -> Signal:
    """Return the sound level at every video frame [dB re full scale], at least -60.

    Frame t is an instant, t / fps: its level is that of the samples within half a frame of it.
    """
    square = np.concatenate([[0.0], np.cumsum(np.square(audio.astype(np.float64)))])
    edges = np.round((np.arange(num_frames + 1) - 0.5) * sample_rate / fps).astype(int)
    edges = np.clip(edges, 0, len(audio))
    power = (square[edges[1:]] - square[edges[:-1]]) / np.maximum(np.diff(edges), 1)
    return 10.0 * np.log10(np.maximum(power, 10.0 ** (ENERGY_FLOOR_DB / 10.0)))


@typechecked
def sync_lag(opening: Signal, energy: Signal, *, max_lag: int = MAX_LAG) -> tuple[Figure, Figure]:
    """Find the delay of the mouth behind the sound, and how sure it is.

    For every lag in +-`max_lag`, opening[t + lag] is correlated with energy[t] over the frames
    where both exist (normalized cross-correlation).

    Args:
      opening: Lip opening; NaN where no face was found.
      energy: Sound level (`sound_energy`).
      max_lag: Largest delay searched [frames].

    Returns:
      The lag with the largest correlation [frames], positive when the mouth comes later than the
      sound; and the confidence, that correlation minus the median over all lags (0 is a guess).
      Both are None if the clip is shorter than three search ranges or a signal does not vary.
    """
    total, least = len(opening), 3 * max_lag
    if total < least:
        why = Figure(None, f"{total} frames are too few for lags up to {max_lag}; {least} needed")
        return why, why
    curve = []
    for lag in range(-max_lag, max_lag + 1):
        mouth = opening[max(lag, 0) : total + min(lag, 0)]
        sound = energy[max(-lag, 0) : total - max(lag, 0)]
        figure = correlation(mouth, sound)
        if figure.value is None:
            why = Figure(None, figure.note.replace("rendered", "mouth").replace("true", "sound"))
            return why, why
        curve.append(figure.value)
    best = int(np.argmax(curve))
    return Figure(float(best - max_lag)), Figure(float(curve[best] - np.median(curve)))
