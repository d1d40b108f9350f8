"""Which track and channel carry the speech: made-up films and recordings of every kind."""

from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

from egs_jax.media import speech_source, voice_activity
from egs_jax.media.audio_file import read_audio, stream_audio
from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.media.sound_tracks import downmix_weights
from egs_jax.media.speech_source import Heard, Source, pick
from egs_jax.media.voice_activity import VoiceActivity
from egs_jax.performer.voice import synthesize
from egs_jax.runtime.errors import InputError

RATE = SAMPLE_RATE
SECONDS = 3


def level(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples))))


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    return 0.5 * synthesize(float(SECONDS), 3).samples


def music(seconds: float = SECONDS) -> np.ndarray:
    """Chords that ring for half a second each."""
    time = np.arange(round(0.5 * RATE)) / RATE
    chords = []
    for root in np.tile([220.0, 277.2, 329.6, 246.9], round(seconds)):
        tones = sum(np.sin(2 * np.pi * root * k * time) / k for k in (1, 1.25, 1.5, 2, 3, 4))
        chords.append(0.1 * tones * np.exp(-3 * time))
    return np.concatenate(chords)[: round(seconds * RATE)].astype(np.float32)


def hiss(volume: float = 0.05, seconds: float = SECONDS) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(round(seconds * RATE))
    return (volume * noise).astype(np.float32)


def write_tracks(path, tracks, layout="mono", codec="aac"):
    """Write sound tracks [S] or [C, S] of 16 kHz into one file."""
    with av.open(str(path), "w") as out:
        streams = [out.add_stream(codec, rate=RATE, layout=layout) for _ in tracks]
        for stream, track in zip(streams, tracks, strict=True):
            sound = np.atleast_2d(track).astype(np.float32)
            for begin in range(0, sound.shape[1], 1024):
                block = np.ascontiguousarray(sound[:, begin : begin + 1024])
                frame = av.AudioFrame.from_ndarray(block, "fltp", layout)
                frame.sample_rate, frame.pts, frame.time_base = RATE, begin, Fraction(1, RATE)
                for form in av.AudioResampler(stream.format.name, layout, RATE).resample(frame):
                    out.mux(stream.encode(form))
            out.mux(stream.encode(None))
    return path


def assert_heard(path, voice, gain=1.0, error=0.15):
    """What is read is the voice, `gain` times as loud."""
    found = read_audio(path)
    size = min(len(found), len(voice))
    lags = [0, 1024, 2048]  # what encoders put before the sound
    errors = [level(found[k : size - 1 + k] - gain * voice[: len(found[k : size - 1 + k])])
              for k in lags]  # fmt: skip
    assert min(errors) < error * gain * level(voice)


# ------------------------------------------------------------------------------ voice activity


@pytest.mark.parametrize("decibels", [0, -24, -50])
def test_a_voice_is_told_from_pauses_at_any_level(voice, decibels):
    truth = synthesize(float(SECONDS), 3).phonemes
    speaks = VoiceActivity().push(10 ** (decibels / 20) * voice) > voice_activity.SPOKEN
    times = (np.arange(len(speaks)) + 0.5) * voice_activity.CHUNK / RATE
    spoken = np.any([(times > a) & (times < b) for _, a, b in truth], axis=0)
    assert np.mean(speaks == spoken) > 0.85
    assert speaks[spoken].mean() > 0.9


@pytest.mark.parametrize(
    "sound", [music(), hiss(), np.sin(np.arange(48_000) / 5), np.zeros(48_000)]
)
def test_music_noise_tones_and_silence_are_no_speech(sound):
    assert VoiceActivity().push(sound.astype(np.float32)).max() < voice_activity.SPOKEN


