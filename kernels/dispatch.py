"""Choice between implementations: what can run here, which one each kernel has, and why not Triton.

Nothing is chosen in silence: what `implementation=None` picks is logged once per process to the
logger "kernels" (INFO; WARNING where a GPU is there and Triton was not taken), and
`implementations` tells it. This module can be imported without Triton.
"""

import importlib.util
import logging
import threading
from typing import Any

import jax

from kernels import launch, machine
from kernels.checks import require

KERNELS = (
    "decode_heads", "deform", "mean_ssim", "move_by_codes", "rasterize", "read_codes",
    "sample_planes",
)  # fmt: skip
"""Public functions that have more than one implementation."""
GPU_PLATFORMS = ("gpu", "cuda", "rocm")
LEAST_CAPABILITY = (7, 0)
"""Compute capability that all kernels need: `.relaxed` atomics do not assemble for older cards."""
INTERPRETED = "Triton's interpreter runs kernels that are named, for tests"
LOGGER = logging.getLogger("kernels")

_choices: dict[str, list[str]] = {}
"""Choices made in this process, by kernel, in order and without repetition."""
_told: set[str] = set()
_lock = threading.Lock()


class Unavailable(NotImplementedError):
    """An implementation that was asked for by name cannot run: says why, and what to pass."""


def uses_triton(kernel: str, implementation: str | None, obstacle: str | None) -> bool:
    """Decide whether the Triton kernels of a call run, and remember it for `implementations`.

    Args:
      kernel: Name of the public function.
      implementation: What its caller asked for: "xla", "triton", or None for the best.
      obstacle: One line that says why the Triton kernels do not take these arguments; None if they
        do.

    Returns:
      True for Triton, False for plain XLA.

    Raises:
      Unavailable: if Triton is asked for and cannot run.
      ValueError: if the name makes no sense.
    """
    check_implementation(implementation)
    if implementation == "xla":
        _remember(kernel, "xla: asked for")
        return False
    reason = implementation == "triton" and (why_not() or obstacle)
    if reason:
        raise Unavailable(
            f"{kernel}: implementation 'triton' cannot run here: {reason}; pass 'xla' or None"
        )
    if implementation == "triton":
        _remember(kernel, "triton")
        return True
    obstacle_here = None if is_default() else why_not() or INTERPRETED
    if obstacle_here or obstacle:
        _remember(kernel, f"xla: {obstacle_here or obstacle}")
        _tell_of_xla(kernel, obstacle_here, obstacle)
        return False
    _remember(kernel, "triton")
    _tell(logging.INFO, f"{kernel}: Triton kernels")
    return True


def check_implementation(name: Any) -> None:
    """Check the name of an implementation.

    Raises:
      ValueError: if there is none of that name.
    """
    require(
        name is None or (isinstance(name, str) and name in ("xla", "triton")),
        f"implementation: expected None, 'xla' or 'triton', got {name!r}",
    )


def implementations() -> dict[str, str]:
    """Return the implementation that every kernel had in this process, by name.

    "triton", or "xla: " and why not Triton; both, with "; " between them, if calls differed. Of a
    kernel that nothing has called yet: what this machine would pick, and ", not called yet".
    """
    here = "triton" if is_default() else f"xla: {why_not() or INTERPRETED}"
    picked = dict.fromkeys(KERNELS, f"{here}, not called yet")
    with _lock:
        picked |= {kernel: "; ".join(choices) for kernel, choices in _choices.items()}
    return dict(sorted(picked.items()))


def why_not() -> str | None:
    """Say in one line why no Triton kernel can run here and what to do; None if they can.

    The first time on a GPU a small one is tried.

    Raises:
      jax.errors.JaxRuntimeError: if the GPU's memory is full, so that none could be tried.
    """
    missing = [name for name in ("triton", "jax_triton") if not importlib.util.find_spec(name)]
    if "triton" in missing:
        return f"triton is not installed ({machine.install()})"
    if launch.is_interpreting():
        return None
    if not _is_nvidia(_device()):
        platform = _device().platform
        return f"it needs an NVIDIA GPU and JAX computes on {platform!r} ({machine.install()})"
    lacking = device_lacks()
    if lacking or missing:
        return lacking or f"jax-triton is not installed ({machine.install()})"
    try:
        launch.jax_triton()
    except Exception as error:  # an import of mismatched versions fails in many ways
        reason = " ".join(str(error).split())
        return f"jax-triton cannot be imported: {reason} ({machine.install()})"
    return machine.small_kernel_fails()


def is_default() -> bool:
    """Tell whether Triton kernels are the best choice here: they run, and not interpreted."""
    return not launch.is_interpreting() and why_not() is None


def device_lacks(
    *, capability: tuple[int, int] = LEAST_CAPABILITY, shared_memory: int = 0
) -> str | None:
    """Say in one line what this GPU lacks for a kernel; None if nothing.

    Args:
      capability: Least compute capability, by the instructions that the kernel has.
      shared_memory: What a program takes [KiB].
    """
    own = _capability()
    if own < capability:
        needed, has = (".".join(map(str, version)) for version in (capability, own))
        return f"it needs a GPU of compute capability {needed}, this one has {has}"
    if shared_memory_of(own) < shared_memory:
        return (
            f"it takes {shared_memory} KiB of shared memory a program, this GPU has "
            f"{shared_memory_of(own)}"
        )
    return None


def shared_memory_of(capability: tuple[int, int]) -> int:
    """Return the shared memory that a program may have on GPUs of a compute capability [KiB]."""
    known = {(8, 0): 163, (8, 7): 163, (9, 0): 227, (10, 0): 227, (10, 3): 227}
    return known.get(capability, 99 if capability >= (8, 0) else 64)


def _capability() -> tuple[int, int]:
    """Compute capability of the device; an H100's where it has none, for the interpreter."""
    device = _device()
    if not _is_nvidia(device):  # AMD's say "gfx90a"
        return 9, 0
    major, minor = device.compute_capability.split(".")
    return int(major), int(minor)


def _is_nvidia(device: jax.Device) -> bool:
    return device.platform in ("gpu", "cuda") and "rocm" not in device.client.platform_version


def _device() -> jax.Device:
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    if isinstance(device, str):
        return jax.devices(device)[0]
    return device or jax.devices()[0]


def _remember(kernel: str, choice: str) -> None:
    with _lock:
        choices = _choices.setdefault(kernel, [])
        if choice not in choices:
            choices.append(choice)


def _tell_of_xla(kernel: str, obstacle_here: str | None, obstacle: str | None) -> None:
    level = logging.WARNING if _device().platform in GPU_PLATFORMS else logging.INFO
    if obstacle_here:  # concerns all kernels: told of the first
        _tell(level, f"no Triton kernels, plain XLA instead: {obstacle_here}")
    else:
        _tell(level, f"{kernel}: plain XLA instead of Triton kernels, slower: {obstacle}")


def has_told(kind: str) -> bool:
    """Whether `tell_once` has told something of this kind."""
    with _lock:
        return kind in _told


def tell_once(kind: str, message: str) -> None:
    """Warn on the logger "kernels", unless it was done before in this process.

    Args:
      kind: Of what only the first case is told, whatever its numbers.
      message: One line.
    """
    with _lock:
        if kind in _told:
            return
        _told.add(kind)
    LOGGER.warning(message)


def _tell(level: int, message: str) -> None:
    with _lock:
        if message in _told:
            return
        _told.add(message)
    LOGGER.log(level, message)
