"""Gaussians of every frame from a few numbers a frame: fixed patterns times codes.

`move_by_codes` moves Gaussians by codes; `read_codes` tells them by a few that `deform` moved.
"""

from kernels.codes.api import move_by_codes, read_codes
from kernels.codes.types import FORM, REACH, Patterns
from kernels.codes.xla.codes import pattern_sum
from kernels.codes.xla.reading import before_activation, limited, soft

__all__ = [
    "FORM",
    "REACH",
    "Patterns",
    "before_activation",
    "limited",
    "move_by_codes",
    "pattern_sum",
    "read_codes",
    "soft",
]
