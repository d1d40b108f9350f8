"""Time until an avatar draws: the whole `render` command and its parts, the first time and later.

Claim: on two CPU cores `render` of 3 s of speech with a `tiny` avatar takes under 6 s the second
time, as a whole process, and a second `Stream` of a process gives its first frame within 0.3 s. The
first time nothing is kept of what is compiled and traced; later times find what the first one kept.
The parts are those of a process of its own: imports, loading, compiling (something is drawn for
nobody), the first frame of a stream, and that of a second one, once the sound that it hears is
there.

    python -m experiments.bench_start RUN SPEECH [--times 3] [--out FOLDER]

writes or replaces a case of `results/bench_start.json`: seconds on the clock and of all cores.
"""

import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from egs_jax.avatar.avatar import Avatar
from egs_jax.media.audio_file import read_audio
from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.environment import usable_cores
from experiments._common import RESULTS
from experiments._runs import add_case, run_main, run_of
from experiments._start_parts import timed

NAME = "bench_start"


def starts(run: Path, speech: Path, times: int) -> dict[str, list[dict]]:
    """Time the command, then its parts, with nothing kept and then with what that kept."""
    rows: dict[str, list[dict]] = {"render": [], "parts": []}
    with tempfile.TemporaryDirectory() as folder:
        arguments = [str(run), str(speech)]
        commands = {
            "render": ["egs_jax", "render", *arguments, "--out", f"{folder}/talk.mp4"],
            "parts": ["experiments._start_parts", *arguments],
        }
        for name, command in commands.items():
            kept = {
                "JAX_COMPILATION_CACHE_DIR": f"{folder}/{name}",
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            }
            for _ in range(times):
                with open(f"{folder}/told", "w+", encoding="utf-8") as told:
                    process = functools.partial(
                        subprocess.run, [sys.executable, "-m", *command], stdout=told, check=True,
                        env=os.environ | kept,
                    )  # fmt: skip
                    whole = timed(process, resource.RUSAGE_CHILDREN)
                    told.seek(0)
                    rows[name].append(whole if name == "render" else json.loads(told.read()))
    return rows


def main(argv: list[str] | None = None) -> Path:
    """Run the benchmark; returns the file written."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--times", type=int, default=3, help="the first of which finds nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    avatar = Avatar.load(arguments.run)
    case = {
        "run": run_of(avatar), "gaussians": avatar.num_gaussians, "size": avatar.dataset.width,
        "sound_s": round(len(read_audio(arguments.speech)) / SAMPLE_RATE, 1),
        "cores": usable_cores(), **starts(arguments.run, arguments.speech, arguments.times),
    }  # fmt: skip
    print(json.dumps(case), flush=True)
    add_case(NAME, case, lambda case: (case["run"], case["size"], case["cores"]), arguments.out)
    return arguments.out / f"{NAME}.json"


if __name__ == "__main__":
    run_main(main)
