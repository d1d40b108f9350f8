"""Which frames a training step sees, and the batch that is cut from them.

`draw_frames` draws with NumPy from (seed, step) alone; `cut_batch` gathers, with NumPy on the host
or JAX on a device, whatever it is given: the numbers are the same. `dataset` cuts on the host,
frame by frame from disk; `frames_on_device` on the device that holds the clip.
"""

import functools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from egs_jax.config import HEARD_FRAMES, Config, Stage
from egs_jax.speech.frame_windows import feature_windows
from egs_jax.speech.layout import Layout
from egs_jax.speech.lips import FittedLips
from egs_jax.types import Batch, Drive


class Footage(flax.struct.PyTreeNode):
    """Pictures of B frames, or of a whole clip."""

    targets: UInt8[Array, "B H Wd 3"]
    masks: UInt8[Array, "B H Wd"]
    backgrounds: UInt8[Array, "B H Wd 3"] | None
    """None: the clip's plate, in every frame."""


class Clip(flax.struct.PyTreeNode):
    """Arrays that training reads of a clip besides pictures; T frames."""

    audio_features: Float[Array, "R F"]
    silence_features: Float[Array, "Q F"]
    sound_places: Int[Array, "T 3"]
    """Where the sound of a frame is, and the rows that it may hear (`stretches.sound_places`)."""
    blink: Float[Array, " T"]
    viewmats: Float[Array, "T 4 4"]
    K: Float[Array, "3 3"]
    lips_rects: Int[Array, "T 4"]
    eyes_rects: Int[Array, "T 4"]
    lip_shapes: Float[Array, "T 2"]
    sound_spread: Float[Array, " F"]
    body_viewmats: Float[Array, "T 4 4"] | None
    """None: there is no body besides the head."""
    plate: UInt8[Array, "H Wd 3"] | None
    layout: Layout = flax.struct.field(pytree_node=False)
    """That of the sound features."""
    lips_told: Float[Array, "T 2"] | None = None
    """What sound alone tells of `lip_shapes` (`speech.lips`); None: the model learns to tell it."""
    lips_hushed: Float[Array, " 2"] | None = None
    """What silence tells."""

    def with_lips(self, frames: Int[np.ndarray, " N"], fitted: FittedLips) -> "Clip":
        """Return the clip with what `fitted` tells of the `frames` that it was fitted on."""
        told = np.zeros_like(self.lip_shapes)
        told[frames] = fitted.told
        return self.replace(lips_told=told, lips_hushed=fitted.reader.rest)


class FramePool(NamedTuple):
    """Frames that may be drawn."""

    frames: Int[np.ndarray, " N"]
    """All of them."""
    rest: Int[np.ndarray, " R"]
    """Those whose mouth is shut or nearly so."""
    blinks: Int[np.ndarray, " K"]
    """Those whose eyes are shut or half shut; there may be none."""


class DrawnFrames(flax.struct.PyTreeNode):
    """Frames that a step sees and hears."""

    frames: Int[Array, " B"]
    silent: Bool[Array, " B"]
    """Which of them hear silence; they are at rest."""
    heard: Int[Array, " M"]
    """Frames whose sound alone is heard, no picture."""
    hushed: Bool[Array, " M"]
    """Which of these hear silence instead."""
    lips: Int[Array, " M"]
    """Frames whose lips the sound is to tell: those heard, or some at rest."""


def draw_frames(config: Config, pool: FramePool, step: int) -> DrawnFrames:
    """Draw what `step` sees, `config.frames` of it, from (config.seed, step) alone.

    In the deformation stage a share of the samples pairs a frame at rest with digital silence, so
    that the mouth learns to close when nobody speaks; another share shows shut eyes, which are
    rare.
    """
    stage = config.stage(step)
    deform, size = stage == "deform", config.frames(stage)
    frames = _in_turn(config.seed, step, size, pool.frames)
    rng = np.random.default_rng([config.seed, step, 1])
    schedule, chance = config.schedule, rng.random(size)
    silent = (chance < schedule.silence_share) & deform
    frames = np.where(silent, rng.choice(pool.rest, size), frames)
    if pool.blinks.size:
        blinks = ~silent & deform & (chance < schedule.silence_share + schedule.blink_share)
        frames = np.where(blinks, rng.choice(pool.blinks, size), frames)
    count = HEARD_FRAMES if config.hears else 0
    rng = np.random.default_rng([config.seed, step, 2])
    heard = rng.choice(pool.frames, count)
    rest = rng.choice(pool.rest, count)
    hushed = rng.random(count) < schedule.silence_share
    return DrawnFrames(frames, silent, heard, hushed, np.where(hushed, rest, heard))


