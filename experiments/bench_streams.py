"""How many live sessions of 25 frames a second one device holds.

Claim: one H200 with 16 cores beside it holds 200 sessions of drawn frames at 512 px, and 2,000 that
take codes alone. A count is held if 99 of 100 frames are ready less than 40 ms after they are due
(`_live_load`: sound comes in real time, and the stated latency is no delay). The largest count is
searched by steps of an eighth. Threads' shares of the host's cores are told at that count, those
of the load itself among them; H.264 is encoded elsewhere, and its cost told apart: frames a second
of all cores.

    python -m experiments.bench_streams [--avatar FILE_OR_RUN ...] [--speech FILE ...] [--seconds 4]
                                        [--drawn N] [--codes N] [--only drawn|codes]
                                        [--processes N] [--late 40] [--tiny]

adds to `results/bench_streams.json`. Without avatars it makes some, of random networks and motions:
25,000 and 50,000 Gaussians at 512 px on a GPU, 6,500 at 160 and 25,000 at 256 px on a CPU. --drawn
and --codes are the counts that the search begins with: every trial takes ten seconds. Python's lock
bounds what one process holds; several share the device if --processes says so: by turns, or at
once where NVIDIA's multi-process service runs (`nvidia-cuda-mps-control -d`). The avatars are dealt
out among them, as a server would send each client to where his avatar is. `--tiny` holds two
sessions of a small head (tests).
"""

import collections
import dataclasses
import functools
import multiprocessing
import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.avatar_file import Written
from egs_jax.avatar.precomputed import spatial_part
from egs_jax.avatar.scene import PersonScene, Scene
from egs_jax.avatar.sessions import Sessions
from egs_jax.data.body import BodyModel
from egs_jax.media.audio_file import read_audio
from egs_jax.media.clock import FPS
from egs_jax.media.film_format import best_encoder
from egs_jax.media.video_writer import VideoWriter
from egs_jax.performer.voice import synthesize
from egs_jax.runtime import provenance
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.environment import keep_programs, take_memory_as_needed, usable_cores
from egs_jax.speech.features import silence_features
from egs_jax.speech.layout import DEFAULT
from egs_jax.speech.level import SPEECH_LOUDNESS
from experiments import _drawn_scenes as drawn
from experiments._baked_scene import random_baked
from experiments._live_load import Outcome, under_load
from experiments._runs import add_case, parsed, run_main

NAME = "bench_streams"
LATE_MS = 40.0
"""Lateness that 99 of 100 frames may not reach."""
STEP = 1.125
"""Factor between counts that are told apart."""
LEAP = 1.5
"""Factor of the search's first steps."""
AVATARS = 4
"""Different ones among whom the sessions are dealt out."""
ENCODED = 100
"""Frames that are encoded to tell what H.264 takes."""


class Case(NamedTuple):
    """What is held."""

    name: str
    avatars: list[Avatar]
    pictures: bool
    start: int
    """Count that the search begins with."""


def synthetic(n: int, size: int) -> Avatar:
    """Make a person of random networks whose small motions are random as well."""
    scene = drawn.synthetic(n, size, "paper", "person")
    config, degree = scene.config, scene.config.model.sh_degree
    spatial = spatial_part(config, scene.params, scene.alive, degree)
    networks, limits = scene.params["networks"], scene.kept.limits
    baked = random_baked(config, networks, spatial, limits, scene.drive(1))
    return of_written(Written(config, room(scene), baked, {}, 0))


def of_written(written: Written) -> Avatar:
    """Return the avatar of a file that was never written."""
    return Avatar(written.config, None, None, None, None, 0, is_exact=False, written=written)


def room(scene: drawn.Scene) -> Scene:
    """Return what a clip of such a person would lend."""
    drive, size = scene.drive(1), scene.size
    viewmats = np.repeat(drive.viewmats, 100, axis=0)
    viewmats[:, 0, 3] += 0.02 * np.sin(np.arange(100) / 9)
    body = BodyModel(np.eye(4), np.zeros((1, 6)), np.zeros((2, 6)), 0.0, 0.0)
    person = PersonScene(viewmats, viewmats[0], body, scene.kept.limits, drive.backgrounds[0])
    return Scene(
        width=size, height=size, intrinsics=drive.Ks[0], start=0, viewmats=viewmats,
        still_frame=0, still_viewmat=viewmats[0], silence=silence_features("whisper"),
        layout=DEFAULT, sound_kind="whisper", sound_name="whisper", loudness=SPEECH_LOUDNESS,
        own=person,
    )  # fmt: skip


def several(avatar: Avatar, count: int) -> list[Avatar]:
    """Return avatars of one's motion and room, which share no call of the device."""
    one = of_written(Written(avatar.config, avatar.scene, avatar.baked, {}, 0))
    change = lambda seed: dataclasses.replace(one.config, seed=seed)
    return [dataclasses.replace(one, config=change(seed)) for seed in range(count)]


