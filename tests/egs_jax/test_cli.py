"""The command line: quick help, one line and status 2 for every mistake, names of every kind."""

import gc
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import make_dataset

from egs_jax.__main__ import _parser, main
from egs_jax.config_text import options, override
from egs_jax.media.audio_file import write_wav
from egs_jax.presets import PRESETS, preset
from egs_jax.speech.features import AUDIO_FEATURES
from egs_jax.training.run_folder import start_run
from kernels import dispatch

ROOT = Path(__file__).parents[2]
VERBS = ("preprocess", "train", "render", "evaluate", "demo")


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "egs_jax", *arguments],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip


def refused(capsys, *arguments: str) -> str:
    """The one line that `main` says to arguments it refuses."""
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    lines = err.strip().splitlines()
    assert out == "" and len(lines) == 1 and lines[0].startswith("egs-jax: "), err
    return lines[0]


def test_help_is_quick(tmp_path):
    """Processor time, since a loaded machine is not the program's fault."""
    before, start = os.times(), time.monotonic()
    done = run("--help", cwd=tmp_path)
    after, wall = os.times(), time.monotonic() - start
    spent = after.children_user + after.children_system
    spent -= before.children_user + before.children_system
    assert done.returncode == 0 and done.stderr == ""
    assert min(spent, wall) < 2
    for verb in VERBS:
        assert verb in done.stdout
    assert "consent" in done.stdout


