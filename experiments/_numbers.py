"""Numbers that stand in the prose of the READMEs, by name: each from a results file.

In a README `<!--n:NAME-->text<!--/-->` is such a number; `python -m experiments.readme` writes the
text. Names say file and meaning.
"""

import itertools
from collections.abc import Callable
from functools import partial

from egs_jax.avatar.baking import CODES
from experiments._clips import CLIPS
from experiments._markdown import number
from experiments._peers import peer
from experiments._runs import cases_of
from experiments._summary import QUALITY, by_chance, grouped, shown, spread_of, stands_out
from experiments.tables import PEER_METRICS, ablation_gaps
from experiments.tables_speed import call_ms, original_of, paired_with_before

MAIN = "synthetic head, paper"
"""The benchmark's avatar on which the original's code was measured as well."""
PARITY = "synthetic head, parity"
FITTED = f"{MAIN}, fitted lips"
"""The default since then; drawn by codes as well."""


Made = dict[str, Callable[[], str]]


def numbers() -> Made:
    """Return what makes each number, by name."""
    parts = (_quality_numbers, _peer_numbers, _drawing_numbers, _speaking_numbers, _other_numbers)
    return {name: make for part in parts for name, make in part().items()}


def _quality_numbers() -> Made:
    """Names such as `obama.paper.psnr_head` of a head alone, `person.obama.paper.psnr_head`."""
    made: Made = {}
    for clip, preset, metric in itertools.product(CLIP_NAMES, ("fast", "sharp", "paper"), METRICS):
        for body, prefix in (("head", ""), ("person", "person.")):
            name = f"{prefix}{clip.split('_')[0]}.{preset}.{metric}"
            made[name] = partial(_quality, clip, preset, body, metric, METRICS[metric])
    rows = grouped(cases_of("ablations"), "dataset", "preset", "series", "variant")
    for (_, _, series, variant), found in rows.items():
        for metric, digits in ABLATION_METRICS.items():
            made[f"ablation.{series}.{variant}.{metric}"] = partial(_mean, found, metric, digits)
    for part in ("eyes", "mouth"):
        made[f"static_stage_gain.{part}"] = partial(_static_stage_gain, part)
    for seconds in CURVE_SECONDS:
        made[f"curve.{seconds}.mouth_r"] = partial(_curve, seconds, "mouth_r", 2)
    return made | {
        "ablation.figures": lambda: str(len(ALIKE) * len(QUALITY)),
        "ablation.standing_out": lambda: str(sum(map(len, standing_out().values()))),
        "ablation.by_chance": lambda: number(len(ALIKE) * len(QUALITY) * by_chance(SEEDS), 0),
        "ablation.chance_percent": lambda: number(100 * by_chance(SEEDS), 0),
        "ablation.list": _listed,
    }


def _peer_numbers() -> Made:
    """Names such as `peer.ssim`: the original's code at the end of its training; its best PSNR."""
    end = lambda metric, digits: number(peer("quality")["at_the_end"][metric], digits)
    made = {f"peer.{m}": partial(end, m, digits) for m, (_, digits) in PEER_METRICS.items()}
    steps = "psnr_head_by_deformation_step"
    return made | {"peer.psnr_head_best": lambda: number(max(peer("quality")[steps].values()))}


def _drawing_numbers() -> Made:
    """Names such as `call_ms.1`, with the batch; those of `parity` by its name."""
    made: Made = {}
    for batch in (1, 16):
        case, parity = partial(_drawn, batch), partial(_drawn, batch, PARITY)
        made |= {
            f"call_ms.{batch}": lambda c=case: number(call_ms(c()), 3),
            f"streaming_ms.{batch}": lambda c=case: number(c()["streaming_ms_a_frame"], 3),
            f"original_ms.{batch}": lambda c=case: number(original_of(c()), 2),
            f"parity.streaming_ms.{batch}": lambda c=parity: number(c()["streaming_ms_a_frame"], 3),
            f"call_ratio.{batch}": lambda c=case: f"{original_of(c()) / call_ms(c()):.1f}x",
            f"baked.device_ms.{batch}": partial(_baked_ms, "device_p50_ms", batch),
        }
    return made | {
        "baked.call_ms.1": partial(_baked_ms, "call_p50_ms", 1),
        "baked.host_ms.1": partial(_baked_ms, "host_call_p50_ms", 1),
        "parity.psnr_to_float32": lambda: number(_drawn(1, PARITY)["psnr_to_float32_db"], 0),
        "before.kernels.paper": partial(_since_before, "device_p50_ms", parity=False),
        "before.kernels.parity": partial(_since_before, "device_p50_ms", parity=True),
        "before.alone": partial(_since_before, "call_p50_ms", batch=1),
        "before.copies": partial(_since_before, "host_call_p50_ms"),
        "before.steps": partial(_since_before, "median_ms"),
        "stream.latency_s": lambda: number(cases_of("stream_hour")[-1]["latency_s"], 2),
    }


