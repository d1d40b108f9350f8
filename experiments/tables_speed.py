"""Tables of time and memory: drawing, films, training steps, kernels, several devices."""

from collections.abc import Callable

from experiments._clips import labeled
from experiments._markdown import markdown, number
from experiments._peers import original_ms, peer
from experiments._runs import cases_of
from experiments._summary import QUALITY, grouped, seconds_to, shown, spread_of

CHECKS = ("check_kernels_gpu", "check_deform_gpu", "check_training_kernels_gpu")


def _film(cases: list[dict]) -> str:
    columns = {
        "avatar": lambda c: f"{c['source']}, {c['gaussians']:,} Gaussians, {c['size']} px",
        "speech, s": lambda c: f"{c['sound_s']:,}",
        "sound features, s": lambda c: number(c["features_s"]),
        "features and drawing, s": lambda c: number(c["draw_s"]),
        "encoding, s": lambda c: f"{number(c['encode_s'])} ({c['encoder']}, {c['cores']} cores)",
        "the `render` command, s": lambda c: number(c["render_command_s"]),
    }
    return markdown(columns, cases)


def _stream_hour(cases: list[dict]) -> str:
    columns = {
        "avatar": lambda c: f"{c['source']}, {c['gaussians']:,} Gaussians, {c['size']} px",
        "speech, s": lambda c: f"{c['seconds']:,.0f}",
        "frames": lambda c: f"{c['frames']:,}",
        "times real time": lambda c: f"{c['times_real_time']} ({c['device']}, {c['cores']} cores)",
        "sound ahead of a frame, s": lambda c: number(c["latency_s"]),
        "then ready after, ms (p50 / p95 / p99)": lambda c: " / ".join(
            number(c[f"ready_p{q}_ms"], 1) for q in (50, 95, 99)
        ),
        "memory at the start, after a minute, before and after the end, MiB": lambda c: ", ".join(
            f"{c['resident_mb'][at]:.0f}" for at in (0, 1, -2, -1)
        ),
    }
    return markdown(columns, cases)


def _training_kernels(cases: list[dict]) -> str:
    """XLA's and Triton's times side by side."""
    pairs = grouped(cases, "name").items()
    columns = {
        "work": lambda r: r["xla"]["name"],
        "XLA, ms": lambda r: number(r["xla"]["median_ms"], 3),
        "Triton, ms": lambda r: number(r["triton"]["median_ms"], 3),
        "ratio": lambda r: f"{r['xla']['median_ms'] / r['triton']['median_ms']:.1f}x",
    }
    return markdown(columns, [{c["implementation"]: c for c in found} for _, found in pairs])


def step_ms(case: dict) -> str:
    """Write median and spread of a training step's time."""
    return f"{case['median_ms']:.1f} ({case['p10_ms']:.1f}-{case['p90_ms']:.1f})"


def _scaling(cases: list[dict]) -> str:
    """Each beside the fewest devices of its stage."""
    groups = grouped(cases, "stage", "perceptual")

    def gain(case: dict) -> str:
        least = min(groups[case["stage"], case["perceptual"]], key=lambda c: c["devices"])
        return f"{case['images_per_second'] / least['images_per_second']:.2f}x"

    columns = {
        "stage": lambda c: c["stage"],
        "perceptual loss": lambda c: "yes" if c["perceptual"] else "no",
        "preset, px": lambda c: f"{c['preset']}, {c['size']}",
        "devices": lambda c: str(c["devices"]),
        "frames a step": lambda c: str(c["batch"]),
        "ms a step (p10-p90)": step_ms,
        "images a second": lambda c: f"{c['images_per_second']:,.0f}",
        "of the fewest devices": gain,
    }
    return markdown(columns, [case for group in groups.values() for case in group])


