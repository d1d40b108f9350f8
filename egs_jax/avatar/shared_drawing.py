"""Batches of several speeches -> pictures or motion codes, many in one call of a device.

Before: `speech_batches`; after: `sessions`. What goes to the device, in one copy, are rows of
sound, poses and eyes: audio windows, which overlap, are cut there, and the room's plate is there
already.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

import kernels
from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.baked import Baked, codes_of
from egs_jax.avatar.drawing import StreamFrame
from egs_jax.avatar.drive import eyes_of, poses_at
from egs_jax.avatar.label import labeled
from egs_jax.avatar.look import Look
from egs_jax.avatar.poses import looked_at
from egs_jax.avatar.precomputed import Drawable
from egs_jax.avatar.speech_batches import SpokenBatch
from egs_jax.avatar.to_host import shared_plate, to_locked, told_of_pictures
from egs_jax.config import Config
from egs_jax.media.clock import FPS, places
from egs_jax.runtime import one_copy
from egs_jax.runtime.one_copy import Told, landed, locked, staged, told_of, unpacked
from egs_jax.runtime.programs import padded_count, padded_counts
from egs_jax.speech.layout import ENTRY_ROWS, FRAME_ROWS, Layout
from egs_jax.types import Drive


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


Backgrounds = UInt8[Array | np.ndarray, "#MB H Wd 3"]
"""One for each place, or one of all."""


class Driving(flax.struct.PyTreeNode):
    """What drives M batches of B places each."""

    rows: Float[Array, "M R F"]
    """All sound that any of a batch's places hears."""
    first: Int[Array, "M B"]
    """Each place's own row among them."""
    share: Float[Array, "M B"] | None
    """How far it is from that row to the next; None: not at all."""
    eyes: Float[Array, "M B"]
    viewmats: Float[Array, "M B 4 4"]
    Ks: Float[Array, "M B 3 3"]
    bodies: Float[Array, "M B 4 4"] | None


class Shared(NamedTuple):
    """Batches of several speeches that the device is at work on."""

    batches: Sequence[SpokenBatch]
    given: one_copy.Staged
    """What the device is given, which is released when it is done."""
    made: Array
    """Of all places of all batches, in page-locked memory: rows of pictures, or codes."""
    told: Told | None
    """How pictures lie in rows; None: these are codes."""
    driving: Driving
    """Poses and eyes, at the host."""
    look: Look


def compile_shared(avatar: Avatar, batch: SpokenBatch, most: int, *, pictures: bool) -> None:
    """Have all programs compiled for up to `most` batches at once, of an avatar and no sound."""
    for size in padded_counts(most):
        if pictures:
            driving, behind = gathered(avatar, [batch] * size, pictures=True)
            given = staged(driving)
            kernels.compile_kernels(*_drawing(avatar, driving, given.rows, behind))
            one_copy.release(given)
        fetch_shared(dispatch_shared(avatar, [batch] * size, pictures=pictures))


def dispatch_shared(avatar: Avatar, batches: Sequence[SpokenBatch], *, pictures: bool) -> Shared:
    """Have batches of one avatar drawn, or only their codes made, without waiting for the device.

    Args:
      avatar: Whose they are.
      batches: Of any speeches; more than one may come in other bits than one alone.
      pictures: Whether pictures are drawn; otherwise codes are made.
    """
    extra = padded_count(len(batches)) - len(batches)
    driving, behind = gathered(avatar, [*batches, *[batches[-1]] * extra], pictures=pictures)
    given = staged(driving)
    if behind is not None:
        program, *arguments = _drawing(avatar, driving, given.rows, behind)
        made, of_pictures = program(*arguments), told_of_pictures(*behind.shape[1:3])
    else:
        told = avatar.config.drawing, avatar.scene.layout, told_of(driving)
        made, of_pictures = _coded(*told, avatar.baked, given.rows), None
    return Shared(batches, given, made, of_pictures, driving, avatar.look)


