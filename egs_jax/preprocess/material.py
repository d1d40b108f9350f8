"""What is used of all films, joined: the frames of a dataset before any picture is written.

Letters: T frames of the dataset, which are those of all parts of all films in order.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from egs_jax.data.stretches import Stretch
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.preprocess.capture_check import CaptureReport, report_of
from egs_jax.preprocess.crop import Crop, choose_crops
from egs_jax.preprocess.exposure import exposure_gains
from egs_jax.preprocess.face_pass import Faces
from egs_jax.preprocess.film_sound import FilmSound
from egs_jax.preprocess.films import Film
from egs_jax.preprocess.shots import Part, bridge_gaps, colors_of
from egs_jax.speech.features import FeatureKind, extract_features
from egs_jax.speech.layout import Layout
from egs_jax.speech.level import SPEECH_LOUDNESS

NATURAL_LAG = 2
"""Frames by which lips open before their sound is loud, in speech in sync."""
_AROUND = 15  # frames of sound kept before and after a part: windows reach out of it
_A_FRAME = SAMPLE_RATE // FPS


@dataclass(frozen=True)
class Material:
    """Films, what was found in each, and which parts of them are used; some part is."""

    films: Sequence[Film]
    faces: Sequence[Faces]
    parts: Sequence[Sequence[Part]]
    size: int | None
    """Side of the frames, pixels; None: 512, or less if a film shows less."""

    @functools.cached_property
    def used(self) -> list[int]:
        """Numbers of the films of which something is used."""
        return [k for k, parts in enumerate(self.parts) if parts]

    @functools.cached_property
    def crops(self) -> dict[int, Crop]:
        """The square of every used film that becomes its frames."""
        points = [np.concatenate([self.faces[k].landmarks[a:b] for a, b in self.parts[k]])
                  for k in self.used]  # fmt: skip
        infos = [self.films[k].info for k in self.used]
        crops = choose_crops(points, [(info.width, info.height) for info in infos], self.size)
        return dict(zip(self.used, crops, strict=True))

    @functools.cached_property
    def gains(self) -> dict[int, Float[np.ndarray, "3"]]:
        """What the channels of every used film are multiplied by."""
        colors = [colors_of(self.faces[k], self.parts[k]) for k in self.used]
        lengths = [self.frames_used(k) for k in self.used]
        return dict(zip(self.used, exposure_gains(colors, lengths), strict=True))

    def frames_used(self, film: int) -> int:
        """Return how many frames of a film are used."""
        return sum(stop - start for start, stop in self.parts[film])

    @property
    def frame_size(self) -> int:
        """Side of the frames, pixels."""
        return self.crops[self.used[0]].size

    @functools.cached_property
    def places(self) -> list[tuple[int, Part]]:
        """Film and part of every stretch, in order."""
        return [(k, part) for k in self.used for part in self.parts[k]]

    @functools.cached_property
    def runs(self) -> list[tuple[int, int]]:
        """Frames [start, stop) of every stretch."""
        ends = np.cumsum([stop - start for _, (start, stop) in self.places]).tolist()
        return list(zip([0, *ends[:-1]], ends, strict=True))

    @functools.cached_property
    def landmarks(self) -> Float[np.ndarray, "T 478 3"]:
        """Landmarks in pixels of the frames, interpolated where there was no face."""
        pieces = []
        for k, (start, stop) in self.places:
            points = self.faces[k].landmarks[start:stop]
            valid = self.faces[k].valid[start:stop]
            pieces.append(self.crops[k].landmarks(bridge_gaps(points, valid)))
        return np.concatenate(pieces)

    @functools.cached_property
    def valid(self) -> Bool[np.ndarray, " T"]:
        """Frames in which the face was seen."""
        return np.concatenate([self.faces[k].valid[a:b] for k, (a, b) in self.places])

    def kept(self, film: int) -> Bool[np.ndarray, " N"]:
        """Return which frames of a film are used."""
        mask = np.zeros(len(self.faces[film].valid), bool)
        for start, stop in self.parts[film]:
            mask[start:stop] = True
        return mask

    @functools.cached_property
    def capture(self) -> CaptureReport:
        """The capture check of all that is used."""
        checks = [self.faces[k].check for k in self.used]
        return report_of(checks, [self.kept(k) for k in self.used])

    def lag(self, film: int) -> float | None:
        """Return by how many frames a film's sound comes after its lips.

        A film too short to tell has the lag of all films together.
        """
        own = self.capture
        if len(self.used) > 1:
            own = self.faces[film].check.report(self.kept(film))
        value = own["audio-video lag"].value
        return self.capture["audio-video lag"].value if value is None else value


@dataclass(frozen=True)
class Sound:
    """The sound of a dataset."""

    samples: Float[np.ndarray, " S"]
    """Of its frames, one after the other."""
    features: Float[np.ndarray, "R F"]
    stretches: tuple[Stretch, ...]
    shifts: dict[int, int]
    """By how many frames the sound of every used film was moved earlier."""


def join_sound(
    material: Material, sounds: Sequence[FilmSound], kind: FeatureKind, layout: Layout
) -> Sound:
    """Align the sound of every film with its lips, and cut it to the parts that are used.

    Features are of a whole film's sound, so that those at a part's borders know what was said
    before and after it; some of them are kept for the windows that reach out of it.
    """
    samples, rows, stretches, shifts, count = [], [], [], {}, 0
    runs = iter(material.runs)
    for k in material.used:
        moved, shifts[k] = align_sound(sounds[k].samples, material.lag(k))
        length = len(material.faces[k].valid)
        moved = _fit_length(moved, length)
        features = extract_features(moved, kind, loudness=SPEECH_LOUDNESS, layout=layout)
        for start, stop in material.parts[k]:
            low, high = max(0, start - _AROUND), min(length, stop + _AROUND)
            # Silence is a pattern of a block, told by a row's number: it stays in step.
            apart = (low - count) % layout.hop_frames
            rows.append(np.zeros((2 * apart, features.shape[1]), np.float32))  # heard by nobody
            count += apart
            stretches.append(
                Stretch(
                    *next(runs), k, material.films[k].start + start, count + start - low,
                    (2 * count, 2 * (count + high - low)),
                )
            )  # fmt: skip
            rows.append(features[2 * low : 2 * high])
            samples.append(moved[start * _A_FRAME : stop * _A_FRAME])
            count += high - low
    names = [material.films[k].path.name for k in material.used]
    for line in moved_sounds(names, list(shifts.values())):
        print(line)
    return Sound(np.concatenate(samples), np.concatenate(rows), tuple(stretches), shifts)


def align_sound(
    samples: Float[np.ndarray, " S"], lag: float | None
) -> tuple[Float[np.ndarray, " S2"], int]:
    """Undo a recording's own delay between lips and sound, so that the avatar does not learn it.

    Args:
      samples: The sound.
      lag: Frames by which the sound comes after the lips, or None if that is not known.

    Returns:
      The sound moved earlier (later if negative), and by how many frames.
    """
    shift = 0 if lag is None else round(lag - NATURAL_LAG)
    if abs(shift) < 2:
        return samples, 0
    moved = shift * _A_FRAME
    return (samples[moved:] if moved > 0 else np.pad(samples, (-moved, 0))), shift


def moved_sounds(films: Sequence[str], shifts: Sequence[int]) -> list[str]:
    """Return what is said of films whose sound was moved earlier by so many frames."""
    lines = []
    for shift in sorted({*shifts} - {0}):
        names = [name for name, moved in zip(films, shifts, strict=True) if moved == shift]
        lag = shift + NATURAL_LAG
        off = f"{abs(lag)} frames {'after' if lag >= 0 else 'before'} the lips"
        lines.append(
            f"{names[0] if len(names) == 1 else f'{len(names)} films'}: the sound comes {off}, "
            f"{NATURAL_LAG} after are natural; moved {abs(shift)} "
            f"{'earlier' if shift > 0 else 'later'}"
        )
    return lines


def _fit_length(samples: np.ndarray, frames: int) -> np.ndarray:
    """Return sound cut or padded with silence to exactly the video's length."""
    wanted = frames * _A_FRAME
    return np.pad(samples[:wanted], (0, max(0, wanted - len(samples))))
