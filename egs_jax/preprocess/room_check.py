"""How still the room is behind a person, and who else is in it.

An avatar of a whole person stands before one clean plate of the room. While the plate is made,
small pictures of the frames it is made of are kept, at most `_MOST` of them. In the end they are
compared with the plate: how much of the room differs from it (a screen, people who walk by, a cut
to another place), exposure apart; and the room of the best of them is found in the others as a
torso is (`torso_registration`): how far the camera moved, panned and zoomed. A room of one color
and noise show nothing to follow: there a camera may move, it does no harm.

Shares of the picture, not pixels: what a moving room does to an avatar does not depend on its size.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from egs_jax.preprocess.masks import FrameMasks
from egs_jax.preprocess.torso_registration import Similarity, Template, register, template
from kernels.checks import typechecked

_SIDE = 160  # px of the longer side of the pictures that are kept
_MOST = 64  # of them, the whole clip
_POINTS = 1000  # of the room that are followed
_DIFFERS = 24  # levels of 255: more than noise, compression and soft shadows
_APART = 0.25  # share of a frame's room that differs from the plate where it is another room
_LEAST_ROOM = 0.02  # share of the picture that must be seen of the room
_SOMEBODY = 0.01  # share of the picture: less is a hand or a lock of hair
_DARK, _CLIPPED = 8, 250  # levels: pixels beyond say nothing of the exposure
_LIT = 0.1  # share of the room that must be lit to tell the exposure
_WINDOW, _ALIKE = 11, 0.6  # px around a pixel whose brightness is to be so correlated
_TEXTURE = 4.0  # levels: deviation there
_FOUND, _TIE = 0.6, 0.02  # share of the texture that is alike where the room is; no difference
_SAME_PLACE = 0.3  # that share if something stands before the rest
_LEAST_SEEN = 0.2  # share of the room that must be seen


class RoomFigures(NamedTuple):
    """What was seen of the room.

    Attributes:
      camera: How far the room moves in the picture about its mean place, rms over frames and room,
        as a share of the picture's longer side; 0 where it shows nothing to follow. Told from the
        motion across edges, as if they ran in all directions alike.
      elsewhere: Share of frames that show another room.
      changing: Share of the room that differs from the plate, mean over the other frames.
      others: Share of frames with somebody else in the picture.
    """

    camera: float
    elsewhere: float
    changing: float
    others: float


class _Look(NamedTuple):
    """A frame that is kept: its picture, what is not room there, and whether others are seen."""

    picture: UInt8[np.ndarray, "h w 3"]
    hidden: Bool[np.ndarray, "h w"]
    others: bool


class RoomCheck:
    """A gatherer of looks at the room, of any number of frames in constant memory."""

    def __init__(self) -> None:
        self._looks: list[_Look] = []
        self._stride, self._count = 1, 0

    @typechecked
    def update(self, frame: UInt8[np.ndarray, "H W 3"], masks: FrameMasks) -> None:
        """Take in one of the frames that the plate is made of, in their order."""
        if self._count % self._stride == 0:
            size = _small_size(frame)
            hidden = (masks.foreground | masks.others) * np.uint8(255)
            hidden = _shrunk(hidden, size) > 0
            others = float(masks.others.mean()) > _SOMEBODY
            self._looks.append(_Look(_shrunk(frame, size), hidden, others))
            if len(self._looks) > _MOST:
                self._looks, self._stride = self._looks[::2], 2 * self._stride
        self._count += 1

    @typechecked
    def result(self, plate: UInt8[np.ndarray, "H W 3"]) -> RoomFigures | None:
        """Compare everything taken in with the plate; None if too little of the room was seen."""
        plate = _shrunk(plate, _small_size(plate))
        looks = [look for look in self._looks if (~look.hidden).mean() > _LEAST_ROOM]
        if not looks:
            return None
        differs = np.array([_difference(look, plate) for look in looks])
        room = np.array([(~look.hidden).mean() for look in looks])
        known = np.where(room >= 0.5 * np.median(room), differs, np.inf)
        best = int(known.argmin())
        camera, alike = _motion(looks, best)
        apart = (differs > _APART) & ~alike
        return RoomFigures(
            camera=camera,
            elsewhere=float(apart.mean()),
            changing=float(differs[~apart].mean()) if not apart.all() else 0.0,
            others=float(np.mean([look.others for look in looks])),
        )


def _small_size(frame: np.ndarray) -> tuple[int, int]:
    """Return width and height of the picture that is kept of a frame."""
    height, width = frame.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    return max(1, round(scale * width)), max(1, round(scale * height))


def _shrunk(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def _difference(look: _Look, plate: UInt8[np.ndarray, "h w 3"]) -> float:
    """Return the share of a look's room that differs from the plate, exposure apart."""
    room, bright, wanted = ~look.hidden, _brightest(look.picture), _brightest(plate)
    clipped = bright > _CLIPPED
    lit = room & (np.minimum(bright, wanted) > _DARK) & ~clipped
    enough = lit.sum() > _LIT * room.sum()
    gain = np.median(wanted[lit] / bright[lit].astype(np.float32)) if enough else 1.0
    apart = cv2.blur(gain * look.picture.astype(np.float32) - plate, (3, 3))
    return float(((_brightest(np.abs(apart)) > _DIFFERS) & ~clipped)[room].mean())


