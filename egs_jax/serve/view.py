"""`egs-jax view`: one speech of an avatar on a page for whoever wants to look into it.

Codes are computed four times, as they are, without sound, without blinks, and with a pose that
stays: what these differ by is what sound, blinks and the pose that tokens hear move. Of a run
folder, whose networks know all Gaussians, it is also told how much each listens to each kind of
tokens. Before: `site`; after: `__main__`.
"""

import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.avatar_writer import write_shown
from egs_jax.avatar.draw import motion_codes
from egs_jax.avatar.drive import compose
from egs_jax.avatar.listening import speech_shares
from egs_jax.avatar.motion import packed
from egs_jax.avatar.speech_batches import speech_batches
from egs_jax.media.audio_file import stream_audio
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.media.sound_encoder import SOUND_TYPE, encoded_sound
from egs_jax.runtime.device import say_device
from egs_jax.serve.site import File, application, file_of, page_files, run

SILENT = 6.0
"""Seconds of silence that are looked at where there is no speech."""


def view(
    run_or_file: Path, audio: Path | None, *, data_dir: Path | None, host: str, port: int
) -> None:
    """Serve a page until the process is told to stop.

    Args:
      run_or_file: A whole person's run folder, which needs its dataset, or file.
      audio: Speech; None: silence.
      data_dir: See `Avatar.load`.
      host: Name or address to listen at.
      port: Number to listen at; 0: any that is free.

    Raises:
      InputError: if the avatar is a head alone or cannot be loaded, the sound is bad, or nobody can
        listen there.
    """
    avatar = Avatar.load(run_or_file, data_dir)
    networks = Avatar.load(run_or_file, data_dir, exact=True) if run_or_file.is_dir() else None
    say_device("viewing")
    name = run_or_file.resolve().stem
    files = page_files("view.html") | speech_files(avatar, name, audio, networks)
    run(lambda token, local: application(token, files, local=local), host, port)


def speech_files(
    avatar: Avatar, name: str, audio: Path | None, networks: Avatar | None
) -> dict[str, File]:
    """Return what a page looks into: an avatar, a speech, its motion, and who listens to what.

    Args:
      avatar: Drawn by codes.
      name: Of it.
      audio: Speech; None: silence.
      networks: The same avatar, exact; None: nobody knows what its Gaussians listen to.

    Raises:
      InputError: if the avatar is a head alone, or the sound is bad.
    """
    shown = io.BytesIO()
    write_shown(shown, avatar.baked, avatar.scene)
    silence = np.zeros(round(SILENT * SAMPLE_RATE), np.float32)
    chunks = [silence] if audio is None else list(stream_audio(audio))
    shares = {} if networks is None else speech_shares(networks, chunks)
    words = {"name": name, "fps": FPS, "sound": "speech.m4a", "type": SOUND_TYPE,
             "tokens": list(shares)}  # fmt: skip
    files = {
        "avatar.egs": shown.getvalue(),
        "speech.json": json.dumps(words).encode(),
        "shares.bin": b"".join(each.tobytes() for each in shares.values()),
        **{f"{kind}.bin": records for kind, records in motions(avatar, chunks).items()},
    }
    found = {each: file_of(each, data) for each, data in files.items()}
    return found | {"speech.m4a": File(encoded_sound(chunks, SAMPLE_RATE), False, SOUND_TYPE)}


def motions(avatar: Avatar, chunks: Iterable[np.ndarray]) -> dict[str, bytes]:
    """Return records of all frames of a speech: `all`, `silent`, `open` (without blinks), `still`.

    In the last one tokens hear the pose of the clip's still frame; in all of them the head moves.
    """
    ranges, scene, config = np.asarray(avatar.baked.ranges), avatar.scene, avatar.config
    made = {"all": b"", "silent": b"", "open": b"", "still": b""}
    for batch in speech_batches(avatar, chunks):
        drive, counted = batch.drive, slice(batch.first, batch.first + len(batch.frames))
        frames = np.arange(len(drive.eyes))
        unheard = compose(scene, avatar.path, scene.silence[:0], 0, frames,
                          config.model.window_frames, config.seed)  # fmt: skip
        drives = {
            "all": drive,
            "silent": drive.replace(audio_windows=unheard.audio_windows),
            "open": drive.replace(eyes=np.zeros_like(drive.eyes)),
            "still": drive.replace(
                viewmats=np.broadcast_to(scene.still_viewmat, drive.viewmats.shape)
            ),
        }
        for kind, each in drives.items():
            codes = np.asarray(motion_codes(avatar, each))[counted]
            heads, bodies = drive.viewmats[counted], drive.bodies[counted]
            made[kind] += packed(ranges, codes, heads, bodies).tobytes()
    return made
