"""The experiments on the paper's claims: each runs, at its smallest, on a film of the performer."""

import dataclasses
import json
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest
from helpers import fill_shapes, voice

from egs_jax.avatar import precomputed as prepared
from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.listening import in_float32, token_names
from egs_jax.config_text import options, override, to_json
from egs_jax.data.dataset import Dataset
from egs_jax.data.statistics import calmest
from egs_jax.media.audio_file import write_wav
from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.presets import PRESETS, preset
from egs_jax.runtime.errors import InputError, TrainingError
from experiments import (
    _jobs,
    _numbers,
    _plots,
    _runs,
    ablations,
    attention_map,
    bench_runs,
    cross_driven,
    point_density,
    self_reconstruction,
    tables,
    tables_speed,
)
from experiments._clips import CLIPS, set_of
from experiments._common import require_triton
from experiments._regions import REGIONS, region_means, regions_of, spacing
from experiments._runs import shrunk
from experiments._summary import (
    QUALITY,
    Spread,
    by_chance,
    paired,
    seconds_to,
    shown,
    spread_of,
    stands_out,
)
from kernels import dispatch
from kernels.deform import product, token_shares

PNG = b"\x89PNG"


def cases_of(folder, name):
    return json.loads((folder / f"{name}.json").read_text())["cases"]


@pytest.mark.slow
def test_ablations_go_on_where_they_were(series, capsys):
    cases = cases_of(series.results, "ablations")
    assert [(c["variant"], c["seed"]) for c in cases] == [("paper", 0), ("no_static", 0)]
    assert [(c["static_steps"], c["deform_steps"]) for c in cases] == [(2, 2), (0, 4)]
    full, bare = (c["parameters"] for c in cases)
    assert full == bare and full["networks"] > full["per_frame"] > 0 < full["planes"]
    assert cases[0]["psnr_head"] != cases[1]["psnr_head"]
    assert series.figure.read_bytes().startswith(PNG)
    before = (series.results / "ablations.json").read_bytes()
    capsys.readouterr()
    ablations.main(series.command)
    assert capsys.readouterr().out.count("in the results already") == 2
    assert (series.results / "ablations.json").read_bytes() == before
    others = [ablations.key(cases[0] | change) for change in ({"seed": 1}, {"series": 1},
              {"static_steps": 3},
              {"preset": "fast"}, {"size": 64}, {"source_sha256": "x"})]  # fmt: skip
    assert ablations.key(cases[0]) not in others
    assert ablations.key(cases[0] | {"dataset": "renamed"}) == ablations.key(cases[0])


@pytest.mark.slow
def test_point_density_uses_the_runs_of_the_ablations(series):
    checkpoints = sorted((series.run / "checkpoints").iterdir())
    path = point_density.main([*series.common, "--seeds", "0"])
    assert path.read_bytes().startswith(PNG)
    assert sorted((series.run / "checkpoints").iterdir()) == checkpoints
    with_stage, without = cases_of(series.results, "point_density")
    assert with_stage["start"] == without["start"]
    for case in (with_stage, without):
        for cloud in (case["start"], case["end"]):
            assert sum(cloud["by_region"].values()) == cloud["gaussians"] == 150
            assert list(cloud["by_region"]) == list(REGIONS)
            inside = sum(int(count) for row in cloud["map"] for count in row.split())
            assert 0.9 * 150 < inside <= 150
            assert 0 < cloud["spacing"]["p5"] < cloud["spacing"]["p95"]
        assert case["curve"]["step"] == [1, 2, 3, 4] and np.all(np.isfinite(case["curve"]["psnr"]))
    assert with_stage["end"]["size"] != without["end"]["size"]


@pytest.mark.slow
def test_attention_map_is_the_true_mix(series):
    path = attention_map.main([str(series.run), "--tiny", "--out", str(series.results)])
    assert path == series.run / "attention_map.png" and path.read_bytes().startswith(PNG)
    [case] = cases_of(series.results, "attention_map")
    names = [f"sound {k:+d}" for k in range(-4, 4)] + ["eyes", "pose", "null", "lips"]
    assert list(case["share"]) == names and list(case["moves"]) == ["sound", "eyes", "pose", "lips"]
    assert sum(case["gaussians"].values()) == 150
    for region in (name for name, count in case["gaussians"].items() if count):
        assert sum(case["share"][name][region] for name in names) == pytest.approx(1, abs=1e-4)


