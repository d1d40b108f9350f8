"""Compilation of all Triton kernels of a program side by side."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from jax import ShapeDtypeStruct
from jax.extend.core import Jaxpr, JaxprEqn

from kernels import dispatch

KERNEL_CALL = "triton_kernel_call"
"""Name of jax-triton's primitive; under another, `compile_kernels` would find nothing to do."""


def compile_kernels(program: jax.stages.Wrapped, *arguments: Any) -> None:
    """Compile the Triton kernels of a jitted `program` side by side, for its first call with these.

    JAX would compile one after the other while it lowers the program: on a machine with 16 cores
    that takes several times as long. Nothing happens where no kernel would be compiled.
    """
    if not dispatch.is_default():
        return
    calls: dict[str, JaxprEqn] = {}
    for equation in _equations(program.trace(*arguments).jaxpr.jaxpr):
        if equation.primitive.name == KERNEL_CALL:
            calls.setdefault(str((equation.params, _shapes(equation))), equation)
    with ThreadPoolExecutor(max(1, len(calls))) as pool:
        list(pool.map(_compile_kernel, calls.values()))


def _compile_kernel(call: JaxprEqn) -> None:
    """Lower one call, by which jax-triton compiles and remembers its kernel."""
    alone = jax.jit(lambda *arrays: call.primitive.bind(*arrays, **call.params))
    alone.lower(*_shapes(call))


def _shapes(call: JaxprEqn) -> list[ShapeDtypeStruct]:
    avals: list[Any] = [value.aval for value in call.invars]
    return [ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]


def _equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """Yield all equations of a traced program, those of the programs in it too."""
    for equation in jaxpr.eqns:
        yield equation
        for part in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(part, "jaxpr", part)
            if isinstance(inner, Jaxpr):
                yield from _equations(inner)
