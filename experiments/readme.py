"""Write the tables of both READMEs from `results/*.json`: no number there is typed by hand.

    python -m experiments.readme [--check]

Here are the tables of README.md, in `tables.py` those of experiments/README.md. `--check` changes
nothing and exits with 1 if one of the files is not what it would write.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from experiments import tables as experiment_tables
from experiments._common import RESULTS
from experiments._summary import grouped, shown, spread_of
from experiments.tables import markdown as _table

CHECKS = ("check_kernels_gpu", "check_deform_gpu", "check_training_kernels_gpu")
README = Path(__file__).parents[1] / "README.md"


def tables() -> dict[str, str]:
    """Markdown by table name."""
    return {
        "reconstruction": _reconstruction(), "training": _training(), "checks": _checks(),
        "rasterizer": _rasterizer(), "stages": _stages(),
    }  # fmt: skip


def _read(name: str) -> dict:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {"cases": []}


def _cases(name: str) -> list[dict]:
    return _read(name)["cases"]


def _reconstruction() -> str:
    """Means over seeds, with the standard deviation of a sample."""
    of = lambda name, digits: lambda row: shown(spread_of([c[name] for c in row]), digits)
    minutes = lambda row: shown(spread_of([c["train_seconds"] / 60 for c in row]), 1)
    columns = {
        "video": lambda row: row[0]["video"],
        "preset, px": lambda row: f"{row[0]['preset']}, {row[0]['width']}",
        "seeds": lambda row: str(len(row)),
        "PSNR head (mean / nearest frame), dB": lambda row: (
            f"**{of('psnr_head', 2)(row)}** ({row[0]['baseline_mean_frame']:.2f} / "
            f"{row[0]['baseline_nearest_frame']:.2f})"
        ),
        "PSNR composite, dB": of("psnr", 2),
        "PSNR lips, dB": of("psnr_lips", 2),
        "LPIPS": of("lpips", 4),
        "LMD, px": of("lmd", 2),
        "mouth r (shifted p95)": lambda row: (
            f"{of('mouth_r', 2)(row)} ({of('mouth_r_shift_p95', 2)(row)})"
        ),
        "silence, percentile": of("mouth_silence_percentile", 1),
        "blink r": of("blink_r", 2),
        "jitter, px": lambda row: f"{row[0]['tracking']['jitter_px']:.2f}",
        "training": lambda row: f"{minutes(row)} min, {row[0]['device']}",
        "commit": lambda row: row[0]["commit"][:7],
    }
    found = _read("self_reconstruction")
    cases = [{"commit": found.get("commit")} | c for c in found["cases"]]
    rows = grouped(cases, "video", "preset", "width", "device", "commit")
    return _table(columns, list(rows.values()))


def _training() -> str:
    columns = {
        "stage": lambda c: c["stage"],
        "preset, px, batch": lambda c: f"{c['preset']}, {c['size']}, {c['batch']}",
        "perceptual loss": lambda c: "yes" if c.get("perceptual", True) else "no",
        "Gaussians": lambda c: f"{c['gaussians']:,} of {c['capacity']:,}",
        "rasterizer": lambda c: c["rasterizer"],
        "ms a step (p10-p90)": experiment_tables.step_ms,
        "peak memory, GiB": lambda c: _number(c["peak_memory_gib"]),
        "loss, first and last third": lambda c: (
            f"{c['loss_first_third']:.4f}, {c['loss_last_third']:.4f}"
        ),
        "commit": lambda c: c["commit"][:7],
    }
    files = map(_read, ("bench_training_xla", "bench_training_triton"))
    return _table(columns, [c | {"commit": f["commit"]} for f in files for c in f["cases"]])


def _pairs() -> list[dict]:
    """Cases of the rasterizer's benchmark: gsplat's as `peer` of ours."""
    cases = _cases("bench_rasterizer")
    ours, peers = ([c for c in cases if c["name"] == name] for name in ("ours", "gsplat"))
    return [case | {"peer": peer} for case, peer in zip(ours, peers, strict=True)]


def _rasterizer() -> str:
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
    return _table(columns, _pairs())


def _stages() -> str:
    """Where the time goes, most first, and how far it is from the floors."""
    shown = [c for c in _pairs() if (c["n"], c["size"], c["px"]) == (50_000, 512, 1.6)]
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
    return _table({head: lambda r, key=key: r[key] for head, key in columns.items()}, rows)


def _checks() -> str:
    """One row a script."""
    columns = {
        "script": lambda r: f"`{r['script']}`",
        "checks": lambda r: str(len(r["cases"])),
        "passed": lambda r: str(sum(case["passes"] for case in r["cases"])),
        "on": lambda r: r["device"].removeprefix("gpu: "),
        "commit": lambda r: r["commit"][:7],
    }
    rows = ({"script": name} | _read(name) for name in CHECKS)
    return _table(columns, [row for row in rows if row["cases"]])


def _microseconds(value: float | list[float] | None) -> str:
    if value is None:
        return "-"
    return "{}-{}".format(*value) if isinstance(value, list) else f"{value:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


FILES: dict[Path, Callable[[], dict[str, str]]] = {
    README: tables, Path(__file__).parent / "README.md": experiment_tables.tables,
}  # fmt: skip
"""What has tables, and what makes them."""


def filled(text: str, made: dict[str, str]) -> str:
    """Text with every marked table replaced by that of `made`, by name.

    Raises:
      ValueError: if the marks of a table are missing.
    """
    for name, table in made.items():
        start, end = f"<!-- table:{name} -->", f"<!-- end:{name} -->"
        before, found, rest = text.partition(start)
        _, found_end, after = rest.partition(end)
        if not (found and found_end):
            raise ValueError(f"no place for a table; add the lines {start} and {end}")
        text = f"{before}{start}\n{table}\n{end}{after}"
    return text


def main() -> int:
    """Write or check both READMEs."""
    texts = {path: path.read_text() for path in FILES}
    new = {path: filled(text, FILES[path]()) for path, text in texts.items()}
    if "--check" in sys.argv:
        return int(new != texts)
    for path, text in new.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