def test_only_tokens_that_change_move_anything(trained_run):
    """On the painted clip the mouth alone moves: its eyes and its pose stay."""
    avatar = Avatar.load(trained_run.folder, exact=True)
    networks = fill_shapes(avatar.params["networks"])  # far from their start, where nothing moves
    networks["tokens"]["lips_reader"] = avatar.params["networks"]["tokens"]["lips_reader"]
    avatar = dataclasses.replace(avatar, params={**avatar.params, "networks": networks})
    avatar = in_float32(avatar)
    groups = attention_map.moving_groups(token_names(avatar))
    acting = attention_map.measure(avatar, np.array([1, 5]))
    moves = dict(zip(groups, acting.moves.max(axis=0), strict=True))
    assert moves["sound"] > 1e-4 and moves["lips"] > 1e-6
    assert moves["eyes"] == moves["pose"] == 0
    kept, drive = avatar.prepared, avatar.dataset.drive(np.array([5, 5]), 8)
    tokens, dynamic = jax.jit(prepared.listen, static_argnums=0)(avatar.config, kept, drive)
    acting = attention_map.measure(avatar, np.array([5, 5]))
    heard = product(token_shares(kept.static_mix, dynamic), tokens)[0]
    np.testing.assert_allclose(acting.share @ np.asarray(tokens[0]), heard, atol=1e-4)
    lengths = np.linalg.norm(tokens[0], axis=-1)
    np.testing.assert_allclose(acting.norm, acting.share * lengths, rtol=1e-4)
    assert not acting.moves.any()  # two frames alike


@pytest.mark.slow
def test_cross_driven_measures_every_speech_and_pose(series, painted, tmp_path):
    speech = tmp_path / "other voice.wav"
    write_wav(speech, voice(1.0), SAMPLE_RATE)
    arguments = [str(series.run), str(speech), "--poses", str(painted), "--tiny"]
    path = cross_driven.main([*arguments, "--out", str(series.results)])
    assert path == series.run / "cross_driven.png" and path.read_bytes().startswith(PNG)
    cases = cases_of(series.results, "cross_driven")
    assert [c["poses"] for c in cases] == ["own training clip", "painted"]
    for case in cases:
        assert (case["speech"], case["frames"], case["width"]) == ("other voice", 10, 48)
        for name, value in case.items():
            assert value is not None or case["notes"][name], name
        assert case["lpips_nearest_true"] > 0 and -15 <= case["sync_lag_true_frames"] <= 15
    avatar = Avatar.load(series.run, exact=True)
    own = cross_driven.driving_of(avatar, np.zeros((20, 80), np.float32), None)
    lent = cross_driven.driving_of(avatar, np.zeros((20, 80), np.float32), Dataset.open(painted))
    frames = np.arange(4)
    assert np.ptp(np.asarray(own(frames).viewmats), axis=0).max() > 0
    np.testing.assert_allclose(np.ptp(lent(frames).viewmats, axis=0), 0, atol=1e-6)
    np.testing.assert_array_equal(own(frames).audio_windows, lent(frames).audio_windows)
    hush = cross_driven.silenced(avatar, lent)(frames)
    np.testing.assert_array_equal(hush.audio_windows, avatar.dataset.silence(4, 8))
    np.testing.assert_array_equal(hush.viewmats, lent(frames).viewmats)


def finished_run(place, painted, seed=0):
    """A run folder such as training and measuring on the painted clip leave it."""
    config = shrunk(preset("tiny", data_dir=str(painted.resolve()), seed=seed))
    config = override(config, {"model.body": "person"})
    measured = {
        "source": {"name": "painted.mp4", "sha256": "0" * 64}, "seconds_trained": 0.8,
        "seconds_held_out": 0.16, "given": ["pose"], "mouth_r": None, "mouth_r_shift_p95": None,
        "psnr_head": 30.0, "baseline_mean_frame": 20.0, "baseline_nearest_frame": 25.123456,
        "render_fps": 50.0, "notes": {"mouth_r": "no face"},
    }  # fmt: skip
    lines = [{"step": n, "stage": stage, "steps_per_second": 2.0}
             for n, stage in ((2, "static"), (4, "deform"))]  # fmt: skip
    files = {
        "config.json": to_json(config),
        "eval.json": json.dumps(measured),
        "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
        "environment.json": json.dumps({"packages": {"jax": "0.11.2"}, "commit": "c" * 40}),
    }
    place.mkdir(parents=True)
    for name, text in files.items():
        (place / name).write_text(text)
    return place


