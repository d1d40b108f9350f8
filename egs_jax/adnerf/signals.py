"""What is heard and how the lids move in a dataset in the form of AD-NeRF (`adnerf_folder`).

  aud.wav       the sound of the whole film
  aud_ds.npy    windows of DeepSpeech outputs, [T, 16, 29]; aud_eo.npy of wav2vec2 (Esperanto),
                [T, 16, 44]; aud_hu.npy pairs of HuBERT states, [T, 2, 1024]
  au.csv        action units of OpenFace, a row a frame; AU45_r is how far the lids are shut, 0 to 5

Window i has the rows 2 i - 8 ... 2 i + 7 of features at 50 Hz, which are the entry of frame i in
`speech.features`: its two middle rows are those of the frame itself, and all windows are made of
them again.
"""

import csv
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from egs_jax.media.audio_file import read_audio
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.runtime.errors import MAY_NOT_READ, InputError
from egs_jax.speech.features import AUDIO_FEATURES, FRAME_SAMPLES
from egs_jax.speech.layout import ENTRY_ROWS
from egs_jax.speech.level import loudness

THEIRS = {
    "deepspeech": ("aud_ds.npy", "aud.npy"),
    "wav2vec": ("aud_eo.npy",),
    "hubert": ("aud_hu.npy",),
}
"""Files with the features of other programs, by the name that they are chosen by."""
SOUNDS = (".wav", ".mp4", ".mov", ".mkv", ".avi")
HELD = 10
"""Frames (0.4 s) at the end for which the last value is held where a file is too short."""
_SHUT = 2.0  # AU45 of a shut eye
_QUIET_SHARE = 0.05  # of the training frames, those with the least sound
_SLIDES = 1e-3  # of the largest feature: by how much windows that overlap may differ


def read_sound(folder: Path, numbers: Int[np.ndarray, " T"]) -> Float[np.ndarray, " S"]:
    """Return the sound of the frames with these numbers, at `SAMPLE_RATE`.

    Raises:
      InputError: if there is none, it is silent or cannot be read, or ends long before the frames.
    """
    path = _sound_file(folder)
    samples, stop = read_audio(path), (int(numbers.max()) + 1) * FRAME_SAMPLES
    if not np.isfinite(loudness(samples)):
        raise InputError(f"{path}: is silent; an avatar learns from speech, give the film's sound")
    if len(samples) < stop - HELD * FRAME_SAMPLES:
        raise InputError(
            f"{path}: ends after {len(samples) / SAMPLE_RATE:.1f} s, the frames go to "
            f"{(int(numbers.max()) + 1) / FPS:.1f} s; give the sound of the whole film"
        )
    blocks = np.pad(samples, (0, max(0, stop - len(samples))))[:stop].reshape(-1, FRAME_SAMPLES)
    heard = blocks[np.maximum(numbers, 0)]
    return np.where(numbers[:, None] < 0, np.float32(0), heard).reshape(-1)


def _sound_file(folder: Path) -> Path:
    named = [folder / f"{folder.resolve().name}{suffix}" for suffix in SOUNDS]
    for path in (folder / "aud.wav", *named):
        if path.is_file():
            return path
    raise InputError(
        f"{folder}: has no sound (aud.wav, or the film {named[1].name}); put the film's sound there"
    )


