"""How an avatar is shown: the same words for a film, a stream, a page and a server.

Before: the command line; after: `avatar`, which has one, and all that is made of it.
"""

from dataclasses import dataclass
from pathlib import Path

from egs_jax.media.clock import FPS, FRAME_RATES
from egs_jax.runtime.errors import InputError

TRANSPARENT = "transparent"
"""The background that is none: frames say how opaque their pixels are."""
USUAL_BLINKS = 15.0
"""Blinks a minute: adults blink 12 to 20 times."""
MOST_BLINKS = 60.0
LEAST_SIZE, LARGEST_SIZE = 32, 4096
"""Pixels across."""


@dataclass(frozen=True)
class Look:
    """How an avatar is shown when it speaks.

    Raises:
      InputError: if blinks, size or frame rate are out of range. Poses and background are looked
        at where they are used (`poses.pose_path`, `staging.staged`).
    """

    poses: str | Path = "clip"
    """How the head moves: as in the clip, not at all ("still"), or as in a file."""
    background: str | Path = "plate"
    """What is behind it: the clip's room ("plate"), its own frames ("clip"), a color (#rrggbb or a
    name), nothing ("transparent"), or a file with a picture or a film."""
    blinks: float = USUAL_BLINKS
    """How often it blinks [1/min]."""
    size: int | None = None
    """Pixels across, even; None: as it was trained."""
    fps: int = FPS
    """Frames a second, all of them drawn: one of `FRAME_RATES`."""
    label: bool = False
    """Whether a mark in the picture says that it is synthetic."""

    def __post_init__(self) -> None:
        if self.fps not in FRAME_RATES:
            rates = ", ".join(map(str, FRAME_RATES))
            raise InputError(f"fps: got {self.fps}; films have {rates} frames a second")
        if not 0 <= self.blinks <= MOST_BLINKS:
            raise InputError(
                f"blinks: got {self.blinks:g} a minute, expected 0 to {MOST_BLINKS:g}; people "
                f"blink about {USUAL_BLINKS:g} times"
            )
        is_size = self.size is None or LEAST_SIZE <= self.size <= LARGEST_SIZE
        if not is_size or (self.size or 0) % 2:
            raise InputError(
                f"size: got {self.size} pixels, expected an even number from {LEAST_SIZE} to "
                f"{LARGEST_SIZE}"
            )

    @property
    def is_transparent(self) -> bool:
        """Whether there is nothing behind the avatar."""
        return self.background == TRANSPARENT


USUAL_LOOK = Look()
