"""Calls of Triton kernels from JAX: all that depends on versions of Triton or jax-triton is here.

Two backends run the very same `@triton.jit` functions:
  * "cuda": jax-triton compiles them while JAX lowers, and launches without Python;
  * "interpreter": `jax.pure_callback` into Triton's interpreter, on any machine, slowly. Chosen by
    TRITON_INTERPRET=1 in the environment before Triton is first imported; for tests.

Seen to lower, and PTX for sm_90 to assemble: jax 0.11.2 + jax-triton 0.4.1 with triton 3.6.0, 3.7.1
and 3.8.0; jax-triton 0.3.1 with jax 0.10.2 (triton 3.6.0, 3.8.0) and 0.11.2 (3.6.0). Not 3.9.0 with
jax[cuda12]: it emits PTX 9.4, the assembler of CUDA 12.9 reads up to 8.8.
This module can be imported without Triton; the modules with kernels in them cannot.
"""

import inspect
import os
import threading
import warnings
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from jax import ShapeDtypeStruct
from jaxtyping import Array

from kernels._sharding import match_varying

INTERPRETER = threading.Lock()


def is_interpreting() -> bool:
    """Tell whether kernels run in Triton's interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def triton_call(
    kernel: Any,
    *arrays: Array,
    outputs: tuple[ShapeDtypeStruct, ...],
    grid: int,
    num_warps: int = 1,
    max_registers: int | None = None,
    zeroed: tuple[int, ...] = (),
    in_place: int | None = None,
    **constants: int | float | bool,
) -> tuple[Array, ...]:
    """Launch `kernel(*arrays, *outputs, **constants)` with `grid` programs on axis 0.

    Args:
      kernel: A `@triton.jit` function: pointers to the arrays, pointers to the outputs, and the
        rest `tl.constexpr`.
      *arrays: Inputs, read only.
      outputs: Shapes and types of the outputs. They start out uninitialized; the interpreter fills
        them with NaN and large numbers, so that tests notice who reads what nobody wrote.
      grid: Number of programs.
      num_warps: Warps per program.
      max_registers: Most registers a thread may have, so that more programs run at once.
      zeroed: Places of the outputs that start out as zeros instead.
      in_place: Place of an array that the kernel changes, by the array's pointer. It is the last
        output as well, whose own pointer nobody may use.
      **constants: Compile-time numbers, by name.

    Returns:
      The outputs.
    """
    if is_interpreting():
        run = partial(_interpret, kernel, outputs, grid, zeroed, in_place, constants)
        results = jax.pure_callback(run, outputs, *arrays)
    else:
        call, output_name = jax_triton()
        options = {output_name: outputs, "num_warps": num_warps, "num_stages": 1}
        # jax-triton 0.3.1 cannot pass it on: the same numbers by fewer programs at once.
        if max_registers is not None and "backend_options" in inspect.signature(call).parameters:
            options["backend_options"] = {"maxnreg": max_registers}
        if in_place is not None:
            # jax-triton 0.4 has no pointer for it. As it hands the others out in order, it is last.
            options["input_output_aliases"] = {in_place: len(outputs) - 1}
            if output_name == "out_type":
                options[kernel.arg_names[len(arrays) + len(outputs) - 1]] = 0
        with warnings.catch_warnings():
            # jax-triton 0.4 would have both passed by reference, which 0.3.1 cannot do.
            for name in ("zeroed_outputs", "input_output_aliases"):
                warnings.filterwarnings("ignore", name, DeprecationWarning)
            results = call(
                *arrays, kernel=kernel, grid=(grid, 1, 1), zeroed_outputs=zeroed, **options,
                **constants,
            )  # fmt: skip
    # Under shard_map neither backend says over which axes its results vary.
    return match_varying((tuple(results), arrays))[0]


@cache
def jax_triton() -> tuple[Any, str]:
    """Return jax-triton's `triton_call`, and what it calls the argument of output shapes."""
    from triton.backends.nvidia import driver

    # In every call of a program jaxlib compares the whole sources of its kernels with those that it
    # has. Line numbers are a third of a source, and `_short_kernels` leaves out half of the rest.
    os.environ.setdefault("TRITON_DISABLE_LINE_INFO", "1")
    if not hasattr(driver, "TMA_TF32"):
        # jax-triton 0.4 imports it from Triton 3.7 and, failing that, drops all of NVIDIA's
        # backend. Only tensor-map descriptors read it, and no kernel here has any.
        driver.TMA_TF32 = 11
    from jax_triton import triton_call as call
    from jax_triton import triton_lib

    triton_lib.triton_kernel_call_lib = _short_kernels(triton_lib.triton_kernel_call_lib)
    names = inspect.signature(call).parameters
    return call, "out_type" if "out_type" in names else "out_shape"


def _short_kernels(lib: Any) -> Any:
    """Return jaxlib's module of kernels, but that its kernels have no text of Triton's own.

    Nobody reads it once there is machine code: a call that draws a frame, and is waited for, takes
    0.33 ms without and 0.39 with it (an H200).
    """
    if not hasattr(lib, "TritonKernel"):  # no GPU
        return lib

    def kernel(*parts: Any) -> Any:
        is_text = lambda part: isinstance(part, str) and "tt.func" in part
        return lib.TritonKernel(*("" if is_text(part) else part for part in parts))

    return SimpleNamespace(**vars(lib) | dict(TritonKernel=kernel))


def _interpret(
    kernel: Any, outputs: tuple, grid: int, zeroed: tuple, in_place: int | None, constants: dict,
    *arrays: Array,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    inputs = [np.ascontiguousarray(value) for value in arrays]
    results = tuple(map(_uninitialized, outputs))
    for place in zeroed:
        results[place][...] = 0
    pointers = [_pointer_to(array) for array in (*inputs, *results)]
    if in_place is not None:
        results[-1][...] = inputs[in_place]
        pointers[in_place], pointers[-1] = pointers[-1], 0
    # Triton's interpreter patches its own module while it runs; XLA calls from several threads.
    with INTERPRETER, np.errstate(all="ignore"):
        kernel[(grid,)](*pointers, **constants)
    return results


def _uninitialized(output: ShapeDtypeStruct) -> np.ndarray:
    is_float = jax.dtypes.issubdtype(output.dtype, np.floating)  # bfloat16 as well
    return np.full(output.shape, np.nan if is_float else np.iinfo(output.dtype).max, output.dtype)


def _pointer_to(array: np.ndarray) -> Any:
    """Make the pointer that Triton's interpreter makes of a tensor's address."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    name = array.dtype.name
    kind = tl.pointer_type(tl.int1 if name == "bool" else getattr(tl, name))
    return tl.tensor(TensorHandle(np.array([array.ctypes.data], np.uint64), kind), kind)
