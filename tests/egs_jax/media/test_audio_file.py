"""Sound files: any of them on the video's clock, errors that name file and cause."""

import os
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from helpers import largest_file, speech, tone

from egs_jax.media import audio_file as audio
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.runtime.errors import InputError


def test_frames_of_the_clock_are_whole_samples():
    assert SAMPLE_RATE % FPS == 0


def write_media(path, samples, rate, *, codec, layout="mono", first=0, video_first=None):
    """Write sound [C, S] from sample `first` on and 25 fps video from `video_first` [s] on."""
    samples = np.atleast_2d(samples).astype(np.float32)
    if layout != "mono" and len(samples) == 1:
        samples = np.repeat(samples, {"stereo": 2, "5.1": 6}[layout], axis=0)
    with av.open(f"file:{path}", "w") as out:
        sound = out.add_stream(codec, rate=rate, layout=layout)
        if video_first is not None:
            video = out.add_stream("libx264", rate=25, pix_fmt="yuv420p", width=64, height=64)
            video.time_base = Fraction(1, 1000)
            for k in range(round(samples.shape[1] / rate * 25) + 5):
                picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), k, np.uint8), "rgb24")
                picture.time_base = Fraction(1, 1000)
                picture.pts = round(1000 * video_first) + 40 * k
                out.mux(video.encode(picture))
            out.mux(video.encode())
        for begin in range(0, samples.shape[1], 1024):
            block = np.ascontiguousarray(samples[:, begin : begin + 1024])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = first + begin
            for form in av.AudioResampler(sound.format.name, layout, rate).resample(frame):
                form.pts = first + begin
                out.mux(sound.encode(form))
        out.mux(sound.encode())
    return path


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_wav_of_any_rate_keeps_time_and_pitch(tmp_path, rate, subtype):
    soundfile.write(tmp_path / "a.wav", tone(0.7, rate), rate, subtype=subtype)
    found = audio.read_audio(tmp_path / "a.wav")
    assert found.dtype == np.float32 and abs(len(found) - 11_200) <= 1
    np.testing.assert_allclose(found[800:-800], tone(1, 16_000)[800 : len(found) - 800], atol=2e-3)


@pytest.mark.parametrize(
    ("name", "codec", "layout", "rate", "error"),
    [
        ("a.flac", "flac", "stereo", 44100, 2e-3),
        ("a.mp3", "libmp3lame", "stereo", 44100, 0.05),
        ("a.m4a", "aac", "mono", 48000, 0.05),
        ("a.mka", "pcm_s32le", "5.1", 48000, 2e-3),
        ("a.wav", "pcm_u8", "mono", 8000, 2e-2),
        ("a.ogg", "libopus", "mono", 48000, 0.05),
    ],
)
def test_formats_and_layouts_keep_time(tmp_path, name, codec, layout, rate, error):
    path = write_media(tmp_path / name, tone(1.0, rate), rate, codec=codec, layout=layout)
    found = audio.read_audio(path)
    assert abs(len(found) - 16_000) < 1700  # lossy codecs round up to whole packets
    expected = tone(1.0, 16_000)[1600:14_400]
    lags = range(-40, 41)
    errors = [np.abs(found[1600 + k : 14_400 + k] - expected).mean() for k in lags]
    assert min(errors) < error
    assert abs(lags[int(np.argmin(errors))]) <= 1  # a lag of one sample is 0.06 ms


