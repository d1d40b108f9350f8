"""A dataset that was moved is found by its place, and known by its hash; another one is refused."""

import json
import shutil

import numpy as np
import pytest
from helpers import micro_config, train_arguments, voice

from egs_jax.__main__ import main
from egs_jax.avatar.avatar import Avatar
from egs_jax.data.dataset import Dataset
from egs_jax.media.audio_file import write_wav
from egs_jax.presets import preset
from egs_jax.runtime.errors import InputError
from egs_jax.training.checkpoint import state_sha256
from egs_jax.training.run_clip import clip_of
from egs_jax.training.run_folder import load_config, start_run

META = {
    "source": {"name": "me.mp4", "sha256": "ab" * 32},
    "num_frames": 24, "width": 48, "height": 48,
    "splits": {"train": [0, 20], "val": [20, 24]},
    "audio_features": {"kind": "mel", "dim": 80},
}  # fmt: skip
OTHER_FILM = META | {"source": {"name": "me.mp4", "sha256": "cd" * 32}}


def test_a_clip_is_its_hash_and_not_its_name():
    assert clip_of(META)["sha256"] == ["ab" * 32]
    renamed = META | {"source": {"name": "copy.mp4", "sha256": "ab" * 32}, "models": {"a": "b"}}
    assert clip_of(renamed) == clip_of(META) != clip_of(OTHER_FILM)
    several = {"source": [{"sha256": "1"}, {"sha256": "2", "sound": {"sha256": "3"}}]}
    assert clip_of(several)["sha256"] == ["1", "2", "3"]
    assert clip_of({})["sha256"] == []


@pytest.mark.parametrize(
    ("meta", "told"),
    [
        (OTHER_FILM, "another film .SHA-256 cdcdcdcdcdcd, the run's abababababab. than"),
        (META | {"splits": {"train": [0, 12], "val": [12, 24]}}, "preprocessed otherwise .splits"),
        (META | {"audio_features": {"kind": "whisper"}}, "otherwise .audio_features: whisper, mel"),
        (META | {"audio_features": {"kind": "mel", "look_ahead": 0.33}}, "look_ahead: 0.33, None"),
    ],
)
def test_a_run_goes_on_with_its_own_clip_wherever_it_lies(tmp_path, meta, told):
    start_run(tmp_path, preset("tiny", data_dir="/old/place"), META)
    start_run(tmp_path, preset("tiny", data_dir="/new/place"), META)
    assert load_config(tmp_path).data_dir == "/new/place"
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=told):
        start_run(tmp_path, preset("tiny", data_dir="/new/place"), meta)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_a_run_of_an_older_version_does_not_say_which_clip_it_has(tmp_path, capsys):
    start_run(tmp_path, preset("tiny", data_dir="/old/place"), META)
    path = tmp_path / "environment.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["clip"]
    path.write_text(json.dumps(record), encoding="utf-8")
    start_run(tmp_path, preset("tiny", data_dir="/new/place"), OTHER_FILM)
    assert "does not say which clip" in capsys.readouterr().out
    with pytest.raises(InputError, match="another film"):  # from now on it does
        start_run(tmp_path, preset("tiny", data_dir="/new/place"), META)


@pytest.fixture
def moved(painted, trained_run, tmp_path):
    """A run and its dataset, both elsewhere than where it was trained."""
    data = shutil.copytree(painted, tmp_path / "other place" / "data")
    run_dir = shutil.copytree(trained_run.folder, tmp_path / "moved run")
    config = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
    config["data_dir"] = str(tmp_path / "was here")
    (run_dir / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return run_dir, data


@pytest.mark.slow
def test_render_and_evaluate_ask_where_the_dataset_went(moved, tmp_path, capsys):
    run_dir, data = moved
    write_wav(tmp_path / "a.wav", voice(0.2))
    render = ["render", str(run_dir), str(tmp_path / "a.wav"), "--out", str(tmp_path / "o.mp4")]
    for command in (render, ["evaluate", str(run_dir)]):
        assert main(command) == 2
        out, error = capsys.readouterr()
        assert out == "" and error.count("\n") == 1
        assert f"{tmp_path / 'was here'}: not a dataset folder" in error
        assert "name its place by --data-dir DATASET_DIR" in error
    assert not (tmp_path / "o.mp4").exists()
    assert main([*render, "--data-dir", str(data)]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("rendering on the CPU (") and (tmp_path / "o.mp4").exists()


def test_another_clip_does_not_speak(moved, tmp_path, capsys):
    run_dir, data = moved
    meta = json.loads((data / "meta.json").read_text(encoding="utf-8"))
    meta["source"]["sha256"] = "ff" * 32
    (data / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    assert main(["evaluate", str(run_dir), "--data-dir", str(data)]) == 2
    assert "was made from another film (SHA-256 ffffffffffff" in capsys.readouterr().err
    assert not (run_dir / "eval.json").exists()


def test_training_goes_on_with_a_moved_dataset(moved, trained_run, capsys):
    run_dir, data = moved
    shutil.rmtree(run_dir / "checkpoints" / "40")
    assert main(train_arguments(data, run_dir)) == 0
    out = capsys.readouterr().out
    assert out.startswith("training on the CPU (") and " from step 30 on takes about" in out
    assert f"state_sha256 {state_sha256(trained_run.state)}" in out
    assert load_config(run_dir).data_dir == str(data)
    avatar = Avatar.load(run_dir)
    assert avatar.dataset.folder == data
    np.testing.assert_array_equal(avatar.dataset.frame(3), Dataset.open(data).frame(3))
    assert micro_config(data).data_dir == str(data)
