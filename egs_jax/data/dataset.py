"""Dataset folder -> batches. Arrays stay on disk (memory-mapped) until a frame is asked for.

(4) of the data's way; before: preprocess, after: train. A batch is a function of (seed, step)
alone, so a resumed run sees what an uninterrupted one would have seen. Times and files are those
of `preprocess.py`, which writes the folder.
"""

import functools
import json
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np

from egs_jax.config import Config
from egs_jax.data.batches import Choice, Clip, Footage, Picks, cut, own, pick
from egs_jax.face.mesh import LEFT_EYE, RIGHT_EYE, mouth_width
from egs_jax.runtime.errors import MAY_NOT_READ, InputError
from egs_jax.speech.features import AUDIO_FEATURES, HOP_ROWS, feature_windows
from egs_jax.training.perceptual import PerceptualParams, load_perceptual
from egs_jax.types import Batch, Camera, Drive

FORMAT_VERSION = 1
ARRAYS = (
    "frames", "backgrounds", "head_masks", "audio_features", "silence_features", "landmarks",
    "viewmats", "K", "mean_shape", "blink", "lips_rects", "mouth_opening", "points",
    "point_colors",
)  # fmt: skip
SPLITS = ("train", "val")
BLINK = 0.4
"""Blink above which eyes count as shut or half shut."""
REST_SHARE = 0.15
"""Share of the training frames, those with the least open mouth, that silence is paired with."""


