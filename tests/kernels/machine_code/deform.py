"""Compiles `deform`'s Triton kernel for sm_90 without a GPU and prints what the code costs.

Run on its own, without TRITON_INTERPRET: `python deform.py` prints one JSON object, by network
registers, spilt bytes, bytes of shared memory, how many products there are on
Hopper's tensor cores and on the slow path, how many groups of them wait for the one before, and of
the loops over hidden units the barriers and the instructions per unit.
"""

import json
from functools import partial

import jax
import jax.numpy as jnp
from assemble import POINTERS, assemble, count, instructions, resources

from kernels import launch
from kernels.deform.cases import make_case, pack
from kernels.deform.triton.deform import TILE, deform_tiles
from kernels.deform.types import NETWORKS

GAUSSIANS = 50_000
PAPER = dict(n=2, agents=200, tokens=12, d=64, units=128, ffn=128, k=16)


def launch_of(network):
    """Kernel, arrays, constants, and warps and most registers, as `triton_call` gets them."""
    case = make_case(network, frames=16, **PAPER)
    many = lambda v: jax.ShapeDtypeStruct((GAUSSIANS, *v.shape[1:]), v.dtype)
    canonical, features, static, *others = case.arrays
    arrays = (*jax.tree.map(many, (canonical, features)), many(static.astype(jnp.bfloat16)))
    seen = []

    def record(kernel, *arrays, outputs, grid, num_warps, max_registers, **constants):
        seen.append((kernel, (*arrays, *outputs), constants, (num_warps, max_registers)))
        return tuple(jnp.zeros(o.shape, o.dtype) for o in outputs)

    launch.triton_call = record
    jax.eval_shape(partial(deform_tiles, TILE), *arrays, *others, pack(case, jnp.bfloat16))
    return seen[0]


def measure(network):
    """Cost of the machine code."""
    kernel, arrays, constants, limits = launch_of(network)
    names = [parameter.name for parameter in kernel.params]
    pointers = {n: POINTERS[a.dtype.name] for n, a in zip(names, arrays, strict=False)}
    sass, usage, shared = assemble(kernel, pointers, constants, *limits)
    lines, jumps = instructions(sass)
    loops = [lines[first : last + 1] for last, first in jumps.items() if first < last]
    loops = [loop for loop in loops if sum("HGMMA" in text for text in loop) > 4][-2:]
    tile = TILE
    units = tile.rows * constants["UNITS"] / (32 * tile.warps)
    return resources(usage) | dict(
        shared=shared,
        products=count(r"\bHGMMA", lines),
        slow_products=count(r"\bHMMA", lines),
        waits=count(r"WARPGROUP\.ARRIVE", lines),
        barriers=max(count(r"\bBAR\.", loop) for loop in loops),
        instructions_per_unit=max(map(len, loops)) / units,
    )


if __name__ == "__main__":
    print(json.dumps({network: measure(network) for network in NETWORKS}))
