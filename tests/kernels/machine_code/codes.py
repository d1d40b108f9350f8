"""Compiles the kernel of `move_by_codes` for sm_90 without a GPU and prints what the code costs.

Run on its own, without TRITON_INTERPRET: `python codes.py` prints one JSON object, by number of
frames registers, spilt bytes, bytes of shared memory, conversions of integers, how many loads and
stores are wide, and how many loads take a byte.
"""

import json
from functools import partial

import jax
import jax.numpy as jnp
from assemble import POINTERS, assemble, count, instructions, resources

from kernels import launch
from kernels.codes.cases import make_case
from kernels.codes.triton.codes import TILE, move_tiles

GAUSSIANS = 50_176
"""50,000, rounded up as an avatar's are."""


def launch_of(frames, tile=TILE):
    """Kernel, arrays, constants, and warps and most registers, as `triton_call` gets them."""
    case = make_case(n=3, frames=frames, codes=32, shine=4, harmonics=16)
    many = lambda v, *shape: jax.ShapeDtypeStruct(shape, v.dtype)
    cloud = jax.tree.map(lambda v: many(v, GAUSSIANS, *v.shape[1:]), case.cloud)
    wide = lambda p: p._replace(counts=many(p.counts, *p.counts.shape[:2], GAUSSIANS))
    seen = []

    def record(kernel, *arrays, outputs, grid, num_warps, max_registers, **constants):
        seen.append((kernel, (*arrays, *outputs), constants, (num_warps, max_registers)))
        return tuple(jnp.zeros(o.shape, o.dtype) for o in outputs)

    launch.triton_call = record
    jax.eval_shape(partial(move_tiles, tile), cloud, wide(case.form), wide(case.shine), *case[3:])
    return seen[0]


def measure(frames, tile=TILE):
    """Cost of the machine code."""
    kernel, arrays, constants, limits = launch_of(frames, tile)
    names = [parameter.name for parameter in kernel.params]
    pointers = {n: POINTERS[a.dtype.name] for n, a in zip(names, arrays, strict=False)}
    sass, usage, shared = assemble(kernel, pointers, constants, *limits)
    lines, _ = instructions(sass)
    return resources(usage) | dict(
        shared=shared,
        conversions=count(r"\bI2F", lines),
        wide_loads=count(r"\bLDG\.E\.(64|128)", lines),
        wide_stores=count(r"\bSTG\.E\.128", lines),
        narrow_stores=count(r"\bSTG\.E (?!128)", lines),
        narrow_loads=count(r"\bLDG\.E\.U?S?8", lines),
        instructions=len(lines),
    )


if __name__ == "__main__":
    print(json.dumps({frames: measure(frames) for frames in (1, 16)}))
