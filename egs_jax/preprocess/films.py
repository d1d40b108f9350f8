"""The films that a dataset is made of, and which part of each.

Several films of one person make one dataset. Each has a clock, a crop, an exposure and a lag of its
sound of its own; common are the person, the side of the frames and the camera's focal length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.media.video_reader import VideoInfo, probe, read_frames
from egs_jax.preprocess.film_sound import FilmSound, check_speech, film_sound
from egs_jax.runtime.errors import InputError


@dataclass(frozen=True)
class Film:
    """Frames [start, stop) of a video at 25 a second; `stop` None: up to its end."""

    path: Path
    info: VideoInfo
    start: int = 0
    stop: int | None = None
    audio: Path | None = None
    """Another microphone's recording to be heard instead."""
    track: int | None = None
    """Number of the sound track, from 1 on; None: the one with the speech."""

    def frames(self) -> Iterator[np.ndarray]:
        """Decode them, uint8 [H, W, 3] each."""
        end = None if self.stop is None else self.stop / FPS
        return read_frames(self.path, FPS, end, self.start)

    def sound(self) -> FilmSound:
        """Read the sound of these frames.

        Raises:
          InputError: if it cannot be read, does not fit, or is silent.
        """
        a_frame = SAMPLE_RATE // FPS
        end = None if self.stop is None else self.stop * a_frame
        whole = film_sound(self.path, audio=self.audio, track=self.track)
        samples = whole.samples[self.start * a_frame : end]
        return FilmSound(samples, {**whole.origin, "sound": check_speech(self.path, samples)})

    @property
    def length(self) -> int:
        """How many frames they are, by the file's header."""
        end = self.info.num_frames()
        return max(1, (end if self.stop is None else min(end, self.stop)) - self.start)


def open_films(
    videos: Sequence[Path], start: float | None, end: float | None, max_seconds: float | None,
    audio: str | Path | None = None, track: int | None = None,
) -> list[Film]:  # fmt: skip
    """Look into every video and say what is done to its pictures.

    Args:
      videos: The files.
      start: Seconds of the film to pass over; of a single film only.
      end: Second of the film to stop at; likewise.
      max_seconds: Use no more than this of all films together, from the first on.
      audio: Another microphone's recording; of a single film only.
      track: Number of the sound track to hear in every film.

    Raises:
      InputError: if a file cannot be used, or the times leave nothing of it.
    """
    if len(videos) > 1 and (start is not None or end is not None):
        raise InputError(
            "--start, --end: they are times of one film, and several were given; cut each to its "
            "part first"
        )
    if len(videos) > 1 and audio is not None:
        raise InputError(
            "--audio: it is the sound of one film, and several were given; join them first"
        )
    films, left = [], None if max_seconds is None else max(1, round(max_seconds * FPS))
    for video in videos:
        info = probe(video)
        if not info.has_audio:
            raise InputError(
                f"{video}: has no sound track; training needs the speech, record with a microphone"
            )
        for what in info.repairs:
            print(f"{video.name}: {what}")
        first = 0 if start is None else round(start * FPS)
        stop = None if end is None else round(end * FPS)
        whole = info.num_frames()
        if first >= whole or (stop is not None and stop <= first):
            raise InputError(
                f"{video}: --start {start or 0:g} and --end {end or info.duration:g} leave nothing "
                f"of its {info.duration:.1f} s"
            )
        if left is not None:
            stop = min(first + left, whole if stop is None else stop)
        film = Film(video, info, first, stop, None if audio is None else Path(audio), track)
        films.append(film)
        if left is not None:
            left -= film.length
            if left <= 0:
                break
    if len(films) < len(videos):
        print(f"--max-seconds {max_seconds:g}: {len(videos) - len(films)} films are not used")
    return films
