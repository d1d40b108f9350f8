"""Head poses that the clip does not show: does the picture hold, and where does it tear?

The head is turned away from its calmest training pose, up to 20 degrees of yaw and 15 of pitch,
silent, with open eyes. No true frames exist there. Of every picture:

  found       whether the landmark network finds a face where the posed head must be;
  landmarks   distance of what it finds from the projected mean face, percent of the face's width,
              less the mean shift of both (expression and frame are not asked for);
  holes       room that shows inside the person, percent of the person: what a closing of the
              silhouette by a twelfth of the face's width fills;
  jaw         high frequencies in a band along the projected jaw, as a multiple of those of the
              clip's own frames there: above 1 is more than a film has.

`tear` is the sum of holes and of what jaw has above 1, in percent. Claim: of an avatar of a person
it is under a third of that of a head over its clip's body.

    python -m experiments.free_pose RUN_DIR [RUN_DIR ...] [--tiny]

adds one case per (video, preset, body, seed) to `results/free_pose.json` and writes a contact sheet
into each run's folder, since it shows a person's face. 45 pictures of 256 px take 15 s on two CPU
cores.
"""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import to_uint8
from egs_jax.avatar.poses import posed_about
from egs_jax.data.body import HISTORY
from egs_jax.data.dataset import Dataset
from egs_jax.evaluation.measures import landmarks_near
from egs_jax.evaluation.renders import drawn_frames, micro_batches
from egs_jax.face.landmarks import FaceLandmarker
from egs_jax.face.mesh import FACE_OVAL, NUM_MESH_VERTICES
from egs_jax.preprocess.tracking import HeadTrack
from egs_jax.runtime.arguments import Parser
from egs_jax.types import Drive
from experiments._runs import add_case, parsed, rounded, run_main

NAME = "free_pose"
YAWS, PITCHES = (-20, -15, -10, -5, 0, 5, 10, 15, 20), (-15, -7.5, 0, 7.5, 15)
JAW = FACE_OVAL[11:26]  # from below one ear over the chin to the other
EARS = (234, 454)
CLIP_FRAMES = 24
"""Frames of the clip whose jaw is the measure of one."""


class Swept(NamedTuple):
    """The pictures of all poses, [P, ...]."""

    angles: list[tuple[float, float]]
    """Yaw and pitch [degrees]."""
    images: UInt8[np.ndarray, "P H Wd 3"]
    opaque: Bool[np.ndarray, "P H Wd"]
    """Where head or person is drawn, or where the body of a head's frame is seen."""
    points: Float[np.ndarray, "P 478 2"]
    """The projected mean face [pixels]."""


def main(argv: list[str] | None = None) -> Path:
    """Measure runs; returns the results file."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR")
    arguments = parsed(parser, argv, figures=False)
    for run_dir in arguments.run_dirs:
        avatar = Avatar.load(run_dir, exact=True)
        swept = sweep(avatar, *((YAWS[::4], PITCHES[::4]) if arguments.tiny else (YAWS, PITCHES)))
        case = {
            "video": Path(avatar.dataset.meta["source"]["name"]).stem,
            "preset": avatar.config.preset,
            "body": avatar.dataset.body,
            "seed": avatar.config.seed,
            "width": avatar.dataset.width,
            **figures_of(avatar, swept),
        }
        print(case, flush=True)
        key = lambda c: tuple(c[name] for name in ("video", "preset", "body", "seed"))
        add_case(NAME, rounded(case), key, arguments.out)
        sheet = contact_sheet(swept)
        cv2.imwrite(str(run_dir / f"{NAME}.jpg"), sheet[..., ::-1])
    return arguments.out / f"{NAME}.json"


def sweep(avatar: Avatar, yaws: tuple, pitches: tuple) -> Swept:
    """Draw the head at all poses, over the calmest training frame's body or its own."""
    data, window = avatar.dataset, avatar.config.model.window_frames
    still = data.still_frame
    angles = [(yaw, pitch) for pitch in pitches[::-1] for yaw in yaws]
    count = len(angles)
    drive = data.driven_by(
        data.silence(count, window), np.zeros(count, np.float32), np.full(count, still)
    )
    drive = turned(data, drive, angles)
    drawn = list(drawn_frames(avatar, micro_batches(drive)))
    images = [to_uint8(rgb) for rgb, _ in drawn]
    opaque = [alpha > 0.5 for _, alpha in drawn]
    if data.body == "head":
        behind = np.abs(data.background(still).astype(int) - data.plate).max(-1) > 12
        opaque = [seen | behind for seen in opaque]
    shape = data.arrays["mean_shape"]
    points = HeadTrack(drive.viewmats, data.intrinsics, shape).project(shape)
    return Swept(angles, np.stack(images), np.stack(opaque), points)


