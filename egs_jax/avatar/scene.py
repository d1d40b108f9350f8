"""What an avatar takes of its clip to speak: camera, room, poses, and how sound is heard.

Before: the dataset, or a file that an avatar was written to (`avatar_file`); after: `poses`,
`drive`. It is small, and has no frame's picture, but where a head alone is drawn over them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from egs_jax.data.body import BodyModel
from egs_jax.data.dataset import Dataset
from egs_jax.media.audio_file import read_audio
from egs_jax.model.limits import Limits
from egs_jax.runtime.errors import InputError
from egs_jax.speech.features import IMPORTED, FeatureKind, FeatureStream, extract_features
from egs_jax.speech.layout import Layout
from egs_jax.speech.level import SPEECH_LOUDNESS, loudness


@dataclass(frozen=True)
class PersonScene:
    """What else is lent to a whole person."""

    bodies: Float[np.ndarray, "P 4 4"]
    """Body -> camera."""
    still_body: Float[np.ndarray, "4 4"]
    """That of the calmest frame."""
    body_model: BodyModel
    """How the body follows the head."""
    limits: Limits
    """Of the head poses that training saw."""
    plate: UInt8[np.ndarray, "H Wd 3"]
    """The room without the person."""


@dataclass(frozen=True)
class HeadScene:
    """What else is lent to a head alone, which is drawn over the clip's frames."""

    backgrounds: Callable[[int], UInt8[np.ndarray, "H Wd 3"]]
    """Frame of the clip -> the frame without its head."""
    viewmats: Float[np.ndarray, "T 4 4"]
    """Head -> camera in every frame of the clip."""
    valid: Bool[np.ndarray, " T"]
    """Which frames of the clip show a face."""


@dataclass(frozen=True)
class Backdrop:
    """What is behind a person in place of the clip's room."""

    picture: Callable[[int, int], UInt8[np.ndarray, "H Wd 3"]]
    """Number of a frame of the new film, and of the frame of the clip whose pose it has -> what is
    behind it."""
    still: UInt8[np.ndarray, "H Wd 3"] | None = None
    """That, where it is always the same."""


@dataclass(frozen=True)
class SourceFilm:
    """Where in its film a scene's frames are."""

    name: str
    sha256: str
    left: int
    """First column of the square that became the frame [pixels]; `top` is the first row."""
    top: int
    side: int
    """Of the square [pixels]."""
    start: int
    """Frame of the film, at 25 a second, that the scene's first one is."""
    gain: tuple[float, float, float]
    """What red, green and blue of the film were multiplied by."""


@dataclass(frozen=True)
class Scene:
    """What a clip lends; P frames follow one another, the longest of its training without a cut."""

    width: int
    """Of a picture [pixels]; likewise `height`."""
    height: int
    intrinsics: Float[np.ndarray, "3 3"]
    """[pixels]"""
    start: int
    """Number of the first of the P frames in the clip."""
    viewmats: Float[np.ndarray, "P 4 4"]
    """Head -> camera."""
    still_frame: int
    """The clip's calmest frame."""
    still_viewmat: Float[np.ndarray, "4 4"]
    """Its head -> camera."""
    silence: Float[np.ndarray, "R F"]
    """One period of the features of digital silence."""
    layout: Layout
    """Which sound a frame hears."""
    sound_kind: str
    """Of the sound features: a kind of `speech.features`, or "imported"."""
    sound_name: str
    """What they are called where they were made."""
    loudness: float
    """What speech is brought to before it is heard: as loud as training's was [LUFS]."""
    own: PersonScene | HeadScene
    """What the avatar that is drawn needs beside that."""
    film: SourceFilm | None = None
    """What its frames were cut of; None: nothing says that."""
    backdrop: Backdrop | None = None
    """What is behind the avatar; None: its own plate or frames."""

    @property
    def feature_kind(self) -> FeatureKind:
        """Kind of the sound features that the avatar hears.

        Raises:
          InputError: if another program made them: new sound has none.
        """
        if self.sound_kind == IMPORTED:
            raise InputError(
                f"sound features: this avatar's are another program's ({self.sound_name}), which "
                "cannot be made of new sound here; evaluate it, or import with --audio-features "
                "whisper and train again to let it speak"
            )
        return self.sound_kind  # type: ignore[return-value]

    def hear(self, samples: Float[np.ndarray, " S"]) -> Float[np.ndarray, "R F"]:
        """Return the features of a whole speech, 16 kHz, two rows a frame."""
        return extract_features(
            samples, self.feature_kind, loudness=self.loudness, layout=self.layout
        )

    def listener(self) -> FeatureStream:
        """Return what hears a speech bit by bit, with the same rows."""
        return FeatureStream(self.feature_kind, loudness=self.loudness, layout=self.layout)

    @property
    def still_background(self) -> UInt8[np.ndarray, "H Wd 3"] | None:
        """What is behind the avatar, where it is always the same."""
        if self.backdrop is not None:
            return self.backdrop.still
        return self.own.plate if isinstance(self.own, PersonScene) else None

    def backgrounds(
        self, numbers: Int[np.ndarray, " B"], frames: Int[np.ndarray, " B"]
    ) -> UInt8[np.ndarray, "B H Wd 3"]:
        """Return what is behind the avatar; what is always the same is one picture, repeated.

        Args:
          numbers: Of the frames of the new film.
          frames: Those of the clip whose poses they have.
        """
        if (still := self.still_background) is not None:
            return np.broadcast_to(still, (len(frames), *still.shape))
        if self.backdrop is not None:
            pairs = zip(numbers.tolist(), frames.tolist(), strict=True)
            return np.stack([self.backdrop.picture(*pair) for pair in pairs])
        return np.stack([self.own.backgrounds(int(i)) for i in frames])


