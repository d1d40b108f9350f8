"""Settings that a process gives its libraries before one of them computes; its cores."""

import logging
import os
from pathlib import Path

from egs_jax.runtime.cache import move_libraries, writable_cache
from egs_jax.runtime.compiled_files import processors_folder
from egs_jax.runtime.errors import InputError

XLA_FLAGS = "--xla_gpu_enable_triton_gemm=false"
"""A flag that spares a race: for each product of matrices XLA would compile dozens of kernels and
keep the fastest. Without that, training starts 43 s sooner and its steps take 5 to 18 % longer
(`experiments/tried.md`)."""


def set_environment() -> None:
    """Set what is missing; what the user set wins."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _keep_complaints()
    move_libraries()
    given = os.environ.get("XLA_FLAGS", "")
    names_a_file = given and not given.lstrip().startswith("-")
    if XLA_FLAGS not in given and not names_a_file:
        os.environ["XLA_FLAGS"] = f"{XLA_FLAGS} {given}".strip()  # of two, XLA takes the later


class _Complaints(logging.Handler):
    """What JAX says of devices that it cannot use, kept for the one line that tells of it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message, and the error of which it tells instead of its traceback."""
        error = record.exc_info[1] if record.exc_info else None
        self.messages.append(f"{record.getMessage()} {error or ''}".strip())


_complaints = _Complaints()


def _keep_complaints() -> None:
    """Take what JAX logs while it looks for devices, pages of traceback, off the terminal."""
    logger = logging.getLogger("jax._src.xla_bridge")
    if _complaints not in logger.handlers:
        logger.addHandler(_complaints)
        logger.propagate = False


def jax_complaints() -> list[str]:
    """Return what JAX said of devices that it cannot use, since `set_environment`."""
    return list(_complaints.messages)


def take_memory_as_needed() -> None:
    """Let JAX take a GPU's memory as it needs it, unless the user says otherwise.

    Else it takes three quarters, or all that another process left, of which that one's libraries
    may need some later: a film drawn beside a training would end the training.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def usable_cores() -> int:
    """Return how many cores this process may use: a container or `taskset` can make it fewer."""
    is_told = hasattr(os, "sched_getaffinity")  # not on macOS
    return len(os.sched_getaffinity(0)) if is_told else os.cpu_count() or 1


def find_devices() -> None:
    """Have JAX look for devices, which it does once.

    Raises:
      InputError: if there is none of the platform that JAX_PLATFORMS asks for.
    """
    import jax

    try:
        jax.local_devices()
    except (RuntimeError, AssertionError) as error:  # it asserts that it has found one
        asked = os.environ.get("JAX_PLATFORMS", "")
        why = " ".join("; ".join([str(error), *jax_complaints()]).split()).strip("; ")
        raise InputError(
            f"JAX has no device for JAX_PLATFORMS={asked}{why and f' ({why[:300]})'}; correct or "
            "unset it"
        ) from error


def keep_programs() -> None:
    """Keep compiled programs, on a GPU with their tuning, from one run to the next.

    Runs start sooner, and on a GPU all of them compute by the same programs: XLA picks the fastest
    of several algorithms by a race, whose winner decides the last bits. On a CPU their machine code
    lies in a folder of the processor's own (`compiled_files`). A folder that the user named to
    JAX is taken as it is.
    """
    import jax

    from egs_jax.runtime import programs

    find_devices()
    platform = jax.default_backend()
    if platform not in ("cpu", "gpu"):
        return
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if not folder:
        folder = str(writable_cache() / "compiled")
        if platform == "cpu":
            folder = str(processors_folder(Path(folder), usable_cores()))
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if platform == "cpu":
        programs.keep_in(Path(folder))
