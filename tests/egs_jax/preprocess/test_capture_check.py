"""The capture check on made-up clips: every finding reacts to what it is named after."""

import json

import cv2
import numpy as np
import pytest

from egs_jax.face.mesh import FACE_OVAL
from egs_jax.preprocess.capture_check import CaptureCheck, audio_video_lag

RATE, HOP = 16_000, 640
NAMES = (
    "frame rate, frame gaps, duration, frames with face, face width, sharpness, yaw range, "
    "pitch range, motion, brightness, under-exposed, over-exposed, flicker, silence, mouth closed, "
    "audio-video lag"
).split(", ")


def face(opening: float = 0.1, x: float = 128.0, yaw: float = 0.0) -> np.ndarray:
    """Landmarks of a face 180 pixels wide whose inner lips are `opening` eye distances apart."""
    points = np.zeros((478, 3))
    around = np.linspace(0, 2 * np.pi, len(FACE_OVAL), endpoint=False)
    points[FACE_OVAL, 0], points[FACE_OVAL, 1] = 90 * np.sin(around), -110 * np.cos(around)
    points[454], points[234] = [90, 0, 0], [-90, 0, 0]
    points[33], points[263] = [-50, -20, 0], [50, -20, 0]
    for upper, lower in ((82, 87), (13, 14), (312, 317)):
        points[upper, 1], points[lower, 1] = 40, 40 + 100 * opening
    turn = np.radians(yaw)
    spin = np.asarray(
        [[np.cos(turn), 0, -np.sin(turn)], [0, 1, 0], [np.sin(turn), 0, np.cos(turn)]]
    )
    return (points @ spin.T + np.asarray([x, 128, 0])).astype(np.float32)


PICTURE = np.random.default_rng(0).integers(60, 190, (256, 256, 3), np.uint8)


def syllables(count: int, seed: int = 0) -> np.ndarray:
    """A talking mouth: openings of random height and length, with pauses."""
    random = np.random.default_rng(seed)
    pulses = np.zeros(count)
    at = 0
    while at < count:
        pulses[at] = random.uniform(0.2, 1.0)
        at += int(random.integers(4, 9)) if random.uniform() > 0.1 else 20
    return 0.25 * np.convolve(pulses, np.hanning(7), "same")


def voice(opening: np.ndarray, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 0.3, opening.size * HOP)
    return (np.repeat(opening, HOP) * noise).astype(np.float32)


def checked(count=60, picture=lambda k: PICTURE, landmarks=lambda k: face(), sound=None, **source):
    check = CaptureCheck(**({"source_fps": 25.0} | source))
    for k in range(count):
        check.add_frame(picture(k), landmarks(k))
    if sound is not None:
        check.add_audio(sound)
    return check.report()


@pytest.mark.parametrize("late", [-6, 0, 4, 9])
def test_lag_is_found_with_its_sign(late):
    mouth = syllables(500)
    report = checked(500, landmarks=lambda k: face(mouth[k]), sound=voice(np.roll(mouth, late)))
    assert report["audio-video lag"].value == pytest.approx(late, abs=1)
    assert report.lag_confidence > 1.5
    assert report["audio-video lag"].verdict == ("ok" if late in (0, 4) else "bad")


def test_an_unclear_lag_is_one_that_films_have_and_both_halves_tell():
    """Otherwise a clip in sync, in which lips tell little, would be moved by chance."""
    found = {4: 0, 12: 0, "two lags": 0}
    for seed in range(24):
        mouth = syllables(500, seed)
        seen = mouth + 3 * mouth.std() * np.random.default_rng(seed).standard_normal(500)
        heard = {late: np.roll(mouth, late) for late in (4, 12)}
        heard["two lags"] = np.concatenate([heard[4][:250], np.roll(mouth, -3)[250:]])
        for kind, sound in heard.items():
            lag, confidence = audio_video_lag(seen, sound**2 + 1e-6)
            found[kind] += lag is not None and confidence < 1.8
    assert found[4] >= 8 and found[12] == 0 and found["two lags"] <= 1


def test_unrelated_or_short_sound_gives_no_lag():
    confident = 0
    for seed in range(20):
        power = syllables(500, 100 + seed) ** 2 + 1e-6
        lag, confidence = audio_video_lag(syllables(500, seed), power)
        confident += lag is not None
        assert confidence is not None and confidence > 0
    assert confident <= 2
    assert audio_video_lag(syllables(60), syllables(60) + 1e-3) == (None, None)
    assert audio_video_lag(np.ones(500), syllables(500) + 1e-3) == (None, None)


