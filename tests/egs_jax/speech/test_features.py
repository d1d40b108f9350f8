"""Sound: any file on the video's clock; features of a bounded stretch of sound, chunks or not."""

import os
import struct
from fractions import Fraction

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from egs_jax.media.audio_file import as_samples
from egs_jax.runtime.errors import InputError
from egs_jax.speech import features as audio
from egs_jax.speech.whisper import NUM_LAYERS, WIDTH, WhisperEncoder, WhisperLayer

KINDS = ["whisper", "mel"]


def speech(seconds, seed=0):
    """Noise whose loudness goes up and down, [S] at 16 kHz."""
    rng = np.random.default_rng(seed)
    count = round(seconds * 16_000)
    loudness = 0.1 + 0.1 * np.sin(2 * np.pi * 3 * np.arange(count) / 16_000)
    return (loudness * rng.standard_normal(count)).astype(np.float32)


def tone(seconds, rate, hertz=440.0):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype("f4")


@pytest.fixture(scope="module")
def encoder():
    """An encoder with random weights: these tests ask what depends on what, not for meaning."""
    rng = np.random.default_rng(0)
    shapes = {
        "norm1_scale": (WIDTH,), "norm1_bias": (WIDTH,), "qkv_weight": (WIDTH, 3 * WIDTH),
        "qkv_bias": (3 * WIDTH,), "out_weight": (WIDTH, WIDTH), "out_bias": (WIDTH,),
        "norm2_scale": (WIDTH,), "norm2_bias": (WIDTH,), "up_weight": (WIDTH, 4 * WIDTH),
        "up_bias": (4 * WIDTH,), "down_weight": (4 * WIDTH, WIDTH), "down_bias": (WIDTH,),
    }  # fmt: skip

    def draw(*shape):
        scale = shape[-2] ** -0.5 if len(shape) > 1 else 1.0
        return jnp.asarray((rng.standard_normal(shape) * scale).astype(np.float32))

    layers = {
        key: jnp.asarray(np.stack([draw(*shape) for _ in range(NUM_LAYERS)]))
        for key, shape in shapes.items()
    }
    return WhisperEncoder(
        conv1_weight=draw(240, WIDTH), conv1_bias=draw(WIDTH),
        conv2_weight=draw(3 * WIDTH, WIDTH), conv2_bias=draw(WIDTH),
        positions=draw(1500, WIDTH), layers=WhisperLayer(**layers),
        norm_scale=draw(WIDTH), norm_bias=draw(WIDTH),
    )  # fmt: skip


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


# ------------------------------------------------------------------------------------- reading


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


