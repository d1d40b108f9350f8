"""Gaussians of every frame from a frame's tokens: attention, normalised layers, heads, deltas."""

from kernels.deform.api import decode_heads, deform, operand_dtype
from kernels.deform.types import (
    HEADS,
    Affine,
    Deformed,
    DeformInputs,
    DeformWeights,
    HeadWeights,
    Knots,
    Norm,
    pack_heads,
)

__all__ = [
    "HEADS",
    "Affine",
    "DeformInputs",
    "DeformWeights",
    "Deformed",
    "HeadWeights",
    "Knots",
    "Norm",
    "decode_heads",
    "deform",
    "operand_dtype",
    "pack_heads",
]
