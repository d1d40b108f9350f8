"""Many speakers at once: each one's bits are those of a stream of its own, and nobody waits."""

import dataclasses
import itertools
import threading
import time

import numpy as np
import pytest
from helpers import frames_of, voice

from egs_jax.avatar import drawing, sessions, shared_drawing, turns
from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import Pictures, draw, draw_codes, infer_step, motion_codes
from egs_jax.avatar.look import Look
from egs_jax.avatar.poses import Viewpoint
from egs_jax.avatar.sessions import Limits, Sessions
from egs_jax.avatar.speech_batches import composed, speech_batches
from egs_jax.avatar.stream import Stream
from egs_jax.avatar.turns import Clock, Spacing, Turns
from egs_jax.performer.voice import synthesize
from egs_jax.runtime.errors import InputError
from egs_jax.speech.voice_on_device import run_on_device

WAIT = 30.0
"""Seconds after which what should have come has not."""


@pytest.fixture(scope="module")
def avatar(trained_run):
    return Avatar.load(trained_run.folder, exact=True)


@pytest.fixture(scope="module")
def other(avatar):
    """Another avatar, of other poses, blinks, room and frame rate."""
    config = dataclasses.replace(avatar.config, seed=7)
    return dataclasses.replace(avatar, config=config, look=Look("still", "teal", fps=30))


@pytest.fixture
def shared():
    with Sessions() as found:
        yield found


@pytest.fixture
def many_at_once(monkeypatch):
    """Sessions as on a GPU: calls of several batches."""
    monkeypatch.setitem(sessions.LIMITS, "cpu", Limits(6, 4, 4, spacing=0.005, run=run_on_device))
    with Sessions() as found:
        yield found


def spoken(seconds, seed=0):
    return 0.5 * synthesize(max(seconds, 1.0), seed).samples[: round(16_000 * seconds)]


def talk(session, sound, size):
    """Push all sound in chunks, from a thread of its own, and read all frames."""

    def push():
        for at in range(0, len(sound), size):
            session.push(sound[at : at + size])
        session.finish()

    thread = threading.Thread(target=push)
    thread.start()
    frames = list(session.frames())
    thread.join()
    return frames


def assert_same(got, want):
    assert [f.number for f in got] == [f.number for f in want]
    for a, b in zip(got, want, strict=True):
        assert (a.time, a.speaking) == (b.time, b.speaking)
        np.testing.assert_array_equal(a.rgb, b.rgb, err_msg=f"frame {a.number}")
        np.testing.assert_array_equal(a.alpha, b.alpha)


def until(is_so):
    """Wait until something is so."""
    end = time.monotonic() + WAIT
    while not is_so():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.005)


