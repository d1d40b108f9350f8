"""A frame without its head: what the avatar of a head is drawn over.

Training draws the head over `paint_out_head(...)`, so that only the head is learned; torso, neck
and room come from the video (the original's "torso images" and "bc.jpg", made simpler and
steadier).
"""

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from kernels.checks import typechecked


@typechecked
def paint_out_head(
    frame: UInt8[np.ndarray, "H W 3"],
    head: Bool[np.ndarray, "H W"],
    person: Bool[np.ndarray, "H W"],
    clean_background: UInt8[np.ndarray, "H W 3"],
    neck_rows: float = 0.14,
) -> UInt8[np.ndarray, "H W 3"]:
    """Return the frame without its head: neck and torso stay and reach a little way up under it.

    Where the head was, and a margin around it, the clean background shows; over it, every column in
    which the head meets neck or clothes is continued upwards with the color found just below the
    seam, each row darker than the one below, as the shade under a chin is. The body stays as it is
    in the frame, thin corners beside the jaw too, and goes on for two pixels with its own color.

    Args:
      frame: The video frame.
      head: Head mask.
      person: Person mask.
      clean_background: From `BackgroundModel`.
      neck_rows: How far neck and torso are continued, as a share of the picture's height.

    Returns:
      The painted frame.
    """
    height, width = head.shape
    margin = 2 * round(0.015 * width) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (margin, margin))
    # Slivers of person along the hair are head's edge, not body.
    rest = person & ~head
    body = cv2.morphologyEx(rest.view(np.uint8), cv2.MORPH_OPEN, kernel) > 0
    near = cv2.dilate(head.view(np.uint8), kernel) > 0
    hole = near & ~body
    soft = cv2.blur(hole.astype(np.float32), (5, 5))[..., None]
    soft = np.where(body[..., None], 0.0, np.maximum(soft, hole[..., None]))
    painted = frame + soft * (clean_background.astype(np.float32) - frame)
    # Only where person was: beside the head the room must show.
    _continue_upwards(painted, frame, hole & person, body, round(neck_rows * height))
    # What is as thin but near the body are its own corners, where jaw and neck meet the room. Its
    # color goes on for two pixels, or the room shows between it and a drawn head a bit smaller.
    distance = cv2.distanceTransform((~body).view(np.uint8), cv2.DIST_L2, 3)
    kept = rest & (distance <= 1.5 * margin)
    share = cv2.blur(kept.astype(np.float32), (5, 5))
    color = cv2.blur(frame * kept[..., None].astype(np.float32), (5, 5))
    around = (share > 1e-3) & hole & person
    painted[around] = color[around] / share[around, None]
    painted[kept] = frame[kept]
    return np.clip(np.round(painted), 0, 255).astype(np.uint8)


def _continue_upwards(
    painted: np.ndarray, frame: np.ndarray, hole: np.ndarray, body: np.ndarray, rows: int
) -> None:
    """Continue body columns up into the hole, in place."""
    height, width = hole.shape
    # The seam of a column: its lowest hole pixel that has body right below it.
    meets = hole[:-1] & body[1:]
    columns = np.flatnonzero(meets.any(0))
    if columns.size == 0:
        return
    seam = height - 2 - meets[::-1, columns].argmax(0)  # row of that hole pixel
    skip, depth = max(1, round(0.006 * height)), max(2, round(0.015 * height))
    below = np.clip(seam[None] + 1 + skip + np.arange(depth)[:, None], 0, height - 1)
    color = frame[below, columns[None]].astype(np.float32).mean(0)  # [columns, 3]
    color = cv2.GaussianBlur(color[None], (0, 0), 0.025 * width)[0]
    steps = np.arange(rows)
    target = seam[None] - steps[:, None]  # [rows, columns]
    inside = (target >= 0) & hole[np.maximum(target, 0), columns[None]]
    shade = 0.985 ** steps.astype(np.float32)
    values = shade[:, None, None] * color[None]
    row, column = np.nonzero(inside)
    painted[target[row, column], columns[column]] = values[row, column]
