"""Figures drawn from results alone: each function reads cases and writes one PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments._runs import figure
from experiments._summary import CURVE, QUALITY, Metric, grouped, spread_of
from experiments.tables_curve import curves_of
from experiments.tables_speed import call_ms, original_of

BASE_COLOR, OTHER_COLOR = "tab:orange", "tab:blue"


def ablations(cases: Sequence[dict], path: Path) -> None:
    """Draw every seed as a dot, every mean as a bar; columns are metrics, rows datasets."""
    settings = grouped(cases, "dataset", "preset", "size", "series")
    rows = max(len(grouped(group, "variant")) for group in settings.values())
    height = len(settings) * (1.2 + 0.28 * rows)
    with figure(path, len(settings), len(QUALITY), (2.3 * len(QUALITY), height)) as axes:
        for (name, group), line in zip(settings.items(), axes, strict=True):
            variants = grouped(group, "variant")
            for metric, axis in zip(QUALITY, line, strict=True):
                _dots(axis, variants, metric)
            line[0].set_yticks(range(len(variants)), [variant for (variant,) in variants])
            dataset, preset, size, series = name
            line[0].set_ylabel(f"{dataset}\n{preset}, {size} px, series {series}", fontsize=8)


def _dots(axis: Any, variants: dict[tuple, list[dict]], metric: Metric) -> None:
    """One panel: the base's range of seeds as a band behind all rows."""
    for row, ((variant,), group) in enumerate(variants.items()):
        values = [v for v in map(metric.value, group) if v is not None]
        color = BASE_COLOR if variant == "paper" else OTHER_COLOR
        if values:
            axis.plot(values, np.full(len(values), row), ".", color=color)
            axis.plot(np.mean(values), row, "|", color=color, markersize=14)
            if variant == "paper":
                axis.axvspan(min(values), max(values), color=color, alpha=0.15, lw=0)
    axis.set_title(f"{metric.label}\n({metric.better} is better)", fontsize=8)
    axis.set_yticks([])
    axis.set_ylim(len(variants) - 0.5, -0.5)
    axis.tick_params(labelsize=7)
    axis.locator_params(axis="x", nbins=4)
    axis.grid(axis="x", alpha=0.3)


def reconstruction(cases: Sequence[dict], path: Path) -> None:
    """Draw head PSNR beside the two baselines, and the mouth beside shifted sound."""
    cases = sorted(cases, key=lambda case: case["set"])
    names = [f"{c['video']} ({c['set']}), {c['preset']}, {c['body']}, {c['seed']}" for c in cases]
    places = np.arange(len(cases))
    panels = (
        ("PSNR of the head, dB", {
            "mean frame": "baseline_mean_frame", "nearest frame": "baseline_nearest_frame",
            "avatar": "psnr_head",
        }),
        ("correlation with the true mouth", {
            "95th percentile, sound shifted": "mouth_r_shift_p95", "own sound": "mouth_r",
        }),
    )  # fmt: skip
    with figure(path, 1, 2, (11, 1.5 + 0.45 * len(cases))) as [axes]:
        for axis, (title, bars) in zip(axes, panels, strict=True):
            width = 0.8 / len(bars)
            for k, (label, field) in enumerate(bars.items()):
                values = [np.nan if c[field] is None else c[field] for c in cases]
                axis.barh(places + (k - (len(bars) - 1) / 2) * width, values, width, label=label)
            axis.set_yticks(places, names, fontsize=7)
            axis.invert_yaxis()
            axis.set_title(title, fontsize=9)
            axis.legend(
                fontsize=7, ncols=len(bars), loc="upper center", bbox_to_anchor=(0.5, -0.07)
            )
            axis.grid(axis="x", alpha=0.3)