def _speaking_numbers() -> Made:
    """Names such as `live.fast.256`, frames a second on two CPU cores; `baked.codes`, `start_s`."""
    lives = {
        f"live.{case['name'].split(', ')[1]}.{case['size']}": case["live_fps"]
        for case in cases_of("bench_cpu") if "live_fps" in case
    }  # fmt: skip
    made: Made = {name: partial(number, fps, 0) for name, fps in lives.items()}
    for frames, gaussians in (("drawn", 25_000), ("drawn", 50_000), ("codes", 50_000)):
        made[f"held.{frames}.{gaussians}"] = partial(_held, frames, gaussians)
    return made | {
        "baked.codes": lambda: str(CODES),
        "baked.file_mb": lambda: _baked("file_mb"),
        "baked.psnr": lambda: _baked("psnr_to_exact"),
        "start_s": lambda: number(
            min(row["wall_s"] for row in cases_of("bench_start")[-1]["render"][1:]), 1
        ),
    }


def _held(frames: str, gaussians: int) -> str:
    """The most live sessions that an H200 holds, by however many processes."""
    counts = [
        case["sessions"] for case in cases_of("bench_streams")
        if (case.get("frames"), case.get("gaussians")) == (frames, gaussians)
        and "H200" in case["device"]
    ]  # fmt: skip
    return str(max(counts))


def _baked(name: str) -> str:
    """From the least to the most of what the `fast` avatars have with the usual codes."""
    values = [
        case[name] for case in cases_of("baking")
        if case["codes"] == CODES and case["preset"] == "fast"
    ]  # fmt: skip
    return f"{number(min(values), 0)} to {number(max(values), 0)}"


def _other_numbers() -> Made:
    """Names such as `step_ms.triton`, `whole_run_s.fast`, `kills`."""
    return {
        "step_ms.triton": lambda: number(_step()["median_ms"], 1),
        "rasterizer_ratio.both_ways": partial(_rasterizer_ratios, "fwd_bwd_kernel_us"),
        "whole_run_s.fast": partial(_whole_run, "fast"),
        "whole_run_s.paper": partial(_whole_run, "paper"),
        "kills": lambda: str(cases_of("kill_training")[-1]["kills"]),
        "held_out.head_gain": _head_gain,
        "decode.claimed_s": lambda: number(cases_of("bench_decode")[0]["claimed_clip_s"], 1),
    }


CLIP_NAMES = tuple(clip.name for clip in CLIPS.values() if clip.films == 1)
METRICS = {
    "psnr_head": 2, "psnr": 2, "ssim": 4, "lpips": 4, "lmd": 2, "mouth_r": 2,
    "mouth_r_shift_p95": 2, "baseline_nearest_frame": 2, "baseline_mean_frame": 2,
    "seconds_trained": 1, "seconds_held_out": 1, "head_fraction": 2, "train_seconds": 0,
}  # fmt: skip
"""Figures of `self_reconstruction.json`, means over seeds of the split that holds out most; with
their digits."""


def _quality(clip: str, preset: str, body: str, metric: str, digits: int) -> str:
    found = [
        case
        for case in cases_of("self_reconstruction")
        if (case["video"], case["preset"], case["body"]) == (clip, preset, body)
    ]
    longest = max((case["seconds_held_out"] for case in found), default=None)
    found = [case for case in found if case["seconds_held_out"] == longest]
    return _mean(found, metric, digits)


CURVE_SECONDS = (15, 60, 192)
"""Lengths of video of `data_curve.json` that the READMEs speak of."""


