"""A trained run -> `eval.json` and `report.html`: every figure on raw frames, before any encoding.

What each figure means is said in experiments/README.md; formulas are in `metrics`. What a figure
was given of the held-out frames stands beside it under "given" (see `renders`). A figure that could
not be computed is null, with its reason under "notes".
"""

import json
from pathlib import Path

import jax

from egs_jax.avatar.avatar import Avatar
from egs_jax.data.dataset import Dataset
from egs_jax.evaluation import metrics
from egs_jax.evaluation.baselines import baseline_figures
from egs_jax.evaluation.measures import measure_split
from egs_jax.evaluation.metrics import Figure, mean_figure
from egs_jax.evaluation.pictures import report_pictures
from egs_jax.evaluation.renders import frames_per_second, given
from egs_jax.evaluation.report import print_figures, write_report
from egs_jax.evaluation.signals import lid_figures, mouth_figures, sync_figures
from egs_jax.face.landmarks import FaceLandmarker
from egs_jax.runtime.device import check_memory, say_device
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.files import make_beside, write_atomically
from kernels import implementations

LEAST_MEMORY = 2.0
"""GiB of a GPU; with much less the process dies without a word."""


def evaluate(
    run_dir: str | Path, split: str = "val", *, data_dir: str | Path | None = None
) -> dict:
    """Measure an avatar on one split; prints a table, writes `eval.json` and `report.html`.

    A run folder is drawn exactly and gets both. Of a file NAME.egs, which is drawn as baked, they
    come into a folder NAME.eval beside it. `data_dir` is where the dataset lies, if that was moved.

    Raises:
      InputError: if the run or its dataset cannot be read, the run cannot be written to, or other
        processes have the GPU.
    """
    run_dir = Path(run_dir)
    avatar = Avatar.load(run_dir, data_dir, exact=not run_dir.is_file())
    data = avatar.dataset
    if avatar.written is not None:
        run_dir = run_dir.with_suffix(".eval")
    _check_place(run_dir, make=avatar.written is not None)
    say_device("evaluating")
    check_memory(jax.local_devices()[0], least=LEAST_MEMORY)
    landmarker = FaceLandmarker()
    frames = data.frames_of(split)
    measured = measure_split(avatar, frames, landmarker)
    values, notes = metrics.report(
        {name: mean_figure(each, "undefined there") for name, each in measured.images.items()}
        | baseline_figures(data, frames)
        | mouth_figures(avatar, measured, landmarker)
        | sync_figures(avatar, measured)
        | lid_figures(measured)
        | {"jitter_px": _jitter(data), "render_fps": Figure(frames_per_second(avatar, frames))}
    )
    result = {
        "source": {name: data.meta["source"][name] for name in ("name", "sha256")},
        "split": split,
        "frames": len(frames),
        "width": data.width,
        "height": data.height,
        **seconds_of(data),
        "given": given(data),
        **values,
        "num_gaussians": avatar.num_gaussians,
        "drawn": "exact" if avatar.is_exact else "baked",
        "device": jax.devices()[0].device_kind,
        "kernels": implementations(),
        "notes": notes,
    }
    write_atomically(run_dir / "eval.json", json.dumps(result, indent=2))
    write_report(run_dir, result, report_pictures(avatar, measured))
    print_figures(result)
    return result


def seconds_of(dataset: Dataset) -> dict[str, float]:
    """Return how many seconds of the clip were trained on, and how many held out."""
    return {
        "seconds_trained": len(dataset.train_frames) / dataset.fps,
        "seconds_held_out": len(dataset.frames_of("val")) / dataset.fps,
    }


def _check_place(run_dir: Path, *, make: bool) -> None:
    """Refuse a run that cannot be written to before it is measured; a file's folder may be made."""
    try:
        if make:
            run_dir.mkdir(exist_ok=True)
        make_beside(run_dir / "eval.json").unlink()
    except OSError as error:
        raise InputError(
            f"{run_dir}: cannot write there ({error.strerror or error}); copy the run to a folder "
            "that can be written"
        ) from None


def _jitter(dataset: Dataset) -> Figure:
    """The dataset's own, of its poses; no property of the renders."""
    jitter = dataset.meta.get("tracking", {}).get("jitter_px")
    return Figure(jitter, "not in the dataset" if jitter is None else None)
