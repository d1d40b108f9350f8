"""The tables of experiments/README.md, each from a results file, or a line that there is none."""

from collections.abc import Callable
from typing import Any

from experiments._regions import REGIONS
from experiments._runs import FIGURES, earlier
from experiments._summary import QUALITY, Metric, grouped, paired, seconds_to, shown, spread_of

BASE = "paper"


def tables() -> dict[str, str]:
    """Markdown by table name."""
    makers = {
        "self_reconstruction": _self_reconstruction, "ablations": _ablations,
        "ablation_costs": _ablation_costs, "cross_driven": _cross_driven,
        "point_density": _point_density, "attention_map": _attention_map,
        "inference": _inference, "film": _film, "stream_hour": _stream_hour,
        "training_kernels": _training_kernels, "kill_training": _kill_training,
        "bench_scaling": _scaling, "bench_runs": _whole_runs,
    }  # fmt: skip
    files = {
        "ablation_costs": "ablations", "inference": "bench_inference", "film": "bench_film",
        "training_kernels": "bench_training_kernels",
    }  # fmt: skip
    return {
        name: _or_absent(files.get(name, name), make) + _figure(name)
        for name, make in makers.items()
    }


def _or_absent(file: str, make: Callable[[list[dict]], str]) -> str:
    cases = earlier(file)
    if cases:
        return make(cases)
    return f"*Not run yet: there is no `results/{file}.json`.*"


def _figure(name: str) -> str:
    """The experiment's figure, where it is kept."""
    return f"\n\n![{name}](figures/{name}.png)" if (FIGURES / f"{name}.png").exists() else ""


def markdown(columns: dict[str, Callable[[Any], str]], rows: list) -> str:
    """A Markdown table: what each column shows of each row."""
    head = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    body = ["| " + " | ".join(show(row) for show in columns.values()) + " |" for row in rows]
    return "\n".join(head + body)


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _self_reconstruction(cases: list[dict]) -> str:
    columns = {
        "video": lambda c: c["video"],
        "preset, px, seed": lambda c: f"{c['preset']}, {c['width']}, {c['seed']}",
        "PSNR composite, dB (paper: 36.07, Obama)": lambda c: _number(c["psnr"]),
        "head's share of the picture": lambda c: _number(c["head_fraction"]),
        "PSNR head, dB": lambda c: _number(c["psnr_head"]),
        "PSNR lips, dB": lambda c: _number(c["psnr_lips"]),
        "LPIPS": lambda c: _number(c["lpips"], 4),
        "SSIM": lambda c: _number(c["ssim"], 3),
        "LMD, px": lambda c: _number(c["lmd"], 3),
        "sync lag, frames (confidence)": lambda c: (
            f"{_number(c['sync_lag_frames'], 0)} ({_number(c['sync_conf'])})"
        ),
        "frames a second (paper: 66.36)": lambda c: f"{_number(c['render_fps'], 0)}, {c['device']}",
    }
    return markdown(columns, cases)


def _settings(cases: list[dict]) -> list[tuple[str, list[dict], list[dict]]]:
    """Rows of the ablations: video and preset, the variant's cases, and the base's."""
    rows = []
    for (dataset, preset, size), group in grouped(cases, "dataset", "preset", "size").items():
        variants = {name: found for (name,), found in grouped(group, "variant").items()}
        where = f"{dataset}, {preset}, {size} px"
        rows += [(where, found, variants.get(BASE, [])) for found in variants.values()]
    return rows


def _ablations(cases: list[dict]) -> str:
    """Means over seeds; below them, for all but the base, the mean difference to it."""

    def cell(metric: Metric) -> Callable[[tuple], str]:
        def show(row: tuple) -> str:
            _, found, base = row
            text = shown(spread_of([metric.value(case) for case in found]), metric.digits)
            if found[0]["variant"] == BASE:
                return text
            gap = shown(paired(found, base, metric), metric.digits, signed=True)
            return f"{text} ({gap})"

        return show

    columns = {
        "video, preset": lambda r: r[0],
        "variant": lambda r: f"`{r[1][0]['variant']}`",
        "seeds": lambda r: str(len(r[1])),
    } | {metric.label: cell(metric) for metric in QUALITY}
    return markdown(columns, _settings(cases))


