"""A live avatar: sound in chunks of any size -> frames with timestamps, with the bits of a film.

Before: `speech_batches` and `drawing`, which a film goes through as well; one speaker and one
thread. Many at once: `sessions`.
"""

import collections
from collections.abc import Iterator
from typing import Any

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.drawing import IN_FLIGHT, Drawing, StreamFrame, dispatch, fetch, warm_up
from egs_jax.avatar.live_sound import LiveSound
from egs_jax.avatar.speech_batches import PIECE, SpeechBatches, SpokenBatch, composed, latency
from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.runtime.errors import InputError


class Stream:
    """A live avatar, drawn as it speaks sound that arrives bit by bit.

        stream = egs_jax.Stream(avatar, sample_rate=48_000)
        for chunk in microphone:
            for frame in stream.push(chunk):
                show(frame.rgb, at=frame.time)
        for frame in stream.finish():
            show(frame.rgb, at=frame.time)

    The frames are the same bits for any sizes of chunks, and those of `render_video`. Speech is
    heard as loud as in training, however loud it comes, and where nobody speaks the mouth rests
    (`speech.level`); what was heard before `reset` no longer counts. A frame can
    be drawn once `latency` seconds of sound after its time are there. Where there is nothing to
    say, push silence, also after `interrupt`. One thread at a time may use a stream.

    Attributes:
      latency: See there, with the resampler's own [s].
    """

    def __init__(self, avatar: Avatar, *, sample_rate: int = SAMPLE_RATE, most_waiting: float = 10):
        """Open a stream; nothing is compiled before the first frames, or `warm_up`.

        Args:
          avatar: Who speaks.
          sample_rate: Samples a second of the sound to come; others than 16 kHz are resampled.
          most_waiting: Sound that may wait to be drawn when more comes [s].

        Raises:
          InputError: if the rate is no rate of sound, or no sound may wait.
        """
        self._sound = LiveSound(sample_rate, most_waiting)
        self._avatar = avatar
        self.latency = latency(avatar) + self._sound.delay
        self.reset()

    def warm_up(self) -> None:
        """Compile what draws, seconds to minutes, for which the first frames would wait otherwise.

        Once a process: other streams of the same avatar are warm then too.
        """
        warm_up(self._avatar)

    def reset(self) -> None:
        """Forget everything: the next sample is at time 0, the next frame is frame 0.

        Iterators of earlier calls give the new frames too.
        """
        self._given: SpokenBatch | None = None  # has the last frame that was given,
        self._next = 0  # which is the one before this
        self._begin(SpeechBatches(self._avatar))

    def _begin(self, batches: SpeechBatches) -> None:
        """Forget what waits, and go on with the next sound."""
        self._batches = batches
        self._sound.clear()
        self._due: collections.deque[SpokenBatch] = collections.deque()
        self._drawing: collections.deque[tuple[SpokenBatch, Drawing]] = collections.deque()
        self._frames: collections.deque[tuple[SpokenBatch, StreamFrame]] = collections.deque()
        self._is_flushed = self._is_broken = False

    def interrupt(self) -> float:
        """Fall silent: drop sound that waits and frames that were not given yet.

        Frame numbers, times, poses and blinks go on from the last frame that was given, and the
        mouth shuts from where it is: in frames at least `latency` after that one it is at rest. A
        few frames can be drawn at once, as if silence had been pushed in the place of the sound
        that they waited for; the others need sound as ever: push what is to be said next, or
        silence. What is pushed next is heard as by a new stream. A finished stream goes on.

        What follows is a function of the frames that were given and of the sound to come.

        Returns:
          The time at which the next sample to be pushed is heard [s]: that of the next frame, plus
          `latency`; 0 if no frame was given, which is the same as `reset`.

        Raises:
          InputError: if an earlier call failed while it drew: only `reset` helps.
        """
        self._need_whole()
        if self._given is None:
            self.reset()
            return 0.0
        batches = SpeechBatches.after(self._avatar, self._given, self._next)
        self._begin(batches)
        self._sound.hush(batches.silent_samples)
        return batches.heard_from

    @property
    def waiting(self) -> float:
        """Seconds of sound that were pushed and not looked at yet."""
        return self._sound.waiting

    def push(self, samples: Any) -> Iterator[StreamFrame]:
        """Take the next sound; iterate over the frames that can be drawn now, possibly none.

        They are drawn while they are iterated over. Frames that are left are among those of the
        next call, and the sound that they wait for is kept, up to a limit; no sound (S = 0) is
        always taken.

        Args:
          samples: Mono, [S]: float in [-1, 1] or int16.

        Raises:
          InputError: if they are no such sound, more wait than may, or the stream is finished.
            Nothing of the chunk is taken then, and the stream can go on. Also if an earlier call
            failed while it drew: frames are missing, only `reset` helps.
        """
        self._need_whole()
        self._sound.push(samples)
        return self._drawn()

    def finish(self) -> Iterator[StreamFrame]:
        """Iterate over the remaining frames, as if silence followed.

        Only `reset` or `interrupt` go on then.
        """
        self._need_whole()
        self._sound.finish()
        return self._drawn()

    def _need_whole(self) -> None:
        if self._is_broken:
            raise InputError("stream: an earlier call failed and frames are missing; call reset")

    def _drawn(self) -> Iterator[StreamFrame]:
        while True:
            self._need_whole()
            self._is_broken = True  # until this has gone well
            is_at_work = bool(self._frames) or self._advance()
            self._is_broken = False
            if not is_at_work:
                return
            if self._frames:
                self._given, frame = self._frames.popleft()
                self._next = frame.number + 1
                yield frame

    def _advance(self) -> bool:
        """Do one piece of work, the latest stage first; False if there is none."""
        if len(self._drawing) > IN_FLIGHT or (self._drawing and not (self._due or self._sound)):
            batch, drawing = self._drawing.popleft()
            self._frames.extend((batch, frame) for frame in fetch(drawing))
        elif self._due:
            batch = self._due.popleft()
            self._drawing.append((batch, dispatch(self._avatar, composed(self._avatar, batch))))
        elif self._sound:
            self._due.extend(self._batches.push(self._sound.take(PIECE)))
        elif self._sound.is_finished and not self._is_flushed:
            self._is_flushed = True
            self._due.extend(self._batches.finish())
        else:
            return False
        return True
