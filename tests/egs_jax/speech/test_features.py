"""Features of a bounded stretch of sound, in chunks or not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import speech, tone

from egs_jax.media.audio_file import as_samples
from egs_jax.speech import features as audio
from egs_jax.speech.frame_windows import feature_windows
from egs_jax.speech.layout import layout_of
from egs_jax.speech.whisper import NETWORKS, WhisperEncoder, WhisperLayer

KINDS = ["whisper", pytest.param("whisper-base", marks=pytest.mark.slow), "mel"]
SOON = 0.4  # a look-ahead [s]


@functools.cache
def encoder(kind):
    """An encoder with random weights: these tests ask what depends on what, not for meaning."""
    if kind not in NETWORKS:
        return None
    rng, width = np.random.default_rng(0), NETWORKS[kind].width
    shapes = {
        "norm1_scale": (width,), "norm1_bias": (width,), "query_weight": (width, width),
        "query_bias": (width,), "seen_weight": (width, 2 * width), "seen_bias": (2 * width,),
        "out_weight": (width, width), "out_bias": (width,),
        "norm2_scale": (width,), "norm2_bias": (width,), "up_weight": (width, 4 * width),
        "up_bias": (4 * width,), "down_weight": (4 * width, width), "down_bias": (width,),
    }  # fmt: skip

    def draw(*shape):
        scale = shape[-2] ** -0.5 if len(shape) > 1 else 1.0
        return jnp.asarray((rng.standard_normal(shape) * scale).astype(np.float32))

    def layers(*count):
        return WhisperLayer(**{key: draw(*count, *shape) for key, shape in shapes.items()})

    return WhisperEncoder(
        conv1_weight=draw(240, width), conv1_bias=draw(width),
        conv2_weight=draw(3 * width, width), conv2_bias=draw(width),
        positions=draw(1500, width), layers=layers(NETWORKS[kind].num_layers - 1), last=layers(),
        norm_scale=draw(width), norm_bias=draw(width),
    )  # fmt: skip


# ------------------------------------------------------------------------------------ features


@pytest.mark.parametrize("look_ahead", [None, SOON])
@pytest.mark.parametrize("kind", [pytest.param("whisper", marks=pytest.mark.slow), *KINDS[1:]])
def test_chunks_of_any_size_give_the_same_bits(kind, look_ahead):
    samples, layout = speech(2.33), layout_of(kind, look_ahead)
    whole = audio.extract_features(samples, kind, encoder(kind), layout=layout)
    assert whole.shape == (118, audio.AUDIO_FEATURES[kind].feature_dim)
    assert whole.dtype == np.float32
    for seed, largest in enumerate([2500, 30_000]):
        rng = np.random.default_rng(seed)
        cuts = np.cumsum(rng.integers(0, largest, 40_000 // largest * 4 + 4))
        stream = audio.FeatureStream(kind, encoder(kind), layout=layout)
        rows = [stream.push(chunk) for chunk in np.split(samples, cuts[cuts < len(samples)])]
        np.testing.assert_array_equal(np.concatenate([*rows, stream.finish()]), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_the_same_bits_in_a_longer_file(kind):
    samples = speech(4)
    ahead = 2 if kind == "mel" else 31  # 0.02 s and 0.6025 s
    short = audio.extract_features(samples[:32_000], kind, encoder(kind))
    whole = audio.extract_features(samples, kind, encoder(kind))
    np.testing.assert_array_equal(whole[: 100 - ahead], short[: 100 - ahead])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", [pytest.param(70, marks=pytest.mark.slow), 79])
def test_a_row_depends_on_the_stated_samples_only(kind, row):
    samples = speech(3)
    block = row // 10
    if kind != "mel":
        first, last = 3200 * block - 19_240, 3200 * block + 9799
    else:
        first, last = 320 * row - 160, 320 * row + 479
    assert first >= 0
    base = audio.extract_features(samples, kind, encoder(kind))[row]
    other = speech(3, seed=1)
    other[first : last + 1] = samples[first : last + 1]
    np.testing.assert_array_equal(audio.extract_features(other, kind, encoder(kind))[row], base)
    for place in (first + 3, last - 2):  # the Hann window is about 0 at the ends themselves
        other = samples.copy()
        other[place] += 30.0
        assert not np.array_equal(audio.extract_features(other, kind, encoder(kind))[row], base)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_a_shorter_look_ahead_depends_on_its_window_only(kind):
    """And on all of it, to the end: the first and the last row of a block, streamed in pieces."""
    samples, layout = speech(2.5), layout_of(kind, SOON)
    block = 100 // layout.hop_rows
    first = block * layout.hop_samples + layout.window_offset
    end = first + layout.window_samples
    rows = [block * layout.hop_rows, (block + 1) * layout.hop_rows - 1]

    def found(sound):
        stream = audio.FeatureStream(kind, encoder(kind), layout=layout)
        parts = [stream.push(part) for part in np.array_split(sound[:end], 7)]
        return np.concatenate(parts)[rows]  # they are there before anything else is heard

    base, other = found(samples), speech(2.5, seed=1)
    other[first:end] = samples[first:end]
    np.testing.assert_array_equal(found(other), base)
    for place, row in ((first + 3, 0), (end - 3, 1)):  # Hann windows are about 0 at their ends
        other = samples.copy()
        other[place] += 30.0
        assert not np.array_equal(found(other)[row], base[row])


@pytest.mark.parametrize("kind", KINDS)
def test_silence_is_one_pattern(kind):
    rows = audio.extract_features(np.zeros(50_000, np.float32), kind, encoder(kind))
    np.testing.assert_array_equal(audio.silence_features(kind, len(rows), encoder(kind)), rows)
    np.testing.assert_array_equal(rows[10:], rows[:-10])
    faint = (1e-5 * speech(50_000 / 16_000)).astype(np.float32)  # below the floor: the same bits
    np.testing.assert_array_equal(audio.extract_features(faint, kind, encoder(kind)), rows)
    if kind == "mel":
        np.testing.assert_array_equal(rows, np.full_like(rows, -1))
    hop = layout_of(kind, SOON).hop_rows
    rows = audio.extract_features(
        np.zeros(20_000, np.float32), kind, encoder(kind), layout=layout_of(kind, SOON)
    )
    period = audio.silence_features(kind, None, encoder(kind), layout_of(kind, SOON))
    np.testing.assert_array_equal(np.resize(period, rows.shape), rows)
    assert len(period) == hop


@pytest.mark.parametrize("count", [0, 1, 639, 640, 641, 3200, 6401, 12_801])
def test_row_count_covers_whole_video_frames(count):
    expected = 2 * int(np.ceil(count / 640))
    assert audio.num_rows(count) == expected
    for kind in ("whisper", "mel"):
        rows = audio.extract_features(np.ones(count, np.float32), kind, encoder(kind))
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


def test_mel_row_is_centered_on_its_time():
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


@pytest.mark.parametrize("kind", NETWORKS)
def test_whisper_rows_are_faded_windows(kind):
    """Rows 40 ... 49 by hand from the two windows that hold them."""
    from egs_jax.speech.window_rows import _whisper_windows

    samples = speech(3)
    windows = [samples[3200 * b - 19_240 :][:25_840] for b in (7, 8)]
    batch = np.stack([*windows, *windows])
    old, new = np.asarray(_whisper_windows((50, 70), encoder(kind), batch))[:2]
    rise = (np.arange(10)[:, None] + 0.5) / 10
    expected = old[10:] * (1 - rise) + new[:10] * rise
    rows = audio.extract_features(samples, kind, encoder(kind))
    np.testing.assert_allclose(rows[70:80], expected, atol=1e-5)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="one of whisper, whisper-base, mel"):
        audio.FeatureStream("hubert")
    with pytest.raises(ValueError, match="its width is 384, for 'whisper-base' give one of 512"):
        audio.FeatureStream("whisper-base", encoder("whisper"))
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
    cut = jax.jit(feature_windows, static_argnums=3) if on_device else feature_windows
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
    whole = feature_windows(rows, silence, frames)
    piece = feature_windows(rows[50:150], silence, frames, first_row=50)
    np.testing.assert_array_equal(piece, whole)


def test_windows_without_rows_are_silence():
    silence = np.arange(10, dtype=np.float32)[:, None]
    found = feature_windows(silence[:0], silence, np.array([4]), 1)
    np.testing.assert_array_equal(found[0, 0, :, 0], np.arange(16) % 10)
    with pytest.raises(ValueError, match="silence rows"):
        feature_windows(silence, silence[:0], np.array([4]))
