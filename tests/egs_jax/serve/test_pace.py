"""The clock of a live speaker, told made-up times: frames keep coming, delays stay bounded."""

import numpy as np
import pytest

from egs_jax.media.clock import FPS
from egs_jax.serve.pace import CUSHION, LATE, MARGIN, MOST_MARGIN, PAUSE_SLACK, SLACK, STEP, Pace

LATENCY, RATE = 0.5, 16_000
NEEDED = LATENCY + MARGIN


class Speaking:
    """A pace in simulated time, whose frames are made a while after their sound is there."""

    def __init__(self, takes=0.01):
        self.pace, self.now, self.takes = Pace(LATENCY, RATE), 100.0, takes
        self.silence = 0
        self.there = []  # when sound was pushed, and until what time is heard then
        self.sent = []

    def until(self, stop, step=0.005):
        while self.now < stop:
            self.silence += self.pace.silence(self.now)
            self.note()
            if self.pace.wait(self.now) <= 0 and self.is_made():
                self.pace.sent(self.now)
                self.sent.append(self.now)
            self.now += step

    def note(self):
        self.there.append((self.now, self.pace.heard))

    def is_made(self):
        needed = self.pace.number / FPS + LATENCY
        return any(
            heard >= needed - 1e-6 for at, heard in self.there if at <= self.now - self.takes
        )

    def say(self, seconds, is_quiet=False):
        taken = self.pace.take(self.now, round(seconds * RATE), is_quiet=is_quiet)
        self.note()
        return taken


def test_silence_keeps_frames_coming_and_no_more():
    speaking = Speaking()
    speaking.until(102.0)
    gaps = np.diff(speaking.sent)
    assert len(speaking.sent) == pytest.approx(2 * FPS, abs=2)
    assert gaps.max() < 1 / FPS + 0.011 and speaking.pace.late == 0
    ahead = speaking.pace.heard - speaking.pace.time(speaking.now)
    assert NEEDED - 0.01 <= ahead <= NEEDED + STEP + 0.01


def test_live_sound_begins_behind_a_cushion_and_is_not_torn():
    speaking = Speaking()
    speaking.until(101.0)
    rng, runs, before = np.random.default_rng(0), [], speaking.silence
    for k in range(100):  # 2 s in pieces of 20 ms that come up to 15 ms late
        speaking.until(101.0 + 0.02 * k + rng.uniform(0, 0.015))
        taken = speaking.say(0.02)
        runs += [taken.run] if taken.run is not None else []
        assert taken.is_heard
    assert len(runs) == 1 and speaking.silence == before
    assert runs[0] == pytest.approx(1.0 + NEEDED + CUSHION, abs=0.05)
    assert speaking.pace.late == 0


def test_what_comes_too_fast_is_dropped_if_it_is_live():
    speaking = Speaking()
    speaking.pace.is_live = True
    for k in range(1000):  # a clock that is 5 % too fast, 20 s long
        speaking.until(100 + 0.02 * k / 1.05)
        speaking.say(0.02)
    ahead = speaking.pace.heard - speaking.pace.time(speaking.now)
    assert ahead < NEEDED + CUSHION + SLACK + 0.05
    assert speaking.pace.dropped == pytest.approx(20 * 0.05 / 1.05, abs=0.5)


def test_a_delay_that_a_moments_load_left_goes_in_the_next_pause():
    speaking = Speaking()
    speaking.pace.is_live = True
    for k in range(300):
        speaking.takes = 0.3 if 50 < k < 60 else 0.005
        speaking.until(100 + 0.02 * k)
        speaking.say(0.02, is_quiet=250 < k)
    pace = speaking.pace
    assert 0 < pace.dropped < 0.4 and pace.late > 0
    ahead = pace.heard - pace.time(speaking.now)
    assert ahead < LATENCY + pace.margin + CUSHION + PAUSE_SLACK + 0.045


def test_what_comes_at_once_waits_if_it_is_not():
    speaking = Speaking()
    speaking.until(101.0)
    runs = [speaking.say(0.5).run for _ in range(20)]
    assert runs[0] is not None and runs[1:] == [None] * 19 and speaking.pace.dropped == 0
    silence = speaking.silence
    speaking.until(109.0)
    assert speaking.silence == silence
    speaking.until(113.0)
    assert speaking.silence > silence and speaking.say(0.02).run is not None


def test_late_frames_move_the_clock_and_make_it_careful():
    speaking = Speaking(takes=0.2)
    speaking.until(105.0)
    pace = speaking.pace
    assert 1 <= pace.late <= 3 and 0.15 < pace.margin < 0.35
    speaking.takes = 3.0
    speaking.until(120.0)
    assert pace.margin <= MOST_MARGIN
    speaking.takes = 0.001
    speaking.until(240.0, step=0.02)
    assert pace.margin < MARGIN + 0.05
    assert pace.time(speaking.now) <= pace.number / FPS


def test_a_little_late_is_made_up_for():
    pace = Pace(LATENCY, RATE)
    pace.sent(10.0)
    pace.sent(10.04 + LATE - 0.001)
    assert pace.late == 0 and pace.wait(10.08) == pytest.approx(0.0)


def test_after_an_interruption_sound_is_heard_when_the_speaker_says():
    speaking = Speaking()
    speaking.until(101.0)
    speaking.say(8.0)
    speaking.pace.interrupted(1.6)
    assert speaking.pace.heard == 1.6
    taken = speaking.say(0.1)
    assert taken.run == pytest.approx(max(1.6, speaking.pace.time(speaking.now) + NEEDED + CUSHION))


def test_what_has_no_room_ends_its_run():
    speaking = Speaking()
    speaking.until(101.0)
    speaking.say(1.0)
    speaking.pace.refuse(1600)
    assert speaking.pace.dropped == pytest.approx(0.1)
    assert speaking.say(0.1).run is not None
