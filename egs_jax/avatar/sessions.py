"""Many live speakers in one process: their sound is heard, and their frames are drawn, together.

Before: `speech_batches`, `drawing` and `shared_drawing`; after: a server. Work goes through threads
of three kinds, of which each takes what is due of several sessions at once, those first who are due
first:

* hearing: windows of sound -> features -> batches of frames that can be drawn;
* drawing: batches of one avatar -> a call of the device, which is not waited for;
* delivering: what the device has made -> frames that wait for their reader.

There is one thread of each kind: more would only wait for Python's lock, and find less to do at
once. For that reason calls that hear are spaced on a GPU, and what they give is drawn at once. (On
a CPU two threads hear: each waits for its encoder most of the time.) All queues are bounded, so
that a reader who does not read stops his own session and no other.
"""

import contextlib
import itertools
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

import jax
import numpy as np

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.drawing import IN_FLIGHT, Drawing, dispatch, fetch, warm_up
from egs_jax.avatar.session import Frame, Session, Speech
from egs_jax.avatar.shared_drawing import Shared, compile_shared, dispatch_shared, fetch_shared
from egs_jax.avatar.speech_batches import SpeechBatches, SpokenBatch, composed
from egs_jax.avatar.turns import Spacing, Turns
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.media.voice_activity import Run, VoiceActivity, judge
from egs_jax.runtime.environment import usable_cores
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.programs import padded_counts
from egs_jax.speech.features import listen
from egs_jax.speech.voice_on_device import run_on_device
from egs_jax.speech.window_rows import encode_windows


class Limits(NamedTuple):
    """How much is done at once.

    More than one batch may come in other bits than one alone, so that a CPU does one at a time.
    """

    windows: int
    """Windows of sound that go through the encoder at once."""
    pictures: int
    """Batches of frames that are drawn at once."""
    codes: int
    """Batches of frames whose codes are made at once."""
    hearing: int = 1
    """Threads that hear."""
    is_single: bool = False
    """Whether pictures are drawn one by one, a core each."""
    spacing: float = 0.0
    """Seconds from one call that hears to the next, of many sessions (`turns.Spacing`)."""
    run: Run | None = None
    """What finds out where somebody speaks (`voice_activity.judge`)."""


LIMITS = {"cpu": Limits(1, 1, 1, hearing=2, is_single=True)}
"""By JAX's platform."""
OTHER_LIMITS = Limits(windows=64, pictures=4, codes=64, spacing=0.016, run=run_on_device)
"""Of all others."""


class Task(NamedTuple):
    """What the device is at work on, and for whom."""

    speeches: list[Speech]
    batches: list[SpokenBatch]
    work: Shared | Drawing


