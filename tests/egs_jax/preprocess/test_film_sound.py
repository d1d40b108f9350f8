"""The speech of a film: silent ones are refused, tracks and microphones are chosen."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from egs_jax.__main__ import main
from egs_jax.data.dataset import Dataset
from egs_jax.media.audio_file import write_wav
from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.performer.voice import synthesize
from egs_jax.preprocess import pipeline
from egs_jax.preprocess.film_sound import check_speech, film_sound
from egs_jax.runtime.errors import InputError
from egs_jax.speech.layout import layout_of
from egs_jax.speech.level import SPEECH_LOUDNESS

FILM = Path("film.mp4")


def speech(seconds: float = 12.0, seed: int = 0) -> np.ndarray:
    return 0.5 * synthesize(seconds, seed).samples


def noise(seconds: float, volume: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (volume * rng.standard_normal(round(seconds * SAMPLE_RATE))).astype(np.float32)


def with_sound(path: Path, film: Path, *tracks: np.ndarray) -> Path:
    """Copy a film's pictures, with other sound tracks (16 kHz)."""
    with av.open(str(film)) as source, av.open(str(path), "w") as out:
        pictures = source.streams.video[0]
        copied = out.add_stream_from_template(pictures)
        streams = [out.add_stream("aac", rate=SAMPLE_RATE, layout="mono") for _ in tracks]
        for packet in source.demux(pictures):
            if packet.dts is not None:
                packet.stream = copied
                out.mux(packet)
        for stream, track in zip(streams, tracks, strict=True):
            for begin in range(0, len(track), 1024):
                block = track[None, begin : begin + 1024].astype(np.float32)
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), "fltp", "mono")
                frame.sample_rate, frame.pts = SAMPLE_RATE, begin
                frame.time_base = Fraction(1, SAMPLE_RATE)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    "sound", [np.zeros(80_000), noise(5, 1e-5), np.zeros(9)], ids=["zeros", "dither", "short"]
)
def test_a_silent_film_is_refused(sound):
    with pytest.raises(InputError, match=r"film.mp4: its sound is silent \(under -70 LUFS\)"):
        check_speech(FILM, sound.astype(np.float32))


def test_a_film_with_hardly_any_speech_is_told(capsys):
    assert check_speech(FILM, noise(3, 0.1))["speech_share"] == 0
    assert "film.mp4: speech is heard in only 0.0 s of its sound" in capsys.readouterr().out
    found = check_speech(FILM, speech(4.0))
    assert found["speech_share"] > 0.4 and -40 < found["loudness"] < -15
    assert capsys.readouterr().out == ""


def test_a_very_quiet_film_is_none_that_is_silent():
    assert check_speech(FILM, 10 ** (-36 / 20) * speech(4.0))["speech_share"] > 0.4


@pytest.mark.parametrize("silent", ["film", "recording"])
def test_a_microphone_beside_silence_is_refused(tmp_path, silent):
    hush, sound = np.zeros(12 * SAMPLE_RATE, np.float32), speech()
    write_wav(tmp_path / "film.wav", hush if silent == "film" else sound)
    write_wav(tmp_path / "recording.wav", sound if silent == "film" else hush)
    with pytest.raises(InputError, match=rf"{silent}.wav: its sound is silent; --audio"):
        film_sound(tmp_path / "film.wav", audio=tmp_path / "recording.wav")


def test_another_microphone_is_put_in_its_place(tmp_path, capsys):
    sound = speech()
    write_wav(tmp_path / "film.wav", sound + noise(12, 0.02))
    write_wav(tmp_path / "mic.wav", np.concatenate([speech(7.5, 3), sound]))
    found = film_sound(tmp_path / "film.wav", audio=tmp_path / "mic.wav")
    assert np.corrcoef(found.samples, sound)[0, 1] > 0.9 and len(found.samples) == len(sound)
    assert found.origin["audio"]["name"] == "mic.wav" and len(found.origin["audio"]["sha256"]) == 64
    assert found.origin["audio"]["offset"] == pytest.approx(7.5, abs=0.02)
    assert "mic.wav: begins 7.5" in capsys.readouterr().out
    assert film_sound(tmp_path / "film.wav").origin == {}


def preprocessed(folder: Path, *arguments: str) -> int:
    return main(["preprocess", *arguments, str(folder), "--audio-features", "mel", "--size", "64"])


def test_bad_sound_is_one_line_and_leaves_nothing(tmp_path, capsys, performer_dataset):
    silent = with_sound(tmp_path / "a.mp4", performer_dataset.video, np.zeros(64_000))
    write_wav(tmp_path / "mic.wav", speech(12.0, 8))
    film = str(performer_dataset.video)
    for arguments, message in (
        ([str(silent)], f"{silent}: its sound is silent"),
        ([film, "--audio-track", "2"], f"{film}: has no sound track 2, only 1 to 1"),
        ([film, "--audio", str(tmp_path / "none.wav")], "none.wav: no such file"),
        ([film, "--audio", str(tmp_path / "mic.wav")], "mic.wav: fits nowhere"),
        ([film, "--audio-track", "0"], "--audio-track: got 0, expected a whole number from 1"),
    ):
        assert preprocessed(tmp_path / "set", *arguments) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and message in lines[0], lines
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "mic.wav"]


def test_the_dataset_knows_the_loudness_at_which_it_was_heard(performer_dataset):
    meta = json.loads((performer_dataset.folder / "meta.json").read_text())
    assert meta["audio_features"]["loudness"] == SPEECH_LOUDNESS
    heard = meta["films"][0]["sound"]
    assert heard["speech_share"] > 0.4 and -30 < heard["loudness"] < -15
    assert "silero_vad" in meta["models"] and "audio" not in meta["films"][0]


@pytest.mark.slow
def test_a_film_with_a_silent_track_first_is_heard(tmp_path, performer_dataset):
    sound = speech(4.0)
    film = with_sound(tmp_path / "a.mp4", performer_dataset.video, np.zeros(64_000), sound)
    pipeline.preprocess(film, tmp_path / "set", audio_features="mel", size=64, look_ahead=0.4)
    meta = json.loads((tmp_path / "set" / "meta.json").read_text())
    assert meta["films"][0]["sound"]["speech_share"] > 0.4
    heard = Dataset.open(tmp_path / "set")
    assert heard.layout == layout_of("mel", 0.4) != layout_of("mel")
    assert meta["audio_features"]["look_ahead"] == heard.layout.look_ahead()
    assert len(heard.arrays["silence_features"]) == heard.layout.hop_rows
