"""An avatar at its place in the whole picture of the film that it was trained on.

Before: `avatar`; after: `film`. Every frame has behind it that frame of the film whose pose it has:
the film goes back and forth as the poses do, slows down where they turn, and what lies beyond the
avatar's square, shoulders and room, goes on from within it.
"""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.drive import poses_at
from egs_jax.avatar.label import marked
from egs_jax.avatar.scene import SourceFilm, film_of
from egs_jax.media.clock import FPS
from egs_jax.media.film_pictures import FilmPictures
from egs_jax.runtime.assets import file_sha256
from egs_jax.runtime.errors import InputError

FEATHER = 16
"""The square's edge fades into the film over one part in so many of its side."""
Picture = UInt8[np.ndarray, "H Wd 3"]


class Inset:
    """A film with a place in it for its avatar.

    Attributes:
      avatar: The avatar, drawn as large as the place is.
      width: Of the film's picture [pixels]; likewise `height`.
    """

    def __init__(self, avatar: Avatar, path: str | Path):
        """Open the film.

        Args:
          avatar: A whole person, in its clip's poses, before its clip's room.
          path: The film that it was trained on.

        Raises:
          InputError: if it is another film, or cannot be read; if nothing says where in it the
            avatar is; if the avatar is to look otherwise than there.
        """
        self._source, look = _source(avatar), avatar.look
        for name, wanted in (("poses", "clip"), ("background", "plate"), ("size", None)):
            if getattr(look, name) != wanted:
                raise InputError(
                    f"--into {path}: poses, background and size are the film's; leave --{name}"
                )
        film = FilmPictures(path, FPS, np.asarray)  # which says what no film is
        if file_sha256(path) != self._source.sha256:
            raise InputError(
                f"--into {path}: is another film than this avatar was trained on "
                f"({self._source.name}, SHA-256 {self._source.sha256[:12]}); name that one"
            )
        self._film, side = film, self._source.side
        self.height, self.width = self._film[0].shape[:2]
        if self._source.top + side > self.height or self._source.left + side > self.width:
            raise InputError(f"--into {path}: the avatar's place is not in it; export it again")
        self._label, self._first = look.label, avatar.clip_scene.start
        look = dataclasses.replace(look, size=side + side % 2, label=False)
        self.avatar = dataclasses.replace(avatar, look=look)
        self._share = _shares(self._source, self.width, self.height)

    def whole(self, number: int, rgb: Picture) -> Picture:
        """Return a frame of the film with a frame of the avatar in it."""
        [frame] = poses_at(self.avatar.path, self.avatar.look, np.array([number])).frames
        made = self._film[self._source.start + int(frame) - self._first]
        side, top, left = self._source.side, self._source.top, self._source.left
        if len(rgb) != side:
            rgb = cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA)
        drawn = np.clip(rgb / np.array(self._source.gain, np.float32), 0, 255)
        place = made[top : top + side, left : left + side]
        place[:] = np.rint(place + (drawn - place) * self._share)
        return marked(made) if self._label else made


def _source(avatar: Avatar) -> SourceFilm:
    """Return where in its film an avatar is; an older file of it lets its dataset say that."""
    if (found := avatar.clip_scene.film) is None:
        try:
            found = film_of(avatar.dataset)
        except InputError:
            raise InputError(
                "--into: this avatar's file does not say where in its film it is; name its dataset "
                "by --data-dir"
            ) from None
    if found is None:
        raise InputError("--into: this avatar's dataset does not say of which film it was cut")
    return found


def _shares(source: SourceFilm, width: int, height: int) -> Float32[np.ndarray, "side side 1"]:
    """Return how much of the avatar each pixel of its square shows.

    It fades into the film, not into the film's own edges.
    """
    across = _ramp(source.side, source.left > 0, source.left + source.side < width)
    down = _ramp(source.side, source.top > 0, source.top + source.side < height)
    return (down[:, None] * across[None]).astype(np.float32)[..., None]


def _ramp(side: int, fades_first: bool, fades_last: bool) -> Float[np.ndarray, " side"]:
    """Return shares along one side: smooth from 0 to 1 at the ends that fade."""
    rise = np.clip((np.arange(side) + 0.5) / max(side / FEATHER, 1), 0, 1)
    smooth = rise * rise * (3 - 2 * rise)
    return (smooth if fades_first else 1.0) * (smooth[::-1] if fades_last else np.ones(side))
