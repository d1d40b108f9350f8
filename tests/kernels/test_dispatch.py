"""Which implementation a kernel has: picked by what can run, told once, and never in silence."""

import importlib.util
import logging
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

import kernels
from kernels import dispatch, launch
from kernels import machine as below
from kernels.deform import decode_heads
from kernels.deform.cases import make_case, pack

OBSTACLE = "it takes float32"


@pytest.fixture
def machine(monkeypatch):
    """Return a function that pretends to compute on a device, with nothing picked or told yet."""
    monkeypatch.setattr(dispatch, "_choices", {})
    monkeypatch.setattr(dispatch, "_told", set())
    monkeypatch.setattr(launch, "is_interpreting", lambda: False)
    monkeypatch.setattr(launch, "jax_triton", lambda: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(below, "small_kernel_fails", lambda: None)

    def pretend(platform, capability="9.0", version="cuda 12"):
        device = SimpleNamespace(
            platform=platform, client=SimpleNamespace(platform_version=version)
        )
        if platform == "gpu":
            device.compute_capability = capability
        monkeypatch.setattr(dispatch, "_device", lambda: device)

    return pretend


def told(caplog):
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_an_nvidia_gpu_has_triton_and_is_told_once_a_kernel(machine, caplog):
    machine("gpu")
    caplog.set_level(logging.INFO, "kernels")
    for kernel in ("rasterize", "rasterize", "deform"):
        assert dispatch.uses_triton(kernel, None, None)
    assert told(caplog) == [("INFO", f"{name}: Triton kernels") for name in ("rasterize", "deform")]
    picked = kernels.implementations()
    assert picked["rasterize"] == picked["deform"] == "triton"
    assert picked["mean_ssim"] == "triton, not called yet"
    assert list(picked) == sorted(dispatch.KERNELS)


def test_a_gpu_warns_of_every_kernel_that_has_no_triton(machine, caplog):
    machine("gpu")
    for _ in range(2):
        assert not dispatch.uses_triton("mean_ssim", None, OBSTACLE)
    message = f"mean_ssim: plain XLA instead of Triton kernels, slower: {OBSTACLE}"
    assert told(caplog) == [("WARNING", message)]
    assert dispatch.uses_triton("mean_ssim", None, None)
    assert kernels.implementations()["mean_ssim"] == f"xla: {OBSTACLE}; triton"


@pytest.mark.parametrize(
    ("device", "missing", "reason"),
    [
        (dict(platform="gpu", capability="6.1"), None, "compute capability 7.0, this one has 6.1"),
        (dict(platform="gpu", capability="gfx90a", version="rocm 6"), None, "needs an NVIDIA GPU"),
        (dict(platform="gpu"), "jax_triton", "jax-triton is not installed"),
        (dict(platform="gpu"), "triton", "triton is not installed"),
    ],
)
def test_a_gpu_without_triton_warns_once_for_all_kernels(
    machine, monkeypatch, caplog, device, missing, reason
):
    machine(**device)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name != missing)
    assert not dispatch.uses_triton("rasterize", None, None)
    assert not dispatch.uses_triton("deform", None, OBSTACLE)
    [(level, message)] = told(caplog)
    assert level == "WARNING" and reason in message and message.startswith("no Triton kernels")
    picked = kernels.implementations()
    assert reason in picked["rasterize"] and picked["rasterize"] == picked["deform"]
    with pytest.raises(dispatch.Unavailable, match=rf"rasterize: .*{reason}.*; pass 'xla' or None"):
        dispatch.uses_triton("rasterize", "triton", None)


def test_an_import_that_fails_is_a_reason(machine, monkeypatch):
    def fail():
        raise ImportError("no name 'cuda'\n in triton")

    machine("gpu")
    monkeypatch.setattr(launch, "jax_triton", fail)
    assert "cannot be imported: no name 'cuda' in triton (pip install" in dispatch.why_not()