# ------------------------------------------------------------------------------------ features


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_of_any_size_give_the_same_bits(encoder, kind):
    samples = speech(2.33)
    whole = audio.extract_features(samples, kind, encoder)
    assert whole.shape == (118, audio.AUDIO_FEATURES[kind].feature_dim)
    assert whole.dtype == np.float32
    for seed, largest in enumerate([2500, 30_000]):
        rng = np.random.default_rng(seed)
        cuts = np.cumsum(rng.integers(0, largest, 40_000 // largest * 4 + 4))
        stream = audio.FeatureStream(kind, encoder)
        rows = [stream.push(chunk) for chunk in np.split(samples, cuts[cuts < len(samples)])]
        np.testing.assert_array_equal(np.concatenate([*rows, stream.finish()]), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_the_same_bits_in_a_longer_file(encoder, kind):
    samples = speech(4)
    ahead = round(audio.AUDIO_FEATURES[kind].look_ahead * 50) + 1
    short = audio.extract_features(samples[:32_000], kind, encoder)
    whole = audio.extract_features(samples, kind, encoder)
    np.testing.assert_array_equal(whole[: 100 - ahead], short[: 100 - ahead])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", [70, 74, 79])
def test_a_row_depends_on_the_stated_samples_only(encoder, kind, row):
    samples = speech(3)
    block = row // 10
    if kind == "whisper":
        first, last = 3200 * block - 19_240, 3200 * block + 9799
    else:
        first, last = 320 * row - 160, 320 * row + 479
    assert first >= 0
    info, centre = audio.AUDIO_FEATURES[kind], 320 * row + 160
    assert (centre - first) / 16_000 <= info.look_back + 1e-9
    assert (last + 1 - centre) / 16_000 <= info.look_ahead + 1e-9
    base = audio.extract_features(samples, kind, encoder)[row]
    other = speech(3, seed=1)
    other[first : last + 1] = samples[first : last + 1]
    np.testing.assert_array_equal(audio.extract_features(other, kind, encoder)[row], base)
    for place in (first + 3, last - 2):  # the Hann window is about 0 at the ends themselves
        other = samples.copy()
        other[place] += 30.0
        assert not np.array_equal(audio.extract_features(other, kind, encoder)[row], base)


@pytest.mark.parametrize("kind", KINDS)
def test_silence_is_one_pattern(encoder, kind):
    rows = audio.extract_features(np.zeros(50_000, np.float32), kind, encoder)
    np.testing.assert_array_equal(audio.silence_features(kind, len(rows), encoder), rows)
    np.testing.assert_array_equal(rows[10:], rows[:-10])
    faint = (1e-5 * speech(50_000 / 16_000)).astype(np.float32)  # below the floor: the same bits
    np.testing.assert_array_equal(audio.extract_features(faint, kind, encoder), rows)
    if kind == "mel":
        np.testing.assert_array_equal(rows, np.full_like(rows, -1))


@pytest.mark.parametrize("count", [0, 1, 639, 640, 641, 3200, 6401, 12_801])
def test_row_count_covers_whole_video_frames(encoder, count):
    expected = 2 * int(np.ceil(count / 640))
    assert audio.num_rows(count) == expected
    for kind in KINDS:
        rows = audio.extract_features(np.ones(count, np.float32), kind, encoder)
        assert rows.shape == (expected, audio.AUDIO_FEATURES[kind].feature_dim)


@pytest.mark.parametrize("hertz", [150.0, 440.0, 1000.0, 3000.0, 7000.0])
def test_a_tone_lands_in_its_mel_band(hertz):
    """Slaney's scale: linear to 1 kHz (15 mels), then 27 mels for each factor of 6.4."""

    def mels(f):
        return 3 * f / 200 if f < 1000 else 15 + 27 * np.log(f / 1000) / np.log(6.4)

    row = audio.extract_features(tone(1, 16_000, hertz), "mel")[25]
    band = mels(hertz) / mels(8000) * 81 - 1  # 82 corners from 0 to 8 kHz, band b peaks at b + 1
    assert abs(row.argmax() - band) <= 0.75
    assert row.max() > 0.5 and np.median(row) < row.max() - 0.6


def test_mel_row_is_centred_on_its_time():
    click = np.zeros(16_000, np.float32)
    click[320 * 20 + 160] = 1.0  # (20 + 0.5) / 50 s
    loud = audio.extract_features(click, "mel").mean(axis=1)
    assert loud.argmax() == 20
    assert loud[19] == pytest.approx(-1, abs=1e-3) and loud[21] == pytest.approx(-1, abs=1e-3)


def test_mel_values_by_numpy():
    """One row from the definition: Hann, power, librosa's filters, log, fixed scale."""
    import librosa

    samples = speech(1)
    frame = samples[320 * 7 - 160 : 320 * 7 + 480] * np.hanning(641)[:-1]
    filters = librosa.filters.mel(sr=16_000, n_fft=640, n_mels=80)
    power = filters @ np.abs(np.fft.rfft(frame)) ** 2
    expected = (np.log10(np.maximum(power, 1e-6)) + 2) / 4
    np.testing.assert_allclose(audio.extract_features(samples, "mel")[7], expected, atol=1e-4)


def test_whisper_rows_are_faded_windows(encoder):
    """Rows 40 ... 49 by hand from the two windows that hold them."""
    from egs_jax.speech.features import _mel_filters, _whisper_windows

    samples = speech(3)
    windows = [samples[3200 * b - 19_240 :][:25_840] for b in (7, 8)]
    batch = np.stack([*windows, *windows])
    old, new = np.asarray(_whisper_windows(encoder, _mel_filters(400), batch))[:2]
    rise = (np.arange(10)[:, None] + 0.5) / 10
    expected = old[10:] * (1 - rise) + new[:10] * rise
    rows = audio.extract_features(samples, "whisper", encoder)
    np.testing.assert_allclose(rows[70:80], expected, atol=1e-5)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="one of whisper, mel"):
        audio.FeatureStream("hubert")
    stream = audio.FeatureStream("mel")
    with pytest.raises(ValueError, match="one dimension"):
        stream.push(np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match="finite"):
        as_samples(np.array([np.inf]))
    assert stream.finish().shape == (0, 80)
    with pytest.raises(ValueError, match="finish"):
        stream.finish()
    with pytest.raises(ValueError, match="finish"):
        stream.push(np.zeros(5, np.float32))


# ------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("window_frames", [1, 5, 8])
def test_windows_by_hand(on_device, window_frames):
    rows = np.arange(40, dtype=np.float32)[:, None] + np.array([[0.0, 0.5]], np.float32)
    silence = -1 - np.arange(10, dtype=np.float32)[:, None] + np.zeros((1, 2), np.float32)
    frames = np.array([0, 10, 19, 300, -7])
    form = jnp.asarray if on_device else np.asarray
    cut = jax.jit(audio.feature_windows, static_argnums=3) if on_device else audio.feature_windows
    found = cut(form(rows), form(silence), form(frames), window_frames)
    assert found.shape == (5, window_frames, 16, 2)
    assert isinstance(found, jax.Array if on_device else np.ndarray)
    for b, i in enumerate(frames):
        for w in range(window_frames):
            for s in range(16):
                r = 2 * (i - window_frames // 2 + w) - 8 + s
                expected = rows[r] if 0 <= r < 40 else silence[r % 10]
                np.testing.assert_array_equal(found[b, w, s], expected)


def test_windows_of_a_piece_are_those_of_the_whole():
    rows = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    silence = np.arange(30, dtype=np.float32).reshape(10, 3)
    frames = np.arange(40, 60)
    whole = audio.feature_windows(rows, silence, frames)
    piece = audio.feature_windows(rows[50:150], silence, frames, first_row=50)
    np.testing.assert_array_equal(piece, whole)


def test_windows_without_rows_are_silence():
    silence = np.arange(10, dtype=np.float32)[:, None]
    found = audio.feature_windows(silence[:0], silence, np.array([4]), 1)
    np.testing.assert_array_equal(found[0, 0, :, 0], np.arange(16) % 10)
    with pytest.raises(ValueError, match="silence rows"):
        audio.feature_windows(silence, silence[:0], np.array([4]))