def test_channels_are_averaged(tmp_path):
    both = np.stack([np.full(16_000, 0.5, np.float32), np.full(16_000, -0.25, np.float32)], axis=1)
    soundfile.write(tmp_path / "a.wav", both, 16_000, subtype="FLOAT")
    np.testing.assert_array_equal(audio.read_audio(tmp_path / "a.wav"), np.full(16_000, 0.125))


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
@pytest.mark.parametrize("video_first", [0.0, 0.3])
def test_sound_keeps_its_place_beside_late_starts(tmp_path, name, video_first):
    """A click 0.25 s into a sound that starts at 0.5 s, whichever stream starts first."""
    click = np.zeros(48_000, np.float32)
    click[12_000:12_048] = 0.9
    path = write_media(
        tmp_path / name, click, 48_000, codec="aac", first=24_000, video_first=video_first
    )
    found = audio.read_audio(path)
    with av.open(str(path)) as container:
        zero = container.start_time / av.time_base
    place = np.abs(found).argmax() / 16_000
    assert place == pytest.approx(0.7505 - zero, abs=3e-3)
    quiet = round((0.45 - zero) * 16_000)
    assert np.abs(found[:quiet]).max(initial=0.0) < 1e-6


def test_even_a_short_late_start_is_kept(tmp_path):
    click = np.zeros(16_000, np.float32)
    click[8000] = 0.5
    path = write_media(
        tmp_path / "a.mkv", click, 16_000, codec="pcm_s16le", first=192, video_first=0.0
    )
    found = audio.read_audio(path)
    assert np.flatnonzero(found).tolist() == [8192]  # 12 ms later


