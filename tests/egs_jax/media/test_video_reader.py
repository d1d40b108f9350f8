"""Videos in: timing by timestamps, upright pictures, honest errors."""

from fractions import Fraction

import av
import numpy as np
import pytest
from helpers import number_of, numbered

from egs_jax.media.video_reader import probe, read_frames
from egs_jax.runtime.errors import InputError


def encode(path, pictures, pts, time_base=Fraction(1, 90000), rate=25, audio_start=None, **kwargs):
    """Write pictures at given timestamps (in time_base units), optionally with a sound track."""
    options = kwargs.get("options", {"preset": "ultrafast", "crf": "10", "g": "12"})
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w", options=kwargs.get("container", {})) as out:
        stream = out.add_stream(kwargs.get("codec", "libx264"), rate=rate, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = kwargs.get("pix_fmt", "yuv420p")
        stream.time_base = stream.codec_context.time_base = time_base
        for name, value in kwargs.get("context", {}).items():
            setattr(stream.codec_context, name, value)
        if "matrix" in kwargs:
            stream.set_display_matrix(kwargs["matrix"])
        if audio_start is not None:
            sound = out.add_stream("aac", rate=48000, layout="mono")
            for index in range(60):
                chunk = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                chunk.sample_rate, chunk.time_base = 48000, Fraction(1, 48000)
                chunk.pts = int(audio_start * 48000) + index * 1024
                out.mux(sound.encode(chunk))
            out.mux(sound.encode(None))
        for picture, stamp in zip(pictures, pts, strict=True):
            kind = "rgb24" if picture.shape[2] == 3 else "rgba"
            frame = av.VideoFrame.from_ndarray(picture, kind)
            frame.pts, frame.time_base = int(stamp), time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def plain(path, count=50, **kwargs):
    return encode(path, [numbered(i) for i in range(count)], np.arange(count) * 3600, **kwargs)


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), 25, Fraction(30000, 1001), 30, 50, 60])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_any_rate_is_mapped_by_time_never_stretched(tmp_path, rate, suffix):
    count = int(4 * rate)
    stamps = np.round(np.arange(count) * 90000 / float(rate))
    path = encode(tmp_path / f"v.{suffix}", [numbered(i) for i in range(count)], stamps, rate=rate)
    got = [number_of(frame) for frame in read_frames(path)]
    assert abs(len(got) / 25 - count / float(rate)) <= 0.02  # half a frame
    for k, number in enumerate(got):
        assert abs(number / float(rate) - k / 25) <= 0.5 / float(rate) + 2e-3
    if rate == 25:
        assert got == list(range(count))
    info = probe(path)
    assert info.average_fps == pytest.approx(float(rate), rel=0.01)
    assert not info.variable_rate
    assert info.num_frames() == len(got)


def test_variable_rate_holds_the_nearest_picture(tmp_path):
    gaps = np.random.default_rng(3).choice([1500, 3000, 3600, 9000], 60)
    stamps = np.concatenate([[0], np.cumsum(gaps)])
    path = encode(tmp_path / "v.mp4", [numbered(i) for i in range(61)], stamps, rate=30)
    assert probe(path).variable_rate
    for k, frame in enumerate(read_frames(path)):
        best = np.abs(stamps / 90000 - k / 25).min()
        assert abs(stamps[number_of(frame)] / 90000 - k / 25) <= best + 2e-3


def test_late_picture_keeps_the_clock_of_the_sound(tmp_path):
    stamps = np.arange(50) * 3600 + 46800  # 13 frames after the sound
    path = encode(tmp_path / "v.mkv", [numbered(i) for i in range(50)], stamps, audio_start=0.0)
    got = [number_of(frame) for frame in read_frames(path)]
    assert got == [0] * 13 + list(range(50))  # the first picture is held, nothing is shifted
    assert probe(path).has_audio


def test_clock_starts_at_the_container_not_at_zero(tmp_path):
    stamps = np.arange(50) * 3600 + 450_000  # broadcast streams start anywhere
    path = encode(tmp_path / "v.ts", [numbered(i) for i in range(50)], stamps)
    with av.open(str(path)) as container:
        assert container.start_time == 5_000_000
    assert [number_of(frame) for frame in read_frames(path)] == list(range(50))