class Sessions:
    """A process's live sessions, which share its device.

        with egs_jax.Sessions() as sessions:
            session = sessions.open(avatar, sample_rate=48_000)
            session.push(chunk)              # in any thread
            for frame in session.frames():   # in another one
                show(frame.rgb, at=frame.time)

    A session's frames are those of a `Stream` of its own: on a CPU the same bits, whoever else is
    there; on a GPU, where several are drawn at once, up to rounding.
    """

    def __init__(self) -> None:
        """Start the threads; nothing is compiled before the first frames, or `warm_up`."""
        self._lock = threading.Lock()
        self._heard, self._drawn = (threading.Condition(self._lock) for _ in range(2))
        self._to_hear: Turns[Speech] = Turns()
        self._to_draw: Turns[Speech] = Turns()
        self._open: weakref.WeakSet[Session] = weakref.WeakSet()
        self._is_closed = False
        self._limits = LIMITS.get(jax.default_backend(), OTHER_LIMITS)
        most = usable_cores() if self._limits.is_single else IN_FLIGHT
        self._at_work: queue.Queue[Task | None] = queue.Queue(most)
        self._threads = [
            threading.Thread(target=work, name=work.__name__.strip("_"), daemon=True)
            for work in (*[self._hear] * self._limits.hearing, self._draw, self._deliver)
        ]
        for thread in self._threads:
            thread.start()

    def open(
        self, avatar: Avatar, *, sample_rate: int = SAMPLE_RATE, pictures: bool = True,
        most_waiting: float = 10.0, most_ready: float = 2.0,
        notify: Callable[[], None] | None = None,
    ) -> Session:  # fmt: skip
        """Open a session.

        Args:
          avatar: Who speaks.
          sample_rate: Samples a second of the sound to come; others than 16 kHz are resampled.
          pictures: Whether frames are drawn (`StreamFrame`); otherwise they come as codes that draw
            them elsewhere (`MotionFrame`).
          most_waiting: Sound that may wait to be heard when more comes [s].
          most_ready: Frames that wait for their reader, beyond which no more are drawn [s].
          notify: Called by a thread of the sessions whenever frames have come, or will come no
            more; it must return at once. For readers that cannot wait in `Session.frames`.

        Raises:
          InputError: if the rate is no rate of sound, a limit is no time, the avatar hears sound
            features of which none can be made, or the sessions are closed.
        """
        _ = avatar.kept if pictures else avatar.baked  # made by nobody else's turn
        _ = avatar.path
        session = Session(
            avatar, sample_rate=sample_rate, pictures=pictures, most_waiting=most_waiting,
            most_ready=most_ready, notify=notify, lock=self._lock, look_at=self._look_at,
        )  # fmt: skip
        with self._lock:
            if self._is_closed:
                raise InputError("sessions: they are closed; open new ones")
            self._open.add(session)
        return session

    def warm_up(self, avatar: Avatar, *, pictures: bool = True) -> None:
        """Compile what hears and draws an avatar, for which first frames would wait otherwise."""
        batches = SpeechBatches(avatar)
        features, layout = batches.features, batches.features.layout
        for size in padded_counts(self._limits.windows):
            features.program(np.zeros((size, layout.window_samples), np.float32))
        for samples in (layout.window_samples + layout.window_offset, layout.hop_samples):
            for count in {1, self._limits.windows}:
                listeners = [VoiceActivity() for _ in range(count)]
                judge(listeners, [np.zeros(samples, np.float32)] * count, self._limits.run)
        if pictures and self._limits.is_single:
            return warm_up(avatar)
        most = self._limits.pictures if pictures else self._limits.codes
        silent = batches.push(np.zeros(batches.silent_samples + layout.hop_samples, np.float32))
        return compile_shared(avatar, silent[0], most, pictures=pictures)

    def close(self) -> None:
        """Close all sessions, and end the threads once they have done what is in hand."""
        with self._lock:
            self._is_closed, sessions = True, list(self._open)
            self._heard.notify_all()
            self._drawn.notify_all()
        for session in sessions:
            session.close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    # What sessions call, with the lock held.

    def _look_at(self, speech: Speech) -> None:
        """Let a speech wait for its turn to be heard and drawn, if it can be."""
        if speech.can_be_heard():
            speech.is_hearing = True
            features = speech.batches.features
            due = speech.hearing.due(time.monotonic(), features.layout.hop_frames / FPS)
            self._to_hear.add((features.features, features.layout), due, speech)
            self._heard.notify()
        if speech.can_be_drawn():
            speech.is_listed = True
            group = id(speech.session.avatar), speech.session.pictures
            self._to_draw.add(group, speech.due[0][0], speech)
            self._drawn.notify()

    # The threads.

    def _hear(self) -> None:
        spacing = Spacing(self._limits.spacing)
        while self._waits(self._to_hear, self._heard):
            spacing.wait()
            with self._lock:
                if not self._to_hear:  # another thread was first
                    continue
                taken = self._to_hear.take(self._to_hear.first(), self._limits.windows)
                spacing.began(self._share_of_space())
                speeches = [speech for speech in taken if not speech.is_over]
                sounds = [speech.take_sound() for speech in speeches]
            with self._failing(speeches):
                found = _heard_together(speeches, sounds, self._limits)
                with self._lock:
                    for speech, batches in zip(speeches, found, strict=True):
                        speech.heard(self._parts(speech.session, batches))
                        self._look_at(speech)
                for speech in speeches:
                    if speech.is_done:
                        speech.session.tell()

    def _share_of_space(self) -> float:
        """Return how much space a call is worth: less for few, and where other calls wait."""
        most = self._limits.windows
        return min(len(self._open) / most, 1.0) / (1 + self._to_hear.calls(most))

    def _waits(self, turns: Turns[Speech], arrived: threading.Condition) -> bool:
        """Wait until somebody waits for a turn; False: all is closed."""
        with self._lock:
            while not (turns or self._is_closed):
                arrived.wait()
            return not self._is_closed

    def _parts(self, session: Session, batches: list[SpokenBatch]) -> list[SpokenBatch]:
        """Return what takes a turn each: batches, or frames where these are drawn one by one."""
        if not (session.pictures and self._limits.is_single):
            return batches
        return [frame for batch in batches for frame in batch.single()]

    def _draw(self) -> None:
        while self._waits(self._to_draw, self._drawn):
            with self._lock:
                group = self._to_draw.first()
                _, pictures = group
                most = self._limits.pictures if pictures else self._limits.codes
                taken = self._to_draw.take(group, most)
                speeches = [speech for speech in taken if not speech.is_over]
                batches = [speech.take_due() for speech in speeches]
                for speech in speeches:
                    self._look_at(speech)
            if not speeches:
                continue
            with self._failing(speeches):
                work = self._dispatched(speeches[0].session, batches)
                self._at_work.put(Task(speeches, batches, work))
        self._at_work.put(None)

    def _dispatched(self, session: Session, batches: list[SpokenBatch]) -> Shared | Drawing:
        if session.pictures and self._limits.is_single:
            [batch] = batches
            return dispatch(session.avatar, composed(session.avatar, batch))
        return dispatch_shared(session.avatar, batches, pictures=session.pictures)

    def _deliver(self) -> None:
        while (task := self._at_work.get()) is not None:
            with self._failing(task.speeches):
                frames: list[list[Frame]] = (
                    fetch_shared(task.work) if isinstance(task.work, Shared)
                    else [list(fetch(task.work))]
                )  # fmt: skip
                with self._lock:
                    for speech, batch, own in zip(task.speeches, task.batches, frames, strict=True):
                        speech.deliver(batch, own)
                        self._look_at(speech)
                for speech in task.speeches:
                    speech.session.tell()

    @contextlib.contextmanager
    def _failing(self, speeches: list[Speech]) -> Iterator[None]:
        """Let a failure be that of the speeches it happened to, and of no others."""
        try:
            yield
        except Exception as error:
            with self._lock:
                for speech in speeches:
                    speech.session.fail(speech, error)
            for speech in speeches:
                speech.session.tell()


def _heard_together(
    speeches: list[Speech], sounds: list[np.ndarray], limits: Limits
) -> list[list[SpokenBatch]]:
    """Return the batches that the next window of each speech completes."""
    cuts = [speech.next_cut(sound) for speech, sound in zip(speeches, sounds, strict=True)]
    hearing = [k for k, cut in enumerate(cuts) if cut is not None]
    streams = [speeches[k].batches.features for k in hearing]
    windows = listen(streams, [cuts[k] for k in hearing], limits.run)
    wanted = [stream.wanted(own) for stream, own in zip(streams, windows, strict=True)]
    together = [window for own in wanted for window in own]
    encoded = iter(encode_windows(streams[0].program, together, limits.windows) if streams else ())
    found = {
        k: (window, list(itertools.islice(encoded, len(own))))
        for k, window, own in zip(hearing, windows, wanted, strict=True)
    }
    return [speech.spoken(*found.get(k, (None, []))) for k, speech in enumerate(speeches)]
