"""A part of one frame found in others, the torso above all: a similarity of the picture.

Gauss-Newton on brightness with robust weights and the light's gain and offset, from coarse to fine,
on pictures of about 240 px. The torso is the person without the widened head; points far from the
head count the most, since hair and collar go along with it. What may hide the part in a frame is
told by a mask: a torso's head.

Conventions: pixel centers at integer + 0.5. A place in the picture is a complex number z = x + iy
from the principal point [pixels], a similarity `z -> turn * z + shift`. Letters: N points of the
part.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Complex, Float, UInt8

Picture = UInt8[np.ndarray, "H Wd 3"]
_WORKING_SIZE = 240.0  # px of the longer side that pictures are shrunk to, about
_LEVELS = 3
_BLUR = 1.0  # px of the shrunk picture
_MOST_POINTS = 3000
_FEWEST_POINTS = 50  # of the coarsest picture
_ITERATIONS = 12
_CONVERGED = 0.004  # px of the shrunk picture that a step moves the torso
_ROBUST = 4.0  # brightness residuals beyond so many deviations lose their pull
_WIDEST = 20.0  # the deviation to start from, of 255
_NECK = (0.06, 0.12)  # head heights that the head is widened by sideways and downwards
_FAR = 0.25  # head heights from the widened head where a point counts in full
_LEAST_TORSO = 0.02  # share of the picture
_LEAST_SEEN = 0.3  # share of the part's texture that a frame must show
_LEAST_LIKENESS = 0.6  # correlation of a frame's part with the rest frame's
_CELL = 24  # px of the shrunk picture: side of the cells whose own motion is the residual
# Errors of neighboring pixels are alike: their sum claims to know more than it does, by this much.
_TRUST = 0.02


class Similarity(NamedTuple):
    """`z -> turn * z + shift` in the picture, z from the principal point [pixels]."""

    turn: complex = 1.0
    shift: complex = 0.0


class _Level(NamedTuple):
    """The rest frame's part in one size.

    Attributes:
      side: Pixels of the frames that one of its pixels takes.
      points: [N] complex, where the part's pixels lie, from the principal point.
      values: [N] their brightness.
      jacobian: [N, 6] change of brightness by growth, roll and shift about the part's middle
        (growth and roll in units of its radius), by gain and by offset.
      weights: [N] in [0, 1].
    """

    side: int
    points: Complex[np.ndarray, " N"]
    values: Float[np.ndarray, " N"]
    jacobian: Float[np.ndarray, "N 6"]
    weights: Float[np.ndarray, " N"]


class Template(NamedTuple):
    """What frames are registered to.

    Attributes:
      levels: Finest first.
      kernel: Widens the mask of what may hide the part, in pixels of twice the finest side.
      center: Principal point, complex.
      middle: The part's middle, complex, from the principal point.
      radius: Root mean square distance from it.
    """

    levels: list[_Level]
    kernel: np.ndarray
    center: complex
    middle: complex
    radius: float


class Fit(NamedTuple):
    """A registered frame.

    Attributes:
      similarity: Where the part is.
      good: Whether that can be believed.
      residual: Motion within the part that it does not explain, rms [pixels].
    """

    similarity: Similarity
    good: bool
    residual: float


def _shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    """Average squares of `side` pixels, float32; an incomplete last row or column is left out."""
    height, width = picture.shape[0] // side, picture.shape[1] // side
    whole = picture[: height * side, : width * side].astype(np.float32)
    if side == 1:
        return whole
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)


def _pictures(frame: Picture, side: int) -> list[np.ndarray]:
    """Return brightness in `_LEVELS` sizes, finest first, float32."""
    gray = _shrunk(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), side)
    pictures = [cv2.GaussianBlur(gray, (0, 0), _BLUR)]
    for _ in range(_LEVELS - 1):
        height, width = pictures[-1].shape
        even = pictures[-1][: height // 2 * 2, : width // 2 * 2]
        pictures.append(
            cv2.resize(cv2.GaussianBlur(even, (0, 0), _BLUR), (width // 2, height // 2),
                       interpolation=cv2.INTER_AREA)
        )  # fmt: skip
    return pictures


def _head_kernel(head: Bool[np.ndarray, "H Wd"]) -> tuple[np.ndarray, float]:
    """Return the ellipse that widens a head over hair and neck, and the head's height [px]."""
    rows = np.flatnonzero(head.any(axis=1))
    height = float(rows[-1] - rows[0] + 1) if len(rows) else 0.0
    across, down = (int(round(share * height)) for share in _NECK)
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * across + 1, 2 * down + 1)), height


def _widened(head: Bool[np.ndarray, "H Wd"], side: int, kernel: np.ndarray) -> np.ndarray:
    """Return the widened head of a frame, uint8 0 or 1, shrunk by twice `side`."""
    small = np.ascontiguousarray(head[side :: 2 * side, side :: 2 * side]).astype(np.uint8)
    return cv2.dilate(small, kernel)