def inference(cases: Sequence[dict], path: Path) -> None:
    """Draw a frame alone and in the largest batch: clock, kernels by stage, and the original.

    The wall clock of calls that are waited for stands beside the original's, which was measured so.
    Without a GPU there are no stages.
    """
    batches = sorted({case["batch"] for case in cases})
    batches = batches[:: max(1, len(batches) - 1)]  # the smallest and the largest
    scenes = list(grouped(cases, "name", "gaussians", "size"))
    stages = list(dict.fromkeys(s for c in cases for s in c.get("stages_us_a_frame", {})))
    marks = {
        "a call that is waited for": (call_ms, dict(marker="|", color="k", markersize=14)),
        "calls without waiting": (
            lambda c: c["streaming_ms_a_frame"], dict(marker="|", color="0.6", markersize=14),
        ),
        "the original's code, waited for (measured apart)": (
            original_of, dict(marker="D", color="tab:red", markersize=5),
        ),
    }  # fmt: skip
    with figure(path, 1, len(batches), (5.5 * len(batches), 1.6 + 0.4 * len(scenes))) as [axes]:
        for axis, batch in zip(axes, batches, strict=True):
            for case in (case for case in cases if case["batch"] == batch):
                row, left = scenes.index((case["name"], case["gaussians"], case["size"])), 0.0
                for k, stage in enumerate(stages):
                    width = case.get("stages_us_a_frame", {}).get(stage, 0.0) / 1e3
                    axis.barh(row, width, left=left, color=f"C{k}")
                    left += width
                for time_of, style in marks.values():
                    if (time := time_of(case)) is not None:
                        axis.plot(time, row, ls="", **style)
            axis.set_xlim(left=0)
            axis.set_yticks(
                range(len(scenes)), [f"{name}\n{n:,}, {size} px" for name, n, size in scenes],
                fontsize=7,
            )  # fmt: skip
            axis.invert_yaxis()
            axis.set_title(f"ms a frame, {batch} at a time", fontsize=9)
            axis.grid(axis="x", alpha=0.3)
        styles = {label: dict(ls="", **style) for label, (_, style) in marks.items()}
        styles |= {f"kernels: {name}": dict(color=f"C{k}", lw=5) for k, name in enumerate(stages)}
        lines = [axes[0].plot([], [], **style)[0] for style in styles.values()]
        axes[0].figure.legend(lines, styles, fontsize=7, ncols=3, loc="outside lower center")


def point_density(cases: Sequence[dict], path: Path) -> None:
    """Draw maps of the last dataset's first seed; sizes, spacings and PSNR of all seeds."""
    group = list(grouped(cases, "source_sha256", "preset", "size").values())[-1]
    arms = {arm: found for (arm,), found in grouped(group, "variant").items()}
    first = {arm: found[0] for arm, found in arms.items()}
    titles = {"paper": "with the static stage", "no_static": "without it"}
    clouds = {"at the start": first[min(first)]["start"]}
    clouds |= {titles[arm]: case["end"] for arm, case in first.items()}
    maps = {
        title: np.log1p([[int(count) for count in row.split()] for row in cloud["map"]])
        for title, cloud in clouds.items()
    }
    with figure(path, 2, 3, (9.5, 6)) as axes:
        for axis in axes[0]:
            axis.set_axis_off()
        for axis, (title, cloud) in zip(axes[0], clouds.items(), strict=False):
            top = max(map(np.max, maps.values()))
            image = axis.imshow(maps[title], vmin=0, vmax=top, cmap="inferno")
            axis.set_title(f"{title}: {cloud['gaussians']:,} Gaussians", fontsize=9)
        axes[0, 0].figure.colorbar(image, ax=list(axes[0]), label="log(1 + points a cell)")
        for axis, measure in zip(axes[1], ("size", "spacing"), strict=False):
            _percentile_lines(axis, measure, arms, titles)
        for arm, found in arms.items():
            for k, case in enumerate(found):
                axes[1, 2].plot(
                    case["curve"]["step"], case["curve"]["psnr"], lw=1,
                    color=BASE_COLOR if arm == "paper" else OTHER_COLOR,
                    label=titles[arm] if k == 0 else None,
                )  # fmt: skip
        axes[1, 2].set_xlabel("step", fontsize=8)
        axes[1, 2].set_title("PSNR of the training batches, dB", fontsize=9)
        axes[1, 2].legend(fontsize=7)


def _percentile_lines(
    axis: Any, measure: str, arms: dict[str, list[dict]], titles: dict[str, str]
) -> None:
    """Percentiles of one measure: the start in gray, a line a run."""
    lines = [("at the start", "0.6", found[0]["start"]) for found in list(arms.values())[:1]]
    for arm, found in arms.items():
        color = BASE_COLOR if arm == "paper" else OTHER_COLOR
        lines += [(titles[arm], color, case["end"]) for case in found]
    seen = set()
    for label, color, cloud in lines:
        values = cloud[measure]
        axis.plot(
            [int(name[1:]) for name in values], list(values.values()), ".-", color=color, lw=1,
            label=None if label in seen else label,
        )  # fmt: skip
        seen.add(label)
    axis.set_yscale("log")
    axis.set_xlabel("percentile of the Gaussians", fontsize=8)
    axis.set_title(f"{measure}, world units", fontsize=9)
    axis.legend(fontsize=7)


