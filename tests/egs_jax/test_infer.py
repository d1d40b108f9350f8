"""From a run and a speech to a film: equal bits in pieces, constant memory, sound in step."""

import dataclasses

import av
import jax
import numpy as np
import pytest
from helpers import micro_config

from egs_jax import infer, train
from egs_jax.__main__ import main
from egs_jax.audio_file import SAMPLE_RATE, write_wav
from egs_jax.checkpoint import Checkpoints
from egs_jax.dataset import Dataset
from egs_jax.errors import InputError
from egs_jax.run_log import start_run
from egs_jax.types import RenderOutput


@pytest.fixture(scope="module")
def avatar(trained_run):
    return infer.Avatar.load(trained_run.folder)


def speech(path, seconds, rate=SAMPLE_RATE):
    """A voice-like sound that comes and goes."""
    time = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * 180 * time) * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * time))
    write_wav(path, 0.4 * tone.astype(np.float32), rate)
    return path


def encoded(path, codec, seconds=1.0, rate=44_100):
    """The same in stereo, by another codec."""
    time = np.arange(round(seconds * rate)) / rate
    tone = (0.3 * np.sin(2 * np.pi * 220 * time)).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.stack([tone, -0.5 * tone]), "fltp", "stereo")
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def streams(path):
    """{kind: (codec, seconds decoded)} of a film."""
    found = {}
    with av.open(str(path)) as container:
        for stream in container.streams:
            container.seek(0)
            seconds = sum(
                float(1 / stream.average_rate) if stream.type == "video" else f.samples / f.rate
                for f in container.decode(stream)
            )
            found[stream.type] = (stream.codec_context.name, seconds)
    return found


def test_avatar_is_the_newest_checkpoint(avatar, trained_run):
    for mine, theirs in ((avatar.params, trained_run.state.params),
                         (avatar.alive, trained_run.state.alive)):  # fmt: skip
        jax.tree.map(np.testing.assert_array_equal, mine, theirs)
    assert avatar.dataset.width == avatar.config.size


@pytest.mark.parametrize("seconds", [0.1, 1.0, 7.0])
def test_streamed_frames_are_those_of_the_whole_speech(avatar, tmp_path, seconds):
    path = speech(tmp_path / "speech.wav", seconds)
    drive = infer.load_drive(path, avatar)
    frames = list(infer.speak(avatar, path))
    assert len(frames) == drive.num_frames == round(np.ceil(seconds * 25))
    for i, frame in enumerate(frames):
        one = infer.pad_batch(drive.frames(i, i + 1), infer.MICRO_BATCH)
        want = infer.infer_step(avatar, one)
        np.testing.assert_array_equal(frame, infer.to_uint8(np.asarray(want.rgb[0])), err_msg=i)
    size = avatar.dataset.width
    assert want.rgb.shape[1:] == (size, size, 3) and want.alpha.shape == want.depth.shape
    assert frames[0].dtype == np.uint8 and np.ptp(frames[0]) > 80


def test_memory_of_a_long_speech_is_bounded(avatar, tmp_path, monkeypatch):
    """Rows of features that wait at any time, for 8 and for 80 s of sound."""
    held = []
    original = infer.compose

    def compose(dataset, rows, *rest):
        held.append(len(rows))
        return original(dataset, rows, *rest)

    def flat(avatar, drive):
        image = drive.backgrounds / np.float32(255)
        return RenderOutput(rgb=image, alpha=image[..., 0], depth=image[..., 0])

    monkeypatch.setattr(infer, "compose", compose)
    monkeypatch.setattr(infer, "infer_step", flat)
    most = []
    for seconds in (8, 80):
        held.clear()
        path = speech(tmp_path / "speech.wav", seconds)
        assert sum(1 for _ in infer.speak(avatar, path)) == 25 * seconds
        most.append(max(held))
    assert most[0] == most[1] <= 120  # a second of sound, a window, a batch


