"""Poses held out: train on the inner poses of a clip, draw the outer ones, compare with the film.

The frames of the outer fifth of yaw and of pitch (the lowest and the highest tenth of each) are
left out of training, whenever they were. Drawn with their head pose, lids and sound, nothing else
given: a person's body is told from the head's path; a head alone is drawn over the body of the
calmest pose, as heads are at poses that are not their clip's. Beside them the same over the body of
the nearest seen pose, and of the frame itself, which a pose never seen has not; and the nearest
seen frame, shifted to fit.

    python -m experiments.held_out_poses DATASET ... [--preset fast] [--seeds 0 1 2] [--work FOLDER]
        [--tiny]

adds one case per (video, preset, seed) to `results/held_out_poses.json`. Claim: a person is at
least 1.5 dB better there than a head.
"""

import subprocess
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import to_uint8
from egs_jax.config_text import override
from egs_jax.data.dataset import Dataset
from egs_jax.evaluation import metrics
from egs_jax.evaluation.baselines import NearestFrame
from egs_jax.evaluation.measures import landmarks_near
from egs_jax.evaluation.renders import drawn_frames, micro_batches
from egs_jax.face.landmarks import FaceLandmarker
from egs_jax.presets import PRESETS, preset
from egs_jax.runtime.arguments import Parser
from egs_jax.training.perceptual import load_perceptual, lpips
from experiments._linked import linked
from experiments._runs import add_case, parsed, rounded, run_main, shrunk, train_command

NAME = "held_out_poses"
SHARE = 0.1
"""Of the frames at each end of yaw and of pitch."""
MOST = 60
"""Frames measured, spread evenly over those left out."""


def main(argv: list[str] | None = None) -> Path:
    """Train and measure; returns the results file."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", type=Path, nargs="+", metavar="DATASET")
    parser.add_argument("--preset", default="fast", choices=PRESETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=Path(f"runs/{NAME}"))
    arguments = parsed(parser, argv, figures=False)
    for folder in arguments.datasets:
        inner = without_outer_poses(folder, arguments.work / folder.name / "dataset")
        for seed in arguments.seeds:
            case = {
                "video": Path(inner.meta["source"]["name"]).stem,
                "preset": arguments.preset,
                "seed": seed,
                "frames_trained": len(inner.train_frames),
                "frames_left_out": len(inner.meta["left_out"]),
            }
            for body in ("person", "head"):
                run_dir = arguments.work / folder.name / f"{body}-{seed}"
                config = preset(arguments.preset, data_dir=str(inner.folder.resolve()), seed=seed)
                config = shrunk(config) if arguments.tiny else config
                config = override(config, {"model.body": body})
                subprocess.run(train_command(config, run_dir), check=True)
                case |= figures_of(Avatar.load(run_dir, exact=True))
            print(case, flush=True)
            key = lambda c: (c["video"], c["preset"], c["seed"])
            add_case(NAME, rounded(case), key, arguments.out)
    return arguments.out / f"{NAME}.json"


def without_outer_poses(folder: Path, target: Path) -> Dataset:
    """Link a dataset folder into another, whose description leaves the outer poses out."""
    dataset = Dataset.open(folder)
    out = np.flatnonzero(outer(dataset.arrays["viewmats"]))
    count = dataset.num_frames
    last = int(np.setdiff1d(np.flatnonzero(dataset.usable), out)[-1])  # some frame to validate on
    splits = {"train": [0, count], "val": [last, last + 1]}
    return linked(folder, target, {"left_out": out.tolist(), "splits": splits})


def outer(viewmats: np.ndarray) -> np.ndarray:
    """Return which head poses [T,4,4] look the farthest to a side, up or down, bool [T]."""
    nose = -np.asarray(viewmats)[:, :3, 2]  # the face looks along -z of its axes
    angles = np.stack([np.arctan2(nose[:, 0], -nose[:, 2]), np.arcsin(nose[:, 1])])
    low, high = np.quantile(angles, [SHARE, 1 - SHARE], axis=1)
    return ((angles < low[:, None]) | (angles > high[:, None])).any(axis=0)


def figures_of(avatar: Avatar) -> dict[str, float]:
    """Measure the frames that were left out, as of one body."""
    data, alexnet, landmarker = avatar.dataset, load_perceptual("alexnet"), FaceLandmarker()
    out = np.array(data.meta["left_out"])
    frames = out[np.unique(np.linspace(0, len(out) - 1, min(MOST, len(out))).astype(int))]
    nearest = NearestFrame(data)
    drawn = {data.body: draw(avatar, frames, np.full(len(frames), data.still_frame))}
    if data.body == "person":
        drawn["nearest"] = [nearest(int(i)) for i in frames]
    else:
        drawn["head_nearest_body"] = draw(avatar, frames, nearest_poses(data, frames))
        drawn["head_own_body"] = draw(avatar, frames, frames)
    values: dict[str, list[float]] = {}
    for name, images in drawn.items():
        for i, drawing in zip(frames, images, strict=True):
            image = np.clip(drawing, 0, 1)[None]
            frame = (data.frame(i)[None] / 255).astype(np.float32)
            person = data.person_mask(i)[None]
            plate = (data.plate[None] / 255).astype(np.float32)
            cut = lambda picture, p=person, q=plate: jnp.asarray(np.where(p[..., None], picture, q))
            truth = data.landmarks(i)
            seen = landmarks_near(landmarker, to_uint8(image[0]), truth)
            each = {
                "psnr_person": metrics.psnr_masked(image, frame, person)[0],
                "psnr_head": metrics.psnr_masked(image, frame, data.head_mask(i)[None])[0],
                "lpips_person": lpips(alexnet, cut(image), cut(frame))[0],
                "landmarks_px": np.linalg.norm((seen - truth)[:, :2], axis=1).mean(),
            }
            for figure, value in each.items():
                values.setdefault(f"{name}.{figure}", []).append(float(value))
    return {name: float(np.nanmean(each)) for name, each in values.items()}


def nearest_poses(data: Dataset, frames: np.ndarray) -> np.ndarray:
    """Return the training frame with the nearest head pose to that of each frame."""
    poses = np.asarray(data.arrays["viewmats"])
    apart = np.square(poses[frames][:, None] - poses[data.train_frames][None]).sum((2, 3))
    return data.train_frames[apart.argmin(axis=1)]


def draw(avatar: Avatar, frames: np.ndarray, behind: np.ndarray) -> list[np.ndarray]:
    """Draw frames; a head alone over the picture, without its head, of the frames `behind`."""
    data = avatar.dataset
    drive = data.drive(frames, avatar.config.model.window_frames, told=True)
    if data.body == "head":
        drive = drive.replace(backgrounds=np.stack([data.background(i) for i in behind]))
    return [rgb for rgb, _ in drawn_frames(avatar, micro_batches(drive))]


if __name__ == "__main__":
    run_main(main)