def test_a_small_kernel_that_does_not_run_is_a_reason(machine, monkeypatch, caplog):
    """Told once where nothing was asked for; where Triton was, it is refused."""
    reason = "a small kernel does not run (ptxas fatal; driver 535.54, CUDA 12 wheels)"
    machine("gpu")
    monkeypatch.setattr(below, "small_kernel_fails", lambda: reason)
    for kernel in ("rasterize", "deform"):
        assert not dispatch.uses_triton(kernel, None, None)
    assert told(caplog) == [("WARNING", f"no Triton kernels, plain XLA instead: {reason}")]
    with pytest.raises(dispatch.Unavailable, match="ptxas fatal; driver 535.54"):
        dispatch.uses_triton("rasterize", "triton", None)


def test_a_cpu_is_told_of_in_one_quiet_line(machine, caplog):
    machine("cpu")
    caplog.set_level(logging.INFO, "kernels")
    for kernel in dispatch.KERNELS:
        assert not dispatch.uses_triton(kernel, None, None)
    [(level, message)] = told(caplog)
    assert level == "INFO" and "JAX computes on 'cpu'" in message


def test_what_is_asked_for_is_recorded_and_not_told(machine, caplog):
    machine("gpu")
    caplog.set_level(logging.INFO, "kernels")
    assert dispatch.uses_triton("rasterize", "triton", None)
    assert not dispatch.uses_triton("deform", "xla", None)
    assert told(caplog) == []
    picked = kernels.implementations()
    assert (picked["rasterize"], picked["deform"]) == ("triton", "xla: asked for")
    with pytest.raises(ValueError, match="expected None, 'xla' or 'triton', got 'cuda'"):
        dispatch.uses_triton("rasterize", "cuda", None)


def test_the_interpreter_runs_kernels_that_are_named_only(machine, monkeypatch):
    machine("cpu")
    monkeypatch.setattr(launch, "is_interpreting", lambda: True)
    assert dispatch.uses_triton("rasterize", "triton", None)
    assert not dispatch.uses_triton("rasterize", None, None)
    assert kernels.implementations()["rasterize"] == f"triton; xla: {dispatch.INTERPRETED}"


@pytest.mark.parametrize(
    ("capability", "kib"), [("7.5", 64), ("8.0", 163), ("8.9", 99), ("9.0", 227), ("12.0", 99)]
)
def test_shared_memory_of_a_gpu(machine, capability, kib):
    machine("gpu", capability)
    assert dispatch.device_lacks(shared_memory=kib) is None
    assert f"this GPU has {kib}" in dispatch.device_lacks(shared_memory=kib + 1)


@pytest.mark.parametrize("implementation", ["xla", None])
def test_an_amd_gpu_decodes_by_xla(machine, implementation):
    """What a kernel needs of a GPU is asked whatever implementation is to run."""
    machine("gpu", capability="gfx90a", version="rocm 6")
    case = make_case("mlp", d=16, units=16)
    decode = lambda x: decode_heads(x, pack(case).heads, implementation=implementation)
    assert decode(jnp.zeros((13, 16)))[0].shape == (13, 16)
    assert kernels.implementations()["decode_heads"].startswith("xla: ")


def test_a_call_records_what_it_picked(monkeypatch):
    """Through a public function, here on a CPU."""
    monkeypatch.setattr(dispatch, "_choices", {})
    images = jnp.zeros((1, 2, 3, 5))
    jax.eval_shape(lambda a: kernels.mean_ssim(a, a), images)
    assert kernels.implementations()["mean_ssim"].startswith("xla: ")


def test_kernels_import_without_triton(pytestconfig):
    code = (
        "import sys; sys.modules['triton'] = sys.modules['jax_triton'] = None\n"
        "import kernels\n"
        "assert not any(name.startswith('triton') and sys.modules[name] for name in sys.modules)\n"
        "assert 'kernels.rasterize.triton' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=pytestconfig.rootpath, check=True)