def test_self_reconstruction_draws_what_was_measured(painted, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "")  # several jobs change it
    run = finished_run(tmp_path / "work" / "painted" / "tiny-person-0", painted)
    folders = ["--out", str(tmp_path), "--figures", str(tmp_path)]
    # A finished run is neither trained nor measured again.
    command = [str(painted), "--tiny", "--work", str(tmp_path / "work"), *folders]
    drawn = self_reconstruction.main(command).read_bytes()
    [case] = cases_of(tmp_path, "self_reconstruction")
    assert case == dict(
        video="painted", source_sha256="0" * 64, set="dev", preset="tiny", body="person", seed=0,
        train_seconds=2.0, seconds_trained=0.8, seconds_held_out=0.16, given=["pose"], mouth_r=None,
        mouth_r_shift_p95=None, psnr_head=30.0, baseline_mean_frame=20.0,
        baseline_nearest_frame=25.1235, render_fps=50.0, notes={"mouth_r": "no face"},
        versions={"jax": "0.11.2"}, commit="c" * 40,
    )  # fmt: skip
    figure = tmp_path / "self_reconstruction.png"
    figure.unlink()
    assert self_reconstruction.main(["--plot-only", *folders]).read_bytes() == drawn
    (tmp_path / "self_reconstruction.json").unlink()
    self_reconstruction.main(["--collect", str(run), *folders])  # from files alone
    assert cases_of(tmp_path, "self_reconstruction") == [case]
    for shared in (["--collect", str(run), "--shared"], [*command[:4], "--jobs", "2"]):
        self_reconstruction.main([*shared, *folders])
        [untimed] = cases_of(tmp_path, "self_reconstruction")
        notes = dict.fromkeys(("render_fps", "train_seconds"), self_reconstruction.NOT_TIMED)
        assert untimed == case | dict.fromkeys(notes) | {"notes": case["notes"] | notes}
    (run / "eval.json").unlink()
    with pytest.raises(InputError, match="tiny-person-0: not measured yet"):
        self_reconstruction.main(["--collect", str(run), *folders])


