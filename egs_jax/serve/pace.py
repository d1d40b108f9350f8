"""When frames of a live speaker are sent, and what it hears meanwhile: one clock for both.

Time is that of the speaker's frames: frame i is to be sent when it is i / 25. A frame can be made
only once the sound after it is there, so while a client is silent the speaker is given silence:
just enough that frames keep coming. A client's sound begins a *run*, behind a short cushion of
silence that takes up how unevenly sound arrives. Sound that is there early (a file, a voice that is
synthesized in one go) waits; of live sound, what would come too late is dropped, in pauses as soon
as it can be, so that neither clocks that differ nor a moment's load add up a delay.

Where frames are not ready in time the clock waits for them, and keeps a larger margin from then on.

Before: nothing; after: `speaker`. Functions of the times that they are told, and of nothing else.
"""

import math
from typing import NamedTuple

from egs_jax.media.clock import FPS

MARGIN, MOST_MARGIN = 0.04, 0.4
"""Seconds in which a frame is made after its sound is there: at first, and at most."""
CUSHION = 0.03
"""Seconds of silence before a run: as unevenly as that sound may arrive."""
SLACK, PAUSE_SLACK = 0.25, 0.02
"""Seconds that live sound may wait beyond its cushion before it is dropped: speech, and pauses."""
LATE = 1 / FPS
"""Seconds from which on a frame is late."""
STEP = 0.04
"""Least seconds of silence that are given at once."""
_EASE = 0.999  # by which the margin comes back, a frame: to a third in 40 s


class Taken(NamedTuple):
    """What is done with sound that has arrived."""

    silence: int
    """Samples of silence that are heard before it."""
    is_heard: bool
    """Whether it is heard; else it is dropped."""
    run: float | None
    """When its first sample is heard, where a run begins [s]."""


class Pace:
    """The clock of one speaker.

    Attributes:
      heard: When the next sample to be pushed is heard [s].
      number: Of the next frame to be sent.
      late: How many frames came late.
      dropped: How much sound was dropped [s].
      is_live: Whether sound comes at its own pace.
    """

    def __init__(self, latency: float, rate: int):
        """Begin before the first frame.

        Args:
          latency: Seconds of sound after a frame's own time that it needs.
          rate: Samples a second.
        """
        self._latency, self._rate, self.is_live = latency, rate, False
        self._base, self._samples = 0.0, 0  # what is heard next: so many samples after a time
        self._start: float | None = None  # of frame 0, by the clock of whoever calls
        self._margin, self._is_run = MARGIN, False
        self.number, self.late, self.dropped = 0, 0, 0.0

    @property
    def heard(self) -> float:
        """When the next sample is heard [s]."""
        return self._base + self._samples / self._rate

    @property
    def margin(self) -> float:
        """Seconds that are kept for a frame to be made in."""
        return self._margin

    def time(self, now: float) -> float:
        """Return the time of what is sent now: at most that of the next frame."""
        due = self.number / FPS
        return due if self._start is None else min(now - self._start, due)

    def silence(self, now: float) -> int:
        """Return how many samples of silence have to be heard now for frames to keep coming."""
        missing = -self._spare(now)
        if missing <= 0:
            return 0
        self._is_run = False
        return self._count(max(missing, STEP))

    def take(self, now: float, samples: int, *, is_quiet: bool = False) -> Taken:
        """Take so many samples that have arrived; say if nobody speaks in them."""
        wanted = self.time(now) + self._latency + self._margin + CUSHION
        if self.is_live and self.heard > wanted + (PAUSE_SLACK if is_quiet else SLACK):
            self.refuse(samples)
            return Taken(0, is_heard=False, run=None)
        begins, silence = not self._is_run, 0
        if begins and self.heard < wanted:
            silence = self._count(wanted - self.heard)
        self._is_run, at = True, self.heard
        self._samples += samples
        return Taken(silence, is_heard=True, run=at if begins else None)

    def refuse(self, samples: int) -> None:
        """Note that so many samples are not heard, and end their run."""
        self._is_run = False
        self.dropped += samples / self._rate

    def rest(self, now: float) -> float:
        """Return the seconds in which there is nothing to do: no frame, and no silence."""
        return min(self.wait(now), self._spare(now))

    def _spare(self, now: float) -> float:
        """Return for how long frames come although nothing more is heard [s]."""
        return self.heard - self.time(now) - self._latency - self._margin

    def wait(self, now: float) -> float:
        """Return the seconds until the next frame is to be sent, 0 or less: at once."""
        return 0.0 if self._start is None else self._start + self.number / FPS - now

    def sent(self, now: float) -> None:
        """Note that the next frame is sent."""
        behind = -self.wait(now)
        if self._start is None:
            self._start = now - self.number / FPS
        elif behind > LATE:
            self.late += 1
            self._start += behind
            self._margin = min(self._margin + behind, MOST_MARGIN)
        self._margin = MARGIN + _EASE * (self._margin - MARGIN)
        self.number += 1

    def interrupted(self, heard: float) -> None:
        """Go on after an interruption, from which on the next sample is heard at a time [s]."""
        self._base, self._samples, self._is_run = heard, 0, False

    def _count(self, seconds: float) -> int:
        """Return the samples of at least so many seconds, which are heard next."""
        count = math.ceil(seconds * self._rate)
        self._samples += count
        return count