def _whole_runs(cases: list[dict]) -> str:
    """Each beside the others of its video, preset and size: the least of their last PSNRs."""
    groups = grouped(cases, "video", "preset", "width")

    def to_goal(case: dict) -> str:
        group = groups[case["video"], case["preset"], case["width"]]
        goal = min((c["course"][-1][1] for c in group if c["course"]), default=None)
        if goal is None:
            return "-"
        return f"{number(seconds_to(case['course'], goal), 1)} ({goal:.2f})"

    def bits(case: dict) -> str:
        hashes = case["state_sha256"]
        alike = f", {max(map(hashes.count, hashes))} of {len(hashes)} runs"
        return f"`{hashes[-1][:8]}`" + (alike if len(hashes) > 1 else "")

    rate = lambda stage: lambda c: number(c["images_per_second"].get(stage), 0)
    columns = {
        "video": lambda c: labeled(c["video"]),
        "preset, px, settings": lambda c: ", ".join(
            [c["preset"], str(c["width"]), *(f"{k} {v}" for k, v in c["settings"].items())]
        ),
        "devices": lambda c: str(c["devices"]),
        "from the command to the avatar, s": lambda c: (
            ", ".join(number(s, 0) for s in c["seconds"])
            + (" (compiled anew)" if c["fresh"] else "")
        ),
        "images a second, static": rate("static"),
        "deform": rate("deform"),
        "s of steps to a training PSNR (of, dB)": to_goal,
        "state_sha256": bits,
    }
    figure = lambda metric: lambda c: shown(spread_of([metric.value(c)]), metric.digits)
    columns |= {metric.label: figure(metric) for metric in QUALITY[:4]}
    columns |= {"device": lambda c: c["device"], "commit": lambda c: c["commit"][:7]}
    return markdown(columns, cases)


def _training(cases: list[dict]) -> str:
    """Steps by XLA alone, then those with Triton kernels."""
    columns = {
        "stage": lambda c: c["stage"],
        "body": lambda c: c["body"],
        "preset, px, batch": lambda c: f"{c['preset']}, {c['size']}, {c['batch']}",
        "perceptual loss": lambda c: "yes" if c["perceptual"] else "no",
        "Gaussians": lambda c: f"{c['gaussians']:,}",
        "kernels": lambda c: c["kernels"],
        "ms a step (p10-p90)": step_ms,
        "peak memory, GiB": lambda c: number(c["peak_memory_gib"]),
        "commit": lambda c: c["commit"][:7],
    }
    theirs = peer("speed")
    note = (
        "*kernels*: all of them (rasterizer, heads, SSIM, planes), by XLA or by Triton. The "
        f"original's code, measured apart ({theirs['conditions']}), took "
        f"{theirs['ms_a_training_step_batch_8_without_perceptual_loss']} ms for a step of the "
        "deformation stage at batch 8 without its perceptual loss. Ours are not waited for one by "
        "one, as they are not in training: a time is that of a block of ten steps, by ten."
    )
    return markdown(columns, cases + cases_of("bench_training_triton")) + "\n\n" + note


def paired_with_before() -> list[tuple[dict, dict]]:
    """Return each case of `before.json` with today's of the same bench and scene."""
    scene = ("name", "stage", "body", "perceptual", "gaussians", "size", "batch")
    of = lambda case: [case.get(name) for name in scene]
    pairs = []
    for old in cases_of("before"):
        [new] = [case for case in cases_of(old["bench"]) if of(case) == of(old)]
        pairs.append((old, new))
    return pairs


def _before(_: list[dict]) -> str:
    """Times of an earlier state beside today's."""

    def what(pair: tuple[dict, dict]) -> str:
        old = pair[0]
        if "name" in old:
            return f"{old['name']}, {old['size']} px, batch {old['batch']}"
        loss = "" if old["stage"] == "static" else f" {'and' if old['perceptual'] else 'without'} "
        return (
            f"a step, {old['stage']}{loss and loss + 'perceptual loss'}, "
            f"{old['size']} px, batch {old['batch']}"
        )

    def times(key: str) -> Callable[[tuple[dict, dict]], str]:
        def show(pair: tuple[dict, dict]) -> str:
            old, new = (case.get(key) for case in pair)
            return "-" if old is None else f"{old:.3f}, {new:.3f} ({new / old:.2f})"

        return show

    counts = lambda pair: ", ".join(str(case.get("kernels_a_call", "-")) for case in pair)
    columns = {
        "old, new (new / old)": what,
        "a call that is waited for, p50, ms": times("call_p50_ms"),
        "its kernels, p50, ms": times("device_p50_ms"),
        "calls without waiting, ms a frame": times("streaming_ms_a_frame"),
        "with copies from and to the host, p50, ms": times("host_call_p50_ms"),
        "steps, median, ms": times("median_ms"),
        "kernels a call": counts,
        "commits": lambda pair: ", ".join(case["commit"][:7] for case in pair),
    }
    return markdown(columns, paired_with_before())


def _pairs(cases: list[dict]) -> list[dict]:
    """Cases of the rasterizer's benchmark: gsplat's as `peer` of ours."""
    ours, peers = ([c for c in cases if c["name"] == name] for name in ("ours", "gsplat"))
    return [case | {"peer": peer} for case, peer in zip(ours, peers, strict=True)]


