"""What a verb says of its device, and whose memory is told to be full."""

import importlib
import os
from types import SimpleNamespace

import jax
import pytest

from egs_jax.__main__ import main
from egs_jax.runtime import device, environment
from egs_jax.runtime.errors import InputError
from kernels import machine

GIB, PREALLOCATE = 2**30, "XLA_PYTHON_CLIENT_PREALLOCATE"
FULL = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying\nto allocate")


@pytest.fixture
def gpu(monkeypatch):
    """Pretend that NVIDIA's driver tells of a GPU, JAX having this CUDA's wheels."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)

    def pretend(driver="580.65", cuda=12, card=8.9):
        monkeypatch.setattr(machine, "nvidia_gpu", lambda: machine.Gpu("NVIDIA L4", driver, card))
        monkeypatch.setattr(machine, "cuda_wheels", lambda: cuda)

    return pretend


def test_a_machine_without_a_gpu(monkeypatch):
    monkeypatch.setattr(machine, "nvidia_gpu", lambda: None)
    monkeypatch.setattr(device, "usable_cores", lambda: 2)
    assert device.describe() == "the CPU (2 cores)"


def test_why_jax_does_not_use_a_gpu_that_is_there(monkeypatch, gpu):
    gpu(cuda=None)
    told = device.describe()
    assert "NOT on NVIDIA L4 (driver 580.65, compute capability 8.9): JAX is installed" in told
    assert "without CUDA; pip install" in told
    for driver, card in (("535.104", 8.9), ("580.65", 7.0)):
        gpu(driver, 13, card)
        told = device.describe()
        assert "wheels of CUDA 13 need driver 580 and compute capability 7.5 or newer" in told
        assert f"driver {driver}, compute capability {card}" in told and "jax[cuda12]" in told
    gpu()
    monkeypatch.setattr(device, "jax_complaints", lambda: ["Outdated cuBLAS installation\nfound."])
    told = device.describe()
    assert "JAX cannot use it (Outdated cuBLAS installation found.); driver 580.65" in told
    assert "CUDA 12 wheels" in told and "jaxlib" in told


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("JAX_PLATFORMS", "cpu", "as JAX_PLATFORMS=cpu asks; NVIDIA L4"),
        ("CUDA_VISIBLE_DEVICES", "", "since CUDA_VISIBLE_DEVICES hides NVIDIA L4"),
        ("CUDA_VISIBLE_DEVICES", "-1", "since CUDA_VISIBLE_DEVICES hides NVIDIA L4"),
    ],
)
def test_who_hides_a_gpu_is_told_so(monkeypatch, gpu, variable, value, told):
    gpu()
    monkeypatch.setenv(variable, value)
    assert told in device.describe() and "NOT" not in device.describe()


def test_what_jax_says_of_its_devices_is_kept_and_not_printed(capfd, monkeypatch):
    environment.set_environment()
    monkeypatch.setattr(environment._complaints, "messages", [])
    logger = importlib.import_module("logging").getLogger("jax._src.xla_bridge")
    try:
        raise RuntimeError("CUDA driver version is insufficient for CUDA runtime version")
    except RuntimeError:
        logger.exception("Jax plugin configuration error")
    [message] = environment.jax_complaints()
    assert message.startswith("Jax plugin configuration error CUDA driver version is insufficient")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error",
    [RuntimeError("Unable to initialize backend 'cuda':\n no plugin"), AssertionError()],
)
def test_a_platform_that_is_not_here_is_one_line(monkeypatch, error):
    """JAX says why, or asserts that it has found a device."""

    def fail():
        raise error

    monkeypatch.setattr(jax, "local_devices", fail)
    monkeypatch.setattr(environment, "jax_complaints", lambda: [])
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    for look in (device.describe, environment.keep_programs):
        with pytest.raises(InputError) as caught:
            look()
        told = str(caught.value)
        assert told.startswith("JAX has no device for JAX_PLATFORMS=cuda") and "\n" not in told
        assert told.endswith("; correct or unset it") and ("no plugin" in told) == bool(str(error))


class Card:
    """A GPU of which this process has some memory."""

    platform, device_kind = "gpu", "NVIDIA L4"

    def __init__(self, own):
        self.own = own

    def memory_stats(self):
        return {"pool_bytes": self.own}


@pytest.mark.parametrize(
    ("own", "free", "told"),
    [
        (5, 1, "other processes have 18.0 of its 24.0 GiB, this one has 5.0; wait for it"),
        (22, 1, "ran out of memory, which this process has alone; lower --size"),
    ],
)
def test_advice_fits_who_has_the_memory(monkeypatch, own, free, told):
    monkeypatch.setattr(jax, "local_devices", lambda: [Card(own * GIB)])
    monkeypatch.setattr(machine, "free_memory", lambda card: (free * GIB, 24 * GIB))
    assert device.is_exhaustion(FULL)
    assert told in device.explain_exhaustion(FULL, "lower --size")


def test_memory_of_the_machine():
    assert device.is_exhaustion(MemoryError()) and not device.is_exhaustion(ValueError("full"))
    assert "this machine ran out of memory" in device.explain_exhaustion(MemoryError(), "lower it")


VERBS = {
    "preprocess a.mp4 d": "egs_jax.preprocess.pipeline.preprocess",
    "render r a.wav --out o.mp4": "egs_jax.avatar.film.render_video",
    "evaluate r": "egs_jax.evaluation.evaluate.evaluate",
    "demo": "egs_jax.demo.demo",
}


@pytest.mark.parametrize("command", VERBS)
@pytest.mark.parametrize(
    "words",
    [str(FULL), "INTERNAL: CUBLAS_STATUS_NOT_INITIALIZED", "DNN library initialization failed"],
)
def test_every_verb_tells_of_full_memory_in_one_line(command, words, monkeypatch, capsys):
    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError(words)

    monkeypatch.setattr(VERBS[command], fail)
    assert main(command.split()) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "ran out of memory" in error


@pytest.mark.parametrize(
    ("verb", "shares"),
    [("preprocess a.mp4 d", True), ("render r a.wav --out o.mp4", True), ("evaluate r", True),
     ("demo", False)],
)  # fmt: skip
def test_what_may_run_beside_a_training_leaves_it_its_memory(verb, shares, monkeypatch):
    told = []
    monkeypatch.setattr(VERBS[verb], lambda *_, **__: told.append(os.environ.get(PREALLOCATE)))
    monkeypatch.setenv(PREALLOCATE, "true")
    assert main(verb.split()) == 0
    monkeypatch.delenv(PREALLOCATE)
    assert main(verb.split()) == 0
    assert told == ["true", "false" if shares else None]


def test_other_errors_of_jax_keep_their_traceback(monkeypatch):
    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError("INTERNAL: a fault of the compiler")

    monkeypatch.setattr("egs_jax.demo.demo", fail)
    with pytest.raises(jax.errors.JaxRuntimeError):
        main(["demo"])


def test_a_device_that_cannot_compute_is_one_line(monkeypatch, gpu):
    gpu("535.104")
    card = SimpleNamespace(platform="gpu", device_kind="NVIDIA L4")
    monkeypatch.setattr(jax, "local_devices", lambda: [card])

    def fail(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_UNSUPPORTED_PTX_VERSION")

    monkeypatch.setattr(jax, "device_put", fail)
    with pytest.raises(InputError, match="CUDA_ERROR_UNSUPPORTED_PTX_VERSION .driver 535.104"):
        device.describe()