def test_frames_are_those_of_a_stream_whoever_else_is_there(avatar, other, shared):
    speakers = [(avatar, spoken(1.0), 16_000, 160), (avatar, spoken(0.7, 1), 16_000, 3201),
                (other, spoken(0.9, 2), 16_000, 640), (avatar, voice(0.8, 44_100), 44_100, 500),
                (other, voice(0.1), 16_000, 1600), (avatar, voice(0), 16_000, 1)]  # fmt: skip
    opened = [shared.open(who, sample_rate=rate) for who, _, rate, _ in speakers]
    found = [[] for _ in speakers]
    threads = [
        threading.Thread(target=lambda k=k, s=s: found[k].extend(talk(s, *speakers[k][1::2])))
        for k, s in enumerate(opened)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (who, sound, rate, size), got in zip(speakers, found, strict=True):
        assert_same(got, frames_of(Stream(who, sample_rate=rate), sound, [size]))
    assert opened[3].latency == Stream(avatar, sample_rate=44_100).latency


@pytest.mark.slow
@pytest.mark.parametrize("pictures", [True, False])
def test_many_at_once_come_as_one_by_one(avatar, shared, many_at_once, pictures):
    """As on a GPU, up to rounding; nobody gets what is another's."""
    sounds = [spoken(0.8, seed) for seed in range(5)]
    found = [many_at_once.open(avatar, pictures=pictures) for _ in sounds]
    for session, sound in zip(found, sounds, strict=True):
        session.push(sound)
        session.finish()
    for session, sound in zip(found, sounds, strict=True):
        want = talk(shared.open(avatar, pictures=pictures), sound, 640)
        for a, b in zip(session.frames(), want, strict=True):
            assert (a.number, a.speaking) == (b.number, b.speaking)
            if pictures:
                assert np.abs(a.rgb.astype(int) - b.rgb).max() <= 1
            else:
                np.testing.assert_allclose(a.codes, b.codes, atol=1e-3)


def test_an_interrupted_session_goes_on_as_an_interrupted_stream(avatar, shared):
    sound, then = spoken(2.0), voice(0.5)
    session, live = shared.open(avatar), Stream(avatar)
    session.push(sound)
    got = list(itertools.islice(session.frames(), 12))
    at = session.interrupt()
    got += talk(session, then, 700)
    frames = live.push(sound)
    want = [next(frames) for _ in range(12)]
    assert live.interrupt() == at
    assert_same(got, want + frames_of(live, then, [len(then)]))


def test_codes_alone_draw_the_pictures_elsewhere(avatar, shared):
    sound = spoken(0.6)
    frames = talk(shared.open(avatar, pictures=False), sound, 640)
    baked = dataclasses.replace(avatar, is_exact=False)
    numbers = []
    for batch in speech_batches(avatar, [sound]):
        codes = np.asarray(motion_codes(avatar, batch.drive))
        for place, number in enumerate(batch.frames, batch.first):
            frame = frames[len(numbers)]
            numbers.append(frame.number)
            assert (frame.number, frame.time) == (number, number / 25)
            np.testing.assert_array_equal(frame.codes, codes[place])
            np.testing.assert_array_equal(frame.viewmat, batch.drive.viewmats[place])
            np.testing.assert_array_equal(frame.body, batch.drive.bodies[place])
            assert frame.eye == batch.drive.eyes[place]
        drawn = draw_codes(baked, codes, batch.drive).rgb
        want = infer_step(baked, batch.drive).rgb
        assert np.abs(np.asarray(drawn) - np.asarray(want)).max() < 0.02
    assert numbers == list(range(15))


@pytest.mark.parametrize("pictures", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_shared_call_gives_what_each_batch_alone_does(avatar, pictures):
    """As on a GPU: windows cut and plates spread there, several speeches in one call."""
    batches = [b for seed in (0, 1) for b in _spoken_batches(avatar, spoken(0.7, seed))][:3]
    driving, behind = shared_drawing.gathered(avatar, batches, pictures=True)
    drive = shared_drawing.drive_of(avatar.config, avatar.scene.layout, driving, behind)
    for k, batch in enumerate(batches):
        want = composed(avatar, batch).drive
        part = slice(k * len(batch.shown), (k + 1) * len(batch.shown))
        for name in ("audio_windows", "eyes", "viewmats", "Ks", "bodies"):
            np.testing.assert_array_equal(getattr(drive, name)[part], getattr(want, name), name)
        behind = np.broadcast_to(drive.backgrounds, (len(drive.eyes), *want.backgrounds.shape[1:]))
        np.testing.assert_array_equal(behind[part], want.backgrounds)
    work = shared_drawing.dispatch_shared(avatar, batches, pictures=pictures)
    assert len(work.made) == 4 * len(batches[0].shown)
    found = shared_drawing.fetch_shared(work)
    for batch, frames in zip(batches, found, strict=True):
        assert [frame.number for frame in frames] == batch.frames.tolist()
        if pictures:
            want = list(drawing.fetch(drawing.dispatch(avatar, composed(avatar, batch))))
            for a, b in zip(frames, want, strict=True):
                assert np.abs(a.rgb.astype(int) - b.rgb).max() <= 1
                assert a.speaking == b.speaking


def _spoken_batches(avatar, sound):
    from egs_jax.avatar.speech_batches import SpeechBatches

    batches = SpeechBatches(avatar)
    return batches.push(sound) + batches.finish()


def nothing_drawn(avatar, drive):
    rgb = np.zeros((len(drive.eyes), 2, 2, 3), np.uint8)
    return Pictures(rgb=rgb, alpha=rgb[..., 0])


def test_a_reader_who_does_not_read_stops_only_himself(avatar, shared, monkeypatch):
    monkeypatch.setattr(drawing, "draw_to_host", nothing_drawn)
    sound = voice(6.0)
    lazy, eager = (shared.open(avatar, most_ready=1.0, most_waiting=2.0) for _ in range(2))
    pushed = 0
    with pytest.raises(InputError, match=r"s of sound wait to be drawn, at most 2;"):
        while True:  # ends as there is no reader
            lazy.push(sound[:1600])
            pushed += 1
            time.sleep(0.001)
    assert len(talk_slowly(eager, sound)) == 150
    assert len(lazy._speech.out) <= 25 and lazy.waiting > 1
    lazy.finish()
    assert len(list(lazy.frames())) == -(-pushed * 1600 // 640)


def talk_slowly(session, sound):
    """Push as much as may wait, and read meanwhile."""
    frames, at = [], 0
    while not session.is_done:
        if at < len(sound) and session.waiting < 1:
            session.push(sound[at : at + 1600])
            at += 1600
            if at >= len(sound):
                session.finish()
        frames += session.ready()
        time.sleep(0.0005)
    return frames


def test_a_failure_is_that_of_its_own_sessions(avatar, other, shared, monkeypatch):
    original = drawing.draw_to_host

    def fails_of_one(who, drive):
        if who is other:
            raise MemoryError("no room")
        return original(who, drive)

    monkeypatch.setattr(drawing, "draw_to_host", fails_of_one)
    good, bad = shared.open(avatar), shared.open(other)
    bad.push(voice(1.0))
    with pytest.raises(RuntimeError, match=r"failed and frames are missing \(no room\)"):
        list(bad.frames())
    for call in (bad.ready, bad.finish, bad.interrupt, lambda: bad.push(voice(0.1))):
        with pytest.raises(RuntimeError, match="no room"):
            call()
    bad.close()
    rude = shared.open(avatar, notify=lambda: 1 / 0)
    rude.push(voice(0.5))
    with pytest.raises(RuntimeError, match="division by zero"):
        list(rude.frames())
    assert_same(talk(good, voice(0.4), 500), frames_of(Stream(avatar), voice(0.4), [500]))


def test_bad_sound_is_refused_and_forgotten(avatar, shared):
    session, sound = shared.open(avatar), voice(0.4)
    session.push(sound[:3000])
    for chunk in (sound * np.nan, sound.reshape(2, -1), sound * 1e6):
        with pytest.raises(InputError, match="stream: "):
            session.push(chunk)
    assert_same(talk(session, sound[3000:], 100), frames_of(Stream(avatar), sound, [500]))


def test_whoever_cannot_wait_is_told(avatar, shared):
    told, frames = threading.Event(), []
    session = shared.open(avatar, notify=told.set)
    session.push(voice(0.8))
    session.finish()
    while not session.is_done:
        assert told.wait(WAIT)
        told.clear()
        frames += session.ready()
    assert [f.number for f in frames] == list(range(20)) and session.ready() == []


@pytest.mark.parametrize("pictures", [True, False])
def test_who_looks_from_aside_gets_frames_drawn_from_there(avatar, shared, many_at_once, pictures):
    sound, angles = spoken(0.4), [0.01, -0.008]
    batches = list(speech_batches(avatar, [sound]))
    for opened in (shared, many_at_once):
        session = opened.open(avatar, pictures=pictures)
        session.view = Viewpoint(*angles)
        frames = talk(session, sound, 999)
        session.view = Viewpoint()
        for batch in batches:
            drive, at = batch.drive, batch.first
            turns = np.tile(angles, (len(drive.eyes), 1))
            heads, bodies = avatar.limits.looked_at(drive.viewmats, drive.bodies, turns)
            assert np.abs(heads - drive.viewmats).max() > 0.005
            want = draw(avatar, drive.replace(viewmats=heads, bodies=bodies)) if pictures else None
            for k, number in enumerate(batch.frames, at):
                if want is None:
                    np.testing.assert_array_equal(frames[number].viewmat, heads[k])
                    np.testing.assert_array_equal(frames[number].body, bodies[k])
                else:
                    gap = np.abs(frames[number].rgb.astype(int) - np.asarray(want.rgb[k]))
                    assert gap.max() <= 1


def test_closing_ends_what_waits(avatar):
    shared = Sessions()
    session, second = shared.open(avatar), shared.open(avatar)
    reader = threading.Thread(target=lambda: list(session.frames()))
    reader.start()
    second.push(voice(0.3))
    second.close()
    shared.close()
    reader.join(WAIT)
    assert not reader.is_alive() and not any(t.is_alive() for t in shared._threads)
    assert session.is_done and list(session.frames()) == []
    for call in (lambda: session.push(voice(0.1)), session.finish, session.interrupt):
        with pytest.raises(InputError, match="session: it is closed"):
            call()
    with pytest.raises(InputError, match="sessions: they are closed"):
        shared.open(avatar)
    shared.close()


@pytest.mark.parametrize("wrong", [{"most_ready": 0}, {"most_waiting": -1}, {"sample_rate": 3}])
def test_limits_that_are_none_are_refused(avatar, shared, wrong):
    [name] = wrong
    with pytest.raises(InputError, match=f"{name}: got"):
        shared.open(avatar, **wrong)


def test_turns_go_to_those_who_are_due_first():
    waiting = Turns()
    for group, due, item in ((1, 0.1, "a"), (2, 0.2, "b"), (1, 0.5, "c"), (3, 9.0, "d"),
                             (1, 0.5, "e"), (1, 0.4, "f")):  # fmt: skip
        waiting.add(group, due, item)
    assert waiting.first() == 1 and waiting.take(1, 2) == ["a", "f"]
    assert waiting.first() == 2 and waiting.take(2, 1) == ["b"]
    assert waiting.take(1, 5) == ["c", "e"] and waiting.take(3, 1) == ["d"] and not waiting


def test_few_sessions_and_many_groups_are_not_kept_waiting(avatar, monkeypatch):
    monkeypatch.setitem(sessions.LIMITS, "cpu", Limits(4, 1, 1, spacing=1.0))
    with Sessions() as found:
        opened = [found.open(avatar) for _ in range(2)]
        assert found._share_of_space() == 0.5
        opened += [found.open(avatar) for _ in range(6)]
        assert found._share_of_space() == 1.0
        with found._lock:
            for k in range(5):
                found._to_hear.add("one group", 0.0, opened[k])
            found._to_hear.add("another", 0.0, opened[5])
            assert found._to_hear.calls(4) == 3 and found._share_of_space() == 0.25
            found._to_hear = Turns()


def test_whoever_brings_much_at_once_takes_nobody_s_turn():
    clock = Clock()
    assert [clock.due(5.0, 0.2) for _ in range(3)] == pytest.approx([5.0, 5.2, 5.4])
    assert clock.due(5.3, 0.2) == pytest.approx(5.6)
    assert clock.due(9.0, 0.2) == 9.0 and clock.due(9.1, 0.2) == pytest.approx(9.2)


def test_calls_follow_each_other_with_some_space_and_late_ones_at_once(monkeypatch):
    now, slept = [100.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(turns.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(turns.time, "sleep", sleep)
    spacing = Spacing(4.0)
    began = []
    for work in (1.0, 3.0, 9.0, 0.5, 60.0, 0.0):
        spacing.wait()
        spacing.began()
        began.append(now[0])
        now[0] += work
    assert began == pytest.approx([100.0, 104.0, 108.0, 117.0, 121.0, 181.0])
    assert slept == pytest.approx([3.0, 1.0, 3.5])
    spacing.began(0.25)
    spacing.wait()
    assert slept[3:] == pytest.approx([4.0 + 1.0])  # what the last call left, and its own
    hasty = Spacing(0.0)
    for _ in range(3):
        hasty.wait()
        hasty.began()
    assert len(slept) == 4


def test_a_live_session_does_not_wait_for_one_that_brings_all_at_once(avatar, shared, monkeypatch):
    monkeypatch.setattr(drawing, "draw_to_host", slow_nothing)
    bulk, live = (shared.open(avatar, most_ready=60.0, most_waiting=60.0) for _ in range(2))
    bulk.push(voice(8.0))
    bulk.finish()
    live.push(voice(0.8))
    live.finish()
    assert len(list(live.frames())) == 20
    assert len(bulk.ready()) < 100 and len(list(bulk.frames())) > 100


def slow_nothing(avatar, drive):
    time.sleep(0.005)
    return nothing_drawn(avatar, drive)
