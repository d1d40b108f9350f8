"""What the experiments share, and that README shows their numbers and no others."""

import collections
import json
import re
import subprocess

import pytest
from helpers import ROOT, micro_config, voice

from egs_jax.data.dataset import Dataset
from egs_jax.media.audio_file import write_wav
from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.runtime import provenance
from egs_jax.runtime.errors import InputError
from experiments import (
    _numbers,
    baking,
    bench_cpu,
    bench_decode,
    bench_film,
    bench_inference,
    bench_start,
    bench_streams,
    bench_training,
    interruption,
    readme,
    stream_hour,
    tables,
    tables_speed,
)
from experiments._common import RESULTS, commit, record, spread
from experiments._peers import peer
from experiments._runs import cases_of
from experiments._summary import spread_of


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
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
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
def test_readmes_are_up_to_date_with_the_results(path):
    text = path.read_text()
    assert readme.filled(text) == text, "run python -m experiments.readme"


def test_every_table_has_a_place():
    texts = "".join(path.read_text() for path in readme.FILES)
    assert not [name for name in tables.TABLES if f"<!-- table:{name} -->" not in texts]


def test_tables_and_numbers_are_filled_between_their_marks():
    text = (
        "a <!--n:call_ratio.1-->9x<!--/--> and <!--n:peer.ssim--><!--/--> b\n"
        "<!-- table:training -->\nold\n<!-- end:training -->\nc\n"
    )
    filled = readme.filled(text)
    ratio = _numbers.numbers()["call_ratio.1"]()
    assert filled.startswith(
        f"a <!--n:call_ratio.1-->{ratio}<!--/--> and <!--n:peer.ssim-->0.9711<!"
    )
    assert "| static |" in filled and "old" not in filled and filled.endswith("-->\nc\n")
    assert readme.filled(filled) == filled
    for wrong, message in (
        ("<!-- table:training -->\n", "a table has an opening mark but no closing one"),
        ("<!--n:kills-->200", "a number has an opening mark but no closing one"),
        ("<!--n:no-->200<!--/-->", "no number is called 'no'"),
        ("<!-- table:no -->\n<!-- end:no -->", "no table is called 'no'"),
        ("<!-- table:film -->\n<!-- end:inference -->", "table film is closed as inference"),
    ):
        with pytest.raises(ValueError, match=message):
            readme.filled(wrong)


def test_every_number_can_be_made():
    made = {name: make() for name, make in _numbers.numbers().items()}
    assert not [name for name, text in made.items() if not text]
    assert made["original_ms.16"] == "1.68" and made["obama.paper.seconds_trained"] == "15.0"


def test_the_map_of_rooms_is_that_of_the_package():
    rows = readme.rooms().splitlines()[2:]
    assert rows[0].startswith("| [`runtime`](egs_jax/runtime) | what every room needs")
    assert [row for row in rows if "(egs_jax/config.py)" in row]
    for row in rows:
        place = readme.ROOT / row.split("](")[1].split(")")[0]
        assert place.exists()
        if place.is_dir():  # a room, with a map of its own
            files = {path.name.removesuffix(".py") for path in place.glob("[a-z]*")}
            text = (place / "__init__.py").read_text()
            assert set(re.findall(r"^([a-z_]+) {2,}\S", text, re.MULTILINE)) == files, place


def test_what_is_said_of_the_original_is_so():
    """README: `sharp` is ahead in all; `paper` not in PSNR, behind in SSIM, ahead in LPIPS."""
    cases, theirs = cases_of("self_reconstruction"), peer("quality")
    persons = tables.beside_the_original(cases, "sharp", "person")
    assert len(persons) == 3
    for name, (_, digits) in tables.PEER_METRICS.items():
        found = spread_of([round(case[name], digits) for case in persons])
        sign = -1 if name in ("lpips", "lmd") else 1
        if name not in ("psnr", "psnr_frame", "mouth_gain"):
            assert sign * (found.mean - theirs["at_the_end"][name]) > found.std
    best = max(theirs["psnr_head_by_deformation_step"].values())
    assert spread_of([case["psnr_head"] for case in persons]).mean > best
    ours = tables.beside_the_original(cases)
    assert len(ours) == 3
    mean = lambda name: spread_of([case[name] for case in ours])
    assert abs(mean("psnr_head").mean - best) < mean("psnr_head").std
    assert mean("ssim").mean < theirs["at_the_end"]["ssim"]
    assert mean("lpips").mean < theirs["at_the_end"]["lpips"]
    assert "| PSNR head, dB | 31.08 ± 0.07 | 31.55 ± 0.24 | 31.05 | 30.84 |" in tables.table(
        "peers"
    )
    assert "| SSIM | 0.9680 ± 0.0002 | 0.9730 ± 0.0004 | - | 0.9711 |" in tables.table("peers")


