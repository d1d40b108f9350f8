"""The records of a run: whole files, the same settings on resuming, lines that a crash lost."""

import inspect
import json
import os
import sys

import numpy as np
import pytest
from tensorboardX.event_file_writer import EventFileWriter

from egs_jax.config_text import override
from egs_jax.data.folder import open_folder
from egs_jax.presets import preset
from egs_jax.runtime.assets import ASSETS
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.progress import progress
from egs_jax.training.checkpoint import Checkpoints
from egs_jax.training.run_folder import NoLog, RunLog, load_config, read_metrics, start_run
from kernels import dispatch


def lines_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def environment_of(folder) -> dict:
    return json.loads((folder / "environment.json").read_text())


def test_run_folder_keeps_config_and_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("EGS_COMMIT", "c0ffee")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "egs_jax", "train", "a b"])
    config = override(preset("tiny", data_dir="data/x", seed=4), {"loss.perceptual": "0"})
    folder = tmp_path / "runs" / "ein Lauf"
    start_run(folder, config, {"models": {"whisper_tiny_en": "ab12"}})
    assert load_config(folder) == config
    facts = environment_of(folder)
    assert facts["commit"] == "c0ffee" and facts["command"] == "python -m egs_jax train 'a b'"
    assert facts["packages"]["numpy"] == np.__version__ and facts["device"].startswith("cpu")
    assert facts["models"] == {"whisper_tiny_en": "ab12"}
    assert facts["kernels"].keys() == dispatch.implementations().keys() > {"rasterize"}
    assert facts["notes"] == {} and facts["earlier"] == []


def test_networks_in_use_are_recorded_or_said_to_be_unknown(tmp_path):
    start_run(tmp_path, preset("paper", data_dir="d"))
    facts = environment_of(tmp_path)
    assert facts["models"] == {"lpips_vgg16": ASSETS["lpips_vgg16"].sha256}
    assert "does not say which networks" in facts["notes"]["models"]


def test_what_computed_a_run_before_is_kept_once(tmp_path, monkeypatch):
    for commit in ("a", "a", "b", "b", "c"):
        monkeypatch.setenv("EGS_COMMIT", commit)
        start_run(tmp_path, preset("tiny"))
    facts = environment_of(tmp_path)
    assert facts["commit"] == "c" and [old["commit"] for old in facts["earlier"]] == ["a", "b"]
    assert "earlier" not in facts["earlier"][1]


@pytest.mark.parametrize("damaged", [b"{", b"[]", b"\xff\0"])
def test_an_environment_that_cannot_be_read_is_kept_aside(tmp_path, capsys, damaged):
    for name in ("environment.json.unreadable", "environment.json.unreadable1"):
        (tmp_path / "environment.json").write_bytes(damaged)
        start_run(tmp_path, preset("tiny"))
        assert (tmp_path / name).read_bytes() == damaged
        told = f"cannot be read; what computed this run before is in {name}\n"
        assert capsys.readouterr().out == f"{tmp_path / 'environment.json'}: {told}"
        assert environment_of(tmp_path)["earlier"] == []
    start_run(tmp_path, preset("tiny"))
    assert capsys.readouterr().out == ""


def test_kernels_are_recorded_as_steps_are_compiled(tmp_path, monkeypatch):
    found = {"rasterize": "xla: no GPU, not called yet"}
    monkeypatch.setattr(dispatch, "implementations", lambda: dict(found))
    start_run(tmp_path, preset("tiny"))
    log = RunLog(tmp_path, 0)
    for kernel, choice in (("rasterize", "xla: no GPU"), ("deform", "triton")):  # stage by stage
        found[kernel] = choice
        log.write({"step": 20, "loss": 0.5})
        assert environment_of(tmp_path)["kernels"] == found
    log.close()


def test_a_host_without_a_log_has_its_calls_and_writes_nothing():
    public = lambda kind: {n: f for n, f in vars(kind).items() if n[0] != "_" and callable(f)}
    for name, function in public(NoLog).items():
        assert inspect.signature(function) == inspect.signature(public(RunLog)[name])
    assert public(NoLog).keys() == public(RunLog).keys()
    log = NoLog()
    log.write({"step": 1})
    log.rewind(0)
    log.close()


def test_same_settings_resume_others_are_named(tmp_path):
    config = preset("tiny", data_dir="d")
    start_run(tmp_path, config)
    before = (tmp_path / "config.json").read_bytes()
    start_run(tmp_path, config)
    other = override(config, {"seed": "1", "optim.means": "1e-3,1e-4"})
    with pytest.raises(InputError) as caught:
        start_run(tmp_path, other)
    message = str(caught.value)
    assert "(optim.means, seed)" in message and "--run-dir" in message and "\n" not in message
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_run_goes_on_where_its_steps_have_as_many_frames(tmp_path):
    config = override(preset("paper", data_dir="d"), {"schedule.static_batch": "2"})
    start_run(tmp_path, config)
    start_run(tmp_path, override(config, {"devices": "2"}))
    with pytest.raises(InputError, match="4 make 4 frames a step of the static .* --devices 1, or"):
        start_run(tmp_path, override(config, {"devices": "4"}))