def host_part(drawn: DrawnFrames) -> DrawnFrames:
    """Return what this host's devices see of a step: of one host, everything."""
    count, index = jax.process_count(), jax.process_index()
    return jax.tree.map(lambda leaf: leaf.reshape(count, -1)[index], drawn)


def cut_batch(
    config: Config, stage: Stage, perceptual: bool, clip: Clip, footage: Footage, drawn: DrawnFrames
) -> Batch:  # fmt: skip
    """Cut a step's batch.

    Args:
      config: Sizes and noise.
      stage: Stage of the step.
      perceptual: Whether its loss has the perceptual term (`Config.has_perceptual`).
      clip: Arrays of the whole clip, NumPy or JAX.
      footage: Pictures of `drawn.frames` alone, likewise.
      drawn: What `draw_frames` drew, likewise.
    """
    xp = jnp if isinstance(drawn.frames, jax.Array) else np
    frames, sound, hush = drawn.frames, clip.audio_features, clip.silence_features

    def windows(frames: Array, silent: Array, count: int) -> Float[Array, "B W 16 F"]:
        place = clip.sound_places[frames]
        layout = clip.layout
        own = feature_windows(sound, hush, place[:, 0], count, spans=place[:, 1:], layout=layout)
        places = jax.process_index() * len(frames) + xp.arange(len(frames))  # among all hosts'
        rest = feature_windows(hush[:0], hush, places, count, layout=layout)
        return xp.where(silent[:, None, None, None], rest, own)

    drive = Drive(
        audio_windows=windows(frames, drawn.silent, config.model.window_frames),
        eyes=clip.blink[frames],
        viewmats=clip.viewmats[frames],
        Ks=xp.broadcast_to(clip.K, (len(frames), 3, 3)),
        backgrounds=(
            xp.broadcast_to(clip.plate, footage.targets.shape)
            if footage.backgrounds is None
            else footage.backgrounds
        ),
        bodies=None if clip.body_viewmats is None else clip.body_viewmats[frames],
        lips=_said_lips(config, clip, drawn),
    )
    return Batch(
        drive=drive,
        targets=footage.targets,
        masks=footage.masks,
        lips_rects=clip.lips_rects[frames],
        eyes_rects=clip.eyes_rects[frames],
        entries=windows(drawn.heard, drawn.hushed, 1)[:, 0],
        entry_noise=np.float32(config.loss.hearing_noise) * clip.sound_spread,
        lip_shapes=clip.lip_shapes[drawn.lips],
        stage=stage,
        perceptual=perceptual,
    )


def _said_lips(config: Config, clip: Clip, drawn: DrawnFrames) -> Float[Array, "B 2"] | None:
    """Return what the lips' token says of the frames that a step sees, between true and told."""
    if clip.lips_told is None:
        return None
    xp = jnp if isinstance(drawn.frames, jax.Array) else np
    told = xp.where(drawn.silent[:, None], clip.lips_hushed[None], clip.lips_told[drawn.frames])
    share = np.float32(config.schedule.lips_truth)
    return told + share * (clip.lip_shapes[drawn.frames] - told)


def _in_turn(
    seed: int, step: int, size: int, frames: Int[np.ndarray, " N"]
) -> Int[np.ndarray, " size"]:
    """Draw `size` of the frames: every epoch is a fresh permutation."""
    count = len(frames)
    places = np.arange(step * size, (step + 1) * size)
    return frames[[_permutation(seed, p // count, count)[p % count] for p in places]]


@functools.lru_cache(maxsize=8)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, 0]).permutation(count)