def _brightest(picture: np.ndarray) -> np.ndarray:
    """Return the largest of the three channels."""
    red, green, blue = cv2.split(picture)
    return cv2.max(cv2.max(red, green), blue)


def _motion(looks: list[_Look], best: int) -> tuple[float, Bool[np.ndarray, " N"]]:
    """Find the room of the look `best` in all: how far it moves, and where it was found."""
    height, width = looks[best].hidden.shape
    room = ~looks[best].hidden
    weights = cv2.erode(room.view(np.uint8), np.ones((5, 5), np.uint8)).astype(np.float64)
    kernel, center = np.ones((1, 1), np.uint8), complex(width / 2, height / 2)
    part = template(looks[best].picture, room, weights, kernel, center, _POINTS)
    if part is None or not _agreement(looks[best], looks[best], Similarity()):
        return 0.0, np.zeros(len(looks), bool)
    found: dict[int, Similarity | None] = {best: Similarity()}
    for numbers in (range(best + 1, len(looks)), range(best - 1, -1, -1)):
        start = Similarity()
        for i in numbers:
            found[i] = _found(looks[i], looks[best], part, start)
            start = found[i] or start
    path = np.array([place for _, place in sorted(found.items()) if place is not None])
    placed = path[:, :1] * part.levels[0].points + path[:, 1:]
    # Along edges nothing shows how far they move: a wall with one shadow would seem to slide.
    slopes = part.levels[0].jacobian[:, 2] + 1j * part.levels[0].jacobian[:, 3]
    across = np.real(np.conj(slopes) * (placed - placed.mean(axis=0)))
    share = np.mean(across**2) / max(float(np.mean(np.abs(slopes) ** 2)), 1e-12)
    known = np.array([found[i] is not None for i in range(len(looks))])
    return float(np.sqrt(2 * share) / max(height, width)), known


def _found(look: _Look, best: _Look, part: Template, start: Similarity) -> Similarity | None:
    """Return where the room of the best look is in another, None where it is not.

    What stands before the room may pull a registration away: a place counts if more of the room
    agrees there than where it was.
    """
    unmoved = _agreement(look, best, Similarity())
    for begin in dict.fromkeys((start, Similarity())):
        fit = register(look.picture, look.hidden, part, begin)
        moved = _agreement(look, best, fit.similarity) if fit.good else 0.0
        if moved >= max(unmoved - _TIE, _FOUND):
            return fit.similarity
    return Similarity() if unmoved > _SAME_PLACE else None


def _agreement(look: _Look, best: _Look, place: Similarity) -> float:
    """Return how much of the room's texture looks alike, moved to `place`: a share in [0, 1].

    Alike is a pixel around which brightness is correlated: no exposure matters.
    """
    room = (~best.hidden).astype(np.float32)
    height, width = room.shape
    center = 0.5 * complex(width - 1, height - 1)  # cv2 has pixel centers at integers
    turn, offset = place.turn, place.shift + center - place.turn * center
    affine = np.array([[turn.real, -turn.imag, offset.real], [turn.imag, turn.real, offset.imag]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = lambda image, outside: cv2.warpAffine(
        image, affine, (width, height), flags=flags, borderValue=outside
    )
    seen = np.where(moved(look.hidden.astype(np.float32), 1.0) > 0, 0, room)
    around = lambda values: cv2.blur(values, (_WINDOW, _WINDOW))
    share = np.maximum(around(seen), 1e-6)
    mean = lambda values: around(seen * values) / share
    a, b = moved(_gray(look), 0.0), _gray(best)
    squares = mean(a * a) - mean(a) ** 2, mean(b * b) - mean(b) ** 2
    deviations = np.sqrt(np.maximum(squares, 0.0))
    alike = mean(a * b) - mean(a) * mean(b) > _ALIKE * deviations[0] * deviations[1]
    texture = (seen > 0) & (deviations[1] > _TEXTURE)
    enough = (seen > 0).sum() > _LEAST_SEEN * room.sum() and texture.any()
    return float(alike[texture].mean()) if enough else 0.0


def _gray(look: _Look) -> Float[np.ndarray, "h w"]:
    """Return brightness about a middle one, which keeps squares small."""
    return cv2.cvtColor(look.picture, cv2.COLOR_RGB2GRAY).astype(np.float32) - 128
