"""What the experiments share, and that README shows their numbers and no others."""

import json
import subprocess

import pytest
from helpers import ROOT, micro_config, voice

from egs_jax.data.dataset import Dataset
from egs_jax.media.audio_file import write_wav
from egs_jax.runtime.errors import InputError
from egs_jax.speech.features import SAMPLE_RATE
from experiments import (
    _common,
    bench_film,
    bench_inference,
    bench_training,
    readme,
    stream_hour,
    tables,
)
from experiments._common import RESULTS, commit, record, spread


def test_record_says_where_it_ran(tmp_path):
    path = record("made_up", [{"value": 1.5}], tmp_path)
    written = json.loads(path.read_text())
    assert written.keys() == {"commit", "device", "host", "versions", "cases"}
    assert written["cases"] == [{"value": 1.5}]
    assert "jax" in written["versions"]


def test_commit_is_that_of_the_checkout(monkeypatch, tmp_path):
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    head = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.delenv("EGS_COMMIT", raising=False)
    assert commit() in (head, head + "+") and len(head) == 40
    monkeypatch.setattr(_common, "__file__", str(tmp_path / "_common.py"))
    assert commit() == "unknown"
    monkeypatch.setenv("EGS_COMMIT", "a copy's own")
    assert commit() == "a copy's own"


def test_spread_is_the_median_with_percentiles():
    seconds = [0.001 * k for k in range(1, 12)]
    assert spread(seconds) == {"median_ms": 6.0, "p10_ms": 2.0, "p90_ms": 10.0}


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda p: p.name)
def test_every_result_has_commit_device_and_cases(path):
    result = json.loads(path.read_text())
    assert result["commit"] and result["device"] and result["cases"]


@pytest.mark.parametrize("path", readme.FILES, ids=lambda p: p.parent.name)
def test_readme_tables_come_from_the_results(path):
    text = path.read_text()
    assert readme.filled(text, readme.FILES[path]()) == text, "run python -m experiments.readme"


def test_tables_are_filled_between_their_marks():
    made = readme.tables()
    marks = [f"<!-- table:{name} -->\nold\n<!-- end:{name} -->\nb\n" for name in made]
    filled = readme.filled("a\n" + "".join(marks), made)
    assert "old" not in filled and filled.startswith("a\n")
    assert filled.count("\nb\n") == len(marks)
    assert "| static |" in filled
    with pytest.raises(ValueError, match="add the lines <!-- table:training"):
        readme.filled(marks[0], made)


def test_rasterizer_tables_pair_ours_with_the_peers(monkeypatch):
    def case(name, batch, us, **more):
        keys = ("fwd_us", "fwd_kernel_us", "fwd_bwd_us", "fwd_bwd_kernel_us")
        shape = dict(name=name, n=50_000, size=512, px=1.6, batch=batch, fwd_bwd_memory_mb=us)
        return shape | dict.fromkeys(keys, us) | dict(instances_per_frame=1000 * us) | more

    cases = [
        case("ours", 1, 20.0, fwd_bwd_stages_us={"blend": 2.0, "sums": 9.0}, fwd_floor_us=[7, 8]),
        case("gsplat", 1, 50.0, fwd_bwd_stages_us={"blend": 5.0, "torch": 1.0}),
    ]
    monkeypatch.setattr(readme, "_cases", lambda name: cases if "raster" in name else [])
    tables = readme.tables()
    assert "| 50,000, 512, 1.6 | 1 | 20 / 50 (**2.5x**) |" in tables["rasterizer"]
    rows = tables["stages"].splitlines()
    assert rows[0] == "| us a frame | 1 frame: ours | 1 frame: gsplat |"
    assert rows[2:5] == ["| sums | 9.0 | - |", "| blend | 2.0 | 5.0 |", "| torch | - | 1.0 |"]
    assert rows[-1] == "| forward alone: floor, estimated | 7-8 | - |"
    del cases[1]
    with pytest.raises(ValueError, match="shorter"):
        readme.tables()


def test_training_steps_are_measured_in_both_stages(painted):
    cases = bench_training.measure(micro_config(painted), Dataset.open(painted), 3, 4)
    assert [case["stage"] for case in cases] == ["static", "deform", "deform"]
    assert [case["batch"] for case in cases] == [1, 2, 2]
    for case in cases:
        assert 0 < case["p10_ms"] <= case["median_ms"] <= case["p90_ms"]
        assert case["gaussians"] <= case["capacity"] == 256 and case["loss_last_third"] > 0


def test_more_devices_stand_beside_the_fewest():
    def case(devices, rate, perceptual=True):
        times = dict.fromkeys(("median_ms", "p10_ms", "p90_ms"), 8e3 * devices / rate)
        run = dict(stage="deform", perceptual=perceptual, preset="paper", size=512)
        return run | times | dict(devices=devices, batch=8 * devices, images_per_second=rate)

    rows = tables._scaling([case(2, 1500.0), case(1, 800.0), case(2, 1900.0, False)]).splitlines()
    gains = [row.split("|")[-2].strip() for row in rows[2:]]
    assert gains == ["1.88x", "1.00x", "1.00x"] and "| 2 | 16 | 10.7 (10.7-10.7) |" in rows[2]


def test_a_stream_is_measured(trained_run, tmp_path, monkeypatch):
    monkeypatch.setattr(stream_hour, "SAME_SECONDS", 2)
    write_wav(tmp_path / "speech.wav", voice(1.3), SAMPLE_RATE)
    arguments = [str(trained_run.folder), str(tmp_path / "speech.wav"), "--seconds", "2"]
    [case] = json.loads(
        stream_hour.main([*arguments, "--out", str(tmp_path)]).read_text()
    )["cases"]  # fmt: skip
    assert (case["frames"], case["last_frame_s"]) == (50, 1.96)
    assert 0 < case["ready_p50_ms"] <= case["ready_p99_ms"] and case["times_real_time"] > 0


def test_the_way_to_a_film_is_measured(trained_run, tmp_path):
    speech = tmp_path / "speech.wav"
    write_wav(speech, voice(1.2), SAMPLE_RATE)
    arguments = [str(trained_run.folder), str(speech), "--out", str(tmp_path)]
    [case] = json.loads(bench_film.main(arguments).read_text())["cases"]
    assert (case["sound_s"], case["frames"]) == (1.2, 30)
    assert all(case[f"{part}_s"] >= 0 for part in ("features", "draw", "encode"))
    assert case["render_command_s"] > 0.1 and case["encoder"] == "libx264"


def test_inference_is_measured_on_any_machine(tmp_path):
    folders = ["--out", str(tmp_path), "--figures", str(tmp_path / "figures")]
    figure = bench_inference.main(["--tiny", *folders])
    [case] = json.loads((tmp_path / "bench_inference.json").read_text())["cases"]
    assert (case["gaussians"], case["size"], case["batch"]) == (500, 48, 2)
    assert 0 < case["call_p50_ms"] <= case["call_p95_ms"] <= case["call_p99_ms"]
    assert case["streaming_ms_a_frame"] > 0 and case["memory_mb"] > 0
    assert case["psnr_to_float32_db"] > 80
    assert figure == tmp_path / "figures" / "inference.png"
    figure.unlink()
    assert bench_inference.main(["--plot-only", *folders]).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="no results yet"):
        bench_inference.main(["--plot-only", "--out", str(tmp_path / "other"), *folders[2:]])
    with pytest.raises(InputError, match="--tiny: its numbers"):
        bench_inference.main(["--tiny"])
