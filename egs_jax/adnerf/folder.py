"""Dataset folders in the form that began with AD-NeRF: which frames there are, and their split.

RAD-NeRF, ER-NeRF, GaussianTalker, TalkingGaussian and EGSTalker share it. Every frame has a number,
which is also its place on the clock (25 a second, 0 at the start of the sound):

  transforms_train.json, transforms_val.json (or _test)     the split, and the cameras
  ori_imgs/NUMBER.jpg                  frames; gt_imgs has the same before a clean room
  track_params.pt                      the tracker's own record, see `adnerf_cameras`
  parsing, torso_imgs, bc.jpg          see `adnerf_pictures`
  aud.wav, aud_ds.npy, ..., au.csv     see `adnerf_signals`

Letters: T frames.
"""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from egs_jax.runtime.errors import MAY_NOT_READ, InputError

FRAMES = ("ori_imgs", "gt_imgs")
"""Folders that may have the frames; the first that has any is taken."""
SUFFIXES = (".jpg", ".jpeg", ".png")
_MOST = 10**9  # a number that no frame has
REACH = 30
"""Frames kept on either side of a hole: sound is heard across no more than that."""


class Entry(NamedTuple):
    """A frame as a split lists it: its number, that of its sound, and its camera [4, 4] if told."""

    number: int
    sound: int
    cam_to_world: np.ndarray | None


@dataclass(frozen=True)
class AdNerfFolder:
    """What a folder says of its frames.

    Attributes:
      folder: Where it is.
      numbers: Each frame's own number, rising; holes of more than 2 * `REACH` are shortened.
      shown: Number whose pictures stand for each frame: the one before where it has none.
      images: Each frame's picture.
      splits: Ranges [start, stop) of frames.
      left_out: Frames inside a split's range, or between them, that no split has.
      entries: What the splits say, by number.
      files: The json of each split.
      told: What it says besides its frames.
      sound_shift: What is to be added to a frame's number for its place on the sound's clock.
      notes: What was mended, a line each.
    """

    folder: Path
    numbers: Int[np.ndarray, " T"]
    shown: Int[np.ndarray, " T"]
    images: tuple[Path, ...]
    splits: dict[str, tuple[int, int]]
    left_out: list[int]
    entries: dict[int, Entry]
    files: dict[str, Path]
    told: dict[str, dict[str, Any]]
    sound_shift: int
    notes: tuple[str, ...]

    @property
    def kept(self) -> Int[np.ndarray, " N"]:
        """Numbers of the frames that a split has."""
        return np.delete(self.numbers, self.left_out)

    def pictures(self, name: str) -> list[Path | None]:
        """Return the picture of each frame in the folder `name`; None where it has none."""
        found = numbered(self.folder / name)
        return [found.get(int(number)) for number in self.shown]


