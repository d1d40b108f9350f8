"""Pictures of the report: the worst frames, and slices through time."""

import numpy as np
from jaxtyping import UInt8

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import to_uint8
from egs_jax.evaluation.measures import Measured
from egs_jax.evaluation.renders import rendered_frames

SLICED = 500
"""Frames of which the report shows slices through time."""


def report_pictures(
    avatar: Avatar, measured: Measured
) -> dict[str, list[tuple[str, UInt8[np.ndarray, "H Wd 3"]]]]:
    """Return all pictures by headline, each with its caption."""
    return {
        "Worst frames (truth, render)": worst_frames(avatar, measured),
        "Slices through time (truth, render)": slices_through_time(measured.rows, measured.columns),
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
