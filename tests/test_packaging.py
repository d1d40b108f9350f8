"""What installs the project: extras by the machine's driver, the image's files, Pythons."""

import fnmatch
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def planned(tmp_path: Path, nvidia_smi: str | None, *settings: str) -> str:
    """What `make` would install on a machine whose nvidia-smi is this script, or which has none."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "make", "awk", "python3"):
        found = next(Path(p) / name for p in os.get_exec_path() if (Path(p) / name).exists())
        (tools / name).symlink_to(found)
    if nvidia_smi is not None:
        (tools / "nvidia-smi").write_text(f"#!/bin/sh\n{nvidia_smi}\n", encoding="utf-8")
        (tools / "nvidia-smi").chmod(0o755)
    venv = tmp_path / "venv"
    command = ["make", "--dry-run", f"{venv}/installed", f"VENV={venv}", "PYTHON=python3"]
    done = subprocess.run(
        [*command, *settings], cwd=ROOT, env={"PATH": str(tools)}, capture_output=True,
        encoding="utf-8", check=True,
    )  # fmt: skip
    return re.search(r'-e "\.\[(.*)\]"', done.stdout)[1]


@pytest.mark.parametrize(
    ("nvidia_smi", "extras"),
    [
        (None, "dev"),
        ("echo 580.65.06, 8.9", "dev,cuda13"),
        ("echo 575.57.08, 9.0; echo 575.57.08, 9.0", "dev,cuda"),
        ("echo 580.65.06, 9.0; echo 580.65.06, 7.0", "dev,cuda"),
        ("exit 9", "dev"),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "dev,cuda"),
    ],
)
def test_make_picks_the_cuda_that_the_driver_runs(tmp_path, nvidia_smi, extras):
    assert planned(tmp_path, nvidia_smi) == extras


def test_what_is_installed_or_named_stays(tmp_path):
    (tmp_path / "venv/lib/python3.12/site-packages/jax_cuda12_plugin").mkdir(parents=True)
    assert planned(tmp_path, "echo 580.65.06, 9.0") == "dev,cuda"
    (tmp_path / "other").mkdir()
    assert planned(tmp_path / "other", "echo 580.65.06, 9.0", "CUDA=cuda") == "dev,cuda"


def test_extras_bring_jax_for_one_cuda_each():
    extras = PROJECT["optional-dependencies"]
    for name, cuda in (("cuda", 12), ("cuda13", 13)):
        [jax] = [line for line in extras[name] if line.startswith("jax[")]
        assert jax.startswith(f"jax[cuda{cuda}]>=0.10,<0.12")
        assert [line for line in extras[name] if line != jax] == [
            line for line in extras["cuda"] if not line.startswith("jax[")
        ]


def test_pythons():
    assert PROJECT["requires-python"] == ">=3.11"
    named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert named == ["3.11", "3.12", "3.13"]
    assert all(
        f"python{version} " in makefile or f"python{version};" in makefile for version in named
    )


def test_the_image_gets_all_that_it_installs():
    """Every file that the Dockerfile copies is there, and is not left out of what docker sees."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    steps = re.sub(r"\\\n", " ", text).splitlines()
    sources = [name for step in steps if step.startswith("COPY ") for name in step.split()[1:-1]]
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line.removeprefix("!") for line in lines if line.startswith("!")]
    for name in sources:
        assert (ROOT / name).exists(), name
        assert any(fnmatch.fnmatch(name, pattern) for pattern in kept), name
    needed = {"pyproject.toml", "requirements.txt", PROJECT["readme"], *PROJECT["license-files"]}
    assert needed | {"egs_jax", "kernels"} == set(sources)
    assert 'pip install --no-cache-dir ".${EXTRAS}"' in text and 'ENTRYPOINT ["egs-jax"]' in text
