"""Dataset folder -> frames, cameras, drives, batches; pictures are read when they are asked for.

Before: `folder`, `statistics`; after: training and the avatar. A batch is a function of (seed,
step) alone, so a resumed run sees what an uninterrupted one would have seen.
"""

import functools
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from egs_jax.config import Body, Config
from egs_jax.data import statistics, stretches
from egs_jax.data.batches import (
    Clip,
    DrawnFrames,
    Footage,
    FramePool,
    cut_batch,
    draw_frames,
    host_part,
)
from egs_jax.data.body import BodyModel
from egs_jax.data.folder import PICTURES, open_folder, sound_layout
from egs_jax.data.paint import paint_out_head
from egs_jax.data.pictures import Pictures
from egs_jax.data.stretches import Stretch
from egs_jax.runtime.errors import InputError
from egs_jax.speech.frame_windows import feature_windows
from egs_jax.speech.layout import Layout
from egs_jax.speech.lips import FittedLips, cut_rows, fit_lips
from egs_jax.types import Batch, Camera, Drive

PAINTED = 256
"""Frames without their heads that are kept in memory."""


class Dataset:
    """A preprocessed clip; open one with `Dataset.open`."""

    def __init__(
        self, folder: Path, meta: dict, arrays: dict[str, np.ndarray],
        pictures: dict[str, Pictures], size: int | None, body: Body,
    ):  # fmt: skip
        self.folder, self.meta, self.arrays, self.pictures = folder, meta, arrays, pictures
        self.body = body
        self.num_frames, self.fps = int(meta["num_frames"]), float(meta["fps"])
        self.source_width, self.source_height = int(meta["width"]), int(meta["height"])
        self.splits: dict[str, tuple[int, int]] = {k: tuple(v) for k, v in meta["splits"].items()}
        self.scale = 1.0 if size is None else size / self.source_width
        self.width = size or self.source_width
        self.height = round(self.source_height * self.scale)
        self._views: dict[tuple[int, Body], Dataset] = {}
        # Evaluation asks for the same frames over and over, and to paint one takes some ms.
        self._painted = functools.lru_cache(PAINTED)(self._paint)
        self.fitted_lips = functools.cache(self._fit_lips)  # tells `lip_shapes` from the sound
        self.clip_for = functools.cache(self._clip_for)

    @classmethod
    def open(cls, folder: str | Path, size: int | None = None, body: Body = "person") -> "Dataset":
        """Open a dataset folder; with `size`, as if it had been made at that many pixels.

        `body` says what an avatar of it is: the whole "person" before the room's plate, or a "head"
        over each frame's own body and room.

        Raises:
          InputError: if the folder is not a complete dataset of this version.
        """
        return cls(Path(folder), *open_folder(folder), size, body)

    def view(self, size: int | None, body: Body) -> "Dataset":
        """Return the same dataset with another image side [pixels] (None: as stored) and body."""
        seen = Dataset(self.folder, self.meta, self.arrays, self.pictures, size, body)
        seen.fitted_lips = self.fitted_lips
        return seen

    def _seen_by(self, config: Config) -> "Dataset":
        """Return the view that a config asks for, always the same one: it keeps what it computes.

        Where it asks for no size, it is this dataset's.
        """
        wanted = config.size or self.width, config.model.resolved.body
        if wanted == (self.width, self.body):
            return self
        if wanted not in self._views:
            self._views[wanted] = self.view(*wanted)
        return self._views[wanted]

    @property
    def audio_dim(self) -> int:
        """Audio features per 50 Hz row."""
        return self.arrays["audio_features"].shape[1]

    @functools.cached_property
    def layout(self) -> Layout:
        """How its sound features are laid out, and which of them a frame hears."""
        return sound_layout(self.meta)

    def frame(self, i: int) -> UInt8[np.ndarray, "H Wd 3"]:
        """Return a video frame."""
        return self._scaled(self._picture("frames", i))

    def background(self, i: int) -> UInt8[np.ndarray, "H Wd 3"]:
        """Return what the avatar is drawn over: the plate, or the frame without its head."""
        if self.body == "person":
            return self.plate
        return self._painted(self._index(i))

    def head_mask(self, i: int) -> Bool[np.ndarray, "H Wd"]:
        """Return which pixels are the head's."""
        mask = self._picture("head_masks", i)
        return mask if self.scale == 1 else self._scaled(mask * np.uint8(255)) > 127

    def person_mask(self, i: int) -> Bool[np.ndarray, "H Wd"]:
        """Return which pixels are the person's."""
        return self._scaled(self._picture("person_masks", i)) > 127

    def mask(self, i: int) -> UInt8[np.ndarray, "H Wd"]:
        """Return where the avatar must be opaque: 255 inside person or head, 0 outside."""
        if self.body == "person":
            return self._scaled(self._picture("person_masks", i))
        return self.head_mask(i) * np.uint8(255)

    def target(self, i: int) -> UInt8[np.ndarray, "H Wd 3"]:
        """Return what is to be reproduced: the frame, or the true head over the background."""
        if self.body == "person":
            return self.frame(i)
        return np.where(self.head_mask(i)[..., None], self.frame(i), self.background(i))

    def camera(self, i: int) -> Camera:
        """Return the camera of frame i (the head is the world)."""
        return Camera(
            viewmat=jnp.asarray(self.arrays["viewmats"][self._index(i)]),
            K=jnp.asarray(self.intrinsics),
            width=self.width,
            height=self.height,
        )

    @functools.cached_property
    def plate(self) -> UInt8[np.ndarray, "H Wd 3"]:
        """The room without the person."""
        return self._scaled(self.arrays["plate"])

    @property
    def plate_fault(self) -> tuple[str, str]:
        """What `preprocess` said of the plate: "ok", "warn" or "bad" (there is none), and why."""
        told = self.meta.get("body_check", {}).get("plate", {})
        return told.get("verdict", "ok"), told.get("why", "")

    @property
    def intrinsics(self) -> Float[np.ndarray, "3 3"]:
        """Intrinsics at this size [pixels]."""
        scale = np.array([self.scale, self.height / self.source_height, 1], np.float32)
        return self.arrays["K"] * scale[:, None]

    def landmarks(self, i: int) -> Float[np.ndarray, "478 3"]:
        """Return landmarks in pixels of this size."""
        return self.arrays["landmarks"][self._index(i)] * np.float32(self.scale)

    def lips_rect(self, i: int) -> Int[np.ndarray, " 4"]:
        """Return row_min, row_max, col_min, col_max of the lips, the maxima exclusive."""
        return self._lips_rects[self._index(i)]

    def eyes_rect(self, i: int) -> Int[np.ndarray, " 4"]:
        """Return the same around both eyes."""
        return self._eyes_rects[self._index(i)]

    @functools.cached_property
    def _lips_rects(self) -> Int[np.ndarray, "T 4"]:
        return statistics.inside(self.arrays["lips_rects"] * self.scale, self.height, self.width)

    @functools.cached_property
    def _eyes_rects(self) -> Int[np.ndarray, "T 4"]:
        rects = statistics.eyes_rects(self.arrays["landmarks"] * np.float32(self.scale))
        return statistics.inside(rects, self.height, self.width)

    @functools.cached_property
    def stretches(self) -> tuple[Stretch, ...]:
        """Runs of frames that follow one another in one film; all frames are in one of them."""
        return stretches.stretches_of(self.meta, len(self.arrays["audio_features"]))

    @functools.cached_property
    def valid(self) -> Bool[np.ndarray, " T"]:
        """Which frames show the face; the others bridge a moment without it."""
        return np.asarray(self.arrays["valid"])

    @functools.cached_property
    def usable(self) -> Bool[np.ndarray, " T"]:
        """Which frames show the face with nothing before the mouth: to learn from, to compare."""
        return self.valid & np.asarray(self.arrays["mouth_seen"])

    @functools.cached_property
    def train_frames(self) -> Int[np.ndarray, " N"]:
        """Frames to train on: without those whose mouth is open though nobody is heard."""
        frames = self.frames_of("train")
        sound, hush = self.arrays["audio_features"], self.arrays["silence_features"]
        rows = np.minimum(2 * self._sound_places[frames, 0], len(sound) - 1)
        heard = (sound[rows] != hush[rows % len(hush)]).any(axis=1)
        opening = np.asarray(self.arrays["mouth_opening"])[frames]
        return frames[statistics.told_by_sound(opening, heard)]

    def frames_of(self, split: str) -> Int[np.ndarray, " N"]:
        """Return the `usable` frames of a split, in order, but what `meta.json` has as "left_out".

        Raises:
          InputError: if there are none.
        """
        start, stop = self.splits[split]
        frames = start + np.flatnonzero(self.usable[start:stop])
        frames = np.setdiff1d(frames, self.meta.get("left_out", []))
        if not frames.size:
            raise InputError(
                f"{self.folder}: no frame of {split} shows a face with nothing before the mouth; "
                "preprocess again with another --val-seconds"
            )
        return frames

    @property
    def playback(self) -> tuple[int, int]:
        """The longest run of training frames [start, stop) without a cut."""
        return stretches.longest(self.stretches, self.splits["train"])

    @property
    def still_frame(self) -> int:
        """The training frame whose head pose is nearest the mean one."""
        frames = self.train_frames
        return int(frames[statistics.calmest(self.arrays["viewmats"][frames])])

    @functools.cached_property
    def blink_frames(self) -> Int[np.ndarray, " K"]:
        """Training frames whose eyes are shut or half shut; there may be none."""
        return statistics.blink_frames(self.arrays["blink"], self.train_frames)

    @functools.cached_property
    def rest_frames(self) -> Int[np.ndarray, " R"]:
        """Training frames whose mouth is shut or nearly so."""
        return statistics.rest_frames(self.arrays["mouth_opening"], self.train_frames)

    @functools.cached_property
    def lip_shapes(self) -> Float[np.ndarray, "T 2"]:
        """Opening and width of the mouth, in standard deviations from the training mean."""
        opening, landmarks = self.arrays["mouth_opening"], self.arrays["landmarks"]
        return statistics.lip_shapes(opening, landmarks, self.train_frames)

    @functools.cached_property
    def sound_spread(self) -> Float[np.ndarray, " F"]:
        """Standard deviation of every sound feature over the training frames."""
        heard = self._sound_places[self.train_frames, 0]
        return statistics.sound_spread(self.arrays["audio_features"], heard)

    def drive(
        self, frames: Int[np.ndarray, " B"], window_frames: int, *, told: bool = False
    ) -> Drive:
        """Return what drove the clip's own `frames`.

        With `told`, a person's body stands where `body_model` tells from the head's path that it
        does, not where it was seen.
        """
        frames = np.asarray(frames)
        eyes = np.asarray(self.arrays["blink"][frames], np.float32)
        drive = self.driven_by(self.audio_windows(frames, window_frames), eyes, frames)
        if not told or drive.bodies is None:
            return drive
        return drive.replace(bodies=self.told_bodies(frames))

    def told_bodies(self, frames: Int[np.ndarray, " B"]) -> Float[np.ndarray, "B 4 4"]:
        """Return where the body stands at `frames` by `body_model`, told in each one's stretch."""
        return self.body_model.told(self.arrays["viewmats"], frames, self._starts)

    @functools.cached_property
    def _starts(self) -> Int[np.ndarray, " T"]:
        return stretches.starts_of(self.stretches)

    @functools.cached_property
    def _sound_places(self) -> Int[np.ndarray, "T 3"]:
        return stretches.sound_places(self.stretches)

    @functools.cached_property
    def body_model(self) -> BodyModel:
        """What the training frames say of how the body follows the head."""
        viewmats = np.asarray(self.arrays["viewmats"])
        bodies = np.asarray(self.arrays["body_viewmats"])
        rest = viewmats[statistics.calmest(viewmats)]
        return BodyModel.fit(viewmats, bodies, rest, self.train_frames, self._starts)

    def driven_by(
        self,
        audio_windows: Float[np.ndarray, "B W 16 F"],
        eyes: Float[np.ndarray, " B"],
        frames: Int[np.ndarray, " B"],
    ) -> Drive:
        """Return a drive of other sound and blinks over pose and background of `frames`."""
        return Drive(
            audio_windows=audio_windows,
            eyes=eyes,
            viewmats=np.asarray(self.arrays["viewmats"][frames]),
            Ks=np.broadcast_to(self.intrinsics, (len(frames), 3, 3)),
            backgrounds=np.stack([self.background(i) for i in frames]),
            bodies=np.asarray(self.arrays["body_viewmats"][frames])
            if self.body == "person"
            else None,
        )

    def audio_windows(
        self, frames: Int[np.ndarray, " B"], window_frames: int
    ) -> Float[np.ndarray, "B W 16 F"]:
        """Return the sound around the clip's `frames`, each in its own stretch."""
        rows, silence = self.arrays["audio_features"], self.arrays["silence_features"]
        place = self._sound_places[np.asarray(frames)]
        return feature_windows(
            rows, silence, place[:, 0], window_frames, spans=place[:, 1:], layout=self.layout
        )

    def batch(self, config: Config, step: int) -> Batch:
        """Cut this host's batch of `step` here: a function of (config.seed, step) alone."""
        data = self._seen_by(config)
        drawn = host_part(self.drawn_frames(config, step))
        clip, footage = data.clip_for(config.model.fits_lips), data.footage(drawn.frames)
        return cut_batch(
            config, config.stage(step), config.has_perceptual(step), clip, footage, drawn
        )

    def drawn_frames(self, config: Config, step: int) -> DrawnFrames:
        """Draw what `step` sees, on all hosts."""
        pool = FramePool(self.train_frames, self.rest_frames, self.blink_frames)
        return draw_frames(config, pool, step)

    def footage(self, frames: Int[np.ndarray, " B"]) -> Footage:
        """Read the pictures of `frames` at this size."""
        stack = lambda image: np.stack([image(i) for i in frames])
        return Footage(
            targets=stack(self.target),
            masks=stack(self.mask),
            backgrounds=None if self.body == "person" else stack(self.background),
        )

    @functools.cached_property
    def clip(self) -> Clip:
        """The arrays that training reads besides pictures, at this size."""
        arrays = self.arrays
        return Clip(
            audio_features=arrays["audio_features"],
            silence_features=arrays["silence_features"],
            sound_places=self._sound_places,
            blink=np.asarray(arrays["blink"]),
            viewmats=np.asarray(arrays["viewmats"]),
            K=self.intrinsics,
            lips_rects=self._lips_rects,
            eyes_rects=self._eyes_rects,
            lip_shapes=self.lip_shapes,
            sound_spread=self.sound_spread,
            body_viewmats=np.asarray(arrays["body_viewmats"]) if self.body == "person" else None,
            plate=self.plate if self.body == "person" else None,
            layout=self.layout,
        )

    def _clip_for(self, fits_lips: bool) -> Clip:
        """Return `clip`, with what `fitted_lips` tell where these are asked for."""
        if not fits_lips:
            return self.clip
        return self.clip.with_lips(self.train_frames, self.fitted_lips())

    def _fit_lips(self) -> FittedLips:
        train, shapes, hush = self.train_frames, self.lip_shapes, self.arrays["silence_features"]
        rest, prior = shapes[self.rest_frames].mean(axis=0), self.arrays.get("lips_prior")
        return fit_lips(cut_rows(self.audio_windows, train), shapes[train], hush, rest, prior)

    def silence(self, count: int, window_frames: int) -> Float[np.ndarray, "count W 16 F"]:
        """Return audio windows of digital silence."""
        hush = self.arrays["silence_features"]
        return feature_windows(hush[:0], hush, np.arange(count), window_frames, layout=self.layout)

    def _paint(self, i: int) -> UInt8[np.ndarray, "H Wd 3"]:
        """Paint the head out of a frame, unless the dataset brought along what is behind it."""
        if "backgrounds" in self.pictures:
            return self._scaled(self._picture("backgrounds", i))
        frame, head, person = (self._picture(name, i) for name in PICTURES)
        plate, films = self.arrays["plate"], self.pictures.get("film_plates")
        if films is not None:
            plate = films[next(s.film for s in self.stretches if s.start <= i < s.stop)]
        return self._scaled(paint_out_head(frame, head, person > 127, plate))

    def _picture(self, name: str, i: int) -> np.ndarray:
        """Decode a picture at the size at which it is stored."""
        return self.pictures[name][self._index(i)]

    def _scaled(self, picture: np.ndarray) -> np.ndarray:
        """Bring a picture to this size."""
        if self.scale == 1:
            return picture
        return cv2.resize(picture, (self.width, self.height), interpolation=cv2.INTER_AREA)

    def _index(self, i: int) -> int:
        if not 0 <= i < self.num_frames:
            raise IndexError(f"frame {i}: the dataset has frames 0 to {self.num_frames - 1}")
        return int(i)
