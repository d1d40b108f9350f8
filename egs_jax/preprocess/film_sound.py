"""The speech of a film, from its own sound track or from another microphone.

Before: the film; after: the checks and `speech.features`, which bring it to one loudness. A film
that says nothing is refused here, before any picture is looked at.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from egs_jax.media.audio_file import read_audio
from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.media.voice_activity import SPOKEN, VoiceActivity
from egs_jax.preprocess.microphone import synchronized
from egs_jax.runtime.assets import file_sha256
from egs_jax.runtime.errors import InputError
from egs_jax.speech.level import loudness

LEAST_SPEECH = 0.05
"""Share of the time with speech under which a film is said to have hardly any."""


@dataclass(frozen=True)
class FilmSound:
    """The sound of a film, 16 kHz mono on its clock, and where it is from."""

    samples: Float[np.ndarray, " S"]
    origin: dict = field(default_factory=dict)
    """For `meta.json`: the other microphone's file and place, empty for the film's own sound."""


def film_sound(
    video: Path, *, audio: str | Path | None = None, track: int | None = None
) -> FilmSound:
    """Read what a film's sound is to be.

    Args:
      video: The film.
      audio: Another microphone's recording of the same speech; None: the film's own sound.
      track: Number of the film's sound track, the first is 1; None: the one with the speech.

    Raises:
      InputError: if a file cannot be read, the film has no such track, or the recording does not
        fit to the film's own sound.
    """
    own = read_audio(video, track=track)
    if audio is None:
        return FilmSound(own)
    audio = Path(audio)
    recording = read_audio(audio)
    for path, samples in ((video, own), (audio, recording)):
        if not np.isfinite(loudness(samples)):
            raise InputError(
                f"{path}: its sound is silent; --audio is put in its place by what both the film "
                "and the recording heard"
            )
    samples, found = synchronized(own, recording, audio, video)
    origin = {"name": audio.name, "sha256": file_sha256(audio)} | found._asdict()
    return FilmSound(samples, {"audio": origin})


def check_speech(video: Path, samples: Float[np.ndarray, " S"]) -> dict[str, float]:
    """Refuse a film whose sound is silent, and say so if there is hardly any speech in it.

    Args:
      video: The film, for messages.
      samples: The part of its sound that is used, 16 kHz.

    Returns:
      For `meta.json`: its loudness by BS.1770 [LUFS] and the share of the time with speech.

    Raises:
      InputError: if nothing is louder than -70 LUFS, the standard's silence.
    """
    measured = loudness(samples)
    if not np.isfinite(measured):
        raise InputError(
            f"{video}: its sound is silent (under -70 LUFS); an avatar learns from speech: choose "
            "another track (--audio-track), give another microphone's sound (--audio), or record "
            "again"
        )
    speaks = VoiceActivity().push(samples) >= SPOKEN
    share = float(speaks.mean()) if speaks.size else 0.0
    if share < LEAST_SPEECH:
        print(
            f"{video.name}: speech is heard in only {share * len(samples) / SAMPLE_RATE:.1f} s of "
            "its sound; what is no speech moves no mouth"
        )
    return {"loudness": round(measured, 2), "speech_share": round(share, 3)}