def _curve(seconds: float, metric: str, digits: int) -> str:
    found = [case for case in cases_of("data_curve") if case["seconds"] == seconds]
    return _mean(found, metric, digits)


ABLATION_METRICS = {"psnr_head": 2, "lpips": 4, "lmd": 2, "mouth_r": 2}
"""Figures of `ablations.json` (Obama, `fast`), means over seeds; with their digits."""


ALIKE = (
    (1, "ppe_off"), (1, "long_window_ppe_off"), (1, "cross"), (1, "dense"), (2, "mlp"),
    (2, "mlp_wide"),
)  # fmt: skip
"""Series and variant of what the READMEs find no difference in."""
SEEDS = 3
"""Runs of each variant."""


def standing_out() -> dict[tuple[int, str], dict[str, str]]:
    """Return the differences of `ALIKE` that are larger than their own deviations, by label."""
    gaps = ablation_gaps(cases_of("ablations"))
    return {
        row: {
            metric.label: shown(gaps[row][metric.label], metric.digits, signed=True)
            for metric in QUALITY
            if stands_out(gaps[row][metric.label])
        }
        for row in ALIKE
    }


def _listed() -> str:
    """Write the differences that stand out, by variant."""
    part = lambda label, gap: f"{label.split(',')[0]} {gap}"
    parts = {
        f"`{variant}`" + (f" of series {series}" if series > 1 else ""): found
        for (series, variant), found in standing_out().items()
    }
    return "; ".join(
        f"{row}: {', '.join(part(*item) for item in found.items())}"
        for row, found in parts.items()
        if found
    )


def _mean(cases: list[dict], metric: str, digits: int) -> str:
    """Mean over seeds, without the deviation."""
    spread = spread_of([case[metric] for case in cases])
    return shown(spread and spread._replace(std=None), digits)


def _drawn(batch: int, name: str = MAIN) -> dict:
    """The case of an avatar of 50,000 Gaussians at 512 px, at a batch."""
    [case] = [
        case
        for case in cases_of("bench_inference")
        if (case["name"], case["gaussians"], case["size"], case["batch"])
        == (name, 50_000, 512, batch)
    ]
    return case


def _baked_ms(key: str, batch: int) -> str:
    """A time of a frame that is drawn by codes, 50,000 Gaussians at 512 px."""
    return number(_drawn(batch, FITTED)["baked"][key] / batch, 3)


def _static_stage_gain(part: str) -> str:
    """How many times the Gaussians of a region have become in `fast` with the static stage."""
    ratios = [
        case["end"]["by_region"][part] / case["start"]["by_region"][part]
        for case in cases_of("point_density")
        if case["static_steps"]
    ]
    return number(sum(ratios) / len(ratios), 1)


def _head_gain() -> str:
    """From the least to the most dB that a person's head has over a head alone, held-out poses."""
    gains = [
        case["person.psnr_head"] - case["head_nearest_body.psnr_head"]
        for case in cases_of("held_out_poses")
    ]
    return f"{number(min(gains), 1)} to {number(max(gains), 1)}"


def _step() -> dict:
    """A head's step of the deformation stage by Triton's kernels, with its perceptual loss."""
    [case] = [
        case
        for case in cases_of("bench_training_triton")
        if case["stage"] == "deform" and case["perceptual"] and case["body"] == "head"
    ]
    return case


def _rasterizer_ratios(key: str) -> str:
    """From the least to the largest ratio of gsplat's kernels to ours."""
    cases = cases_of("bench_rasterizer")
    ours, theirs = ([c[key] for c in cases if c["name"] == name] for name in ("ours", "gsplat"))
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return f"{min(ratios):.1f}x to {max(ratios):.1f}x"


def _since_before(key: str, *, parity: bool | None = None, batch: int | None = None) -> str:
    """From the least to the largest ratio of today's times to those of `before.json`."""
    ratios = [
        new[key] / old[key]
        for old, new in paired_with_before()
        if key in old
        and parity in (None, old.get("name") == PARITY)
        and batch in (None, old["batch"])
    ]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def _whole_run(preset: str) -> str:
    """Seconds of the first, compiling, run of a preset without further settings."""
    [case] = [
        case for case in cases_of("bench_runs") if case["preset"] == preset and not case["settings"]
    ]
    return number(case["seconds"][0], 0)
