"""An interrupted speech: what goes on, what is silent, what it hears; where somebody speaks."""

import dataclasses

import numpy as np
import pytest
from helpers import frames_of, voice

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.look import Look
from egs_jax.avatar.speech_batches import FADE_ROWS, SpeechBatches, latency
from egs_jax.avatar.stream import Stream
from egs_jax.performer.voice import synthesize
from egs_jax.speech.features import extract_features, silence_features
from egs_jax.speech.layout import LAYOUTS


@pytest.fixture(scope="module")
def avatar(trained_run):
    return Avatar.load(trained_run.folder, exact=True)


@pytest.fixture(scope="module")
def spoken():
    return 0.5 * synthesize(3.0, 0).samples


def rows_by_number(batches):
    """Every row that some frame hears, by its number; frames agree on what they share."""
    found = {}
    for batch in batches:
        for number, row in enumerate(batch.rows, batch.first_row):
            np.testing.assert_array_equal(found.setdefault(number, row), row)
    return found


def interrupted(avatar, sound, number, then):
    """Batches before an interruption at frame `number`, and those after it."""
    before = SpeechBatches(avatar).push(sound)
    given = next(batch for batch in before if number - 1 in batch.frames)
    after = SpeechBatches.after(avatar, given, number)
    return before, after.push(np.concatenate([np.zeros(after.silent_samples, "f4"), then])), after


@pytest.mark.parametrize("number", [3, 17, 18, 22])
def test_rows_are_the_old_up_to_the_seam_and_then_fade_to_silence(avatar, spoken, number):
    quiet = np.zeros(16_000, np.float32)
    before, after, _ = interrupted(avatar, spoken, number, quiet)
    layout = avatar.scene.layout
    seam = 2 * (number + layout.lead_frames())
    old, new = rows_by_number(before), rows_by_number(after)
    assert {seam - 1, seam} <= set(new) and min(new) == 2 * (number - 4) - 8
    for row in range(min(new), seam):
        np.testing.assert_array_equal(new[row], old[row])
    hush = silence_features(avatar.scene.feature_kind, layout=layout)
    rest = [r for r in sorted(new) if r >= seam and (new[r] == hush[(r - seam) % len(hush)]).all()]
    faded = min(rest) - seam
    assert rest == list(range(seam + faded, max(new) + 1)) and 0 < faded <= FADE_ROWS
    assert (seam + faded) / 2 <= number - 1 + 25 * latency(avatar)  # at rest when it is said
    steps = [np.abs(new[row + 1] - new[row]).max() for row in range(seam - 2, seam + faded)]
    usual = [np.abs(old[row + 1] - old[row]).max() for row in range(min(old), max(old))]
    assert max(steps) <= max(usual)


def test_frames_go_on_where_they_were_interrupted(avatar, spoken):
    before, after, _ = interrupted(avatar, spoken, 12, spoken)
    numbers = [n for batch in after for n in batch.frames.tolist()]
    assert numbers == list(range(12, 12 + len(numbers))) and len(numbers) > 50
    assert all(batch.frames.tolist() == batch.shown.tolist() for batch in after)


