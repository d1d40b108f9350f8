"""An avatar and speeches of any length -> films with sound, in constant memory.

Three things go on at once: sound becomes batches to draw (`speech_batches`), the device draws them,
and the film is encoded (`encoder_process`); few batches wait between them.
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import num_video_frames
from egs_jax.avatar.drawing import IN_FLIGHT, StreamFrame, draw_all, warm_up
from egs_jax.avatar.film_places import Target, targets
from egs_jax.avatar.inset import Inset
from egs_jax.avatar.label import manifest, synthetic
from egs_jax.avatar.look import USUAL_LOOK, Look
from egs_jax.avatar.page import write_page
from egs_jax.avatar.speech_batches import speech_batches
from egs_jax.media.audio_file import stream_audio
from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.media.content_credentials import TYPES as SIGNED
from egs_jax.media.content_credentials import credentials
from egs_jax.media.encoder_process import EncoderProcess
from egs_jax.media.feeding import feed
from egs_jax.media.film_format import film_format
from egs_jax.media.picture_folder import PictureFolder
from egs_jax.runtime.consent import CONSENT
from egs_jax.runtime.device import say_device
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.prefetch import prefetch
from egs_jax.runtime.progress import progress

_REACH = 17  # pixels, odd: so far around a person what is transparent takes its colors
_HALF = 0.49  # a level, what rounding may change


def draw_speech(avatar: Avatar, audio_path: str | Path) -> Iterator[StreamFrame]:
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
        yield from draw_all(avatar, itertools.chain(first, batches))


def render_video(
    run_or_file: str | Path, audio_path: str | Path | Sequence[str | Path], out_path: str | Path,
    *, look: Look = USUAL_LOOK, into: str | Path | None = None,
    data_dir: str | Path | None = None, exact: bool | None = None,
) -> None:  # fmt: skip
    """Speak with an avatar: a film of every speech, there whole or not at all.

    Args:
      run_or_file: The avatar; see `Avatar.load`, also for `data_dir` and `exact`.
      audio_path: A speech, or several.
      out_path: What is written; see `film_places`.
      look: How the avatar is shown.
      into: The film that it was trained on, in whose whole picture it is to speak.
      data_dir: Where its dataset was moved.
      exact: Whether its networks move every Gaussian.

    Raises:
      InputError: bad audio, bad avatar, a look that it cannot have, another film to speak in, or an
        output that cannot be written.
      OSError: the disk is full or fails; what was at `out_path` before is untouched.
    """
    speeches = [audio_path] if isinstance(audio_path, str | Path) else list(audio_path)
    todo = targets(out_path, speeches, transparent=look.is_transparent)
    avatar = dataclasses.replace(Avatar.load(run_or_file, data_dir, exact=exact), look=look)
    # Whatever is wrong is told before anything is drawn.
    _ = avatar.path, avatar.scene
    if todo[0].kind == "page":
        if into is not None:
            raise InputError(f"{todo[0].path}: a page is no film to speak in; leave out --into")
        say_device("rendering", after=": a page")
        write_page(avatar, todo[0].speech, todo[0].path)
        return
    inset = None if into is None else Inset(avatar, into)
    totals = [
        num_video_frames(sum(len(chunk) for chunk in stream_audio(target.speech)), look.fps)
        for target in todo
    ]
    writers = [_writer(avatar, inset, target) for target in todo]
    say_device("rendering", after=": exact" if avatar.is_exact else ": baked")
    with _folder_of(todo, Path(out_path)):
        for work in zip(todo, totals, writers, strict=True):
            _render(avatar, inset, *work)


def _writer(avatar: Avatar, inset: Inset | None, target: Target) -> EncoderProcess | PictureFolder:
    """Return what writes the film of one speech; nothing is written before it is entered."""
    look, path, comment = avatar.look, target.path, synthetic()
    size = avatar.scene if inset is None else inset
    signed_with = credentials(manifest(path.name))
    if signed_with is not None and path.suffix.lower().lstrip(".") not in SIGNED:
        print(f"{path}: will have no C2PA manifest, for which only mp4 and mov have a place")
        signed_with = None
    if target.kind == "pictures":
        channels = 4 if look.is_transparent else 3
        return PictureFolder(path, size.width, size.height, channels, SAMPLE_RATE, comment)
    form = film_format(
        path.suffix.lower(), size.width, size.height, transparent=look.is_transparent
    )
    return EncoderProcess(
        path.resolve(), size.width, size.height, look.fps, SAMPLE_RATE, form, comment, signed_with
    )


def _render(
    avatar: Avatar, inset: Inset | None, target: Target, total: int,
    writer: EncoderProcess | PictureFolder,
) -> None:  # fmt: skip
    """Write the film of one speech."""
    with writer as film, progress(total, "render", "frame") as bar:
        frames = bar.track(pictures(avatar, inset, target.speech), task_id=0)
        feed(film, frames, avatar.look.fps, stream_audio(target.speech), SAMPLE_RATE)
    print(f"{target.path}: {total / avatar.look.fps:.1f} s. {CONSENT}")


def pictures(
    avatar: Avatar, inset: Inset | None, speech: str | Path
) -> Iterator[UInt8[np.ndarray, "H Wd C"]]:
    """Draw the pictures of a speech's film, in RGB, or in RGBA where the look is transparent."""
    for frame in draw_speech(avatar if inset is None else inset.avatar, speech):
        if inset is not None:
            yield inset.whole(frame.number, frame.rgb)
        elif avatar.look.is_transparent:
            yield straight(frame.rgb, frame.alpha)
        else:
            yield frame.rgb


def straight(
    rgb: UInt8[np.ndarray, "H Wd 3"], alpha: UInt8[np.ndarray, "H Wd"]
) -> UInt8[np.ndarray, "H Wd 4"]:
    """Return a picture that was drawn over black with its colors divided by its opacity.

    Over any background it is what would have been drawn over that, to 2.5 of 255 levels (on average
    0.5 where it is partly transparent), and to some more where light is brighter than white. Of the
    colors that the rounded bytes may come of, the nearest to those around are taken; so what is
    (nearly) transparent has its neighbors' colors, and encoders, which blur colors, have no black
    and no noise to blur into the person's edge.
    """
    made = np.dstack([rgb, alpha])
    near = cv2.blur(made.astype(np.float32), (_REACH, _REACH)) / 255
    edge = (alpha < 255) & (near[..., 3] > 0)  # elsewhere colors are what they are, or none
    near, drawn, shares = near[edge], rgb[edge], np.maximum(alpha[edge, None] / 255, 1e-3)
    around = 255 * near[:, :3] / np.maximum(near[:, 3:], 1e-4)
    colors = np.clip(around, (drawn - _HALF) / shares, (drawn + _HALF) / shares)
    made[edge, :3] = np.rint(np.clip(colors, 0, 255))
    return made


@contextlib.contextmanager
def _folder_of(todo: Sequence[Target], out: Path) -> Iterator[None]:
    """Make the folder of several films; without any film in it, it is not left behind."""
    if len(todo) == 1 or out.is_dir():
        yield
        return
    try:
        out.mkdir()
    except OSError as error:
        raise InputError(
            f"{out}: cannot write there ({error.strerror or error}); "
            "choose a place in a folder that exists and can be written"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            out.rmdir()  # which is refused where there are films
