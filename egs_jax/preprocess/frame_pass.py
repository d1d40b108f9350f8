"""The second pass over the films: frames, masks, the room, and what is before the mouth."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from egs_jax.data.folder import FILES, PICTURES
from egs_jax.data.pictures import PicturesWriter
from egs_jax.face.segmentation import FaceParser, PersonSegmenter
from egs_jax.preprocess.dataset_folder import check_room
from egs_jax.preprocess.exposure import exposed
from egs_jax.preprocess.masks import BackgroundModel, HeadMasker
from egs_jax.preprocess.material import Material
from egs_jax.preprocess.mouth_check import mouth_patch, mouth_seen
from egs_jax.preprocess.room_check import RoomCheck, RoomFigures
from egs_jax.runtime.progress import progress

BYTES_A_PIXEL = 1.0
"""What frames and masks take at most: 0.6 of sharp clips, more of noise."""
_MOUTH_ALONE = 500  # frames of each of several films from which on its mouths are looked at alone


class SecondPass(NamedTuple):
    """The findings of the second pass; T frames, F used films."""

    plate: UInt8[np.ndarray, "H W 3"]
    """The room of all films."""
    film_plates: list[UInt8[np.ndarray, "H W 3"]]
    """The room of each one."""
    room: RoomFigures | None
    mouth_seen: Bool[np.ndarray, " T"]


def write_frames(work: Path, material: Material, parser: FaceParser | None) -> SecondPass:
    """Write frames and masks of all stretches into a folder.

    Raises:
      InputError: if the disk has no room, or a film is damaged.
    """
    count, size = len(material.valid), material.frame_size
    check_room(work, round(BYTES_A_PIXEL * count * size**2))
    segmenter = PersonSegmenter()
    together, looks, number = BackgroundModel(size, size), RoomCheck(), 0
    patches, plates = [], []
    with contextlib.ExitStack() as stack:
        frames, heads, people = (
            stack.enter_context(PicturesWriter(work / FILES[name])) for name in PICTURES
        )
        bar = stack.enter_context(progress(count, "frames and masks", "frame"))
        for k in material.used:
            crop, gain = material.crops[k], material.gains[k]
            room = BackgroundModel(size, size) if len(material.used) > 1 else together
            for source, first in _chosen(material, k):
                if first:
                    masker = HeadMasker(size, size)
                frame = exposed(crop.image(source), gain)
                points = material.landmarks[number]
                labels = None if parser is None else parser.parse(frame)
                masks = masker.update(points, segmenter.segment(frame), labels)
                frames.append(frame)
                heads.append(masks.head)
                people.append(masks.soft_person)
                patches.append(mouth_patch(frame, points))
                if number % 10 == 0:
                    for model in dict.fromkeys((room, together)):
                        model.update(frame, masks.foreground, masks.others)
                    looks.update(frame, masks)
                number += 1
                bar.update(0, completed=number)
            plates.append(room.result())
    plate = together.result()
    return SecondPass(plate, plates, looks.result(plate), _mouths(material, np.stack(patches)))


def _chosen(material: Material, film: int) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield the used pictures of a film, and whether a stretch begins with it."""
    parts = iter(material.parts[film])
    start, stop = next(parts)
    for i, picture in enumerate(material.films[film].frames()):
        if i >= start:
            yield picture, i == start
        if i + 1 == stop:
            following = next(parts, None)
            if following is None:
                return
            start, stop = following


def _mouths(material: Material, patches: UInt8[np.ndarray, "T 12 12 3"]) -> Bool[np.ndarray, " T"]:
    """Tell in which frames nothing is before the mouth, and say in how many something is."""
    lengths = [material.frames_used(k) for k in material.used]
    borders = np.cumsum(lengths)[:-1] if min(lengths) >= _MOUTH_ALONE else []
    seen = np.concatenate([mouth_seen(part) for part in np.split(patches, borders)])
    hidden = int((~seen).sum())
    if hidden:
        print(
            f"something is before the mouth in {hidden} of {len(seen)} frames; they are not "
            "trained on"
        )
    return seen
