"""What lies under JAX: the driver's GPU, the versions that must fit, the small kernel."""

import os
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from kernels import launch, machine


@pytest.fixture(autouse=True)
def asked_anew():
    for cached in (machine.nvidia_gpu, machine.small_kernel_fails):
        cached.cache_clear()
    yield
    for cached in (machine.nvidia_gpu, machine.small_kernel_fails):
        cached.cache_clear()


def command(folder: Path, name: str, prints: str, status: int = 0) -> None:
    """Write a command that prints something."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\nprintf '{prints}'\nexit {status}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("prints", "status", "gpu"),
    [
        ("535.54.03, 6.1, NVIDIA GTX 1070\\n", 0, ("NVIDIA GTX 1070", "535.54.03", 6.1)),
        ("580.1, 9.0, NVIDIA H200, A\\n580.1, 8.9, L4\\n", 0, ("NVIDIA H200, A", "580.1", 9.0)),
        ("580.1, [N/A], NVIDIA H200\\n", 0, ("NVIDIA H200", "580.1", None)),
        ("Failed to initialize NVML: Driver/library version mismatch\\n", 18, None),
        ("", 0, None),
    ],
)
def test_the_drivers_gpu(tmp_path, monkeypatch, prints, status, gpu):
    command(tmp_path / "bin", "nvidia-smi", prints, status)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert machine.nvidia_gpu() == gpu


@pytest.mark.parametrize(
    ("gpu", "cuda"),
    [
        (("NVIDIA L4", "580.65.06", 8.9), 13),
        (("NVIDIA L4", "575.57", 8.9), 12),
        (("Tesla V100", "580.65.06", 7.0), 12),  # whose last driver runs CUDA 13, but not it
        (("NVIDIA GPU", ""), 12),
        (None, 12),
    ],
)
def test_what_to_install_fits_driver_and_card(monkeypatch, gpu, cuda):
    gpu = gpu and machine.Gpu(*gpu)
    monkeypatch.setattr(machine, "nvidia_gpu", lambda: gpu)
    monkeypatch.setattr(machine, "cuda_wheels", lambda: None)
    assert machine.install().startswith(f"pip install 'jax[cuda{cuda}]<0.12' ")
    monkeypatch.setattr(machine, "cuda_wheels", lambda: 12)  # those that are there stay
    assert "jax[cuda12]" in machine.install()


def test_versions_name_an_old_assembler_first_in_path(tmp_path, monkeypatch):
    command(tmp_path / "bin", "ptxas", "Cuda compilation tools, release 11.5, V11.5.119\\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(machine, "nvidia_gpu", lambda: machine.Gpu("NVIDIA L4", "535.54.03"))
    told = machine.versions()
    assert f"{tmp_path / 'bin' / 'ptxas'} of CUDA 11.5 first in PATH" in told
    assert "driver 535.54.03" in told and f"jaxlib {jax.lib.__version__}" in told


def test_the_small_kernel_runs_also_while_something_is_traced(monkeypatch):
    """In Triton's interpreter, here."""
    asked = []

    def traced(x):
        asked.append(machine.small_kernel_fails())
        return x

    jax.make_jaxpr(traced)(1.0)
    assert asked == [None]


def test_what_the_small_kernel_says(monkeypatch):
    monkeypatch.setattr(machine, "nvidia_gpu", lambda: machine.Gpu("NVIDIA L4", "535.54.03"))

    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError("INTERNAL: ptxas exited with\n error 255")

    with monkeypatch.context() as patch:
        patch.setattr(launch, "triton_call", fail)
        told = machine.small_kernel_fails()
    assert told.startswith("a small kernel does not run (JaxRuntimeError: INTERNAL: ptxas exited")
    assert "\n" not in told and "driver 535.54.03" in told and "triton" in told
    machine.small_kernel_fails.cache_clear()

    def full(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    with monkeypatch.context() as patch, pytest.raises(jax.errors.JaxRuntimeError):
        patch.setattr(launch, "triton_call", full)  # no reason to go without Triton
        machine.small_kernel_fails()
    with monkeypatch.context() as patch:
        patch.setattr(launch, "triton_call", lambda *_, **__: (np.zeros(128, np.float32),))
        assert "computes wrong numbers" in machine.small_kernel_fails()


def test_memory_of_what_is_no_nvidia_gpu_is_not_known():
    assert machine.free_memory(jax.devices()[0]) is None
    amd = SimpleNamespace(client=SimpleNamespace(platform_version="rocm 6"))
    assert machine.free_memory(amd) is None