def search(held: Callable[[int], bool], start: int) -> int:
    """Return the largest count that is held, to a factor of `STEP`; 0 if not even one is."""
    count, best, worst = max(start, 1), 0, None
    while True:
        if held(count):
            best = count
        else:
            worst = count
        if worst is None:
            count = max(int(best * LEAP), best + 1)
        elif best == 0:
            if worst == 1:
                return 0
            count = max(int(worst / LEAP), 1)
        elif worst <= max(best * STEP, best + 1):
            return best
        else:
            count = min(max(round((best * worst) ** 0.5), best + 1), worst - 1)


class Holders:
    """Processes that hold sessions together, each its share; a context manager."""

    def __init__(self, processes: int, cases: Callable[[], list[Case]]):
        """Start them, if they are more than this one; each makes its own cases by `cases`."""
        self._count, self._pool = processes, None
        if processes == 1:
            _begin(cases, None)
        else:
            spawn = multiprocessing.get_context("spawn")
            arguments = cases, spawn.Barrier(processes)
            self._pool = ProcessPoolExecutor(processes, spawn, _begin, arguments)
            self.of_all(_number_of_cases)

    def of_all(self, function: Callable, *arguments: Any) -> list[Any]:
        """Let each process call a function once, with its number first."""
        if self._pool is None:
            return [function(0, *arguments)]
        calls = [self._pool.submit(_alone, function, k, *arguments) for k in range(self._count)]
        return [call.result() for call in calls]

    def of_one(self, function: Callable, *arguments: Any) -> Any:
        """Let any of them call a function."""
        if self._pool is None:
            return function(0, *arguments)
        return self._pool.submit(function, 0, *arguments).result()

    def hold(self, case: int, count: int, speech: np.ndarray, seconds: float) -> Outcome:
        """Hold so many sessions of a case in all."""
        shares = [len(part) for part in np.array_split(np.arange(count), self._count)]
        outcomes = [o for o in self.of_all(_hold, case, shares, speech, seconds) if o is not None]
        cores: collections.Counter[str] = collections.Counter()
        for outcome in outcomes:
            cores.update(outcome.cores)
        late = np.concatenate([outcome.late_ms for outcome in outcomes])
        behind = max(outcome.pushes_behind_ms for outcome in outcomes)
        return Outcome(late, {name: round(value, 2) for name, value in cores.items()}, behind)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown()


_here: dict[str, Any] = {}
"""What a process that holds sessions knows: its cases, and where it waits for the others."""


def _begin(cases: Callable[[], list[Case]], barrier: Any) -> None:
    keep_programs()
    _here.update(cases=cases(), barrier=barrier)


def _alone(function: Callable, *arguments: Any) -> Any:
    _here["barrier"].wait()  # so that nobody takes two calls
    return function(*arguments)


def _number_of_cases(_: int) -> int:
    return len(_here["cases"])


def _warm_up(_: int, number: int) -> float:
    case, began = _here["cases"][number], time.perf_counter()
    with Sessions() as sessions:
        for avatar in case.avatars:
            sessions.warm_up(avatar, pictures=case.pictures)
    return time.perf_counter() - began


def _hold(
    own: int, number: int, shares: Sequence[int], speech: np.ndarray, seconds: float
) -> Outcome | None:
    case = _here["cases"][number]
    if not shares[own]:
        return None
    avatars = case.avatars[own % len(case.avatars) :: len(shares)]
    return under_load(avatars, speech, shares[own], seconds, pictures=case.pictures)


def measured(holders: Holders, number: int, speech: np.ndarray, arguments: Namespace) -> dict:
    """Search the largest count of a case; a tiny one is taken to be two."""
    seconds = 1.0 if arguments.tiny else arguments.seconds
    case = holders.of_all(_told, number)[0]
    compiled = holders.of_one(_warm_up, number)
    holders.of_all(_warm_up, number)  # who find the programs of the first one
    found: dict[int, Outcome] = {}

    def held(count: int) -> bool:
        outcome = found[count] = holders.hold(number, count, speech, seconds)
        late = float(np.percentile(outcome.late_ms, 99, method="higher"))
        print(
            f"{case['name']}, {case['frames']}: {count} sessions, p99 {late:.1f} ms late, "
            f"{outcome.cores}, load {outcome.pushes_behind_ms:.1f} ms behind", flush=True,
        )  # fmt: skip
        return late < arguments.late if not arguments.tiny else count == 2

    start = case.pop("start")
    most = search(held, start)
    return case | {
        "processes": arguments.processes, "at_once": has_mps(), "sessions": most,
        "late_limit_ms": arguments.late, "host_cores": usable_cores(),
        "warm_up_s": round(compiled, 1), "seconds": seconds,
        "tried": {str(count): _figures(outcome) for count, outcome in sorted(found.items())},
    }  # fmt: skip


def has_mps() -> bool:
    """Say if NVIDIA's multi-process service lets processes share the device at once."""
    pipes = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")
    return Path(pipes, "control").exists()


