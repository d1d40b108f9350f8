"""The tables of experiments/README.md, each from a results file, or a line that there is none."""

from collections.abc import Callable
from typing import Any

from experiments._regions import REGIONS
from experiments._runs import FIGURES, earlier
from experiments._summary import QUALITY, Metric, grouped, paired, shown, spread_of

BASE = "paper"


def tables() -> dict[str, str]:
    """Markdown by table name."""
    makers = {
        "self_reconstruction": _self_reconstruction, "ablations": _ablations,
        "ablation_costs": _ablation_costs, "cross_driven": _cross_driven,
        "point_density": _point_density, "attention_map": _attention_map,
    }  # fmt: skip
    files = {"ablation_costs": "ablations"}
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