def test_probabilities_do_not_depend_on_the_chunks(voice):
    whole, pieces = VoiceActivity(), VoiceActivity()
    cuts = np.cumsum(np.random.default_rng(0).integers(0, 3000, 40))
    got = np.concatenate([pieces.push(part) for part in np.split(voice, cuts[cuts < len(voice)])])
    np.testing.assert_array_equal(got, whole.push(voice))


# ------------------------------------------------------------------------------------- channels


def test_weights_are_those_of_the_standard():
    np.testing.assert_allclose(downmix_weights(["FC"]), [1])
    np.testing.assert_allclose(downmix_weights(["FL", "FR"]), [0.5, 0.5])
    surround = downmix_weights(["FL", "FR", "FC", "LFE", "SL", "SR"])
    np.testing.assert_allclose(surround / surround[2], [0.5**0.5, 0.5**0.5, 1, 0, 0.5, 0.5])
    np.testing.assert_allclose(downmix_weights(["LFE"]), [1])
    np.testing.assert_allclose(downmix_weights(["?", "?", "?", "?"]), [0.25] * 4)


@pytest.mark.parametrize(
    ("kind", "gain"),
    [("both", 1), ("opposite", 1), ("nearly opposite", 1), ("left", 0.5), ("right", 0.5),
     ("left, hiss right", 1), ("hum left, right", 1), ("faint right", 0.5),
     ("loud hum left, right", 0.04)],
)  # fmt: skip
def test_a_voice_on_any_side_is_heard(tmp_path, capsys, voice, kind, gain):
    none, hum = np.zeros_like(voice), 0.2 * np.sin(2 * np.pi * 50 * np.arange(len(voice)) / RATE)
    left, right = {
        "both": (voice, voice),
        "opposite": (voice, -voice),
        "nearly opposite": (voice, -0.9 * voice),
        "left": (voice, none),
        "right": (none, voice),
        "left, hiss right": (voice, hiss()),
        "hum left, right": (hum, voice),
        "loud hum left, right": (hum, 0.04 * voice),
        "faint right": (voice, 0.01 * voice),
    }[kind]
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    assert_heard(path, voice, gain, 0.05)
    told = capsys.readouterr().out
    assert ("alone is heard" in told) == (kind not in ("both", "left", "right", "faint right"))
    assert told == "" or told.startswith("a.wav: channel ")


@pytest.mark.parametrize("rate", [8000, 44_100, 48_000])
def test_a_tone_of_opposite_phase_is_heard(tmp_path, rate):
    """Nobody is recognized in it: power decides."""
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, -tone], axis=1), rate)
    assert level(read_audio(tmp_path / "a.wav")) == pytest.approx(0.354, rel=0.02)


@pytest.mark.parametrize("place", [0, 1, 2, 4])
def test_surround_is_heard_wherever_the_voice_is(tmp_path, voice, place):
    """5.1 with the voice in one of its channels, which are FL FR FC LFE SL SR."""
    sound = np.zeros((6, len(voice)), np.float32)
    sound[place] = voice
    path = write_tracks(tmp_path / "a.mka", [sound], "5.1", "pcm_s16le")
    weight = downmix_weights(["FL", "FR", "FC", "LFE", "SL", "SR"])[place]
    found = read_audio(path)
    assert weight * 0.9 < level(found) / level(voice) < 1.01


def test_a_channel_that_is_wanted_but_missing_is_the_downmix():
    frame = av.AudioFrame.from_ndarray(np.full((1, 8), 0.25, np.float32), "fltp", "mono")
    np.testing.assert_array_equal(Source(0, 1).mix(frame), np.full((1, 8), 0.25))


# --------------------------------------------------------------------------------------- tracks