def gathered(
    avatar: Avatar, batches: Sequence[SpokenBatch], *, pictures: bool
) -> tuple[Driving, Backgrounds | None]:
    """Gather what drives batches, and for pictures what is behind."""
    scene, config, look, count = avatar.scene, avatar.config, avatar.look, len(batches)
    shown = np.concatenate([batch.shown for batch in batches])
    first, share = places(np.stack([batch.shown for batch in batches]), look.fps, FRAME_ROWS * FPS)
    poses = poses_at(avatar.path, look, shown)
    views = [batch.view for batch in batches for _ in batch.shown]
    heads, bodies = looked_at(avatar.limits, poses.viewmats, poses.bodies, views)
    of_batches = lambda values: values.reshape(count, -1, *values.shape[1:])
    behind = shared_plate(scene.backgrounds(shown, poses.frames)) if pictures else None
    driving = Driving(
        rows=np.stack([batch.rows for batch in batches]),
        first=first - np.array([[batch.first_row] for batch in batches]),
        share=share if share.any() else None,
        eyes=of_batches(eyes_of(look, config.seed, shown)),
        viewmats=of_batches(heads),
        Ks=np.broadcast_to(scene.intrinsics, (*first.shape, 3, 3)),
        bodies=None if bodies is None else of_batches(bodies),
    )
    return driving, behind


def _drawing(
    avatar: Avatar, driving: Driving, rows: Array | np.ndarray, behind: Backgrounds | None
) -> tuple[Any, ...]:
    """Return the program that draws, and its arguments."""
    told = avatar.config.drawing, avatar.scene.layout, told_of(driving)
    return _drawn, *told, avatar.kept, rows, behind


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _drawn(
    config: Config, layout: Layout, told: Told, kept: Drawable, rows: Array, behind: Array
) -> UInt8[Array, "MB M"]:
    driving = unpacked(told, landed(rows))
    return to_locked(config, kept, drive_of(config, layout, driving, behind))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _coded(config: Config, layout: Layout, told: Told, baked: Baked, rows: Array) -> Array:
    driving = unpacked(told, landed(rows))
    return locked(codes_of(config, baked, drive_of(config, layout, driving, None)))


def drive_of(config: Config, layout: Layout, driving: Driving, behind: Backgrounds | None) -> Drive:
    """Return what drives all places of batches, one after another.

    The same values as `speech_batches.composed` gives of each.

    Args:
      config: Of the avatar.
      layout: Of its sound features.
      driving: What was gathered.
      behind: As well; None: nothing is drawn.
    """
    offsets = layout.offsets(config.model.window_frames)
    entries = FRAME_ROWS * offsets[:, None] + np.arange(ENTRY_ROWS) - ENTRY_ROWS // 2
    flat = lambda values: values.reshape(-1, *values.shape[2:])
    first = jnp.asarray(driving.first).astype(jnp.int32)
    return Drive(
        audio_windows=_windows(jnp.asarray(driving.rows), first, entries, driving.share),
        eyes=flat(driving.eyes),
        viewmats=flat(driving.viewmats),
        Ks=flat(driving.Ks),
        backgrounds=behind,
        bodies=None if driving.bodies is None else flat(driving.bodies),
    )


def _windows(
    rows: Float[Array, "M R F"], first: Int[Array, "M B"], entries: Int[np.ndarray, "W 16"],
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
    made, pictures = np.asarray(shared.made), None
    one_copy.release(shared.given)
    if shared.told is None:  # codes may be kept for longer than page-locked memory should be
        made = made.copy()
    else:
        pictures = unpacked(shared.told, made)
    driving, found = shared.driving, []
    for k, batch in enumerate(shared.batches):
        frames, first = [], k * len(batch.shown)
        speaking = batch.speaking.tolist()
        for place, number in enumerate(batch.frames.tolist(), batch.first):
            head, at = (number, number / batch.fps), first + place
            if pictures is not None:
                picture = labeled(shared.look, pictures.rgb[at], pictures.alpha[at])
                frames.append(StreamFrame(*head, *picture, speaking[place]))
            else:
                body = None if driving.bodies is None else driving.bodies[k, place]
                poses = driving.viewmats[k, place], body
                eye = float(driving.eyes[k, place])
                frames.append(MotionFrame(*head, made[at], *poses, eye, speaking[place]))
        found.append(frames)
    return found
