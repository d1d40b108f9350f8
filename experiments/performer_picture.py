"""The README's picture: the synthetic performer speaks at head poses that her film does not show.

Turned left and right, as she is, up and down, over another background than the room of her film;
below, the voice of her held-out end and when each picture is.

    python -m experiments.performer_picture RUN_DIR [--figures FOLDER]

draws `figures/performer.png`. RUN_DIR is a run on a film of `egs_jax.performer.film`.
"""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import to_uint8
from egs_jax.evaluation.renders import drawn_frames, micro_batches
from egs_jax.media.audio_file import read_audio
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.runtime.arguments import Parser
from experiments._runs import parsed, run_main
from experiments.free_pose import turned

NAME = "performer"
ANGLES = [(-20.0, 0.0), (20.0, 0.0), (0.0, 0.0), (0.0, 12.0), (0.0, -12.0)]
"""Yaw and pitch [degrees]."""
SIDE, STRIP = 240, 48
TOP, BOTTOM = (246, 226, 200), (196, 120, 92)
"""Colors of the background."""
VOICE, MARK, DARK = (64, 140, 140), (232, 168, 72), (22, 26, 30)


def main(argv: list[str] | None = None) -> Path:
    """Draw the picture; returns its file."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    arguments = parsed(parser, argv)
    avatar = Avatar.load(arguments.run_dir)
    data = avatar.dataset
    start, stop = data.splits["val"]
    frames = widest(data.arrays["mouth_opening"][start:stop], len(ANGLES)) + start
    drive = turned(data, data.drive(frames, avatar.config.model.window_frames), ANGLES)
    drive = drive.replace(backgrounds=np.stack([background(data.height, data.width)] * len(frames)))
    pictures = [to_uint8(rgb) for rgb, _ in drawn_frames(avatar, micro_batches(drive))]
    small = [cv2.resize(p, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for p in pictures]
    samples = read_audio(data.folder / "audio.wav")
    sound = samples[start * SAMPLE_RATE // FPS : stop * SAMPLE_RATE // FPS]
    strip = voice_strip(sound, (frames - start + 0.5) / (stop - start), SIDE * len(small))
    path = arguments.figures / f"{NAME}.png"
    cv2.imwrite(str(path), np.vstack([np.hstack(small), strip])[..., ::-1])
    return path


def widest(opening: Float[np.ndarray, " T"], count: int) -> np.ndarray:
    """Return the frame with the widest mouth in each of `count` equal stretches."""
    parts = np.array_split(np.arange(len(opening)), count)
    return np.array([part[np.argmax(opening[part])] for part in parts])


def background(height: int, width: int) -> UInt8[np.ndarray, "H Wd 3"]:
    """Paint an evening sky."""
    share = np.linspace(0, 1, height)[:, None, None]
    rows = np.array(TOP) * (1 - share) + np.array(BOTTOM) * share
    return np.repeat(np.rint(rows), width, axis=1).astype(np.uint8)


def voice_strip(
    samples: Float[np.ndarray, " S"], marks: Float[np.ndarray, " M"], width: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw a sound's envelope and a line at every mark (share of its length)."""
    strip = np.full((STRIP, width, 3), DARK, np.uint8)
    peaks = np.array([np.abs(part).max() for part in np.array_split(samples, width)])
    half = 1 + np.rint(peaks / max(peaks.max(), 1e-6) * (STRIP / 2 - 3)).astype(int)
    rows = np.abs(np.arange(STRIP) - STRIP // 2)
    strip[rows[:, None] < half[None]] = VOICE
    for column in np.rint(marks * (width - 1)).astype(int):
        strip[:, column : column + 2] = MARK
    return strip


if __name__ == "__main__":
    run_main(main)
