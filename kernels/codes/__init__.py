"""Gaussians of every frame from a few numbers a frame: fixed patterns times codes."""

from kernels.codes.api import move_by_codes
from kernels.codes.types import FORM, Patterns
from kernels.codes.xla.codes import pattern_sum

__all__ = ["FORM", "Patterns", "move_by_codes", "pattern_sum"]
