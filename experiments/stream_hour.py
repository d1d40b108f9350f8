"""An hour of speech through `Stream`, live chunk by chunk: latency, memory, drift.

Claim: frames come at a steady pace, memory stays flat, and after an hour a frame is still shown at
its own time. First ten seconds are drawn by the stream and as `render` draws a file: the same
bits. Then a speech is repeated until the hour is full and pushed in chunks of 20 ms, as fast as
frames are taken. Measured: how much faster than real time that is; for pushes that made frames
ready, the time until all of them were there (that is the processing latency, beside the algorithmic
one of the sound that must be heard first); resident memory every minute, once everything is
compiled; frames and their times at the end.

    python -m experiments.stream_hour AVATAR SPEECH.wav [--seconds 3600] [--out FOLDER]

adds a row to `results/stream_hour.json`. A CPU takes longer than the hour: give it --seconds.
"""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.drawing import draw_all
from egs_jax.avatar.speech_batches import speech_batches
from egs_jax.avatar.stream import Stream
from egs_jax.media.audio_file import read_audio
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.environment import usable_cores
from experiments._common import RESULTS
from experiments._runs import add_case, run_main

NAME = "stream_hour"
CHUNK = SAMPLE_RATE // 50
SAME_SECONDS = 10
PER_MINUTE = 60 * SAMPLE_RATE // CHUNK


def chunks(speech: np.ndarray, seconds: float) -> Iterator[np.ndarray]:
    """Yield so many seconds of a speech that repeats, in chunks of 20 ms."""
    parts = [speech[at : at + CHUNK] for at in range(0, len(speech) - CHUNK + 1, CHUNK)]
    return itertools.islice(itertools.cycle(parts), round(seconds * SAMPLE_RATE / CHUNK))


def resident_mb() -> float:
    """Return memory of this process that is in use now, MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * 4096 / 2**20


def same_bits(avatar: Avatar, live: Stream, speech: np.ndarray) -> int:
    """Return how many frames a speech has, all of the same bits in chunks and whole.

    Raises:
      RuntimeError: if some differ.
    """
    drawn = [frame for chunk in chunks(speech, SAME_SECONDS) for frame in live.push(chunk)]
    drawn += live.finish()
    whole = list(draw_all(avatar, speech_batches(avatar, [speech])))
    pairs = zip(drawn, whole, strict=True)
    differ = [a.number for a, b in pairs if not np.array_equal(a.rgb, b.rgb)]
    if differ:
        raise RuntimeError(f"frames {differ[:5]} ... differ between a stream and a file")
    return len(whole)


def run(avatar: Avatar, speech: np.ndarray, seconds: float) -> dict:
    """Stream for so long.

    Raises:
      RuntimeError: if a frame is missing, its time is not its own, or its bits are not a file's.
    """
    live = Stream(avatar)
    same = same_bits(avatar, live, np.concatenate(list(chunks(speech, SAME_SECONDS))))
    live.reset()
    waits, memory, count = [], [], 0
    began = time.perf_counter()
    for number, chunk in enumerate(chunks(speech, seconds)):
        if number % PER_MINUTE == 0:
            memory.append(round(resident_mb(), 1))
        pushed = time.perf_counter()
        frames = list(live.push(chunk))
        if frames:
            waits.append(time.perf_counter() - pushed)
        count = _checked(frames, count)
    count = _checked(list(live.finish()), count)
    wall = time.perf_counter() - began
    if count != round(seconds * FPS):
        raise RuntimeError(f"{count} frames for {seconds} s")
    memory.append(round(resident_mb(), 1))
    percentiles = {f"ready_p{q}_ms": round(float(np.percentile(waits, q)) * 1e3, 2)
                   for q in (50, 95, 99)}  # fmt: skip
    return dict(
        source=film.name if (film := avatar.scene.film) else None, gaussians=avatar.num_gaussians,
        size=avatar.scene.width, seconds=seconds, frames=count, wall_s=round(wall, 1),
        times_real_time=round(seconds / wall, 2), latency_s=round(live.latency, 3), **percentiles,
        frames_with_the_bits_of_a_file=same, resident_mb=memory,
        growth_mb=round(memory[-1] - memory[1], 1), last_frame_s=(count - 1) / FPS,
        backend=jax.default_backend(), device=jax.devices()[0].device_kind, cores=usable_cores(),
    )  # fmt: skip


def _checked(frames: list, count: int) -> int:
    for frame in frames:
        if frame.number != count or frame.time != count / FPS:
            raise RuntimeError(f"frame {frame.number} at {frame.time} s, expected frame {count}")
        count += 1
    return count


def main(argv: list[str] | None = None) -> Path:
    """Run the measurement; returns the file written."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("avatar", type=Path, metavar="AVATAR")
    parser.add_argument("speech", type=Path)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    case = run(Avatar.load(arguments.avatar), read_audio(arguments.speech), arguments.seconds)
    print(case, flush=True)
    key = ("device", "source", "size", "gaussians", "seconds")
    add_case(NAME, case, lambda c: tuple(c[name] for name in key), arguments.out)
    return arguments.out / f"{NAME}.json"


if __name__ == "__main__":
    run_main(main)