def test_jobs_share_a_gpu_and_one_that_fails_stops_no_other(painted, tmp_path, monkeypatch):
    started = []

    def process(command, env, **_):
        started.append((command, env))
        seed = command[command.index("--seeds") + 1]
        return subprocess.CompletedProcess(command, int(seed == "1"))

    monkeypatch.setattr(_jobs.subprocess, "run", process)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "")
    where = ["--work", str(tmp_path), "--out", str(tmp_path), "--figures", str(tmp_path)]
    arguments = [str(painted), "--presets", "fast", "paper", "--seeds", "0", "1", "--jobs", "3"]
    parsed = self_reconstruction._parser()
    found = _runs.parsed(parsed, [*arguments, *where])
    done, failed = self_reconstruction.run_all(found)
    names = lambda paths: sorted(path.name for path in paths)
    assert names(done) == ["fast-person-0", "paper-person-0"]
    assert names(failed) == ["fast-person-1.log", "paper-person-1.log"]
    assert len(started) == 4
    for command, env in started:
        assert command[3] == str(painted) and "--only-run" in command
        assert env["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.300"


def test_two_films_and_the_test_sentences_are_report_clips():
    by_set = {name: {c.name for c in CLIPS.values() if c.set == name} for name in ("dev", "report")}
    assert by_set["report"] == {"andrew_256_25s", "feifei_256_15s", "grid_s1"}
    assert by_set["dev"] == {"obama_bp_450_25fps_20s", "tedlieu_256_60s", "grid_s1_train"}
    hashes = {clip.name: sha for sha, clip in CLIPS.items()}
    assert set_of(hashes["feifei_256_15s"]) == "report" and set_of("0" * 64) == "dev"
    for case in _runs.earlier("self_reconstruction"):
        known = case["source_sha256"] == hashes.get(case["video"])
        assert known or case["video"] == "performer"  # whose film depends on the code
        assert case["set"] == set_of(case["source_sha256"])


def test_variants_differ_from_the_base_by_what_they_say():
    base = PRESETS["fast"]
    plain = {name: value for name, (_, value, _) in options(base).items()}
    for name in ablations.VARIANTS:
        changed = options(ablations.configured(name, base, seed=7))
        different = {n for n, (_, value, _) in changed.items() if value != plain[n]}
        alike = {"seed", "model.body"}  # heads, as in the paper
        assert different == alike | set(ablations.VARIANTS[name].changes(base)), name
        assert (different == alike) == (name == "paper")
    bare = ablations.configured("no_static", base, 0)
    assert bare.total_steps == base.total_steps and bare.stage(0) == "deform"
    assert ablations.LONG_WINDOW > base.model.ppe_period


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (ablations.main, ["nowhere"], "nowhere: not a dataset folder"),
        (ablations.main, ["x", "--variants", "none"], "--variants: no none; choose of paper, "),
        (ablations.main, ["x", "--plot-only", "--out", "nowhere"], "no results yet"),
        (point_density.main, ["x", "--preset", "huge"], "invalid choice: 'huge'"),
        (attention_map.main, ["nowhere"], "nowhere: not a run folder"),
        (attention_map.main, ["nowhere", "--frames", "0"], "--frames: got 0, expected at least"),
        (cross_driven.main, ["nowhere", "x.wav", "--seconds", "0"], "--seconds: got 0.0"),
        (self_reconstruction.main, [], "name a CLIP"),
        (self_reconstruction.main, ["x", "--jobs", "0"], "--jobs: got 0, expected at least 1"),
        (self_reconstruction.main, ["--collect", "no"], "no: not measured yet (no eval.json)"),
        (bench_runs.main, ["x", "--set", "devices"], "--set: got 'devices', expected NAME=VALUE"),
        (bench_runs.main, ["x", "--repeat", "0"], "--repeat: got 0"),
        (ablations.main, ["x", "--tiny", "--out", "x"], "name other folders by --out and --fig"),
        (attention_map.main, ["x", "--tiny"], "stay out of the results; name other folders"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    monkeypatch, tmp_path, capsys, main, arguments, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        _runs.run_main(lambda: main(arguments))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and message in error
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_one_line_says_so(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match="figures need matplotlib"):
        _plots.ablations([made_case("paper", 0)], tmp_path / "x.png")


def test_borrowed_poses_are_the_other_heads_motion():
    rng = np.random.default_rng(0)
    pose = np.tile(np.eye(4), (9, 1, 1))
    pose[:, :3, :3] = [cv2.Rodrigues(0.2 * v)[0] for v in rng.normal(size=(9, 3))]
    pose[:, :3, 3] = [0, 0, 5] + 0.1 * rng.normal(size=(9, 3))
    calm = calmest(pose)
    same = cross_driven.borrowed(pose[calm], pose)  # its own motion, laid onto its own rest
    np.testing.assert_allclose(same, pose, atol=1e-6)
    rest = np.eye(4)
    rest[:3, 3] = [1, 2, 7]
    lent = cross_driven.borrowed(rest, pose)
    np.testing.assert_allclose(lent[calm], rest, atol=1e-6)
    motion = lambda views: np.linalg.inv(views[calm]) @ views
    np.testing.assert_allclose(motion(lent.astype(float)), motion(pose), atol=1e-5)


def test_regions_and_spacing_by_hand():
    shape = np.zeros((478, 3), np.float32)
    shape[:, 2] = 5.0  # all landmarks away from the points
    shape[13], shape[159], shape[63], shape[1] = (0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0)
    points = np.array([[0.05, 0, 0], [1, 0.05, 0], [2, 0, 0.05], [3, 0, 0], [0.5, 0, 0]])
    regions = regions_of(points, shape)
    np.testing.assert_array_equal(regions, range(5))
    means = region_means(np.array([1.0, 3.0]), np.array([0, 0]))
    assert means["mouth"] == 2.0 and means["eyes"] is None
    grid = np.stack(np.meshgrid(*[np.arange(3.0)] * 3), -1).reshape(-1, 3)
    np.testing.assert_allclose(spacing(grid), 1.0)


def made_case(variant, seed, **values):
    numbers = dict(psnr_head=30.0 + seed, lpips=0.02, lmd=0.5, mouth_r=0.7, blink_r=0.9,
                   mouth_r_shift_p95=0.4, mouth_silence_percentile=10.0)  # fmt: skip
    about = dict(variant=variant, seed=seed, series=1, dataset="clip", preset="fast", size=256,
                 static_steps=3, deform_steps=5, num_gaussians=100, device="cpu",
                 train_seconds=None, source_sha256="", commit="0123456789",
                 parameters={"planes": 1, "networks": 2, "per_frame": 3})  # fmt: skip
    return about | numbers | values


def test_differences_are_those_of_the_same_seed(monkeypatch):
    base = [made_case("paper", seed) for seed in range(3)]
    other = [made_case("mlp", 2, psnr_head=31.5), made_case("mlp", 1, psnr_head=31.0, mouth_r=None)]
    assert spread_of([1.0, None, 3.0]) == Spread(2.0, pytest.approx(2**0.5), 2)
    assert paired(other, base, QUALITY[0]) == Spread(-0.25, pytest.approx(0.125**0.5), 2)
    assert shown(None, 2) == "-" and shown(Spread(1.0, None, 1), 1, signed=True) == "+1.0"
    monkeypatch.setattr(tables, "cases_of", lambda name: base + other if name[0] == "a" else [])
    made = {name: tables.table(name) for name in ("ablations", "ablation_costs", "cross_driven")}
    assert "| `paper` | 3 | 31.00 ± 1.00 |" in made["ablations"]
    assert "| `mlp` | 2 | 31.25 ± 0.35 (-0.25 ± 0.35) |" in made["ablations"]
    other = [made_case("mlp", seed, psnr_head=29.0 + seed + 0.1 * seed) for seed in range(3)]
    assert "(**-0.90 ± 0.10**)" in tables.table("ablations")
    rows = [line for line in made["ablations"].splitlines() if line.startswith("|")]
    assert "| 0.70 | 0.30 |" in rows[-1].replace(" (+0.00)", "")
    assert "| 3 + 5 | 1 | 2 | 3 | 100 ± 0 | - | cpu |" in made["ablation_costs"]
    assert made["cross_driven"] == "*Not run yet: there is no `results/cross_driven.json`.*"


def test_a_case_takes_the_place_of_an_earlier_one(tmp_path):
    key = lambda case: (case["name"],)
    for case in ({"name": "a"}, {"name": "b"}, {"name": "a", "more": 1, "commit": "known"}):
        cases = _runs.add_case("made_up", case, key, tmp_path)
    assert cases == cases_of(tmp_path, "made_up")
    assert [case["name"] for case in cases] == ["a", "b"]
    assert cases[0]["more"] == 1 and cases[0]["commit"] == "known"
    path = tmp_path / "made_up.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"device": "another"}))
    _runs.add_case("made_up", {"name": "c", "commit": "known"}, key, tmp_path)
    assert json.loads(path.read_text())["device"] == "another"  # made elsewhere
    _runs.add_case("made_up", {"name": "d"}, key, tmp_path)
    assert json.loads(path.read_text())["device"] == "cpu: cpu"
    assert len(cases_of(tmp_path, "made_up")) == 4


def test_what_is_said_of_the_ablations_is_so():
    """If it fails: the verdicts of both READMEs on the ablations are to be rewritten.

    Each figure whose mean difference is larger than its deviation, with the sign of the difference.
    """
    gaps = tables.ablation_gaps(_runs.cases_of("ablations"))
    assert {gap.count for row in gaps.values() for gap in row.values()} == {_numbers.SEEDS}
    signs = {
        row: {label: "+" if gap.mean > 0 else "-" for label, gap in gaps.items() if stands_out(gap)}
        for row, gaps in gaps.items()
    }
    psnr, lpips, lmd, r, margin, silence = (metric.label for metric in QUALITY)
    # Borne out: worst in everything; lost without the static stage.
    assert signs[1, "parity"] == {
        psnr: "-",
        lpips: "+",
        lmd: "+",
        r: "-",
        margin: "-",
        silence: "+",
    }
    assert signs[1, "no_static"] == {psnr: "-", lpips: "+", margin: "-"}
    for metric, worst in zip(QUALITY, (min, max, max, min, min, max), strict=True):
        first = {row: gap[metric.label].mean for row, gap in gaps.items() if row[0] == 1}
        first.pop((1, "long_window_ppe_off"))  # beside another row
        assert first[1, "parity"] == worst(first.values())
    # Not borne out: hardly more stand out than by chance, for the paper's choice and against it.
    assert {row: signs[row] for row in _numbers.ALIKE} == {
        (1, "ppe_off"): {silence: "+"},
        (1, "long_window_ppe_off"): {lmd: "-"},
        (1, "cross"): {psnr: "+", silence: "-"},
        (1, "dense"): {lmd: "+", silence: "-"},
        (2, "mlp"): {lmd: "+", silence: "+"},
        (2, "mlp_wide"): {psnr: "-"},
    }
    count, figures = sum(map(len, _numbers.standing_out().values())), 6 * len(QUALITY)
    assert count < 1.5 * figures * by_chance(_numbers.SEEDS)
    # With unequal starts KANs seemed to follow the mouth better.
    assert signs[1, "mlp"][r] == signs[1, "mlp_wide"][r] == "-"


def test_between_equals_a_difference_stands_out_as_often_as_said():
    gaps = np.random.default_rng(0).normal(size=(4000, 3))
    found = np.mean([stands_out(spread_of(list(gap))) for gap in gaps])
    assert by_chance(3) == pytest.approx(1 - 0.6**0.5) == pytest.approx(found, abs=0.02)
    assert not stands_out(Spread(1.0, None, 1)) and not stands_out(Spread(-0.2, 0.2, 3))


def test_a_check_ends_with_its_status_and_without_a_gpu_in_one_line(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        _runs.run_main(lambda: 1)
    assert stop.value.code == 1 and not capsys.readouterr().out
    monkeypatch.setattr(dispatch, "why_not", lambda: "there is no GPU")
    with pytest.raises(SystemExit) as stop:
        _runs.run_main(require_triton)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and error.endswith(": there is no GPU\n")


@pytest.mark.parametrize("failure", [OSError("the disk\nis full"), TrainingError("it diverged")])
def test_other_failures_are_one_line_and_status_1(capsys, failure):
    def main():
        raise failure

    with pytest.raises(SystemExit) as stop:
        _runs.run_main(main)
    error = capsys.readouterr().err
    assert stop.value.code == 1 and error.count("\n") == 1 and error.startswith("experiments: ")


def test_seconds_of_a_run_that_was_stopped(tmp_path):
    lines = [
        {"step": 10, "stage": "static", "steps_per_second": None},
        {"step": 20, "stage": "static", "steps_per_second": 5.0},
        {"step": 30, "stage": "deform", "steps_per_second": None},  # resumed here
        {"step": 40, "stage": "deform", "steps_per_second": 2.0},
        {"step": 40, "state_sha256": "x"},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert _runs.training_seconds(tmp_path) == 20 / 5 + 20 / 2
    (tmp_path / "metrics.jsonl").write_text(json.dumps(lines[0]) + "\n")
    assert _runs.training_seconds(tmp_path) is None


@pytest.mark.slow
def test_whole_trainings_have_the_same_bits(performer_dataset, tmp_path):
    where = ["--work", str(tmp_path / "runs"), "--out", str(tmp_path)]
    command = [str(performer_dataset.folder), "--tiny", "--repeat", "2", *where]
    # Without the first stage: another program to compile.
    bench_runs.main([*command, "--set", "schedule.batch=4", "schedule.static_steps=0"])
    [case] = cases_of(tmp_path, "bench_runs")
    first, second = case["state_sha256"]
    assert first == second and len(first) == 64
    assert min(case["seconds"]) > 1 and case["frames_a_step"] == {"static": 1, "deform": 4}
    assert case["psnr_head"] > 0 and len(case["images_per_second"]) == 1
    assert case["settings"] == {"schedule.batch": "4", "schedule.static_steps": "0"}
    assert "2 of 2 runs" in tables_speed._whole_runs([case])
    with pytest.raises(TrainingError, match="status 2; see"):
        bench_runs.main([*command, "--set", "devices=64"])


def test_course_of_a_training_is_that_of_its_steps():
    line = lambda step, stage, psnr, rate: dict(
        step=step, stage=stage, psnr=psnr, steps_per_second=rate
    )
    lines = [
        line(10, "static", 20.0, None), line(20, "static", 22.0, 5.0),
        line(30, "deform", 30.0, 0.1), line(40, "deform", 32.0, 2.0), line(50, "deform", 36.0, 2.0),
        dict(step=50, state_sha256="0"),
    ]  # fmt: skip
    points = bench_runs.course(lines)
    assert points == [(9.0, 30.0), (14.0, 32.0), (19.0, 36.0)]
    assert [seconds_to(points, psnr) for psnr in (29.0, 31.0, 34.0, 37.0)] == [
        9.0,
        11.5,
        16.5,
        None,
    ]
    assert bench_runs.course(lines[:1]) == []
