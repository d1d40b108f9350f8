"""An avatar and what drives it -> pictures, a batch of frames in one jitted call.

Before: `avatar`, `drive`; after: `stream` and `film`, which feed it with
sound of any length.
"""

import functools
from pathlib import Path

import flax.struct
import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

import kernels
from egs_jax.avatar import precomputed as prepared
from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.baked import Baked, codes_of, moved_by
from egs_jax.avatar.drive import SpeechDrive
from egs_jax.avatar.precomputed import Drawable
from egs_jax.config import Config
from egs_jax.media.audio_file import read_audio
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.runtime.programs import Kept
from egs_jax.types import Drive, RenderOutput


class Pictures(flax.struct.PyTreeNode):
    """B drawn frames, as they go to a screen or a file."""

    rgb: UInt8[Array, "B H Wd 3"]
    """Head over its background."""
    alpha: UInt8[Array, "B H Wd"]
    """Share of the head in each pixel, 255 where nothing shines through."""


def infer_step(avatar: Avatar, drive: Drive) -> RenderOutput:
    """Draw the head as `drive` moves it, over its backgrounds (one jitted call per batch size)."""
    return _infer(avatar.config.drawing, avatar.kept, drive)


def draw(avatar: Avatar, drive: Drive) -> Pictures:
    """Do the same as `infer_step` and round to bytes on the device.

    The pictures take the place of `drive.backgrounds` in the device's memory: a drive that lies
    there already cannot be used again. The call returns before the device is done.
    """
    rest = drive.replace(backgrounds=None)
    return _drawing(avatar.config.drawing, avatar.kept, rest, drive.backgrounds)


def compile_kernels(avatar: Avatar, drive: Drive) -> None:
    """Have the Triton kernels of `draw` compiled, faster than its first call would."""
    rest = drive.replace(backgrounds=None)
    arguments = avatar.config.drawing, avatar.kept, rest, drive.backgrounds
    kernels.compile_kernels(draw_program(), *arguments)


def motion_codes(avatar: Avatar, drive: Drive) -> Float[Array, "B K"]:
    """Return the codes of every frame of `drive`: all that speech says of an avatar's motion."""
    return _codes(avatar.config.drawing, avatar.baked, drive.replace(backgrounds=None))


def draw_codes(avatar: Avatar, codes: Float[Array, "B K"], drive: Drive) -> RenderOutput:
    """Draw frames by their codes; of `drive` poses and backgrounds count, its sound is not heard.

    The same as `infer_step` of an avatar that is not exact, in two steps.
    """
    unheard = drive.replace(audio_windows=drive.audio_windows[:, :0], eyes=drive.eyes[:0])
    return _draw_codes(avatar.config.drawing, avatar.baked, codes, unheard)


_codes = jax.jit(codes_of, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _draw_codes(config: Config, baked: Baked, codes: Array, drive: Drive) -> RenderOutput:
    return prepared.draw_moved(config, baked, moved_by(config, baked, codes), drive)


@functools.partial(jax.jit, static_argnums=0)
def _infer(config: Config, kept: Drawable, drive: Drive) -> RenderOutput:
    return prepared.render(config, kept, drive)


def _draw(config: Config, kept: Drawable, drive: Drive, backgrounds: Array) -> Pictures:
    return Pictures(*prepared.show(config, kept, drive.replace(backgrounds=backgrounds)))


# XLA takes half the width of AVX-512 unless it is told (measured: 83 instead of 100 ms of one core
# for a frame of the `fast` preset).
_drawing = Kept(_draw, Pictures, donated=3, on_cpu={"xla_cpu_prefer_vector_width": 512})


def draw_program() -> jax.stages.Wrapped:
    """`draw`, jitted, of an avatar's parts; the backgrounds are the last argument and donated."""
    return _drawing.jitted


def load_drive(audio_path: str | Path, avatar: Avatar) -> SpeechDrive:
    """Read a whole speech and turn it into what drives every frame of its video.

    Raises:
      InputError: if the file cannot be read as sound.
    """
    samples = read_audio(audio_path)
    return SpeechDrive(
        avatar.scene, avatar.path, avatar.scene.hear(samples),
        num_video_frames(len(samples), avatar.look.fps), avatar.config.model.window_frames,
        avatar.config.seed, avatar.look,
    )  # fmt: skip


def num_video_frames(samples: int, fps: int = FPS) -> int:
    """Video frames that cover `samples` of sound (at least one)."""
    return max(1, -(-samples * fps // SAMPLE_RATE))


def pad_batch(drive: Drive, size: int) -> Drive:
    """Repeat the last frame until there are `size`, so that one compiled program serves all."""
    extra = size - len(drive.eyes)
    return jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[-1:], extra, axis=0)]), drive)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Float image in [0,1] -> uint8."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