def test_run_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="name another folder"):
        start_run(tmp_path / "file" / "run", preset("tiny"))


def test_a_dataset_folder_does_not_become_a_run(painted):
    with pytest.raises(InputError, match="is a dataset folder; name another --run-dir"):
        start_run(painted, preset("tiny"))
    assert not (painted / "config.json").exists()


def test_a_run_is_not_taken_for_a_dataset(tmp_path):
    start_run(tmp_path, preset("tiny"))
    with pytest.raises(InputError, match="no meta.json.; it is a run"):
        open_folder(tmp_path)


def test_a_name_in_another_encoding_is_refused(tmp_path):
    with pytest.raises(InputError, match="not UTF-8; name another"):
        start_run(tmp_path / os.fsdecode(b"l\xff") / "run", preset("tiny"))
    with pytest.raises(InputError, match="not UTF-8; name another"):
        Checkpoints(tmp_path / os.fsdecode(b"l\xff"), read_only=True)
    assert not list(tmp_path.iterdir())


def test_foreign_run_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"not a run folder \(no config.json\); make one with"):
        load_config(tmp_path)
    for content in (b"", b"{", b"\xff\xfe\x00", b'{"seed": []}'):
        (tmp_path / "config.json").write_bytes(content)
        for use in (load_config, lambda folder: start_run(folder, preset("tiny"))):
            with pytest.raises(InputError, match="not a run's config") as caught:
                use(tmp_path)
            assert "\n" not in str(caught.value)


def test_records_are_lines_and_points(tmp_path, monkeypatch):
    points = []
    monkeypatch.setattr(EventFileWriter, "add_event", lambda self, event, *_: points.append(event))
    log = RunLog(tmp_path, 0)
    log.write({"step": 20, "stage": "static", "loss": 0.5, "num_gaussians": 9, "rate": None})
    log.write({"step": 40, "loss": float("nan"), "psnr": float("inf")})
    log.write({"step": 40, "state_sha256": "ab"})
    log.close()
    assert lines_of(tmp_path) == [
        {"step": 20, "stage": "static", "loss": 0.5, "num_gaussians": 9, "rate": None},
        {"step": 40, "loss": None, "psnr": None},
        {"step": 40, "state_sha256": "ab"},
    ]
    drawn = [(e.step, v.tag, v.simple_value) for e in points for v in e.summary.value]
    assert drawn == [(20, "loss", 0.5)]  # numbers alone; what is not finite is no point
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_resumed_log_drops_what_the_crash_lost(tmp_path):
    log = RunLog(tmp_path, 0)
    for step in (20, 40, 60, 80):
        log.write({"step": step, "loss": 1.0 / step})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 100, "lo')  # killed while writing
    resumed = RunLog(tmp_path, 60)
    assert [line["step"] for line in lines_of(tmp_path)] == [20, 40, 60]
    resumed.write({"step": 80, "loss": 0.0})
    resumed.close()
    assert [line["step"] for line in lines_of(tmp_path)] == [20, 40, 60, 80]
    assert lines_of(tmp_path)[-1]["loss"] == 0.0


@pytest.mark.parametrize("damaged", [b'{"step": 40, "lo', b"7", b"\0\0\0", b""])
def test_a_damaged_line_is_named_unless_a_crash_cut_it_off(tmp_path, damaged):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 20}\n' + damaged)
    assert read_metrics(path) == [{"step": 20}] and read_metrics(tmp_path / "none") == []
    path.write_bytes(b'{"step": 20}\n' + damaged + b'\n{"step": 60}\n')
    for read in (read_metrics, lambda path: RunLog(path.parent, 60)):
        with pytest.raises(InputError, match=r"metrics.jsonl: line 2 is damaged.*; delete it"):
            read(path)


def test_events_are_written_where_tensorboard_looks(tmp_path):
    log = RunLog(tmp_path, 0)
    log.write({"step": 1, "loss": 0.5})
    log.close()
    [events] = (tmp_path / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents.") and b"loss" in events.read_bytes()


def test_progress_shows_count_rate_and_note_on_stderr(capsys):
    with progress(4, "train") as bar:
        bar.update(0, completed=3, note="loss 0.5")
    out, err = capsys.readouterr()
    assert out == "" and "train" in err and "3/4" in err and "loss 0.5" in err and "ETA" in err


def test_progress_of_unknown_length(capsys):
    with progress(None, "render", "frame") as bar:
        assert list(bar.track(iter("ab"), task_id=0)) == ["a", "b"]
    assert "2/2" in capsys.readouterr().err


def test_a_run_with_other_settings_says_how_it_was_begun(tmp_path):
    ours = preset("tiny", data_dir="d")
    start_run(tmp_path, override(ours, {"model.lips": "learned", "optim.means": "0.8,0.9"}))
    with pytest.raises(InputError) as told:
        start_run(tmp_path, override(ours, {"seed": "3"}))
    assert "other settings (model.lips, optim.means, seed)" in str(told.value)
    assert "with `train tiny --model.lips=learned --optim.means=0.8,0.9`" in str(told.value)
