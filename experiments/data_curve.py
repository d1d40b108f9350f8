"""How quality grows with seconds of video: one person, one test set, more and more training films.

Claim: says what a user gains by filming longer, in every figure, and where it ends.

    python -m egs_jax preprocess TRAINING_FILM ... TEST_FILM ... DATASET --val-seconds S
    python -m experiments.data_curve DATASET [--seconds 15 30 60 120 210] [--seeds 0 1 2]
        [--presets fast] [--body person] [--dev] [--jobs 1] [--work FOLDER] [--tiny]
    python -m experiments.data_curve --collect RUN_DIR [RUN_DIR ...] [--shared]
    python -m experiments.data_curve --plot-only

DATASET is made of several films of one person, those to test on last; its split must fall between
two films. Every length is trained on a dataset of links to the same files, whose description leaves
out all training films but some: a seed draws its own order of films and takes them from the first
on until the length is there, the last one cut, so that a longer one has all of a shorter one. The
deviation over seeds is thus of training and of which sentences were filmed. All lengths take as
many steps. Films that hold less than a length are all used, and the case has the seconds that they
hold: GRID's 64 training films, 192 s for 210. `--dev` leaves the test films out and tests on the
last fifth of the training films instead: to choose settings by.

What is not fair: preprocessing saw all films at every length, test films too (`seen_of_all_frames`
in `meta.json`: crop, mean face, focal length, head and body poses, first cloud and colors, plate,
scale of blinks, exposure, lag of the sound, what is before the mouth), so short lengths are
flattered: 15 s of video alone make a poorer start. Pictures, landmarks, lips and sound of a test
film reach no training. Sentences of the GRID corpus are of 51 words, so a mouth trained on a minute
of them has said most words of the test: other speech may need more.

Runs as `self_reconstruction` does: stop it at any time, finished runs are kept and the run in hand
goes on from its checkpoint; `--jobs 8` shares a GPU, times are null then. Every finished run is a
case of `results/data_curve.json`; `--collect` does only that, with runs made anywhere, of whose
folders eval.json, curve.json, config.json, metrics.jsonl and environment.json are needed. `--tiny`
trains a few steps (tests).
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np

from egs_jax.config import Body, Config
from egs_jax.data.dataset import Dataset
from egs_jax.preprocess.pipeline import joined_source
from egs_jax.presets import PRESETS
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.errors import InputError, TrainingError
from egs_jax.runtime.files import write_atomically
from experiments import _plots, self_reconstruction, tables_curve
from experiments._clips import name_of
from experiments._jobs import leave_memory, run_missing
from experiments._linked import linked
from experiments._runs import add_case, parsed, run_main, to_draw

NAME = "data_curve"
SECONDS = (15.0, 30.0, 60.0, 120.0, 210.0)
CURVE = "curve.json"
"""File in a run's folder that says what it was trained on."""
DEV_SHARE = 0.2
"""Of the training films, the last ones, that `--dev` tests on."""


def main(argv: list[str] | None = None) -> Path:
    """Run the experiment; returns the figure."""
    arguments = parsed(_parser(), argv)
    if not (arguments.dataset or arguments.collect or arguments.plot_only):
        raise InputError("name a DATASET, runs to --collect, or draw earlier results: --plot-only")
    if min(arguments.seconds) <= 0:
        raise InputError(f"--seconds: got {min(arguments.seconds):g}, expected more than 0")
    leave_memory(arguments.jobs)
    ran, failed = run_all(arguments) if arguments.dataset else ([], [])
    path = arguments.figures / f"{NAME}.png"
    if not arguments.only_run:
        shared = arguments.shared or arguments.jobs > 1
        for run_dir in [*arguments.collect, *ran]:
            add_case(NAME, case_of(run_dir, shared=shared), key, arguments.out)
        cases = to_draw(NAME, arguments.out)
        _plots.data_curve(cases, path)
        print(tables_curve.gains_text(cases))
    if failed:
        raise TrainingError(f"{len(failed)} runs failed: see {', '.join(map(str, failed))}")
    return path


