"""The dataset folder: its arrays, its description, and the checks that both hold together.

Before: `preprocess`, which writes the folder; after: `dataset`, which reads it. Arrays open
memory-mapped, pictures are decoded when asked for, and no pickle is ever loaded.
"""

import json
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

from egs_jax.data.pictures import Pictures, opening
from egs_jax.data.stretches import stretches_of
from egs_jax.face.mesh import NUM_LANDMARKS
from egs_jax.runtime.errors import MAY_NOT_READ, InputError
from egs_jax.speech.features import AUDIO_FEATURES, IMPORTED
from egs_jax.speech.layout import Layout, layout_of
from egs_jax.speech.lips import READ_ROWS

FORMAT_VERSION = 2
"""Version of the format that is written and read here."""
_ARRAYS = (
    "audio_features", "silence_features", "landmarks", "viewmats", "body_viewmats", "K",
    "mean_shape", "blink", "lips_rects", "mouth_opening", "points", "point_colors", "body_points",
    "body_point_colors",
)  # fmt: skip
"""Names of what lies in files NAME.npy."""
_FLAGS = ("valid", "mouth_seen")
"""Likewise; where there is no such file, every frame has the flag."""
PICTURES = ("frames", "head_masks", "person_masks")
"""Names of what lies in files NAME.zip: a picture a frame."""
FILES = (
    {name: f"{name}.npy" for name in (*_ARRAYS, *_FLAGS)}
    | {name: f"{name}.zip" for name in PICTURES}
    | {name: f"{name}.zip" for name in ("backgrounds", "film_plates")}
    | {"plate": "plate.png", "lips_prior": "lips_prior.npy"}
)
"""The file of everything that a folder has besides its description; the plate is one picture.

`backgrounds`, what the head of each frame is drawn over, is there only where a dataset brought it
along; otherwise the head is painted out of the frames. `film_plates`, a plate for each of several
films, is there only where their rooms differ. `lips_prior`, what other people's clips say of lips
(`speech.lips.fit_prior`), is there only where somebody put it."""
SPLITS = ("train", "val")
"""Names of the ranges of frames that `meta.json` gives."""


def open_folder(
    folder: str | Path,
) -> tuple[dict, dict[str, np.ndarray], dict[str, Pictures]]:
    """Open a dataset folder and check that it is complete.

    Returns:
      What `meta.json` says; the arrays by name, memory-mapped, and "plate"; the pictures by name,
      and "backgrounds" and "film_plates" if there are any.

    Raises:
      InputError: if the folder is not a complete dataset of this version.
    """
    folder = Path(folder)
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        version = meta["format_version"]
    except FileNotFoundError:
        is_run = (folder / "config.json").exists()
        remedy = (
            "it is a run; name the dataset that it was trained on" if is_run
            else f"make one with `python -m egs_jax preprocess VIDEO {folder}`"
        )  # fmt: skip
        raise InputError(f"{folder}: not a dataset folder (no meta.json); {remedy}") from None
    except PermissionError:
        raise InputError(f"{folder}/meta.json: {MAY_NOT_READ}") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{folder}/meta.json: unreadable ({error}); preprocess again") from None
    if version != FORMAT_VERSION:
        raise InputError(
            f"{folder}: dataset format {version}, this version reads {FORMAT_VERSION}; "
            "preprocess the video again"
        )
    arrays = {name: _open_array(folder / FILES[name]) for name in _ARRAYS}
    for name in _FLAGS:
        known = (folder / FILES[name]).exists()
        length = np.atleast_1d(arrays["blink"]).shape[0]
        arrays[name] = _open_array(folder / FILES[name]) if known else np.ones(length, bool)
    if (folder / FILES["lips_prior"]).exists():
        arrays["lips_prior"] = _open_array(folder / FILES["lips_prior"])
    arrays["plate"] = _open_plate(folder / FILES["plate"])
    pictures = {name: Pictures(folder / FILES[name]) for name in PICTURES}
    if (folder / FILES["backgrounds"]).exists():
        pictures["backgrounds"] = Pictures(folder / FILES["backgrounds"])
    _check(folder, meta, arrays, pictures)
    if (folder / FILES["film_plates"]).exists():
        pictures["film_plates"] = Pictures(folder / FILES["film_plates"])
    return meta, arrays, pictures


def _open_plate(path: Path) -> np.ndarray:
    with opening(path):
        return imageio.imread(path)


