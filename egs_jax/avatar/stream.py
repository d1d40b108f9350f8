"""Speech in chunks of any size -> frames with timestamps, live or from a file, with the same bits.

Frames are always drawn in the same batches by one compiled program (on a CPU: one by one),
however the sound arrives. A block of ten feature rows makes five frames ready; these are a batch.
Frame i has place (i + lead) mod 5, where `lead` frames are missing from the first block: the rows
that a frame hears reach beyond its own time. Features of a shorter look-ahead come in shorter
blocks (`speech.layout`), and batches are as short.
"""

import collections
import concurrent.futures
import functools
import operator
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import Pictures, compile_kernels, num_video_frames
from egs_jax.avatar.drive import compose
from egs_jax.avatar.to_host import draw_to_host
from egs_jax.media.audio_file import LARGEST_PEAK
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.media.sound_tracks import RATES
from egs_jax.runtime.environment import usable_cores
from egs_jax.runtime.errors import InputError
from egs_jax.speech.layout import DEFAULT, ENTRY_ROWS, FRAME_ROWS
from egs_jax.types import Drive

MICRO_BATCH = DEFAULT.hop_frames
"""Frames drawn at once, by default."""
PIECE = DEFAULT.batch * DEFAULT.hop_samples
"""Samples whose features are computed at once."""
IN_FLIGHT = 2
"""Batches that the device may be at work on while the host takes the one before them."""


class MicroBatch(NamedTuple):
    """Frames to draw at once, some of which may be there only to fill their number."""

    frames: Int[np.ndarray, " F"]
    """Numbers of the frames that count, in order."""
    first: int
    """Place of the first of them."""
    drive: Drive


class StreamFrame(NamedTuple):
    """One drawn frame."""

    number: int
    time: float
    """When it is to be shown, seconds from the first sample."""
    rgb: UInt8[np.ndarray, "H Wd 3"]
    """Head over its background; read-only, a copy can be drawn on."""
    alpha: UInt8[np.ndarray, "H Wd"]
    """Share of the head in each pixel."""


class Drawing(NamedTuple):
    """A batch that is being drawn."""

    frames: Int[np.ndarray, " F"]
    """Numbers of the frames that count, in order."""
    first: int
    """Place of the first of them."""
    parts: list[concurrent.futures.Future[Pictures]]


class SpeechBatches:
    """A stream from 16 kHz sound to batches to draw, in constant memory."""

    def __init__(self, avatar: Avatar):
        """Start at sample 0 and frame 0."""
        self._scene, self._path, self._seed = avatar.scene, avatar.path, avatar.config.seed
        self._window, layout = avatar.config.model.window_frames, avatar.scene.layout
        self._features = avatar.scene.listener()
        self._rows = np.zeros((0, avatar.scene.silence.shape[1]), np.float32)
        self._first_row = self._samples = 0
        self._size, self._lead = layout.hop_frames, layout.lead_frames(self._window)
        self._oldest = int(layout.offsets(self._window).min())
        self._batch = self._lead // self._size  # the first that has frame 0 or a later one

    def push(self, samples: Float[np.ndarray, " S"]) -> list[MicroBatch]:
        """Take the next samples; return the batches that they complete."""
        self._samples += len(samples)
        return self._take(self._features.push(samples), last=False)

    def finish(self) -> list[MicroBatch]:
        """Return the remaining batches, as if silence followed; none if there was no sound."""
        return [] if self._samples == 0 else self._take(self._features.finish(), last=True)

    def _take(self, rows: np.ndarray, *, last: bool) -> list[MicroBatch]:
        self._rows = np.concatenate([self._rows, rows])
        ready = (self._first_row + len(self._rows)) // FRAME_ROWS - self._lead
        if last:
            ready = num_video_frames(self._samples)
        batches = []
        while True:
            first = self._batch * self._size - self._lead
            if first + (1 if last else self._size) > ready:
                return batches
            batches.append(self._compose(first, ready))
            self._batch += 1
            kept = FRAME_ROWS * (first + self._size + self._oldest) - ENTRY_ROWS // 2
            kept = max(kept, self._first_row)
            self._rows, self._first_row = self._rows[kept - self._first_row :], kept

    def _compose(self, first: int, ready: int) -> MicroBatch:
        frames = np.arange(first, first + self._size)
        shown = np.clip(frames, 0, ready - 1)
        drive = compose(
            self._scene, self._path, self._rows, self._first_row, shown, self._window, self._seed
        )
        counted = frames == shown
        return MicroBatch(frames[counted], int(np.argmax(counted)), drive)


