"""The records of a run: whole files, the same settings on resuming, lines that a crash lost."""

import json
import os

import numpy as np
import pytest
from tensorboardX.event_file_writer import EventFileWriter

from egs_jax.config import preset
from egs_jax.config_text import override
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.files import write_atomically
from egs_jax.runtime.progress import progress
from egs_jax.training import run_folder as run_log
from egs_jax.training.run_folder import RunLog, load_config, start_run


def lines_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_run_folder_keeps_config_and_versions(tmp_path):
    config = preset("tiny", data_dir="data/x", seed=4)
    start_run(tmp_path / "runs" / "ein Lauf", config)
    assert load_config(tmp_path / "runs" / "ein Lauf") == config
    facts = json.loads((tmp_path / "runs" / "ein Lauf" / "environment.json").read_text())
    assert {"python", "device", "jax", "flax", "optax", "orbax-checkpoint", "numpy"} <= set(facts)
    assert facts["numpy"] == np.__version__


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


def test_foreign_run_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"not a run folder \(no config.json\); make one with"):
        load_config(tmp_path)
    for content in (b"", b"{", b"\xff\xfe\x00", b'{"seed": []}'):
        (tmp_path / "config.json").write_bytes(content)
        for use in (load_config, lambda folder: start_run(folder, preset("tiny"))):
            with pytest.raises(InputError, match="not a run's config") as caught:
                use(tmp_path)
            assert "\n" not in str(caught.value)


def test_atomic_write_leaves_the_old_file_or_the_new(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    write_atomically(path, "ne\u00fc")
    assert path.read_text(encoding="utf-8") == "ne\u00fc"

    def crash(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError):
        write_atomically(path, "never seen")
    assert path.read_text(encoding="utf-8") == "ne\u00fc"


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
        file.write('7\n{"step": 100, "lo')  # killed while writing
    resumed = RunLog(tmp_path, 60)
    assert [line["step"] for line in lines_of(tmp_path)] == [20, 40, 60]
    resumed.write({"step": 80, "loss": 0.0})
    resumed.close()
    assert [line["step"] for line in lines_of(tmp_path)] == [20, 40, 60, 80]
    assert lines_of(tmp_path)[-1]["loss"] == 0.0


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


def test_differences_name_nested_fields():
    before, now = {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 5}, "e": 0}
    assert run_log._differences(before, now) == {"b.c", "b.d", "e"}