def test_what_is_said_of_the_report_clips_is_so():
    """Both READMEs: the head beats both baselines, the mouth follows, `paper` beats not `fast`."""
    found = collections.defaultdict(list)
    for case in cases_of("self_reconstruction"):
        if (case["set"], case["body"]) == ("report", "head"):
            found[case["video"], case["preset"]].append(case)
            assert case["psnr_head"] > case["baseline_nearest_frame"] + 3
            assert case["mouth_r"] > case["mouth_r_shift_p95"] + 0.2
    assert {len(cases) for cases in found.values()} == {3} and len(found) == 4
    mean = lambda key, name: spread_of([case[name] for case in found[key]])
    for video in ("andrew_256_25s", "feifei_256_15s"):
        paper, fast = (mean((video, preset), "psnr_head") for preset in ("paper", "fast"))
        assert paper.mean < fast.mean + fast.std
    andrew = [mean(("andrew_256_25s", preset), "lpips").mean for preset in ("paper", "fast")]
    assert andrew[0] < andrew[1]


def test_what_is_said_of_the_goals_of_inference_is_so():
    """Calls without waiting: `paper` meets both, `parity` that of 16 frames alone."""
    met = {
        (name, batch): _numbers._drawn(batch, name)["streaming_ms_a_frame"] <= goal
        for name in (_numbers.MAIN, _numbers.PARITY)
        for batch, goal in ((1, 0.30), (16, 0.11))
    }
    assert [place for place, so in met.items() if not so] == [(_numbers.PARITY, 1)]


def test_what_is_said_of_earlier_times_is_so():
    """On the device nothing has changed; `parity` has more kernels."""
    pairs = tables_speed.paired_with_before()
    assert len(pairs) == 15 and len({id(new) for _, new in pairs}) == 15
    for old, new in pairs:
        assert old["device"] == new["device"] and old["commit"] != new["commit"]
        if "stage" in old:
            assert abs(new["median_ms"] / old["median_ms"] - 1) < 0.03
            continue
        parity = old["name"] == _numbers.PARITY
        assert abs(new["device_p50_ms"] / old["device_p50_ms"] - 1) < (0.04 if parity else 0.025)
        assert (new["kernels_a_call"] > old["kernels_a_call"]) == parity
    assert bench_training.BLOCK == 10  # said below the table of steps


def test_every_number_of_the_results_is_used():
    """But those of a family, such as all figures of a clip, of which some are."""
    text = "".join(path.read_text() for path in readme.FILES)
    families = tuple(f"{clip.split('_')[0]}." for clip in _numbers.CLIP_NAMES) + (
        "person.",
        "ablation.",
        "peer.",
    )
    unused = [name for name in _numbers.numbers() if f"<!--n:{name}-->" not in text]
    assert [name for name in unused if not name.startswith(families)] == []


def test_calls_that_are_waited_for_stand_beside_the_originals():
    def case(batch, **more):
        times = {f"{name}_p{q}_ms": 0.5 * batch for name in ("call", "host_call", "device")
                 for q in (50, 95, 99)}  # fmt: skip
        about = dict(name="synthetic head, paper", gaussians=50_000, size=512, batch=batch)
        return about | times | dict(streaming_ms_a_frame=0.1, memory_mb=1, kept_mb=2) | more

    rows = tables_speed._inference([case(1), case(4), case(16, size=1024)]).splitlines()
    assert "| **0.500** | 3.60 (**7.2x**) |" in rows[2]
    assert "| **0.500** | - |" in rows[3] and "| **0.500** | - |" in rows[4]
    assert "measured apart" in rows[-1] and "2.90 ms a frame at batch 1" in rows[-1]
    trained = case(1, name="trained on a film")
    assert tables_speed.original_of(trained) is None


