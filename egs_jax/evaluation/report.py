"""`report.html`: one self-contained file with the numbers, the curves and pictures."""

import base64
import html
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np

from egs_jax.runtime.consent import CONSENT
from egs_jax.runtime.files import write_atomically
from egs_jax.training.run_folder import read_metrics

CURVES = ("loss", "psnr", "l1", "dssim", "lips", "mask", "perceptual", "num_gaussians")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c2430 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .15rem .9rem .15rem 0; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums } .note { color: #77818f }
figure { display: inline-block; margin: 0 1rem 1rem 0 } img { max-width: 100%; border-radius: 4px }
figcaption { color: #55606e; font-size: .85rem } svg { background: #f5f7fa; border-radius: 4px }
"""


def write_report(
    run_dir: Path, result: dict, pictures: dict[str, list[tuple[str, np.ndarray]]]
) -> Path:
    """Write `run_dir/report.html`.

    Args:
      run_dir: The run folder; its config and metrics are shown too.
      result: The contents of `eval.json`.
      pictures: By headline, captions and images (uint8 RGB).

    Returns:
      The file.
    """
    shown = [
        f"<h2>{html.escape(headline)}</h2>" + "".join(_picture(*each) for each in those)
        for headline, those in pictures.items()
    ]
    sections = [
        f"<h1>{html.escape(run_dir.name)}</h1><p>{html.escape(CONSENT)}</p>",
        "<h2>Figures</h2>" + _table(result),
        *shown,
        "<h2>Training</h2>" + _curves(run_dir / "metrics.jsonl"),
        "<h2>Settings</h2>" + _file(run_dir / "config.json") + _file(run_dir / "environment.json"),
    ]
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{html.escape(run_dir.name)}</title><style>{STYLE}</style>" + "".join(sections)
    )
    path = run_dir / "report.html"
    write_atomically(path, text)
    return path


def print_figures(result: dict) -> None:
    """Print the contents of `eval.json` as a table, notes in brackets."""
    for name, value in result.items():
        if name != "notes":
            note = f"  ({result['notes'][name]})" if name in result["notes"] else ""
            print(f"{name:28} {_shown(value, '.4f')}{note}")


def _shown(value: Any, digits: str) -> str:
    if isinstance(value, dict):  # names that share a value stand together
        names: dict[Any, list[str]] = {}
        for name, each in value.items():
            names.setdefault(each, []).append(name)
        return "; ".join(f"{', '.join(some)}: {each}" for each, some in names.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:{digits}}" if isinstance(value, float) else str(value)


def _table(result: dict) -> str:
    rows = []
    for name, value in result.items():
        if name == "notes":
            continue
        shown = _shown(value, ".4g")
        note = html.escape(result["notes"].get(name, ""))
        rows.append(
            f'<tr><td>{name}</td><td class="n">{html.escape(shown)}</td>'
            f'<td class="note">{note}</td></tr>'
        )
    return "<table>" + "".join(rows) + "</table>"


def _picture(caption: str, image: np.ndarray) -> str:
    encoded = base64.b64encode(imageio.imwrite("<bytes>", image, extension=".png")).decode()
    return (
        f'<figure><img src="data:image/png;base64,{encoded}" alt="">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _curves(path: Path) -> str:
    if not path.exists():
        return "<p>no metrics.jsonl</p>"
    records = read_metrics(path)
    drawings = []
    for name in CURVES:
        points = [(r["step"], r[name]) for r in records if r.get(name) is not None]
        if len(points) > 1:
            drawings.append(_curve(name, np.array(points, float)))
    return "".join(drawings) or "<p>too few logged steps for curves</p>"


def _curve(name: str, points: np.ndarray, width: int = 280, height: int = 120) -> str:
    """One inline SVG: x is the step, y runs from the least to the largest value."""
    low, high = points.min(0), points.max(0)
    unit = (points - low) / np.maximum(high - low, 1e-12)
    line = " ".join(f"{width * x:.1f},{height * (1 - y):.1f}" for x, y in unit)
    return (
        f'<figure><svg width="{width}" height="{height}" viewBox="-4 -4 {width + 8} {height + 8}">'
        f'<polyline points="{line}" fill="none" stroke="#2f6fed" stroke-width="1.5"/></svg>'
        f"<figcaption>{name}: {low[1]:.4g} to {high[1]:.4g}, last {points[-1, 1]:.4g}"
        "</figcaption></figure>"
    )


def _file(path: Path) -> str:
    return f"<pre>{html.escape(path.read_text('utf-8', 'replace'))}</pre>" if path.exists() else ""
