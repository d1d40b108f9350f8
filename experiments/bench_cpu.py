"""What a frame costs on a CPU: seconds of a core by stage, and frames a second of all cores.

Moved Gaussians to bytes at the host, one frame a thread, as a stream draws them; stages are
programs that end after them, less those before. Of an avatar also what moves them, and a live
stream of a speech with all that it hears and draws; of random networks what moves as many, exactly
and by codes. Claims, for two AVX2 cores and sound heard by Whisper: 25 frames a second of 25,000
Gaussians at 256 px, 60 of a `tiny` avatar, 12 at 512 px; and codes take a twentieth of the time of
the decoder.

    python -m experiments.bench_cpu [--avatar AVATAR ... --speech FILE [--size 512]]
                                    [--frames 40] [--tiny]

writes `results/bench_cpu.json`: heads of `kernels.rasterize.cases` and avatars, each as it draws by
default. `--tiny` draws one small head twice (for tests).
"""

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from egs_jax.avatar import precomputed as prepared
from egs_jax.avatar.avatar import KEPT, Avatar
from egs_jax.avatar.draw import load_drive
from egs_jax.avatar.look import Look
from egs_jax.avatar.stream import Stream
from egs_jax.media.audio_file import read_audio
from egs_jax.model.forward import raster_capacity
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.environment import usable_cores
from egs_jax.runtime.errors import InputError
from experiments import _drawn_scenes as drawn
from experiments._common import record
from experiments._runs import parsed, run_main
from kernels import rasterize
from kernels.rasterize.cases import head_case
from kernels.rasterize.types import BlendSpec, Gaussians, Settings
from kernels.rasterize.xla import rasterize as xla
from kernels.rasterize.xla.binning import default_capacity

NAME = "bench_cpu"
FRAMES = 4
"""Frames that are drawn in turn."""
CHUNK = 1600
"""Samples of sound that a live stream gets at once."""
OPTIONS = {"xla_cpu_prefer_vector_width": 512}
"""As a stream's program has."""


_posed = jax.jit(prepared.pose, static_argnums=0)
_moved = jax.jit(lambda config, kept, drive: kept.moved(config, drive), static_argnums=0)


class Scene(NamedTuple):
    """Moved Gaussians of some frames, and the numbers of `rasterize`."""

    name: str
    frames: list[dict[str, Any]]
    static: dict[str, Any]


def synthetic(n: int, size: int) -> Scene:
    """Make the benchmarks' head, before a background of bytes."""
    case = head_case(n, size)
    case["backgrounds"] = np.uint8(case["backgrounds"] * 255)
    static = {name: case.pop(name) for name in ("width", "height", "sh_degree")}
    frames = [jax.tree.map(lambda v: v[None], case)] * FRAMES
    return Scene("synthetic head", frames, static | dict(capacity=default_capacity(n, size, size)))


def of_avatar(avatar: Avatar, speech: Path) -> Scene:
    """Take frames of an avatar that speaks."""
    drive = load_drive(speech, avatar)
    frames = []
    for i in np.linspace(0, drive.num_frames - 1, FRAMES).astype(int).tolist():
        one = drive.frames(i, i + 1)
        cloud, viewmats = _posed(avatar.config.drawing, avatar.kept, one)
        frames.append(
            dict(
                means=cloud.means, quats=cloud.quats, scales=cloud.scales, colors=cloud.sh,
                opacities=cloud.opacities, viewmats=viewmats, Ks=one.Ks,
                backgrounds=one.backgrounds,
            )
        )  # fmt: skip
    width, height = avatar.scene.width, avatar.scene.height
    count = len(avatar.kept.alive)
    capacity = raster_capacity(avatar.config.model, count, width, height)
    static = dict(width=width, height=height, sh_degree=avatar.config.model.sh_degree)
    static["capacity"] = capacity or default_capacity(count, width, height)
    drawn = "exact" if avatar.is_exact else "baked"
    clip = Path(avatar.file or avatar.config.data_dir)
    clip = clip.parent if clip.name == KEPT else clip  # a run's own file
    return Scene(f"{clip.stem}, {avatar.config.preset}, {drawn}", frames, static)


