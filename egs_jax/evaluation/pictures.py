"""Pictures of the report: the worst frames, slices through time, the opening of the lips."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import to_uint8
from egs_jax.data.stretches import laid_out
from egs_jax.evaluation import mouth
from egs_jax.evaluation.measures import Measured
from egs_jax.evaluation.renders import rendered_frames
from egs_jax.face.mesh import mouth_opening

SLICED = 500
"""Frames of which the report shows slices through time."""
WIDE, HIGH = 2, 160
"""Pixels of a frame, and of the largest opening, in the picture of the lips' opening."""
TRUE, RENDERED, CLOSED, MISSED = (120, 130, 145), (47, 111, 237), (196, 236, 196), (250, 196, 196)
"""Colors of its lines, and of closures that a render has and has not."""


def report_pictures(
    avatar: Avatar, measured: Measured
) -> dict[str, list[tuple[str, UInt8[np.ndarray, "H Wd 3"]]]]:
    """Return all pictures by headline, each with its caption."""
    return {
        "Worst frames (truth, render)": worst_frames(avatar, measured),
        "Slices through time (truth, render)": slices_through_time(measured.rows, measured.columns),
        "Opening of the lips": [lips_through_time(avatar, measured)],
    }


def worst_frames(
    avatar: Avatar, measured: Measured, count: int = 4
) -> list[tuple[str, UInt8[np.ndarray, "H Wd 3"]]]:
    """Draw the frames with the lowest `psnr_head`: caption, and truth beside render."""
    order = np.argsort(measured.images["psnr_head"])[:count]
    chosen = measured.frames[order]
    return [
        (
            f"frame {i}: psnr_head {measured.images['psnr_head'][k]:.1f} dB",
            np.hstack([avatar.dataset.target(i), to_uint8(image)]),
        )
        for i, k, image in zip(chosen, order, rendered_frames(avatar, chosen), strict=True)
    ]


def slices_through_time(
    rows: UInt8[np.ndarray, "2 T Wd 3"], columns: UInt8[np.ndarray, "2 T H 3"]
) -> list[tuple[str, UInt8[np.ndarray, "H Wd 3"]]]:
    """Lay one line of every frame side by side: a whole video at a glance.

    What moves is a curve there; jitter is a curve that trembles, a stiff mouth one too straight.

    Args:
      rows: As in `Measured`.
      columns: Likewise.

    Returns:
      Captions and pictures, uint8 RGB, of the first `SLICED` frames; fewer are drawn wider.
    """
    wide = max(1, SLICED // rows.shape[1])
    row, column = (lines[:, :SLICED].repeat(wide, axis=1) for lines in (rows, columns))
    return [
        ("a row through the eyes, time downwards: truth left, render right", np.hstack(list(row))),
        (
            "a column through the mouth, time to the right: truth above, render below",
            np.vstack(list(column.swapaxes(1, 2))),
        ),
    ]


def lips_through_time(
    avatar: Avatar, measured: Measured
) -> tuple[str, UInt8[np.ndarray, "H Wd 3"]]:
    """Draw the opening of the first `SLICED` frames, with the closures of the true mouth."""
    data = avatar.dataset
    levels = mouth.levels_of(data.arrays["mouth_opening"][data.train_frames])
    true, rendered = (
        laid_out(mouth_opening(points), measured.frames, data.stretches, 1)[:SLICED]
        for points in (measured.true_landmarks, measured.landmarks)
    )
    closures = mouth.closures_of(true, levels, data.fps)
    shut = [mouth.closed_share(rendered, closures[k : k + 1], levels) for k in range(len(closures))]
    caption = (
        "time to the right: truth gray, render blue; where the true lips close (m, b, p), green if "
        "the rendered ones do so within 2 frames, else red"
    )
    closed = np.array([figure.value == 1 for figure in shut], bool)
    return caption, opening_lines(true, rendered, closures, closed)


def opening_lines(
    true: Float[np.ndarray, " T"], rendered: Float[np.ndarray, " T"],
    closures: Int[np.ndarray, " K"], closed: Bool[np.ndarray, " K"],
) -> UInt8[np.ndarray, "H Wd 3"]:  # fmt: skip
    """Draw two openings as lines over bands of closures, a frame `WIDE` pixels wide.

    Args:
      true: Opening; NaN where there is none, which leaves a gap.
      rendered: Likewise.
      closures: Frames around which bands are drawn.
      closed: Whether the render closes there.
    """
    picture = np.full((HIGH + 1, WIDE * len(true), 3), 255, np.uint8)
    for place, fits in zip(closures, closed, strict=True):
        band = slice(WIDE * max(place - mouth.WITHIN, 0), WIDE * (place + mouth.WITHIN + 1))
        picture[:, band] = CLOSED if fits else MISSED
    both = np.concatenate([true, rendered])
    top = both[np.isfinite(both)].max(initial=1e-6)
    for line, color in ((true, TRUE), (rendered, RENDERED)):
        known = np.isfinite(line)
        height = np.rint(HIGH * (1 - np.where(known, line, 0) / top)).astype(int)
        points = np.stack([WIDE * np.arange(len(line)) + WIDE // 2, height], axis=1)
        for k in np.flatnonzero(known[1:] & known[:-1]):
            cv2.line(picture, points[k].tolist(), points[k + 1].tolist(), color)
    return picture
