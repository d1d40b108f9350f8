"""Training that is killed over and over, at random moments, ends with the bits of one that was not.

Claim: nothing is lost. A small run on the synthetic performer is started, killed (SIGKILL) at a
random moment between the first import and the last save, and started again by the same command.
After every kill the newest complete checkpoint must be no older than the one before; a run that
comes to its end must have logged every step once and have the hash of an undisturbed run, and then
the next run begins.

    python -m experiments.kill_training [--kills 200] [--seed 0] [--work FOLDER] [--tiny]

writes `results/kill_training.json`; about ten seconds a kill on two CPU cores. `--tiny` kills twice
and writes nowhere but to --out.
"""

import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

from egs_jax.config import Config, DensifyConfig, LossConfig, ModelConfig, ScheduleConfig
from egs_jax.performer.film import write_performer_video
from egs_jax.preprocess.pipeline import preprocess
from egs_jax.runtime.arguments import Parser
from egs_jax.training.checkpoint import FOLDER
from egs_jax.training.run_folder import read_metrics
from experiments._common import record
from experiments._runs import parsed, run_main, train_command


def small(dataset: Path) -> Config:
    """Return a run of seconds that goes through everything: both stages, density, many saves."""
    return Config(
        preset="tiny", data_dir=str(dataset), size=48,
        model=ModelConfig(width=16, agents_count=20, sh_degree=1, hash_levels=4),
        schedule=ScheduleConfig(
            static_steps=60, deform_steps=60, batch=2, checkpoint_every=5, log_every=5,
            sh_interval=20,
        ),
        densify=DensifyConfig(
            capacity=512, points=300, start=5, stop=50, every=5, prune_from=2, prune_large_from=10
        ),
        loss=LossConfig(perceptual=0.0),
    )  # fmt: skip


def train(line: list[str], work: Path, seconds: float | None = None) -> int | None:
    """Train until the end or, if it comes earlier, for some seconds; the exit status, or None."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(work / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }
    with (work / "output.txt").open("ab") as output:
        process = subprocess.Popen(line, env=environment, stdout=output, stderr=output)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None


def newest(run_dir: Path) -> int:
    """Return the step of the newest complete checkpoint; 0 if there is none."""
    folder = run_dir / FOLDER
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def check_finished(run_dir: Path, wanted: list[dict]) -> None:
    """Compare a finished run's log with the undisturbed one's: each step once, the same numbers.

    Raises:
      RuntimeError: if they differ.
    """
    found = read_metrics(run_dir / "metrics.jsonl")
    plain = lambda lines: [{k: v for k, v in x.items() if k != "steps_per_second"} for x in lines]
    if plain(found) != plain(wanted):
        raise RuntimeError(f"{run_dir}: not the log of an undisturbed run; it ends {found[-1]}")


def run(kills: int, seed: int, work: Path) -> list[dict]:
    """Kill so many times; one case a kill, then a summary.

    Raises:
      RuntimeError: if anything was lost.
    """
    work.mkdir(parents=True, exist_ok=True)
    dataset = work / "dataset"
    if not (dataset / "meta.json").exists():
        film = work / "performer.mp4"
        write_performer_video(film, seconds=4.0, seed=0, size=192)
        preprocess(film, dataset, audio_features="mel")
    config, undisturbed = small(dataset.resolve()), work / "undisturbed"
    shutil.rmtree(undisturbed, ignore_errors=True)
    train(train_command(config, undisturbed), work)  # compiles
    shutil.rmtree(undisturbed)
    began = time.perf_counter()
    if train(train_command(config, undisturbed), work) != 0:
        raise RuntimeError(f"training fails undisturbed; see {work / 'output.txt'}")
    whole = time.perf_counter() - began
    wanted, draw, cases, finished = (
        read_metrics(undisturbed / "metrics.jsonl"), random.Random(seed), [], 0
    )  # fmt: skip
    run_dir, before = work / "killed-0", 0
    shutil.rmtree(run_dir, ignore_errors=True)
    while len(cases) < kills:
        seconds = draw.uniform(0.0, 1.1 * whole)
        status = train(train_command(config, run_dir), work, seconds)
        if status is None:
            step = newest(run_dir)
            if step < before:
                raise RuntimeError(f"{run_dir}: back from checkpoint {before} to {step}")
            cases.append(dict(run=finished, killed_after_s=round(seconds, 2), checkpoint=step))
            print(cases[-1], flush=True)
            before = step
            continue
        if status != 0:
            raise RuntimeError(f"{run_dir}: ended with {status}; see {work / 'output.txt'}")
        check_finished(run_dir, wanted)
        shutil.rmtree(run_dir)
        finished += 1
        run_dir, before = work / f"killed-{finished}", 0
        shutil.rmtree(run_dir, ignore_errors=True)
    if train(train_command(config, run_dir), work) != 0:
        raise RuntimeError(f"{run_dir}: does not go on; see {work / 'output.txt'}")
    check_finished(run_dir, wanted)
    summary = dict(
        kills=len(cases), finished_runs=finished + 1, undisturbed_s=round(whole, 1),
        state_sha256=wanted[-1]["state_sha256"],
    )  # fmt: skip
    print(json.dumps(summary), flush=True)
    return [*cases, summary]


def main(argv: list[str] | None = None) -> Path:
    """Run the test; returns the file written."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/kill_training"))
    arguments = parsed(parser, argv, figures=False)
    kills = 2 if arguments.tiny else arguments.kills
    cases = run(kills, arguments.seed, arguments.work)
    return record("kill_training", cases, arguments.out)


if __name__ == "__main__":
    run_main(main)
