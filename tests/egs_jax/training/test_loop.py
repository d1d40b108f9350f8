"""The loop around the steps: kills change no bit, NaNs are survived or named, files are right."""

import dataclasses
import json
import shutil
import signal
import subprocess
import time
from unittest import mock

import chex
import jax
import numpy as np
import pytest
from helpers import largest_file, micro_config, python, train_arguments

from egs_jax.__main__ import main
from egs_jax.config import ScheduleConfig
from egs_jax.data.dataset import Dataset
from egs_jax.runtime.consent import CONSENT
from egs_jax.runtime.errors import InputError
from egs_jax.training import loop, monitor, parallel
from egs_jax.training import step as train
from egs_jax.training.checkpoint import Checkpoints, state_sha256
from egs_jax.training.loop import batches_from, fit

# All of them train by the programs of the undisturbed run.
pytestmark = pytest.mark.xdist_group("trained_run")


def records(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def poison(monkeypatch, steps, times=10**9):
    """Put a NaN into the sound of the batches of `steps`, the first `times` of them."""
    original, left = Dataset.batch, [times]

    def batch(self, config, step):
        clean = original(self, config, step)
        if step not in steps or not left[0]:
            return clean
        left[0] -= 1
        windows = np.array(clean.drive.audio_windows)
        windows[0] = np.nan
        return clean.replace(drive=clean.drive.replace(audio_windows=windows))

    monkeypatch.setattr(Dataset, "batch", batch)


def test_files_of_a_run(trained_run):
    *lines, last = records(trained_run.folder)
    assert [line["step"] for line in lines] == list(range(5, 41, 5))
    assert [line["stage"] for line in lines] == ["static"] * 4 + ["deform"] * 4
    assert {"loss", "psnr", "l1", "dssim", "lips", "mask"} <= lines[0].keys()
    digest = state_sha256(trained_run.state)
    assert last == {"step": 40, "state_sha256": digest}
    assert trained_run.output.splitlines()[-1] == f"state_sha256 {digest}"
    assert "consent" in trained_run.output and "3 to 5 minutes are best" in trained_run.output
    names = {"config.json", "environment.json", "metrics.jsonl", "checkpoints", "tensorboard"}
    assert {path.name for path in trained_run.folder.iterdir()} == names
    assert sorted(p.name for p in (trained_run.folder / "checkpoints").iterdir()) == ["30", "40"]


def started(arguments, run_dir, lines):
    """A training process of which `metrics.jsonl` shows so many lines."""
    command, environment = python("-m", "egs_jax", *arguments)
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline, log = time.monotonic() + 200, run_dir / "metrics.jsonl"
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_text().count("\n") >= lines:
            return process
        time.sleep(0.005)
    process.kill()
    raise AssertionError(process.communicate()[1])


def assert_ends_as(trained_run, run_dir, state):
    """The run, however often it began, has the state and the log of an undisturbed one."""
    assert state_sha256(state) == state_sha256(trained_run.state)
    mine, theirs = records(run_dir), records(trained_run.folder)
    for line in mine + theirs:
        line.pop("steps_per_second", None)
    assert mine == theirs  # every step once, with the same numbers


def test_stopped_and_resumed_run_has_the_bits_of_an_undisturbed_one(
    painted, trained_run, tmp_path, monkeypatch, capfd
):
    """Stopped in both stages, between two checkpoints that are due; it resumes by itself."""
    run_dir, original = tmp_path / "run", parallel.train_step
    arguments = train_arguments(painted, run_dir)

    def step(config, state, batch):
        if int(state.step) in stops:
            signal.raise_signal(signal.SIGTERM)
        return original(config, state, batch)

    for stops in ({15}, {33}):
        with monkeypatch.context() as patch:
            patch.setattr(parallel, "train_step", step)
            assert main(arguments) == 1
        error = capfd.readouterr().err
        assert "stopping after this step; once more stops at once" in error
        told = "egs-jax: stopped; the same command goes on from the last checkpoint"
        assert error.splitlines()[-1] == told
        saved = {int(path.name) for path in (run_dir / "checkpoints").iterdir()}
        assert max(saved) == max(stops) + 1  # the step in hand

    programs = train.jitted_step._cache_size()
    state = fit(micro_config(painted), Dataset.open(painted), run_dir=run_dir)
    assert train.jitted_step._cache_size() == programs  # a restored state is no new kind
    assert_ends_as(trained_run, run_dir, state)


@pytest.mark.slow
def test_killed_and_resumed_run_has_the_bits_of_an_undisturbed_one(painted, trained_run, tmp_path):
    run_dir = tmp_path / "run"
    process = started(train_arguments(painted, run_dir), run_dir, lines=6)  # 30 is being saved
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    state = fit(micro_config(painted), Dataset.open(painted), run_dir=run_dir)
    assert_ends_as(trained_run, run_dir, state)


@pytest.mark.slow
def test_to_compile_ahead_changes_no_bit(painted, trained_run, tmp_path, monkeypatch):
    """As on a GPU, whose kernels fail to compile ahead: steps would compile them themselves."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    fails = mock.Mock(side_effect=RuntimeError("a passing fault"))
    monkeypatch.setattr(parallel, "compile_kernels", fails)
    config = dataclasses.replace(micro_config(painted), frames_on="device")
    state = fit(config, Dataset.open(painted), run_dir=tmp_path / "run")
    assert {call.args[2].stage for call in fails.call_args_list} == {"static", "deform"}
    assert state_sha256(state) == state_sha256(trained_run.state)


def test_a_finished_run_only_says_its_hash_again(
    painted, trained_run, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(loop, "batch_source", mock.Mock(side_effect=AssertionError("reads frames")))
    run_dir = shutil.copytree(trained_run.folder, tmp_path / "run")
    fit(micro_config(painted), Dataset.open(painted), run_dir=run_dir)
    assert "resuming at step 40" in capsys.readouterr().out
    assert records(run_dir) == records(trained_run.folder)


@pytest.mark.slow
def test_a_checkpoint_after_a_bad_step_does_not_count_it_twice(painted, tmp_path, monkeypatch):
    """Steps 28 to 30 are bad and the checkpoint at 30 knows of two; back there, one more is bad."""
    poison(monkeypatch, {28, 29, 30}, times=4)
    state = fit(micro_config(painted), Dataset.open(painted), run_dir=tmp_path / "run")
    assert float(state.rate_scale) == 0.5 and int(state.step) == 40
    rates = [line.get("steps_per_second") for line in records(tmp_path / "run")]
    assert any(rates) and min(rate for rate in rates if rate is not None) > 0


@pytest.mark.slow
def test_a_stop_while_it_compiles_ends_with_status_1(painted, tmp_path):
    command, environment = python("-m", "egs_jax", *train_arguments(painted, tmp_path / "run"))
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert any("consent" in line for line in iter(process.stdout.readline, ""))
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=100)[1]
    assert process.returncode == 1 and "egs-jax: stopped" in error and "Traceback" not in error


def test_two_bad_steps_are_skipped_and_named(painted, trained_run, tmp_path, monkeypatch, capsys):
    config, run_dir = micro_config(painted), back_at_30(trained_run, tmp_path / "run")
    poison(monkeypatch, {32, 33})
    state = fit(config, Dataset.open(painted), run_dir=run_dir)
    assert int(state.step) == 40 and float(state.rate_scale) == 1 and int(state.bad_streak) == 0
    frames = Dataset.open(painted).drawn_frames(config, 32).frames
    error = capsys.readouterr().err
    assert f"step 32 (frames {frames[0]}, {frames[1]}): loss or gradient not finite" in error
    assert "2 in a row" in error and "3 in a row" not in error
    chex.assert_tree_all_finite(state.params)


def back_at_30(trained_run, run_dir):
    """A copy of the undisturbed run, whose last checkpoint is gone."""
    shutil.copytree(trained_run.folder, run_dir)
    shutil.rmtree(run_dir / "checkpoints" / "40")
    return run_dir


@pytest.mark.parametrize("in_flight", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_three_bad_steps_between_two_logged_ones_go_back(
    painted, trained_run, tmp_path, monkeypatch, capsys, in_flight
):
    """Steps 31 to 33 are bad once, 34 is good; nothing is logged or saved before 35."""
    run_dir = back_at_30(trained_run, tmp_path / "run")
    monkeypatch.setattr(monitor, "steps_behind", lambda: in_flight)
    poison(monkeypatch, {31, 32, 33}, times=3)
    state = fit(micro_config(painted), Dataset.open(painted), run_dir=run_dir)
    out, error = capsys.readouterr()
    assert "going back to step 30, learning rates times 0.5" in out
    assert "step 33" in error and "3 in a row" in error
    assert float(state.rate_scale) == 0.5 and int(state.step) == 40
    lines = records(run_dir)[:-1]
    assert [line["step"] for line in lines] == list(range(5, 41, 5))


@pytest.mark.slow
def test_going_back_before_the_first_checkpoint_starts_anew(painted, tmp_path, monkeypatch):
    original, told = train.train_step, []

    def step_that_reports(config, state, batch):
        state, metrics = original(config, state, batch)
        if int(state.step) == 7 and not told:
            told.append(7)
            metrics["bad_streak"] = np.float32(3)
        return state, metrics

    monkeypatch.setattr(train, "train_step", step_that_reports)
    state = fit(micro_config(painted), Dataset.open(painted), run_dir=tmp_path / "run")
    assert float(state.rate_scale) == 0.5 and int(state.step) == 40
    assert [line["step"] for line in records(tmp_path / "run")[:-1]] == list(range(5, 41, 5))


def test_lasting_nans_end_the_run_in_one_line(painted, trained_run, tmp_path, monkeypatch, capsys):
    poison(monkeypatch, set(range(32, 40)))
    run_dir = back_at_30(trained_run, tmp_path / "run")
    assert main(train_arguments(painted, run_dir)) == 1
    out, error = capsys.readouterr()
    assert [out.count(f"going back to step 30, learning rates times {s}") for s in
            (0.5, 0.25, 0.125)] == [1, 1, 1]  # fmt: skip
    told = [line for line in error.splitlines() if line.startswith("egs-jax:")]
    assert len(told) == 1 and "diverged near step 35" in told[0] and "Traceback" not in error
    checkpoints = Checkpoints(run_dir)
    state = checkpoints.load(train.abstract_state(micro_config(painted), 80))
    checkpoints.close()
    assert int(state.step) == 30
    chex.assert_tree_all_finite(state.params)


@pytest.mark.slow
def test_full_disk_ends_the_run_in_one_line_and_it_resumes(painted, trained_run, tmp_path, capfd):
    run_dir = tmp_path / "run"
    with largest_file(200_000):
        assert main(train_arguments(painted, run_dir)) == 1
    error = capfd.readouterr().err
    [told] = [line for line in error.splitlines() if line.startswith("egs-jax:")]
    assert "could not save step 10" in told and "make room" in told
    assert "Traceback" not in error and "Event loop" not in error
    assert main(train_arguments(painted, run_dir)) == 0
    assert state_sha256(trained_run.state) in capfd.readouterr().out


def test_other_settings_in_the_same_folder_are_refused(painted, trained_run):
    config = dataclasses.replace(micro_config(painted), seed=3)
    with pytest.raises(InputError, match=r"settings \(seed\).*`train tiny .*--size=48") as told:
        fit(config, Dataset.open(painted), run_dir=trained_run.folder)
    assert "--seed" not in str(told.value)  # theirs is the preset's


def test_a_dataset_that_tells_lips_otherwise_is_refused(painted, trained_run, tmp_path):
    """As after `lips_prior.npy` was put into its folder; learned lips do not look at it."""
    config, data = micro_config(painted), Dataset.open(painted)
    loop.check_lips(config, trained_run.state, data)
    reader = data.fitted_lips().reader
    other = reader._replace(kernel=reader.kernel + 0.02 * np.abs(reader.kernel).max())
    data.fitted_lips = mock.Mock(return_value=mock.Mock(reader=other))
    run_dir = back_at_30(trained_run, tmp_path / "run")
    with pytest.raises(InputError, match="its sound tells lips otherwise than when this run began"):
        fit(config, data, run_dir=run_dir)
    learned = dataclasses.replace(config.model, lips="learned")
    loop.check_lips(dataclasses.replace(config, model=learned), trained_run.state, data)


def test_a_person_before_a_moving_room_is_refused_or_warned_of(
    painted, tmp_path, monkeypatch, capsys
):
    """Unless it is named outright; a head needs no room."""
    folder = shutil.copytree(painted, tmp_path / "dataset")
    meta = json.loads((folder / "meta.json").read_text())
    reaches = mock.Mock(side_effect=InputError("it goes on"))
    monkeypatch.setattr(loop, "start_run", reaches)

    def told(verdict, *body):
        plate = {"verdict": verdict, "why": "the camera moves (by 2.0 % of the picture)"}
        (folder / "meta.json").write_text(json.dumps(meta | {"body_check": {"plate": plate}}))
        command = ["train", "tiny", "--data-dir", str(folder), "--run-dir", str(tmp_path / "run")]
        assert main([*command, *body]) == 2
        out, error = capsys.readouterr()
        assert error.count("\n") == 1
        usual = ("training on the CPU (", "only 1 s of training video", CONSENT)
        lines = [line for line in out.splitlines() if not line.startswith(usual)]
        return lines, error.removeprefix("egs-jax: ").rstrip()

    assert told("bad") == (
        [],
        f"{folder}: no clean room for an avatar of a whole person: the camera moves (by 2.0 % of "
        "the picture); add --model.body head, or film again in one place with the camera standing "
        "still",
    )
    warning = (
        "the camera moves (by 2.0 % of the picture): expect a blurred room, or train with "
        "--model.body head in a new --run-dir"
    )
    assert told("warn") == told("bad", "--model.body", "person") == ([warning], "it goes on")
    assert told("ok") == told("bad", "--model.body", "head") == ([], "it goes on")


def test_a_run_may_go_on_elsewhere(painted, trained_run, tmp_path, capsys):
    run_dir = back_at_30(trained_run, tmp_path / "run")
    config = dataclasses.replace(micro_config(painted), frames_on="device", parallel="pmap")
    fit(config, Dataset.open(painted), run_dir=run_dir)
    assert f"state_sha256 {state_sha256(trained_run.state)}" in capsys.readouterr().out


def test_batches_made_ahead_are_the_datasets_own(painted):
    config = dataclasses.replace(micro_config(painted), schedule=ScheduleConfig(static_steps=2))
    data, batches = (
        Dataset.open(painted),
        batches_from(micro_config(painted), Dataset.open(painted), 18),
    )
    for step in (18, 19, 20, 21):
        got, want = next(batches), data.batch(micro_config(painted), step)
        assert got.stage == want.stage == config.stage(step - 18)
        np.testing.assert_array_equal(got.targets, want.targets)
        np.testing.assert_array_equal(got.drive.audio_windows, want.drive.audio_windows)


def test_a_broken_batch_ends_the_run(painted, tmp_path, monkeypatch):
    def batch(self, config, step):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Dataset, "batch", batch)
    with pytest.raises(OSError, match="Input/output"):
        fit(micro_config(painted), Dataset.open(painted), run_dir=tmp_path / "run")


def test_a_damaged_checkpoint_is_one_line_and_status_2(painted, trained_run, tmp_path, capfd):
    run_dir = shutil.copytree(trained_run.folder, tmp_path / "run")
    for file in (run_dir / "checkpoints" / "40").rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert main(train_arguments(painted, run_dir)) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and f"{run_dir / 'checkpoints' / '40'}: damaged" in error
    shutil.rmtree(run_dir / "checkpoints" / "40")  # the remedy that the line names
    state = fit(micro_config(painted), Dataset.open(painted), run_dir=run_dir)
    assert state_sha256(state) == state_sha256(trained_run.state)


def test_a_checkpoint_that_another_orbax_wrote_is_not_to_be_deleted(
    painted, trained_run, monkeypatch, capsys
):
    def restore(*_, **__):
        raise TypeError("restore() got an unexpected keyword argument")

    monkeypatch.setattr("orbax.checkpoint.CheckpointManager.restore", restore)
    assert main(train_arguments(painted, trained_run.folder)) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "TypeError: restore() got an unexpected" in error
    assert "keep its files" in error and "delete" not in error


def test_too_little_memory_says_what_to_lower(painted, tmp_path, monkeypatch, capsys):
    def exhausted(config, state, batch):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")

    monkeypatch.setattr(train, "train_step", exhausted)
    assert main(train_arguments(painted, tmp_path / "run")) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("egs-jax:")]
    assert len(told) == 1 and "machine ran out of memory; add --frames-on host" in told[0]
