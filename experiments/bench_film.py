"""Time from a speech to a film: the whole `render` command, and its parts alone.

Claim: on a GPU ten minutes of speech, from a wav file to an mp4 with sound, take under 40 s. The
command is a process of its own: it starts Python, reads the avatar, compiles, hears, draws and
encodes, the last three at the same time. Its parts are measured alone after it: sound features of
the whole speech, drawing (with its features), and encoding.

    python -m experiments.bench_film RUN SPEECH [--out FOLDER]

writes `results/bench_film.json`.
"""

import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.drawing import dispatch, fetch
from egs_jax.avatar.film import draw_speech
from egs_jax.avatar.speech_batches import speech_batches
from egs_jax.media.audio_file import read_audio
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.media.encoder_process import EncoderProcess
from egs_jax.media.feeding import feed
from egs_jax.media.film_format import best_encoder
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.environment import usable_cores
from experiments._common import RESULTS, record
from experiments._runs import run_main


def film(run_dir: Path, audio: Path) -> dict:
    """Time the whole way from a file to an mp4 with sound, then its parts alone."""
    seconds = {}

    def timed(name: str, call: Callable[[], object]) -> object:
        began = time.perf_counter()
        result = call()
        seconds[name] = round(time.perf_counter() - began, 2)
        return result

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "talk.mp4"
        command = [sys.executable, "-m", "egs_jax", "render", str(run_dir), str(audio)]
        whole = functools.partial(subprocess.run, [*command, "--out", str(out)], check=True)
        timed("render_command_s", whole)
        megabytes = round(out.stat().st_size / 1e6, 1)
        avatar, samples = Avatar.load(run_dir), read_audio(audio)
        size = avatar.dataset.width, avatar.dataset.height
        timed("features_s", lambda: avatar.scene.hear(samples))
        # A few frames are enough to write, over and over: all of them would not fit into memory.
        batches = speech_batches(avatar, [samples])
        frames = [f.rgb for f in fetch(dispatch(avatar, next(batches)))]  # compiles
        total = timed("draw_s", lambda: sum(1 for _ in draw_speech(avatar, audio)))
        same = (frames[i % len(frames)] for i in range(total))

        def encode() -> None:
            with EncoderProcess(Path(folder) / "a.mp4", *size, FPS, SAMPLE_RATE) as writer:
                feed(writer, same, FPS, [samples], SAMPLE_RATE)

        timed("encode_s", encode)
    return dict(
        source=avatar.dataset.meta["source"]["name"], gaussians=avatar.num_gaussians,
        size=size[0], encoder=best_encoder(*size), cores=usable_cores(),
        backend=jax.default_backend(), sound_s=round(len(samples) / SAMPLE_RATE, 1), frames=total,
        megabytes=megabytes, **seconds,
    )  # fmt: skip


def main(argv: list[str] | None = None) -> Path:
    """Run the benchmark; returns the file written."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    case = film(arguments.run, arguments.speech)
    print(case, flush=True)
    return record("bench_film", [case], arguments.out)


if __name__ == "__main__":
    run_main(main)
