"""Compiles the kernels of `move_by_codes` and `read_codes` for sm_90, without a GPU.

Run on its own, without TRITON_INTERPRET: `python codes.py` prints one JSON object, by number of
frames that are moved registers, spilt bytes, bytes of shared memory, conversions of integers, how
many loads and stores are wide, and how many loads take a byte; of "read", one frame, registers,
spilt bytes, bytes of shared memory, loads, barriers and instructions.
"""

import json
from functools import partial

import jax
import jax.numpy as jnp
from assemble import POINTERS, assemble, count, instructions, resources

from kernels import launch
from kernels.codes.cases import make_case, make_reading
from kernels.codes.triton.codes import ALONE, TILE, move_tiles
from kernels.codes.triton.reading import read_codes_triton

GAUSSIANS = 50_176
"""50,000, rounded up as an avatar's are."""


def launch_of(function, *arguments):
    """Kernel, arrays, constants, and warps and most registers, as `triton_call` gets them."""
    seen = []

    def record(kernel, *arrays, outputs, grid, num_warps, max_registers=None, **constants):
        seen.append((kernel, (*arrays, *outputs), constants, (num_warps, max_registers)))
        return tuple(jnp.zeros(o.shape, o.dtype) for o in outputs)

    launch.triton_call = record
    jax.eval_shape(function, *arguments)
    return seen[0]


def assembled(kernel, arrays, constants, limits):
    """Instructions, resource line and bytes of shared memory of a launch."""
    names = [parameter.name for parameter in kernel.params]
    pointers = {n: POINTERS[a.dtype.name] for n, a in zip(names, arrays, strict=False)}
    sass, usage, shared = assemble(kernel, pointers, constants, *limits)
    return instructions(sass)[0], usage, shared


def measure(frames):
    """Cost of the machine code that moves Gaussians."""
    case = make_case(n=3, frames=frames, codes=32, shine=4, harmonics=16)
    many = lambda v, *shape: jax.ShapeDtypeStruct(shape, v.dtype)
    cloud = jax.tree.map(lambda v: many(v, GAUSSIANS, *v.shape[1:]), case.cloud)
    wide = lambda p: p._replace(counts=many(p.counts, *p.counts.shape[:2], GAUSSIANS))
    arguments = cloud, wide(case.form), wide(case.shine), *case[3:]
    lines, usage, shared = assembled(
        *launch_of(partial(move_tiles, ALONE if frames == 1 else TILE), *arguments)
    )
    return resources(usage) | dict(
        shared=shared,
        conversions=count(r"\bI2F", lines),
        wide_loads=count(r"\bLDG\.E\.(64|128)", lines),
        wide_stores=count(r"\bSTG\.E\.128", lines),
        narrow_stores=count(r"\bSTG\.E (?!128)", lines),
        narrow_loads=count(r"\bLDG\.E\.U?S?8", lines),
        instructions=len(lines),
    )


def measure_reading():
    """Cost of the machine code that reads the codes of a frame."""
    case = make_reading(n=256, frames=1, codes=32)
    lines, usage, shared = assembled(*launch_of(read_codes_triton, *case))
    return resources(usage) | dict(
        shared=shared,
        loads=count(r"\bLDG\.", lines),
        barriers=count(r"\bBAR\.", lines),
        instructions=len(lines),
    )


if __name__ == "__main__":
    costs = {frames: measure(frames) for frames in (1, 16)}
    print(json.dumps(costs | dict(read=measure_reading())))
