"""egs-jax: a person's talking head from a few minutes of video, driven by any speech.

Read the files in this order; each is one step of the data's way:

 1. `video`, `audio_file`      frames and sound out of files, by timestamps
 2. `audio`, `whisper`         sound -> features, 50 a second
 3. `preprocess`               video -> dataset folder, with `face_pass`, `landmarks`, `crop`,
                               `segmentation` and `masks` (head, background), `tracking` and
                               `pose_refinement` (head pose), `head_cloud` (first Gaussians),
                               `capture_check`
 4. `dataset`, `batches`       folder -> batches, on the host or (`resident`) on the device
 5. `triplane`, `kan`          spatial features of a Gaussian
 6. `gaussians`, `density`     the canonical cloud and its growth at fixed capacity
 7. `tokens`, `attention`, `decoders`   speech -> how every Gaussian moves
 8. `kernels.rasterize`        Gaussians -> image
 9. `losses`, `perceptual`, `metrics`
10. `model`                    5 to 8 on one page
11. `train`, `optimizer`, `loop`, `checkpoint`, `run_log`; several devices: `parallel`,
    `hosts`
12. `avatar`, `prepared`, `drive`, `infer`   what an avatar keeps; a batch of frames
    `stream`, `render`         speech, live or from a file -> frames, video
13. `evaluate`, `baselines`, `report`, `demo`
"""

import importlib
from typing import Any

_HOME = {
    "Avatar": "avatar",
    "Config": "config",
    "Dataset": "dataset",
    "InputError": "errors",
    "Stream": "stream",
    "densify_step": "train",
    "draw": "infer",
    "fit": "loop",
    "hand_over": "train",
    "infer_step": "infer",
    "init_state": "train",
    "load_drive": "infer",
    "preset": "config",
    "render_video": "render",
    "train_step": "train",
}
__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that the command line starts quickly."""
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
