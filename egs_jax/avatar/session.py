"""One of many live speakers: what its owner calls, and how far each stage of its work is.

Before: `speech_batches`, `live_sound`; after: `sessions`, whose threads do the work.
"""

import collections
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.drawing import StreamFrame
from egs_jax.avatar.live_sound import LiveSound
from egs_jax.avatar.poses import Viewpoint
from egs_jax.avatar.shared_drawing import MotionFrame
from egs_jax.avatar.speech_batches import SpeechBatches, SpokenBatch, latency
from egs_jax.avatar.turns import Clock
from egs_jax.runtime.errors import InputError
from egs_jax.speech.window_rows import Window

Frame = StreamFrame | MotionFrame
MOST_DUE = 0.4
"""Seconds of frames that wait to be drawn, from which on no more sound is heard."""


class Speech:
    """What a session says until it is interrupted, and what waits between the stages of its work.

    All is called with the sessions' lock held, but `next_cut` and `spoken`: these are for the one
    thread that hears it.

    Attributes:
      batches: Makes batches of what is heard.
      due: Batches that wait to be drawn, and when each is due (`turns.Clock`).
      hearing, drawing: When the next window and the next batch are due.
      out: Frames that wait for their reader, each with its batch.
      is_hearing: Whether it waits for its turn to be heard, or is heard.
      is_listed: Whether it waits for its turn to be drawn.
      is_over: Whether the session has gone on to another one, or is closed: its work is dropped.
    """

    def __init__(self, session: "Session", batches: SpeechBatches):
        """Begin with no sound."""
        self.session, self.batches = session, batches
        self.due: collections.deque[tuple[float, SpokenBatch]] = collections.deque()
        self.out: collections.deque[tuple[SpokenBatch, Frame]] = collections.deque()
        self.hearing, self.drawing = Clock(), Clock()
        self.is_hearing = self.is_listed = self.is_over = False
        self._cuts: collections.deque[np.ndarray] = collections.deque()  # windows of sound
        self._drawn = 0  # frames of batches that are being drawn
        self._is_ending = self._is_cut = self._is_heard = False  # to its end

    @property
    def is_done(self) -> bool:
        """Whether no frame will come any more."""
        return self._is_heard and not (self.due or self._drawn or self.out)

    def can_be_heard(self) -> bool:
        """Tell if there is a next window, and room for what it gives."""
        if self.is_over or self.is_hearing or self._is_heard:
            return False
        if sum(len(batch.frames) / batch.fps for _, batch in self.due) >= MOST_DUE:
            return False
        sound = self.session.sound
        has_sound = sound.is_finished or sound.samples >= self.batches.features.missing
        return bool(self._cuts) or has_sound

    def take_sound(self) -> np.ndarray:
        """Return the sound of the next window."""
        sound = self.session.sound
        taken = sound.take_all(0 if self._cuts else self.batches.features.missing)
        self._is_ending = sound.is_finished and not sound.samples
        return taken

    def next_cut(self, sound: np.ndarray) -> np.ndarray | None:
        """Return the next window, whose sound was taken; None at the end if there is none."""
        features = self.batches.features
        if not self._cuts:
            self.batches.count(sound)
            self._cuts.extend(features.cut(sound))
        if self._is_ending and not (self._cuts or self._is_cut):
            self._cuts.extend(features.cut_rest())
            self._is_cut = True
        return self._cuts.popleft() if self._cuts else None

    def spoken(self, window: Window | None, encoded: Sequence[np.ndarray]) -> list[SpokenBatch]:
        """Return the batches that the window completes, if there was one."""
        features = self.batches.features
        rows = features.nothing if window is None else features.finished(window, encoded)
        return self.batches.take(rows, last=self._is_cut and not self._cuts)

    def heard(self, batches: Sequence[SpokenBatch]) -> None:
        """Take what `spoken` returned, or parts of it."""
        self.is_hearing, self._is_heard = False, self._is_cut and not self._cuts
        now = time.monotonic()
        for batch in batches:
            self.due.append((self.drawing.due(now, len(batch.frames) / batch.fps), batch))

    def can_be_drawn(self) -> bool:
        """Tell if there is something to be drawn, and room for it."""
        if self.is_over or self.is_listed or not self.due:
            return False
        waiting = len(self.out) + self._drawn
        return not waiting or waiting + len(self.due[0][1].frames) <= self.session.most_ready

    def take_due(self) -> SpokenBatch:
        """Return the next batch to be drawn."""
        self.is_listed, (_, batch) = False, self.due.popleft()
        self._drawn += len(batch.frames)
        return batch._replace(view=self.session.view)

    def deliver(self, batch: SpokenBatch, frames: Sequence[Frame]) -> None:
        """Take the frames of a batch."""
        self._drawn -= len(frames)
        self.out.extend((batch, frame) for frame in frames)


