"""Every choice of the paper that can be taken back, one at a time, at equal length.

Claims of the paper: KANs beat MLPs, ESAA costs less than cross-attention and loses nothing, PPE and
the static initialization help. Its tables could not be recovered, so each row stands beside our own
`paper` row of the same seed, data and steps, and beside no number of the paper's. What else is not
comparable: `mlp` has under half of the weights that act in a frame (the heads of `mlp_wide` have as
many products as those of `paper`), `dense` four times as many table entries; `no_static` takes as
many steps, but dearer ones, and never clones. On a GPU the heads of `mlp` and `mlp_wide` are
trained, and with those of `cross` drawn, by XLA in float32, the others by Triton kernels with
operands of bfloat16: do not compare their `render_fps`, and differences of quality there may come
from that. Parameters and seconds of every row are in the JSON.

    python -m experiments.ablations DATASET [--preset fast] [--variants NAME ...] [--seeds 0 1 2]
        [--work FOLDER] [--plot-only] [--tiny]

33 runs of 4,500 steps (`fast`); what each took is in its case. Stop it at any time: cases that are
in `results/ablations.json` with the same preset, steps, size and video are skipped, and the run in
hand goes on from its checkpoint. Same seeds, same bits on a CPU.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from egs_jax.config import Config
from egs_jax.config_text import override
from egs_jax.data.dataset import Dataset
from egs_jax.evaluation.evaluate import evaluate
from egs_jax.model.triplane import is_plane_parameter
from egs_jax.presets import PRESETS, preset
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.errors import InputError
from egs_jax.training.loop import fit
from egs_jax.training.state import TrainState
from experiments import _plots
from experiments._runs import (
    add_case,
    earlier,
    parsed,
    rounded,
    run_main,
    shrunk,
    to_draw,
    training_seconds,
)

NAME = "ablations"
BASE = "paper"
SERIES = 3
"""Raised whenever training changes so that rows do not compare with those before: each row stands
beside the base of its own series."""
LONG_WINDOW = 32
"""Frames of a window longer than the period of the PPE (25)."""


class Variant(NamedTuple):
    """One change of the base."""

    about: str
    changes: Callable[[Config], dict[str, Any]]
    """Dotted settings that differ, given the config to be changed."""


def _model(**fields: Any) -> Callable[[Config], dict[str, Any]]:
    return lambda _: {f"model.{name}": value for name, value in fields.items()}


def _wide(config: Config) -> dict[str, Any]:
    """MLPs whose heads have as many products as the Taylor KAN's, which has three an input."""
    mlp = {"model.decoder": "mlp", "model.token_kan": "mlp"}
    return mlp | {"model.width": 3 * config.model.width}


def _no_static(config: Config) -> dict[str, Any]:
    """All steps in the deformation stage, from the cloud that the static stage starts with."""
    return {"schedule.static_steps": 0, "schedule.deform_steps": config.total_steps}


VARIANTS = {
    BASE: Variant("hash tri-plane, Taylor KANs, ESAA, PPE, static stage", _model()),
    "parity": Variant("what the original code computes", _model(architecture="parity")),
    "mlp": Variant("KAN -> MLP everywhere", _model(decoder="mlp", token_kan="mlp")),
    "mlp_wide": Variant("the same, heads three times as wide", _wide),
    "cross": Variant("ESAA -> full cross-attention", _model(attention="cross")),
    "ppe_off": Variant("no PPE", _model(ppe="off")),
    "long_window": Variant(
        f"window of {LONG_WINDOW} frames, longer than PPE's period",
        _model(window_frames=LONG_WINDOW),
    ),
    "long_window_ppe_off": Variant(
        f"window of {LONG_WINDOW} frames, no PPE", _model(window_frames=LONG_WINDOW, ppe="off")
    ),
    "no_static": Variant("no static stage, as many steps", _no_static),
    "dense": Variant("hash -> dense planes", _model(encoder="dense")),
}