def latency(avatar: Avatar) -> float:
    """Seconds of sound after a frame's own time that must be heard before it can be drawn.

    The longest of a batch, whose first frame waits for the last one; the time to draw comes on top.
    """
    return avatar.scene.layout.look_ahead(avatar.config.model.window_frames)


def speech_batches(avatar: Avatar, chunks: Iterable[np.ndarray]) -> Iterator[MicroBatch]:
    """Yield the batches of a whole speech, given as 16 kHz chunks, in constant memory."""
    batches, waiting = SpeechBatches(avatar), np.zeros(0, np.float32)
    for chunk in chunks:
        waiting = np.concatenate([waiting, chunk])
        while len(waiting) >= PIECE:
            yield from batches.push(waiting[:PIECE])
            waiting = waiting[PIECE:]
    yield from batches.push(waiting)
    yield from batches.finish()


@functools.cache
def _workers() -> tuple[concurrent.futures.ThreadPoolExecutor, int]:
    """Return the threads that draw, and how many frames a thread draws at once.

    A CPU draws a frame a core: several cores in one frame are kept busy poorly (measured on two
    cores, `fast` preset: 40 ms a frame instead of 55).
    """
    on_cpu = jax.default_backend() == "cpu"
    pool = concurrent.futures.ThreadPoolExecutor(usable_cores() if on_cpu else IN_FLIGHT)
    return pool, 1 if on_cpu else MICRO_BATCH


def dispatch(avatar: Avatar, batch: MicroBatch) -> Drawing:
    """Have a batch drawn and copied to the host, without waiting for either."""
    pool, at_once = _workers()
    _ = avatar.kept  # once, not by every thread
    part = lambda at: jax.tree.map(lambda v: v[at : at + at_once], batch.drive)
    parts = [part(at) for at in range(0, len(batch.drive.eyes), at_once)]
    return Drawing(
        batch.frames, batch.first, [pool.submit(draw_to_host, avatar, drive) for drive in parts]
    )


def warm_up(avatar: Avatar) -> None:
    """Have the drawing compiled: draw what a thread draws at once, for nobody."""
    scene, config, (_, at_once) = avatar.scene, avatar.config, _workers()
    frames = np.zeros(min(at_once, scene.layout.hop_frames), int)
    unheard, window = scene.silence[:0], config.model.window_frames
    drive = compose(scene, avatar.path, unheard, 0, frames, window, config.seed)
    compile_kernels(avatar, drive)
    for part in dispatch(avatar, MicroBatch(frames[:0], 0, drive)).parts:
        part.result()


def fetch(drawing: Drawing) -> Iterator[StreamFrame]:
    """Wait for a batch; its frames."""
    pictures = [
        picture
        for part in drawing.parts
        for picture in zip(*jax.tree.leaves(part.result()), strict=True)
    ]
    for place, number in enumerate(drawing.frames.tolist(), drawing.first):
        rgb, alpha = pictures[place]
        yield StreamFrame(number, number / FPS, rgb, alpha)


