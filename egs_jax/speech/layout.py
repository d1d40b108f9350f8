"""How far sound reaches into a frame: the windows that features are made of, and the look-ahead.

Everything is counted in rows of 20 ms. Frame i (25 fps) is at row 2 i, and can be drawn once three
waits are over: that for the last row that it hears, 2 (F + 4) rows after its own time, where F is
the last entry of the model's window that it may hear and an entry reaches 8 rows beyond its frame;
that for the sound that this row's window reaches beyond the block that it finishes; and that for
the other frames of its block, which are drawn at once.

The default layouts wait 0.85 s (networks) and 0.45 s ("mel"); the others are for conversations.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.runtime.errors import InputError

ROW_SAMPLES = 320  # 20 ms
FRAME_ROWS = 2
ENTRY_ROWS = 16  # rows of one video frame's entry: 2 i - 8 ... 2 i + 7
WINDOW_FRAMES = 8  # of the model, for which a look-ahead is stated


@dataclass(frozen=True)
class Layout:
    """Which rows a window sees and finishes, and which entries a frame hears.

    Window b sees the rows from `hop_rows` b - `left_rows` to `hop_rows` b + `ahead_rows` - 1, and
    finishes block b, the `hop_rows` rows from `hop_rows` b on; if `is_crossfaded`, block b - 1,
    together with window b - 1.
    """

    hop_rows: int
    """Rows that one window finishes, whole frames of them; the period of the silence pattern."""
    left_rows: int
    ahead_rows: int
    is_crossfaded: bool
    margins: tuple[int, int]
    """Samples that a row reaches beyond its 20 ms, before and after."""
    future_frames: int | None = None
    """Last entry that a frame may hear, in frames after its own; None: half a window's."""

    @property
    def hop_samples(self) -> int:
        """Samples from one window to the next."""
        return self.hop_rows * ROW_SAMPLES

    @property
    def hop_frames(self) -> int:
        """Frames that a block of rows makes ready."""
        return self.hop_rows // FRAME_ROWS

    @property
    def window_offset(self) -> int:
        """First sample of a window, relative to that of its block."""
        return -self.left_rows * ROW_SAMPLES - self.margins[0]

    @property
    def window_samples(self) -> int:
        """Samples of a window."""
        return (self.left_rows + self.ahead_rows) * ROW_SAMPLES + sum(self.margins)

    @property
    def kept_rows(self) -> tuple[int, int]:
        """Rows [first, stop) of a window that are used."""
        first = self.left_rows - (self.hop_rows if self.is_crossfaded else 0)
        return first, self.left_rows + self.hop_rows

    def offsets(self, window_frames: int = WINDOW_FRAMES) -> Int[np.ndarray, " {window_frames}"]:
        """Return which frames' entries a window is made of, relative to its own frame.

        That one is always at place `window_frames` // 2. For what lies too far ahead the last one
        stands that may be heard.
        """
        offsets = np.arange(window_frames) - window_frames // 2
        # Not entries from further back: with them a ridge tells less of the mouth (r 0.01 lower).
        return offsets if self.future_frames is None else np.minimum(offsets, self.future_frames)

    def lead_frames(self, window_frames: int = WINDOW_FRAMES) -> int:
        """Return how many frames the rows must be ahead of the frames that they make ready."""
        return int(self.offsets(window_frames).max()) + ENTRY_ROWS // FRAME_ROWS // 2 - 1

    def look_ahead(self, window_frames: int = WINDOW_FRAMES) -> float:
        """Return the seconds of sound after a frame's own time before it can be drawn.

        It is that of a block's first frame, which waits for the last one.
        """
        rows = self.ahead_rows - (0 if self.is_crossfaded else self.hop_rows)
        rows += self.hop_rows + FRAME_ROWS * self.lead_frames(window_frames)
        return (rows * ROW_SAMPLES + self.margins[1]) / SAMPLE_RATE


_WHISPER = (40, 200)  # the encoder's position p is centered on mel frame 2 p: on a row's center
_MEL = (160, 160)
# 80 rows (1.6 s) tell features of 30 s of context with R2 0.81, 110 rows with 0.83.
DEFAULT = Layout(10, 60, 20, True, _WHISPER)
"""That of the features by networks."""
# The quick one by a ridge on Obama's and tedlieu's windows at one gain, no gate (opening, width;
# cross-validated within the training frames): r 0.528, 0.600; the default 0.524, 0.571. Over the
# 125 held-out frames of each 0.750, 0.659; the default 0.764, 0.695.
_NETWORKS = DEFAULT, Layout(4, 72, 8, False, _WHISPER, future_frames=2)
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "whisper": _NETWORKS,
    "whisper-base": _NETWORKS,
    "mel": (Layout(10, 0, 10, False, _MEL), Layout(4, 0, 4, False, _MEL)),
}
"""Layouts of every kind of features; the first is the default."""


def layout_of(kind: str, look_ahead: float | None = None) -> Layout:
    """Return the layout of a kind of features.

    Args:
      kind: See `LAYOUTS`; those of other programs are laid out by default.
      look_ahead: The most that may pass between a frame's time and the end of the sound that it
        needs [s], for a window of `WINDOW_FRAMES`; None: the default's.

    Raises:
      InputError: if no layout is as quick as that.
    """
    layouts = LAYOUTS.get(kind, (DEFAULT,))
    if look_ahead is None:
        return layouts[0]
    quick = [layout for layout in layouts if layout.look_ahead() <= look_ahead + 1e-9]
    if not quick:
        least = min(layout.look_ahead() for layout in layouts)
        raise InputError(
            f"look-ahead {look_ahead:g} s: {kind} features need {least:.4g} s of sound after a "
            f"frame; allow that or more (default {layouts[0].look_ahead():.4g})"
        )
    return max(quick, key=Layout.look_ahead)


def told_look_ahead(kind: str, layout: Layout) -> dict[str, float]:
    """Return what `meta.json` says of a layout: nothing of the default."""
    return {} if layout == layout_of(kind) else {"look_ahead": layout.look_ahead()}
