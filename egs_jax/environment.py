"""What a process tells its libraries before the first of them starts; imports nothing heavy."""

import os

XLA_FLAGS = "--xla_gpu_enable_triton_gemm=false"
"""For products of matrices XLA would compile dozens of kernels each and keep the fastest; its
library's are as fast here. See `experiments/tried.md`."""


def set_environment() -> None:
    """Set what is missing; what the user set wins."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    given = os.environ.get("XLA_FLAGS", "")
    if XLA_FLAGS not in given:
        os.environ["XLA_FLAGS"] = f"{XLA_FLAGS} {given}".strip()  # of two, XLA takes the later
