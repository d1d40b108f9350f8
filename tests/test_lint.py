"""What `make lint` does, here beside the other tests: it needs one core, and they need two."""

import subprocess
import sys

import pytest
from helpers import ROOT

FOLDERS = ("egs_jax", "kernels", "experiments", "tests")


@pytest.mark.parametrize(
    "command",
    [("mypy",), ("ruff", "check", *FOLDERS), ("ruff", "format", "--check", *FOLDERS)],
    ids=" ".join,
)
def test_lint(command):
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
