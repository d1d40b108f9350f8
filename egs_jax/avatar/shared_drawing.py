"""Batches of several speeches -> pictures or motion codes, many in one call of a device.

Before: `speech_batches`; after: `sessions`. What goes to the device are rows of sound, poses and
eyes: audio windows, which overlap, are cut there, and the room's plate is there already.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import motion_codes
from egs_jax.avatar.drawing import StreamFrame
from egs_jax.avatar.drive import eyes_of, poses_at
from egs_jax.avatar.label import labeled
from egs_jax.avatar.look import Look
from egs_jax.avatar.poses import looked_at
from egs_jax.avatar.speech_batches import SpokenBatch
from egs_jax.avatar.to_host import compile_locked, draw_locked, shared_plate
from egs_jax.media.clock import FPS, places
from egs_jax.speech.layout import ENTRY_ROWS, FRAME_ROWS
from egs_jax.types import Drive

GROWTH = 4
"""Programs are compiled for 1, 4, 16 ... batches at once: so many more at a time."""


class MotionFrame(NamedTuple):
    """One frame that is drawn elsewhere, by its codes."""

    number: int
    time: float
    """When it is to be shown, seconds from the first sample."""
    codes: Float[np.ndarray, " K"]
    """All that speech says of its motion (`egs_jax.motion_codes`)."""
    viewmat: Float[np.ndarray, "4 4"]
    """Head -> camera."""
    body: Float[np.ndarray, "4 4"] | None
    """Body -> camera; None: all moves with the head."""
    eye: float
    """Blink in [0,1], which the codes have in them already; 1 is shut."""
    speaking: bool
    """Whether somebody speaks at that time, as the gate of `speech.level` hears it."""


class Shared(NamedTuple):
    """Batches of several speeches that the device is at work on."""

    batches: Sequence[SpokenBatch]
    made: Sequence[Array]
    """Pictures and opacities in page-locked memory, or codes, of all places of all batches."""
    drive: Drive
    """Poses and eyes, at the host."""
    look: Look


def padded_count(count: int) -> int:
    """Return how many batches the program for `count` of them takes."""
    size = 1
    while size < count:
        size *= GROWTH
    return size


def compile_shared(avatar: Avatar, batch: SpokenBatch, most: int, *, pictures: bool) -> None:
    """Have all programs compiled for up to `most` batches at once, of an avatar and no sound."""
    size = 1
    while size <= most:
        if pictures:
            compile_locked(avatar, shared_drive(avatar, [batch] * size, backgrounds=True))
        jax.block_until_ready(dispatch_shared(avatar, [batch] * size, pictures=pictures).made)
        size *= GROWTH


def dispatch_shared(avatar: Avatar, batches: Sequence[SpokenBatch], *, pictures: bool) -> Shared:
    """Have batches of one avatar drawn, or only their codes made, without waiting for the device.

    Args:
      avatar: Whose they are.
      batches: Of any speeches; more than one may come in other bits than one alone.
      pictures: Whether pictures are drawn; otherwise codes are made.
    """
    extra = padded_count(len(batches)) - len(batches)
    drive = shared_drive(avatar, [*batches, *[batches[-1]] * extra], backgrounds=pictures)
    if pictures:
        drawn = draw_locked(avatar, drive)
        made = [drawn.rgb, drawn.alpha]
    else:
        made = [motion_codes(avatar, drive)]
        made[0].copy_to_host_async()
    drive = drive.replace(audio_windows=None, backgrounds=None)
    return Shared(batches, made, drive, avatar.look)


def shared_drive(avatar: Avatar, batches: Sequence[SpokenBatch], *, backgrounds: bool) -> Drive:
    """Compose what drives all places of batches; what is large is on the device.

    The same values as `speech_batches.composed` gives of each; a plate that is always the same is
    there once.
    """
    scene, config, look = avatar.scene, avatar.config, avatar.look
    shown = np.concatenate([batch.shown for batch in batches])
    rows, share = places(np.stack([batch.shown for batch in batches]), look.fps, FRAME_ROWS * FPS)
    rows = rows - np.array([[batch.first_row] for batch in batches])
    offsets = scene.layout.offsets(config.model.window_frames)
    entries = FRAME_ROWS * offsets[:, None] + np.arange(ENTRY_ROWS) - ENTRY_ROWS // 2
    poses = poses_at(avatar.path, look, shown)
    views = [batch.view for batch in batches for _ in batch.shown]
    heads, bodies = looked_at(avatar.limits, poses.viewmats, poses.bodies, views)
    behind = shared_plate(scene.backgrounds(shown, poses.frames)) if backgrounds else None
    return Drive(
        audio_windows=_windows(
            np.stack([batch.rows for batch in batches]),
            rows,
            entries,
            share if share.any() else None,
        ),
        eyes=eyes_of(look, config.seed, shown),
        viewmats=heads,
        Ks=np.broadcast_to(scene.intrinsics, (len(shown), 3, 3)),
        backgrounds=behind,
        bodies=bodies,
    )


@jax.jit
def _windows(
    rows: Float[Array, "M R F"], first: Int[Array, "M B"], entries: Int[Array, "W 16"],
    share: Float[Array, "M B"] | None,
) -> Float[Array, "MB W 16 F"]:  # fmt: skip
    """Cut the audio windows of frames whose own rows are `first` of those of their batch.

    With `share`, each of a window's rows is what it is on the way to the one after it.
    """
    index = first[:, :, None, None] + entries[None, None]  # [M, B, W, 16]
    cut = jax.vmap(lambda own, places: own[places])
    found = cut(rows, index)
    if share is not None:
        found = found + (cut(rows, index + 1) - found) * share[:, :, None, None, None]
    return found.reshape(-1, *found.shape[2:])


def fetch_shared(shared: Shared) -> list[list[StreamFrame] | list[MotionFrame]]:
    """Wait for the device; return the frames of each batch that count."""
    made = [np.asarray(array) for array in shared.made]
    drive, found, at = shared.drive, [], 0
    for batch in shared.batches:
        frames = []
        speaking = batch.speaking.tolist()
        for place, number in enumerate(batch.frames.tolist(), batch.first):
            k, head = at + place, (number, number / batch.fps)
            if len(made) == 2:
                picture = labeled(shared.look, made[0][k], made[1][k])
                frames.append(StreamFrame(*head, *picture, speaking[place]))
            else:
                body = None if drive.bodies is None else drive.bodies[k]
                motion = made[0][k], drive.viewmats[k], body, float(drive.eyes[k])
                frames.append(MotionFrame(*head, *motion, speaking[place]))
        at += len(batch.shown)
        found.append(frames)
    return found