def test_mistake_in_a_process_of_its_own(tmp_path):
    done = run("train", "tiny", "--data-dir", "nowhere", "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("egs-jax: nowhere: not a dataset folder (no meta.json); make one")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0 and verb in capsys.readouterr().out


def test_help_of_train_lists_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    for name in options(preset("tiny")):
        assert name in ("preset", "data_dir") or f"--{name}" in text


WRONG = {
    "": "required: VERB",
    "dance": "dance",
    "--verbose": "VERB",
    "preprocess": "VIDEO, DATASET_DIR",
    "preprocess a.mp4": "DATASET_DIR",
    "preprocess a.mp4 d --size huge": "--size: got huge, expected a whole number from 32 to 4096",
    "preprocess a.mp4 d --size 64.5": "--size: got 64.5, expected a whole number from 32 to 4096",
    "preprocess a.mp4 d --size 7": "got 7, expected a whole number from 32 to 4096",
    "preprocess a.mp4 d --size -64": "--size",
    "preprocess a.mp4 d --audio-features deepspeech": "audio features: no 'deepspeech'",
    "preprocess a.mp4 d --max-seconds -1": "got -1, expected more than 0 seconds",
    "preprocess a.mp4 d --max-seconds nan": "got nan, expected more than 0 seconds",
    "preprocess a.mp4 d --max-seconds long": "--max-seconds: got long, expected more than 0 sec",
    "preprocess a.mp4 d --val-seconds 0": "--val-seconds",
    "preprocess a.mp4 d --color red": "--color",
    "preprocess a.mp4 b.mp4 d --start 1": "--start, --end",
    "preprocess a.mp4 d --face middle": "got middle, expected left, right or a number",
    "preprocess a.mp4 d": "a.mp4: no such file",
    "train": "preset",
    "train huge --data-dir d --run-dir r": "huge",
    "train tiny --run-dir r": "--data-dir",
    "train tiny --data-dir d": "--run-dir",
    "train tiny --data-dir d --run-dir r --seed x": "--seed: got 'x', expected int",
    "train tiny --data-dir d --run-dir r --seed -3": "seed: got -3",
    "train tiny --data-dir d --run-dir r --model.architecture gan": "--model.architecture",
    "train tiny --data-dir d --run-dir r --model.depth 3": "--model.depth",
    "train tiny --data-dir d --run-dir r --model.d-model 0": "model.d_model: got 0",
    "train tiny --data-dir d --run-dir r --model.d_m 8": "d_m 8; see `egs-jax train --help`",
    "train tiny --data-dir d --run-dir r --optim.means 1": "--optim.means: got '1'",
    "train tiny --data-dir d --run-dir r": "d: not a dataset folder",
    "render": "AVATAR, AUDIO",
    "render r a.wav": "--out",
    "render r a.wav --out o.mp4": "r: not a run folder",
    "evaluate": "AVATAR",
    "evaluate r": "r: not a run folder",
    "evaluate r --split test": "--split",
}


def test_sound_is_heard_by_every_kind_that_there_is():
    for kind in AUDIO_FEATURES:
        for command in ("preprocess a.mp4 d", "import f d"):
            words = [*command.split(), "--audio-features", kind]
            assert _parser(words).parse_args(words).audio_features == kind


@pytest.mark.parametrize("command", WRONG)
def test_mistake_is_one_line(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert WRONG[command] in refused(capsys, *command.split())
    assert not list(tmp_path.iterdir())


def test_kernels_that_cannot_run_here_are_one_line(capsys, tmp_path, monkeypatch, painted):
    monkeypatch.setattr(dispatch, "why_not", lambda: "there is no GPU")
    command = f"train tiny --data-dir {painted} --run-dir {tmp_path / 'run'} --rasterizer triton"
    assert main(command.split()) == 2
    told = "egs-jax: rasterizer: got triton, which cannot run here: there is no GPU; leave it out\n"
    assert capsys.readouterr().err == told and not list(tmp_path.iterdir())

    def measure(*_, **__):
        raise dispatch.Unavailable("rasterize: cannot run here")

    monkeypatch.setattr(
        "egs_jax.evaluation.evaluate.evaluate", measure
    )  # of an avatar from another machine
    assert "rasterize: cannot run here" in refused(capsys, "evaluate", "r")


def test_what_jax_has_not_implemented_is_a_fault_with_its_traceback(monkeypatch):
    def measure(*_, **__):
        raise NotImplementedError("dynamic shapes")

    monkeypatch.setattr("egs_jax.evaluation.evaluate.evaluate", measure)
    with pytest.raises(NotImplementedError, match="dynamic shapes"):
        main(["evaluate", "r"])


def test_missing_files_of_demo(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no.mp4: no such file" in refused(capsys, "demo", "--out", "made", "--video", "no.mp4")
    Path("me.mp4").write_text("film")
    assert "no.wav: no such file" in refused(  # before the film is looked at
        capsys, "demo", "--out", "made", "--video", "me.mp4", "--audio", "no.wav"
    )
    Path("taken").write_text("")
    assert "cannot make this folder" in refused(capsys, "demo", "--out", "taken")


@pytest.fixture
def fitted(monkeypatch):
    """What `train` would have trained with."""
    calls = []
    monkeypatch.setattr(
        "egs_jax.training.loop.fit", lambda *given, **named: calls.append((*given, named))
    )
    monkeypatch.setattr("egs_jax.avatar.export.keep", lambda run_dir: None)
    return calls


@pytest.mark.parametrize("name", ["with space", "Ünï 顔 😀", "-y", "--seed", "a;b$(c)'q", "ä\tb"])
def test_train_takes_any_folder_name_and_dotted_settings(name, tmp_path, monkeypatch, fitted):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / name)
    settings = ["--model.d-model", "32", "--loss.perceptual_size=64", "--size", "none"]
    assert main(["train", "tiny", f"--data-dir={name}", f"--run-dir={name} run", *settings]) == 0
    [(config, dataset, named)] = fitted
    expected = {"model.d_model": "32", "loss.perceptual_size": "64", "size": "none"}
    assert config == override(preset("tiny", data_dir=str(tmp_path / name)), expected)
    assert dataset.folder == Path(name) and named == {"run_dir": Path(f"{name} run")}


def test_every_preset_can_be_trained(tmp_path, capsys, fitted):
    folder = str(make_dataset(tmp_path / "data"))
    for name in PRESETS:
        assert main(["train", name, "--data-dir", folder, "--run-dir", str(tmp_path / "run")]) == 0
    assert [config for config, *_ in fitted] == [preset(n, data_dir=folder) for n in PRESETS]
    capsys.readouterr()
    [told] = re.findall(r"choose from (.*)\)", refused(capsys, "train", "huge"))
    assert told.replace("'", "").split(", ") == list(PRESETS)


@pytest.mark.parametrize(
    "arguments",
    [["--", "-y.mp4", "-d"], ["./-y.mp4", "./-d"], ["--size", "64", "--", "-y.mp4", "-d"]],
)
def test_preprocess_takes_names_that_look_like_options(arguments, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "egs_jax.preprocess.pipeline.preprocess",
        lambda video, folder, **named: calls.append((video, folder)),
    )
    assert main(["preprocess", *arguments]) == 0
    assert calls == [([Path("-y.mp4")], Path("-d"))]


def test_render_and_evaluate_tell_what_is_missing(tmp_path, capsys):
    data, run_dir = make_dataset(tmp_path / "data"), tmp_path / "ein Lauf"
    sound = tmp_path / "a.wav"
    write_wav(sound, np.zeros(1600, np.float32))
    start_run(run_dir, preset("tiny", data_dir=str(data)))
    given = ("render", str(run_dir), str(sound), "--out", str(tmp_path / "o.mp4"))
    assert "no checkpoint yet; train this run first" in refused(capsys, *given)
    assert "no checkpoint yet" in refused(capsys, "evaluate", str(run_dir))
    (data / "meta.json").unlink()
    assert "not a dataset folder" in refused(capsys, *given)
    (run_dir / "config.json").write_text("{}{")
    assert "not a run's config" in refused(capsys, *given)
    assert not (tmp_path / "o.mp4").exists()


def test_a_signal_while_jax_collects_garbage_is_not_lost(monkeypatch, capsys):
    """What is raised in a callback of the garbage collector, Python prints and forgets."""

    def _xla_gc_callback(phase, _):
        if phase == "start":
            signal.raise_signal(signal.SIGINT)

    def work(*_, **__):
        gc.callbacks.append(_xla_gc_callback)
        gc.collect(0)
        gc.callbacks.remove(_xla_gc_callback)
        time.sleep(30)

    monkeypatch.setattr("egs_jax.demo.demo", work)
    assert main(["demo"]) == 1
    assert capsys.readouterr().err.startswith("egs-jax: stopped")


def test_keys_pressed_twice_are_one_stop(monkeypatch, capsys):
    """What is being taken away is taken away."""
    taken_away = []

    def work(*_, **__):
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            taken_away.append(True)

    monkeypatch.setattr("egs_jax.demo.demo", work)
    assert main(["demo"]) == 1 and taken_away
    assert capsys.readouterr().err.count("\n") == 1


def test_a_stop_that_a_library_calls_another_error_is_one_line(monkeypatch, capsys):
    def work(*_, **__):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as stop:
            raise RuntimeError("the callback failed") from stop

    monkeypatch.setattr("egs_jax.evaluation.evaluate.evaluate", work)
    assert main(["evaluate", "r"]) == 1
    assert capsys.readouterr().err == "egs-jax: stopped\n"


def test_a_stop_that_a_library_swallows_comes_again(monkeypatch, capsys):
    taken_away = []

    def work(*_, **__):
        try:
            for _ in range(3):
                try:
                    signal.raise_signal(signal.SIGTERM)
                    time.sleep(0.3)
                except BaseException:
                    pass
            time.sleep(30)
        finally:
            time.sleep(0.3)  # in which nobody is disturbed
            taken_away.append(True)

    monkeypatch.setattr("egs_jax.demo.demo", work)
    assert main(["demo"]) == 1 and taken_away == [True]
    assert capsys.readouterr().err.count("\n") == 1
    time.sleep(0.3)  # in which nothing comes any more


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "iso8859-15", "gbk"])
def test_a_terminal_that_is_not_utf8_shows_escapes(encoding, monkeypatch, tmp_path):
    """Names of any script, and the lines of the capture check's table."""
    from egs_jax.preprocess.capture_check import Finding, format_findings

    def work(*_, **__):
        print(format_findings("Ünï 顔 😀", [Finding("yaw", 1.0, "°", "ok", "± well")]))
        print(f"{tmp_path / os.fsdecode(bytes([0x66, 0xFF]))}")  # a name of no encoding

    monkeypatch.setattr("egs_jax.demo.demo", work)
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    assert main(["demo"]) == 0
    sys.stdout.flush()
    text = written.getvalue().decode(encoding)
    assert "verdict" in text and "\\udcff" in text
    assert "\\U0001f600" in text and ("+--" in text or "\u2501" in text)


def test_other_failures_are_one_line_and_1(monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError(28, "No space left\non device")

    monkeypatch.setattr("egs_jax.demo.demo", fail)
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == "egs-jax: [Errno 28] No space left on device\n"

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("egs_jax.demo.demo", stop)
    assert main(["demo"]) == 1
    assert "goes on from the last checkpoint" in capsys.readouterr().err
