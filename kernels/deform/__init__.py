"""Gaussians of every frame from a frame's tokens: attention, normalised layers, heads, deltas."""

from kernels.deform.api import deform, operand_dtype
from kernels.deform.types import (
    HEADS,
    Affine,
    Deformed,
    DeformInputs,
    DeformWeights,
    Knots,
    Norm,
    pack_weights,
)

__all__ = [
    "HEADS",
    "Affine",
    "DeformInputs",
    "DeformWeights",
    "Deformed",
    "Knots",
    "Norm",
    "deform",
    "operand_dtype",
    "pack_weights",
]