def _open_array(path: Path) -> np.ndarray:
    with opening(path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        array.close()
        raise InputError(f"{path}: not one array; preprocess the video again")
    return array


def _check(
    folder: Path, meta: dict, arrays: dict[str, np.ndarray], pictures: dict[str, Pictures]
) -> None:
    """Refuse a folder whose description or arrays do not fit together."""
    try:
        frames, height, width = (int(meta[name]) for name in ("num_frames", "height", "width"))
        ranges = [(int(start), int(stop)) for start, stop in map(meta["splits"].get, SPLITS)]
        fps, kind = float(meta["fps"]), str(meta["audio_features"]["kind"])
        if not (fps > 0 and all(0 <= a < b <= frames for a, b in ranges)):
            raise ValueError(f"splits {ranges} of {frames} frames at {fps} fps")
        if kind not in (*AUDIO_FEATURES, IMPORTED):
            raise ValueError(f"sound features of kind {kind!r}")
        is_ours = kind in AUDIO_FEATURES
        features = (
            AUDIO_FEATURES[kind].feature_dim if is_ours else int(meta["audio_features"]["dim"])
        )
        period = sound_layout(meta).hop_rows
        stretches_of(meta, len(np.atleast_1d(arrays["audio_features"])))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(
            f"{folder}/meta.json: damaged ({reason}); preprocess the video again"
        ) from None
    for name, (dtype, shape) in _expected(frames, height, width, features, arrays).items():
        if name not in pictures and name not in arrays:
            continue  # it need not be there
        found = pictures[name] if name in pictures else arrays[name]
        if found.dtype != dtype or found.shape != shape or not _finite(found):
            got = f"{found.dtype} {list(found.shape)}"
            raise InputError(
                f"{folder}/{FILES[name]}: {got}, expected finite {np.dtype(dtype)} {list(shape)}; "
                "preprocess the video again"
            )
    hush = arrays["silence_features"]
    if not len(hush) or len(hush) % period:
        raise InputError(
            f"{folder}/silence_features.npy: {len(hush)} rows, expected a multiple of {period}; "
            "preprocess the video again"
        )


def sound_layout(meta: dict) -> Layout:
    """Return how the sound features of a dataset are laid out; without a word, by default.

    Raises:
      KeyError, TypeError, ValueError: if no features are laid out as `meta.json` says.
    """
    told = meta["audio_features"].get("look_ahead")
    if told is None:
        return layout_of(meta["audio_features"]["kind"])
    try:
        found = layout_of(meta["audio_features"]["kind"], float(told))
    except InputError as error:
        raise ValueError(error) from None
    if abs(found.look_ahead() - told) > 1e-6:
        raise ValueError(f"sound features with a look-ahead of {told} s")
    return found


def _expected(
    frames: int, height: int, width: int, features: int, arrays: dict[str, np.ndarray]
) -> dict[str, tuple[type, tuple[int, ...]]]:
    """Return type and shape of everything; counts not in `meta.json` are the arrays' own."""
    lengths = {name: array.shape[:1] or (1,) for name, array in arrays.items()}
    real = np.float32
    return {
        "frames": (np.uint8, (frames, height, width, 3)),
        "head_masks": (np.bool_, (frames, height, width)),
        "person_masks": (np.uint8, (frames, height, width)),
        "backgrounds": (np.uint8, (frames, height, width, 3)),
        "plate": (np.uint8, (height, width, 3)),
        "audio_features": (real, (*lengths["audio_features"], features)),
        "silence_features": (real, (*lengths["silence_features"], features)),
        "landmarks": (real, (frames, NUM_LANDMARKS, 3)),
        "viewmats": (real, (frames, 4, 4)),
        "body_viewmats": (real, (frames, 4, 4)),
        "K": (real, (3, 3)),
        "mean_shape": (real, (NUM_LANDMARKS, 3)),
        "blink": (real, (frames,)),
        "lips_rects": (np.int32, (frames, 4)),
        "mouth_opening": (real, (frames,)),
        "lips_prior": (real, (READ_ROWS * features, 2)),
        "valid": (np.bool_, (frames,)),
        "mouth_seen": (np.bool_, (frames,)),
        "points": (real, (*lengths["points"], 3)),
        "point_colors": (np.uint8, (*lengths["points"], 3)),
        "body_points": (real, (*lengths["body_points"], 3)),
        "body_point_colors": (np.uint8, (*lengths["body_points"], 3)),
    }


def _finite(array: np.ndarray | Pictures) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