def _told(_: int, number: int) -> dict:
    """Return what is told of a case."""
    case = _here["cases"][number]
    avatar = case.avatars[0]
    return {
        "name": case.name, "gaussians": avatar.num_gaussians, "size": avatar.scene.width,
        "frames": "drawn" if case.pictures else "codes", "avatars": len(case.avatars),
        "latency_s": round(avatar.scene.layout.look_ahead(), 3), "start": case.start,
    }  # fmt: skip


def _figures(outcome: Outcome) -> dict:
    late, told = outcome.late_ms, {}
    for q in (50, 99):
        value = float(np.percentile(late, q, method="higher")) if len(late) else np.inf
        told[f"late_p{q}_ms"] = round(value, 1) if np.isfinite(value) else None
    return told | {"cores": outcome.cores, "load_behind_ms": round(outcome.pushes_behind_ms, 1)}


def encoding(sizes: Sequence[int]) -> list[dict]:
    """Time H.264 of frames that change, with all cores."""
    found = []
    for size in sizes:
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 256, (size // 8, size // 8, 3), np.uint8)
        still = noise.repeat(8, 0).repeat(8, 1)
        frames = [np.roll(still, k, axis=1) for k in range(8)]
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            with VideoWriter(Path(folder) / "a.mp4", len(still), len(still), FPS) as film:
                for k in range(ENCODED):
                    film.write_frame(frames[k % len(frames)])
            wall = time.perf_counter() - began
        found.append({
            "name": "H.264", "size": size, "encoder": best_encoder(size, size),
            "host_cores": usable_cores(), "frames_a_second": round(ENCODED / wall, 1),
        })  # fmt: skip
        print(found[-1], flush=True)
    return found


def cases_of(
    paths: Sequence[Path], shapes: Sequence[tuple[int, int]], counts: dict[str, int | None]
) -> list[Case]:
    """Return what is measured.

    Args:
      paths: Avatars' files or runs.
      shapes: Gaussians and pixels of avatars that are made if there are none.
      counts: Sessions that the search begins with, "drawn" and "codes"; None: it is not made.
    """
    made = [(path.name, Avatar.load(path, exact=None if path.is_file() else False))
            for path in paths]  # fmt: skip
    made = made or [(f"synthetic person of {n}", synthetic(n, size)) for n, size in shapes]
    alike = [(name, several(avatar, AVATARS)) for name, avatar in made]
    drawn, codes = counts["drawn"], counts["codes"]
    found = [Case(*one, True, drawn) for one in alike if drawn]
    return found + [Case(*one, False, codes) for one in alike[-1:] if codes]


def counts_of(arguments: Namespace) -> dict[str, int | None]:
    """Return the counts that the search begins with, of what is asked for."""
    on_cpu = jax.default_backend() == "cpu"
    given = {"drawn": arguments.drawn or (2 if on_cpu else 160),
             "codes": arguments.codes or (8 if on_cpu else 400)}  # fmt: skip
    return {name: count if arguments.only in (None, name) else None
            for name, count in given.items()}  # fmt: skip


def main(argv: list[str] | None = None) -> Path:
    """Run the benchmark; returns the file written."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--avatar", type=Path, nargs="+", default=[], metavar="FILE_OR_RUN")
    parser.add_argument("--speech", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a trial")
    parser.add_argument("--late", type=float, default=LATE_MS, metavar="MS")
    parser.add_argument("--drawn", type=int, help="sessions that the search begins with")
    parser.add_argument("--codes", type=int, help="likewise")
    parser.add_argument("--only", choices=("drawn", "codes"))
    parser.add_argument("--processes", type=int, default=1, help="that share the device")
    arguments = parsed(parser, argv, figures=False)
    take_memory_as_needed()
    on_cpu = jax.default_backend() == "cpu"
    shapes = ((6_500, 160), (25_000, 256)) if on_cpu else ((25_000, 512), (50_000, 512))
    shapes = ((300, 48),) if arguments.tiny else shapes
    cases = functools.partial(cases_of, arguments.avatar, shapes, counts_of(arguments))
    sounds = [read_audio(path) for path in arguments.speech] or [synthesize(20.0, 0).samples]
    speech = np.concatenate(sounds)
    sizes = set()
    with Holders(arguments.processes, cases) as holders:
        for number in range(holders.of_all(_number_of_cases)[0]):
            case = measured(holders, number, speech, arguments)
            sizes.add(case["size"])
            add(case, arguments.out)
    for case in encoding(sorted(sizes)):
        add(case, arguments.out)
    return arguments.out / f"{NAME}.json"


def add(case: dict, folder: Path) -> None:
    """Record a case beside those of other devices."""
    names = ("device", "name", "size", "frames", "processes")
    key = lambda other: (*map(other.get, names), other.get("at_once", False))
    add_case(NAME, {"device": provenance.device(), **case}, key, folder)


if __name__ == "__main__":
    run_main(main)
