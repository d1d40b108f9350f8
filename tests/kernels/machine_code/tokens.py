"""Compiles the tokens' Triton kernels for sm_90 without a GPU and prints what the code costs.

Run on its own, without TRITON_INTERPRET: `python tokens.py` prints one JSON object, by kernel:
registers, spilt bytes, bytes of shared memory, instructions, products, and loads to registers of 16
bytes and of fewer. "fitted" is `tokens_kernel` with fitted lips.
"""

import json
import math
from functools import partial

import jax
import jax.numpy as jnp
from assemble import POINTERS, assemble, count, instructions, resources

from egs_jax.avatar.token_kernels.frame_tokens import frame_tokens, sizes
from kernels import launch


def measure():
    """Cost of the machine code for one frame of the default avatar."""
    seen = []

    def record(kernel, *arrays, outputs, grid, num_warps, **constants):
        seen.append((kernel, (*arrays, *outputs), constants, num_warps))
        return tuple(jnp.zeros(o.shape, o.dtype) for o in outputs)

    launch.triton_call = record
    for fits_lips in (False, True):
        total = sum(math.prod(shape) for shape in sizes(8, 384, fits_lips).values())
        shapes = ((1, 8, 16, 384), (1,), (1, 4, 4), (200, 64), (total,))
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        call = partial(frame_tokens, distance=5.0, temperature=8.0, fits_lips=fits_lips)
        jax.eval_shape(call, *arrays)
    names = ("tokens_kernel", "mix_kernel", "fitted")
    return {name: cost(*call) for name, call in zip(names, seen, strict=False)}


def cost(kernel, arrays, constants, num_warps):
    """Of a launch."""
    names = [parameter.name for parameter in kernel.params]
    pointers = {n: POINTERS[a.dtype.name] for n, a in zip(names, arrays, strict=False)}
    sass, usage, shared = assemble(kernel, pointers, constants, num_warps)
    lines = instructions(sass)[0]
    products = count(r"\bHMMA", lines) + count(r"\bHGMMA", lines)
    loads, wide = count(r"\bLDG\.", lines), count(r"\bLDG\.E\.128\b", lines)
    return resources(usage) | dict(
        shared=shared, instructions=len(lines), products=products, wide=wide, narrow=loads - wide
    )


if __name__ == "__main__":
    print(json.dumps(measure()))
