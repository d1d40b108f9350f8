"""egs-jax: a person's talking head from a few minutes of video, driven by any speech.

The rooms in the order of the data's way. A room imports only from rooms above it, and this list is
the only map: `tests/test_architecture.py` checks it, and the README's diagram is written from it.

runtime      what every room needs: errors, atomic files, models to fetch, progress, environment
config       every setting
presets      the four presets
config_text  settings as command-line options and as JSON
types        the arrays that rooms hand to each other, with shapes and units
media        pictures and sound out of files and into them, on one clock
face         networks that see a face: 478 landmarks, head and body masks
speech       sound -> features, 50 rows a second
performer    the synthetic performer of the demo, of whom everything is known
data         the dataset folder, and the batches that are cut from it
preprocess   video -> dataset folder: crop, masks, head poses, first points
adnerf       another program's dataset, in the form of AD-NeRF, -> dataset folder
model        hash tri-plane, KANs, attention, decoders: speech -> moved Gaussians -> image
training     losses, steps, density control, the loop, checkpoints, several devices
avatar       a trained run that speaks: sound -> frames -> film or live stream
serve        avatars on a page, or at a program's socket: sound in, codes or pictures out
evaluation   figures on raw frames, baselines, the report
demo         all of it in one command
"""

import importlib
from typing import Any

_HOME = {
    "Avatar": "avatar.avatar",
    "Config": "config",
    "Dataset": "data.dataset",
    "InputError": "runtime.errors",
    "Look": "avatar.look",
    "Sessions": "avatar.sessions",
    "Stream": "avatar.stream",
    "densify_step": "training.step",
    "draw": "avatar.draw",
    "draw_codes": "avatar.draw",
    "evaluate": "evaluation.evaluate",
    "export": "avatar.export",
    "fit": "training.loop",
    "hand_over": "training.step",
    "infer_step": "avatar.draw",
    "init_state": "training.step",
    "load_drive": "avatar.draw",
    "motion_codes": "avatar.draw",
    "preset": "presets",
    "render_video": "avatar.film",
    "train_step": "training.step",
}
__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that the command line starts quickly."""
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
