"""Masks of head and person, lips rectangles, and the room without the person.

Conventions: images uint8 [H, W, 3] RGB, masks bool [H, W], landmarks [478, 3] in pixels (pixel
centers at integer + 0.5). Everything is causal and streams: state is a few images, whatever the
length of the video. The head is skin, hair, ears, glasses and hat down to the jaw; neck and clothes
are not.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int32, UInt8

from egs_jax.face.mesh import FACE_OVAL, LIPS_OUTER, RIGID_POINTS
from egs_jax.face.segmentation import FACE_CLASSES
from kernels.checks import typechecked

# A face parser's labels of a person, and those of a head: skin to lips, hair, hat.
PERSON_LABELS = tuple(range(1, len(FACE_CLASSES)))
HEAD_LABELS = tuple(
    label for label in PERSON_LABELS if FACE_CLASSES[label] not in ("neck", "necklace", "cloth")
)
_MARGIN = 0.0125
"""Around people, of the picture's width; parts of a person are at most twice that apart."""
_SMOOTHING = 0.5
"""Share of the frame before in the mix of probabilities."""
# The jaw from its right corner (below the ear) over the chin to the left one; the ears' roots.
_JAW = FACE_OVAL[11:26][::-1]
_EARS = (234, 454)
_BROW_TO_CHIN = (10, 152)


@dataclass(frozen=True)
class FrameMasks:
    """The masks of one frame, [H, W] each, bool where nothing else is said.

    Attributes:
      head: Head without neck.
      soft_person: Head, neck, torso with a soft edge, uint8; above 127 is person.
      foreground: Everything that may be person, with a margin: never background.
      others: Other people, apart from this one, with a margin: background where nothing else is.
    """

    head: np.ndarray
    soft_person: np.ndarray
    foreground: np.ndarray
    others: np.ndarray


@typechecked
def lips_rect(
    landmarks: Float[np.ndarray, "478 3"], height: int, width: int
) -> Int32[np.ndarray, "4"]:
    """Return the square around the outer lip, as the original takes it.

    Its center is the middle of the lip's extent in whole pixels, its half-size half the longer side
    of that extent; it is clipped to the picture.

    Args:
      landmarks: Pixels.
      height: Picture height.
      width: Picture width.

    Returns:
      (row_min, row_max, col_min, col_max), stops exclusive.
    """
    lips = landmarks[LIPS_OUTER, :2]
    (x_min, y_min), (x_max, y_max) = lips.min(0).astype(int), lips.max(0).astype(int)
    half = max(int(y_max - y_min), int(x_max - x_min)) // 2
    row, column = int(y_min + y_max) // 2, int(x_min + x_max) // 2
    rows = np.clip([row - half, row + half], 0, height)
    columns = np.clip([column - half, column + half], 0, width)
    return np.concatenate([rows, columns]).astype(np.int32)


