"""Choice between implementations: whether Triton kernels can run here, and why not.

This module can be imported without Triton.
"""

import importlib.util

import jax

from kernels import launch
from kernels._checks import require

INSTALL = "pip install 'jax[cuda12]<0.12' jax-triton 'triton>=3.6,<3.9'"


def why_not() -> str | None:
    """One line that says why Triton kernels cannot run here and what to do; None if they can."""
    missing = [name for name in ("triton", "jax_triton") if not importlib.util.find_spec(name)]
    if "triton" in missing:
        return f"triton is not installed ({INSTALL})"
    if launch.is_interpreting():
        return None
    device = jax.config.jax_default_device or jax.devices()[0]
    platform = device if isinstance(device, str) else device.platform
    version = "" if isinstance(device, str) else device.client.platform_version
    if platform not in ("gpu", "cuda") or "rocm" in version:
        return f"it needs an NVIDIA GPU and JAX computes on {platform!r} ({INSTALL})"
    if missing:
        return f"jax-triton is not installed ({INSTALL})"
    try:
        launch.jax_triton()
    except Exception as error:  # an import of mismatched versions fails in many ways
        reason = " ".join(str(error).split())
        return f"jax-triton cannot be imported: {reason} ({INSTALL})"
    return None


def is_default() -> bool:
    """Whether Triton kernels are the best choice here: they run, and not in the interpreter."""
    return not launch.is_interpreting() and why_not() is None


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
