"""A clip's scene as a look shows it: in its size, before another background.

Before: `scene`, `look`; after: `avatar`.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import imageio.v3 as imageio
import numpy as np
from jaxtyping import UInt8

from egs_jax.avatar.look import TRANSPARENT, Look
from egs_jax.avatar.scene import Backdrop, HeadScene, Scene
from egs_jax.data.dataset import Dataset
from egs_jax.media.film_pictures import FilmPictures
from egs_jax.runtime.errors import MAY_NOT_READ, InputError

Picture = UInt8[np.ndarray, "H Wd 3"]
COLORS = {
    "black": "#000000", "silver": "#c0c0c0", "gray": "#808080", "white": "#ffffff",
    "maroon": "#800000", "red": "#ff0000", "purple": "#800080", "fuchsia": "#ff00ff",
    "green": "#008000", "lime": "#00ff00", "olive": "#808000", "yellow": "#ffff00",
    "navy": "#000080", "blue": "#0000ff", "teal": "#008080", "aqua": "#00ffff",
}  # fmt: skip
"""The basic colors of CSS, by their names."""
_EXPECTED = "plate, clip, transparent, #rrggbb, a basic color of CSS, or a file"


def staged(scene: Scene, look: Look, clip: Callable[[], Dataset]) -> Scene:
    """Return a scene as a look shows it.

    Args:
      scene: As its clip has it.
      look: Its size, and the background: "plate", "clip", "transparent", a color, a file with a
        picture, or one with a film, which begins anew at its end. Pictures are scaled until they
        cover the avatar's, and cut at its sides.
      clip: Opens it, or says that there is none.

    Raises:
      InputError: if there is no such background, it cannot be read, or the avatar is a head alone
        and that is not its clip's.
    """
    if look.size not in (None, scene.width):
        scene = _resized(scene, look.size)
    if look.background == "plate":
        return scene
    if isinstance(scene.own, HeadScene):
        if look.background == "clip":
            return scene
        raise InputError(
            f"--background {look.background}: this avatar is a head over its clip's own body; "
            "leave that, or train with --model.body person"
        )
    return dataclasses.replace(scene, backdrop=_backdrop(scene, look, clip))


def covering(picture: Picture, width: int, height: int) -> Picture:
    """Scale a picture until it covers a size [pixels], and cut what is beyond on both sides."""
    rows, columns = picture.shape[:2]
    scale = max(width / columns, height / rows)
    wide, tall = max(round(columns * scale), width), max(round(rows * scale), height)
    left, top = (wide - width) // 2, (tall - height) // 2
    return _scaled(picture, wide, tall)[top : top + height, left : left + width]


def _scaled(picture: Picture, width: int, height: int) -> Picture:
    if picture.shape[:2] == (height, width):
        return picture
    shrinks = width < picture.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(picture, (width, height), interpolation=how)


def _resized(scene: Scene, width: int) -> Scene:
    """Return the same scene in pictures of another width, and of an even height."""
    height = 2 * max(1, round(scene.height * width / scene.width / 2))
    scale = np.array([width / scene.width, height / scene.height, 1], np.float32)
    sized: dict[str, Any] = {}
    if isinstance(scene.own, HeadScene):
        behind = scene.own.backgrounds
        sized["backgrounds"] = lambda frame: _scaled(behind(frame), width, height)
    else:
        sized["plate"] = _scaled(scene.own.plate, width, height)
    return dataclasses.replace(
        scene, width=width, height=height, intrinsics=scene.intrinsics * scale[:, None],
        own=dataclasses.replace(scene.own, **sized),
    )  # fmt: skip


def _backdrop(scene: Scene, look: Look, clip: Callable[[], Dataset]) -> Backdrop:
    width, height, word = scene.width, scene.height, str(look.background)
    if word == "clip":
        dataset = clip()
        return Backdrop(lambda _, frame: _scaled(dataset.frame(frame), width, height))
    color = COLORS.get("black" if word == TRANSPARENT else word.lower(), word)
    if re.fullmatch("#[0-9a-fA-F]{6}", color):
        return _still(np.full((height, width, 3), list(bytes.fromhex(color[1:])), np.uint8))
    path = Path(word)
    if not path.is_file():
        raise InputError(f"--background {word}: expected {_EXPECTED}, and there is no such file")
    if (picture := _picture(path)) is not None:
        return _still(covering(picture, width, height))
    try:
        film = FilmPictures(path, look.fps, lambda picture: covering(picture, width, height))
        film[0]  # what cannot be decoded at all is told before anything is drawn
    except InputError as error:
        raise InputError(f"--background: neither a picture nor a film; {error}") from None
    return Backdrop(lambda number, _: film[number])


def _still(picture: Picture) -> Backdrop:
    return Backdrop(lambda *_: picture, picture)


def _picture(path: Path) -> Picture | None:
    """Read a picture; None: it is none, perhaps a film."""
    try:
        return np.asarray(imageio.imread(path, plugin="pillow", index=0, mode="RGB", rotate=True))
    except PermissionError:
        raise InputError(f"{path}: {MAY_NOT_READ}") from None
    except Exception:  # Pillow's readers raise anything of what is damaged, or no picture
        return None