@pytest.mark.parametrize(
    ("name", "others"),
    [("a.mp4", "silence"), ("a.mkv", "silence twice"), ("a.mov", "noise floor"),
     ("a.mkv", "music"), ("a.ts", "mixed with music"), ("a.mka", "bleeding")],
)  # fmt: skip
def test_the_track_with_the_speech_is_taken(tmp_path, capsys, voice, name, others):
    before = {
        "silence": [0 * voice],
        "silence twice": [0 * voice, 0 * voice],
        "noise floor": [hiss(1e-3)],
        "music": [2 * music()],
        "mixed with music": [0.5 * voice + music()],
        "bleeding": [0.01 * voice],
    }[others]
    path = write_tracks(tmp_path / name, [*before, voice])
    assert_heard(path, voice)
    number = len(before) + 1
    assert f"{name}: sound track {number} of {number} is heard" in capsys.readouterr().out


def test_of_tracks_that_both_speak_the_first_is_taken(tmp_path, voice):
    other = 0.5 * synthesize(float(SECONDS), 4).samples
    assert_heard(write_tracks(tmp_path / "a.mkv", [voice, other]), voice)


def test_a_track_can_be_named(tmp_path, voice):
    path = write_tracks(tmp_path / "a.mkv", [0 * voice, voice])
    assert level(read_audio(path, track=1)) < 1e-4
    assert level(read_audio(path, track=2)) > 0.9 * level(voice)
    assert sum(map(len, stream_audio(path, track=2))) >= len(voice)
    for number in (0, 3):
        with pytest.raises(InputError, match=rf"a.mkv: has no sound track {number}, only 1 to 2"):
            read_audio(path, track=number)


@pytest.mark.parametrize(("layout", "dead"), [("mono", 0), ("stereo", 1)])
def test_tracks_that_no_decoder_reads_are_passed_over(tmp_path, voice, dead, layout):
    """As a phone's spatial sound: the name of its codec is unknown."""
    both = np.stack([voice] * (2 if layout == "stereo" else 1))
    path = write_tracks(tmp_path / "a.mkv", [both, both], layout)
    start, name, rest = path.read_bytes().partition(b"A_AAC")
    if dead == 1:
        middle, _, rest = rest.partition(b"A_AAC")
        start += name + middle
    path.write_bytes(start + b"A_QQQ" + rest)
    assert_heard(path, voice)
    with pytest.raises(InputError, match="no decoder reads its sound; convert it"):
        read_audio(path, track=dead + 1)


def test_a_file_that_no_decoder_reads_is_refused(tmp_path, voice):
    path = write_tracks(tmp_path / "a.mkv", [voice, voice])
    path.write_bytes(path.read_bytes().replace(b"A_AAC", b"A_QQQ"))
    with pytest.raises(InputError, match=r"a.mkv: no decoder reads its sound"):
        read_audio(path)


def test_the_choice_is_made_again_for_another_file_of_the_same_name(tmp_path, voice):
    path = tmp_path / "a.wav"
    for left, right in ((voice, -voice), (0.5 * voice, voice)):
        soundfile.write(path, np.stack([left, right], axis=1), RATE, subtype="FLOAT")
        found = read_audio(path)
        assert level(found) == pytest.approx(level((left + right) / 2) or level(voice), rel=0.01)


def test_choice_by_hand():
    mixed, left, right = Source(0), Source(0, 0), Source(0, 1)
    take = lambda *found: pick([Heard(*one) for one in found]).source
    assert take((mixed, 9, 0.1, 20), (left, 10, 0.1, 25), (right, 10, 0.1, 25)) == mixed
    assert take((mixed, 4, 0.1, 20), (left, 10, 0.1, 20)) == left  # too little of the speech
    assert take((mixed, 10, 0.009, 20), (left, 10, 0.1, 20)) == left  # too faint
    assert take((mixed, 10, 0.1, 20), (left, 10, 0.1, 29), (right, 10, 0.1, 31)) == right
    assert take((mixed, 0, 0.0, 0), (left, 0, 0.0, 0)) == mixed  # silence
    assert take((mixed, 0.1, 0.001, 0), (left, 0, 0.1, 50)) == left  # nobody speaks
    assert speech_source.LISTENED >= 300
