"""Compiles the Triton kernels of `mean_ssim` for sm_90 without a GPU and prints what they cost.

Run on its own, without TRITON_INTERPRET: `python ssim.py` prints one JSON object, by kernel:
registers, spilt bytes, barriers and atomics, and of the loop that makes a row of results, on the
way that all programs but those at an image's border take: instructions, loads from memory, and from
how many registers their addresses are made.
"""

import json
import re

import jax
import jax.numpy as jnp
from assemble import assemble, instructions, resources

from kernels import launch
from kernels.ssim.triton.ssim import pick_tile, ssim_tiles

SHAPE = (8, 450, 450, 3)


def launches():
    """Every kernel with its arrays and constants, as `triton_call` gets them."""
    seen = []

    def record(kernel, *arrays, outputs, grid, **constants):
        seen.append((kernel, (*arrays, *outputs), constants))
        return tuple(jnp.zeros(o.shape, o.dtype) for o in outputs)

    launch.triton_call = record
    value = lambda a, b: ssim_tiles(pick_tile(*SHAPE), a, b)
    images = (jax.ShapeDtypeStruct(SHAPE, jnp.float32),) * 2
    jax.eval_shape(jax.grad(value), *images)
    jax.eval_shape(value, *images)
    return dict(zip(("forward", "backward", "value"), seen, strict=True))


def row_loop(sass):
    """Instructions of the last loop without what a branch in it jumps over: loads with masks."""
    lines, jumps = instructions(sass)
    last = max(i for i, first in jumps.items() if first < i)
    loop = range(jumps[last], last + 1)
    skipped = [range(i + 1, jumps[i]) for i in loop if i < jumps.get(i, 0) <= last]
    return lines, [lines[i] for i in loop if not any(i in some for some in skipped)]


def measure(kernel, arrays, constants):
    """Cost of a kernel's machine code."""
    names = [parameter.name for parameter in kernel.params]
    pointers = {name: "*fp32" for name in names[: len(arrays)]}
    sass, usage, _ = assemble(kernel, pointers, constants, 1)
    lines, loop = row_loop(sass)
    loads = [text for text in loop if "LDG" in text]
    return resources(usage) | dict(
        barriers=sum("BAR." in text for text in lines),
        atomics=sum(bool(re.search(r"\b(ATOM|RED)", text)) for text in lines),
        instructions=len(loop),
        loads=len(loads),
        addresses=len({re.search(r"\[(R\d+)", text)[1] for text in loads}),
    )


if __name__ == "__main__":
    print(json.dumps({name: measure(*call) for name, call in launches().items()}))