def _ablation_costs(cases: list[dict]) -> str:
    minutes = lambda found: spread_of(
        [c["train_seconds"] and c["train_seconds"] / 60 for c in found]
    )
    columns = {
        "video, preset": lambda r: r[0],
        "variant": lambda r: f"`{r[1][0]['variant']}`",
        "steps": lambda r: f"{r[1][0]['static_steps']:,} + {r[1][0]['deform_steps']:,}",
        "parameters: planes": lambda r: f"{r[1][0]['parameters']['planes']:,}",
        "other networks": lambda r: f"{r[1][0]['parameters']['networks']:,}",
        "of these at work in a frame": lambda r: f"{r[1][0]['parameters']['per_frame']:,}",
        "Gaussians": lambda r: shown(spread_of([c["num_gaussians"] for c in r[1]]), 0),
        "training, min": lambda r: shown(minutes(r[1]), 1),
        "device": lambda r: ", ".join(sorted({c["device"] for c in r[1]})),
    }
    return markdown(columns, _settings(cases))


def _cross_driven(cases: list[dict]) -> str:
    columns = {
        "head": lambda c: f"{c['video']}, {c['preset']}, {c['width']} px, seed {c['seed']}",
        "speech": lambda c: c["speech"],
        "poses": lambda c: c["poses"],
        "frames": lambda c: str(c["frames"]),
        "sync lag, frames (confidence; true lag)": lambda c: (
            f"{_number(c['sync_lag_frames'], 0)} ({_number(c['sync_conf'])}; "
            f"{_number(c['sync_lag_true_frames'], 0)})"
        ),
        "mouth and sound r (shifted p95; true)": lambda c: (
            f"{_number(c['mouth_sound_r'])} ({_number(c['mouth_sound_r_shift_p95'])}; "
            f"{_number(c['mouth_sound_r_true'])})"
        ),
        "silence, percentile": lambda c: _number(c["mouth_silence_percentile"], 0),
        "jitter, px": lambda c: _number(c["jitter_px"]),
        "LPIPS to the nearest frame (of true frames)": lambda c: (
            f"{_number(c['lpips_nearest'], 3)} ({_number(c['lpips_nearest_true'], 3)})"
        ),
    }
    return markdown(columns, cases)


def _point_density(cases: list[dict]) -> str:
    median = lambda where, name: lambda c: f"{1000 * c[where][name]['p50']:.1f}"
    columns = {
        "video, preset, seed": lambda c: f"{c['dataset']}, {c['preset']}, {c['seed']}",
        "static stage": lambda c: "yes" if c["static_steps"] else "no",
        "Gaussians, start and end": lambda c: (
            f"{c['start']['gaussians']:,}, {c['end']['gaussians']:,}"
        ),
        **{
            f"{name}, start and end": lambda c, name=name: (
                f"{c['start']['by_region'][name]:,}, {c['end']['by_region'][name]:,}"
            )
            for name in REGIONS
        },
        "median size, thousandths": median("end", "size"),
        "median spacing, thousandths": median("end", "spacing"),
        "PSNR of the last batches, dB": lambda c: _number(c["curve"]["psnr"][-1]),
        "training, min": lambda c: _number(c["train_seconds"] and c["train_seconds"] / 60, 1),
    }
    return markdown(columns, cases)


def _attention_map(cases: list[dict]) -> str:
    """A row a kind of tokens: its share of the attention (the window's sum), and its moves."""
    rows = []
    for case in cases:
        kinds: dict[str, list[str]] = {}
        for token in case["share"]:
            kinds.setdefault(token.split()[0], []).append(token)
        rows += [(case, kind, tokens) for kind, tokens in kinds.items()]

    def cell(region: str) -> Callable[[tuple], str]:
        def show(row: tuple) -> str:
            case, kind, tokens = row
            parts = [case["share"][token][region] for token in tokens]
            share = None if None in parts else sum(parts)
            moves = case["moves"].get(kind, {}).get(region)
            return f"{_number(share)}, {_number(moves and 1000 * moves)}"

        return show

    columns = {
        "video, preset, seed": lambda r: f"{r[0]['video']}, {r[0]['preset']}, {r[0]['seed']}",
        "token": lambda r: r[1],
    } | {f"{region}: share, moves": cell(region) for region in REGIONS}
    return markdown(columns, rows)


