"""What every experiment shares: a record of where and with what it ran, and a report of checks."""

import json
import multiprocessing
import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from egs_jax.runtime import provenance
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.files import write_atomically
from kernels import dispatch

RESULTS = Path(__file__).parent / "results"


def record(name: str, cases: list[dict], folder: Path = RESULTS) -> Path:
    """Write `folder/name.json` with commit, device, versions and cases; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "commit": commit(),
        "device": provenance.device(),
        "host": f"{platform.machine()}, {len(jax.devices())} device(s)",
        "versions": {"python": platform.python_version(), **provenance.package_versions()},
        "cases": cases,
    }
    path = folder / f"{name}.json"
    write_atomically(path, json.dumps(result, indent=2) + "\n")
    return path


def commit() -> str:
    """Return the commit of the code, with "+" if it has changes; "unknown" outside a checkout."""
    return provenance.commit()[0] or "unknown"


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, 10th and 90th percentile of repeated times, milliseconds."""
    ms = np.array(seconds) * 1e3
    names = {"median_ms": 50, "p10_ms": 10, "p90_ms": 90}
    return {name: round(float(np.percentile(ms, q)), 3) for name, q in names.items()}


def require_triton() -> None:
    """Refuse to go on where Triton kernels cannot run.

    Raises:
      InputError: says why.
    """
    reason = dispatch.why_not()
    if reason:
        raise InputError(f"this experiment is about Triton kernels: {reason}")


class Result(NamedTuple):
    """Outcome of a check."""

    name: str
    passes: bool
    detail: str


class Report:
    """Prints every check and remembers it."""

    def __init__(self) -> None:
        self.results: list[Result] = []

    def check(self, name: str, passes: bool, detail: str) -> None:
        """Print one line."""
        self.results.append(Result(name, bool(passes), detail))
        print(f"{'ok  ' if passes else 'FAIL'} {name}: {detail}", flush=True)

    def check_all(self, function: Callable, names: list[str], workers: int) -> None:
        """Check every name, in processes of their own if there are several: they compile long."""
        if workers == 1:
            results = map(function, names)
        else:
            spawn = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(workers, mp_context=spawn)
            results = pool.map(function, names)
        for result in results:
            for line in result:
                self.check(*line)

    def finish(self, script: str | None, folder: Path) -> int:
        """Write `folder/script.json`, if named, and print the outcome; returns the exit status."""
        failed = sum(not result.passes for result in self.results)
        if script is not None:
            record(script, [result._asdict() for result in self.results], folder)
        print(f"{failed} failed" if failed else f"all {len(self.results)} passed", flush=True)
        return int(failed > 0)
