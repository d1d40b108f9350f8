"""Where and when the error of held-out renders lies: what is there to win, and by what.

Held-out frames are drawn as `evaluate` draws them, and compared with the film over the head's mask.
PSNR of a frame is that of its mean squared error there; a figure is the mean over the frames:

  as drawn             `psnr_head`;
  aligned              after the affine map of the render that fits the frame best: above the first
                       by what tracking costs;
  by flow              after a smooth flow of the render (DIS, blurred by a sixteenth of the face's
                       width): above `aligned` by what a wrong shape costs, mouth and jaw above all;
  without the lips     over the head less the lips' rectangle; also less the eyes' rectangle;
  on training frames   as many, evenly spread, as drawn: above the first by overfitting.

By region (lips, eyes, rest of the head, rest of the person, room): its share of the pixels, its
share of the squared error, its PSNR over all frames together. By time: `psnr_head` of every second
held out, the share of the head's squared error in the worst tenth of the frames, and Spearman's
rank correlation of a frame's error with the distance of its pose from the nearest training frame's
and with how far its mouth is open.

    python -m experiments.error_by_place RUN_DIR [RUN_DIR ...] [--frames N] [--tiny]

adds one case per (video, preset, body, seed, width) to `results/error_by_place.json`. 125 frames of
160 px take a minute on two CPU cores. Claim: none; it says where the next decibel is.
"""

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import spearmanr

from egs_jax.avatar.avatar import Avatar
from egs_jax.data.dataset import Dataset
from egs_jax.evaluation import metrics
from egs_jax.evaluation.metrics import Figure, mean_figure
from egs_jax.evaluation.renders import given, rendered_frames
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.progress import progress
from experiments._runs import add_case, parsed, rounded, run_main, run_of

NAME = "error_by_place"
REGIONS = ("lips", "eyes", "rest of the head", "rest of the person", "room")
EARS = (234, 454)
SMOOTH = 1 / 16
"""Blur of the flow, as a share of the face's width."""
ALIGN_STEPS = 60
WORST = 0.1
Image = Float[np.ndarray, "H Wd 3"]
Mask = Bool[np.ndarray, "H Wd"]


class Errors(NamedTuple):
    """Of T frames."""

    frames: Int[np.ndarray, " T"]
    psnr: dict[str, Float[np.ndarray, " T"]]
    """Of the head, by what was done to the render or left out; NaN where nothing is left."""
    pixels: Float[np.ndarray, "T R"]
    """Pixels of each region."""
    squared: Float[np.ndarray, "T R"]
    """Sums of the squared error of each region, mean over channels."""


def main(argv: list[str] | None = None) -> Path:
    """Measure runs; returns the results file."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("--frames", type=int, metavar="N", help="held-out frames, the first; all")
    arguments = parsed(parser, argv, figures=False)
    if arguments.frames is not None and arguments.frames < 1:
        raise InputError(f"--frames: got {arguments.frames}, expected at least 1")
    for run_dir in arguments.run_dirs:
        avatar = Avatar.load(run_dir, exact=True)
        case = case_of(avatar, 4 if arguments.tiny else arguments.frames)
        print(case, flush=True)
        key = lambda c: tuple(c[name] for name in ("video", "preset", "body", "seed", "width"))
        add_case(NAME, rounded(case), key, arguments.out)
    return arguments.out / f"{NAME}.json"


def case_of(avatar: Avatar, most: int | None) -> dict[str, Any]:
    """Measure the held-out frames of a run, or the first of them."""
    data = avatar.dataset
    frames = data.frames_of("val")[:most]
    train = data.train_frames
    seen = train[
        np.unique(np.linspace(0, len(train) - 1, min(len(frames), len(train))).astype(int))
    ]
    errors, trained = measured(avatar, frames, moved=True), measured(avatar, seen, moved=False)
    values, notes = metrics.report(figures_of(data, errors, trained))
    return {
        **run_of(avatar),
        "frames": len(frames),
        "given": given(data),
        **values,
        "by_region": by_region(errors),
        "psnr_head_by_second": by_second(data, errors),
        "notes": notes,
    }


def measured(avatar: Avatar, frames: Int[np.ndarray, " T"], *, moved: bool) -> Errors:
    """Draw the clip's `frames` and measure them; with `moved` aligned and warped ones, too."""
    data = avatar.dataset
    psnr: dict[str, list[float]] = {}
    pixels, squared = [], []
    with progress(len(frames), NAME, "frame") as bar:
        for i, drawn in zip(frames, rendered_frames(avatar, frames), strict=True):
            image, target = np.clip(drawn, 0, 1), np.float32(data.target(i)) / 255
            masks = regions_of(data, int(i))
            ears = data.landmarks(i)[list(EARS), :2]
            blur = SMOOTH * float(np.linalg.norm(ears[1] - ears[0])) if moved else None
            for name, (picture, mask) in versions(image, target, masks, blur).items():
                value = metrics.psnr_masked(picture[None], target[None], mask[None])[0]
                psnr.setdefault(name, []).append(float(value))
            error = np.square(np.float64(image) - target).mean(axis=-1)
            pixels.append([mask.sum() for mask in masks])
            squared.append([error[mask].sum() for mask in masks])
            bar.advance(0)
    by_name = {name: np.array(values) for name, values in psnr.items()}
    return Errors(frames, by_name, np.array(pixels, float), np.array(squared, float))


def regions_of(data: Dataset, i: int) -> Bool[np.ndarray, "5 H Wd"]:
    """Return the pixels of all `REGIONS` in frame i; every pixel is in one."""
    head = data.head_mask(i)
    lips, eyes = (
        _inside(rect, head.shape) & head for rect in (data.lips_rect(i), data.eyes_rect(i))
    )
    person = data.person_mask(i) & ~head
    return np.stack([lips, eyes & ~lips, head & ~lips & ~eyes, person, ~(head | person)])