def read_features(
    folder: Path, name: str, numbers: Int[np.ndarray, " T"]
) -> tuple[Float[np.ndarray, "R F"], str]:
    """Return another program's features of the frames with these numbers, two rows a frame.

    Args:
      folder: The dataset.
      name: One of `THEIRS`, or a file of the folder that ends in .npy.
      numbers: Numbers of the frames on the sound's clock; outside the file its ends are held.

    Returns:
      Rows at 50 Hz, and the file that has them.

    Raises:
      InputError: if there is no such file, or it has no features of these frames.
    """
    files = [name] if name.endswith(".npy") else THEIRS.get(name, ())
    path = next((folder / file for file in files if (folder / file).is_file()), None)
    if path is None:
        there = [n for n, known in THEIRS.items() if any((folder / f).is_file() for f in known)]
        known = ", ".join([*AUDIO_FEATURES, *there])
        what = " or ".join(files) or "features of that name"
        raise InputError(f"{folder}: has no {what}; choose --audio-features from {known}")
    rows = _rows(_load(path), path, int(numbers.max()) + 1)
    missing = int(numbers.max()) + 1 - len(rows) // 2
    if missing > HELD:
        raise InputError(
            f"{path}: has features of {len(rows) // 2} frames, the frames go to "
            f"{int(numbers.max())}; extract them from the whole sound"
        )
    frames = np.clip(numbers, 0, len(rows) // 2 - 1)
    chosen = rows[np.stack([2 * frames, 2 * frames + 1], -1).reshape(-1)]
    if not np.isfinite(chosen).all():
        raise InputError(f"{path}: has features that are not finite; extract them again")
    return chosen.astype(np.float32), path.name


def _load(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False, mmap_mode="r")
    except PermissionError:
        raise InputError(f"{path}: {MAY_NOT_READ}") from None
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable array ({why}); extract it again") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise InputError(f"{path}: not one array of real numbers; extract it again")
    return array


def _rows(array: np.ndarray, path: Path, frames: int) -> np.ndarray:
    """Return features at 50 Hz of an array in any of the forms that are in use."""
    shape = array.shape
    if 0 not in shape and len(shape) == 3 and shape[1] == ENTRY_ROWS:
        _check_windows(array, path)
        return array[:, ENTRY_ROWS // 2 : ENTRY_ROWS // 2 + 2].reshape(-1, shape[2])
    if 0 not in shape and len(shape) == 3 and shape[1] == 2:
        return array.reshape(-1, shape[2])
    if 0 not in shape and len(shape) == 2:  # a row a frame, or two
        return array if len(array) > 1.5 * frames else np.repeat(array, 2, axis=0)
    raise InputError(
        f"{path}: {list(shape)}, expected [frames, 16, F], [frames, 2, F] or [frames, F]; extract "
        "it again"
    )


def _check_windows(windows: np.ndarray, path: Path) -> None:
    """Refuse windows that are not cut out of one row of features, two further each."""
    some = np.linspace(0, len(windows) - 2, min(len(windows) - 1, 100)).round().astype(int)
    if not len(some):
        return
    apart = np.abs(windows[some + 1, :-2] - windows[some, 2:]).max()
    if not apart <= _SLIDES * max(1.0, float(np.abs(windows[some]).max())):
        raise InputError(
            f"{path}: its windows are not 16 rows every 2 of 50 a second; extract them at 25 "
            "frames a second, or choose --audio-features whisper"
        )


def quiet_features(
    rows: Float[np.ndarray, "R F"], samples: Float[np.ndarray, " S"], train: Int[np.ndarray, " N"]
) -> Float[np.ndarray, " F"]:
    """Return the mean features of the quietest training frames: what stands for silence."""
    power = np.square(samples.reshape(-1, FRAME_SAMPLES)[train].astype(np.float64)).mean(axis=1)
    count = max(1, round(_QUIET_SHARE * len(train)))
    quiet = train[np.argsort(power, kind="stable")[:count]]
    return rows.reshape(-1, 2, rows.shape[1])[quiet].mean(axis=(0, 1)).astype(np.float32)


def read_lids(path: Path, numbers: Int[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    """Return how far the lids are shut, 0 open to 1 shut: AU45 up to 2, halved.

    Frames in which no face was found take the value between their neighbors.

    Raises:
      InputError: if the file is damaged, has no AU45, or ends long before the frames.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
        names = {name: i for i, name in enumerate(table[0])} if table else {}
        if "AU45_r" not in names:
            raise InputError(
                f"{path}: has no column AU45_r; run OpenFace with -aus, or take the file away and "
                "the lids are told from the frames"
            )
        column = lambda name: np.array([row[names[name]] for row in table[1:]], float)
        shut = column("AU45_r")
        # OpenFace counts from 1.
        places = column("frame") - 1 if "frame" in names else np.arange(len(shut))
        good: Bool[np.ndarray, " K"] = np.isfinite(shut) & np.isfinite(places)
        if "success" in names:
            good &= column("success") > 0
    except PermissionError:
        raise InputError(f"{path}: {MAY_NOT_READ}") from None
    except InputError:
        raise
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise InputError(f"{path}: not a table of OpenFace ({error}); run it again") from None
    if not good.any():
        raise InputError(f"{path}: has no frame with a face; run OpenFace on the frames again")
    if numbers.max() > places.max() + HELD:
        raise InputError(
            f"{path}: has frames up to {int(places.max())}, the folder up to {int(numbers.max())}; "
            "run OpenFace on the whole film, or take the file away and the lids are told from the "
            "frames"
        )
    order = np.argsort(places[good], kind="stable")
    values = np.interp(numbers, places[good][order], shut[good][order])
    return (np.clip(values, 0, _SHUT) / _SHUT).astype(np.float32)
