"""Numbers that stand in the prose of the READMEs, by name: each from a results file.

In a README `<!--n:NAME-->text<!--/-->` is such a number; `python -m experiments.readme` writes the
text. Names say file and meaning.
"""

from collections.abc import Callable

from experiments._markdown import number
from experiments._peers import peer
from experiments._runs import cases_of
from experiments._summary import shown, spread_of
from experiments.tables_speed import call_ms, original_of

OBAMA = "obama_bp_450_25fps_20s"
MAIN = "synthetic head, paper"
"""The benchmark's avatar on which the original's code was measured as well."""


def numbers() -> dict[str, Callable[[], str]]:
    """Return what makes each number, by name."""
    made: dict[str, Callable[[], str]] = {}
    for clip in (OBAMA, "tedlieu_256_60s", "andrew_256_25s", "feifei_256_15s"):
        for preset in ("fast", "paper"):
            for metric, digits in METRICS.items():
                name = f"{clip.split('_')[0]}.{preset}.{metric}"
                made[name] = lambda c=clip, p=preset, m=metric, d=digits: _quality(c, p, m, d)
    for variant in {case["variant"]: None for case in cases_of("ablations")}:
        for metric, digits in ABLATION_METRICS.items():
            made[f"ablation.{variant}.{metric}"] = lambda v=variant, m=metric, d=digits: _ablation(
                v, m, d
            )
    for batch in (1, 16):
        made |= {
            f"call_ms.{batch}": lambda b=batch: number(call_ms(_drawn(b)), 3),
            f"streaming_ms.{batch}": lambda b=batch: number(_drawn(b)["streaming_ms_a_frame"], 3),
            f"original_ms.{batch}": lambda b=batch: number(original_of(_drawn(b)), 2),
            f"call_ratio.{batch}": lambda b=batch: (
                f"{original_of(_drawn(b)) / call_ms(_drawn(b)):.1f}x"
            ),
        }
    for metric in ("psnr", "psnr_head", "psnr_lips", "lmd", "mouth_r", "mouth_gain", "blink_r"):
        made[f"peer.{metric}"] = lambda m=metric: number(peer("quality")["at_the_end"][m])
    for metric in ("ssim", "lpips"):
        made[f"peer.{metric}"] = lambda m=metric: number(peer("quality")["at_the_end"][m], 4)
    for kernels in ("xla", "triton"):
        made[f"step_ms.{kernels}"] = lambda k=kernels: number(_step(k)["median_ms"], 1)
    for pass_, key in (("forward", "fwd_kernel_us"), ("both_ways", "fwd_bwd_kernel_us")):
        made[f"rasterizer_ratio.{pass_}"] = lambda k=key: _rasterizer_ratios(k)
    for devices in (2, 4):
        made[f"scaling.{devices}"] = lambda d=devices: f"{_scaling(d):.2f}x"
    for preset in ("fast", "paper"):
        made[f"whole_run_s.{preset}"] = lambda p=preset: _whole_run(p)
    return made | {
        "peer.psnr_head_best": lambda: number(
            max(peer("quality")["psnr_head_by_deformation_step"].values())
        ),
        "original_step_ms": lambda: number(
            peer("speed")["ms_a_training_step_batch_8_without_perceptual_loss"], 1
        ),
        "kills": lambda: str(cases_of("kill_training")[-1]["kills"]),
        "film.speech_s": lambda: number(cases_of("bench_film")[-1]["sound_s"], 0),
        "film.command_s": lambda: number(cases_of("bench_film")[-1]["render_command_s"], 0),
        "stream.latency_s": lambda: number(cases_of("stream_hour")[-1]["latency_s"], 2),
        "stream.times_real_time": lambda: number(cases_of("stream_hour")[-1]["times_real_time"], 0),
        "heads_ms.bspline": lambda: number(_deform_us("synthetic head, paper, bspline") / 1e3, 1),
        "heads_ratio.bspline": lambda: (
            f"{_deform_us('synthetic head, paper, bspline') / _deform_us(MAIN):.0f}"
        ),
    }


METRICS = {
    "psnr_head": 2, "psnr": 2, "ssim": 4, "lpips": 4, "lmd": 2, "mouth_r": 2,
    "mouth_r_shift_p95": 2, "baseline_nearest_frame": 2, "baseline_mean_frame": 2,
    "seconds_trained": 1, "seconds_held_out": 1, "head_fraction": 2, "train_seconds": 0,
}  # fmt: skip
"""Of `self_reconstruction.json`, means over seeds; with their digits."""


def _quality(clip: str, preset: str, metric: str, digits: int) -> str:
    found = [
        case
        for case in cases_of("self_reconstruction")
        if (case["video"], case["preset"]) == (clip, preset)
    ]
    return _mean(found, metric, digits)


ABLATION_METRICS = {"psnr_head": 2, "lpips": 4, "lmd": 2, "mouth_r": 2}
"""Of `ablations.json` (Obama, `fast`), means over seeds; with their digits."""


def _ablation(variant: str, metric: str, digits: int) -> str:
    found = [
        case
        for case in cases_of("ablations")
        if (case["variant"], case["dataset"], case["preset"]) == (variant, OBAMA, "fast")
    ]
    return _mean(found, metric, digits)


def _mean(cases: list[dict], metric: str, digits: int) -> str:
    """Mean over seeds, without the deviation."""
    spread = spread_of([case[metric] for case in cases])
    return shown(spread and spread._replace(std=None), digits)


def _drawn(batch: int) -> dict:
    """The case of the main avatar at a batch."""
    [case] = [
        case
        for case in cases_of("bench_inference")
        if (case["name"], case["gaussians"], case["size"], case["batch"])
        == (MAIN, 50_000, 512, batch)
    ]
    return case


def _deform_us(name: str) -> float:
    """Time of the heads in a frame of 50,000 Gaussians at 512 px, alone [us]."""
    [case] = [
        case
        for case in cases_of("bench_inference")
        if (case["name"], case["gaussians"], case["size"], case["batch"]) == (name, 50_000, 512, 1)
    ]
    return case["stages_us_a_frame"]["deform"]


def _step(kernels: str) -> dict:
    """A step of the deformation stage with its perceptual loss."""
    [case] = [
        case
        for case in cases_of(f"bench_training_{kernels}")
        if case["stage"] == "deform" and case["perceptual"]
    ]
    return case


def _rasterizer_ratios(key: str) -> str:
    """From the least to the largest ratio of gsplat's kernels to ours."""
    cases = cases_of("bench_rasterizer")
    ours, theirs = ([c[key] for c in cases if c["name"] == name] for name in ("ours", "gsplat"))
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return f"{min(ratios):.1f}x to {max(ratios):.1f}x"


def _scaling(devices: int) -> float:
    """Images a second of the deformation stage with the perceptual loss, beside one device."""
    rates = {
        case["devices"]: case["images_per_second"]
        for case in cases_of("bench_scaling")
        if case["stage"] == "deform" and case["perceptual"]
    }
    return rates[devices] / rates[1]


def _whole_run(preset: str) -> str:
    """Seconds of the first, compiling, run of a preset without further settings."""
    [case] = [
        case for case in cases_of("bench_runs") if case["preset"] == preset and not case["settings"]
    ]
    return number(case["seconds"][0], 0)
