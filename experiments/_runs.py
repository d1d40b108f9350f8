"""Shared by experiments on trained runs: growing series, the smallest run, figures, their end."""

import contextlib
import dataclasses
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from egs_jax.avatar.avatar import Avatar
from egs_jax.config import Config, DensifyConfig, LossConfig, ModelConfig, ScheduleConfig
from egs_jax.config_text import as_arguments, options
from egs_jax.presets import PRESETS
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.errors import InputError, TrainingError
from egs_jax.runtime.files import write_atomically
from egs_jax.training.run_folder import read_metrics
from experiments._common import RESULTS, commit, record

FIGURES = Path(__file__).parent / "figures"


def parsed(parser: Parser, argv: list[str] | None, *, figures: bool = True) -> Namespace:
    """Add the options that these experiments share, and parse.

    Raises:
      InputError: for numbers of `--tiny` among the results.
    """
    parser.add_argument("--tiny", action="store_true", help="the smallest run (tests)")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER")
    if figures:
        parser.add_argument("--figures", type=Path, default=FIGURES, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    places = {arguments.out.resolve(), arguments.figures.resolve() if figures else None}
    if arguments.tiny and places & {RESULTS.resolve(), FIGURES.resolve()}:
        raise InputError(
            "--tiny: its numbers mean nothing and stay out of the results; name other folders by "
            + ("--out and --figures" if figures else "--out")
        )
    return arguments


def earlier(name: str, folder: Path = RESULTS) -> list[dict]:
    """Return the cases that `record` wrote before; none if there is no such file."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text("utf-8"))["cases"] if path.exists() else []


def cases_of(name: str) -> list[dict]:
    """Return the cases of a results file, each with its commit and device; none without a file."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text("utf-8"))
    about = {"commit": found["commit"], "device": found["device"]}
    return [about | case for case in found["cases"]]


def to_draw(name: str, folder: Path) -> list[dict]:
    """Return the cases that a figure is drawn from.

    Raises:
      InputError: if there are none.
    """
    cases = earlier(name, folder)
    if not cases:
        raise InputError(f"{folder / name}.json: no results yet; run without --plot-only")
    return cases


def add_case(
    name: str, case: dict, key: Callable[[dict], tuple], folder: Path = RESULTS
) -> list[dict]:
    """Record one more case, in the place of one with the same `key`; returns all cases.

    Series grow over days, machines and commits, so each case also says its own commit: this one,
    unless it knows better. It was made elsewhere then, and what the file says of its machine stays.
    """
    elsewhere, path = case.get("commit"), folder / f"{name}.json"
    case = {**case, "commit": elsewhere or commit()}
    cases = earlier(name, folder)
    same = [place for place, other in enumerate(cases) if key(other) == key(case)]
    cases[slice(same[0], same[0] + 1) if same else slice(len(cases), None)] = [case]
    if elsewhere and path.exists():
        found = json.loads(path.read_text("utf-8")) | {"cases": cases}
        write_atomically(path, json.dumps(found, indent=2) + "\n")
    else:
        record(name, cases, folder)
    return cases


def run_of(avatar: Avatar) -> dict[str, Any]:
    """Return what a case says of the run that it measures."""
    config, data = avatar.config, avatar.dataset
    return {
        "video": Path(data.meta["source"]["name"]).stem,
        "preset": config.preset,
        "body": data.body,
        "seed": config.seed,
        "width": data.width,
    }


def rounded(values: dict, digits: int = 4) -> dict:
    """Round the floats of a value, and those in its lists, tuples and dicts."""
    if isinstance(values, dict):
        return {name: rounded(value, digits) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [rounded(value, digits) for value in values]
    return round(values, digits) if isinstance(values, float) else values


def rates(lines: list[dict]) -> dict[str, float]:
    """Return steps a second of each stage, the usual ones, from a run's log.

    The first line after a start has no rate, and one that spans a compilation a low one.
    """
    found: dict[str, list[float]] = {}
    for line in lines:
        if line.get("steps_per_second"):
            found.setdefault(line["stage"], []).append(line["steps_per_second"])
    return {stage: float(np.median(values)) for stage, values in found.items()}


def training_seconds(run_dir: Path) -> float | None:
    """Time of all steps of a run, however often it was stopped; compiling and saving left out.

    None for a run too short to have a rate.
    """
    lines = timed(read_metrics(run_dir / "metrics.jsonl"))
    return lines[-1][0] if lines else None


def timed(lines: list[dict]) -> list[tuple[float, dict]]:
    """Return a log's lines of steps, each with the seconds that all steps so far took.

    Times are steps over the stages' usual rates; none for a run too short to have these.
    """
    lines, typical = [line for line in lines if "stage" in line], rates(lines)
    if {line["stage"] for line in lines} - typical.keys():
        return []
    steps = np.diff([0] + [line["step"] for line in lines])
    seconds = [n / typical[line["stage"]] for n, line in zip(steps, lines, strict=True)]
    return list(zip(map(float, np.cumsum(seconds)), lines, strict=True))


def train_command(config: Config, run_dir: Path) -> list[str]:
    """Return the command that a user would type to train with such a config."""
    settings = {name: value for name, (_, value, _) in options(config).items()}
    preset, data_dir = settings.pop("preset"), settings.pop("data_dir")
    where = ["--data-dir", data_dir, "--run-dir", str(run_dir)]
    return [sys.executable, "-m", "egs_jax", "train", preset, *where, *as_arguments(settings)]


def shrunk(config: Config) -> Config:
    """Return a run at its smallest, for `--tiny`: 48 px, 150 Gaussians, two steps a stage."""
    return dataclasses.replace(
        config,
        preset="tiny",
        size=48,
        model=ModelConfig(
            width=16, agents_count=20, sh_degree=1, hash_levels=4, hash_table=2**9
        ),
        schedule=ScheduleConfig(
            static_steps=2, deform_steps=2, batch=2, checkpoint_every=10, log_every=1,
            sh_interval=10,
        ),
        optim=PRESETS["tiny"].optim,
        densify=DensifyConfig(
            capacity=256, points=150, start=5, stop=18, every=5, prune_from=2,
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


def run_main(main: Callable[[], Any]) -> NoReturn:
    """Run `main` as a process: one line and exit status 2 for bad input, 1 for other failures.

    What it returns is printed, or is the exit status if it is a number.
    """
    try:
        result = main()
    except (InputError, NotImplementedError) as error:  # the latter: kernels that cannot run here
        print(f"experiments: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except (OSError, TrainingError) as error:
        print(f"experiments: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("experiments: stopped; finished runs of a series are kept", file=sys.stderr)
        # Python's own way out crashes in XLA where an interrupt came while it compiled.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    if isinstance(result, int):
        sys.exit(result)
    print(result)
    sys.exit(0)
