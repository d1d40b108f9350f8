"""Stretches of a dataset: runs of frames that follow one another in one film, without a cut.

A dataset's frames are those of all its stretches, one after the other. Whatever takes neighbors in
number for neighbors in time asks here: windows of sound, paths of poses, lags.

Before: `folder`; after: `dataset`. T frames of a dataset; sound features have two rows a frame.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Stretch(NamedTuple):
    """One stretch: frames [start, stop) of the dataset."""

    start: int
    stop: int
    film: int = 0
    """Number of its film among those that the dataset is made of."""
    film_start: int = 0
    """Frame of the film that `start` is."""
    sound_frame: int = 0
    """Where the sound of `start` is in the table of sound features, in frames of two rows."""
    sound_rows: tuple[int, int] = (0, 0)
    """Rows of that table [first, end) which are of this film about this stretch: all that may be
    heard in it. What lies outside is silence."""


def stretches_of(meta: dict[str, Any], rows: int) -> tuple[Stretch, ...]:
    """Return the stretches that `meta.json` tells of; without a word, all is one.

    Args:
      meta: The description of a dataset.
      rows: Rows of its table of sound features.

    Raises:
      TypeError, ValueError, KeyError: if they do not follow one another from first to last frame.
    """
    count = int(meta["num_frames"])
    told = meta.get("stretches")
    if told is None:
        return (Stretch(0, count, sound_rows=(0, rows)),)
    found = tuple(
        Stretch(**{**entry, "sound_rows": tuple(map(int, entry["sound_rows"]))}) for entry in told
    )
    borders = [0, *(part.stop for part in found)]
    follow = all(a == part.start < part.stop for a, part in zip(borders, found, strict=False))
    heard = all(0 <= low <= high <= rows for low, high in (part.sound_rows for part in found))
    if not (follow and borders[-1] == count and heard):
        raise ValueError(f"stretches {[part[:2] for part in found[:5]]} of {count} frames")
    return found


def starts_of(stretches: tuple[Stretch, ...]) -> Int[np.ndarray, " T"]:
    """Return the first frame of every frame's stretch."""
    return np.concatenate([np.full(part.stop - part.start, part.start) for part in stretches])


def sound_places(stretches: tuple[Stretch, ...]) -> Int[np.ndarray, "T 3"]:
    """Return where every frame's sound is (in frames of two rows), and the rows [first, end)."""
    parts = []
    for part in stretches:
        count = part.stop - part.start
        frames = part.sound_frame + np.arange(count)
        parts.append(np.column_stack([frames, np.tile(part.sound_rows, (count, 1))]))
    return np.concatenate(parts).astype(np.int32)


def longest(stretches: tuple[Stretch, ...], within: tuple[int, int]) -> tuple[int, int]:
    """Return the longest run of frames [start, stop) of one stretch in a range of frames."""
    runs = [(max(part.start, within[0]), min(part.stop, within[1])) for part in stretches]
    return max(runs, key=lambda run: run[1] - run[0])


def nearest_of(
    wanted: Bool[np.ndarray, " T"], frames: Int[np.ndarray, " B"]
) -> Int[np.ndarray, " B"]:
    """Return for each of some frames the nearest one that is wanted; the earlier one on a tie."""
    known = np.flatnonzero(wanted)
    after = np.clip(np.searchsorted(known, frames), 0, len(known) - 1)
    before = np.maximum(after - 1, 0)
    nearer = np.abs(frames - known[before]) <= np.abs(known[after] - frames)
    return known[np.where(nearer, before, after)]


def laid_out(
    values: Float[np.ndarray, " N"], frames: Int[np.ndarray, " N"],
    stretches: tuple[Stretch, ...], apart: int,
) -> Float[np.ndarray, " M"]:  # fmt: skip
    """Put values of some frames, in order, on one line of time: NaN where a frame is left out.

    Stretches are `apart` NaNs from one another, so that no lag below it pairs two of them.
    """
    shift = np.zeros(max(part.stop for part in stretches), int)
    for number, part in enumerate(stretches):
        shift[part.start : part.stop] = number * apart
    place = frames + shift[frames]
    line = np.full(int(place[-1] - place[0]) + 1, np.nan)
    line[place - place[0]] = values
    return line
