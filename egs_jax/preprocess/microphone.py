"""A recording by another microphone, put on the film's clock.

Recorder and camera are started by hand, minutes apart, and their clocks drift. Both heard the same
voice: where a dozen bands grow louder is cross-correlated over all offsets;
pieces of the film then tell the offset each for itself, and a line through them is offset and
drift. Where no line fits, the recording is refused.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import uniform_filter1d
from scipy.signal import fftconvolve, stft
from scipy.stats import theilslopes

from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.runtime.errors import InputError

RATE = 100
"""Rows of band loudness a second."""
TOLERANCE = 0.02
"""Seconds (half a video frame) by which most pieces of the film may be off the line."""
LEAST_COVERED = 0.5
"""Share of the film that a recording must cover."""

_BANDS = np.geomspace(150.0, 6000.0, 13)  # Hz, edges
_WINDOW = 400  # samples, 25 ms
_FAINT = 1e-4  # of a band's mean power: what is added, so that silence does not count
_PIECE = 10 * RATE  # rows
_REACH = RATE  # rows around the whole film's offset in which an unclear piece looks for its own
_LEAST_OVERLAP = 5 * RATE  # rows, or half of what is shorter
_LEAST_ROWS = 2 * RATE
_STANDS_OUT = 1.5  # times the best offset elsewhere: unrelated sound gives up to 1.3
_PIECE_STANDS_OUT = 1.3
_FITTING = 0.6  # share of pieces that must lie on the line
_ELSEWHERE = 0.2  # s off the line: no noise of a piece's offset, the recording was cut
_BLOCK = 8192  # samples, half a second
_PEAK = 8.0  # times the mean: chance stays under 6
_LEAST_PIECES = 5  # that tell a drift
_MOST_DRIFT = 5e-3  # no clock is so far off
_NOTICEABLE = 0.02  # s: less drift over the film is left alone


class Placement(NamedTuple):
    """Where the film's time lies in a recording: at `offset + (1 + drift) * time`."""

    offset: float
    """Seconds of the recording before the film begins; negative if it begins later."""
    drift: float
    """Seconds by which the recorder's clock gains in each second of the camera's."""


def onsets(samples: Float[np.ndarray, " S"]) -> Float[np.ndarray, "B T"]:
    """Return how fast each band grows louder at `RATE`, without its slow part, in unit spread.

    Only rises count: a room's echoes make sound fade late, but not begin late.
    """
    hop = SAMPLE_RATE // RATE
    frequencies, _, spectra = stft(
        samples, SAMPLE_RATE, nperseg=_WINDOW, noverlap=_WINDOW - hop, boundary="zeros"
    )
    power = np.square(np.abs(spectra))
    edges = np.searchsorted(frequencies, _BANDS)
    bands = np.stack([power[a:b].sum(0) for a, b in zip(edges, edges[1:], strict=False)])
    level = np.log(bands + _FAINT * bands.mean(1, keepdims=True) + 1e-20)
    rises = np.maximum(np.diff(level, axis=1, prepend=level[:, :1]), 0)
    fast = rises - uniform_filter1d(rises, RATE, axis=1)
    return fast / np.maximum(fast.std(1, keepdims=True), 1e-9)