def test_window_of_odd_length_is_streamed_alike(avatar, tmp_path, monkeypatch):
    """Only the drive is compared: no network is built for this window."""
    model_config = dataclasses.replace(avatar.config.model, window_frames=5)
    other = dataclasses.replace(
        avatar, config=dataclasses.replace(avatar.config, model=model_config)
    )
    path, seen = speech(tmp_path / "speech.wav", 2.0), []

    def record(_, drive):
        seen.append(drive)
        return RenderOutput(rgb=np.zeros((4, 8, 8, 3)), alpha=None, depth=None)

    monkeypatch.setattr(infer, "infer_step", record)
    assert len(list(infer.speak(other, path))) == 50
    whole = infer.load_drive(path, other).frames(0, 50)
    for name in ("audio_windows", "eyes", "viewmats", "backgrounds"):
        got = np.concatenate([getattr(drive, name) for drive in seen])[:50]
        np.testing.assert_array_equal(got, getattr(whole, name))


@pytest.mark.parametrize("seconds", [0.1, 2.5])
def test_film_has_picture_and_sound_of_one_length(trained_run, tmp_path, seconds):
    out = tmp_path / "talk.mp4"
    infer.render_video(trained_run.folder, speech(tmp_path / "speech.wav", seconds), out)
    found = streams(out)
    assert found["video"][0] == "h264" and found["audio"][0] == "aac"
    assert abs(found["video"][1] - np.ceil(seconds * 25) / 25) < 1e-6
    assert abs(found["video"][1] - found["audio"][1]) < 1 / 25
    assert sorted(p.name for p in tmp_path.iterdir()) == ["speech.wav", "talk.mp4"]


@pytest.mark.parametrize(("name", "codec"), [("a b.mp3", "mp3"), ("-ü.m4a", "aac")])
def test_stereo_44100_of_other_codecs(trained_run, tmp_path, name, codec):
    out = tmp_path / "talk.mp4"
    assert main(["render", str(trained_run.folder), str(encoded(tmp_path / name, codec)),
                 "--out", str(out)]) == 0  # fmt: skip
    found = streams(out)
    assert 1.0 <= found["video"][1] <= 1.12 and abs(found["video"][1] - found["audio"][1]) < 1 / 25


def test_silence_makes_a_film_too(trained_run, tmp_path, capsys):
    write_wav(tmp_path / "hush.wav", np.zeros(SAMPLE_RATE // 2, np.float32))
    infer.render_video(trained_run.folder, tmp_path / "hush.wav", tmp_path / "talk.mp4")
    assert abs(streams(tmp_path / "talk.mp4")["video"][1] - 13 / 25) < 1e-6
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
    assert str(out) in capsys.readouterr().err.splitlines()[-1]


def test_run_that_cannot_speak_yet_is_refused(painted, tmp_path):
    config = micro_config(painted)
    start_run(tmp_path, config)
    with pytest.raises(InputError, match="no checkpoint yet; train this run first"):
        infer.Avatar.load(tmp_path)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, train.init_state(config, Dataset.open(painted)))
    checkpoints.close()
    with pytest.raises(InputError, match=r"\(step 0\) has not learned any speech yet.*step 21"):
        infer.Avatar.load(tmp_path)


def test_infer_lowers_for_tpu(avatar):
    drive = avatar.dataset.drive(np.arange(4), avatar.config.model.window_frames)
    traced = infer._infer.trace(avatar.config, avatar.params, avatar.alive, drive)
    assert "stablehlo" in traced.lower(lowering_platforms=("tpu",)).as_text()[:100_000]


def test_batches_are_padded_by_their_last_frame(avatar):
    drive = avatar.dataset.drive(np.arange(3), 8)
    padded = infer.pad_batch(drive, 5)
    assert padded.backgrounds.shape[0] == len(padded.eyes) == 5
    np.testing.assert_array_equal(padded.audio_windows[4], drive.audio_windows[2])
    np.testing.assert_array_equal(padded.audio_windows[:3], drive.audio_windows)


def test_to_uint8_rounds_and_clips():
    got = infer.to_uint8(np.array([-0.1, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 1.3]))
    assert got.dtype == np.uint8 and got.tolist() == [0, 0, 0, 1, 255, 255]