def find_torso(
    frame: Picture, head: np.ndarray, person: np.ndarray, K: np.ndarray
) -> tuple[Template | None, float]:
    """Prepare the rest frame's torso.

    Args:
      frame: RGB.
      head: Head without neck, bool [H, W].
      person: Head, neck and torso, uint8 [H, W], above 127 is person.
      K: Intrinsics [pixels].

    Returns:
      The torso, None if there is too little of it or it shows nothing to follow, and its share of
      the picture.
    """
    frame, center = np.asarray(frame), complex(K[0, 2], K[1, 2])
    side = working_side(frame)
    kernel, height = _head_kernel(np.asarray(head)[side :: 2 * side, side :: 2 * side])
    wide = _widened(np.asarray(head), side, kernel)
    person = _shrunk(np.asarray(person), side)
    wide = cv2.resize(wide, person.shape[::-1], interpolation=cv2.INTER_NEAREST)
    torso = (person > 127.5) & (wide == 0)
    share = float(torso.mean())
    if share < _LEAST_TORSO or height == 0:
        return None, share
    # A pixel around it too: plain clothes are seen by their outline.
    around = cv2.dilate(torso.view(np.uint8), np.ones((3, 3), np.uint8)) * (1 - wide)
    far = cv2.distanceTransform(1 - wide, cv2.DIST_L2, 5) / (_FAR * 2 * height)
    return template(frame, torso, around * np.clip(far, 0.1, 1.0), kernel, center), share


def working_side(frame: Picture) -> int:
    """Return how many pixels of a frame one of the shrunk picture takes."""
    return max(1, round(max(frame.shape[:2]) / _WORKING_SIZE))


def template(
    frame: Picture, part: Bool[np.ndarray, "h w"], weights: Float[np.ndarray, "h w"],
    kernel: np.ndarray, center: complex, most: int = _MOST_POINTS,
) -> Template | None:  # fmt: skip
    """Prepare a part of a frame.

    Args:
      frame: RGB.
      part: Where it is, in the picture shrunk by `working_side`.
      weights: How much its pixels count, those around it too.
      kernel: Widens the mask of what may hide it, in pixels of twice the shrunk picture's.
      center: Principal point [pixels of the frame].
      most: Points to follow in each size, at most.

    Returns:
      None if it shows too little to follow.
    """
    side = working_side(frame)
    y, x = np.nonzero(part)
    positions = side * (x + 0.5 + 1j * (y + 0.5)) - center
    middle = complex(positions.mean())
    radius = float(np.sqrt(np.mean(np.abs(positions - middle) ** 2)))
    levels = []
    for picture in _pictures(frame, side):
        levels.append(
            _level(picture, weights, side * 2 ** len(levels), center, middle, radius, most)
        )
        weights = _shrunk(weights, 2)
    if min(len(level.points) for level in levels) < _FEWEST_POINTS:
        return None
    return Template(levels, kernel, center, middle, radius)


def _level(
    picture: np.ndarray, weights: np.ndarray, side: int, center: complex, middle: complex,
    radius: float, most: int,
) -> _Level:  # fmt: skip
    """Choose the part's points in a picture: where its brightness changes the most."""
    d_x = cv2.Scharr(picture, cv2.CV_32F, 1, 0, scale=1 / 32) / side
    d_y = cv2.Scharr(picture, cv2.CV_32F, 0, 1, scale=1 / 32) / side
    telling = (weights * (d_x**2 + d_y**2))[1:-1, 1:-1]
    count = min(most, int((telling > 0).sum()))
    order = np.argsort(-telling, axis=None, kind="stable")[:count]
    y, x = (index + 1 for index in np.unravel_index(np.sort(order), telling.shape))
    points = side * (x + 0.5 + 1j * (y + 0.5)) - center
    slope = (d_x + 1j * d_y)[y, x]
    away = np.conj(slope) * (points - middle) / radius
    values = picture[y, x].astype(np.float64)
    columns = (away.real, -away.imag, slope.real, slope.imag, values, np.ones_like(values))
    return _Level(side, points, values, np.stack(columns, -1), weights[y, x].astype(np.float64))


def _sample(picture: np.ndarray, z: np.ndarray, level: _Level, center: complex) -> tuple:
    """Sample bilinearly at `z` [N]; tell which of them lie inside."""
    position = (z + center) / level.side - (0.5 + 0.5j)
    height, width = picture.shape
    x, y = position.real, position.imag
    inside = (x >= 0) & (y >= 0) & (x < width - 1) & (y < height - 1)
    x, y = np.where(inside, x, 0.0), np.where(inside, y, 0.0)
    column, row = x.astype(np.intp), y.astype(np.intp)
    right, down = x - column, y - row
    flat, index = picture.ravel(), row * width + column
    top = flat[index] * (1 - right) + flat[index + 1] * right
    low = flat[index + width] * (1 - right) + flat[index + width + 1] * right
    return top * (1 - down) + low * down, inside


def _hidden(wide: np.ndarray, z: np.ndarray, side: int, center: complex) -> np.ndarray:
    """Tell which of `z` [N] lie behind what is widened."""
    position = (z + center) / side
    x = np.clip(position.real.astype(np.intp), 0, wide.shape[1] - 1)
    y = np.clip(position.imag.astype(np.intp), 0, wide.shape[0] - 1)
    return wide[y, x] > 0


