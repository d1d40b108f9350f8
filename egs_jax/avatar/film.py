"""A run folder and a speech of any length -> a film with sound, in constant memory.

Three things go on at once: sound becomes batches to draw (`stream`), the device draws them, and
the film is encoded (`encoder_process`); few batches wait between them.
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import num_video_frames
from egs_jax.avatar.drawing import IN_FLIGHT, draw_all, warm_up
from egs_jax.avatar.page import PAGE_SUFFIX, write_page
from egs_jax.avatar.speech_batches import speech_batches
from egs_jax.media.audio_file import stream_audio
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.media.encoder_process import EncoderProcess
from egs_jax.media.video_writer import feed
from egs_jax.runtime.consent import CONSENT
from egs_jax.runtime.device import say_device
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.prefetch import prefetch
from egs_jax.runtime.progress import progress


def draw_speech(avatar: Avatar, audio_path: str | Path) -> Iterator[UInt8[np.ndarray, "H Wd 3"]]:
    """Draw the frames of a speech of any length, as it is read, in constant memory.

    Raises:
      InputError: if the file cannot be read as sound.
    """
    batches = prefetch(speech_batches(avatar, stream_audio(audio_path)), IN_FLIGHT)
    pool = concurrent.futures.ThreadPoolExecutor(1)
    with contextlib.closing(batches):
        try:
            compiling = pool.submit(warm_up, avatar)  # while the first sound is heard
            first = list(itertools.islice(batches, 1))
            compiling.result()
        finally:
            pool.shutdown(wait=False)  # whoever stops this need not wait for the compiler
        for frame in draw_all(avatar, itertools.chain(first, batches)):
            yield frame.rgb


def render_video(
    run_or_file: str | Path, audio_path: str | Path, out_path: str | Path, *,
    poses: str | Path = "clip", data_dir: str | Path | None = None, exact: bool | None = None,
) -> None:  # fmt: skip
    """Speak `audio_path` with an avatar: H.264 + AAC into `out_path`, atomically, or a page.

    Its head moves by `poses` (`poses.pose_path`); for the rest see `Avatar.load`.

    Raises:
      InputError: bad audio, bad avatar, bad poses, or an output that cannot be written.
      OSError: the disk is full or fails; what was at `out_path` before is untouched.
    """
    out_path = Path(out_path)
    _check_place(out_path, Path(audio_path))
    avatar = dataclasses.replace(Avatar.load(run_or_file, data_dir, exact=exact), poses=poses)
    _ = avatar.path  # bad poses are told before anything is drawn
    say_device("rendering", after=": exact" if avatar.is_exact else ": baked")
    if out_path.suffix.lower() == PAGE_SUFFIX:
        write_page(avatar, audio_path, out_path)
        return
    size = avatar.scene.width, avatar.scene.height
    with EncoderProcess(out_path.resolve(), *size, FPS, SAMPLE_RATE) as film:
        total = num_video_frames(sum(len(chunk) for chunk in stream_audio(audio_path)))
        with progress(total, "render", "frame") as bar:
            frames = bar.track(draw_speech(avatar, audio_path), task_id=0)
            feed(film, frames, FPS, stream_audio(audio_path), SAMPLE_RATE)
    print(f"{out_path}: {total / FPS:.1f} s. {CONSENT}")


def _check_place(out_path: Path, audio_path: Path) -> None:
    """Refuse a place for a film where none belongs, before any work."""
    if out_path.is_dir():
        raise InputError(f"{out_path}: is a folder; name the film to write, say talk.mp4")
    if out_path.exists() and audio_path.exists() and out_path.samefile(audio_path):
        raise InputError(f"{out_path}: is the speech itself; name another file for the film")
    if out_path.exists() and not out_path.is_file():
        raise InputError(f"{out_path}: is no ordinary file; name the film to write, say talk.mp4")
    if out_path.suffix.lower() not in (".mp4", PAGE_SUFFIX):
        raise InputError(
            f"{out_path}: films are mp4 files, pages html files; let the name end in .mp4 or .html"
        )