class HeadMasker:
    """A maker of one frame's masks after another, steady in time.

    The network's probability is mixed with that of the frame before, carried along with the head (a
    similarity fitted to the rigid landmarks), so that its edge does not flicker while the head may
    move as it likes. Without a face parser the neck is cut along the jaw's landmarks. The person is
    what hangs together with the face or with what is straight below it; others are room.

    Args:
      height: Picture height.
      width: Picture width.
    """

    def __init__(self, height: int, width: int):
        self._size = height, width
        self._before: dict[str, np.ndarray] = {}
        self._points: np.ndarray | None = None
        self._nobody = np.zeros((height, width), bool)

    @typechecked
    def update(
        self,
        landmarks: Float[np.ndarray, "478 3"],
        person: Float[np.ndarray, "h w"],
        labels: UInt8[np.ndarray, "hl wl"] | None = None,
    ) -> FrameMasks:
        """Return the masks of the next frame.

        Args:
          landmarks: Pixels of the frame.
          person: Probability of being person, any resolution, covering the frame.
          labels: Face parser's classes (see `HEAD_LABELS`), any resolution, or None.

        Returns:
          The masks at the frame's size.
        """
        points = landmarks[:, :2].astype(np.float64)
        now_from_before = None if self._points is None else _similarity(self._points, points)
        probability = self._steady("person", person.astype(np.float32), now_from_before)
        oval = self._fill(points[FACE_OVAL])
        ears = self._ears(points)
        # Ears are what the person network misses; near them half a belief is enough.
        body = probability > np.where(ears, 0.15, 0.5)
        if labels is None:
            head = body & self._above_jaw(points)
        else:
            parsed = np.isin(labels, HEAD_LABELS).astype(np.float32)
            head = self._steady("head", parsed, now_from_before) > 0.5
            body = body | (
                self._steady("body", _member(labels, PERSON_LABELS), now_from_before) > 0.5
            )
            head = head & (self._above_jaw(points, reach=1.0) | oval)
        head = _component_touching(head | oval, oval)
        self._points = points
        kernel = _margin_kernel(self._size[1])
        people, others = body | head, self._nobody
        apart = self._apart(people, points)
        if apart is not None:
            others = (cv2.dilate(apart.view(np.uint8), kernel) > 0) & ~head
            people &= ~others
            # The network's doubts around them are not the person's either.
            apart = self._apart(people | ((probability > 0.1) & ~others), points)
            others = others if apart is None else others | apart
            probability = np.where(others, 0, probability)
        unsure = (probability > 0.1) | people | ears
        foreground = cv2.dilate(unsure.view(np.uint8), kernel) > 0
        return FrameMasks(head, soft_edge(probability, people), foreground, others)

    def _apart(self, people: np.ndarray, points: np.ndarray) -> np.ndarray | None:
        """Return what hangs together neither with the face nor with what is straight below it.

        Below: a microphone or a desk may part head and chest. Small gaps are bridged. None if
        nothing is apart.
        """
        step = max(1, self._size[1] // 64)
        reach = 2 * max(1, round(_MARGIN * self._size[1] / step)) + 1
        coarse = np.ascontiguousarray(people[::step, ::step]).view(np.uint8)
        coarse = cv2.dilate(coarse, np.ones((reach, reach), np.uint8))
        left, top = np.maximum(points[FACE_OVAL].min(axis=0) / step, 0).astype(int)
        right = max(0, int(points[FACE_OVAL, 0].max() / step)) + 1
        seed = np.zeros(coarse.shape, bool)
        seed[top:, left:right] = True
        apart = coarse - _component_touching(coarse, seed)
        if not apart.any():
            return None
        size = self._size[::-1]
        return people & (cv2.resize(apart, size, interpolation=cv2.INTER_NEAREST) > 0)

    def _steady(self, name: str, now: np.ndarray, now_from_before: np.ndarray | None) -> np.ndarray:
        """Mix with the frame before, moved by `now_from_before`; return it at the frame's size."""
        height, width = self._size
        if now_from_before is not None:
            grid = np.asarray([now.shape[1] / width, now.shape[0] / height])
            affine = now_from_before.copy()
            affine[:, 2] *= grid
            affine[:, 2] += 0.5 * affine[:, :2].sum(1) - 0.5  # cv2 has pixel centers at integers
            before = cv2.warpAffine(
                self._before[name], affine, now.shape[::-1], borderMode=cv2.BORDER_REPLICATE
            )
            now = now + _SMOOTHING * (before - now)
        self._before[name] = now
        return cv2.resize(now, (width, height), interpolation=cv2.INTER_LINEAR)

    def _fill(self, polygon: np.ndarray) -> np.ndarray:
        image = np.zeros(self._size, np.uint8)
        corners = np.round((polygon - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(image, [corners], 1, shift=4)
        return image > 0

    def _above_jaw(self, points: np.ndarray, reach: float = 0.0) -> np.ndarray:
        """Return everything above the jaw's line, continued sideways below the ears."""
        across, up, width, height = _face_frame(points)
        jaw = points[_JAW] - up * (0.02 + 0.5 * reach) * height
        left, right = jaw[0] - across * width, jaw[-1] + across * width
        top = up * 2.0 * height
        return self._fill(np.concatenate([[left], jaw, [right, right + top, left + top]]))

    def _ears(self, points: np.ndarray) -> np.ndarray:
        """Return discs where the ears are, at the face's sides."""
        across, up, width, height = _face_frame(points)
        image = np.zeros(self._size, np.uint8)
        for index, side in zip(_EARS, (-1.0, 1.0), strict=True):
            # A turned head hides one ear: its root then lies inside the face's outline.
            x, y = points[index] + across * side * 0.02 * width - up * 0.02 * height - 0.5
            axes = (round(0.09 * width), round(0.16 * height))
            angle = float(np.degrees(np.arctan2(across[1], across[0])))
            cv2.ellipse(image, (round(x), round(y)), axes, angle, 0, 360, 1, -1)
        return image > 0


def person_margin(person: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Return a person with the margin within which nothing is taken for the room."""
    return cv2.dilate(person.view(np.uint8), _margin_kernel(person.shape[1])) > 0


def _margin_kernel(width: int) -> np.ndarray:
    side = 2 * round(_MARGIN * width) + 1
    return np.ones((side, side), np.uint8)


def soft_edge(
    probability: Float[np.ndarray, "H W"], person: Bool[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W"]:
    """Return the person's mask with an edge as soft as the network's; above 127 where person is."""
    edge = np.maximum(np.clip((probability - 0.2) / 0.6, 0, 1), cv2.blur(person * 1.0, (3, 3)))
    soft = np.round(255 * edge).astype(np.uint8)
    return np.where(person, np.maximum(soft, 128), np.minimum(soft, 127))


def _member(labels: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    table = np.zeros(256, np.float32)
    table[list(classes)] = 1.0
    return table[labels]


def _face_frame(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Return unit vectors across (image right) and up, and the face's width and height [px]."""
    top, chin = points[_BROW_TO_CHIN[0]], points[_BROW_TO_CHIN[1]]
    across = points[263] - points[33]
    across = across / max(float(np.hypot(*across)), 1e-6)
    up = np.asarray([across[1], -across[0]])
    width = float(np.abs((points[_EARS[1]] - points[_EARS[0]]) @ across))
    height = float(np.hypot(*(top - chin)))
    return across, up, max(width, 0.5 * height), height


def _similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fit rotation, scale and shift [2, 3] that take the rigid points to their new place."""
    a, b = source[RIGID_POINTS], target[RIGID_POINTS]
    a_mean, b_mean = a.mean(0), b.mean(0)
    za, zb = (a - a_mean) @ [1, 1j], (b - b_mean) @ [1, 1j]
    turn = (np.conj(za) @ zb) / max(float(np.vdot(za, za).real), 1e-9)
    linear = np.asarray([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return np.concatenate([linear, (b_mean - linear @ a_mean)[:, None]], axis=1)


def _component_touching(mask: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """Keep the connected parts of `mask` that touch `seed`."""
    count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=4)
    keep = np.zeros(count, bool)
    keep[labels[seed]] = True
    keep[0] = False
    return keep[labels]


_PEOPLE = 1e-3
"""Weight of other people in the room's picture."""


class BackgroundModel:
    """The room without the person, gathered over the video in constant memory.

    Per pixel a mean over frames, in which a frame weighs the more the farther the pixel was from
    any foreground in it: the original picks the one farthest frame, which shows seams and noise.
    Where other people stood it hardly weighs: who walks by is not in the room, who stays is.
    Pixels that the person always covered are filled from their surroundings, smoothly.

    Args:
      height: Picture height.
      width: Picture width.
    """

    def __init__(self, height: int, width: int):
        self._sum = np.zeros((height, width, 3), np.float32)
        self._weight = np.zeros((height, width), np.float32)

    @typechecked
    def update(
        self,
        frame: UInt8[np.ndarray, "H W 3"],
        foreground: Bool[np.ndarray, "H W"],
        others: Bool[np.ndarray, "H W"] | None = None,
    ) -> None:
        """Take one frame in; every tenth frame of a video is enough."""
        distance = cv2.distanceTransform((~foreground).view(np.uint8), cv2.DIST_L2, 3)
        weight = np.minimum(distance / (0.1 * frame.shape[1]), 1.0) ** 3
        if others is not None:
            weight = np.where(others, _PEOPLE * weight, weight)
        self._weight += weight
        self._sum += weight[..., None] * frame

    @typechecked
    def result(self) -> UInt8[np.ndarray, "H W 3"]:
        """Return the clean background so far (mid gray if nothing was ever uncovered)."""
        known = self._weight > 1e-6 * max(float(self._weight.max()), 1e-6)
        if not known.any():
            return np.full(self._sum.shape, 128, np.uint8)
        mean = self._sum / np.where(known, self._weight, 1.0)[..., None]
        filled = _fill_smoothly(np.where(known[..., None], mean, 0.0), known.astype(np.float32))
        return np.clip(np.round(filled), 0, 255).astype(np.uint8)


def _fill_smoothly(image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Fill pixels of weight 0 from ever coarser averages of the others (pull, then push)."""
    height, width = weight.shape
    if weight.min() > 0 or min(height, width) <= 1:
        return image
    half = ((width + 1) // 2, (height + 1) // 2)
    share = cv2.resize(weight, half, interpolation=cv2.INTER_AREA)
    color = cv2.resize(image * weight[..., None], half, interpolation=cv2.INTER_AREA)
    coarse = color / np.maximum(share, 1e-6)[..., None]
    coarse = _fill_smoothly(
        np.where((share > 0)[..., None], coarse, 0.0), np.minimum(4 * share, 1.0)
    )
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return fine + weight[..., None] * (image - fine)
