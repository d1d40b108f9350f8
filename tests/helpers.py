"""What tests share: a small painted dataset, the smallest run on it, and other processes.

The painting is a ball with a mouth that opens with its one-note "sound".
"""

import contextlib
import dataclasses
import itertools
import json
import os
import resource
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import imageio.v3 as imageio
import jax
import jax.monitoring
import numpy as np

from egs_jax.config import Config
from egs_jax.config_text import as_arguments, options
from egs_jax.data.pictures import PicturesWriter
from experiments._runs import shrunk

ROOT = Path(__file__).parents[1]
COMPILED = ROOT / ".cache" / "jax"
"""Where all processes of the tests share their compiled programs."""
SIZE, FRAMES, AUDIO_DIM, POINTS = 48, 24, 80, 150
FOCAL, DISTANCE, RADIUS = 96.0, 4.0, 0.7
UPPER_LIP, LOWER_LIP = [82, 13, 312], [87, 14, 317]  # facing landmarks


def make_dataset(folder: Path, frames: int = FRAMES, seed: int = 0) -> Path:
    """Write a complete dataset folder (`egs_jax.data.folder`) and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    opening = (0.5 - 0.5 * np.cos(np.arange(frames) * 0.9)).astype(np.float32)
    background = np.full((SIZE, SIZE, 3), (40, 60, 90), np.uint8)
    painted = [_frame(background, o) for o in opening]
    images = np.stack([image for image, _ in painted])
    masks = np.stack([mask for _, mask in painted])
    rows = np.repeat(opening, 2)[:, None] * np.linspace(0.5, 1, AUDIO_DIM, dtype=np.float32)
    directions = rng.standard_normal((POINTS, 3))
    points = RADIUS * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    viewmat = np.eye(4, dtype=np.float32)
    viewmat[2, 3] = DISTANCE
    landmarks = rng.uniform(12, 36, (478, 3)).astype(np.float32)
    landmarks[UPPER_LIP] = landmarks[LOWER_LIP]
    write_pictures(folder, frames=images, head_masks=masks, person_masks=masks * np.uint8(255))
    imageio.imwrite(folder / "plate.png", background)
    arrays = {
        "audio_features": rows.astype(np.float32),
        "silence_features": np.zeros((10, AUDIO_DIM), np.float32),
        "landmarks": np.stack([_open_mouth(landmarks, o) for o in opening]),
        "viewmats": np.stack([viewmat] * frames),
        "body_viewmats": np.stack([_aside(viewmat, 0.1 * np.sin(i)) for i in range(frames)]),
        "K": np.array([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]], np.float32),
        "mean_shape": np.zeros((478, 3), np.float32),
        "blink": np.zeros(frames, np.float32),
        "lips_rects": np.tile(np.array([[24, 36, 18, 30]], np.int32), (frames, 1)),
        "mouth_opening": opening,
        "points": points.astype(np.float32),
        "point_colors": np.full((POINTS, 3), (200, 150, 120), np.uint8),
        "body_points": points[: POINTS // 3].astype(np.float32) + np.float32([0, 1, 0]),
        "body_point_colors": np.full((POINTS // 3, 3), (60, 60, 120), np.uint8),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    meta = {
        "format_version": 2,
        "fps": 25,
        "width": SIZE,
        "height": SIZE,
        "num_frames": frames,
        "splits": {"train": [0, frames - 4], "val": [frames - 4, frames]},
        "source": {"name": "painted", "sha256": ""},
        "audio_features": {"kind": "mel", "dim": AUDIO_DIM},
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def write_pictures(folder: Path, **pictures: np.ndarray) -> None:
    """Write or replace NAME.zip of a dataset folder for every NAME."""
    for name, series in pictures.items():
        with PicturesWriter(folder / f"{name}.zip") as writer:
            for picture in series:
                writer.append(picture)


def micro_config(folder: Path) -> Config:
    """The smallest run that goes through everything: 20 + 20 steps, checkpoints every 10.

    All tests of training use this one, so that its two steps (ten seconds) compile once.
    """
    small = shrunk(Config(data_dir=str(folder)))
    schedule = dataclasses.replace(small.schedule, static_steps=20, deform_steps=20, log_every=5)
    return dataclasses.replace(small, schedule=schedule)


def train_arguments(folder: Path, run_dir: Path) -> list[str]:
    """Command line of a run of `micro_config`."""
    settings = {name: value for name, (_, value, _) in options(micro_config(folder)).items()}
    where = ["--data-dir", settings.pop("data_dir"), "--run-dir", str(run_dir)]
    return ["train", settings.pop("preset"), *where, *as_arguments(settings)]


def python(*arguments: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment of another interpreter that shares the compiled programs."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "JAX_COMPILATION_CACHE_DIR": str(COMPILED),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        # As many as here: their number decides that of threads, which decides the last bits.
        "JAX_NUM_CPU_DEVICES": str(len(jax.devices())),
        "TERM": "dumb",
    }
    return [sys.executable, *arguments], environment


def _aside(viewmat: np.ndarray, shift: float) -> np.ndarray:
    """A pose moved to the right."""
    moved = viewmat.copy()
    moved[0, 3] += shift
    return moved


def _open_mouth(landmarks: np.ndarray, opening: float) -> np.ndarray:
    """Landmarks whose inner lips are `opening` * 6 pixels apart."""
    moved = landmarks.copy()
    moved[LOWER_LIP, 1] += 6 * opening
    return moved


def _frame(background: np.ndarray, opening: float) -> tuple[np.ndarray, np.ndarray]:
    """One picture and its head mask."""
    center, radius = (SIZE // 2, SIZE // 2), round(FOCAL * RADIUS / DISTANCE)
    mask = cv2.circle(np.zeros((SIZE, SIZE), np.uint8), center, radius, 1, -1)
    image = background.copy()
    cv2.circle(image, center, radius, (200, 150, 120), -1)
    cv2.ellipse(image, (24, 30), (5, 1 + round(3 * float(opening))), 0, 0, 360, (90, 20, 30), -1)
    return image, mask.astype(bool)


def fill(module, *args):
    """Parameters of a module's shapes, drawn by numpy: no compile for the start."""
    return fill_shapes(jax.eval_shape(module.init, jax.random.key(0), *args))


