"""Compiles `sample_planes`' Triton kernels for sm_90 without a GPU; prints what the code costs.

Run on its own, without TRITON_INTERPRET: `python planes.py` prints one JSON object, by kernel
and case: registers, spilt bytes, bytes of shared memory, all instructions, those per contribution
of a thread, 64-bit additions in memory that return nothing, and those that return what was there.
"""

import json
import re
from functools import partial

import jax
import jax.numpy as jnp
from assemble import POINTERS, assemble, instructions, resources

from kernels import launch
from kernels.planes import Levels
from kernels.planes.triton.planes import table_gradient

GAUSSIANS = 50_000
HASH = Levels((64, 77, 93, 113, 136, 165, 199, 240, 291, 351, 424, 512), 2**14)
CASES = dict(hash=(HASH, 1), dense=(Levels((127,)), 32))  # and features


def launches_of(levels, features):
    """Kernel, arrays, constants and warps of every launch, as `triton_call` gets them."""
    shape = (3, len(levels.resolutions), GAUSSIANS, features)
    cotangents = jax.ShapeDtypeStruct(shape, jnp.float32)
    points = jax.ShapeDtypeStruct((2, 3, GAUSSIANS), jnp.float32)
    seen = []

    def record(kernel, *arrays, outputs, grid, num_warps, zeroed=(), **constants):
        seen.append((kernel, (*arrays, *outputs), constants, num_warps))
        return tuple(jnp.zeros(o.shape, o.dtype) for o in outputs)

    launch.triton_call = record
    jax.eval_shape(partial(table_gradient, levels=levels), points, cotangents)
    return seen


def measure(kernel, arrays, constants, num_warps):
    """Cost of the machine code."""
    names = [parameter.name for parameter in kernel.params]
    pointers = {n: POINTERS[a.dtype.name] for n, a in zip(names, arrays, strict=False)}
    sass, usage, shared = assemble(kernel, pointers, constants, num_warps)
    lines, _ = instructions(sass)
    lines = [text for text in lines if not re.search(r"\bNOP\b", text)]
    count = lambda pattern: sum(bool(re.search(pattern, text)) for text in lines)
    additions = count(r"\bREDG?\.E\.ADD\.64")
    return resources(usage) | dict(
        shared=shared,
        instructions=len(lines),
        instructions_per_contribution=len(lines) / additions if additions else None,
        additions=additions,
        returning=count(r"\bATOMG?\b"),
        flushing=count(r"\bF(MUL|ADD|FMA)\.FTZ"),
    )


def main():
    """All cases."""
    costs = {}
    for name, (levels, features) in CASES.items():
        for call in launches_of(levels, features):
            kernel = call[0].fn.__name__.removesuffix("_kernel")
            costs[f"{kernel}_{name}"] = measure(*call)
    print(json.dumps(costs))


if __name__ == "__main__":
    main()