def turned(data: Dataset, drive: Drive, angles: list[tuple[float, float]]) -> Drive:
    """Turn the head from its calmest training pose by yaw and pitch [degrees] of every frame.

    The body stands where it would if the head had stood there for a while.
    """
    rows = np.array([(yaw, pitch, 0, 0, 0, 0) for yaw, pitch in angles], float)
    still = data.arrays["viewmats"][data.still_frame].astype(np.float64)
    viewmats = posed_about(still, rows).astype(np.float32)
    if drive.bodies is None:
        return drive.replace(viewmats=viewmats)
    held = [data.body_model.told(np.repeat(v[None], HISTORY + 1, axis=0))[-1] for v in viewmats]
    return drive.replace(viewmats=viewmats, bodies=np.stack(held))


def figures_of(avatar: Avatar, swept: Swept) -> dict:
    """Return all figures: over the whole sweep, and landmarks within 15 degrees of yaw."""
    data, landmarker = avatar.dataset, FaceLandmarker()
    calm = swept.points[np.argmin([abs(y) + abs(p) for y, p in swept.angles])]
    width = float(np.linalg.norm(calm[EARS[1]] - calm[EARS[0]]))
    own = np.median([jaw_energy(data.frame(i), data.landmarks(i)[:, :2], width)
                     for i in _some_frames(data)])  # fmt: skip
    found, apart, holes, jaws = [], [], [], []
    for image, opaque, points in zip(swept.images, swept.opaque, swept.points, strict=True):
        near = np.concatenate([points, np.zeros((len(points), 1))], 1).astype(np.float32)
        seen = landmarks_near(landmarker, image, near)[:NUM_MESH_VERTICES, :2]
        found.append(bool(np.isfinite(seen).all()))
        off = seen - points[:NUM_MESH_VERTICES]
        off = np.linalg.norm(off - off.mean(0), axis=1).mean()
        apart.append(100 * float(off) / width)
        holes.append(hole_share(opaque, width))
        jaws.append(jaw_energy(image, points, width) / own)
    within = np.array([abs(yaw) <= 15 for yaw, _ in swept.angles]) & np.array(found)
    tears = np.array(holes) + 100 * np.maximum(np.array(jaws) - 1, 0)
    return {
        "poses": len(swept.angles),
        "found_share": float(np.mean(found)),
        "landmarks_percent": float(np.mean(np.array(apart)[within])) if within.any() else None,
        "holes_percent": float(np.mean(holes)),
        "jaw": float(np.mean(jaws)),
        "tear_percent": float(np.mean(tears)),
    }


def _some_frames(data: Dataset) -> np.ndarray:
    frames = data.train_frames
    return frames[np.unique(np.linspace(0, len(frames) - 1, CLIP_FRAMES).astype(int))]


def hole_share(opaque: Bool[np.ndarray, "H Wd"], width: float) -> float:
    """Return the share of the person that is open although it is closed all around, percent."""
    side = 2 * max(1, round(width / 24)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    framed = cv2.copyMakeBorder(
        opaque.astype(np.uint8), side, side, side, side, cv2.BORDER_REPLICATE
    )
    closed = cv2.morphologyEx(framed, cv2.MORPH_CLOSE, kernel)[side:-side, side:-side]
    return 100 * float(np.sum((closed > 0) & ~opaque)) / max(1, int(opaque.sum()))


def jaw_energy(
    image: UInt8[np.ndarray, "H Wd 3"], points: Float[np.ndarray, "N 2"], width: float
) -> float:
    """Return the rms of a Laplacian along the projected jaw, of a picture with values to 255.

    The picture is first brought to a face 100 pixels wide, so that sizes can be compared.
    """
    scale = 100 / width
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    gray = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=interpolation)
    band = np.zeros(gray.shape, np.uint8)
    line = np.round(points[list(JAW)] * scale).astype(np.int32)
    cv2.polylines(band, [line[:, None]], False, 1, thickness=12)
    if not band.any():
        return 0.0
    rough = cv2.Laplacian(gray, cv2.CV_32F, ksize=3)
    return float(np.sqrt(np.mean(np.square(rough[band > 0]))))


def contact_sheet(swept: Swept) -> UInt8[np.ndarray, "h w 3"]:
    """Lay out all pictures: yaw to the right, pitch up."""
    columns = len({yaw for yaw, _ in swept.angles})
    side = min(256, swept.images.shape[1])
    small = [cv2.resize(i, (side, side), interpolation=cv2.INTER_AREA) for i in swept.images]
    lines = [np.hstack(small[at : at + columns]) for at in range(0, len(small), columns)]
    return np.vstack(lines)


if __name__ == "__main__":
    run_main(main)
