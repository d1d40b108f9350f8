"""What every experiment shares: a record of where and with what it ran, written as JSON."""

import json
import os
import platform
import subprocess
from pathlib import Path

import jax
import numpy as np

from egs_jax.run_log import environment, write_atomically

RESULTS = Path(__file__).parent / "results"


def record(name: str, cases: list[dict], folder: Path = RESULTS) -> Path:
    """Write `folder/name.json` with commit, device, versions and cases; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = environment()
    result = {
        "commit": commit(),
        "device": versions.pop("device"),
        "host": f"{platform.machine()}, {len(jax.devices())} device(s)",
        "versions": versions,
        "cases": cases,
    }
    path = folder / f"{name}.json"
    write_atomically(path, json.dumps(result, indent=2) + "\n")
    return path


def commit() -> str:
    """The commit of the working tree, with "+" if it has changes; "unknown" outside a checkout.

    A copy without history (on a borrowed GPU machine, say) names its commit in `EGS_COMMIT`.
    """
    if "EGS_COMMIT" in os.environ:
        return os.environ["EGS_COMMIT"]
    here = Path(__file__).parent
    git = lambda *words: subprocess.run(
        ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, 10th and 90th percentile of repeated times, milliseconds."""
    ms = np.array(seconds) * 1e3
    names = {"median_ms": 50, "p10_ms": 10, "p90_ms": 90}
    return {name: round(float(np.percentile(ms, q)), 3) for name, q in names.items()}
