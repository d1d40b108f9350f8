"""Attributes of Gaussians in Triton that several kernels share: rows of some columns, activation.

A block of rows has one Gaussian a row and one number a column; its numbers come from several
arrays, each of which has a range of the columns.
"""

import triton
import triton.language as tl


@triton.jit
def load_some(
    pointer, row, exists, column, FIRST: tl.constexpr, SIZE: tl.constexpr, LENGTH: tl.constexpr
):
    """SIZE numbers of rows of LENGTH each, as the columns from FIRST on; 0 elsewhere."""
    own = (column >= FIRST) & (column < FIRST + SIZE)
    place = row[:, None] * LENGTH + (column - FIRST)[None, :]
    return tl.load(pointer + place, mask=exists[:, None] & own[None, :], other=0.0)


@triton.jit
def store_some(
    pointer, values, row, exists, column,
    FIRST: tl.constexpr, SIZE: tl.constexpr, LENGTH: tl.constexpr,
):  # fmt: skip
    """Store the columns from FIRST on as the first SIZE numbers of rows of LENGTH each."""
    own = (column >= FIRST) & (column < FIRST + SIZE)
    place = row[:, None] * LENGTH + (column - FIRST)[None, :]
    tl.store(pointer + place, values, mask=exists[:, None] & own[None, :])


@triton.jit
def load_geometry(means, log_scales, quats, logit_opacities, row, exists, column):
    """Canonical attributes as the columns of `types.HeadWeights.geometry`."""
    x = load_some(means, row, exists, column, 0, 3, 3)
    x += load_some(log_scales, row, exists, column, 3, 3, 3)
    x += load_some(quats, row, exists, column, 6, 4, 4)
    return x + load_some(logit_opacities, row, exists, column, 10, 1, 1)


@triton.jit
def store_geometry(x, out_means, out_quats, out_scales, out_opacities, at, exists, column):
    """Activate and store."""
    exponential = tl.exp(tl.where(column == 10, -1.0, 1.0)[None, :] * x)
    store_some(out_means, x, at, exists, column, 0, 3, 3)
    store_some(out_scales, exponential, at, exists, column, 3, 3, 3)
    store_some(out_quats, x, at, exists, column, 6, 4, 4)
    store_some(out_opacities, 1.0 / (1.0 + exponential), at, exists, column, 10, 1, 1)
