"""From a run and a speech to a film: the stream's frames, constant memory, sound in step."""

import os

import av
import numpy as np
import pytest
from helpers import frames_of, largest_file, voice

from egs_jax.__main__ import main
from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.film import draw_speech, render_video
from egs_jax.avatar.stream import Stream
from egs_jax.media.audio_file import read_audio, write_wav
from egs_jax.media.clock import SAMPLE_RATE


def speech(path, seconds):
    write_wav(path, voice(seconds), SAMPLE_RATE)
    return path


def encoded(path, codec, seconds=1.0, rate=44_100):
    """A tone in stereo, by another codec."""
    time = np.arange(round(seconds * rate)) / rate
    tone = (0.3 * np.sin(2 * np.pi * 220 * time)).astype(np.float32)
    with av.open(str(path), "w") as container:
        track = container.add_stream(codec, rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.stack([tone, -0.5 * tone]), "fltp", "stereo")
        frame.sample_rate = rate
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path


def tracks(path):
    """{kind: (codec, seconds decoded)} of a film."""
    found = {}
    with av.open(str(path)) as container:
        for track in container.streams:
            container.seek(0)
            seconds = sum(
                float(1 / track.average_rate) if track.type == "video" else f.samples / f.rate
                for f in container.decode(track)
            )
            found[track.type] = (track.codec_context.name, seconds)
    return found


def test_a_file_gives_the_frames_of_the_live_stream(trained_run, tmp_path):
    avatar, path = Avatar.load(trained_run.folder, exact=True), speech(tmp_path / "speech.wav", 3.1)
    live = frames_of(Stream(avatar), read_audio(path), [480])
    frames = list(draw_speech(avatar, path))
    assert len(frames) == len(live) == 78 and np.ptp(frames[0]) > 80
    for got, want in zip(frames, live, strict=True):
        np.testing.assert_array_equal(got, want.rgb, err_msg=f"frame {want.number}")


@pytest.mark.parametrize("seconds", [0.1, 2.5])
def test_film_has_picture_and_sound_of_one_length(trained_run, tmp_path, seconds):
    out = tmp_path / "talk.mp4"
    render_video(trained_run.folder, speech(tmp_path / "speech.wav", seconds), out)
    found = tracks(out)
    assert found["video"][0] == "h264" and found["audio"][0] == "aac"
    assert abs(found["video"][1] - np.ceil(seconds * 25) / 25) < 1e-6
    assert abs(found["video"][1] - found["audio"][1]) < 1 / 25
    assert sorted(p.name for p in tmp_path.iterdir()) == ["speech.wav", "talk.mp4"]


@pytest.mark.parametrize(("name", "codec"), [("a b.mp3", "mp3"), ("-ü.m4a", "aac")])
def test_stereo_44100_of_other_codecs(trained_run, tmp_path, name, codec):
    out = tmp_path / "talk.mp4"
    assert main(["render", str(trained_run.folder), str(encoded(tmp_path / name, codec)),
                 "--out", str(out)]) == 0  # fmt: skip
    found = tracks(out)
    assert 1.0 <= found["video"][1] <= 1.12 and abs(found["video"][1] - found["audio"][1]) < 1 / 25


def test_silence_makes_a_film_too(trained_run, tmp_path, capsys):
    write_wav(tmp_path / "hush.wav", np.zeros(SAMPLE_RATE // 2, np.float32))
    render_video(trained_run.folder, tmp_path / "hush.wav", tmp_path / "talk.mp4")
    assert abs(tracks(tmp_path / "talk.mp4")["video"][1] - 13 / 25) < 1e-6
    assert "synthetic" in capsys.readouterr().out  # to be disclosed


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "no sound", "nan"])
def test_bad_sound_is_one_line_and_leaves_nothing(trained_run, tmp_path, capsys, kind):
    path, out = tmp_path / "speech.wav", tmp_path / "out" / "talk.mp4"
    out.parent.mkdir()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a sound\n" * 100)
    elif kind == "no sound":
        write_wav(path, np.zeros(0, np.float32))
    elif kind == "nan":
        import soundfile

        soundfile.write(path, np.full(8000, np.nan, np.float32), SAMPLE_RATE, subtype="FLOAT")
    assert main(["render", str(trained_run.folder), str(path), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith(f"egs-jax: {path}: ")
    assert not list(out.parent.iterdir())


def test_folder_that_does_not_exist_is_refused(trained_run, tmp_path, capsys):
    path, out = speech(tmp_path / "speech.wav", 0.1), tmp_path / "nowhere" / "talk.mp4"
    assert main(["render", str(trained_run.folder), str(path), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"egs-jax: {out}: cannot write there") and error.count("\n") == 1


def test_a_film_in_the_place_of_a_folder_or_of_the_speech_is_refused(trained_run, tmp_path, capsys):
    path = speech(tmp_path / "speech.wav", 0.1)
    before = path.read_bytes()
    os.mkfifo(tmp_path / "fifo.mp4")
    for out, message in (
        (tmp_path, "is a folder"), (path, "is the speech itself"),
        (tmp_path / "fifo.mp4", "is no ordinary file"), (tmp_path / "talk.avi", "films are mp4"),
    ):  # fmt: skip
        assert main(["render", str(trained_run.folder), str(path), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"egs-jax: {out}: {message}") and error.count("\n") == 1
    assert path.read_bytes() == before and (tmp_path / "fifo.mp4").is_fifo()


def test_a_link_leads_to_the_film(trained_run, tmp_path):
    (tmp_path / "link.mp4").symlink_to(tmp_path / "talk.mp4")
    path = speech(tmp_path / "speech.wav", 0.1)
    render_video(trained_run.folder, path, tmp_path / "link.mp4")
    assert (tmp_path / "link.mp4").is_symlink() and tracks(tmp_path / "talk.mp4")


@pytest.mark.slow
def test_full_disk_leaves_the_film_before_as_it_was(trained_run, tmp_path, capsys):
    path, out = speech(tmp_path / "speech.wav", 6.0), tmp_path / "talk.mp4"
    arguments = ["render", str(trained_run.folder), str(path), "--out", str(out)]
    assert main(arguments) == 0
    before = out.read_bytes()
    capsys.readouterr()
    with largest_file(len(before) * 9 // 10):  # more than the frames that lie between two processes
        assert main(arguments) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("egs-jax:") and "free some space" in last and str(out) in last
    assert out.read_bytes() == before and abs(tracks(out)["video"][1] - 6) < 1e-6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["speech.wav", "talk.mp4"]
