"""Rows of features -> what the model hears for each video frame: a window of them about its time.

Before: `features`; after: `data` and `avatar.drive`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from egs_jax.speech.layout import DEFAULT, ENTRY_ROWS, Layout
from kernels.checks import require, typechecked


@typechecked
def feature_windows(
    rows: Float[Array | np.ndarray, "R F"],
    silence: Float[Array | np.ndarray, "Q F"],
    frames: Int[Array | np.ndarray, " B"],
    window_frames: int = 8,
    first_row: int = 0,
    spans: Int[Array | np.ndarray, "B 2"] | None = None,
    layout: Layout | None = None,
) -> Float[Array | np.ndarray, "B {window_frames} 16 F"]:
    """Cut the model's input for video frames (25 fps; frame i at i / 25 s), see `row_windows`.

    Frame i's own row is 2 i; `frames` are any integers, also outside the sound.
    """
    return row_windows(rows, silence, 2 * frames, window_frames, first_row, spans, layout)


@typechecked
def row_windows(
    rows: Float[Array | np.ndarray, "R F"],
    silence: Float[Array | np.ndarray, "Q F"],
    centers: Int[Array | np.ndarray, " B"],
    window_frames: int = 8,
    first_row: int = 0,
    spans: Int[Array | np.ndarray, "B 2"] | None = None,
    layout: Layout | None = None,
) -> Float[Array | np.ndarray, "B {window_frames} 16 F"]:
    """Cut the model's input for moments of a sound, each at the beginning of a row.

    The entry of a moment at row r is the rows r - 8 ... r + 7, symmetric about it. Its window
    is the entries at r + 2 k for k from -(`window_frames` // 2) on (-4 ... 3), or those that a
    `layout` has instead (`Layout.offsets`).

    Args:
      rows: Features at 50 Hz, from row `first_row` on.
      silence: `silence_features`, a whole number of its periods.
        Row r outside `rows` is taken as silence[r mod Q].
      centers: Rows of the moments; any integers, also outside the sound.
      window_frames: Entries of a window.
      first_row: Number of the first of `rows`, for a piece of a longer sound.
      spans: Rows [first, end) that each moment may hear, where `rows` are of several sounds; the
        others are taken as silence. None: all.
      layout: That of the features; None: the default.

    Returns:
      Windows; a NumPy array if no input is a JAX array (memory-mapped rows are then read only
      where needed).

    Raises:
      ValueError: if `silence` or `window_frames` is empty.
    """
    # Differs from the original: zeros there, which no sound gives, and too few rows past the end.
    require(
        silence.shape[0] > 0 and window_frames > 0,
        f"row_windows: expected silence rows and window_frames >= 1, got {silence.shape[0]} "
        f"and {window_frames}; see silence_features",
    )
    on_device = any(isinstance(x, jax.Array) for x in (rows, silence, centers))
    xp = jnp if on_device else np
    rows, silence, frames = (xp.asarray(x) for x in (rows, silence, centers))
    entries = (layout or DEFAULT).offsets(window_frames)
    offsets = 2 * entries[:, None] + np.arange(-ENTRY_ROWS // 2, ENTRY_ROWS // 2)[None, :]
    index = centers[:, None, None] + offsets[None]  # [B, window_frames, 16]
    place = index - first_row
    is_inside = (place >= 0) & (place < rows.shape[0])
    if spans is not None:
        first, end = xp.asarray(spans).T[:, :, None, None]
        is_inside = is_inside & (index >= first) & (index < end)
    if not on_device and is_inside.all():  # nearly always: a megabyte less to touch
        return rows[place]
    outside = silence[index % silence.shape[0]]
    if rows.shape[0] == 0:
        return outside
    inside = rows[xp.clip(place, 0, rows.shape[0] - 1)]
    return xp.where(is_inside[..., None], inside, outside)
