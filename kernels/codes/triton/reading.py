"""`read_codes` on an NVIDIA GPU: for few frames one Triton kernel, for more plain JAX.

Floors by bytes on an H200, estimated: with 256 Gaussians a program reads 14 KB of the reader and
43 KB that all programs of its frame read, 0.5 us at the 64 bytes a clock that a multiprocessor has
from the second-level cache. With 32 codes every frame reads 1.8 MB of there, 0.35 us at 5 TB/s; a
matrix product reads the reader once for all frames.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct
from jaxtyping import Array, Float

from kernels import launch
from kernels.codes.triton import reading_kernels
from kernels.codes.xla.reading import read_codes_xla
from kernels.deform.types import Deformed

MOST_FRAMES = 8
"""Of one kernel: two programs a multiprocessor of an H200 with 32 codes. By the floors above that
is about half of the 8 us that XLA's launches take for one frame."""
ROWS, WARPS = 256, 16
"""Gaussians at a time, and warps of a program."""


@jax.custom_jvp
def read_codes_triton(
    moved: Deformed, mean: Float[Array, "S 14"], weights: Float[Array, "S 14"],
    reader: Float[Array, "K L"], ranges: Float[Array, "2 K"],
) -> Float[Array, "B K"]:  # fmt: skip
    """Read the codes; arguments and results as `read_codes`.

    Raises:
      NotImplementedError: if it is differentiated.
    """
    n_frames, count = moved.opacities.shape
    if n_frames > MOST_FRAMES:
        return read_codes_xla(moved, mean, weights, reader, ranges)
    n_codes = len(reader)
    (codes,) = launch.triton_call(
        reading_kernels.reading_kernel, *moved, mean, weights, reader, ranges,
        outputs=(ShapeDtypeStruct((n_frames, n_codes), jnp.float32),),
        grid=n_frames * n_codes, num_warps=WARPS, S=count, CODES=n_codes, ROWS=ROWS,
    )  # fmt: skip
    return codes


@read_codes_triton.defjvp
def _no_derivative(*_arguments: Any) -> None:
    raise NotImplementedError(
        "read_codes: the Triton kernel has no derivative; pass implementation='xla'"
    )
