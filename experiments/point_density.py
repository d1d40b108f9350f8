"""Places of the Gaussians, with the static stage and without (the paper's Fig. 5).

Claim of the paper: the static initialization puts points where the face needs them, and what
follows learns faster. Its figure shows clouds of points without numbers; here are counts per
region, sizes, distances to the neighbors, and the training PSNR by step. Both ways start from the
same points and take as many steps; those of the deformation stage cost more, so the seconds are
given too. Without the static stage nothing is ever cloned, split or removed.

    python -m experiments.point_density DATASET [--preset fast] [--seeds 0 1 2] [--work FOLDER]
        [--plot-only] [--tiny]

Trains `paper` and `no_static` of `experiments.ablations`, in the same folders: where those runs are
finished this takes seconds. Writes `results/point_density.json` and its figure, which shows the
first seed's clouds. Same seeds, same bits on a CPU.
"""

from pathlib import Path
from typing import Any

import numpy as np

from egs_jax.config import Config
from egs_jax.data.dataset import Dataset
from egs_jax.presets import PRESETS
from egs_jax.runtime.arguments import Parser
from egs_jax.training import step as train
from egs_jax.training.loop import fit
from egs_jax.training.run_folder import read_metrics
from egs_jax.training.state import TrainState
from experiments import _plots
from experiments._regions import REGIONS, regions_of, spacing
from experiments._runs import add_case, parsed, rounded, run_main, to_draw, training_seconds
from experiments.ablations import base_config, configured, key, run_folder, setting

NAME = "point_density"
ARMS = ("paper", "no_static")
PERCENTILES = (5, 25, 50, 75, 95)
BINS = 24
"""Points of the curve over steps."""
MAP_SIDE = 48
"""Cells of a side of the map of points, over +-1 world units."""


def main(argv: list[str] | None = None) -> Path:
    """Run what is missing; returns the figure."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, metavar="DATASET")
    parser.add_argument("--preset", default="fast", choices=PRESETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--plot-only", action="store_true")
    arguments = parsed(parser, argv)
    if not arguments.plot_only:
        dataset, base = Dataset.open(arguments.dataset), base_config(arguments)
        for seed in arguments.seeds:
            for arm in ARMS:
                config = configured(arm, base, seed)
                case = run_case(arm, config, dataset, arguments.work)
                add_case(NAME, rounded(case), key, arguments.out)
    cases = to_draw(NAME, arguments.out)
    path = arguments.figures / f"{NAME}.png"
    _plots.point_density(cases, path)
    return path


def run_case(arm: str, config: Config, dataset: Dataset, work: Path) -> dict[str, Any]:
    """Train (or go on, or find finished) one run and describe its cloud."""
    run_dir = run_folder(work, config, dataset, arm)
    state = fit(config, dataset, run_dir=run_dir)
    mean_shape = np.asarray(dataset.arrays["mean_shape"])
    return {
        **setting(arm, config, dataset),
        "train_seconds": training_seconds(run_dir),
        "start": cloud_figures(train.init_state(config, dataset), mean_shape),
        "end": cloud_figures(state, mean_shape),
        "curve": curve(run_dir),
    }


def cloud_figures(state: TrainState, mean_shape: np.ndarray) -> dict[str, Any]:
    """Count Gaussians, per region too; percentiles of size and spacing; a map from the front."""
    live = np.flatnonzero(state.alive)
    free = state.params["gaussians"]
    means = np.asarray(free.means)[live]
    # The side of a cube of the same volume; the thinnest axis alone says little.
    sizes = np.exp(np.asarray(free.log_scales)[live].mean(axis=1))
    regions = regions_of(means, mean_shape)
    edges = np.linspace(-1, 1, MAP_SIDE + 1)
    front, _, _ = np.histogram2d(means[:, 1], means[:, 0], bins=(edges, edges))
    return {
        "gaussians": len(live),
        "by_region": {name: int(np.sum(regions == k)) for k, name in enumerate(REGIONS)},
        "size": _percentiles(sizes),
        "spacing": _percentiles(spacing(means)),
        "map": [" ".join(map(str, row)) for row in front.astype(int)],  # a line a row
    }


def _percentiles(values: np.ndarray) -> dict[str, float]:
    return {f"p{q}": float(np.percentile(values, q)) for q in PERCENTILES}


def curve(run_dir: Path) -> dict[str, list[float]]:
    """Return training loss and PSNR by step: means over equal stretches of the run's logged lines.

    PSNR is that of the composite on the batch just seen. The stages' losses have other terms, so
    only the PSNR compares them.
    """
    lines = [line for line in read_metrics(run_dir / "metrics.jsonl") if "stage" in line]
    stretches = np.array_split(np.arange(len(lines)), min(BINS, len(lines)))
    # A step that was not finite has null.
    of = lambda name: np.array([line[name] for line in lines], float)
    mean = lambda name: [float(np.nanmean(of(name)[part])) for part in stretches]
    return {name: mean(name) for name in ("step", "loss", "psnr")}


if __name__ == "__main__":
    run_main(main)
