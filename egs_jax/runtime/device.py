"""The device that a verb computes on: what it is, why not another one, and who has its memory.

JAX falls back to the CPU without a word where it cannot use a GPU, and takes what another process
left of a GPU's memory: both are said here before hours of work.
"""

import os
import re

import jax
import numpy as np

from egs_jax.runtime.environment import find_devices, jax_complaints, usable_cores
from egs_jax.runtime.errors import InputError
from kernels import machine

GIB = 2**30
NO = ("0", "false", "False")
"""As JAX reads XLA_PYTHON_CLIENT_PREALLOCATE."""
SHARE = (
    "wait for it or end it, choose another GPU by CUDA_VISIBLE_DEVICES, or set "
    "XLA_PYTHON_CLIENT_PREALLOCATE=false for all of them, so that each takes what it needs"
)
"""What to do where another process has a GPU's memory."""


def say_device(doing: str, devices: int = 1, after: str = "") -> None:
    """Print the first line of a verb: what it does, and on what; `after` ends the line.

    Raises:
      InputError: if JAX has no device of the platform that was asked for, or cannot compute on it.
    """
    print(f"{doing} on {describe(devices)}{after}", flush=True)


def describe(devices: int = 1) -> str:
    """Return what JAX computes on in words, and why that is no GPU where one is there.

    Raises:
      InputError: see `say_device`.
    """
    find_devices()
    first = jax.local_devices()[0]
    if first.platform == "cpu":
        cores = usable_cores()
        return f"the CPU ({cores} core{'s' if cores > 1 else ''}){_why_no_gpu()}"
    _try_out(first)
    return f"{devices} x {first.device_kind}" if devices > 1 else first.device_kind


def _why_no_gpu() -> str:
    """Say why a GPU that is there is not used; nothing if there is none."""
    gpu, asked = machine.nvidia_gpu(), os.environ.get("JAX_PLATFORMS", "")
    if gpu is None:
        return ""
    facts = [f"driver {gpu.driver}"] if gpu.driver else []
    facts += [f"compute capability {gpu.capability}"] if gpu.capability else []
    named = f"{gpu.name} ({', '.join(facts)})" if facts else gpu.name
    if asked and not re.search("cuda|gpu", asked):
        return f", as JAX_PLATFORMS={asked} asks; {named} is not used"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles"):
        return f", since CUDA_VISIBLE_DEVICES hides {named}"
    cuda = machine.cuda_wheels()
    if cuda is None:
        return f", NOT on {named}: JAX is installed without CUDA; {machine.install()}"
    if gpu.driver and not gpu.runs(cuda):
        return (
            f", NOT on {named}: JAX's wheels of CUDA {cuda} need driver "
            f"{machine.OLDEST_DRIVERS[cuda]} and compute capability {machine.OLDEST_CARDS[cuda]} "
            "or newer; update the driver" + (", or install jax[cuda12]" if cuda > 12 else "")
        )
    why = one_line("; ".join(jax_complaints())) or "JAX does not say why"
    return f", NOT on {named}: JAX cannot use it ({why}); {machine.versions()}"


def _try_out(device: jax.Device) -> None:
    """Compute something, so that a driver or an assembler that does not fit shows at once."""
    try:
        zero = jax.device_put(np.zeros(1, np.float32), device)
        jax.block_until_ready(jax.jit(lambda x: x + 1)(zero))
    except jax.errors.JaxRuntimeError as error:
        if is_exhaustion(error):
            raise
        raise InputError(
            f"JAX cannot compute on {device.device_kind}: {one_line(error)} "
            f"({machine.versions()}); update NVIDIA's driver, take an old ptxas out of PATH, or "
            "compute on the CPU by JAX_PLATFORMS=cpu"
        ) from error


def check_memory(device: jax.Device, least: float | None = None) -> None:
    """Refuse a GPU on which JAX does not get the memory that it reserves, or `least` [GiB] of it.

    Where another process came first JAX takes what is left: a training dies of it later, and of
    several devices nothing remains for NCCL and CUDA (of four such runs on two or four H200s none
    came through its first sum of gradients, three after 40 s in which the other devices waited for
    the one that had failed). A process that holds less than what JAX leaves free goes unnoticed.

    Raises:
      InputError: says who has the memory.
    """
    if os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE") in NO:
        return
    short = None
    try:
        jax.device_put(np.zeros(1), device).block_until_ready()  # it reserves with the first array
        stats = device.memory_stats() or {}
        wanted = stats.get("bytes_limit", 0)
        got = stats.get("pool_bytes", wanted)
        # It asks for a tenth less until it gets something.
        if got < (0.95 * wanted if least is None else min(least * GIB, wanted)):
            short = f"{got / GIB:.1f} of the {wanted / GIB:.1f} GiB that it reserves"
    except jax.errors.JaxRuntimeError as error:
        if not is_exhaustion(error):
            raise
        short = "no memory"
    if short:
        raise InputError(
            f"devices: JAX got {short} on {device}: another process has it; {SHARE}, or be content "
            "with a share by XLA_PYTHON_CLIENT_MEM_FRACTION=.20"
        )


def is_exhaustion(error: BaseException) -> bool:
    """Tell whether a device, or the machine, ran out of memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError)
        and any(words in str(error) for words in machine.OUT_OF_MEMORY)
    )


def explain_exhaustion(error: BaseException, remedy: str) -> str:
    """Say in one line whose memory a device ran out of, and what to do.

    Args:
      error: What `is_exhaustion`.
      remedy: What helps where nobody else has the memory.
    """
    device = jax.local_devices()[0]
    if isinstance(error, MemoryError) or device.platform == "cpu":
        return f"this machine ran out of memory; {remedy}; or end other programs"
    if counted := machine.free_memory(device):
        stats = device.memory_stats() or {}
        own = max(stats.get("pool_bytes", 0), stats.get("bytes_in_use", 0))
        free, total = counted
        others = total - free - own
        if others > 0.1 * total:  # less is what CUDA's libraries take
            return (
                f"{device.device_kind} ran out of memory: other processes have "
                f"{others / GIB:.1f} of its {total / GIB:.1f} GiB, this one has "
                f"{own / GIB:.1f}; {SHARE}"
            )
    return f"{device.device_kind} ran out of memory, which this process has alone; {remedy}"


def one_line(error: object, most: int = 300) -> str:
    """Return an error's words as one line."""
    return " ".join(str(error).split())[:most]
