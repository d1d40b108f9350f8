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

import importlib.util
import inspect
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import jax
import numpy as np
from jax import ShapeDtypeStruct
from jax.extend.core import Jaxpr, JaxprEqn
from jaxtyping import Array

from kernels._checks import require
from kernels._sharding import match_varying

INSTALL = "pip install 'jax[cuda12]<0.12' jax-triton 'triton>=3.6,<3.9'"
INTERPRETER = threading.Lock()
KERNEL_CALL = "triton_kernel_call"
"""Name of jax-triton's primitive; under another, `compile_kernels` would find nothing to do."""


def is_interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def why_not() -> str | None:
    """One line that says why Triton kernels cannot run here and what to do; None if they can."""
    missing = [name for name in ("triton", "jax_triton") if not importlib.util.find_spec(name)]
    if "triton" in missing:
        return f"triton is not installed ({INSTALL})"
    if is_interpreting():
        return None
    device = jax.config.jax_default_device or jax.devices()[0]
    platform = device if isinstance(device, str) else device.platform
    version = "" if isinstance(device, str) else device.client.platform_version
    if platform not in ("gpu", "cuda") or "rocm" in version:
        return f"it needs an NVIDIA GPU and JAX computes on {platform!r} ({INSTALL})"
    if missing:
        return f"jax-triton is not installed ({INSTALL})"
    try:
        _jax_triton()
    except Exception as error:  # an import of mismatched versions fails in many ways
        reason = " ".join(str(error).split())
        return f"jax-triton cannot be imported: {reason} ({INSTALL})"
    return None


def is_default() -> bool:
    """Whether Triton kernels are the best choice here: they run, and not in the interpreter."""
    return not is_interpreting() and why_not() is None


def shared_memory() -> int:
    """Shared memory that a program may have on this GPU [KiB]; in the interpreter, an H100's."""
    known = {"8.0": 163, "8.7": 163, "9.0": 227, "10.0": 227, "10.3": 227}
    capability = getattr(jax.devices()[0], "compute_capability", "9.0")
    return known.get(capability, 99 if float(capability) >= 8 else 64)


def needs_shared_memory(kib: int) -> str | None:
    """One line that says that this GPU has less shared memory than a kernel takes; else None."""
    has = shared_memory()
    if has >= kib:
        return None
    return f"it takes {kib} KiB of shared memory a program, this GPU has {has}"


def picks(op: str, implementation: str | None, reason: str | None) -> bool:
    """Whether the Triton kernels of `op` run, of which `reason` says why they cannot.

    Raises:
      NotImplementedError: if they are asked for and cannot.
      ValueError: if the name makes no sense.
    """
    require(
        implementation in (None, "xla", "triton"),
        f"implementation: expected None, 'xla' or 'triton', got {implementation!r}",
    )
    if implementation is None:
        return is_default() and reason is None
    reason = implementation == "triton" and (why_not() or reason)
    if reason:
        raise NotImplementedError(
            f"{op}: implementation 'triton' cannot run here: {reason}; pass 'xla' or None"
        )
    return implementation == "triton"


def triton_call(
    kernel: Any,
    *arrays: Array,
    outputs: tuple[ShapeDtypeStruct, ...],
    grid: int,
    num_warps: int = 1,
    max_registers: int | None = None,
    zeroed: tuple[int, ...] = (),
    **constants: int | float | bool,
) -> tuple[Array, ...]:
    """Launch `kernel(*arrays, *outputs, **constants)` with `grid` programs on axis 0.

    Args:
      kernel: A `@triton.jit` function: pointers to the arrays, pointers to the outputs, and the
        rest `tl.constexpr`.
      *arrays: Inputs, read only.
      outputs: Shapes and types of the outputs. They start out uninitialised; the interpreter fills
        them with NaN and large numbers, so that tests notice who reads what nobody wrote.
      grid: Number of programs.
      num_warps: Warps per program.
      max_registers: Most registers a thread may have, so that more programs run at once.
      zeroed: Places of the outputs that start out as zeros instead.
      **constants: Compile-time numbers, by name.

    Returns:
      The outputs.
    """
    if is_interpreting():
        run = partial(_interpret, kernel, outputs, grid, zeroed, constants)
        results = jax.pure_callback(run, outputs, *arrays)
    else:
        call, output_name = _jax_triton()
        options = {output_name: outputs, "num_warps": num_warps, "num_stages": 1}
        # jax-triton 0.3.1 cannot pass it on: the same numbers by fewer programs at once.
        if max_registers is not None and "backend_options" in inspect.signature(call).parameters:
            options["backend_options"] = {"maxnreg": max_registers}
        with warnings.catch_warnings():
            # jax-triton 0.4 would have zeros passed by reference, which 0.3.1 cannot do.
            warnings.filterwarnings("ignore", "zeroed_outputs", DeprecationWarning)
            results = call(
                *arrays, kernel=kernel, grid=(grid, 1, 1), zeroed_outputs=zeroed, **options,
                **constants,
            )  # fmt: skip
    # Under shard_map neither backend says over which axes its results vary.
    return match_varying((tuple(results), arrays))[0]