def register(frame: Picture, hiding: np.ndarray, part: Template, start: Similarity) -> Fit:
    """Find a part in a frame.

    Args:
      frame: RGB.
      hiding: What may hide the part there, bool [H, W]: of a torso the head without neck.
      part: That of the rest frame.
      start: Where the search begins.

    Returns:
      Where the part is; `good` is False if too little of it is seen or it does not look alike.
    """
    pictures = _pictures(frame, part.levels[0].side)
    coarse = 2 * part.levels[0].side
    wide = _widened(hiding, part.levels[0].side, part.kernel)
    turn, shift = start
    light, spread = np.zeros(2), _WIDEST
    for level, picture in zip(part.levels[::-1], pictures[::-1], strict=True):
        weights = level.weights * ~_hidden(wide, turn * level.points + shift, coarse, part.center)
        for _ in range(_ITERATIONS):
            sample, inside = _sample(picture, turn * level.points + shift, level, part.center)
            residual = sample - (1 + light[0]) * level.values - light[1]
            trust = weights * inside / (1 + (residual / (_ROBUST * spread)) ** 2) ** 2
            spread = float(np.sqrt((trust @ residual**2) / (trust.sum() + 1e-6))) + 0.5
            change = _step(level, trust, residual, spread, turn, shift, part)
            light = light + change[4:]
            grown = 1 + (change[0] + 1j * change[1]) / part.radius
            moved = change[2] + 1j * change[3]
            # The part at rest was moved by `change` to look like this one: the frame's similarity
            # is what came before, after the inverse of that.
            shift = shift + turn * (part.middle - (part.middle + moved) / grown)
            turn = turn / grown
            if np.abs(change[:4]).max() < _CONVERGED * part.levels[0].side:
                break
    return _judged(Similarity(turn, shift), light, level, picture, weights, part)


def _step(
    level: _Level, trust: np.ndarray, residual: np.ndarray, spread: float, turn: complex,
    shift: complex, part: Template,
) -> np.ndarray:  # fmt: skip
    """Solve for the change [6] that explains `residual` best, in pixels, gain and offset."""
    weighted = level.jacobian * trust[:, None]
    normal, pull = level.jacobian.T @ weighted, residual @ weighted
    away = part.radius * (turn - 1), turn * part.middle + shift - part.middle
    total = np.array([away[0].real, away[0].imag, away[1].real, away[1].imag])
    # A far place is unlikely: decides only what the picture says nothing about.
    prior = spread**2 / (_TRUST * (0.5 * part.radius) ** 2)
    normal[np.arange(4), np.arange(4)] += prior
    pull[:4] += prior * total
    return np.linalg.solve(normal + 1e-9 * np.diag(np.diag(normal)) + 1e-6 * np.eye(6), pull)


def _judged(
    similarity: Similarity, light: np.ndarray, level: _Level, picture: np.ndarray,
    weights: np.ndarray, part: Template,
) -> Fit:  # fmt: skip
    """Judge a registration by how alike the two are, and by what still moves within."""
    turn, shift = similarity
    sample, inside = _sample(picture, turn * level.points + shift, level, part.center)
    seen = weights * inside
    texture = (level.jacobian[:, 2:4] ** 2).sum(axis=-1)
    share = float((seen @ texture) / (level.weights @ texture))
    mean = lambda values: (seen @ values) / (seen.sum() + 1e-9)
    a, b = sample - mean(sample), level.values - mean(level.values)
    likeness = float(mean(a * b) / np.sqrt(mean(a * a) * mean(b * b) + 1e-9))
    good = share > _LEAST_SEEN and likeness > _LEAST_LIKENESS and 0.5 < abs(turn) < 2.0
    residual = sample - (1 + light[0]) * level.values - light[1]
    return Fit(similarity, bool(good), _own_motion(level, seen, residual))


def _own_motion(level: _Level, seen: np.ndarray, residual: np.ndarray) -> float:
    """Return the rms over the part's cells of the shift [px] that best explains `residual`."""
    cell = np.floor(level.points.real / (_CELL * level.side)) + 1000 * np.floor(
        level.points.imag / (_CELL * level.side)
    )
    _, cell = np.unique(cell, return_inverse=True)
    gather = lambda values: np.bincount(cell, seen * values)
    x, y = level.jacobian[:, 2], level.jacobian[:, 3]
    xx, xy, yy, right, down = (
        gather(values) for values in (x * x, x * y, y * y, x * residual, y * residual)
    )
    # Along an edge nothing is seen to move: the damping leaves it at rest.
    damping = 1 / level.side**2 + 0.02 * (xx + yy)
    xx, yy = xx + damping, yy + damping
    squared = ((yy * right - xy * down) ** 2 + (xx * down - xy * right) ** 2) / (
        xx * yy - xy**2
    ) ** 2
    return float(np.sqrt(np.average(squared, weights=gather(np.ones(len(cell))) + 1e-9)))
