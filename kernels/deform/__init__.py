"""Gaussians of every frame from a frame's tokens: attention, normalized layers, heads, deltas.

`deform` is all of it for an avatar. Training goes the same way in the same parts, `token_shares`,
`normalized_layers`, `decode_heads` and `move`, between which it drops out.
"""

from kernels.deform.api import decode_heads, deform, operand_dtype
from kernels.deform.types import (
    HEADS,
    Affine,
    Deformed,
    DeformInputs,
    DeformWeights,
    HeadWeights,
    Norm,
    pack_heads,
)
from kernels.deform.xla.deform import (
    expanded_layer,
    move,
    normalized_layers,
    product,
    token_shares,
)

__all__ = [
    "HEADS",
    "Affine",
    "DeformInputs",
    "DeformWeights",
    "Deformed",
    "HeadWeights",
    "Norm",
    "decode_heads",
    "deform",
    "expanded_layer",
    "move",
    "normalized_layers",
    "operand_dtype",
    "pack_heads",
    "product",
    "token_shares",
]