def test_rasterizer_tables_pair_ours_with_the_peers():
    def case(name, batch, us, **more):
        keys = ("fwd_us", "fwd_kernel_us", "fwd_bwd_us", "fwd_bwd_kernel_us")
        shape = dict(name=name, n=50_000, size=512, px=1.6, batch=batch, fwd_bwd_memory_mb=us)
        return shape | dict.fromkeys(keys, us) | dict(instances_per_frame=1000 * us) | more

    cases = [
        case("ours", 1, 20.0, fwd_bwd_stages_us={"blend": 2.0, "sums": 9.0}, fwd_floor_us=[7, 8]),
        case("gsplat", 1, 50.0, fwd_bwd_stages_us={"blend": 5.0, "torch": 1.0}),
    ]
    assert "| 50,000, 512, 1.6 | 1 | 20 / 50 (**2.5x**) |" in tables_speed._rasterizer(cases)
    rows = tables_speed._stages(cases).splitlines()
    assert rows[0] == "| us a frame | 1 frame: ours | 1 frame: gsplat |"
    assert rows[2:5] == ["| sums | 9.0 | - |", "| blend | 2.0 | 5.0 |", "| torch | - | 1.0 |"]
    assert rows[-1] == "| forward alone: floor, estimated | 7-8 | - |"
    with pytest.raises(ValueError, match="shorter"):
        tables_speed._rasterizer(cases[:1])


@pytest.mark.xdist_group("trained_run")  # its programs
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

    rows = tables_speed._scaling(
        [case(2, 1500.0), case(1, 800.0), case(2, 1900.0, False)]
    ).splitlines()
    gains = [row.split("|")[-2].strip() for row in rows[2:]]
    assert gains == ["1.88x", "1.00x", "1.00x"] and "| 2 | 16 | 10.7 (10.7-10.7) |" in rows[2]


@pytest.mark.slow
def test_sessions_are_measured(tmp_path):
    cases = json.loads(bench_streams.main(["--tiny", "--out", str(tmp_path)]).read_text())["cases"]
    drawn, codes, encoded = cases
    assert [case["frames"] for case in (drawn, codes)] == ["drawn", "codes"]
    assert all("late_p99_ms" in case["tried"]["2"] for case in (drawn, codes))
    assert encoded["name"] == "H.264" and encoded["frames_a_second"] > 0


@pytest.mark.parametrize("most", [0, 1, 2, 7, 40, 333])
@pytest.mark.parametrize("start", [1, 8, 500])
def test_the_largest_count_is_found(most, start):
    tried = []
    found = bench_streams.search(lambda count: tried.append(count) or count <= most, start)
    assert found <= most <= max(found * bench_streams.STEP, found)
    assert len(tried) == len(set(tried)) < 25


@pytest.mark.slow
def test_interruptions_are_measured(series, tmp_path):
    write_wav(tmp_path / "speech.wav", voice(1.3), SAMPLE_RATE)
    arguments = [str(series.run), str(tmp_path / "speech.wav"), "--tiny", "--out", str(tmp_path)]
    [case] = json.loads(interruption.main(arguments).read_text())["cases"]
    assert case["interruptions"] == 2 and case["gap_usual_step_max"] >= 0


def test_a_stream_is_measured(trained_run, tmp_path, monkeypatch):
    monkeypatch.setattr(stream_hour, "SAME_SECONDS", 2)
    write_wav(tmp_path / "speech.wav", voice(1.3), SAMPLE_RATE)
    arguments = [str(trained_run.folder), str(tmp_path / "speech.wav"), "--seconds", "2"]
    [case] = json.loads(
        stream_hour.main([*arguments, "--out", str(tmp_path)]).read_text()
    )["cases"]  # fmt: skip
    assert (case["frames"], case["last_frame_s"]) == (50, 1.96)
    assert 0 < case["ready_p50_ms"] <= case["ready_p99_ms"] and case["times_real_time"] > 0


@pytest.mark.slow
def test_the_way_to_a_film_is_measured(trained_run, tmp_path):
    speech = tmp_path / "speech.wav"
    write_wav(speech, voice(1.2), SAMPLE_RATE)
    arguments = [str(trained_run.folder), str(speech), "--out", str(tmp_path)]
    [case] = json.loads(bench_film.main(arguments).read_text())["cases"]
    assert (case["sound_s"], case["frames"]) == (1.2, 30)
    assert all(case[f"{part}_s"] >= 0 for part in ("features", "draw", "encode"))
    assert case["render_command_s"] > 0.1 and case["encoder"] == "libx264"