def fill_shapes(shapes):
    """Parameters of these shapes."""
    rng = np.random.default_rng(7)

    def leaf(path, shape):
        scale = shape.shape[-2] ** -0.5 if len(shape.shape) > 1 else 0.3
        return jax.device_put(np.float32(scale * rng.normal(size=shape.shape)))

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def voice(seconds: float, rate: int = 16_000) -> np.ndarray:
    """A voice-like sound that comes and goes."""
    time = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * 180 * time) * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * time))
    return 0.4 * tone.astype(np.float32)


def frames_of(live: Any, sound: np.ndarray, sizes: list[int]) -> list[Any]:
    """Frames of a `Stream` whose sound is pushed in chunks of these sizes, over and over."""
    frames, at, sizes = [], 0, itertools.cycle(sizes)
    while at < len(sound):
        size = next(sizes)
        frames += live.push(sound[at : at + size])
        at += size
    return frames + list(live.finish())


def traced_apart(precision):
    """Share no trace with other tests: something is patched that no argument of a jit says.

    Each user takes a precision of its own, which is part of every trace's key and on a CPU changes
    no product. `jax.clear_caches` does the same, but takes seconds and traces all anew.
    """
    return jax.default_matmul_precision(precision)


@contextlib.contextmanager
def compilations():
    """Give a list of the names of the programs that JAX traces meanwhile, in any thread."""
    made = []

    def hear(event, _, fun_name="", **rest):
        if event == "/jax/core/compile/jaxpr_trace_duration":
            made.append(str(fun_name))

    jax.monitoring.register_event_duration_secs_listener(hear)
    try:
        yield made
    finally:
        jax.monitoring.unregister_event_duration_listener(hear)


@contextlib.contextmanager
def largest_file(size):
    """Let no file grow beyond `size` bytes, as on a full disk; in processes started here too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FRAME_BITS = 10  # a frame's number is drawn as this many black or white bars


def numbered(number: int, height: int = 48, width: int = 160) -> np.ndarray:
    """A picture that carries its number in bars, legible after any codec."""
    bars = np.asarray([(number >> bit) & 1 for bit in range(FRAME_BITS)], np.uint8) * 235
    row = np.repeat(bars, width // FRAME_BITS)
    row = np.pad(row, (0, width - row.size))
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (height, width, 3)))


def number_of(image: np.ndarray) -> int:
    """The number that a picture of `numbered` carries."""
    width = image.shape[1] // FRAME_BITS
    centers = np.arange(FRAME_BITS) * width + width // 2
    return sum(int(image[image.shape[0] // 2, x, 1] > 110) << bit for bit, x in enumerate(centers))


def film_file(path: Path, pictures: list[np.ndarray], sound: np.ndarray | None) -> Path:
    """Write a film of 25 pictures a second, with 16 kHz sound or without."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "14"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        track = None if sound is None else out.add_stream("aac", rate=16000, layout="mono")
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        for at in range(0, 0 if track is None else len(sound), 1024):
            piece = np.ascontiguousarray(sound[None, at : at + 1024], np.float32)
            chunk = av.AudioFrame.from_ndarray(piece, "fltp", "mono")
            chunk.sample_rate, chunk.pts, chunk.time_base = 16000, at, Fraction(1, 16000)
            out.mux(track.encode(chunk))
        if track is not None:
            out.mux(track.encode(None))
    return path


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose loudness goes up and down, [S] at 16 kHz."""
    rng = np.random.default_rng(seed)
    count = round(seconds * 16_000)
    loudness = 0.1 + 0.1 * np.sin(2 * np.pi * 3 * np.arange(count) / 16_000)
    return (loudness * rng.standard_normal(count)).astype(np.float32)


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    """A sine at half of full scale, [S]."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype("f4")
