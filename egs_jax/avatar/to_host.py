"""Pictures at the host: what drives them goes to a GPU in one copy, and they come back in one.

Before: `draw`; after: `stream`. Every copy of a call takes its host as long as the copying itself,
unless the pictures are large. Those go to page-locked memory, which JAX keeps for the next call: to
get new memory takes longer than to draw into it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from egs_jax.avatar import precomputed as prepared
from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import Pictures, draw
from egs_jax.avatar.precomputed import Drawable
from egs_jax.config import Config
from egs_jax.runtime import one_copy
from egs_jax.runtime.one_copy import Told, landed, locked, packed, staged, told_of, unpacked
from egs_jax.types import Drive

MOST_PLATES = 32
"""Backgrounds that stay on the device."""


def draw_to_host(avatar: Avatar, drive: Drive) -> Pictures:
    """Do the same as `draw`, wait for it, and return NumPy arrays that can only be read.

    Args:
      avatar: Who is drawn.
      drive: On the host. A background that its frames share (a view that repeats one picture) is
        copied to the device the first time only; nobody may write to it later.
    """
    if jax.default_backend() == "cpu":
        return jax.device_get(draw(avatar, drive))
    rows = by_locked_memory(avatar.config.drawing, avatar.kept, drive)
    return unpacked(told_of_pictures(*drive.backgrounds.shape[1:3]), rows)


def told_of_pictures(height: int, width: int) -> Told:
    """Return how pictures lie in rows."""
    none = np.empty((0, height, width, 4), np.uint8)
    return told_of(Pictures(none[..., :3], none[..., 3]))


def by_locked_memory(config: Config, kept: Drawable, drive: Drive) -> UInt8[np.ndarray, "B M"]:
    """Draw with one copy each way, of an avatar's parts and whatever the device; rows come back.

    (Backgrounds that are not one plate are a second copy to the device.)
    """
    rest, behind = drive.replace(backgrounds=None), shared_plate(drive.backgrounds)
    held = [staged(rest)]
    if isinstance(behind, np.ndarray):
        held.append(staged(behind, np.uint8))
        behind = held[1].rows
    size = drive.backgrounds.shape[1:]
    drawn = np.asarray(_drawn(config, told_of(rest), size, kept, held[0].rows, behind))
    for rows in held:
        one_copy.release(rows)
    return drawn


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _drawn(
    config: Config, told: Told, size: tuple[int, int, int], kept: Drawable,
    rows: Float[Array, "B M"], behind: UInt8[Array, "#B N"] | UInt8[Array, "1 H Wd 3"],
) -> UInt8[Array, "B M"]:  # fmt: skip
    """Draw to page-locked memory by a drive whose numbers lie in rows, one a frame."""
    drive = unpacked(told, landed(rows))
    drive = drive.replace(backgrounds=landed(behind).reshape(-1, *size))
    return to_locked(config, kept, drive)


def to_locked(config: Config, kept: Drawable, drive: Drive) -> UInt8[Array, "B M"]:
    """Draw to page-locked memory; for programs, which are jitted."""
    return locked(packed(Pictures(*prepared.show(config, kept, drive)), jnp, jnp.uint8))


def shared_plate(
    backgrounds: UInt8[np.ndarray, "B H Wd 3"],
) -> UInt8[Array | np.ndarray, "#B H Wd 3"]:
    """Return the one picture that is repeated, kept on the device; others as they are."""
    return backgrounds if backgrounds.strides[0] else _on_device(_Plate(backgrounds[:1]))


class _Plate:
    """A picture, known by where it lies."""

    def __init__(self, pixels: UInt8[np.ndarray, "1 H Wd 3"]):
        self.pixels = pixels  # as long as it is held, no other can lie there
        self._known_by = pixels.__array_interface__["data"][0], pixels.shape, pixels.strides

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Plate) and self._known_by == other._known_by

    def __hash__(self) -> int:
        return hash(self._known_by)


@functools.lru_cache(MOST_PLATES)
def _on_device(plate: _Plate) -> UInt8[Array, "1 H Wd 3"]:
    return jax.device_put(plate.pixels)
