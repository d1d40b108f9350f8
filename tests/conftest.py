"""Strict flags for every test, and the one clip that tests of real data share."""

import contextlib
import gc
import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_traceback_in_locations_limit", 0)  # nobody reads them in these programs
jax.config.update("jax_num_cpu_devices", 4)  # tests of several devices need no other process
# Compiling takes far longer than running here: let XLA hurry, in this process and its children.
# Its older emitters for the CPU write the same loops in a third of the time.
HURRY = (
    "--xla_backend_optimization_level=0 "
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters=true"
)
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {HURRY}".strip()
# Triton kernels run in Triton's interpreter: chosen before anything imports Triton.
os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).parent))  # `helpers`: the importlib mode adds no paths

from helpers import COMPILED, make_dataset, micro_config  # noqa: E402

# Compiled programs are kept, with the bits they compute, even the least of them: hundreds are
# those of another process, and a second run of the tests is quick.
jax.config.update("jax_compilation_cache_dir", str(COMPILED))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Run all tests that share a costly fixture in one process, and the others file by file.

    Unless a test names its group itself: xdist would make a third group of both names. Not in
    `pytest_collection_modifyitems`, which comes after xdist's own and is too late for it.
    """
    costly = ("trained_run", "performer_dataset")
    group = next((name for name in costly if name in item.fixturenames), item.path.name)
    if not item.get_closest_marker("xdist_group"):
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_collection_finish() -> None:
    """Nothing that is there by now is ever garbage."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Nor is what is left at the end, through which pytest would search five times."""
    gc.freeze()


@dataclass(frozen=True)
class PerformerDataset:
    """A preprocessed clip of the synthetic performer (4 s, 192 px, mel features)."""

    video: Path
    folder: Path
    truth: object
    """The `egs_jax.performer.film.Performance`: what is known about every frame."""
    output: str
    """What preprocess printed."""


@pytest.fixture(scope="session")
def performer_dataset(tmp_path_factory) -> PerformerDataset:
    """Film the performer and preprocess the film, once for all tests; do not write into it."""
    from egs_jax.performer.film import write_performer_video
    from egs_jax.preprocess.pipeline import preprocess

    home = tmp_path_factory.mktemp("performer")
    truth = write_performer_video(home / "performer.mp4", seconds=4.0, seed=0, size=192)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        preprocess(home / "performer.mp4", home / "dataset", audio_features="mel")
    return PerformerDataset(
        home / "performer.mp4", home / "dataset", truth, output=printed.getvalue()
    )


@pytest.fixture(scope="session")
def painted(tmp_path_factory) -> Path:
    """The painted dataset's folder; do not write into it."""
    return make_dataset(tmp_path_factory.mktemp("painted") / "dataset")


@dataclass(frozen=True)
class TrainedRun:
    """A run of `micro_config` on the painted dataset that nothing disturbed."""

    folder: Path
    state: object
    """The `TrainState` that `fit` returned."""
    output: str
    """What `fit` printed."""


@pytest.fixture(scope="session")
def trained_run(painted, tmp_path_factory) -> TrainedRun:
    """Train once for all tests; do not write into the folder."""
    from egs_jax.data.dataset import Dataset
    from egs_jax.training.loop import fit

    folder = tmp_path_factory.mktemp("trained") / "run"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        state = fit(micro_config(painted), Dataset.open(painted), run_dir=folder)
    return TrainedRun(folder, state, printed.getvalue())


@dataclass(frozen=True)
class Series:
    """Two variants of the performer's avatar, trained by `experiments.ablations --tiny`."""

    command: list[str]
    """The command line that made it."""
    common: list[str]
    """What the command lines of others on the same runs begin with."""
    figure: Path
    results: Path
    run: Path
    """The run folder of the first variant, which is the default."""


@pytest.fixture(scope="session")
def series(performer_dataset, tmp_path_factory) -> Series:
    """Train for four steps and measure, once for all tests; copy the run to write into it."""
    from experiments import ablations

    home = tmp_path_factory.mktemp("series")
    folders = ["--out", str(home / "results"), "--figures", str(home / "figures")]
    common = [str(performer_dataset.folder), "--tiny", "--work", str(home / "runs"), *folders]
    command = [*common, "--seeds", "0", "--variants", "paper", "no_static"]
    figure = ablations.main(command)
    run = home / "runs" / "performer-tiny" / "paper-0"
    return Series(command, common, figure, home / "results", run)