@pytest.mark.slow
def test_a_frame_on_a_cpu_is_measured(tmp_path):
    path = bench_cpu.main(["--tiny", "--out", str(tmp_path)])
    [case] = json.loads(path.read_text())["cases"]
    assert (case["gaussians"], case["size"]) == (300, 48) and case["frames_a_second"] > 0
    stages = [case[f"{stage}_ms"] for stage in ("projection", "lists", "blend")]
    assert sum(stages) == pytest.approx(case["whole_ms"], abs=0.05)


@pytest.mark.slow
def test_starts_are_measured(trained_run, tmp_path, monkeypatch):
    """Nothing is compiled the second time, which takes longer than all the rest of so small a run.

    The tests' settings, by which XLA hurries, are those of the processes too.
    """
    speech = tmp_path / "speech.wav"
    write_wav(speech, voice(0.5), SAMPLE_RATE)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    arguments = [str(trained_run.folder), str(speech), "--times", "2", "--out", str(tmp_path)]
    [case] = json.loads(bench_start.main(arguments).read_text())["cases"]
    assert case["sound_s"] == 0.5 and case["size"] == 48
    first, second = case["render"]
    assert 0 < second["cpu_s"] < first["cpu_s"]
    for parts in case["parts"]:
        assert all(part["wall_s"] >= 0 and part["cpu_s"] >= 0 for part in parts.values())
    assert case["parts"][1]["compile"]["cpu_s"] < case["parts"][0]["compile"]["cpu_s"]
    assert case["parts"][1]["first_frame_of_second_stream"]["cpu_s"] < 1


def test_baked_pictures_are_compared_with_exact_ones(trained_run, tmp_path):
    places = ["--out", str(tmp_path), "--figures", str(tmp_path)]
    assert baking.main([str(trained_run.folder), "--tiny", *places]).stat().st_size > 1000
    cases = json.loads((tmp_path / "baking.json").read_text())["cases"]
    assert [case["codes"] for case in cases] == list(baking.COUNTS[-2:])
    assert all(case["frames"] == 3 and case["psnr_to_exact"] > 60 for case in cases)
    assert all(0 < case["file_mb"] < 10 for case in cases)


def test_decoding_is_measured(painted, tmp_path):
    path = bench_decode.main([str(painted), "--tiny", "--out", str(tmp_path)])
    [case] = json.loads(path.read_text())["cases"]
    start, stop = Dataset.open(painted).splits["train"]
    assert case["frames"] == stop - start and len(case["seconds"]) == 1
    pixels = case["frames"] * case["width"] ** 2
    expected = case["seconds"][0] * 6000 * 512**2 / pixels
    assert case["claimed_clip_s"] == pytest.approx(expected, rel=0.1)


@pytest.mark.slow
def test_inference_is_measured_on_any_machine(tmp_path):
    folders = ["--out", str(tmp_path), "--figures", str(tmp_path / "figures")]
    figure = bench_inference.main(["--tiny", *folders])
    [case] = json.loads((tmp_path / "bench_inference.json").read_text())["cases"]
    assert (case["gaussians"], case["size"], case["batch"]) == (500, 48, 2)
    assert 0 < case["call_p50_ms"] <= case["call_p95_ms"] <= case["call_p99_ms"]
    assert case["streaming_ms_a_frame"] > 0 and case["memory_mb"] > 0
    assert case["psnr_to_float32_db"] > 80
    assert case["baked"]["call_p50_ms"] > 0 and case["baked"]["kept_mb"] > 0
    assert figure == tmp_path / "figures" / "inference.png"


def test_the_figure_of_inference_is_drawn_from_its_results(tmp_path):
    folders = ["--out", str(RESULTS), "--figures", str(tmp_path)]
    figure = bench_inference.main(["--plot-only", *folders])
    assert figure == tmp_path / "inference.png" and figure.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="no results yet"):
        bench_inference.main(["--plot-only", "--out", str(tmp_path / "other"), *folders[2:]])
    with pytest.raises(InputError, match="--tiny: its numbers"):
        bench_inference.main(["--tiny"])
    with pytest.raises(InputError, match="--calls: got 0"):
        bench_inference.main(["--calls", "0"])