def spoken(avatar: Avatar, speech: Path, frames: int) -> dict[str, float]:
    """Time what moves the Gaussians of an avatar, and a live stream, heard and drawn at once."""
    drive = load_drive(speech, avatar)
    ones = [drive.frames(i % drive.num_frames, i % drive.num_frames + 1) for i in range(frames)]
    move = lambda one: _posed(avatar.config.drawing, avatar.kept, one)
    live, samples = Stream(avatar), read_audio(speech)
    live.warm_up()
    rates = []
    for _ in range(3):  # the first compiles what hears
        live.reset()
        began = time.perf_counter()
        chunks = np.array_split(samples, max(1, len(samples) // CHUNK))
        count = sum(1 for chunk in chunks for _ in live.push(chunk))
        count += sum(1 for _ in live.finish())
        rates.append(count / (time.perf_counter() - began))
    return {"moving_ms": cpu_ms(move, ones), "live_fps": round(max(rates[1:]), 1)}


def cpu_ms(call: Callable[[Any], Any], arguments: Sequence[Any]) -> float:
    """Return the median time that a call takes of all cores, after one that does not count."""
    jax.block_until_ready(call(arguments[0]))
    times = []
    for argument in arguments:
        began = time.process_time()
        jax.block_until_ready(call(argument))
        times.append((time.process_time() - began) * 1e3)
    return round(statistics.median(times), 2)


def decoders(n: int, size: int, frames: int, **networks: Any) -> dict[str, float]:
    """Time what moves Gaussians of random networks in head space: the decoder, and codes."""
    scene = drawn.synthetic(n, size, "paper", "person", **networks)
    one = jax.device_put(scene.drive(1).replace(backgrounds=None))
    exact, baked = (
        cpu_ms(lambda drive, kept=kept: _moved(scene.config.drawing, kept, drive), [one] * frames)
        for kept in (scene.kept, scene.baked)
    )
    return {"decoder_ms": exact, "codes_ms": baked, "codes_share": round(baked / exact, 4)}


def programs(scene: Scene) -> dict[str, Callable[[dict], Any]]:
    """Return drawing up to each stage, and all of it."""
    static = scene.static
    spec = BlendSpec(static["width"], static["height"], 0.99, 1 / 255, 1e-4, True)
    settings = Settings(spec, 0.2, 0.3, static["sh_degree"], static["capacity"])
    n = scene.frames[0]["means"].shape[1]

    def project(frame: dict) -> Any:
        gaussians = Gaussians(
            means=frame["means"], quats=frame["quats"], scales=frame["scales"],
            opacities=frame["opacities"], colors=frame["colors"],
            means2d_offset=np.zeros((1, n, 2), np.float32),  # type: ignore[arg-type]
        )  # fmt: skip
        return xla.project_all(
            settings, gaussians, frame["viewmats"][:, 0, 0, None] < np.full((1, n), 9.0),
            frame["viewmats"], frame["Ks"], shown=True,
        )  # fmt: skip

    def lists(frame: dict) -> Any:
        splats = project(frame)
        made = xla.list_tiles(spec, static["capacity"], splats)
        return splats, made.ids, made.starts, made.lengths

    def pictures(frame: dict) -> Any:
        out = rasterize(**frame, **static, implementation="xla", as_bytes=True)
        return out.rgb, out.alpha

    return dict(projection=project, lists=lists, pictures=pictures)


def measured(scene: Scene, frames: int) -> dict:
    """Time a scene's stages one after another, and all of it on every core."""
    on_device = jax.device_put(scene.frames)
    compiled = {
        name: jax.jit(program, compiler_options=OPTIONS).lower(on_device[0]).compile()
        for name, program in programs(scene).items()
    }
    turns = [on_device[i % FRAMES] for i in range(frames)]
    stages = {name: cpu_ms(program, turns) for name, program in compiled.items()}
    draw = lambda i: jax.device_get(compiled["pictures"](on_device[i % FRAMES]))
    cores = usable_cores()
    with ThreadPoolExecutor(cores) as pool:
        began, worked = time.perf_counter(), time.process_time()
        list(pool.map(draw, range(frames)))
        wall, worked = time.perf_counter() - began, time.process_time() - worked
    case = dict(
        name=scene.name, gaussians=scene.frames[0]["means"].shape[1], size=scene.static["width"],
        projection_ms=round(stages["projection"], 2),
        lists_ms=round(stages["lists"] - stages["projection"], 2),
        blend_ms=round(stages["pictures"] - stages["lists"], 2),
        whole_ms=round(stages["pictures"], 2), cores=cores,
        cpu_ms_a_frame=round(worked / frames * 1e3, 2), frames_a_second=round(frames / wall, 1),
    )  # fmt: skip
    print(case, flush=True)
    return case


def main(argv: list[str] | None = None) -> Path:
    """Run the benchmark; returns the file written."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--avatar", type=Path, nargs="+", default=[])
    parser.add_argument("--speech", type=Path, help="what the avatars say")
    parser.add_argument("--size", type=int, help="pixels of the avatars, once more")
    parser.add_argument("--frames", type=int, default=40)
    arguments = parsed(parser, argv, figures=False)
    if arguments.tiny:
        case = measured(synthetic(300, 48), 2) | decoders(300, 48, 2, hash_levels=1)
        return record(NAME, [case], arguments.out)
    if arguments.avatar and arguments.speech is None:
        raise InputError("--speech: an avatar needs one to say")
    shapes = (6_500, 160, dict(width=64, sh_degree=1)), (25_000, 256, {}), (25_000, 512, {})
    cases = [
        measured(synthetic(n, size), arguments.frames) | decoders(n, size, arguments.frames, **own)
        for n, size, own in shapes
    ]
    looks = [Look()] + ([Look(size=arguments.size)] if arguments.size else [])
    for path, look in itertools.product(arguments.avatar, looks):
        avatar = dataclasses.replace(Avatar.load(path), look=look)
        case = measured(of_avatar(avatar, arguments.speech), arguments.frames)
        cases.append(case | spoken(avatar, arguments.speech, arguments.frames))
        print(cases[-1], flush=True)
    return record(NAME, cases, arguments.out)


if __name__ == "__main__":
    run_main(main)
