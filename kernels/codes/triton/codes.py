"""`move_by_codes` on an NVIDIA GPU: one Triton kernel from patterns and codes to attributes.

Floors for 50,000 Gaussians, 32 patterns of the form and 4 of the shine, degree 3, on an H200: 31 MB
of counts, 12 MB of canonical and 12 MB of activated attributes at 4.3 TB/s: 13 us for one frame;
232 MB for 16 frames: 54 us, 3.4 a frame. 63 MFLOP a frame are 1 us. 31 million counts made numbers
are 9 us with the instruction that converts and 2 us with bytes put into place. A launch of its own
for the codes of the shine would be 1.4 us; here they are some 50 instructions a frame and program.

The projection of the rasterizer stays apart: fused, a frame would move 24 MB less, 5 us of the 40
that it takes in a batch, but a person's Gaussians are posed in between, and what culls, counts and
writes splats would be there twice.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct
from jaxtyping import Array, Float

from kernels import launch
from kernels.codes.triton import codes_kernels
from kernels.codes.types import Patterns
from kernels.deform.types import Deformed, DeformInputs


class Tile(NamedTuple):
    """Size of a program."""

    rows: int  # Gaussians
    frames: int  # at most
    warps: int
    patterns: int  # whose counts are asked for at once
    registers: int | None = None  # most of a thread; None: as many as it wants


TILE = Tile(rows=64, frames=8, warps=4, patterns=4)
ALONE = TILE._replace(patterns=16)
"""Of one frame, whose sums take few registers: 17.8 us instead of 22.5, and 27.2 with 32."""


def move_by_codes_triton(
    cloud: DeformInputs, form: Patterns, shine: Patterns,
    follows: Float[Array, "K k"], codes: Float[Array, "B K"],
) -> Deformed:  # fmt: skip
    """Move canonical Gaussians; arguments and results as `move_by_codes`.

    Raises:
      NotImplementedError: if it is differentiated.
    """
    return move_tiles(ALONE if len(codes) == 1 else TILE, cloud, form, shine, follows, codes)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def move_tiles(
    tile: Tile, cloud: DeformInputs, form: Patterns, shine: Patterns,
    follows: Float[Array, "K k"], codes: Float[Array, "B K"],
) -> Deformed:  # fmt: skip
    """`move_by_codes_triton` with programs of a given kind."""
    (n_frames, n_codes), (count, n_harmonics, _) = codes.shape, cloud.sh.shape
    n_shine, n_colors = len(shine.counts), 3 * n_harmonics
    if n_shine == 0 or n_harmonics == 1:  # nothing of it is read
        n_shine, follows = 0, jnp.zeros((1, 1))
        shine = Patterns(jnp.zeros((1, 1, 1), jnp.int8), jnp.zeros((1, 1)))
    turns = -(-n_frames // tile.frames)
    blocks = -(-n_colors // codes_kernels.COLUMNS.value)
    shape = lambda *own: ShapeDtypeStruct((n_frames, count, *own), jnp.float32)
    outputs = launch.triton_call(
        codes_kernels.codes_kernel, *cloud, *form, *shine, follows, codes,
        outputs=(shape(3), shape(4), shape(3), shape(), shape(n_harmonics, 3)),
        grid=turns * (1 + blocks) * -(-count // tile.rows), num_warps=tile.warps,
        max_registers=tile.registers,
        N=count, FRAMES=n_frames, CODES=n_codes, WIDTH=1 << (n_codes - 1).bit_length(),
        SHINE=n_shine, COLORS=n_colors, BLOCKS=blocks, ROWS=tile.rows,
        AT_ONCE=-(-n_frames // turns), UNROLL=tile.patterns, ASM=not launch.is_interpreting(),
    )  # fmt: skip
    return Deformed(*outputs)


@move_tiles.defjvp
def _no_derivative(*_arguments: Any) -> None:
    raise NotImplementedError(
        "move_by_codes: the Triton kernel has no derivative; pass implementation='xla'"
    )