class Dataset:
    """A preprocessed clip; open one with `Dataset.open`."""

    def __init__(self, folder: Path, meta: dict, arrays: dict[str, np.ndarray], size: int | None):
        self.folder, self.meta, self.arrays = folder, meta, arrays
        self.num_frames, self.fps = int(meta["num_frames"]), float(meta["fps"])
        self.source_width, self.source_height = int(meta["width"]), int(meta["height"])
        self.splits: dict[str, tuple[int, int]] = {k: tuple(v) for k, v in meta["splits"].items()}
        self.scale = 1.0 if size is None else size / self.source_width
        self.width = size or self.source_width
        self.height = round(self.source_height * self.scale)

    @classmethod
    def open(cls, folder: str | Path, size: int | None = None) -> "Dataset":
        """Open a dataset folder; with `size`, as if it had been made at that many pixels.

        Raises:
          InputError: if the folder is not a complete dataset of this version.
        """
        folder = Path(folder)
        try:
            meta = json.loads((folder / "meta.json").read_text())
            version = meta["format_version"]
        except FileNotFoundError:
            raise InputError(
                f"{folder}: not a dataset folder (no meta.json); make one with "
                f"`python -m egs_jax preprocess VIDEO {folder}`"
            ) from None
        except PermissionError:
            raise InputError(f"{folder}/meta.json: {MAY_NOT_READ}") from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{folder}/meta.json: unreadable ({error}); preprocess again"
            ) from None
        if version != FORMAT_VERSION:
            raise InputError(
                f"{folder}: dataset format {version}, this version reads {FORMAT_VERSION}; "
                "preprocess the video again"
            )
        arrays = {name: _open_array(folder / f"{name}.npy") for name in ARRAYS}
        _check(folder, meta, arrays)
        return cls(folder, meta, arrays, size)

    def resized(self, size: int | None) -> "Dataset":
        """The same dataset seen at another image side (None: as stored)."""
        return Dataset(self.folder, self.meta, self.arrays, size)

    @property
    def audio_dim(self) -> int:
        """Audio features per 50 Hz row."""
        return self.arrays["audio_features"].shape[1]

    def frame(self, i: int) -> np.ndarray:
        """Video frame, uint8 [H,W,3]."""
        return self._image("frames", i)

    def background(self, i: int) -> np.ndarray:
        """The frame with its head painted out, uint8 [H,W,3]."""
        return self._image("backgrounds", i)

    def head_mask(self, i: int) -> np.ndarray:
        """Pixels of the head, bool [H,W]."""
        packed = self.arrays["head_masks"][self._index(i)]
        mask = np.unpackbits(packed, axis=-1, count=self.source_width)
        if self.scale == 1:
            return mask.astype(bool)
        area = cv2.resize(mask * 255, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return area > 127

    def target(self, i: int) -> np.ndarray:
        """The composite to be reproduced: true head over painted background, uint8 [H,W,3]."""
        return np.where(self.head_mask(i)[..., None], self.frame(i), self.background(i))

    def camera(self, i: int) -> Camera:
        """Camera of frame i (the head is the world)."""
        return Camera(
            viewmat=jnp.asarray(self.arrays["viewmats"][self._index(i)]),
            K=jnp.asarray(self.intrinsics),
            width=self.width,
            height=self.height,
        )

    @property
    def intrinsics(self) -> np.ndarray:
        """K at this size, float32 [3,3]."""
        scale = np.array([self.scale, self.height / self.source_height, 1], np.float32)
        return self.arrays["K"] * scale[:, None]

    def landmarks(self, i: int) -> np.ndarray:
        """Landmarks in pixels of this size, float32 [478,3]."""
        return self.arrays["landmarks"][self._index(i)] * np.float32(self.scale)

    def lips_rect(self, i: int) -> np.ndarray:
        """row_min, row_max, col_min, col_max of the lips, int32 [4]."""
        return self._lips_rects[self._index(i)]

    def eyes_rect(self, i: int) -> np.ndarray:
        """The same around both eyes, with a margin of a tenth of its width."""
        return self._eyes_rects[self._index(i)]

    @functools.cached_property
    def _lips_rects(self) -> np.ndarray:
        return self._inside(self.arrays["lips_rects"] * self.scale)

    @functools.cached_property
    def _eyes_rects(self) -> np.ndarray:
        points = self.arrays["landmarks"][:, np.concatenate([RIGHT_EYE, LEFT_EYE]), 1::-1]
        points = points * np.float32(self.scale)  # row, column
        low, high = points.min(axis=1), points.max(axis=1)
        margin = 0.1 * (high[:, 1:] - low[:, 1:])
        return self._inside(np.stack([low - margin, high + margin], axis=2).reshape(-1, 4))

    @functools.cached_property
    def blink_frames(self) -> np.ndarray:
        """Training frames whose eyes are shut or half shut, int [M] (M may be 0)."""
        start, stop = self.splits["train"]
        return start + np.flatnonzero(self.arrays["blink"][start:stop] > BLINK)

    @functools.cached_property
    def rest_frames(self) -> np.ndarray:
        """Training frames whose mouth is shut or nearly so, int [M]."""
        start, stop = self.splits["train"]
        opening = np.asarray(self.arrays["mouth_opening"][start:stop])
        return start + np.flatnonzero(opening <= np.quantile(opening, REST_SHARE))

    @functools.cached_property
    def lip_shapes(self) -> np.ndarray:
        """Opening and width of the mouth, in standard deviations from the training mean, [T,2]."""
        width = mouth_width(np.asarray(self.arrays["landmarks"]))
        shapes = np.stack([self.arrays["mouth_opening"], width], axis=1)
        seen = shapes[slice(*self.splits["train"])]
        spread = np.maximum(seen.std(axis=0), 1e-3)  # a still mouth has none
        return np.float32((shapes - seen.mean(axis=0)) / spread)

    @functools.cached_property
    def sound_spread(self) -> np.ndarray:
        """Standard deviation of every sound feature over the training frames, float32 [F]."""
        start, stop = self.splits["train"]
        return np.asarray(self.arrays["audio_features"][2 * start : 2 * stop]).std(axis=0)

    def drive(self, frames: np.ndarray, window_frames: int) -> Drive:
        """What drove the clip's own `frames` (int [B])."""
        frames = np.asarray(frames)
        eyes = np.asarray(self.arrays["blink"][frames], np.float32)
        return self.driven_by(self.audio_windows(frames, window_frames), eyes, frames)

    def driven_by(self, audio_windows: np.ndarray, eyes: np.ndarray, frames: np.ndarray) -> Drive:
        """Other sound and blinks [B] over pose and background of the clip's `frames` (int [B])."""
        return Drive(
            audio_windows=audio_windows,
            eyes=eyes,
            viewmats=np.asarray(self.arrays["viewmats"][frames]),
            Ks=np.broadcast_to(self.intrinsics, (len(frames), 3, 3)),
            backgrounds=np.stack([self.background(i) for i in frames]),
        )

    def audio_windows(self, frames: np.ndarray, window_frames: int) -> np.ndarray:
        """Sound around the clip's `frames` (int [B]), float32 [B,W,16,F]."""
        rows, silence = self.arrays["audio_features"], self.arrays["silence_features"]
        return feature_windows(rows, silence, np.asarray(frames), window_frames)

    def batch(self, config: Config, step: int) -> Batch:
        """This host's batch of `step`, cut here: a function of (config.seed, step) alone."""
        data = self if config.size in (None, self.width) else self.resized(config.size)
        picks = own(self.picks(config, step))
        batch = cut(config, config.stage(step), data.clip, data.footage(picks.frames), picks)
        return batch.replace(vgg=perceptual_weights(config, step))

    def picks(self, config: Config, step: int) -> Picks:
        """What `step` sees, on all hosts."""
        choice = Choice(*self.splits["train"], self.rest_frames, self.blink_frames)
        return pick(config, choice, step)

    def footage(self, frames: np.ndarray) -> Footage:
        """Pictures of `frames` (int [B]) at this size."""
        stack = lambda image: np.stack([image(i) for i in frames])
        return Footage(
            frames=stack(self.frame),
            backgrounds=stack(self.background),
            head_masks=stack(self.head_mask),
        )

    @functools.cached_property
    def clip(self) -> Clip:
        """What training reads besides pictures, at this size."""
        arrays = self.arrays
        return Clip(
            audio_features=arrays["audio_features"],
            silence_features=arrays["silence_features"],
            blink=np.asarray(arrays["blink"]),
            viewmats=np.asarray(arrays["viewmats"]),
            K=self.intrinsics,
            lips_rects=self._lips_rects,
            eyes_rects=self._eyes_rects,
            lip_shapes=self.lip_shapes,
            sound_spread=self.sound_spread,
        )

    def silence(self, count: int, window_frames: int) -> np.ndarray:
        """Audio windows of digital silence, float32 [count,W,16,F]."""
        hush = self.arrays["silence_features"]
        return feature_windows(hush[:0], hush, np.arange(count), window_frames)

    def _image(self, name: str, i: int) -> np.ndarray:
        image = np.asarray(self.arrays[name][self._index(i)])
        if self.scale == 1:
            return image
        return cv2.resize(image, (self.width, self.height), interpolation=cv2.INTER_AREA)

    def _inside(self, rects: np.ndarray) -> np.ndarray:
        """Rectangles rounded to pixels and cut to the image, int32 [T,4]."""
        limits = (self.height, self.height, self.width, self.width)
        return np.clip(np.rint(rects), 0, limits).astype(np.int32)

    def _index(self, i: int) -> int:
        if not 0 <= i < self.num_frames:
            raise IndexError(f"frame {i}: the dataset has frames 0 to {self.num_frames - 1}")
        return int(i)


def perceptual_weights(config: Config, step: int) -> PerceptualParams | None:
    """Weights of the perceptual network if `step` uses it."""
    loss = config.loss
    return _vgg() if loss.perceptual > 0 and step % loss.perceptual_every == 0 else None


@functools.cache
def _vgg() -> PerceptualParams:
    return load_perceptual("vgg16")


def _open_array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: missing; preprocess the video again") from None
    except PermissionError:
        raise InputError(f"{path}: {MAY_NOT_READ}") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: damaged ({error}); preprocess the video again") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: not one array; preprocess the video again")
    return array