def compile_kernels(program: Callable, *arguments: Any) -> None:
    """Compile the Triton kernels of a jitted `program` side by side, for its first call with these.

    JAX would compile one after the other while it lowers the program: on a machine with 16 cores
    that takes several times as long. Nothing happens where no kernel would be compiled.
    """
    if not is_default():
        return
    calls = {}
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
    return [ShapeDtypeStruct(value.aval.shape, value.aval.dtype) for value in call.invars]


def _equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """All equations of a traced program, those of the programs in it too."""
    for equation in jaxpr.eqns:
        yield equation
        for part in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(part, "jaxpr", part)
            if isinstance(inner, Jaxpr):
                yield from _equations(inner)


@cache
def _jax_triton() -> tuple[Any, str]:
    """jax-triton's `triton_call`, and what its version calls the argument for output shapes."""
    from triton.backends.nvidia import driver

    # XLA compares the whole source of every kernel with the ones that it has in every call of a
    # program. Without line numbers it is a third shorter: drawing a frame takes the host 214 us
    # instead of 300.
    os.environ.setdefault("TRITON_DISABLE_LINE_INFO", "1")
    if not hasattr(driver, "TMA_TF32"):
        # jax-triton 0.4 imports it from Triton 3.7 and, failing that, drops all of NVIDIA's
        # backend. Only tensor-map descriptors read it, and no kernel here has any.
        driver.TMA_TF32 = 11
    from jax_triton import triton_call as call

    names = inspect.signature(call).parameters
    return call, "out_type" if "out_type" in names else "out_shape"


class _Pointer:
    """A NumPy array in the form that Triton's interpreter takes: the few methods of a tensor."""

    def __init__(self, array: np.ndarray):
        self.array = array
        self.dtype = array.dtype.name

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    def untyped_storage(self) -> "_Pointer":
        return self

    def cpu(self) -> "_Pointer":
        return self

    def copy_(self, _other: "_Pointer") -> "_Pointer":
        return self

    def new_empty(self, *_sizes: int, **_options: Any) -> "_Pointer":
        return self

    def set_(self, *_storage: Any) -> "_Pointer":
        return self

    def storage_offset(self) -> int:
        return 0

    def size(self) -> tuple[int, ...]:
        return self.array.shape

    def stride(self) -> tuple[int, ...]:
        return self.array.strides


def _interpret(
    kernel: Any, outputs: tuple, grid: int, zeroed: tuple, constants: dict, *arrays: Array
) -> tuple[np.ndarray, ...]:
    inputs = [np.ascontiguousarray(value) for value in arrays]
    results = tuple(map(_uninitialised, outputs))
    for place in zeroed:
        results[place][...] = 0
    pointers = [_Pointer(value) for value in (*inputs, *results)]
    # Triton's interpreter patches its own module while it runs; XLA calls from several threads.
    with INTERPRETER, np.errstate(all="ignore"):
        kernel[(grid,)](*pointers, **constants)
    return results


def _uninitialised(output: ShapeDtypeStruct) -> np.ndarray:
    is_float = jax.dtypes.issubdtype(output.dtype, np.floating)  # bfloat16 as well
    return np.full(output.shape, np.nan if is_float else np.iinfo(output.dtype).max, output.dtype)
