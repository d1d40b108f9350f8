"""What the start of a speaking avatar is made of, timed by the process itself: see `bench_start`.

Nothing is imported above that the parts are to import themselves.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from egs_jax.runtime.environment import keep_programs, set_environment


def timed(call: Callable[[], object], who: int = resource.RUSAGE_SELF) -> dict[str, float]:
    """Return how long a call takes, on the clock and of all cores."""

    def spent() -> float:
        used = resource.getrusage(who)
        return used.ru_utime + used.ru_stime

    began, before = time.perf_counter(), spent()
    call()
    wall, cores = time.perf_counter() - began, spent() - before
    return {"wall_s": round(wall, 3), "cpu_s": round(cores, 3)}


def parts(run: Path, speech: Path) -> dict[str, dict[str, float]]:
    """Time them one after the other, in a process that has done nothing yet."""
    found, made = {}, {}

    def imports() -> None:
        import egs_jax.avatar.film  # noqa: F401, PLC0415

    def load() -> None:
        from egs_jax.avatar.avatar import Avatar  # noqa: PLC0415

        made["avatar"] = Avatar.load(run)

    def compiles() -> None:
        from egs_jax.avatar.drawing import warm_up  # noqa: PLC0415

        warm_up(made["avatar"])

    def first_frame() -> None:
        from egs_jax.avatar.stream import Stream  # noqa: PLC0415
        from egs_jax.media.audio_file import read_audio  # noqa: PLC0415
        from egs_jax.media.clock import SAMPLE_RATE  # noqa: PLC0415

        live = Stream(made["avatar"])
        needed = round((live.latency + 0.01) * SAMPLE_RATE)
        assert next(live.push(read_audio(speech)[:needed])).number == 0

    set_environment()
    found["imports"] = timed(imports)
    keep_programs()
    found["load"] = timed(load)
    found["compile"] = timed(compiles)
    found["first_frame"] = timed(first_frame)
    found["first_frame_of_second_stream"] = timed(first_frame)
    return found


if __name__ == "__main__":
    print(json.dumps(parts(Path(sys.argv[1]), Path(sys.argv[2]))))