def _rasterizer(cases: list[dict]) -> str:
    def time(key: str) -> Callable[[dict], str]:
        return lambda c: f"{c[key]:.0f} / {c['peer'][key]:.0f} (**{c['peer'][key] / c[key]:.1f}x**)"

    columns = {
        "Gaussians, image px, splat px": lambda c: f"{c['n']:,}, {c['size']}, {c['px']}",
        "frames": lambda c: str(c["batch"]),
        "forward, wall us": time("fwd_us"),
        "forward, kernels us": time("fwd_kernel_us"),
        "both ways, wall us": time("fwd_bwd_us"),
        "both ways, kernels us": time("fwd_bwd_kernel_us"),
        "instances a frame, thousands": lambda c: (
            f"{c['instances_per_frame'] / 1e3:.0f} / {c['peer']['instances_per_frame'] / 1e3:.0f}"
        ),
        "memory both ways, MiB a call": lambda c: (
            f"{c['fwd_bwd_memory_mb']:.0f} / {c['peer']['fwd_bwd_memory_mb']:.0f}"
        ),
    }
    return markdown(columns, _pairs(cases))


def _stages(cases: list[dict]) -> str:
    """Show where the time goes, most first, and how far it is from the floors."""
    shown = [c for c in _pairs(cases) if (c["n"], c["size"], c["px"]) == (50_000, 512, 1.6)]
    sides = {}
    for case in shown:
        frames = "1 frame" if case["batch"] == 1 else f"{case['batch']} frames"
        sides |= {f"{frames}: ours": case, f"{frames}: gsplat": case["peer"]}

    def row(label: str, key: str, stage: str | None = None) -> dict:
        values = [side.get(key) for side in sides.values()]
        if stage is not None:
            values = [value.get(stage) for value in values]
        return {"label": label} | dict(zip(sides, map(_microseconds, values), strict=True))

    stages = {}  # with our time where we have the stage
    for side in reversed(sides.values()):
        stages |= side["fwd_bwd_stages_us"]
    rows = [
        row(stage, "fwd_bwd_stages_us", stage)
        for stage in sorted(stages, key=stages.get, reverse=True)
    ]
    for label, key in (("both ways", "fwd_bwd"), ("forward alone", "fwd")):
        rows.append(row(f"**{label}: all kernels**", f"{key}_kernel_us"))
        rows.append(row(f"{label}: wall", f"{key}_us"))
        rows.append(row(f"{label}: floor, estimated", f"{key}_floor_us"))
    columns = {"us a frame": "label"} | {name: name for name in sides}
    return markdown({head: lambda r, key=key: r[key] for head, key in columns.items()}, rows)


def _checks(_: list[dict]) -> str:
    """One row a script."""
    columns = {
        "script": lambda r: f"`{r['script']}`",
        "checks": lambda r: str(len(r["cases"])),
        "passed": lambda r: str(sum(case["passes"] for case in r["cases"])),
        "on": lambda r: r["cases"][0]["device"].removeprefix("gpu: "),
        "commit": lambda r: ", ".join(dict.fromkeys(case["commit"][:7] for case in r["cases"])),
    }
    rows = [{"script": name, "cases": cases_of(name)} for name in CHECKS]
    return markdown(columns, [row for row in rows if row["cases"]])


def _microseconds(value: float | list[float] | None) -> str:
    if value is None:
        return "-"
    return "{}-{}".format(*value) if isinstance(value, list) else f"{value:.1f}"


def call_ms(case: dict) -> float:
    """Return the time of a frame in a call that is waited for [ms], median."""
    return case["call_p50_ms"] / case["batch"]


def original_of(case: dict) -> float | None:
    """Return the original's time of such a frame [ms]; None where it was not measured."""
    if case["name"].startswith("trained"):
        return None
    return original_ms(case["gaussians"], case["size"], case["batch"])


