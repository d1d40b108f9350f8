"""Machine code of the Triton kernels for an H100, compiled without a GPU: what it may cost.

Slow, and to be looked at again with each release of Triton: other compilers, other numbers.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from egs_jax.avatar.token_kernels import frame_tokens
from kernels.deform import api as deform_api

FOLDER = pathlib.Path(__file__).parent / "machine_code"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="triton is not installed (Linux only)"
    ),
]


def costs_of(name, root):
    """Print of a script in machine_code/: numbers by kernel."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= dict(PYTHONPATH=str(root), JAX_PLATFORMS="cpu")
    command = [sys.executable, str(FOLDER / f"{name}.py")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def test_rasterize(pytestconfig):
    """Registers, spills, barriers and instructions per list entry."""
    costs = costs_of("rasterize", pytestconfig.rootpath)
    # Where it is not 64, with which 32 programs fit on a multiprocessor.
    registers = dict(sort=128, project_back=128, project_8=128, project_back_8=255)
    registers |= dict(project_back_antialias=128, forward_median=80, backward_median=80)
    registers |= dict(forward_alone=96, emit=72)
    for name, cost in costs.items():
        assert cost["spilt"] <= (8 if name == "project_antialias" else 0), name
        assert cost["barriers_in_loop"] == 0, name
        assert cost["registers"] <= registers.get(name, 64), name
    assert costs["forward"]["instructions_per_entry"] <= 42
    assert costs["backward"]["instructions_per_entry"] <= 112
    assert costs["backward_depth"]["instructions_per_entry"] <= 120
    assert costs["forward_median"]["instructions_per_entry"] <= 50
    assert costs["backward_median"]["instructions_per_entry"] <= 125


# With 160 registers three programs run at once. Waits: one matrix after another; with too few
# registers every sixteen rows of one wait.
DEFORM = {
    "taylor": dict(registers=160, spilt=0, waits=16, barriers=2, instructions_per_unit=17),
    "mlp": dict(registers=160, spilt=0, waits=16, barriers=2, instructions_per_unit=8),
}


def test_deform(pytestconfig):
    """Tensor cores fed without waiting, few instructions, spills known."""
    costs = costs_of("deform", pytestconfig.rootpath)
    for name, most in DEFORM.items():
        cost = costs[name]
        assert cost["slow_products"] == 0 < cost["products"], name
        assert cost["shared"] <= deform_api.SHARED_MEMORY * 1024, name
        assert {key: cost[key] for key in most if cost[key] > most[key]} == {}, name


def test_decode_heads(pytestconfig):
    """All products on Hopper's tensor cores, little spilt."""
    costs = costs_of("heads", pytestconfig.rootpath)
    assert len(costs) == 8
    for name, cost in costs.items():
        assert cost["slow_products"] == 0 < cost["products"], name
        assert cost["shared"] <= deform_api.SHARED_MEMORY * 1024, name
        assert cost["spilt"] <= (100 if name.startswith("taylor weights") else 0), name


def test_codes(pytestconfig):
    """Counts come side by side and are made numbers without the slow instruction.

    Registers are few enough for five programs of a frame alone at once, and four of 16 frames.
    Codes are read without exchanging numbers between threads, and by short code that runs once.
    """
    costs = costs_of("codes", pytestconfig.rootpath)
    read = costs.pop("read")
    assert read["spilt"] == 0 and read["barriers"] == 1 and read["registers"] <= 64
    assert read["instructions"] <= 350 and read["loads"] <= 34
    for frames, cost in costs.items():
        assert cost["spilt"] == cost["conversions"] == 0, frames
        assert cost["wide_loads"] > 0 == cost["narrow_loads"], frames
    assert costs["1"]["registers"] <= 96 and costs["16"]["registers"] <= 128


def test_sample_planes(pytestconfig):
    """Atomics that nothing waits for, nothing spilt, few instructions."""
    for name, cost in costs_of("planes", pytestconfig.rootpath).items():
        assert cost["spilt"] == 0 and cost["shared"] == 0 and cost["flushing"] == 0, name
        assert cost["registers"] <= 32, name  # as many threads as a multiprocessor can hold
        assert cost["additions"] == (4 if name.startswith("scatter") else 0), name
        assert cost["returning"] == 0, name
        assert cost["instructions"] <= (150 if name.startswith("scatter") else 100), name


def test_mean_ssim(pytestconfig):
    """No spills, 24 warps a multiprocessor, few instructions a row."""
    most = dict(forward=225, value=205, backward=150)  # instructions of a row
    arrays = dict(forward=22, value=22, backward=3 * 11 + 2)
    for name, cost in costs_of("ssim", pytestconfig.rootpath).items():
        assert cost["spilt"] == cost["barriers"] == cost["atomics"] == 0, name
        assert cost["registers"] <= 80, name
        assert cost["instructions"] <= most[name], name
        assert cost["loads"] == arrays[name], name
        assert cost["addresses"] <= 5, name  # eleven loads from one address each


def test_frame_tokens(pytestconfig):
    """In the size of the default avatar."""
    cost = costs_of("tokens", pytestconfig.rootpath)
    tokens, mix, fitted = cost["tokens_kernel"], cost["mix_kernel"], cost["fitted"]
    # Most instructions run once, so that fetching them counts; one load brings four weights.
    assert tokens["instructions"] <= 2300 and mix["instructions"] <= 300
    assert fitted["instructions"] <= 2900  # of which those of the lips are for one program alone
    assert tokens["narrow"] <= 18 and tokens["wide"] >= 80
    assert fitted["narrow"] <= 32 and fitted["wide"] >= 140
    assert mix["spilt"] == 0 and mix["shared"] <= frame_tokens.SHARED_MEMORY * 1024
    for each in (tokens, fitted):
        assert each["spilt"] <= 32  # the sine of large numbers keeps a table
        assert each["registers"] <= 255  # two programs a multiprocessor
        assert each["shared"] <= frame_tokens.SHARED_MEMORY * 1024
