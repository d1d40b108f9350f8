"""`deform` on an NVIDIA GPU: one Triton kernel from inputs to attributes.

Floors for 50,000 Gaussians, "taylor", 64 features, heads of 128, degree 3, on an H200, per frame:
19 GFLOP, padding included, at 790 TFLOP/s: 24 us ("mlp" 10 us); 709 hyperbolic tangents and the
like a Gaussian at 16 a cycle: 10 us; 56 MB of inputs and attributes at 4.3 TB/s: 13 us, 3 us for
further frames of a batch. And every program reads 370 KB of weights from the second-level cache:
290 MB with 64 rows a program at about 5.5 TB/s: 53 us. All of these overlap as far as the programs
of a multiprocessor are at different places, which is worth more than fewer reads: 64 us a frame,
where 128 or 256 rows a program take 72 to 90.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct
from jaxtyping import Array, Float

from kernels import launch
from kernels.checks import require
from kernels.deform.triton import deform_kernels
from kernels.deform.types import Deformed, DeformInputs, DeformWeights, Tile

TILE = Tile(rows=64, units=32, warps=4, stages=2, registers=160)  # three programs at once
FEW = Tile(rows=32, units=64, warps=4, stages=2)
"""For so few rows that a program has a multiprocessor to itself: for 512, 20 us instead of 24."""
FEWER = FEW._replace(parts=5)
"""For so few that a multiprocessor has at most two programs even so."""
PROGRAMS = 132
"""Multiprocessors of an H100 or H200."""
AGENT_BLOCK = 64
MAX_NUMBERS = 2**31  # the kernel's indices have 32 bits


def deform_triton(
    canonical: DeformInputs,
    features: Float[Array, "N D"],
    static_mix: Float[Array, "N A"],
    dynamic_mix: Float[Array, "B A T"],
    tokens: Float[Array, "B T D"],
    weights: DeformWeights,
) -> Deformed:
    """Deform with the Triton kernel; arguments and results as `deform`.

    Matrices that are not bfloat16 yet are cast in every call; so is `static_mix` by the kernel.

    Raises:
      NotImplementedError: if it is differentiated.
      ValueError: if an array has more numbers than 32 bits can count.
    """
    programs = -(-len(features) // FEW.rows) * len(tokens)
    tile = FEW if programs <= PROGRAMS else TILE
    tile = FEWER if programs * FEWER.parts <= 2 * PROGRAMS else tile
    return deform_tiles(tile, canonical, features, static_mix, dynamic_mix, tokens, weights)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def deform_tiles(
    tile: Tile,
    canonical: DeformInputs,
    features: Float[Array, "N D"],
    static_mix: Float[Array, "N A"],
    dynamic_mix: Float[Array, "B A T"],
    tokens: Float[Array, "B T D"],
    weights: DeformWeights,
) -> Deformed:
    """`deform_triton` with programs of a given kind."""
    n_frames, n_tokens, d_model = tokens.shape
    n_gaussians, n_agents = static_mix.shape
    n_harmonics = canonical.sh.shape[1]
    n_outputs = n_frames * n_gaussians * max(4, 3 * n_harmonics)  # the longest attribute
    require(
        max(n_outputs, static_mix.size, features.size) < MAX_NUMBERS,
        f"frames: expected arrays of fewer than {MAX_NUMBERS} numbers, got {n_outputs} for "
        f"{n_frames} frames; deform fewer frames at once",
    )
    w = jax.tree.map(lambda v: v.astype(jnp.bfloat16 if v.ndim > 1 else jnp.float32), weights)
    arrays = jax.tree.map(lambda v: v.astype(jnp.float32), (*canonical, features))
    mixes = static_mix, *(v.astype(jnp.float32) for v in (dynamic_mix, tokens))
    heads = w.heads
    width, ffn_width = heads.color.kernel.shape[1], w.ffn_in.bias.size
    shape = lambda *own: ShapeDtypeStruct((n_frames, n_gaussians, *own), jnp.float32)
    outputs = launch.triton_call(
        deform_kernels.deform_kernel, *arrays, *mixes, *w.norm1, *w.ffn_in, *w.ffn_out, *w.norm2,
        *heads.hidden, *heads.geometry, *heads.color,
        outputs=(shape(3), shape(4), shape(3), shape(), shape(n_harmonics, 3)),
        grid=-(-n_gaussians // tile.rows) * n_frames * tile.parts, num_warps=tile.warps,
        max_registers=tile.registers,
        N=n_gaussians, FRAMES=n_frames, AGENTS=n_agents, TOKENS=n_tokens, D=d_model,
        FFN=ffn_width, WIDTH=width, COLORS=3 * n_harmonics, COLOR_BLOCK=heads.color.bias.size,
        TAYLOR=int(heads.network == "taylor"),
        GAIN=float(w.gain), EPSILON=float(w.epsilon),
        PARTS=tile.parts, ROWS=tile.rows, UNITS=min(tile.units, width, ffn_width),
        AGENT_BLOCK=AGENT_BLOCK,
        TOKEN_BLOCK=max(16, 1 << (n_tokens - 1).bit_length()), STAGES=tile.stages,
        ASM=not launch.is_interpreting(),
    )  # fmt: skip
    return Deformed(*outputs)


@deform_tiles.defjvp
def _no_derivative(*_arguments: Any) -> None:
    raise NotImplementedError(
        "deform: the Triton kernel has no derivative; pass implementation='xla'"
    )