def test_sound_may_come_in_any_pieces():
    mouth = syllables(200)
    sound, whole, pieces = voice(mouth), CaptureCheck(25.0), CaptureCheck(25.0)
    whole.add_audio(sound)
    for piece in np.split(sound, [5, 700, 701, 40_000]):
        pieces.add_audio(piece)
    assert np.allclose(whole._power, pieces._power, rtol=1e-6)
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE).astype(np.float32)
    loud = CaptureCheck(25.0)
    loud.add_audio(0.5 * tone)
    assert np.median(loud._power) == pytest.approx(0.125, rel=0.05)  # mean square of the tone


def test_silence_and_closed_mouth_are_shares():
    mouth = np.concatenate([np.zeros(100), np.full(300, 0.2)])
    report = checked(400, landmarks=lambda k: face(mouth[k]), sound=voice(mouth))
    assert report["silence"].value == pytest.approx(25, abs=1)
    assert report["mouth closed"].value == pytest.approx(25, abs=1)
    silent = checked(200, sound=np.zeros(200 * HOP, np.float32))
    assert silent["silence"].value == 100 and silent["silence"].verdict == "bad"
    assert silent["audio-video lag"].value is None
    assert checked()["silence"].verdict == "bad"  # no sound track at all


def test_blur_is_seen_and_darkness_is_not_blur():
    sharp, dark = checked(5), checked(5, picture=lambda k: PICTURE // 2)
    blurred = checked(5, picture=lambda k: cv2.GaussianBlur(PICTURE, (0, 0), 8))
    assert sharp["sharpness"].verdict == "ok" and blurred["sharpness"].verdict != "ok"
    assert dark["sharpness"].value == pytest.approx(sharp["sharpness"].value, rel=0.1)


def test_light_is_judged():
    assert checked(5)["brightness"].value == pytest.approx(124, abs=5)
    dark = checked(5, picture=lambda k: PICTURE // 12)
    assert dark["brightness"].verdict == "bad" and dark["under-exposed"].value == 100
    white = checked(5, picture=lambda k: np.full_like(PICTURE, 255))
    assert white["over-exposed"].value == 100 and white["over-exposed"].verdict == "bad"
    lamp = checked(40, picture=lambda k: PICTURE - np.uint8(12 * (k % 2)))
    assert checked(40)["flicker"].value == 0 and lamp["flicker"].value > 4


def test_motion_and_turns_are_measured():
    still = checked(40)
    assert (still["motion"].value, still["yaw range"].value) == (0, 0)
    moving = checked(40, landmarks=lambda k: face(x=100 + 1.8 * k))
    assert moving["motion"].value == pytest.approx(1.0, rel=0.02)  # 1.8 px of 180 px
    turning = checked(101, landmarks=lambda k: face(yaw=k - 50.0))
    assert turning["yaw range"].value == pytest.approx(96, abs=1)
    assert turning["yaw range"].verdict == "bad"


def test_face_size_rate_and_duration():
    report = checked(50, source_fps=12.0, variable_rate=True)
    assert report["face width"].value == pytest.approx(180) and report["duration"].value == 2.0
    verdicts = [report[name].verdict for name in ("frame rate", "frame gaps", "duration")]
    assert verdicts == ["bad", "warn", "bad"] and report.verdict == "bad"


def test_missing_faces_are_counted_and_nothing_is_invented():
    half = checked(100, landmarks=lambda k: face() if k % 2 else None)
    assert half["frames with face"].value == 50 and half["frames with face"].verdict == "bad"
    none = checked(20, landmarks=lambda k: None)
    assert none["face width"].value is None and none["face width"].verdict == "unknown"


def test_table_and_json_hold_every_finding():
    report = checked()
    table = report.format_table()
    assert all(name in table for name in NAMES)
    assert max(len(line) for line in table.splitlines()) <= 100
    stored = json.loads(json.dumps(report.as_dict()))
    assert list(stored)[:-1] == NAMES and stored["face width"]["value"] == pytest.approx(180)
    for finding in report.findings:
        assert (finding.verdict == "ok") == (finding.remedy == "")


def test_face_leaving_the_picture_does_not_fail():
    report = checked(3, landmarks=lambda k: face(x=-400.0))
    assert report["brightness"].value == 0