def _parser() -> Parser:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, nargs="?", metavar="DATASET")
    parser.add_argument("--seconds", nargs="+", type=float, default=list(SECONDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--presets", nargs="+", default=["fast"], choices=PRESETS)
    parser.add_argument("--body", default="person", choices=get_args(Body))
    parser.add_argument("--dev", action="store_true", help="test on training films, to choose by")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--collect", type=Path, nargs="+", default=[], metavar="RUN_DIR")
    parser.add_argument("--shared", action="store_true", help="other runs had the GPU too")
    parser.add_argument("--work", type=Path, default=Path(f"runs/{NAME}"))
    parser.add_argument("--plot-only", action="store_true")
    parser.add_argument("--only-run", action="store_true", help="write no case (what jobs do)")
    return parser


def run_all(arguments: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    """Train and measure what is missing.

    Returns:
      The folders of finished runs, and the logs of those that failed.
    """
    dataset = Dataset.open(arguments.dataset)
    if arguments.dev:
        dataset = training_films_alone(dataset, arguments.work / "dev")
    home = arguments.work / video_of(dataset.meta["source"])
    runs = {}
    # Seeds outside: a series that was stopped has whole curves.
    for seed, seconds in itertools.product(arguments.seeds, lengths(dataset, arguments.seconds)):
        part = shortened(dataset, seconds, seed, home / f"{seconds:g}s-{seed}-dataset")
        for name in arguments.presets:
            config = self_reconstruction.configured(
                part, name, seed, arguments.body, arguments.tiny
            )  # fmt: skip
            body = config.model.resolved.body
            runs[home / f"{seconds:g}s-{seed}-{config.preset}-{body}"] = (config, part)

    def command(config: Config, part: Dataset) -> list[str]:
        name = arguments.presets[0] if arguments.tiny else config.preset
        return [
            sys.executable, "-m", "experiments.data_curve", str(arguments.dataset), "--only-run",
            "--seconds", str(part.meta["curve"]["seconds"]), "--seeds", str(config.seed),
            "--presets", name, "--body", arguments.body, "--work", str(arguments.work),
            "--out", str(arguments.out), "--figures", str(arguments.figures),
        ] + ["--tiny"] * arguments.tiny + ["--dev"] * arguments.dev  # fmt: skip

    done, failed = run_missing(runs, arguments.jobs, command)
    for place in done:
        write_atomically(place / CURVE, json.dumps(runs[place][1].meta["curve"]))
    return done, failed


def split_films(dataset: Dataset) -> tuple[list[int], list[int]]:
    """Return the numbers of the films that are trained on and of those that are tested on.

    Raises:
      InputError: if there are not several films, the split falls inside one, or the same file is
        on both sides.
    """
    films = dataset.meta.get("films", [])
    train, val = (
        sorted({part.film for part in dataset.stretches if part.start < stop and start < part.stop})
        for start, stop in (dataset.splits[split] for split in ("train", "val"))
    )
    if len({*train, *val}) < 2 or not films:
        raise InputError(
            f"{dataset.folder}: made of one film; preprocess several of one person, the films to "
            "test on last"
        )
    if both := {*train} & {*val}:
        firsts = {part.film: part.start for part in reversed(dataset.stretches)}
        border = min(set(firsts.values()) - {0}, key=lambda at: abs(at - dataset.splits["val"][0]))
        raise InputError(
            f"{dataset.folder}: {films[min(both)]['name']} is trained on and tested on; preprocess "
            "again with a --val-seconds that begins with a film, such as "
            f"{(dataset.num_frames - border) / dataset.fps:g}"
        )
    hashes = [films[k]["sha256"] for k in train]
    for k in val:
        if films[k]["sha256"] in hashes:
            raise InputError(
                f"{dataset.folder}: {films[k]['name']} is trained on and tested on (as "
                f"{films[train[hashes.index(films[k]['sha256'])]]['name']}); name each film once"
            )
    return train, val


def lengths(dataset: Dataset, wanted: list[float]) -> list[float]:
    """Return the seconds to train on, each once: no more than all training films hold."""
    start, stop = dataset.splits["train"]
    held = (stop - start) / dataset.fps
    for seconds in wanted:
        if seconds > held:
            print(f"--seconds {seconds:g}: the training films hold {held:g} s, all are used")
    return sorted({min(seconds, held) for seconds in wanted})


def shortened(dataset: Dataset, seconds: float, seed: int, target: Path) -> Dataset:
    """Link a dataset that trains on `seconds` of its training films, in the order of a seed."""
    train, val = split_films(dataset)
    count, used, kept = round(seconds * dataset.fps), [], []
    for film in np.random.default_rng(seed).permutation(train).tolist():
        if len(kept) < count:
            used.append(film)
            for part in dataset.stretches:
                kept += range(part.start, part.stop) if part.film == film else ()
    others = np.setdiff1d(np.arange(*dataset.splits["train"]), kept[:count]).tolist()
    left_out = sorted({*others, *dataset.meta.get("left_out", [])})
    told = {"seconds": seconds, "films": len(used), "films_tested": len(val)}
    return linked(dataset.folder, target, {"left_out": left_out, "curve": told})


def training_films_alone(dataset: Dataset, target: Path) -> Dataset:
    """Link a dataset that is tested on its last training films, and has no other to test on."""
    train, _ = split_films(dataset)
    if len(train) < 2:
        raise InputError(f"{dataset.folder}: trains on one film, --dev needs several")
    tested = train[-max(1, round(DEV_SHARE * len(train))) :]
    border = next(part.start for part in dataset.stretches if part.film == tested[0])
    start, stop = dataset.splits["train"]
    changes = {
        "splits": {"train": [start, border], "val": [border, stop]},
        "source": joined_source([dataset.meta["films"][k] for k in train]),
    }
    return linked(dataset.folder, target, changes)


def video_of(source: dict[str, Any]) -> str:
    """Return what the films of a dataset are called in results."""
    return name_of(source["sha256"], Path(source["name"]).stem)


def case_of(run_dir: Path, *, shared: bool = False) -> dict:
    """Return the case of a finished run, from what its folder says.

    Raises:
      InputError: if it was not measured, or is of another experiment.
    """
    case = self_reconstruction.case_of(run_dir, shared=shared)
    path = run_dir / CURVE
    if not path.exists():
        raise InputError(f"{run_dir}: no {CURVE}; only runs of data_curve are on its curve")
    told = json.loads(path.read_text("utf-8"))
    return case | {"video": name_of(case["source_sha256"], case["video"])} | told


def key(case: dict) -> tuple:
    """Return what makes two cases one."""
    return tuple(case[k] for k in ("source_sha256", "preset", "width", "body", "seed", "seconds"))


if __name__ == "__main__":
    run_main(main)
