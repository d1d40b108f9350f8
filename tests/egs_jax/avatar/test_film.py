"""From a run and a speech to a film: the stream's frames, constant memory, sound in step."""

import dataclasses
import os

import av
import imageio.v3 as imageio
import numpy as np
import pytest
from helpers import frames_of, largest_file, voice

from egs_jax.__main__ import main
from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.film import draw_speech, render_video
from egs_jax.avatar.look import Look
from egs_jax.avatar.stream import Stream
from egs_jax.media.audio_file import read_audio, write_wav
from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.media.decoded_pictures import transparency_decoder
from egs_jax.media.feeding import write_video


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
    assert len(frames) == len(live) == 78 and np.ptp(frames[0].rgb) > 80
    for got, want in zip(frames, live, strict=True):
        np.testing.assert_array_equal(got.rgb, want.rgb, err_msg=f"frame {want.number}")


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
    (tmp_path / "folder.mp4").mkdir()
    for out, message in (
        (tmp_path, "is a folder with files"), (tmp_path / "folder.mp4", "is a folder"),
        (tmp_path / "fifo.mp4", "is no ordinary file"), (tmp_path / "talk.avi", "films are .mp4"),
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


def test_a_film_that_is_the_speech_itself_is_refused(trained_run, tmp_path, capsys):
    film = tmp_path / "talk.mp4"
    write_video(film, (np.zeros((48, 48, 3), np.uint8) for _ in range(5)), 25, voice(0.2), 16_000)
    before = film.read_bytes()
    assert main(["render", str(trained_run.folder), str(film), "--out", str(film)]) == 2
    assert "is the speech itself" in capsys.readouterr().err and film.read_bytes() == before


@pytest.mark.parametrize(
    ("out", "size"),
    [("talk.webm", None), ("frames", None), pytest.param("talk.mov", 64, marks=pytest.mark.slow)],
)
def test_transparent_frames_over_a_room_are_those_drawn_over_it(trained_run, tmp_path, out, size):
    """Read back from every kind that can be transparent, laid over a color, and compared."""
    path, color = speech(tmp_path / "speech.wav", 0.3), np.array([40, 200, 90])
    options = {"fps": 50, "size": size, "poses": "still"}
    avatar = Avatar.load(trained_run.folder)
    over = dataclasses.replace(avatar, look=Look(**options, background="#28c85a"))
    want = np.stack([frame.rgb for frame in draw_speech(over, path)]).astype(float)
    render_video(
        trained_run.folder, path, tmp_path / out, look=Look(**options, background="transparent")
    )
    found = list(layers(tmp_path / out))
    assert len(found) == len(want) == 15
    for picture, drawn in zip(found, want, strict=True):
        share = picture[..., 3:] / 255.0
        assert share.min() == 0 and share.max() > 0.9
        off = np.abs(picture[..., :3] * share + color * (1 - share) - drawn)
        assert off.max() <= (2.5 if out == "frames" else 40) and off.mean() < 1.5


def layers(path):
    """The pictures of a film or a folder, RGBA."""
    if path.is_dir():
        yield from (imageio.imread(picture) for picture in sorted(path.glob("*.png")))
        return
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        decoder = transparency_decoder(stream) or stream.codec_context
        for packet in film.demux(stream):
            yield from (frame.to_ndarray(format="rgba") for frame in decoder.decode(packet))


def test_a_stream_of_any_rate_gives_the_frames_of_the_film(trained_run, tmp_path):
    path = speech(tmp_path / "speech.wav", 1.1)
    for fps in (30, 60):
        look = Look(fps=fps, background="white", label=True, blinks=30)
        avatar = dataclasses.replace(Avatar.load(trained_run.folder), look=look)
        live = frames_of(Stream(avatar), read_audio(path), [333, 4800])
        whole = list(draw_speech(avatar, path))
        assert [f.number for f in live] == list(range(-(-11 * fps // 10)))
        for got, want in zip(live, whole, strict=True):
            assert got.time == want.time == want.number / fps
            np.testing.assert_array_equal(got.rgb, want.rgb)
    usual = dataclasses.replace(avatar, look=dataclasses.replace(look, fps=25))
    for number, frame in enumerate(draw_speech(usual, path)):
        if number * 60 % 25 == 0:  # 60 frames a second have one at its time
            np.testing.assert_array_equal(frame.rgb, whole[number * 60 // 25].rgb)


def test_several_speeches_become_films_of_their_names(trained_run, tmp_path, capsys):
    paths = [str(speech(tmp_path / name, 0.1)) for name in ("a.wav", "b.wav")]
    out = tmp_path / "talks"
    assert main(["render", str(trained_run.folder), *paths, "--out", str(out), "--fps", "30",
                 "--label"]) == 0  # fmt: skip
    assert sorted(p.name for p in out.iterdir()) == ["a.mp4", "b.mp4"]
    with av.open(str(out / "b.mp4")) as film:
        assert film.metadata["comment"].startswith("Synthetic")
        assert film.streams.video[0].average_rate == 30
    assert capsys.readouterr().out.count("synthetic") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--background", "purpel"], "--background purpel: expected"),
        (["--background", "transparent"], "cannot be transparent"),
        (["--fps", "24"], "fps: got 24"), (["--fps", "x"], "invalid int value"),
        (["--size", "99"], "size: got 99"), (["--size", "9000"], "size: got 9000"),
        (["--blinks", "-3"], "blinks: got -3"), (["--blinks", "nan"], "blinks: got nan"),
        (["--poses", "none.csv"], "none.csv: missing"),
        (["--into", "none.mp4"], "this avatar's dataset does not say"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_one_line_and_leaves_nothing(
    trained_run, tmp_path, capsys, words, message
):
    path, out = speech(tmp_path / "speech.wav", 0.1), tmp_path / "out" / "talk.mp4"
    out.parent.mkdir()
    assert main(["render", str(trained_run.folder), str(path), "--out", str(out), *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error and not list(out.parent.iterdir())


def test_the_second_of_several_speeches_at_fault_is_told_before_the_first_is_drawn(
    trained_run, tmp_path, capsys
):
    (tmp_path / "b.wav").write_text("no sound")
    paths = [str(speech(tmp_path / "a.wav", 0.1)), str(tmp_path / "b.wav")]
    assert main(["render", str(trained_run.folder), *paths, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"egs-jax: {tmp_path / 'b.wav'}: ")
    assert not (tmp_path / "out").exists()


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
