"""How near baked pictures are to the exact ones, by the number of codes.

Pictures of the same avatar, in the same frames, with its networks and with K codes; held-out frames
of the clip at its own poses (a person's body told from the head's path), and frames of other
people's speech. Claim: with `avatar.baking.CODES` codes at least 50 dB.

    python -m experiments.baking RUN_DIR [RUN_DIR ...] [--speech FILE ...] [--frames 40] [--tiny]
    python -m experiments.baking --plot-only

adds a case per (run, speech, K) to `results/baking.json`, with the worst frame and the size of a
file of it, and draws `figures/baking.png`. A run that was evaluated as it is (`egs-jax evaluate
RUN`) and as baked (`evaluate RUN/avatar.egs`) has figures of both.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from egs_jax.avatar import precomputed as prepared
from egs_jax.avatar.avatar import KEPT, Avatar
from egs_jax.avatar.baked import Baked
from egs_jax.avatar.baking import CODES, bake_motions, motions_of
from egs_jax.avatar.draw import load_drive
from egs_jax.avatar.export import export
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.errors import InputError
from egs_jax.types import Drive
from experiments import _plots
from experiments._runs import add_case, parsed, rounded, run_main, run_of, to_draw

NAME = "baking"
COUNTS = (8, 16, CODES, 32, 40)
"""Codes a frame that are tried."""

HELD_OUT = "held out"
"""What frames of the clip are called beside those of speeches."""
FIGURES = ("mouth_r", "lmd", "psnr_head", "psnr_lips", "ssim", "lpips")
"""Of `eval.json`, those that are compared."""

_rendered = jax.jit(prepared.render, static_argnums=0)


def main(argv: list[str] | None = None) -> Path:
    """Bake runs; returns the results file."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dirs", type=Path, nargs="*", metavar="RUN_DIR")
    parser.add_argument("--speech", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--frames", type=int, default=40, help="of each")
    parser.add_argument("--data-dir", type=Path, help="where the runs' dataset was moved")
    parser.add_argument("--plot-only", action="store_true")
    arguments = parsed(parser, argv)
    if not (arguments.run_dirs or arguments.plot_only):
        raise InputError("name a RUN_DIR, or draw earlier results with --plot-only")
    most = 3 if arguments.tiny else arguments.frames
    for run_dir in arguments.run_dirs:
        avatar = Avatar.load(run_dir, arguments.data_dir, exact=True)
        counts = COUNTS[-2:] if arguments.tiny else COUNTS
        for case in cases_of(avatar, arguments.speech, counts, most):
            if case["speech"] == HELD_OUT and case["codes"] == CODES:
                case["figures"] = figures_of(run_dir)
            print(case, flush=True)
            add_case(NAME, rounded(case), _key, arguments.out)
    path = arguments.figures / f"{NAME}.png"
    _plots.baking(to_draw(NAME, arguments.out), path)
    return path


def figures_of(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Return the figures of what `evaluate` measured of a run and of its own file."""
    places = {"exact": run_dir, "baked": (run_dir / KEPT).with_suffix(".eval")}
    told = {name: place / "eval.json" for name, place in places.items()}
    read = {
        name: json.loads(path.read_text("utf-8")) for name, path in told.items() if path.exists()
    }
    return {name: {key: values[key] for key in FIGURES} for name, values in read.items()}


def _key(case: dict) -> tuple:
    return tuple(case[n] for n in ("video", "preset", "body", "seed", "speech", "codes"))


def cases_of(
    avatar: Avatar, speeches: list[Path], counts: Sequence[int], most: int
) -> Iterator[dict[str, Any]]:
    """Compare at most so many frames of the clip and of every speech, with all counts of codes."""
    motions = motions_of(avatar.trained, avatar.dataset)
    driven = {HELD_OUT: held_out(avatar, most)}
    driven |= {path.stem: spoken(avatar, path, most) for path in speeches}
    exact = {name: _pictures(avatar, avatar.prepared, drives) for name, drives in driven.items()}
    for count in counts:
        baked = bake_motions(avatar.trained, motions, count)
        size = megabytes(avatar, baked)
        for name, drives in driven.items():
            shown = _pictures(avatar, baked, drives)
            error = np.square(shown - exact[name]).mean(axis=(1, 2, 3))
            psnr = -10 * np.log10(np.maximum(error, 1e-12))
            yield {
                **run_of(avatar),
                "gaussians": avatar.num_gaussians,
                "speech": name,
                "frames": len(drives),
                "codes": count,
                "psnr_to_exact": float(psnr.mean()),
                "psnr_to_exact_worst": float(psnr.min()),
                "file_mb": size,
            }


def held_out(avatar: Avatar, most: int) -> list[Drive]:
    """Drive held-out frames of the clip, evenly spaced, one at a time."""
    frames = avatar.dataset.frames_of("val")
    frames = frames[np.unique(np.linspace(0, len(frames) - 1, most).astype(int))]
    window = avatar.config.model.window_frames
    return [avatar.dataset.drive(frames[i : i + 1], window, told=True) for i in range(len(frames))]


def spoken(avatar: Avatar, speech: Path, most: int) -> list[Drive]:
    """Drive frames of a speech, evenly spaced, one at a time."""
    drive = load_drive(speech, avatar)
    frames = np.unique(np.linspace(0, drive.num_frames - 1, most).astype(int)).tolist()
    return [drive.frames(i, i + 1) for i in frames]


def megabytes(avatar: Avatar, baked: Baked) -> float | None:
    """Return the size of a file of a baked person; None: a head has none."""
    if avatar.limits is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "avatar.egs"
        export(avatar, path, baked)
        return path.stat().st_size / 1e6


def _pictures(
    avatar: Avatar, kept: prepared.Drawable, drives: list[Drive]
) -> Float[np.ndarray, "T H Wd 3"]:
    shown = [np.asarray(_rendered(avatar.config.drawing, kept, drive).rgb[0]) for drive in drives]
    return np.clip(np.stack(shown), 0, 1)


if __name__ == "__main__":
    run_main(main)