def test_max_seconds(tmp_path):
    path = plain(tmp_path / "v.mp4")
    assert [number_of(f) for f in read_frames(path, max_seconds=0.4)] == list(range(10))


CORNERS = np.asarray([[250, 10, 10], [10, 250, 10], [10, 10, 250], [250, 250, 10]])


def cornered(height: int, width: int) -> np.ndarray:
    """Red top left, green top right, blue bottom left, yellow bottom right."""
    image = np.zeros((height, width, 3), np.uint8)
    half = (height // 2, width // 2)
    image[: half[0], : half[1]], image[: half[0], half[1] :] = CORNERS[0], CORNERS[1]
    image[half[0] :, : half[1]], image[half[0] :, half[1] :] = CORNERS[2], CORNERS[3]
    return image


def corners_of(image: np.ndarray) -> list[int]:
    """Return which of CORNERS shows at top left, top right, bottom left, bottom right."""
    height, width = image.shape[:2]
    spots = [(y, x) for y in (height // 8, -height // 8) for x in (width // 8, -width // 8)]
    return [int(np.abs(CORNERS - image[y, x]).sum(-1).argmin()) for y, x in spots]


# The four matrices a phone writes, and a mirrored one: what must come out, read off by hand.
ONE = 1 << 16
TURNS = {
    "portrait": ((0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30), (64, 96)[::-1], [2, 0, 3, 1], 90),
    "reverse portrait": ((0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), (96, 64), [1, 3, 0, 2], 270),
    "upside down": ((-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), (64, 96), [3, 2, 1, 0], 180),
    "upright": ((ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), (64, 96), [0, 1, 2, 3], 0),
    "mirrored": ((-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), (64, 96), [1, 0, 3, 2], 0),
}


@pytest.mark.parametrize("name", TURNS)
def test_rotation_metadata_is_honoured(tmp_path, name):
    matrix, size, corners, degrees = TURNS[name]
    path = encode(tmp_path / "v.mp4", [cornered(64, 96)] * 5, np.arange(5) * 3600, matrix=matrix)
    frame = next(read_frames(path))
    assert frame.shape[:2] == size
    assert corners_of(frame) == corners
    assert frame.flags.c_contiguous and frame.dtype == np.uint8
    info = probe(path)
    assert (info.height, info.width, info.rotation) == (*size, degrees)


@pytest.mark.parametrize("size", [(50, 50), (51, 67), (450, 450), (33, 129)])
def test_odd_sizes_are_contiguous_and_unsheared(tmp_path, size):
    image = cornered(*size)
    path = encode(tmp_path / "v.mp4", [image] * 3, np.arange(3) * 3600, pix_fmt="yuv444p")
    frame = next(read_frames(path))
    assert frame.shape == (*size, 3) and frame.flags.c_contiguous
    assert np.abs(frame.astype(int) - image).mean() < 6


def test_ten_bits_and_hdr_become_eight_bit_rgb(tmp_path):
    stamps = np.arange(4) * 3600
    image = cornered(64, 96)
    ten = encode(tmp_path / "ten.mp4", [image] * 4, stamps, pix_fmt="yuv420p10le")
    hdr = {"color_trc": 18, "color_primaries": 9, "colorspace": 9}
    hlg = encode(tmp_path / "hlg.mp4", [image] * 4, stamps, pix_fmt="yuv420p10le", context=hdr)
    for path in (ten, hlg):
        frame = next(read_frames(path))
        assert frame.dtype == np.uint8 and corners_of(frame) == [0, 1, 2, 3]
    assert np.abs(next(read_frames(ten)).astype(int) - image).mean() < 6
    told = "HDR (HLG); turned to SDR (BT.709 primaries, sRGB curve, by swscale)"
    assert probe(hlg).repairs == (told,) and probe(ten).repairs == ()


def test_anamorphic_pixels_become_square(tmp_path):
    ratio = {"sample_aspect_ratio": Fraction(4, 3)}
    path = encode(tmp_path / "v.mp4", [cornered(60, 90)] * 3, np.arange(3) * 3600, context=ratio)
    assert next(read_frames(path)).shape == (60, 120, 3)


def damaged(tmp_path, kind):
    path = tmp_path / "bad video.mp4"
    if kind == "missing":
        return path
    if kind == "folder":
        path.mkdir()
        return path
    if kind == "sound only":
        with av.open(str(path), "w") as out:
            stream = out.add_stream("aac", rate=48000, layout="mono")
            chunk = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
            chunk.sample_rate = 48000
            out.mux(stream.encode(chunk))
            out.mux(stream.encode(None))
        return path
    if kind == "picture":
        with av.open(str(path), "w", format="image2") as out:
            stream = out.add_stream("png")
            stream.width, stream.height, stream.pix_fmt = 96, 64, "rgb24"
            out.mux(stream.encode(av.VideoFrame.from_ndarray(cornered(64, 96), "rgb24")))
        return path
    front = kind in ("cut after the index", "garbage inside")
    plain(path, 60, container={"movflags": "+faststart"} if front else {})
    data = bytearray(path.read_bytes())
    data = {
        "empty": lambda: b"",
        "text": lambda: b"this is no video\n" * 100,
        "cut before the index": lambda: data[: len(data) // 2],
        "cut after the index": lambda: data[: len(data) * 3 // 4],
        "garbage inside": lambda: (
            data[: len(data) // 2] + b"\xff" * 4000 + data[len(data) // 2 + 4000 :]
        ),
    }[kind]()
    path.write_bytes(data)
    return path


KINDS = {
    "missing": "no such file",
    "folder": "not a file",
    "empty": "0 bytes",
    "text": "cannot be read",
    "picture": "picture",
    "sound only": "no video stream",
    "cut before the index": "cut short",
    "cut after the index": "cut short",
}


@pytest.mark.parametrize("kind", KINDS)
def test_bad_files_are_refused_in_one_line(tmp_path, kind):
    path = damaged(tmp_path, kind)
    for read in (probe, read_frames):
        with pytest.raises(InputError, match=KINDS[kind]) as caught:
            read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_damage_further_in_is_found_while_reading(tmp_path):
    frames = read_frames(damaged(tmp_path, "garbage inside"))
    with pytest.raises(InputError, match="damaged"):
        list(frames)


def test_matroska_cut_short_is_found_at_the_end(tmp_path):
    path = plain(tmp_path / "v.mkv", 100)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cut short"):
        list(read_frames(path))


def woven(count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Interlaced pictures of a bar that moves, top field first, and what their first field saw."""

    def at(time: int) -> np.ndarray:
        picture = np.full((96, 128, 3), 90, np.uint8)
        picture[20:70, 10 + 2 * time : 30 + 2 * time] = 230
        return picture

    pictures, first = [], []
    for i in range(count):
        picture = at(2 * i)
        picture[1::2] = at(2 * i + 1)[1::2]
        pictures.append(picture)
        first.append(at(2 * i))
    return pictures, first


def combs(picture: np.ndarray) -> float:
    """How much neighboring rows differ from one another."""
    rows = picture[..., 1].astype(int)
    return float(np.abs(2 * rows[1:-1] - rows[:-2] - rows[2:]).mean())


@pytest.mark.parametrize(
    ("suffix", "codec", "settings"),
    [
        ("mp4", "libx264", {"x264-params": "interlaced=1:tff=1", "crf": "10"}),
        ("mpg", "mpeg2video", {"flags": "+ildct+ilme", "b": "8M"}),
    ],
)
def test_interlaced_pictures_become_whole_frames(tmp_path, suffix, codec, settings):
    pictures, first = woven(20)
    path = tmp_path / f"v.{suffix}"
    encode(path, pictures, np.arange(20), Fraction(1, 25), codec=codec, options=settings)
    frames = list(read_frames(path))
    assert len(frames) == 20 and probe(path).repairs == (
        "interlaced; its fields are made whole frames (bwdif)",
    )
    assert combs(pictures[10]) > 4 * combs(first[10])  # what went in
    for i in range(20):
        assert combs(frames[i]) < 0.4 * combs(pictures[i])
        assert np.abs(frames[i].astype(int) - first[i]).mean() < 6
    plain_path = plain(tmp_path / "plain.mp4", 4)
    assert probe(plain_path).repairs == ()


@pytest.mark.parametrize("suffix", ["mkv", "ts", "flv", "mp4", "frag.mp4"])
@pytest.mark.parametrize("varies", [False, True])
def test_order_of_decoding_is_no_varying_rate(tmp_path, suffix, varies):
    """Pictures that refer to later ones (B-frames) come out of order: no sign of gaps."""
    gaps = np.random.default_rng(0).choice([1800, 3600, 9000], 100) if varies else 3600
    stamps = np.cumsum(np.full(100, gaps)) - np.atleast_1d(gaps)[0]
    path = tmp_path / f"v.{suffix}"
    container = {"movflags": "frag_keyframe+empty_moov"} if "frag" in suffix else {}
    options = {"preset": "medium", "crf": "20", "bf": "3"}
    encode(path, [numbered(i) for i in range(100)], stamps, container=container, options=options)
    assert probe(path).variable_rate == varies
    if not varies:
        assert [number_of(frame) for frame in read_frames(path)] == list(range(100))


def test_a_clock_that_goes_back_is_refused(tmp_path):
    """Transport streams can be put one behind the other; half of such a film was left out."""
    part = plain(tmp_path / "a.ts").read_bytes()
    path = tmp_path / "both.ts"
    path.write_bytes(part + part)
    with pytest.raises(InputError, match=r"both.ts: its clock goes back from 2.0 s to 0.0 s"):
        list(read_frames(path))


def test_some_pictures_that_were_dropped_are_no_varying_rate(tmp_path):
    numbers = np.delete(np.arange(200), [1, 80])
    path = encode(tmp_path / "v.mkv", [numbered(i) for i in numbers], numbers * 3600)
    assert not probe(path).variable_rate


@pytest.mark.parametrize("suffix", ["mkv", "webm"])
def test_length_of_a_live_recording_is_told_by_its_packets(tmp_path, suffix):
    codec = {} if suffix == "mkv" else {"codec": "libvpx", "options": {}}
    path = plain(tmp_path / f"v.{suffix}", container={"live": "1"}, **codec)
    info = probe(path)
    assert info.duration == pytest.approx(2.0, abs=0.05)
    assert info.num_frames() == len(list(read_frames(path))) == 50


@pytest.mark.parametrize(
    ("suffix", "codec", "kind"),
    [
        ("mov", "qtrle", "argb"),
        ("mov", "prores_ks", "yuva444p10le"),
        ("webm", "libvpx-vp9", "yuva420p"),
    ],
)
def test_what_is_transparent_lies_on_black(tmp_path, suffix, codec, kind):
    picture = np.zeros((96, 128, 4), np.uint8)
    picture[..., :3] = 200, 50, 50
    picture[20:70, 20:90, 3], picture[20:70, 20:40, 3] = 255, 128
    path = tmp_path / f"v.{suffix}"
    encode(
        path, [picture] * 3, np.arange(3), Fraction(1, 25), codec=codec, pix_fmt=kind, options={}
    )
    frame = next(read_frames(path)).astype(int)
    assert np.abs(frame[45, 70] - (200, 50, 50)).max() < 6
    assert np.abs(frame[45, 30] - (100, 25, 25)).max() < 6
    assert frame[5, 5].max() < 4
    assert probe(path).repairs == ("partly transparent; laid on black",)


def test_start_passes_over_frames(tmp_path):
    path = plain(tmp_path / "v.mp4")
    assert [number_of(f) for f in read_frames(path, start=40)] == list(range(40, 50))
    assert [number_of(f) for f in read_frames(path, max_seconds=0.4, start=6)] == list(range(6, 10))