def scene_of(dataset: Dataset) -> Scene:
    """Take of a dataset what its avatar needs to speak."""
    (start, stop), still = dataset.playback, dataset.still_frame
    poses, heard = dataset.arrays["viewmats"], dataset.meta["audio_features"]
    return Scene(
        width=dataset.width,
        height=dataset.height,
        intrinsics=dataset.intrinsics,
        start=start,
        viewmats=np.asarray(poses[start:stop]),
        still_frame=still,
        still_viewmat=np.asarray(poses[still]),
        silence=np.asarray(dataset.arrays["silence_features"]),
        layout=dataset.layout,
        sound_kind=heard["kind"],
        sound_name=str(heard.get("name")),
        loudness=_loudness(dataset),
        own=_person(dataset) if dataset.body == "person" else _head(dataset),
        film=film_of(dataset),
    )


def film_of(dataset: Dataset) -> SourceFilm | None:
    """Return where in its film the scene of a dataset is; None: nothing says that."""
    start, _ = dataset.playback
    part = next(part for part in dataset.stretches if part.start <= start < part.stop)
    films = dataset.meta.get("films") or ()
    told = films[part.film] if part.film < len(films) else {}
    if "crop" not in told:
        return None
    return SourceFilm(
        name=str(told["name"]),
        sha256=str(told["sha256"]),
        start=part.film_start + start - part.start,
        gain=tuple(map(float, told["gain"])),
        **{name: int(told["crop"][name]) for name in ("left", "top", "side")},
    )


def _person(dataset: Dataset) -> PersonScene:
    (start, stop), bodies = dataset.playback, dataset.arrays["body_viewmats"]
    return PersonScene(
        bodies=np.asarray(bodies[start:stop]),
        still_body=np.asarray(bodies[dataset.still_frame]),
        body_model=dataset.body_model,
        limits=Limits.of(dataset.arrays["viewmats"][dataset.train_frames]),
        plate=dataset.plate,
    )


def _head(dataset: Dataset) -> HeadScene:
    poses = np.asarray(dataset.arrays["viewmats"])
    return HeadScene(backgrounds=dataset.background, viewmats=poses, valid=dataset.valid)


def _loudness(dataset: Dataset) -> float:
    """Return how loud training's sound was; of datasets that do not say so, their sound's own."""
    told = dataset.meta["audio_features"].get("loudness")
    if told is not None:
        return float(told)
    sound = dataset.folder / "audio.wav"
    found = loudness(read_audio(sound)) if sound.is_file() else -np.inf
    return found if np.isfinite(found) else SPEECH_LOUDNESS
