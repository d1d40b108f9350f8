"""Compiles the heads' Triton kernels for sm_90 without a GPU and prints what the code costs.

Run on its own, without TRITON_INTERPRET: `python heads.py` prints one JSON object, by network
and kernel: registers, spilt bytes, bytes of shared memory, and how many products there are on
Hopper's tensor cores and on the slow path.
"""

import json

import jax
import jax.numpy as jnp
from assemble import POINTERS, assemble, count, instructions, resources

from kernels import launch
from kernels.deform.cases import make_case, pack
from kernels.deform.triton.heads import heads_triton

ROWS = 400_000  # 8 frames of 50,000 Gaussians
PAPER = dict(n=2, d=64, units=128, ffn=128, k=16)


def launches(network):
    """Kernel, arrays, constants and warps of every launch, forward and back."""
    seen = []

    def record(kernel, *arrays, outputs, grid, num_warps, **constants):
        seen.append((kernel, (*arrays, *outputs), constants, num_warps))
        return tuple(jnp.zeros(o.shape, o.dtype) for o in outputs)

    launch.triton_call = record
    weights = pack(make_case(network, **PAPER)).heads
    x = jax.ShapeDtypeStruct((ROWS, PAPER["d"]), jnp.float32)
    loss = lambda x, w: sum(map(jnp.sum, heads_triton(x, w)))
    jax.eval_shape(jax.grad(loss, argnums=(0, 1)), x, weights)
    return seen


def measure(kernel, arrays, constants, num_warps):
    """Cost of the machine code."""
    names = [parameter.name for parameter in kernel.params]
    pointers = {n: POINTERS[a.dtype.name] for n, a in zip(names, arrays, strict=False)}
    sass, usage, shared = assemble(kernel, pointers, constants, num_warps)
    lines = instructions(sass)[0]
    products = dict(products=count(r"\bHGMMA", lines), slow_products=count(r"\bHMMA", lines))
    return resources(usage) | dict(shared=shared) | products


if __name__ == "__main__":
    costs = {}
    for network in ("taylor", "mlp"):
        for number, call in enumerate(launches(network)):
            costs[f"{network} {call[0].__name__} {number}"] = measure(*call)
    print(json.dumps(costs))