def _check(folder: Path, meta: dict, arrays: dict[str, np.ndarray]) -> None:
    """Refuse a folder whose description or arrays do not fit together."""
    try:
        sizes = tuple(int(meta[name]) for name in ("num_frames", "height", "width"))
        ranges = [(int(start), int(stop)) for start, stop in map(meta["splits"].get, SPLITS)]
        fps, kind = float(meta["fps"]), str(meta["audio_features"]["kind"])
        if not (fps > 0 and all(0 <= a < b <= sizes[0] for a, b in ranges)):
            raise ValueError(f"splits {ranges} of {sizes[0]} frames at {fps} fps")
        if kind not in AUDIO_FEATURES:
            raise ValueError(f"sound features of kind {kind!r}")
        features = AUDIO_FEATURES[kind].feature_dim
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(
            f"{folder}/meta.json: damaged ({reason}); preprocess the video again"
        ) from None
    for name, (dtype, shape) in _expected(*sizes, features, arrays).items():
        array = arrays[name]
        if array.dtype != dtype or array.shape != shape or not _finite(array):
            got = f"{array.dtype} {list(array.shape)}"
            raise InputError(
                f"{folder}/{name}.npy: {got}, expected finite {np.dtype(dtype)} {list(shape)}; "
                "preprocess the video again"
            )
    hush = arrays["silence_features"]
    if not len(hush) or len(hush) % HOP_ROWS:
        raise InputError(
            f"{folder}/silence_features.npy: {len(hush)} rows, expected a multiple of {HOP_ROWS}; "
            "preprocess the video again"
        )


def _expected(
    frames: int, height: int, width: int, features: int, arrays: dict[str, np.ndarray]
) -> dict[str, tuple[type, tuple[int, ...]]]:
    """Type and shape of every array; counts that `meta.json` does not say are the arrays' own."""
    lengths = {name: array.shape[:1] or (1,) for name, array in arrays.items()}
    images, real = (np.uint8, (frames, height, width, 3)), np.float32
    return {
        "frames": images,
        "backgrounds": images,
        "head_masks": (np.uint8, (frames, height, -(-width // 8))),
        "audio_features": (real, (*lengths["audio_features"], features)),
        "silence_features": (real, (*lengths["silence_features"], features)),
        "landmarks": (real, (frames, 478, 3)),
        "viewmats": (real, (frames, 4, 4)),
        "K": (real, (3, 3)),
        "mean_shape": (real, (478, 3)),
        "blink": (real, (frames,)),
        "lips_rects": (np.int32, (frames, 4)),
        "mouth_opening": (real, (frames,)),
        "points": (real, (*lengths["points"], 3)),
        "point_colors": (np.uint8, (*lengths["points"], 3)),
    }


def _finite(array: np.ndarray) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