def agreement(
    film: Float[np.ndarray, "B T"], recording: Float[np.ndarray, "B R"]
) -> tuple[Float[np.ndarray, " L"], int]:
    """Return how well the two agree at every offset, and the place of offset 0 in it.

    At offset l, row t of the film is beside row t + l of the recording. Sums over the overlap are
    divided by the root of its length, so that chance has one spread at all offsets.
    """
    overlap = min(_LEAST_OVERLAP, film.shape[1] // 2, recording.shape[1] // 2)
    first, last = overlap - film.shape[1], recording.shape[1] - overlap
    total = fftconvolve(recording, film[:, ::-1], axes=1).sum(0)
    offsets = np.arange(first, last + 1)
    start, stop = np.maximum(offsets, 0), np.minimum(recording.shape[1], offsets + film.shape[1])
    return total[offsets + film.shape[1] - 1] / np.sqrt(stop - start), -first


def place(film: Float[np.ndarray, " S"], recording: Float[np.ndarray, " R"]) -> Placement | None:
    """Find where the film's time lies in a recording of the same voice; None if nowhere.

    Args:
      film: The film's own sound, 16 kHz.
      recording: The other microphone's, 16 kHz.
    """
    ours, theirs = onsets(film), onsets(recording)
    if min(ours.shape[1], theirs.shape[1]) < _LEAST_ROWS:
        return None
    scores, zero = agreement(ours, theirs)
    if not np.isfinite(scores).all() or not _stands_out(scores, _STANDS_OUT):
        return None
    offset = int(scores.argmax()) - zero
    times, offsets, clear = _pieces(ours, theirs, offset)
    if len(times) == 0:
        return None
    slope, intercept = 0.0, float(np.median(offsets))
    if len(times) >= _LEAST_PIECES:
        slope, intercept, *_ = theilslopes(offsets, times)
    off = np.abs(offsets - intercept - slope * times)
    is_cut = (clear & (off > _ELSEWHERE)).sum() >= 2  # pieces overlap: one alone is chance
    if np.mean(off < TOLERANCE) < _FITTING or abs(slope) > _MOST_DRIFT or is_cut:
        return None
    return Placement(float(intercept), float(slope))


def _stands_out(scores: np.ndarray, times: float) -> bool:
    """Tell if the best offset is so many times as good as the best one elsewhere."""
    peak = int(scores.argmax())
    elsewhere = np.delete(scores, slice(max(0, peak - RATE // 2), peak + RATE // 2 + 1))
    return bool(scores[peak] > times * max(elsewhere.max(initial=0.0), 1e-9))


class _Pieces(NamedTuple):
    """Pieces of the film that find themselves in the recording."""

    times: Float[np.ndarray, " P"]
    """Their middles [s]."""
    offsets: Float[np.ndarray, " P"]
    """Each one's own [s]."""
    clear: Bool[np.ndarray, " P"]
    """Whether it was looked for in the whole recording, and fits nowhere else."""


def _pieces(film: np.ndarray, recording: np.ndarray, offset: int) -> _Pieces:
    """Find pieces of the film anywhere in the recording, or else near `offset`."""
    found = []
    low, high = max(0, -offset), min(film.shape[1], recording.shape[1] - offset)  # heard by both
    length = min(_PIECE, high - low)
    recording = np.pad(recording, ((0, 0), (_REACH, _REACH)))
    count = 1 + 2 * -(-(high - low - length) // length)
    for begin in np.linspace(low, high - length, count).astype(int).tolist():
        piece, middle = film[:, begin : begin + length][:, ::-1], (begin + length / 2) / RATE
        scores = fftconvolve(recording, piece, "valid", axes=1).sum(0)
        if _stands_out(scores, _STANDS_OUT):
            found.append((middle, (_summit(scores) - _REACH - begin) / RATE, True))
            continue
        scores = scores[begin + offset :][: 2 * _REACH + 1]
        if _stands_out(scores, _PIECE_STANDS_OUT):
            found.append((middle, (_summit(scores) - _REACH + offset) / RATE, False))
    times, offsets, clear = np.array(found).reshape(-1, 3).T
    return _Pieces(times, offsets, clear > 0)


def _summit(scores: np.ndarray) -> float:
    """Return the place of the highest value, to a part of a row, by a parabola through three."""
    k = int(np.clip(scores.argmax(), 1, len(scores) - 2))
    before, here, after = scores[k - 1 : k + 2]
    return k + 0.5 * (before - after) / min(before - 2 * here + after, -1e-12)


def fine_shift(film: Float[np.ndarray, " S"], recording: Float[np.ndarray, " R"]) -> int:
    """Return by how many samples the recording is late within half a frame; 0 if that is unclear.

    The phases of both are correlated (GCC-PHAT, Knapp and Carter 1976): a room's echoes, which blur
    onsets, leave the first way of the sound as the peak.
    """
    count = min(len(film), len(recording)) // _BLOCK
    blocks = lambda sound: np.fft.rfft(sound[: count * _BLOCK].reshape(count, _BLOCK), axis=1)
    cross = (blocks(recording) * np.conj(blocks(film))).sum(0)
    phases = np.fft.irfft(cross / np.maximum(np.abs(cross), 1e-12), _BLOCK)
    reach = round(TOLERANCE * SAMPLE_RATE)
    near = np.abs(np.roll(phases, reach)[: 2 * reach + 1])
    is_clear = near.max() > _PEAK * np.abs(phases).mean()
    return int(near.argmax()) - reach if is_clear else 0


def synchronized(
    film: Float[np.ndarray, " S"], recording: Float[np.ndarray, " R"], name: Path, of: Path
) -> tuple[Float[np.ndarray, " S"], Placement]:
    """Return another microphone's sound on the film's clock, as long as the film's own; says how.

    Where the recording does not reach, the film's own sound stays, as loud as the recording.

    Args:
      film: The film's own sound, 16 kHz.
      recording: The other microphone's, 16 kHz.
      name: Its file, for messages.
      of: The film's.

    Raises:
      InputError: if the recording fits nowhere, or covers too little of the film.
    """
    import soxr  # noqa: PLC0415

    found = place(film, recording)
    if found is None:
        raise InputError(
            f"{name}: fits nowhere to the sound of {of.name}; give the recording of the same "
            "speech, uncut, or leave --audio out"
        )
    seconds = len(film) / SAMPLE_RATE
    drift = found.drift if abs(found.drift) * seconds > _NOTICEABLE else 0.0
    if drift:
        recording = soxr.resample(recording, SAMPLE_RATE * (1 + drift), SAMPLE_RATE, "HQ")
    start = round(found.offset / (1 + drift) * SAMPLE_RATE)
    start += fine_shift(film[max(-start, 0) :], recording[max(start, 0) :])
    found = Placement(start * (1 + drift) / SAMPLE_RATE, drift)
    first, last = max(0, -start), min(len(film), len(recording) - start)
    if last - first < LEAST_COVERED * len(film):
        raise InputError(
            f"{name}: covers {max(last - first, 0) / SAMPLE_RATE:.0f} of the {seconds:.0f} s of "
            f"{of.name}; give a longer recording, or a part of the film"
        )
    part = recording[start + first : start + last]
    level = lambda sound: float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))
    sound = (film * (level(part) / max(level(film[first:last]), 1e-9))).astype(np.float32)
    sound[first:last] = part
    _tell(found, seconds, (first, last), name, of)
    return sound, found


def _tell(found: Placement, seconds: float, covered: tuple[int, int], name: Path, of: Path) -> None:
    order = "before" if round(found.offset, 2) >= 0 else "after"
    line = f"{name.name}: begins {abs(found.offset):.2f} s {order} {of.name}"
    if found.drift:
        line += f", its clock drifts {1000 * found.drift * seconds:+.0f} ms, which is undone"
    missing = seconds - (covered[1] - covered[0]) / SAMPLE_RATE
    if missing > 0.1:
        line += f"; the film's own sound is heard for the {missing:.1f} s that it does not cover"
    print(line)
