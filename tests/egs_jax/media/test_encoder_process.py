"""The process that encodes: the film of a `VideoWriter`, and nothing left behind whoever fails."""

import os
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest
from helpers import largest_file

from egs_jax.media.encoder_process import EncoderProcess
from egs_jax.media.feeding import feed, write_video
from egs_jax.media.film_format import h264
from egs_jax.runtime.errors import InputError

NOISE = np.random.default_rng(0).integers(0, 255, (66, 98, 3), np.uint8)
PICTURES = [np.roll(NOISE, i, axis=1) for i in range(60)]
SOUND = np.random.default_rng(1).normal(0, 0.1, 16000 * 3).astype(np.float32)


def write(path, pictures=PICTURES, crf=17):
    with EncoderProcess(path, 98, 66, 25, 16000, h264("mp4", "libx264", crf)) as film:
        return film, feed(film, pictures, 25, SOUND, 16000)


def wait_until(is_so):
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_until_encoding(folder):
    """Until something of the film is on the disk."""
    wait_until(lambda: any(path.stat().st_size for path in folder.iterdir()))


def decoded(path):
    """Pictures and sound of a film."""
    with av.open(str(path)) as film:
        pictures = np.stack([f.to_ndarray(format="rgb24") for f in film.decode(video=0)])
        film.seek(0)
        chunks = [f.to_ndarray() for f in film.decode(audio=0)] if film.streams.audio else []
    return pictures.astype(int), np.concatenate(chunks or [np.zeros((1, 0))], axis=1)


def assert_same_film(path, other):
    """To what x264 does with several threads, which is not the same bits every time."""
    (pictures, sound), (other_pictures, other_sound) = decoded(path), decoded(other)
    assert pictures.shape == other_pictures.shape
    assert np.abs(pictures - other_pictures).mean() < 2  # of pictures that differ by 85
    np.testing.assert_array_equal(sound, other_sound)


def test_film_is_that_of_a_writer_in_this_process(tmp_path):
    assert write(tmp_path / "there.mp4")[1] == 60
    write_video(tmp_path / "here.mp4", PICTURES, 25, SOUND, 16000)
    assert_same_film(tmp_path / "there.mp4", tmp_path / "here.mp4")


def test_views_and_silent_films_are_taken(tmp_path):
    mirrored = np.stack(PICTURES)[:5, :, ::-1]
    with EncoderProcess(tmp_path / "there.mp4", 98, 66) as film:
        assert feed(film, mirrored, 25, None, None) == 5
    write_video(tmp_path / "here.mp4", list(mirrored), 25)
    assert_same_film(tmp_path / "there.mp4", tmp_path / "here.mp4")


def test_missing_folder_is_the_users_to_mend(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.*choose a folder"):
        write(tmp_path / "nowhere" / "v.mp4")


def test_full_disk_is_named_and_leaves_the_film_before(tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"before")
    noise = np.random.default_rng(2).integers(0, 255, (60, *NOISE.shape), np.uint8)
    with largest_file(300_000), pytest.raises(OSError, match=r"cannot write the video.*v\.mp4"):
        write(path, noise, crf=5)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("last", [RuntimeError("the model failed"), KeyboardInterrupt()])
def test_who_draws_fails_and_no_film_is_left(tmp_path, capfd, last):
    def pictures():
        yield from PICTURES[:30]
        raise last

    with pytest.raises(type(last)):
        write(tmp_path / "v.mp4", pictures())
    assert not list(tmp_path.iterdir()) and capfd.readouterr().err == ""


def test_wrong_frame_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected uint8"):
        write(tmp_path / "v.mp4", [*PICTURES[:3], NOISE[:, :32]])
    assert not list(tmp_path.iterdir())


def test_no_frame_is_misuse(tmp_path, capfd):
    with pytest.raises(OSError, match="ended early"):
        write(tmp_path / "v.mp4", [])
    assert not list(tmp_path.iterdir()) and "got no frame" in capfd.readouterr().err


def test_encoder_that_is_killed_is_named(tmp_path):
    def pictures():
        for number in range(10_000):
            if number == 20:
                wait_until_encoding(tmp_path)
                os.kill(film._process.pid, signal.SIGKILL)
            yield PICTURES[number % 60]

    with pytest.raises(OSError, match=r"killed \(signal 9\).*run this again"):
        with EncoderProcess(tmp_path / "v.mp4", 98, 66, 25, 16000) as film:
            feed(film, pictures(), 25, SOUND, 16000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("stop", "is_encoding"),
    [(signal.SIGHUP, True), (signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGINT, False)],
)
def test_signal_to_the_whole_group_leaves_nothing(tmp_path, stop, is_encoding):
    """As of a terminal that closes, or Ctrl-C there: early, while the encoder starts, and late."""
    program = f"""
import numpy as np, os, signal, sys
from egs_jax.media.encoder_process import EncoderProcess
for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
sys.excepthook = lambda *_: os._exit(1)
with EncoderProcess({str(tmp_path / "v.mp4")!r}, 98, 66) as film:
    for _ in range(200): film.write_frame(np.zeros((66, 98, 3), np.uint8))
    while {is_encoding} and not any(os.path.getsize(f.path) for f in os.scandir({str(tmp_path)!r})):
        film.write_frame(np.random.randint(0, 255, (66, 98, 3), np.uint8))
    os.killpg(0, {int(stop)})
    signal.pause()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], start_new_session=True, capture_output=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode and not done.stderr
    wait_until(lambda: not list(tmp_path.iterdir()))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_all_is_for_who_draws(tmp_path, stop):
    def pictures():
        yield from PICTURES * 4
        wait_until_encoding(tmp_path)
        os.kill(film._process.pid, stop)
        yield from PICTURES[1:]

    with EncoderProcess(tmp_path / "v.mp4", 98, 66, 25, 16000) as film:
        assert feed(film, pictures(), 25, SOUND, 16000) == 299
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]


def test_who_draws_is_killed_and_nothing_is_left(tmp_path):
    program = f"""
import numpy as np, os
from egs_jax.media.encoder_process import EncoderProcess
with EncoderProcess({str(tmp_path / "v.mp4")!r}, 98, 66) as film:
    for _ in range(200): film.write_frame(np.zeros((66, 98, 3), np.uint8))
    while not any(os.path.getsize(f.path) for f in os.scandir({str(tmp_path)!r})):
        film.write_frame(np.random.randint(0, 255, (66, 98, 3), np.uint8))
    os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: not list(tmp_path.iterdir()))
