"""What lies under JAX: NVIDIA's driver and GPU, the assembler, and whether a small kernel runs.

None of it needs JAX to see the GPU, so that it can be said why JAX does not. This module can be
imported without Triton.
"""

import concurrent.futures
import ctypes
import functools
import re
import shutil
import subprocess
import zlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax import ShapeDtypeStruct

OUT_OF_MEMORY = (
    "RESOURCE_EXHAUSTED", "CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_NOT_INITIALIZED", "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED", "DNN library initialization failed",
)  # fmt: skip
"""Words of errors of a device whose memory is full; libraries that find none say they cannot
begin."""
OLDEST_DRIVERS = {12: 525, 13: 580}
"""Oldest driver of NVIDIA for JAX's wheels of a CUDA (its installation guide)."""
OLDEST_CARDS = {12: 5.2, 13: 7.5}
"""Least compute capability of a GPU for the same."""
ABOUT = np.arange(128, dtype=np.float32)
"""What the small kernel is tried on."""


class Gpu(NamedTuple):
    """A GPU as NVIDIA's driver tells of it."""

    name: str
    driver: str
    """Version of the driver, "" if it is not known."""
    capability: float | None = None
    """Compute capability, None if it is not known."""

    def runs(self, cuda: int) -> bool:
        """Tell whether its driver and itself are new enough for JAX's wheels of a CUDA."""
        driver, card = major_of(self.driver), self.capability
        return (driver or 0) >= OLDEST_DRIVERS[cuda] and (card or 99) >= OLDEST_CARDS[cuda]


@functools.cache
def nvidia_gpu() -> Gpu | None:
    """Return the first NVIDIA GPU of this machine, whether JAX can use it or not."""
    fields = "--query-gpu=driver_version,compute_cap,name"
    told = (_said("nvidia-smi", fields, "--format=csv,noheader") or "").splitlines()
    if told and told[0].count(",") >= 2:
        driver, card, name = (part.strip() for part in told[0].split(",", 2))
        return Gpu(name, driver, float(card) if re.fullmatch(r"\d+\.\d+", card) else None)
    kernel_module = Path("/proc/driver/nvidia/version")  # a container may lack nvidia-smi
    if kernel_module.exists() and any(Path("/dev").glob("nvidia[0-9]*")):
        found = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", kernel_module.read_text("utf-8"))
        return Gpu("NVIDIA GPU", found[1] if found else "")
    return None


def cuda_wheels() -> int | None:
    """Return the CUDA version whose wheels JAX has here; None: it has none."""
    for major in sorted(OLDEST_DRIVERS, reverse=True):
        try:
            version(f"jax-cuda{major}-plugin")
        except PackageNotFoundError:
            continue
        return major
    return None


def major_of(driver: str) -> int | None:
    """Return the first number of a driver's version; None if it has none."""
    found = re.match(r"\d+", driver)
    return int(found[0]) if found else None


def install() -> str:
    """Say how to install what the Triton kernels need: for the CUDA that is here, or that fits."""
    gpu = nvidia_gpu()
    cuda = cuda_wheels() or (13 if gpu and gpu.runs(13) else 12)
    return f"pip install 'jax[cuda{cuda}]<0.12' jax-triton 'triton>=3.6,<3.9'"


def versions() -> str:
    """Name, for an error, the versions that must fit together: driver, wheels, assembler."""
    gpu, names = nvidia_gpu(), ("jaxlib", "jax-triton", "triton")
    parts = [f"driver {gpu.driver or 'unknown'}"] if gpu else []
    parts += [f"CUDA {major} wheels"] if (major := cuda_wheels()) else []
    for name in names:
        try:
            parts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            parts.append(f"no {name}")
    if found := shutil.which("ptxas"):
        release = re.search(r"release (\d+\.\d+)", _said(found, "--version") or "")
        parts.append(f"{found} of CUDA {release[1] if release else 'unknown'} first in PATH")
    return ", ".join(parts)


def free_memory(device: jax.Device) -> tuple[int, int] | None:
    """Return free and all bytes of an NVIDIA GPU as its driver counts them, for all processes.

    JAX tells of its own process only. None: the driver cannot be asked.
    """
    if "cuda" not in getattr(device.client, "platform_version", ""):
        return None
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    handle, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ordinal = device.local_hardware_id or 0
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(handle), ordinal):
        return None
    if cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle):
        return None
    failed = cuda.cuCtxPushCurrent_v2(context)
    if not failed:
        failed = cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        cuda.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    cuda.cuDevicePrimaryCtxRelease_v2(handle)
    return None if failed else (free.value, total.value)


@functools.cache
def small_kernel_fails() -> str | None:
    """Compile and run a small Triton kernel; say in one line what went wrong, None if nothing did.

    An assembler older than Triton, a driver older than the wheels, and versions that do not fit
    together all show here, in a second, and not in the middle of a program.

    Raises:
      jax.errors.JaxRuntimeError: if the GPU's memory is full, which is no fault of Triton's.
    """
    # In a thread of its own: whoever asks may be tracing, where nothing would be computed.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        try:
            result = pool.submit(_run_small_kernel).result()
        except Exception as error:  # of the compiler, the assembler, the driver: of any kind
            if any(words in str(error) for words in OUT_OF_MEMORY):
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            return f"a small kernel does not run ({reason}; {versions()})"
    if not np.array_equal(result, 2 * ABOUT):
        return f"a small kernel computes wrong numbers ({versions()})"
    return None


def _run_small_kernel() -> np.ndarray:
    from kernels.launch import triton_call
    from kernels.machine_kernels import double

    shape = ShapeDtypeStruct(ABOUT.shape, ABOUT.dtype)
    launch = lambda x: triton_call(double, x, outputs=(shape,), grid=1, SIZE=len(ABOUT))
    # By its name another program for other versions: none that an earlier process compiled and
    # kept may stand for it.
    launch.__name__ = f"small_kernel_{zlib.crc32(versions().encode()):x}"
    return np.asarray(jax.jit(launch)(jax.device_put(ABOUT, jax.local_devices()[0]))[0])


def _said(*command: str) -> str | None:
    """Return what a command prints; None if it is not there, fails or hangs."""
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