def _inside(rect: Int[np.ndarray, " 4"], shape: tuple[int, int]) -> Mask:
    mask = np.zeros(shape, bool)
    top, bottom, left, right = rect
    mask[top:bottom, left:right] = True
    return mask


def versions(
    image: Image, target: Image, masks: Bool[np.ndarray, "5 H Wd"], blur: float | None
) -> dict[str, tuple[Image, Mask]]:
    """Return by name the pictures that are compared with the target, and over which pixels.

    With `blur`, that of the flow [pixels], aligned and warped ones, too.
    """
    lips, eyes, rest, _, _ = masks
    head = lips | eyes | rest
    found = {
        "psnr_head": (image, head),
        "psnr_head_without_lips": (image, eyes | rest),
        "psnr_head_without_lips_and_eyes": (image, rest),
    }
    if blur is not None:
        aligned = best_affine(image, target, head)
        found["psnr_head_aligned"] = (aligned, head)
        found["psnr_head_by_flow"] = (by_smooth_flow(aligned, target, head, blur), head)
    return found


def best_affine(image: Image, target: Image, head: Mask) -> Image:
    """Move an image by the affine map under which it fits the target best over the head.

    The map is that of the largest correlation of gray values (ECC: Evangelidis and Psarakis
    2008); where it does not converge, or fits no better, the image stays.
    """
    gray = lambda picture: cv2.cvtColor(np.float32(picture), cv2.COLOR_RGB2GRAY)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, ALIGN_STEPS, 1e-6)
    start, mask = np.eye(2, 3, dtype=np.float32), head.astype(np.uint8) * 255
    try:
        _, found = cv2.findTransformECC(
            gray(target), gray(image), start, cv2.MOTION_AFFINE, stop, mask, 5
        )
    except cv2.error:
        return image
    moved = cv2.warpAffine(
        np.float32(image), found, image.shape[1::-1],
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    moved = np.clip(moved, 0, 1)
    error = lambda picture: np.square(picture - target)[head].sum()
    return moved if error(moved) < error(image) else image


def by_smooth_flow(image: Image, target: Image, head: Mask, blur: float) -> Image:
    """Move an image by a smooth flow onto the target.

    Args:
      image: What is moved.
      target: Where to.
      head: Pixels whose flow counts.
      blur: Standard deviation of the Gaussian that smooths the flow [pixels].
    """
    gray = lambda picture: cv2.cvtColor(np.uint8(np.rint(255 * picture)), cv2.COLOR_RGB2GRAY)
    finder = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = finder.calc(gray(target), gray(image), None)  # target(x) = image(x + flow(x))
    weight = head.astype(np.float32)
    smooth = lambda values: cv2.GaussianBlur(values, (0, 0), max(blur, 0.5))
    flow = smooth(flow * weight[..., None]) / np.maximum(smooth(weight), 1e-3)[..., None]
    rows, columns = np.indices(head.shape, dtype=np.float32)
    moved = cv2.remap(
        np.float32(image), columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    return np.clip(moved, 0, 1)


def figures_of(data: Dataset, errors: Errors, trained: Errors) -> dict[str, Figure]:
    """Return every figure of the head (see the top of the file)."""
    mean = lambda values: mean_figure(values, "no pixel, or no error")
    figures = {name: mean(values) for name, values in errors.psnr.items()}
    head = errors.squared[:, :3].sum(axis=1)
    worst = np.sort(head)[::-1][: int(np.ceil(WORST * len(head)))].sum()
    return figures | {
        "psnr_head_on_training_frames": mean(trained.psnr["psnr_head"]),
        "worst_tenth_error_percent": Figure(100 * float(worst / head.sum())),
        "error_pose_r": rank_correlation(head, pose_distance(data, errors.frames)),
        "error_opening_r": rank_correlation(
            head, np.float64(data.arrays["mouth_opening"][errors.frames])
        ),
    }


def pose_distance(data: Dataset, frames: Int[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    """Return how far the pose of each frame is from the nearest training frame's (Frobenius)."""
    viewmats = np.float64(data.arrays["viewmats"])
    apart = viewmats[frames][:, None] - viewmats[data.train_frames][None]
    return np.sqrt(np.square(apart).sum(axis=(2, 3)).min(axis=1))


def rank_correlation(a: Float[np.ndarray, " T"], b: Float[np.ndarray, " T"]) -> Figure:
    """Return Spearman's rank correlation; None if there are fewer than three or one is constant."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Figure(None, f"{len(a)} frames, or the same value in all of them")
    return Figure(float(spearmanr(a, b).statistic))


def by_region(errors: Errors) -> dict[str, dict[str, float | None]]:
    """Return every region's share of pixels and of the squared error, percent, and its PSNR."""
    pixels, squared = errors.pixels.sum(axis=0), errors.squared.sum(axis=0)
    return {
        name: {
            "pixels_percent": float(100 * pixels[k] / pixels.sum()),
            "error_percent": float(100 * squared[k] / squared.sum()),
            "psnr": float(-10 * np.log10(squared[k] / pixels[k]))
            if pixels[k] and squared[k]
            else None,
        }
        for k, name in enumerate(REGIONS)
    }


def by_second(data: Dataset, errors: Errors) -> list[float | None]:
    """Return `psnr_head` of every second held out; None where no frame of it is."""
    second = ((errors.frames - errors.frames[0]) // data.fps).astype(int)
    values = errors.psnr["psnr_head"]
    parts = [values[(second == k) & np.isfinite(values)] for k in range(second[-1] + 1)]
    return [float(part.mean()) if part.size else None for part in parts]


if __name__ == "__main__":
    run_main(main)