def _inference(cases: list[dict]) -> str:
    """Calls that were waited for, beside the original's code; then those that were not."""
    times = lambda name: (
        lambda c: " / ".join(number(c.get(f"{name}_p{q}_ms"), 3) for q in (50, 95, 99))
    )
    stages = lambda c: ", ".join(
        f"{name} {us:.0f}" for name, us in c.get("stages_us_a_frame", {}).items()
    )
    baked = lambda show: lambda c: show(c["baked"]) if "baked" in c else "-"

    def beside(case: dict) -> str:
        theirs = original_of(case)
        return "-" if theirs is None else f"{theirs:.2f} (**{theirs / call_ms(case):.1f}x**)"

    columns = {
        "avatar": lambda c: c["name"],
        "Gaussians, px, batch": lambda c: f"{c['gaussians']:,}, {c['size']}, {c['batch']}",
        "a call that is waited for: ms a frame": lambda c: f"**{number(call_ms(c), 3)}**",
        "the original's code, likewise": beside,
        "ms a call (p50 / p95 / p99)": times("call"),
        "calls without waiting: ms a frame": lambda c: number(c["streaming_ms_a_frame"], 3),
        "kernels of a call, ms": times("device"),
        "with copies from and to the host, ms": times("host_call"),
        "stages, us a frame": stages,
        "memory of a call and kept, MiB": lambda c: f"{c['memory_mb']:.0f}, {c['kept_mb']:.0f}",
        "PSNR to float32, dB": lambda c: number(c.get("psnr_to_float32_db"), 1),
        "baked: ms a call (p50 / p95 / p99)": baked(times("call")),
        "baked: calls without waiting, ms a frame": baked(
            lambda b: number(b["streaming_ms_a_frame"], 3)
        ),
        "baked: kernels of a call, ms": baked(times("device")),
        "baked: with copies, ms": baked(times("host_call")),
        "baked: over one plate, ms": baked(times("plate_call")),
        "baked: copied by JAX itself, ms": baked(times("unlocked_call")),
        "baked: stages, us a frame": baked(stages),
    }
    theirs, other = peer("speed"), peer("speed", "GaussianTalker")
    note = (
        f"The original's code was not in this run: it was measured apart, {theirs['measured']}, on "
        f"an NVIDIA H200 ({theirs['conditions']}). GaussianTalker's, likewise: "
        + " and ".join(f"{ms:.2f} ms a frame at batch {n}" for n, ms in other["ms_a_frame"].items())
        + "."
    )
    return markdown(columns, cases) + "\n\n" + note


def _bodies(cases: list[dict]) -> str:
    """Each beside the head of its batch."""
    heads = {c["batch"]: c for c in cases if "head" in c["name"]}

    def beside(value: Callable[[dict], float]) -> Callable[[dict], str]:
        def show(case: dict) -> str:
            ours = value(case)
            return f"{ours:.3f} ({ours / value(heads[case['batch']]):.2f}x)"

        return show

    columns = {
        "avatar": lambda c: c["name"],
        "Gaussians, px, batch": lambda c: f"{c['gaussians']:,}, {c['size']}, {c['batch']}",
        "a call that is waited for: ms a frame (of a head's)": beside(call_ms),
        "calls without waiting: ms a frame": beside(lambda c: c["streaming_ms_a_frame"]),
        "kernels of a call, ms": beside(lambda c: c["device_p50_ms"]),
        "kernels": lambda c: str(c["kernels_a_call"]),
        "memory of a call and kept, MiB": lambda c: f"{c['memory_mb']:.0f}, {c['kept_mb']:.0f}",
        "commit": lambda c: c["commit"][:7],
    }
    return markdown(columns, cases) + "\n\n" + _steps_of_bodies()


def _steps_of_bodies() -> str:
    """Training steps of a person beside those of a head, of the same run."""
    cases = cases_of("bench_training_bodies")
    step = lambda c: (c["stage"], c["perceptual"])
    heads = {step(c): c["median_ms"] for c in cases if c["body"] == "head"}
    with_loss = lambda c: "with perceptual loss" if c["perceptual"] else "without"
    columns = {
        "training step": lambda c: f"{c['stage']}, {with_loss(c)}",
        "body": lambda c: c["body"],
        "Gaussians, px, batch": lambda c: f"{c['gaussians']:,}, {c['size']}, {c['batch']}",
        "ms (of a head's)": lambda c: (
            f"{c['median_ms']:.2f} ({c['median_ms'] / heads[step(c)]:.2f}x)"
        ),
        "10 % to 90 %": lambda c: f"{c['p10_ms']:.2f} to {c['p90_ms']:.2f}",
        "memory, GiB": lambda c: f"{c['peak_memory_gib']:.1f}",
        "commit": lambda c: c["commit"][:7],
    }
    return markdown(columns, cases)


TABLES = {
    "inference": ("bench_inference", _inference),
    "bodies": ("bench_bodies", _bodies),
    "film": ("bench_film", _film),
    "stream_hour": ("stream_hour", _stream_hour),
    "training": ("bench_training_xla", _training),
    "before": ("before", _before),
    "training_kernels": ("bench_training_kernels", _training_kernels),
    "bench_scaling": ("bench_scaling", _scaling),
    "bench_runs": ("bench_runs", _whole_runs),
    "rasterizer": ("bench_rasterizer", _rasterizer),
    "stages": ("bench_rasterizer", _stages),
    "checks": (CHECKS[0], _checks),
}
"""Tables by name: the file of its cases, and what makes the table of them."""
