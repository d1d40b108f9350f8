"""What a process tells the libraries below, before the first of them computes; its cores."""

import gc
import os

XLA_FLAGS = "--xla_gpu_enable_triton_gemm=false"
"""For each product of matrices XLA would compile dozens of kernels and keep the fastest. Without
that, training starts 43 s sooner and its steps take 5 to 18 % longer (`experiments/tried.md`)."""
COLLECT_EVERY = 20_000
"""New objects between two looks for garbage. With Python's own number a start spends 2 s on looking
through millions of objects, time and again, that stay."""
USUAL = (700, 2000)
"""Python's own numbers of it, by version; another one is the user's."""


def set_environment() -> None:
    """Set what is missing; what the user set wins."""
    if gc.get_threshold()[0] in USUAL:
        gc.set_threshold(COLLECT_EVERY, 20, 20)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    given = os.environ.get("XLA_FLAGS", "")
    names_a_file = given and not given.lstrip().startswith("-")
    if XLA_FLAGS not in given and not names_a_file:
        os.environ["XLA_FLAGS"] = f"{XLA_FLAGS} {given}".strip()  # of two, XLA takes the later


def usable_cores() -> int:
    """Cores that this process may use, which a container or `taskset` can make fewer than all."""
    is_told = hasattr(os, "sched_getaffinity")  # not on macOS
    return len(os.sched_getaffinity(0)) if is_told else os.cpu_count() or 1


def keep_programs() -> None:
    """On a GPU, keep compiled programs, with their tuning, from one run to the next.

    Runs start sooner, and all of them compute by the same programs: XLA picks the fastest of
    several algorithms by a race, whose winner decides the last bits.
    """
    import jax

    from egs_jax.runtime.assets import cache_folder

    if jax.default_backend() == "gpu" and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
