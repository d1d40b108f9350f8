"""What every experiment shares: records as JSON, figures, the smallest run, and how it ends."""

import contextlib
import dataclasses
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from egs_jax.config import PRESETS, Config, DensifyConfig, LossConfig, ModelConfig, ScheduleConfig
from egs_jax.errors import InputError, TrainingError
from egs_jax.run_log import environment, read_metrics, write_atomically

RESULTS = Path(__file__).parent / "results"
FIGURES = Path(__file__).parent / "figures"


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


def earlier(name: str, folder: Path = RESULTS) -> list[dict]:
    """The cases that `record` wrote before; none if there is no such file."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text())["cases"] if path.exists() else []


def add_case(
    name: str, case: dict, key: Callable[[dict], tuple], folder: Path = RESULTS
) -> list[dict]:
    """Record one more case, in the place of one with the same `key`; returns all cases.

    Series grow over days, machines and commits, so each case also says its own commit.
    """
    case = {**case, "commit": commit()}
    cases = [c for c in earlier(name, folder) if key(c) != key(case)] + [case]
    record(name, cases, folder)
    return cases


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


def rounded(values: dict, digits: int = 4) -> dict:
    """The same with its own floats rounded (those of nested lists and dicts too)."""
    if isinstance(values, dict):
        return {name: rounded(value, digits) for name, value in values.items()}
    if isinstance(values, list):
        return [rounded(value, digits) for value in values]
    return round(values, digits) if isinstance(values, float) else values


def training_seconds(run_dir: Path) -> float | None:
    """Time of all steps of a run, however often it was stopped; compiling and saving left out.

    None for a run too short to have a rate.
    """
    lines = [line for line in read_metrics(run_dir / "metrics.jsonl") if "stage" in line]
    rates: dict[str, list[float]] = {}
    for line in lines:
        if line["steps_per_second"]:
            rates.setdefault(line["stage"], []).append(line["steps_per_second"])
    if not lines or {line["stage"] for line in lines} - rates.keys():
        return None
    # The first line after a start has no rate, and one that spans a compilation a low one.
    typical = {stage: float(np.median(values)) for stage, values in rates.items()}
    steps = np.diff([0] + [line["step"] for line in lines])
    return sum(n / typical[line["stage"]] for n, line in zip(steps, lines, strict=True))


def shrunk(config: Config) -> Config:
    """The same run at its smallest, for `--tiny`: 48 px, 300 Gaussians, two steps a stage."""
    return dataclasses.replace(
        config,
        preset="tiny",
        size=48,
        model=ModelConfig(width=16, agents_count=20, sh_degree=1, hash_levels=4),
        schedule=ScheduleConfig(
            static_steps=2, deform_steps=2, batch=2, checkpoint_every=10, log_every=1,
            sh_interval=10,
        ),
        optim=PRESETS["tiny"].optim,
        densify=DensifyConfig(
            capacity=512, points=300, start=5, stop=18, every=5, prune_from=2,
            prune_large_from=10, prune_radius=200.0,
        ),
        loss=LossConfig(perceptual=0.0),
    )  # fmt: skip


@contextlib.contextmanager
def figure(path: Path, rows: int, columns: int, size: tuple[float, float]) -> Iterator[np.ndarray]:
    """Give axes [rows, columns] to draw on; write them to `path`, a PNG of `size` inches, after.

    Raises:
      InputError: if matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure  # its default canvas is Agg: no display, no state
    except ImportError:
        raise InputError("figures need matplotlib: pip install 'egs-jax[dev]'") from None
    drawing = Figure(figsize=size, layout="constrained")
    yield drawing.subplots(rows, columns, squeeze=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    drawing.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
    os.replace(temporary, path)


def run(main: Callable[[], Any]) -> NoReturn:
    """Run `main` as a process: one line and exit status 2 for bad input, 1 for other failures."""
    try:
        print(main())
    except InputError as error:
        print(f"experiments: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except (OSError, TrainingError) as error:
        print(f"experiments: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("experiments: stopped; the same command goes on from there", file=sys.stderr)
        # Python's own way out crashes in XLA where an interrupt came while it compiled.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    sys.exit(0)
