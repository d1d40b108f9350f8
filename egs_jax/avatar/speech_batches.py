"""Speech in chunks of any size -> what drives batches of frames, in constant memory.

Before: `speech.features`; after: `drawing`, `stream` and `sessions`. A block of ten feature rows
makes five frames ready; these are a batch. Frame i has place (i + lead) mod 5, where `lead` frames
are missing from the first block: the rows that a frame hears reach beyond its own time. Features of
a shorter look-ahead come in shorter blocks (`speech.layout`), and batches are as short. A film of
another rate than 25 has in a batch all its frames after the last of those five before, up to the
last of these.

A speech that is interrupted goes on as another one (`SpeechBatches.after`): up to the *seam*, the
first row that no frame given so far has heard, rows stay what they were; from there those before
it, backwards, fade into those of the new sound. So the mouth comes to rest as after any word, and
what follows depends on the rows before the seam, the new sound, and nothing else.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Float, Int

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import num_video_frames
from egs_jax.avatar.drive import compose
from egs_jax.avatar.poses import Viewpoint, looked_at
from egs_jax.media.clock import FPS, SAMPLE_RATE, places
from egs_jax.speech.features import FeatureStream, Rows
from egs_jax.speech.layout import DEFAULT, ENTRY_ROWS, FRAME_ROWS, ROW_SAMPLES, Layout
from egs_jax.types import Drive

PIECE = DEFAULT.hop_samples
"""Samples whose features are computed at once."""
FADE_ROWS = 10
"""Most rows (0.2 s) over which speech fades at a seam; less where less latency is stated."""
_OPEN = 0.5  # of the gate: from here on somebody speaks


class SpokenBatch(NamedTuple):
    """Frames to draw at once, some of which may be there only to fill their number."""

    frames: Int[np.ndarray, " F"]
    """Numbers of the frames that count, in order."""
    first: int
    """Place of the first of them."""
    shown: Int[np.ndarray, " B"]
    """Number of the frame in every place: those that fill repeat one that counts."""
    rows: Float[np.ndarray, "R F"]
    """All rows that any of the places hears, silence where there is no sound."""
    openness: Float[np.ndarray, " R"]
    """How far the gate of the voice is open at each."""
    first_row: int
    """Number of the first of `rows`; row r is at r / 50 s."""
    fps: int
    """Frames a second."""
    view: Viewpoint = Viewpoint()
    """From where it is looked at."""

    @property
    def speaking(self) -> Bool[np.ndarray, " B"]:
        """Whether somebody speaks at the time of each place's frame."""
        rows, _ = places(self.shown, self.fps, FRAME_ROWS * FPS)
        return self.openness[rows - self.first_row] > _OPEN

    def single(self) -> list[Self]:
        """Return the frames that count as batches of their own."""
        part = lambda k: self._replace(frames=self.frames[k : k + 1], first=0,
                                       shown=self.frames[k : k + 1])  # fmt: skip
        return [part(k) for k in range(len(self.frames))]


class MicroBatch(NamedTuple):
    """Such frames with all that draws them."""

    frames: Int[np.ndarray, " F"]
    """Numbers of the frames that count, in order."""
    first: int
    """Place of the first of them."""
    speaking: Bool[np.ndarray, " B"]
    """Whether somebody speaks."""
    drive: Drive