def data_curve(cases: Sequence[dict], path: Path) -> None:
    """Draw each figure over seconds of video: mean, deviation as a band, every seed as a dot."""
    curves = curves_of(list(cases))
    beside = {"PSNR head, dB": "baseline_nearest_frame", "mouth r": "mouth_r_shift_p95"}
    with figure(path, 2, 3, (10, 6 + 0.25 * len(curves))) as axes:
        for metric, axis in zip(CURVE, axes.flat, strict=True):
            for k, (name, curve) in enumerate(curves.items()):
                values = {s: [metric.value(c) for c in alike] for s, alike in curve.items()}
                _line(axis, values, color=f"C{k}", label=name)
                if metric.label in beside:
                    field = beside[metric.label]
                    other = {s: [c[field] for c in alike] for s, alike in curve.items()}
                    _line(axis, other, color=f"C{k}", ls=":", band=False)
            if metric.better == "nearer 1":
                axis.axhline(1, color="0.6", lw=1)
            _axis_of_seconds(axis, sorted({s for curve in curves.values() for s in curve}))
            axis.set_title(f"{metric.label} ({metric.better} is better)", fontsize=9)
        lines = [axes[0, 0].plot([], [], ls=":", color="0.4")[0]]
        labels = ["dotted: the nearest training frame; own sound shifted (95th percentile)"]
        known, names = axes[0, 0].get_legend_handles_labels()
        axes[0, 0].figure.legend(
            [*known, *lines], [*names, *labels], fontsize=8, loc="outside lower center"
        )


def _axis_of_seconds(axis: Any, seconds: list[float]) -> None:
    axis.set_xscale("log")
    axis.set_xticks(seconds, [f"{s:g}" for s in seconds], minor=False)
    axis.set_xticks([], minor=True)
    axis.set_xlabel("seconds of video", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)


def _line(
    axis: Any, values: dict[float, list[float | None]], *, color: str, label: str | None = None,
    ls: str = "-", band: bool = True,
) -> None:  # fmt: skip
    """One curve; lengths of which no seed has a value are left out."""
    spreads = {s: spread for s, each in values.items() if (spread := spread_of(each))}
    at, means = list(spreads), np.array([spread.mean for spread in spreads.values()])
    axis.plot(at, means, ls=ls, color=color, label=label, lw=1.5)
    if band:
        off = np.array([spread.std or 0.0 for spread in spreads.values()])
        axis.fill_between(at, means - off, means + off, color=color, alpha=0.2, lw=0)
        dots = [(s, value) for s, each in values.items() for value in each if value is not None]
        axis.plot([s for s, _ in dots], [v for _, v in dots], ".", color=color, markersize=4)


def baking(cases: Sequence[dict], path: Path) -> None:
    """Draw dB to the exact pictures over the number of codes: means as lines, worst frames dotted.

    Held-out frames of the clip to the left, other people's speech to the right.
    """
    held = [case for case in cases if case["speech"] == "held out"]
    others = [case for case in cases if case["speech"] != "held out"]
    with figure(path, 1, 2, (10, 3.6)) as axes:
        for axis, chosen, title in zip(
            axes[0], (held, others), ("held-out frames", "speech of others"), strict=True
        ):
            for name, group in grouped(chosen, "video", "preset", "width").items():
                by_codes = sorted(grouped(group, "codes").items())
                counts = [codes for (codes,), _ in by_codes]
                mean = [np.mean([c["psnr_to_exact"] for c in each]) for _, each in by_codes]
                worst = [min(c["psnr_to_exact_worst"] for c in each) for _, each in by_codes]
                label = f"{name[0]}, {name[1]}, {name[2]} px"
                [line] = axis.plot(counts, mean, "o-", markersize=3, label=label)
                axis.plot(counts, worst, ":", color=line.get_color())
            axis.axhline(50, color="gray", lw=0.8)
            axis.set_title(title, fontsize=9)
            axis.set_xlabel("codes a frame")
            axis.set_ylabel("dB to the exact picture")
            axis.grid(alpha=0.3)
        axes[0][0].legend(fontsize=6)