def draw_all(avatar: Avatar, batches: Iterable[MicroBatch]) -> Iterator[StreamFrame]:
    """Yield the frames of all batches; `IN_FLIGHT` of them are drawn while another is taken."""
    drawing: collections.deque[Drawing] = collections.deque()
    for batch in batches:
        drawing.append(dispatch(avatar, batch))
        if len(drawing) > IN_FLIGHT:
            yield from fetch(drawing.popleft())
    for rest in drawing:
        yield from fetch(rest)


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
    say, push silence. One thread at a time may use a stream.

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
        try:
            self._rate = operator.index(sample_rate)
        except TypeError:
            self._rate = 0
        if not RATES[0] <= self._rate <= RATES[1]:
            raise InputError(
                f"sample_rate: got {sample_rate}, expected a whole number of Hz from {RATES[0]} to "
                f"{RATES[1]}; name the rate of the sound"
            )
        if not most_waiting > 0:
            raise InputError(f"most_waiting: got {most_waiting}, expected more than 0 seconds")
        self._avatar, self._most_waiting = avatar, most_waiting
        self.latency = latency(avatar) + _resampling_delay(self._rate)
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
        self._batches, self._resampler = SpeechBatches(self._avatar), _resampler(self._rate)
        self._sound: collections.deque[np.ndarray] = collections.deque()  # waits for features
        self._due: collections.deque[MicroBatch] = collections.deque()
        self._drawing: collections.deque[Drawing] = collections.deque()
        self._frames: collections.deque[StreamFrame] = collections.deque()
        self._is_finished = self._is_flushed = self._is_broken = False

    @property
    def waiting(self) -> float:
        """Seconds of sound that were pushed and not looked at yet."""
        return sum(map(len, self._sound)) / SAMPLE_RATE

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
        chunk = _checked(samples)
        self._need_whole()
        if self._is_finished:
            raise InputError("stream: it is finished; call reset before more sound")
        if len(chunk) and self.waiting > self._most_waiting:
            raise InputError(
                f"stream: {self.waiting:.1f} s of sound wait to be drawn, at most "
                f"{self._most_waiting:g}; take the frames of earlier calls first"
            )
        self._hear(chunk if self._resampler is None else self._resampler.resample_chunk(chunk))
        return self._drawn()

    def finish(self) -> Iterator[StreamFrame]:
        """Iterate over the remaining frames, as if silence followed; only `reset` goes on then."""
        self._need_whole()
        if not self._is_finished:
            if self._resampler is not None:
                self._hear(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
            self._is_finished = True
        return self._drawn()

    def _hear(self, samples: np.ndarray) -> None:
        if len(samples):
            self._sound.append(np.clip(samples, -1.0, 1.0))

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
                yield self._frames.popleft()

    def _advance(self) -> bool:
        """Do one piece of work, the latest stage first; False if there is none."""
        if len(self._drawing) > IN_FLIGHT or (self._drawing and not (self._due or self._sound)):
            self._frames.extend(fetch(self._drawing.popleft()))
        elif self._due:
            self._drawing.append(dispatch(self._avatar, self._due.popleft()))
        elif self._sound:
            sound = self._sound.popleft()
            if len(sound) > PIECE:
                self._sound.appendleft(sound[PIECE:])
            self._due.extend(self._batches.push(sound[:PIECE]))
        elif self._is_finished and not self._is_flushed:
            self._is_flushed = True
            self._due.extend(self._batches.finish())
        else:
            return False
        return True


def _resampler(rate: int) -> Any:
    """Return a resampler from `rate` to 16 kHz, or None where there is nothing to do."""
    if rate == SAMPLE_RATE:
        return None
    import soxr  # noqa: PLC0415

    return soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", quality="HQ")


def _resampling_delay(rate: int) -> float:
    """Return the longest time for which sound stays in the resampler [s]."""
    resampler, given, delay = _resampler(rate), 0, 0.0
    step = np.zeros(rate // 1000, np.float32)
    for count in range(1, 500 if resampler else 0):
        given += len(resampler.resample_chunk(step))
        delay = max(delay, count * len(step) / rate - given / SAMPLE_RATE)
    return delay


def _checked(samples: Any) -> Float[np.ndarray, " S"]:
    """Return sound as float32, or raise an `InputError`."""
    try:
        samples = np.asarray(samples)
    except ValueError:  # ragged
        samples = np.empty((0, 0), object)
    if samples.ndim != 1 or not (samples.dtype == np.int16 or samples.dtype.kind == "f"):
        raise InputError(
            f"stream: got {samples.dtype} {list(samples.shape)}, expected mono sound of one "
            "dimension, float in -1 ... 1 or int16; convert it first"
        )
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / 32768
    with np.errstate(over="ignore"):  # which is seen below
        samples = samples.astype(np.float32)
    if not np.isfinite(samples).all():
        raise InputError("stream: the chunk has NaN or infinite samples; drop or repair it")
    if np.abs(samples).max(initial=0.0) > LARGEST_PEAK:
        raise InputError(
            "stream: the chunk is far beyond full scale; float sound must lie in -1 ... 1"
        )
    return samples