def main(argv: list[str] | None = None) -> Path:
    """Run what is missing; returns the figure."""
    arguments = parsed(_parser(), argv)
    unknown = [name for name in arguments.variants if name not in VARIANTS]
    if unknown:
        raise InputError(f"--variants: no {', '.join(unknown)}; choose of {', '.join(VARIANTS)}")
    if not arguments.plot_only:
        dataset = Dataset.open(arguments.dataset)
        base = base_config(arguments)
        # Seeds outside: a series that was stopped has whole comparisons.
        for seed in arguments.seeds:
            for name in arguments.variants:
                _add(name, configured(name, base, seed), dataset, arguments)
    cases = to_draw(NAME, arguments.out)
    path = arguments.figures / f"{NAME}.png"
    _plots.ablations(cases, path)
    return path


def _parser() -> Parser:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, metavar="DATASET")
    parser.add_argument("--preset", default="fast", choices=PRESETS)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--plot-only", action="store_true")
    return parser


def base_config(arguments: Any) -> Config:
    """Return the config that all variants change, of `preset`, `dataset` and `tiny`."""
    config = preset(arguments.preset, data_dir=str(arguments.dataset.resolve()))
    return shrunk(config) if arguments.tiny else config


def configured(name: str, base: Config, seed: int) -> Config:
    """Return the config of a variant."""
    changes = {"seed": seed, "model.body": "head"} | VARIANTS[name].changes(base)
    return override(base, {setting: str(value) for setting, value in changes.items()})


def run_folder(work: Path, config: Config, dataset: Dataset, name: str) -> Path:
    """Return the folder where a variant trains; other presets and videos lie beside it."""
    video = dataset.meta["source"]["name"]
    return work / f"{Path(video).stem}-{config.preset}" / f"{name}-{config.seed}"


def setting(name: str, config: Config, dataset: Dataset) -> dict[str, Any]:
    """Return the first entries of a case: its variant, seed, steps, size and clip."""
    return {
        "variant": name,
        "seed": config.seed,
        "series": SERIES,
        "preset": config.preset,
        "static_steps": config.schedule.static_steps,
        "deform_steps": config.schedule.deform_steps,
        "size": config.size or dataset.width,
        "dataset": Path(dataset.meta["source"]["name"]).stem,
        "source_sha256": dataset.meta["source"]["sha256"],
    }


def key(case: dict) -> tuple:
    """Return what makes two cases one: names may differ, the hash of the video may not."""
    names = ("variant", "seed", "series", "preset", "static_steps", "deform_steps", "size")
    return *(case[name] for name in names), case["source_sha256"]


def _add(name: str, config: Config, dataset: Dataset, arguments: Any) -> None:
    """Train and measure one case, unless it is among the results."""
    case = setting(name, config, dataset)
    if key(case) in map(key, earlier(NAME, arguments.out)):
        print(f"{name}, seed {config.seed}: in the results already")
        return
    print(f"{name}, seed {config.seed}: {VARIANTS[name].about}", flush=True)
    run_dir = run_folder(arguments.work, config, dataset, name)
    state = fit(config, dataset, run_dir=run_dir)
    case |= {"parameters": parameters(state), "train_seconds": training_seconds(run_dir)}
    add_case(NAME, rounded(case | evaluate(run_dir)), key, arguments.out)


def parameters(state: TrainState) -> dict[str, int]:
    """Count trained numbers: of the planes, the other networks, and what acts in every frame."""
    counts = {"planes": 0, "networks": 0, "per_frame": 0}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state.params["networks"])[0]:
        names = [entry.key for entry in path]
        counts["planes" if is_plane_parameter(path) else "networks"] += leaf.size
        counts["per_frame"] += leaf.size * (names[0] in ("tokens", "attention", "deform"))
    return counts


if __name__ == "__main__":
    run_main(main)
