"""Videos out: sound in step, constant memory, whole files or none."""

from pathlib import Path

import av
import numpy as np
import pytest
from helpers import largest_file, number_of, numbered

from egs_jax.media.feeding import write_video
from egs_jax.media.film_format import best_encoder, h264
from egs_jax.media.video_reader import read_frames
from egs_jax.media.video_writer import VideoWriter
from egs_jax.runtime.errors import InputError


@pytest.mark.parametrize("name", ["with space.mp4", "Ünï 顔 😀.mp4", "-y.mp4", "a:b%03d'q.mp4"])
def test_awkward_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert write_video(name, (numbered(i) for i in range(8))) == 8
    assert [number_of(frame) for frame in read_frames(name)] == list(range(8))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def lengths(path):
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        decoded = sum(frame.samples for frame in container.decode(audio))
        starts = [float(s.start_time * s.time_base) for s in (video, audio)]
        return float(video.duration * video.time_base), decoded / audio.rate, starts


@pytest.mark.parametrize("seconds", [1.0, 3.9, 9.0])
def test_sound_and_picture_last_alike(tmp_path, seconds):
    sound = np.random.default_rng(0).normal(0, 0.1, int(seconds * 16000)).astype(np.float32)
    chunks = np.array_split(sound, 7)
    write_video(tmp_path / "v.mp4", (numbered(i) for i in range(100)), 25, iter(chunks), 16000)
    video, audio, starts = lengths(tmp_path / "v.mp4")
    assert video == pytest.approx(4.0)
    assert abs(video - audio) < 0.04 and starts == [0.0, 0.0]


def test_click_sounds_when_its_picture_shows(tmp_path):
    sound = np.zeros(4 * 16000, np.float32)
    sound[2 * 16000 : 2 * 16000 + 400] = 0.9
    write_video(tmp_path / "v.mp4", (numbered(i) for i in range(100)), 25, sound, 16000)
    with av.open(str(tmp_path / "v.mp4")) as container:
        chunks = [(f.time, f.to_ndarray()[0]) for f in container.decode(audio=0)]
    times = np.concatenate([t + np.arange(x.size) / 48000 for t, x in chunks])
    level = np.abs(np.concatenate([x for _, x in chunks]))
    assert times[np.argmax(level > 0.3)] == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("seconds", [60, pytest.param(600, marks=pytest.mark.slow)])
def test_long_films_stay_in_step_and_memory_stays_constant(tmp_path, seconds):
    one_second = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    pictures, memory = [numbered(i, 32, 64) for i in range(16)], []

    def frames():
        for index in range(5 * seconds):
            if index in (seconds, 5 * seconds - 1):
                memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
            yield pictures[index % 16]

    write_video(tmp_path / "v.mp4", frames(), 5, (one_second for _ in range(seconds)), 16000)
    video, audio, _ = lengths(tmp_path / "v.mp4")
    assert video == pytest.approx(seconds) and abs(video - audio) < 0.04
    assert memory[1] - memory[0] < 10e6
    assert sum(1 for _ in read_frames(tmp_path / "v.mp4", 5)) == 5 * seconds


def test_written_file_plays_everywhere(tmp_path):
    color = np.broadcast_to(np.asarray([200, 60, 110], np.uint8), (65, 67, 3))
    write_video(tmp_path / "v.mp4", [color] * 20, 25, np.zeros(12800, np.float32), 16000)
    data = (tmp_path / "v.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # starts playing before it is all there
    with av.open(str(tmp_path / "v.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.pix_fmt) == ("h264", "yuv420p")
        assert (video.width, video.height) == (68, 66)
        assert (audio.codec_context.name, audio.rate) == ("aac", 48000)
    assert np.abs(next(read_frames(tmp_path / "v.mp4"))[5, 5].astype(int) - color[5, 5]).max() <= 3


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"old")

    def frames():
        yield numbered(0)
        raise RuntimeError("the model failed")

    with pytest.raises(RuntimeError, match="the model failed"):
        write_video(path, frames())
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_full_disk_is_named_and_leaves_nothing(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    with largest_file(200_000), pytest.raises(OSError, match=r"cannot write the video.*v\.mp4"):
        write_video(
            tmp_path / "v.mp4",
            (np.roll(noise, i) for i in range(200)),
            form=h264("mp4", "libx264", 5),
        )
    assert not list(tmp_path.iterdir())


def test_missing_folder_is_the_users_to_mend(tmp_path):
    with pytest.raises(InputError, match="choose a folder"):
        write_video(tmp_path / "no" / "v.mp4", [numbered(0)])


def test_misuse_is_named():
    with pytest.raises(ValueError, match="no frame"):
        write_video("v.mp4", [])
    with pytest.raises(ValueError, match="both or neither"):
        write_video("v.mp4", [numbered(0)], audio=np.zeros(5, np.float32))


def test_wrong_frame_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected uint8"):
        with VideoWriter(tmp_path / "v.mp4", 64, 64) as writer:
            writer.write_frame(np.zeros((64, 32, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_cannot_run_is_no_other_one(tmp_path):
    if best_encoder(160, 48) == "h264_nvenc":
        pytest.skip("this machine's card can encode")
    with pytest.raises(OSError, match=r"cannot write the video.*v\.mp4"):
        with VideoWriter(tmp_path / "v.mp4", 160, 48, form=h264("mp4", "h264_nvenc")) as writer:
            writer.write_frame(numbered(0))
    assert not list(tmp_path.iterdir())