def _inference(cases: list[dict]) -> str:
    """Times of drawing, with those of the original's code where it was measured."""
    times = lambda name: (
        lambda c: " / ".join(_number(c.get(f"{name}_p{q}_ms"), 3) for q in (50, 95, 99))
    )
    columns = {
        "avatar": lambda c: c["name"],
        "Gaussians, px, batch": lambda c: f"{c['gaussians']:,}, {c['size']}, {c['batch']}",
        "ms a frame, calls without waiting": lambda c: _number(c["streaming_ms_a_frame"], 3),
        "the original's code": lambda c: _number(c.get("original_ms_a_frame")),
        "call alone, ms (p50 / p95 / p99)": times("call"),
        "kernels of a call, ms": times("device"),
        "with copies from and to the host, ms": times("host_call"),
        "stages, us a frame": lambda c: ", ".join(
            f"{name} {us:.0f}" for name, us in c.get("stages_us_a_frame", {}).items()
        ),
        "memory of a call and kept, MiB": lambda c: f"{c['memory_mb']:.0f}, {c['kept_mb']:.0f}",
        "PSNR to float32, dB": lambda c: _number(c.get("psnr_to_float32_db"), 1),
    }
    return markdown(columns, cases)


def _film(cases: list[dict]) -> str:
    columns = {
        "avatar": lambda c: f"{c['source']}, {c['gaussians']:,} Gaussians, {c['size']} px",
        "speech, s": lambda c: f"{c['sound_s']:,}",
        "sound features, s": lambda c: _number(c["features_s"]),
        "features and drawing, s": lambda c: _number(c["draw_s"]),
        "encoding, s": lambda c: f"{_number(c['encode_s'])} ({c['encoder']}, {c['cores']} cores)",
        "the `render` command, s": lambda c: _number(c["render_command_s"]),
    }
    return markdown(columns, cases)


def _stream_hour(cases: list[dict]) -> str:
    columns = {
        "avatar": lambda c: f"{c['source']}, {c['gaussians']:,} Gaussians, {c['size']} px",
        "speech, s": lambda c: f"{c['seconds']:,.0f}",
        "frames": lambda c: f"{c['frames']:,}",
        "times real time": lambda c: f"{c['times_real_time']} ({c['device']}, {c['cores']} cores)",
        "sound ahead of a frame, s": lambda c: _number(c["latency_s"]),
        "then ready after, ms (p50 / p95 / p99)": lambda c: " / ".join(
            _number(c[f"ready_p{q}_ms"], 1) for q in (50, 95, 99)
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
        "XLA, ms": lambda r: _number(r["xla"]["median_ms"], 3),
        "Triton, ms": lambda r: _number(r["triton"]["median_ms"], 3),
        "ratio": lambda r: f"{r['xla']['median_ms'] / r['triton']['median_ms']:.1f}x",
    }
    return markdown(columns, [{c["implementation"]: c for c in found} for _, found in pairs])


def step_ms(case: dict) -> str:
    """Median and spread of a training step's time."""
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
        return f"{_number(seconds_to(case['course'], goal), 1)} ({goal:.2f})"

    def bits(case: dict) -> str:
        hashes = case["state_sha256"]
        alike = f", {max(map(hashes.count, hashes))} of {len(hashes)} runs"
        return f"`{hashes[-1][:8]}`" + (alike if len(hashes) > 1 else "")

    rate = lambda stage: lambda c: _number(c["images_per_second"].get(stage), 0)
    columns = {
        "video": lambda c: c["video"],
        "preset, px, settings": lambda c: ", ".join(
            [c["preset"], str(c["width"]), *(f"{k} {v}" for k, v in c["settings"].items())]
        ),
        "devices": lambda c: str(c["devices"]),
        "from the command to the avatar, s": lambda c: (
            ", ".join(_number(s, 0) for s in c["seconds"])
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


def _kill_training(cases: list[dict]) -> str:
    columns = {
        "kills": lambda c: str(c["kills"]),
        "runs that came to their end, all with the same hash": lambda c: str(c["finished_runs"]),
        "an undisturbed run, s": lambda c: _number(c["undisturbed_s"], 1),
        "state_sha256": lambda c: f"`{c['state_sha256'][:16]}`...",
    }
    return markdown(columns, cases[-1:])
