"""The report: one file that needs nothing else, whatever the run folder holds."""

import json
import re

import numpy as np

from egs_jax.evaluation.report import print_figures, write_report

RESULT = {
    "split": "val",
    "psnr": 31.23456,
    "lmd": None,
    "num_gaussians": 12,
    "notes": {"lmd": "no face <seen>"},
}


def picture(value):
    return np.full((8, 16, 3), value, np.uint8)


def test_report_shows_numbers_notes_pictures_and_curves(tmp_path):
    run_dir = tmp_path / "a & b"
    run_dir.mkdir()
    lines = [{"step": s, "stage": "static", "loss": 1 / s, "psnr": None} for s in (5, 10, 15)]
    lines.append({"step": 15, "state_sha256": "ab"})
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run_dir / "config.json").write_text('{"preset": "<tiny>"}')
    shown = {"Worst & all": [("frame 7", picture(0)), ("frame <8>", picture(255))], "None": []}
    path = write_report(run_dir, RESULT, shown)
    text = path.read_text(encoding="utf-8")
    assert path == run_dir / "report.html" and text.startswith("<!doctype html>")
    assert "31.23" in text and "no face &lt;seen&gt;" in text and "a &amp; b" in text
    assert "&lt;tiny&gt;" in text and "frame &lt;8&gt;" in text and "consent" in text
    assert "<h2>Worst &amp; all</h2><figure>" in text
    assert text.count("data:image/png;base64,") == 2 and text.count("<polyline") == 1
    assert "loss: 0.06667 to 0.2, last 0.06667" in text
    assert not re.findall(r'(?:src|href)="(?!data:)|@import|<script|url\(', text)


def test_printed_figures_have_a_line_each(capsys):
    """With its note; kernels that were picked for the same reason stand together."""
    kernels = {"deform": "xla: no GPU", "planes": "triton", "ssim": "xla: no GPU"}
    print_figures(RESULT | {"kernels": kernels})
    printed = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["psnr", "31.2346"] in printed and ["lmd", "None  (no face <seen>)"] in printed
    assert printed[-1] == ["kernels", "deform, ssim: xla: no GPU; planes: triton"]


def test_report_of_an_empty_run_folder_says_what_is_missing(tmp_path):
    text = write_report(tmp_path, RESULT, {}).read_text(encoding="utf-8")
    assert "no metrics.jsonl" in text and "31.23" in text
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "loss": 1.0}\n')
    text = write_report(tmp_path, RESULT, {}).read_text(encoding="utf-8")
    assert "too few logged steps" in text


def test_a_torn_line_of_the_metrics_does_no_harm(tmp_path):
    """Such as a training that is being killed, or writing, at this moment leaves."""
    lines = '{"step": 5, "loss": 1.0}\n{"step": 10, "loss": 0.5}\n{"step": 15, "lo'
    (tmp_path / "metrics.jsonl").write_text(lines)
    assert "<polyline" in write_report(tmp_path, RESULT, {}).read_text(encoding="utf-8")