class Session:
    """A live speaker of `Sessions`, which open it: sound goes in, frames come out.

    One thread may push, finish and interrupt while another one reads.

    Attributes:
      latency: Seconds of sound after a frame's own time that must be there before it can be made.
      view: From where frames are looked at that are made from now on; may be set at any time. A
        head alone is seen as its clip has it.
    """

    def __init__(
        self, avatar: Avatar, *, sample_rate: int, pictures: bool, most_waiting: float,
        most_ready: float, notify: Callable[[], None] | None, lock: threading.Lock,
        look_at: Callable[[Speech], None],
    ):  # fmt: skip
        """See `Sessions.open`; the last two are the sessions' lock, and what gives a speech turns.

        Raises:
          InputError: as that.
        """
        if not most_ready > 0:
            raise InputError(f"most_ready: got {most_ready}, expected more than 0 seconds")
        self.avatar, self.pictures, self.view = avatar, pictures, Viewpoint()
        self.sound, self.most_ready = (
            LiveSound(sample_rate, most_waiting),
            most_ready * avatar.look.fps,
        )
        self.latency = latency(avatar) + self.sound.delay
        self._notify, self._lock, self._look_at = notify, lock, look_at
        self._arrived = threading.Condition(lock)
        self._speech = Speech(self, SpeechBatches(avatar))
        self._given: SpokenBatch | None = None  # has the last frame that was given,
        self._next = 0  # which is the one before this
        self._error: Exception | None = None
        self._is_closed = False

    @property
    def waiting(self) -> float:
        """Seconds of sound that were pushed and not looked at yet."""
        return self.sound.waiting

    def push(self, samples: Any) -> None:
        """Take the next sound.

        Args:
          samples: Mono, [S]: float in [-1, 1] or int16; no sound (S = 0) is always taken.

        Raises:
          InputError: if they are no such sound, more wait than may, or the session is finished or
            closed. Nothing of the chunk is taken then, and the session can go on.
          RuntimeError: if its work failed; it can only be closed.
        """
        with self._lock:
            self._need_whole()
            self.sound.push(samples)
            self._look_at(self._speech)

    def finish(self) -> None:
        """Let the remaining frames come, as if silence followed; only `interrupt` goes on then.

        Raises:
          InputError: if it is closed.
          RuntimeError: if its work failed.
        """
        with self._lock:
            self._need_whole()
            self.sound.finish()
            self._look_at(self._speech)

    def interrupt(self) -> float:
        """Fall silent: what `Stream.interrupt` does, from the last frame that was read.

        Returns:
          The time at which the next sample to be pushed is heard [s].

        Raises:
          InputError: if it is closed.
          RuntimeError: if its work failed.
        """
        with self._lock:
            self._need_whole()
            self._speech.is_over = True
            self.sound.clear()
            if self._given is None:
                batches = SpeechBatches(self.avatar)
            else:
                batches = SpeechBatches.after(self.avatar, self._given, self._next)
                self.sound.hush(batches.silent_samples)
            self._speech = Speech(self, batches)
            self._look_at(self._speech)
            return 0.0 if self._given is None else batches.heard_from

    def ready(self, most: int | None = None) -> list[Frame]:
        """Return the frames that are there, without waiting, at most so many; possibly none.

        Raises:
          RuntimeError: if its work failed and frames are missing.
        """
        with self._lock:
            found = []
            while self._speech.out and len(found) != most:
                found.append(self._take())
            if not found:
                self._need_no_error()
            self._look_at(self._speech)
        return found

    def frames(self) -> Iterator[Frame]:
        """Iterate over frames as they come, until it is finished and has given all, or is closed.

        Raises:
          RuntimeError: if its work failed and frames are missing.
        """
        while True:
            with self._lock:
                while not (self._speech.out or self._speech.is_done or self._is_closed):
                    self._need_no_error()
                    self._arrived.wait()
                if self._is_closed or not self._speech.out:
                    return
                frame = self._take()
                self._look_at(self._speech)
            yield frame

    @property
    def is_done(self) -> bool:
        """Whether no frame will come any more: it is closed, or finished and has given all."""
        return self._is_closed or self._speech.is_done

    def close(self) -> None:
        """Forget all that waits, and who was notified; the device is free for the others."""
        with self._lock:
            self._is_closed = self._speech.is_over = True
            self._notify = None
            self._speech.out.clear()
            self.sound.clear()
            self._arrived.notify_all()

    def tell(self) -> None:
        """Wake whoever reads."""
        with self._lock:
            self._arrived.notify_all()
            notify = self._notify
        try:
            if notify is not None:
                notify()
        except Exception as error:  # its own fault, and nobody else's
            with self._lock:
                self.fail(self._speech, error)
                self._arrived.notify_all()

    def fail(self, speech: Speech, error: Exception) -> None:
        """Note that the work on a speech failed; with the lock held."""
        if speech is self._speech and not self._is_closed:
            self._error, speech.is_over = error, True

    def _take(self) -> Frame:
        self._given, frame = self._speech.out.popleft()
        self._next = frame.number + 1
        return frame

    def _need_whole(self) -> None:
        if self._is_closed:
            raise InputError("session: it is closed; open another one")
        self._need_no_error()

    def _need_no_error(self) -> None:
        if self._error is not None:
            raise RuntimeError(
                f"session: its work failed and frames are missing ({self._error}); close it"
            ) from self._error
