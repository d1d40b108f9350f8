"""The log of compiled programs sees each program of a process once, and those of two processes."""

import subprocess

import pytest
from compile_log import sitecustomize
from helpers import ROOT, python

PROGRAM = "import jax; jax.jit(lambda x: x + {}, inline=True)(1.0)"


@pytest.mark.slow
def test_programs_compiled_twice_are_found(tmp_path, capsys, monkeypatch):
    log = tmp_path / "log"
    more = {
        "COMPILE_LOG": str(log),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'compile_log'}",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
    }
    for number in (1, 1, 2):
        command, environment = python("-c", PROGRAM.format(number))
        subprocess.run(command, env=environment | more, check=True)
        for file in (tmp_path / "cache").iterdir():  # as if neither had seen the other's
            file.unlink()
    found = sitecustomize.compilations(log)
    counts = sorted(len(made) for (_, name), made in found.items() if name == "jit__lambda")
    assert counts == [1, 2] and all(made[0][0] > 0 for made in found.values())
    assert sitecustomize.main(log) == 0  # they are small
    monkeypatch.setattr(sitecustomize, "SECONDS", 0.0)
    assert sitecustomize.main(log) == 1
    assert "jit__lambda (" in capsys.readouterr().out