def test_gaps_become_silence_and_overlaps_are_cut(tmp_path):
    """PCM packets in Matroska: 0 ... 0.5 s, a hole of 0.4 s, 0.9 ... 1.4 s, then 0.2 s again."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        sound = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for start, value in [(0, 8192), (14_400, 16_384), (19_200, -8192)]:
            block = np.full((1, 8000), value, np.int16)
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = 16_000, Fraction(1, 16_000), start
            out.mux(sound.encode(frame))
    found = audio.read_audio(path)
    expected = np.zeros(27_200, np.float32)
    expected[:8000], expected[14_400:22_400], expected[22_400:] = 0.25, 0.5, -0.25
    np.testing.assert_array_equal(found, expected)


def test_stream_is_the_whole_in_pieces(tmp_path):
    soundfile.write(tmp_path / "a.wav", speech(3), 44_100)
    pieces = list(audio.stream_audio(tmp_path / "a.wav"))
    assert len(pieces) > 10 and max(map(len, pieces)) <= 16_000
    np.testing.assert_array_equal(np.concatenate(pieces), audio.read_audio(tmp_path / "a.wav"))


@pytest.mark.parametrize("name", ["with space.wav", "naïve 日本語.wav", "-x.wav", "http:a%20.wav"])
def test_awkward_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    samples = np.round(speech(0.1) * 32768) / 32768
    audio.write_wav(name, samples)
    np.testing.assert_array_equal(audio.read_audio(name), samples.astype(np.float32))
    assert os.listdir() == [name]


def test_a_title_in_an_odd_encoding_is_no_fault(tmp_path):
    path, title = tmp_path / "a.wav", b"M\xfcller \xff\x00"
    audio.write_wav(path, np.zeros(1600, np.float32))
    chunk = b"INFOINAM" + struct.pack("<I", len(title)) + title + b"\0" * (len(title) % 2)
    content = path.read_bytes() + b"LIST" + struct.pack("<I", len(chunk)) + chunk
    path.write_bytes(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    assert audio.read_audio(path).shape == (1600,)


def test_write_wav_clips_and_rounds(tmp_path):
    audio.write_wav(tmp_path / "a.wav", np.array([2.0, -2.0, 0.5, 1e-6], np.float32))
    found = audio.read_audio(tmp_path / "a.wav")
    np.testing.assert_array_equal(found, np.array([1 - 2**-15, -1, 0.5, 0], np.float32))
    with pytest.raises(ValueError, match="finite"):
        audio.write_wav(tmp_path / "b.wav", np.array([np.nan], np.float32))
    assert not (tmp_path / "b.wav").exists()


def test_a_private_wav_is_written_where_the_umask_says_so(tmp_path):
    before = os.umask(0o077)
    try:
        audio.write_wav(tmp_path / "a.wav", np.zeros(9, np.float32))
    finally:
        os.umask(before)
    assert (tmp_path / "a.wav").stat().st_mode & 0o777 == 0o600
    with largest_file(10_000), pytest.raises(OSError):
        audio.write_wav(tmp_path / "a.wav", np.zeros(9_999, np.float32))
    assert len(audio.read_audio(tmp_path / "a.wav")) == 9 and len(list(tmp_path.iterdir())) == 1


def bad_file(path, fault):  # noqa: PLR0911
    """Make a bad file; return what the error must say."""
    samples = speech(1)
    if fault == "missing":
        return "no such file"
    if fault == "empty":
        path.write_bytes(b"")
        return "empty"
    if fault == "text":
        path.write_text("this is not sound\n" * 50)
        return "cannot be read|no sound track"
    if fault == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
        return "cannot be read|no sound track"
    if fault == "picture only":
        with av.open(str(path), "w", format="mp4") as out:
            video = out.add_stream("libx264", rate=25, pix_fmt="yuv420p", width=64, height=64)
            out.mux(video.encode(av.VideoFrame(64, 64, "yuv420p")))
            out.mux(video.encode())
        return "no sound track"
    if fault in {"nan", "inf", "scale"}:
        samples[8000] = {"nan": np.nan, "inf": np.inf, "scale": 32_000.0}[fault]
        soundfile.write(path, samples, 16_000, subtype="FLOAT")
        return "full scale" if fault == "scale" else r"NaN or infinite samples near \d"
    if fault == "no samples":
        soundfile.write(path, samples[:0], 16_000)
        return "empty|cannot be read"
    if fault == "cut mp4":
        write_media(path.with_suffix(".mp4"), tone(2, 48_000), 48_000, codec="aac")
        data = path.with_suffix(".mp4").read_bytes()
        path.write_bytes(data[: len(data) // 2])
        return "cannot be read"
    if fault == "cut flac":
        soundfile.write(path, speech(4), 16_000, format="FLAC")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return "cut short|damaged"
    if fault in {"cut wav", "cut 24 bit wav"}:
        subtype = "PCM_16" if fault == "cut wav" else "PCM_24"
        soundfile.write(path, speech(4), 16_000, subtype=subtype)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return r"cut short, its sound ends after 2\.0 of 4\.0 s"
    if fault == "rate":
        audio.write_wav(path, samples, 3)
        return "3 samples a second, expected 8000"
    raise AssertionError(fault)


@pytest.mark.parametrize(
    "fault",
    ["missing", "empty", "text", "noise", "picture only", "nan", "inf", "scale", "no samples",
     "cut mp4", "cut flac", "cut wav", "cut 24 bit wav", "rate"],
)  # fmt: skip
def test_bad_files_are_refused_in_one_line(tmp_path, capfd, fault):
    path = tmp_path / "bad.wav"
    match = bad_file(path, fault)
    capfd.readouterr()
    with pytest.raises(InputError, match=match) as caught:
        audio.read_audio(path)
    assert "\n" not in str(caught.value) and "bad.wav" in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("size", [0, 2**32 - 1])
def test_wav_that_was_written_into_a_pipe_is_whole(tmp_path, size):
    """Its header cannot say how long it is."""
    audio.write_wav(tmp_path / "a.wav", speech(1))
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[40:44] = size.to_bytes(4, "little")
    (tmp_path / "b.wav").write_bytes(data)
    np.testing.assert_array_equal(
        audio.read_audio(tmp_path / "b.wav"), audio.read_audio(tmp_path / "a.wav")
    )


def test_integer_wav_extremes(tmp_path):
    """A hand-written wav header: full scale of 16 bits is -1 and 1 - 2^-15."""
    data = struct.pack("<3h", -32768, 32767, 0)
    head = b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack(
        "<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16
    )  # fmt: skip
    (tmp_path / "a.wav").write_bytes(head + b"data" + struct.pack("<I", len(data)) + data)
    np.testing.assert_array_equal(audio.read_audio(tmp_path / "a.wav"), [-1, 1 - 2**-15, 0])
