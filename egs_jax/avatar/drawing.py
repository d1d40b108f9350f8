"""Batches of frames -> pictures at the host, by threads, without waiting for those before them.

Before: `draw` and `speech_batches`; after: `stream`, `sessions` and `film`. Frames are always drawn
in the same batches by one compiled program (on a CPU: one by one), however the sound arrives.
"""

import collections
import concurrent.futures
import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int, UInt8

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import Pictures, compile_kernels
from egs_jax.avatar.drive import compose
from egs_jax.avatar.label import labeled
from egs_jax.avatar.look import Look
from egs_jax.avatar.speech_batches import MicroBatch, num_places
from egs_jax.avatar.to_host import draw_to_host
from egs_jax.runtime.environment import usable_cores
from egs_jax.speech.layout import DEFAULT

MICRO_BATCH = DEFAULT.hop_frames
"""Frames drawn at once, by default."""
IN_FLIGHT = 2
"""Batches that the device may be at work on while the host takes the one before them."""


class StreamFrame(NamedTuple):
    """One drawn frame."""

    number: int
    time: float
    """When it is to be shown, seconds from the first sample."""
    rgb: UInt8[np.ndarray, "H Wd 3"]
    """Head over its background; read-only, a copy can be drawn on."""
    alpha: UInt8[np.ndarray, "H Wd"]
    """Share of the head in each pixel."""
    speaking: bool
    """Whether somebody speaks at that time, as the gate of `speech.level` hears it."""


class Drawing(NamedTuple):
    """A batch that is being drawn."""

    frames: Int[np.ndarray, " F"]
    """Numbers of the frames that count, in order."""
    first: int
    """Place of the first of them."""
    speaking: Bool[np.ndarray, " B"]
    """Whether somebody speaks."""
    parts: list[concurrent.futures.Future[Pictures]]
    look: Look


@functools.cache
def _workers() -> concurrent.futures.ThreadPoolExecutor:
    """Return the threads that draw."""
    return concurrent.futures.ThreadPoolExecutor(usable_cores() if _one_by_one() else IN_FLIGHT)


def _one_by_one() -> bool:
    """Tell if a thread draws a frame at a time, not all of a batch.

    A CPU draws a frame a core: several cores in one frame are kept busy poorly (measured on two
    cores, `fast` preset: 40 ms a frame instead of 55).
    """
    return jax.default_backend() == "cpu"


def dispatch(avatar: Avatar, batch: MicroBatch) -> Drawing:
    """Have a batch drawn and copied to the host, without waiting for either."""
    _ = avatar.kept  # once, not by every thread
    count, at_once = len(batch.drive.eyes), 1 if _one_by_one() else len(batch.drive.eyes)
    part = lambda at: jax.tree.map(lambda v: v[at : at + at_once], batch.drive)
    futures = [_workers().submit(draw_to_host, avatar, part(at)) for at in range(0, count, at_once)]
    return Drawing(batch.frames, batch.first, batch.speaking, futures, avatar.look)


def warm_up(avatar: Avatar) -> None:
    """Have the drawing compiled: draw what a thread draws at once, for nobody."""
    scene, config = avatar.scene, avatar.config
    frames = np.zeros(1 if _one_by_one() else num_places(avatar), int)
    unheard, window = scene.silence[:0], config.model.window_frames
    drive = compose(scene, avatar.path, unheard, 0, frames, window, config.seed, avatar.look)
    compile_kernels(avatar, drive)
    for part in dispatch(avatar, MicroBatch(frames[:0], 0, frames > 0, drive)).parts:
        part.result()


def fetch(drawing: Drawing) -> Iterator[StreamFrame]:
    """Wait for a batch; its frames."""
    pictures = [
        picture
        for part in drawing.parts
        for picture in zip(*jax.tree.leaves(part.result()), strict=True)
    ]
    for place, number in enumerate(drawing.frames.tolist(), drawing.first):
        rgb, alpha = labeled(drawing.look, *pictures[place])
        time, speaking = number / drawing.look.fps, bool(drawing.speaking[place])
        yield StreamFrame(number, time, rgb, alpha, speaking)


def draw_all(avatar: Avatar, batches: Iterable[MicroBatch]) -> Iterator[StreamFrame]:
    """Yield the frames of all batches; `IN_FLIGHT` of them are drawn while another is taken."""
    drawing: collections.deque[Drawing] = collections.deque()
    for batch in batches:
        drawing.append(dispatch(avatar, batch))
        if len(drawing) > IN_FLIGHT:
            yield from fetch(drawing.popleft())
    for rest in drawing:
        yield from fetch(rest)