class SpeechBatches:
    """A stream from 16 kHz sound to batches to draw, in constant memory."""

    def __init__(self, avatar: Avatar):
        """Start at sample 0 and frame 0."""
        self._silence, self._layout = avatar.scene.silence, avatar.scene.layout
        self._window = avatar.config.model.window_frames
        self.features: FeatureStream = avatar.scene.listener()
        self._rows = Rows(self._silence[:0], np.zeros(0, np.float32))
        self._first_row = self._samples = 0
        self._size, self._lead = self._layout.hop_frames, self._layout.lead_frames(self._window)
        offsets = self._layout.offsets(self._window)
        self._oldest, self._span = int(offsets.min()), int(np.ptp(offsets))
        self._batch = self._lead // self._size  # the first that has frame 0 or a later one
        self._fps, self._places = avatar.look.fps, num_places(avatar)
        self._before = 0 if self._fps == FPS else 1  # frames that a batch reaches back
        self._start, self._zero = 0, 0  # the first frame that counts; its clock's zero, at 25 fps
        self._fading, self._rise = self._rows, np.zeros(0, np.float32)  # of a seam

    @classmethod
    def after(cls, avatar: Avatar, given: SpokenBatch, number: int) -> Self:
        """Go on where a speech is interrupted.

        The next frame comes as soon as `silent_samples` are pushed, which stand for the sound that
        it waited for; what comes after them is heard at the time `heard_from`.

        Args:
          avatar: Who speaks.
          given: The batch that has the last frame that was given.
          number: Of the next frame.
        """
        batches = cls(avatar)
        # On the new speech's clock the seam is row 0, and the frames before the first batch's are
        # those that come between two at 25 a second.
        last = -(-(number - 1) * FPS // batches._fps)
        batches._batch, batches._start = 0 if number * FPS > last * batches._fps else -1, number
        batches._zero = last + 1 + batches._lead
        stop = FRAME_ROWS * batches._zero - given.first_row
        batches._rows = _part(Rows(given.rows, given.openness), slice(stop))
        batches._first_row = -stop
        count = cls.fade_rows(batches._layout, batches._window)
        batches._rise = (np.arange(count, dtype=np.float32) + 1) / (count + 1)
        batches._fading = _part(batches._rows, slice(-1, -count - 1, -1))
        return batches

    @staticmethod
    def fade_rows(layout: Layout, window_frames: int) -> int:
        """Return the rows over which speech fades at a seam, at most `FADE_ROWS`.

        The frame that comes the stated latency after the last one that was given is the first one
        whose own rows are behind them.
        """
        stated = round(layout.look_ahead(window_frames) * SAMPLE_RATE) // ROW_SAMPLES
        return min(FADE_ROWS, stated - FRAME_ROWS * (layout.lead_frames(window_frames) + 1))

    @property
    def silent_samples(self) -> int:
        """Samples of silence that make the first frames after an interruption ready."""
        rows = FRAME_ROWS * self._lead
        return round(self._layout.look_ahead(self._window) * SAMPLE_RATE) - rows * ROW_SAMPLES

    @property
    def heard_from(self) -> float:
        """Seconds from the stream's first sample to what follows on `silent_samples`."""
        return (FRAME_ROWS * self._zero * ROW_SAMPLES + self.silent_samples) / SAMPLE_RATE

    def push(self, samples: Float[np.ndarray, " S"]) -> list[SpokenBatch]:
        """Take the next samples; return the batches that they complete."""
        self.count(samples)
        return self.take(self.features.hear(samples), last=False)

    def finish(self) -> list[SpokenBatch]:
        """Return the remaining batches, as if silence followed; none if there was no sound."""
        return self.take(self.features.hear_rest(), last=True)

    def count(self, samples: Float[np.ndarray, " S"]) -> None:
        """Note samples of which `features` is told by another."""
        self._samples += len(samples)

    def take(self, rows: Rows, *, last: bool) -> list[SpokenBatch]:
        """Take the next rows that `features` finished; return the batches that they complete.

        Args:
          rows: The rows.
          last: Whether there are no others: the remaining frames then hear silence. Without any
            sound there is no frame.
        """
        if last and self._samples == 0:
            return []
        self._rows = _joined(self._rows, self._faded(rows))
        ready = (self._first_row + len(self._rows.features)) // FRAME_ROWS - self._lead
        end = None
        if last:
            before = self._zero * FRAME_ROWS * ROW_SAMPLES
            end = num_video_frames(before + self._samples, self._fps)
        batches = []
        while True:
            first = self._batch * self._size - self._lead
            is_ready = first + self._size <= ready if end is None else self._numbers(first)[0] < end
            if not is_ready:
                return batches
            batches.append(self._spoken(first, end))
            self._batch += 1
            kept = FRAME_ROWS * (first + self._size - self._before + self._oldest) - ENTRY_ROWS // 2
            kept = max(kept, self._first_row)
            self._rows = _part(self._rows, slice(kept - self._first_row, None))
            self._first_row = kept

    def _faded(self, rows: Rows) -> Rows:
        """Let what is left of the speech before a seam fade into the next rows."""
        count = min(len(self._rise), len(rows.openness))
        if not count:
            return rows
        rise, old, new = self._rise[:count], _part(self._fading, slice(count)), rows
        self._rise, self._fading = self._rise[count:], _part(self._fading, slice(count, None))
        features = old.features * (1 - rise)[:, None] + new.features[:count] * rise[:, None]
        openness = old.openness * (1 - rise) + new.openness[:count] * rise
        return _joined(Rows(features, openness), _part(new, slice(count, None)))

    def _numbers(self, first: int) -> range:
        """Return the film's frames of the batch that begins at a frame of 25 a second."""
        ends = (first + self._zero - 1, first + self._zero + self._size - 1)
        return range(*(at * self._fps // FPS + 1 for at in ends))

    def _spoken(self, first: int, end: int | None) -> SpokenBatch:
        numbers = self._numbers(first)
        frames = numbers.start + np.arange(self._places)
        stop = numbers.stop if end is None else min(numbers.stop, end)
        shown = np.minimum(np.maximum(frames, self._start), stop - 1)
        counted = frames == shown
        start = FRAME_ROWS * (first - self._before + self._oldest) - ENTRY_ROWS // 2
        count = FRAME_ROWS * (self._size - 1 + self._before + self._span) + ENTRY_ROWS
        return SpokenBatch(
            frames[counted], int(np.argmax(counted)), shown, *self._between(start, count),
            start + FRAME_ROWS * self._zero, self._fps,
        )  # fmt: skip

    def _between(self, start: int, count: int) -> Rows:
        """Return `count` rows from `start` on, silence where there are none."""
        place = np.arange(start, start + count) - self._first_row
        inside = (place >= 0) & (place < len(self._rows.features))
        if inside.all():
            return _part(self._rows, slice(place[0], place[-1] + 1))
        features = self._silence[(place + self._first_row) % len(self._silence)]
        openness = np.zeros(count, np.float32)
        features[inside] = self._rows.features[place[inside]]
        openness[inside] = self._rows.openness[place[inside]]
        return Rows(features, openness)


def _part(rows: Rows, places: slice) -> Rows:
    return Rows(*(part[places] for part in rows))


def _joined(first: Rows, second: Rows) -> Rows:
    return Rows(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))


def composed(avatar: Avatar, batch: SpokenBatch) -> MicroBatch:
    """Add to a batch what draws it."""
    config = avatar.config
    drive = compose(
        avatar.scene, avatar.path, batch.rows, batch.first_row, batch.shown,
        config.model.window_frames, config.seed, avatar.look,
    )  # fmt: skip
    views = [batch.view] * len(batch.shown)
    heads, bodies = looked_at(avatar.limits, drive.viewmats, drive.bodies, views)
    drive = drive.replace(viewmats=heads, bodies=bodies)
    return MicroBatch(batch.frames, batch.first, batch.speaking, drive)


def num_places(avatar: Avatar) -> int:
    """Return the most frames of a batch, which all have room for."""
    return -(-avatar.scene.layout.hop_frames * avatar.look.fps // FPS)


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
            yield from (composed(avatar, batch) for batch in batches.push(waiting[:PIECE]))
            waiting = waiting[PIECE:]
    for batch in (*batches.push(waiting), *batches.finish()):
        yield composed(avatar, batch)
