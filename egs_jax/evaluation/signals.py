"""Does the sound drive the mouth, does silence close it, do the lids follow: figures of landmarks.

Signals have one value a frame: how far the lips or the lids are apart, on renders and on true
frames, and how loud the sound is.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import to_uint8
from egs_jax.data.dataset import Dataset
from egs_jax.data.stretches import laid_out
from egs_jax.evaluation import metrics, mouth
from egs_jax.evaluation.measures import Measured, landmarks_near
from egs_jax.evaluation.metrics import Figure, mean_figure
from egs_jax.evaluation.renders import rendered_frames
from egs_jax.face.landmarks import FaceLandmarker
from egs_jax.face.mesh import eye_openness, mouth_opening
from egs_jax.media.audio_file import read_audio
from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.runtime.progress import progress
from egs_jax.speech.features import IMPORTED

SILENT_FRAMES = 32
"""Training frames rendered under silence."""
TRAIN_FRAMES = 200
"""Training frames rendered as spoken, to which the silent ones are compared."""
SHIFTED_FRAMES = 128
"""Frames of a longer split, spread evenly, that are rendered under shifted sound: fifty times each,
and neighbors say nearly the same."""
ECHO = "the lids of the frame are given: an input's echo"
"""Note on `blink_r`."""


def mouth_figures(
    avatar: Avatar, measured: Measured, landmarker: FaceLandmarker
) -> dict[str, Figure]:
    """Compare the lips of the renders with the true ones, with shifted sound and with silence."""
    data, frames = avatar.dataset, measured.frames
    true, rendered = mouth_opening(measured.true_landmarks), mouth_opening(measured.landmarks)
    offsets = metrics.shift_offsets(len(frames), data.fps)
    spread = lambda most, of: of[np.linspace(0, len(of) - 1, min(most, len(of))).astype(int)]
    spoken, quiet = (spread(most, data.train_frames) for most in (TRAIN_FRAMES, SILENT_FRAMES))
    some = spread(SHIFTED_FRAMES, np.arange(len(frames)))
    hush = data.silence(len(quiet), avatar.config.model.window_frames)
    # There is no telling what another program's features of digital silence would be.
    foreign = data.meta["audio_features"]["kind"] == IMPORTED
    total = len(offsets) * len(some) + (0 if foreign else len(spoken) + len(quiet))
    with progress(total, "evaluate: mouth", "frame") as bar:
        openings = lambda chosen, heard: _openings(
            avatar, landmarker, chosen, heard, lambda: bar.advance(0)
        )
        shifted = [openings(frames[some], np.roll(frames, shift)[some]) for shift in offsets]
        silence = (
            Figure(None, "another program's features: none of digital silence are known")
            if foreign
            else metrics.silence_percentile(openings(quiet, hush), openings(spoken, None))
        )
    lmd = metrics.lmd(measured.landmarks, measured.true_landmarks)
    return {
        "lmd": mean_figure(lmd, "no face seen"),
        "mouth_r": metrics.correlation(rendered, true),
        "mouth_gain": metrics.gain(rendered, true),
        "mouth_r_shift_p95": _shifted_figure(shifted, true[some]),
        "mouth_silence_percentile": silence,
        **_ends_and_closures(data, frames, rendered, true, offsets),
    }


def _ends_and_closures(
    data: Dataset, frames: np.ndarray, rendered: np.ndarray, true: np.ndarray,
    offsets: Int[np.ndarray, " R"],
) -> dict[str, Figure]:  # fmt: skip
    """Compare how far the lips open at both ends, and whether they shut."""
    levels = mouth.levels_of(data.arrays["mouth_opening"][data.train_frames])
    line = lambda values: laid_out(values, frames, data.stretches, 1)  # no closure over a cut
    closures = mouth.closures_of(line(true), levels, data.fps)
    widest, narrowest = mouth.end_errors(rendered, true)
    # Lips told by sound are, under shifted sound, those of the frame that it was taken from.
    runs = [line(np.roll(rendered, shift)) for shift in offsets]
    return {
        "mouth_wide_error": widest,
        "mouth_narrow_error": narrowest,
        "num_closures": Figure(float(len(closures))),
        "closures": mouth.closed_share(line(rendered), closures, levels),
        "closures_shift_p95": mouth.shifted_share(runs, closures, levels),
    }


def _openings(
    avatar: Avatar, landmarker: FaceLandmarker, frames: np.ndarray, heard: np.ndarray | None,
    tick: Callable[[], None],
) -> Float[np.ndarray, " T"]:  # fmt: skip
    """Lip openings of renders of `frames` that hear something; `tick` is called after each."""
    values = []
    for i, image in zip(frames, rendered_frames(avatar, frames, heard), strict=True):
        points = landmarks_near(landmarker, to_uint8(image), avatar.dataset.landmarks(i))
        values.append(float(mouth_opening(points)))
        tick()
    return np.array(values)


def _shifted_figure(shifted: list[np.ndarray], true: np.ndarray) -> Figure:
    if not shifted:
        return Figure(None, "the split is too short to shift its sound by 1 s")
    if len(shifted) < metrics.SHIFT_RUNS:
        return Figure(None, f"only {len(shifted)} shifts fit into the split")
    return metrics.shift_percentile(np.stack(shifted), true)


def sync_figures(avatar: Avatar, measured: Measured) -> dict[str, Figure]:
    """Find the lag of the rendered lips behind the loudness of the sound."""
    data, frames = avatar.dataset, measured.frames
    sound = read_audio(data.folder / "audio.wav")
    level = metrics.sound_energy(sound, SAMPLE_RATE, data.num_frames, data.fps)[frames]
    # On one line of time, stretches apart: no lag pairs a mouth with the sound of another stretch.
    line = lambda values: laid_out(values, frames, data.stretches, metrics.MAX_LAG + 1)
    lag, confidence = metrics.sync_lag(line(mouth_opening(measured.landmarks)), line(level))
    return {"sync_lag_frames": lag, "sync_conf": confidence}


def lid_figures(measured: Measured) -> dict[str, Figure]:
    """Correlate the lids of renders and true frames: how well an input comes out again."""
    shut = lambda points: -eye_openness(points).mean(-1)
    figure = metrics.correlation(shut(measured.landmarks), shut(measured.true_landmarks))
    return {"blink_r": figure._replace(note="; ".join(filter(None, [ECHO, figure.note])))}
