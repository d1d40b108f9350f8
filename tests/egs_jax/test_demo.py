"""The demo's own part: what it hands from step to step, keeps, and refuses."""

import json
import shutil

import numpy as np
import pytest
from helpers import micro_config

from egs_jax import demo
from egs_jax.media.audio_file import write_wav
from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.media.video_reader import probe
from egs_jax.runtime.assets import file_sha256
from egs_jax.runtime.errors import InputError


@pytest.mark.xdist_group("trained_run")  # it trains by the same programs
def test_demo_makes_a_film_and_a_report_and_keeps_what_is_done(
    painted, tmp_path, monkeypatch, capsys
):
    """With the painted dataset for the performer's, which `test_tiny_run` preprocesses."""
    calls = []

    def preprocess(video, folder):
        calls.append(video)
        shutil.copytree(painted, folder)
        meta = json.loads((folder / "meta.json").read_text())
        meta["source"] = {"name": video.name, "sha256": file_sha256(video)}
        (folder / "meta.json").write_text(json.dumps(meta))
        write_wav(folder / "audio.wav", np.zeros(SAMPLE_RATE, np.float32))

    monkeypatch.setattr(demo, "preprocess", preprocess)
    monkeypatch.setattr(demo, "preset", lambda name, data_dir: micro_config(data_dir))
    monkeypatch.setattr(demo, "SPEECH_SECONDS", 1.0)
    out, video = tmp_path / "deep" / "demo", tmp_path / "me.mp4"
    video.write_bytes(b"first")
    talk = demo.demo(out, video=video)
    info = probe(talk)
    assert talk == out / "talk.mp4" and info.has_audio
    assert (out / "report.html").stat().st_size > 10_000 and (out / "run" / "eval.json").exists()
    printed = capsys.readouterr().out
    assert "synthetic" in printed and str(talk) in printed
    own = write_wav_at(tmp_path / "own.wav")
    assert demo.demo(out, video=video, audio=own) == talk  # a new speech for the same avatar
    printed = capsys.readouterr().out
    assert "resuming at step 40" in printed and f"{talk}: 0.5 s" in printed
    assert calls == [video]
    video.write_bytes(b"another")
    with pytest.raises(InputError, match="was made from me.mp4, not from this"):
        demo.demo(out, video=video)


def test_film_of_a_moving_camera_becomes_a_head(painted, tmp_path, monkeypatch):
    def preprocess(video, folder):
        shutil.copytree(painted, folder)
        meta = json.loads((folder / "meta.json").read_text())
        meta["source"] = {"name": video.name, "sha256": file_sha256(video)}
        meta["body_check"] = {"plate": {"verdict": "bad", "why": "the camera moves"}}
        (folder / "meta.json").write_text(json.dumps(meta))

    def fit(config, dataset, run_dir):
        raise InputError(f"trains a {config.model.body}")

    monkeypatch.setattr(demo, "preprocess", preprocess)
    monkeypatch.setattr(demo, "fit", fit)
    video = tmp_path / "me.mp4"
    video.write_bytes(b"film")
    with pytest.raises(InputError, match="trains a head"):
        demo.demo(tmp_path / "demo", video=video, audio=write_wav_at(tmp_path / "own.wav"))


def write_wav_at(path):
    write_wav(path, np.zeros(SAMPLE_RATE // 2, np.float32))
    return path


def test_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make this folder .*; name another"):
        demo.demo(tmp_path / "file" / "demo")