def read_folder(folder: str | Path) -> AdNerfFolder:
    """Read the split and the list of frames.

    Raises:
      InputError: if the folder is no such dataset, or its parts do not belong together.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a dataset in the form of AD-NeRF")
    files = {"train": _train_file(folder), "val": _val_file(folder)}
    told = {split: _read_json(path) for split, path in files.items()}
    listed = {split: _entries(told[split].pop("frames"), path) for split, path in files.items()}
    images, notes = _images(folder)
    numbers = {split: _kept(files[split], listed[split], images, notes) for split in files}
    _check_apart(folder, numbers)
    kept = np.sort(np.concatenate([*numbers.values()]))
    timeline = _timeline(kept)
    ranges = {
        split: (int(np.searchsorted(timeline, n[0])), int(np.searchsorted(timeline, n[-1])) + 1)
        for split, n in numbers.items()
    }
    entries = {entry.number: entry for split in listed.values() for entry in split}
    there = np.isin(timeline, list(images))
    shown = timeline[np.maximum.accumulate(np.where(there, np.arange(len(timeline)), 0))]
    return AdNerfFolder(
        folder=folder,
        numbers=timeline,
        shown=shown,
        images=tuple(images[number] for number in shown.tolist()),
        splits=ranges,
        left_out=np.flatnonzero(~np.isin(timeline, kept)).tolist(),
        entries=entries,
        files=files,
        told=told,
        sound_shift=_sound_shift(folder, [entries[number] for number in kept.tolist()]),
        notes=tuple(notes),
    )


def numbered(folder: Path) -> dict[int, Path]:
    """Return the pictures of a folder by number; none if there is no such folder."""
    if not folder.is_dir():
        return {}
    order = {suffix: i for i, suffix in enumerate(SUFFIXES)}
    found = [p for p in folder.iterdir() if p.suffix.lower() in order and p.stem.isdecimal()]
    found = [path for path in found if int(path.stem) < _MOST]
    found.sort(key=lambda path: (-order[path.suffix.lower()], path.name))
    return {int(path.stem): path for path in found}  # the same number as .jpg comes last


def _train_file(folder: Path) -> Path:
    path = folder / "transforms_train.json"
    if not path.is_file():
        raise InputError(
            f"{folder}: not a dataset in the form of AD-NeRF (no transforms_train.json); give the "
            "folder that has it, or make a dataset of the film with `preprocess`"
        )
    return path


def _val_file(folder: Path) -> Path:
    names = ("transforms_val.json", "transforms_test.json")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder}: has neither {' nor '.join(names)}; give the frames held out")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8-sig"))
        if not (isinstance(told, dict) and isinstance(told.get("frames"), list)):
            raise ValueError("has no list of frames")
        return told
    except PermissionError:
        raise InputError(f"{path}: {MAY_NOT_READ}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: unreadable ({error}); copy it again") from None


def _entries(frames: list[Any], path: Path) -> list[Entry]:
    """Return the frames that a split lists."""
    entries = []
    for i, frame in enumerate(frames):
        try:
            number = _whole(frame["img_id"])
            sound, matrix = _whole(frame.get("aud_id", number)), frame.get("transform_matrix")
            if matrix is not None:
                matrix = np.array(matrix, np.float64)
                _check_rigid(matrix)
            if not (0 <= number < _MOST and abs(sound) < _MOST):
                raise ValueError(f"img_id {number}, aud_id {sound}")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise InputError(
                f"{path}: entry {i} of its frames is damaged ({reason}); make the file again"
            ) from None
        entries.append(Entry(number, sound, matrix))
    numbers = [entry.number for entry in entries]
    if len(set(numbers)) != len(numbers):
        twice = min(number for number in numbers if numbers.count(number) > 1)
        raise InputError(f"{path}: lists frame {twice} twice; make it again")
    return entries


def _whole(number: Any) -> int:
    """Return a whole number, however it is written."""
    if not float(number).is_integer():
        raise ValueError(f"{number} is no whole number")
    return int(float(number))


def _check_rigid(matrix: np.ndarray) -> None:
    """Refuse what is no pose."""
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ValueError("transform_matrix is not 4 x 4 finite numbers")
    turn = matrix[:3, :3]
    if np.abs(turn @ turn.T - np.eye(3)).max() > 0.01 or np.linalg.det(turn) < 0:
        raise ValueError("transform_matrix has no rotation")


def _images(folder: Path) -> tuple[dict[int, Path], list[str]]:
    """Return the frames' pictures by number, and what is to be said of them."""
    for name in FRAMES:
        if found := numbered(folder / name):
            return found, ([] if name == FRAMES[0] else [f"no {FRAMES[0]}: {name} has the frames"])
    raise InputError(
        f"{folder}: no frames in {' or '.join(FRAMES)} (0.jpg, 1.jpg, ...); take them out of the "
        "film at 25 a second"
    )


def _kept(
    path: Path, listed: list[Entry], images: dict[int, Path], notes: list[str]
) -> Int[np.ndarray, " N"]:
    """Return the numbers, rising, of the frames that a split lists and that are there."""
    numbers = np.array(sorted(entry.number for entry in listed), int)
    there = np.array([number in images for number in numbers.tolist()], bool)
    folder = next(iter(images.values())).parent
    if not there.any():
        lists = f"lists {_ranges(numbers)}" if len(numbers) else "lists no frame"
        raise InputError(
            f"{path}: {lists}, {folder} has {_ranges(np.array(sorted(images)))}; give the frames "
            "of this split"
        )
    if not there.all():
        notes.append(
            f"{path.name}: {int((~there).sum())} of {len(numbers)} frames have no picture in "
            f"{folder.name} and are left out: {_ranges(numbers[~there])}"
        )
    return numbers[there]


def _ranges(numbers: np.ndarray, most: int = 4) -> str:
    """Say whole numbers in short: "3, 7-9"."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    said = [str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs[:most]]
    return ", ".join(said) + (", ..." if len(runs) > most else "")


def _check_apart(folder: Path, numbers: dict[str, np.ndarray]) -> None:
    """Refuse splits that are not one after the other."""
    train, val = numbers["train"], numbers["val"]
    if train[0] <= val[-1] and val[0] <= train[-1]:
        same = len(np.intersect1d(train, val))
        what = f"{same} frames are in both" if same else "they are mixed"
        raise InputError(
            f"{folder}: train has frames {train[0]}-{train[-1]} and val {val[0]}-{val[-1]} "
            f"({what}); what is held out must come before or after what is trained on"
        )


def _timeline(kept: Int[np.ndarray, " N"]) -> Int[np.ndarray, " T"]:
    """Return all numbers from the first to the last, without the middle of long holes."""
    pieces = [kept[:1]]
    for before, after in itertools.pairwise(kept.tolist()):
        if after - before - 1 <= 2 * REACH:
            pieces.append(np.arange(before + 1, after + 1))
        else:
            pieces += [before + 1 + np.arange(REACH), after - REACH + np.arange(REACH + 1)]
    return np.concatenate(pieces)


def _sound_shift(folder: Path, kept: list[Entry]) -> int:
    """Return by how many frames the sound's numbers are ahead of the pictures'."""
    shifts = {entry.sound - entry.number for entry in kept}
    if len(shifts) > 1:
        odd = next(entry for entry in kept if entry.sound - entry.number != min(shifts))
        raise InputError(
            f"{folder}: aud_id and img_id differ by different amounts (frame {odd.number} has "
            f"sound {odd.sound}); frames and sound must run side by side"
        )
    return shifts.pop()
