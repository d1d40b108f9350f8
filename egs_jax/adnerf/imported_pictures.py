"""The pictures of an imported dataset: frames, masks, the plate, and what is behind each head.

They are those of the other program (`adnerf_pictures`); what it lacks is made as `pipeline` makes
it, with a line that says so.

Conventions: images uint8 [H, W, 3] RGB, masks bool [H, W].
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import imageio.v3 as imageio
import numpy as np
from jaxtyping import Bool, Float, UInt8

from egs_jax.adnerf.folder import AdNerfFolder
from egs_jax.adnerf.pictures import (
    read_behind_head,
    read_frame,
    read_parsing,
    read_plate,
)
from egs_jax.data.folder import FILES, PICTURES
from egs_jax.data.paint import paint_out_head
from egs_jax.data.pictures import Pictures, PicturesWriter
from egs_jax.face.mesh import FACE_OVAL
from egs_jax.face.segmentation import PersonSegmenter
from egs_jax.preprocess.masks import BackgroundModel, FrameMasks, HeadMasker
from egs_jax.preprocess.room_check import RoomCheck, RoomFigures
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.progress import progress

ROOMS = ("bc.jpg", "bc.png")
"""Files that may have the room without the person."""
_LOOKS = 25  # frames after which masks are compared with the faces
_COVERED = 0.5  # share of the face's outline that lies in a head's mask if both are of one frame


class Written(NamedTuple):
    """What was written.

    Attributes:
      frames: The frames.
      room: What was seen of the room; None: too little.
      told: Where "masks", "plate" and "backgrounds" are from.
    """

    frames: Pictures
    room: RoomFigures | None
    told: dict[str, str]


def write_pictures(
    work: Path,
    theirs: AdNerfFolder,
    landmarks: Float[np.ndarray, "T 478 3"],
    size: tuple[int, int],
) -> Written:
    """Write the files of `data.folder` that have pictures.

    Args:
      work: The folder to write them into.
      theirs: The other program's folder.
      landmarks: Landmarks of every frame [pixels].
      size: Height and width of the frames [pixels].

    Raises:
      InputError: if a picture cannot be used.
    """
    height, width = size
    model, looks = BackgroundModel(height, width), RoomCheck()
    with contextlib.ExitStack() as stack:
        pictures, heads, people = (
            stack.enter_context(PicturesWriter(work / FILES[name])) for name in PICTURES
        )
        bar = stack.enter_context(progress(len(landmarks), "frames and masks", "frame"))
        masks = _Masks(theirs, landmarks, size)
        for i, (frame, mask) in enumerate(bar.track(masks, task_id=0)):
            pictures.append(frame)
            heads.append(mask.head)
            people.append(mask.soft_person)
            if i % 10 == 0:
                model.update(frame, mask.foreground, mask.others)
                looks.update(frame, mask)
    told = {"masks": masks.told()}
    room = next((theirs.folder / name for name in ROOMS if (theirs.folder / name).exists()), None)
    if room is not None:
        plate, told["plate"] = read_plate(room, width, height), room.name
    else:
        print("no bc.jpg: the room without the person is made of the frames")
        plate, told["plate"] = model.result(), "of the frames"
    imageio.imwrite(work / FILES["plate"], plate)
    frames = Pictures(work / FILES["frames"])
    told["backgrounds"] = _write_backgrounds(work, theirs, frames, plate)
    return Written(frames, looks.result(plate), told)


class _Masks:
    """Frames and their masks, one after another: the folder's, or ours where it has none."""

    def __init__(self, theirs: AdNerfFolder, landmarks: np.ndarray, size: tuple[int, int]):
        self._theirs, self._landmarks, self._size = theirs, landmarks, size
        self._parsed = theirs.pictures("parsing")
        self._made, self._covered = 0, []

    def __len__(self) -> int:
        return len(self._landmarks)

    def __iter__(self) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"], FrameMasks]]:
        height, width = self._size
        segmenter, masker = None, None
        for path, parsed, points in zip(
            self._theirs.images, self._parsed, self._landmarks, strict=True
        ):
            frame = read_frame(path, width, height)
            masks = None if parsed is None else read_parsing(parsed, width, height)
            if masks is None:
                segmenter = segmenter or PersonSegmenter()
                masker = masker or HeadMasker(height, width)
                masks = masker.update(points, segmenter.segment(frame))
                self._made += 1
            else:
                self._covered.append(_covered(masks.head, points))
                if len(self._covered) == _LOOKS:
                    self._check()
            yield frame, masks

    def _check(self) -> None:
        """Refuse masks that are not those of these frames."""
        if self._covered and np.median(self._covered) < _COVERED:
            raise InputError(
                f"{self._theirs.folder / 'parsing'}: its heads (blue) are not where the faces are; "
                "parse these very frames, or take the folder away"
            )

    def told(self) -> str:
        """Return where the masks are from, and say what is odd about them."""
        self._check()
        if not self._made:
            return "parsing"
        if not any(self._parsed):
            print("no parsing: masks are made of the frames")
        else:
            print(f"parsing shows no head in {self._made} of {len(self)} frames: masks are made")
        return "person segmentation and landmarks" if not self._covered else "parsing, some made"


def _covered(head: Bool[np.ndarray, "H W"], points: Float[np.ndarray, "478 3"]) -> float:
    """Return the share of the face's outline, drawn in a little, that lies in a head's mask."""
    outline = points[FACE_OVAL, :2]
    columns, rows = (0.8 * (outline - outline.mean(axis=0)) + outline.mean(axis=0)).astype(int).T
    height, width = head.shape
    return float(head[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)].mean())


def _write_backgrounds(
    work: Path, theirs: AdNerfFolder, frames: Pictures, plate: UInt8[np.ndarray, "H W 3"]
) -> str:
    """Write what the other programs draw a head over; where they do not say, it is painted here."""
    torsos = theirs.pictures("torso_imgs")
    if not any(torsos):
        print("no torso_imgs: heads are drawn over frames with the head painted out")
        return "painted"
    heads, people = (Pictures(work / FILES[name]) for name in PICTURES[1:])
    with PicturesWriter(work / FILES["backgrounds"]) as backgrounds:
        for i, torso in enumerate(torsos):
            if torso is not None:
                backgrounds.append(read_behind_head(torso, plate))
            else:
                backgrounds.append(paint_out_head(frames[i], heads[i], people[i] > 127, plate))
    missing = sum(torso is None for torso in torsos)
    if missing:
        print(f"torso_imgs has nothing of {missing} frames: painted here")
    return "torso_imgs" if not missing else "torso_imgs, some painted"
