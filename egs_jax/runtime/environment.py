"""Settings that a process gives its libraries before one of them computes; its cores."""

import os

XLA_FLAGS = "--xla_gpu_enable_triton_gemm=false"
"""A flag that spares a race: for each product of matrices XLA would compile dozens of kernels and
keep the fastest. Without that, training starts 43 s sooner and its steps take 5 to 18 % longer
(`experiments/tried.md`)."""


def set_environment() -> None:
    """Set what is missing; what the user set wins."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    given = os.environ.get("XLA_FLAGS", "")
    names_a_file = given and not given.lstrip().startswith("-")
    if XLA_FLAGS not in given and not names_a_file:
        os.environ["XLA_FLAGS"] = f"{XLA_FLAGS} {given}".strip()  # of two, XLA takes the later


def usable_cores() -> int:
    """Return how many cores this process may use: a container or `taskset` can make it fewer."""
    is_told = hasattr(os, "sched_getaffinity")  # not on macOS
    return len(os.sched_getaffinity(0)) if is_told else os.cpu_count() or 1


def keep_programs() -> None:
    """Keep compiled programs, with their tuning, from one run to the next, on a GPU.

    Runs start sooner, and all of them compute by the same programs: XLA picks the fastest of
    several algorithms by a race, whose winner decides the last bits.
    """
    import jax

    from egs_jax.runtime.assets import cache_folder

    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if jax.default_backend() == "gpu" and not chosen:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