@pytest.mark.parametrize("fps", [30, 50, 60])
@pytest.mark.parametrize("number", [1, 14, 23, 31])
def test_a_speech_of_any_frame_rate_goes_on_from_the_rows_heard(avatar, spoken, fps, number):
    """Every frame once, in batches of one length; nothing that was heard is heard otherwise."""
    avatar = dataclasses.replace(avatar, look=Look(fps=fps))
    before, after, batches = interrupted(avatar, spoken, number, spoken)
    numbers = [n for batch in after for n in batch.frames.tolist()]
    assert numbers == list(range(number, number + len(numbers))) and len(numbers) > fps * 2
    whole = [n for batch in before for n in batch.frames.tolist()]
    assert whole == list(range(len(whole)))
    assert {len(batch.shown) for batch in (*before, *after)} == {-(-5 * fps // 25)}
    old, new = rows_by_number(before), rows_by_number(after)
    last_heard = -(-50 * (number - 1) // fps) + 2 * avatar.scene.layout.lead_frames() + 1
    shown = 50 * number // fps - 16  # the earliest row that a frame to come hears
    for row in range(max(shown, min(old)), last_heard + 1):
        np.testing.assert_array_equal(new[row], old[row])
    rest = batches.finish()
    numbers += [n for batch in rest for n in batch.frames.tolist()]
    heard = batches.heard_from * 16_000 + len(spoken)
    assert numbers == list(range(number, -(-round(heard) * fps // 16_000)))


@pytest.mark.parametrize("number", [9, 12])
def test_new_sound_is_heard_from_the_stated_time_by_a_new_listener(avatar, spoken, number):
    _, after, batches = interrupted(avatar, spoken, number, spoken)
    scene, rows = avatar.scene, rows_by_number(after)
    silent = np.zeros(batches.silent_samples, np.float32)
    heard = extract_features(
        np.concatenate([silent, spoken]), scene.feature_kind, loudness=scene.loudness,
        layout=scene.layout,
    )  # fmt: skip
    seam = 2 * (number + scene.layout.lead_frames())
    for row in range(seam + FADE_ROWS, max(rows) + 1):
        np.testing.assert_array_equal(rows[row], heard[row - seam])
    assert batches.heard_from == pytest.approx(seam / 50 + len(silent) / 16_000)
    assert batches.heard_from == pytest.approx(number / 25 + latency(avatar), abs=1e-3)


@pytest.mark.parametrize("kind", ["whisper", "mel"])
@pytest.mark.parametrize("place", [0, 1])
def test_speech_fades_within_the_latency_of_every_layout(kind, place):
    layout = LAYOUTS[kind][place]
    fade = SpeechBatches.fade_rows(layout, 8)
    assert 0 < fade <= FADE_ROWS
    assert 2 * layout.lead_frames() + 2 + fade <= 50 * layout.look_ahead()


def take(stream, sound, count):
    """Push all sound and take only so many frames."""
    frames = iter(stream.push(sound))
    return [next(frames) for _ in range(count)]


def test_what_follows_an_interruption_depends_on_the_frames_given_alone(avatar, spoken):
    """However much was pushed, heard or drawn beyond them."""
    found = []
    for pushed, size in ((20_000, 160), (40_000, 7000)):
        live = Stream(avatar)
        given = take(live, spoken[:pushed], 12)
        assert live.interrupt() == pytest.approx(12 / 25 + live.latency)
        found.append([*given, *frames_of(live, voice(0.6), [size])])
    numbers = [frame.number for frame in found[0]]
    assert numbers == list(range(len(numbers))) and len(numbers) > 30
    for a, b in zip(*found, strict=True):
        assert (a.number, a.time, a.speaking) == (b.number, b.time, b.speaking)
        np.testing.assert_array_equal(a.rgb, b.rgb)


def test_some_frames_come_at_once_and_the_others_wait_for_sound(avatar, spoken):
    live = Stream(avatar)
    take(live, spoken[:20_000], 12)
    live.interrupt()
    frames = list(live.push(spoken[:0]))
    assert [f.number for f in frames] == list(range(12, 12 + avatar.scene.layout.hop_frames))
    assert list(live.push(spoken[:0])) == []
    quiet = np.zeros(3200, np.float32)
    assert [f.number for f in live.push(quiet)] == list(range(17, 22))


def test_an_interruption_before_the_first_frame_is_a_new_start(avatar, spoken):
    live = Stream(avatar)
    live.push(spoken)
    assert live.interrupt() == 0 and live.waiting == 0
    got, want = frames_of(live, voice(0.4), [1000]), frames_of(Stream(avatar), voice(0.4), [1000])
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a.rgb, b.rgb)


def test_a_second_interruption_before_a_frame_changes_nothing(avatar, spoken):
    found = []
    for times in (1, 2):
        live = Stream(avatar)
        frames = take(live, spoken[:20_000], 12)
        for _ in range(times):
            live.push(voice(0.3))  # which nobody will hear
            at = live.interrupt()
        assert at == pytest.approx(12 / 25 + live.latency)
        found.append([frame.rgb for frame in (*frames, *frames_of(live, voice(0.2), [800]))])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_finished_stream_goes_on_after_an_interruption(avatar, spoken):
    live = Stream(avatar)
    frames = frames_of(live, spoken[:8000], [8000])
    live.interrupt()
    again = frames_of(live, spoken[:8000], [8000])
    assert [f.number for f in (*frames, *again)] == list(range(len(frames) + len(again)))
    assert len(again) > 13  # those that wait for the new sound as well


def test_frames_say_where_somebody_speaks(avatar, spoken):
    """With the gate's margins, and nowhere in silence or music."""
    quiet = np.zeros(24_000, np.float32)
    frames = frames_of(Stream(avatar), np.concatenate([quiet, spoken, quiet]), [1000])
    said = np.array([frame.speaking for frame in frames])
    assert type(frames[0].speaking) is bool
    inside = slice(round(1.5 * 25) + 5, round(4.5 * 25) - 10)
    assert said[inside].mean() > 0.8 and not said[:28].any() and not said[-20:].any()
    music = np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000).astype(np.float32) / 4
    assert not any(frame.speaking for frame in frames_of(Stream(avatar), music, [1000]))
