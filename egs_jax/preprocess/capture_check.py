"""The capture check: is this video good enough to make an avatar of, and if not, what to change.

It is fed with every frame, its landmarks and the sound while the first pass decodes the video (a
dozen numbers are kept per frame), printed before anything slow starts, and stored in `meta.json`.

Each finding has a value, a verdict (`ok`, `warn`, `bad`, or `unknown` where it could not be
measured) and, unless ok, a remedy. Thresholds are rules of thumb, stated in the table below.

Sign of the lag: positive means that the sound comes after the picture. Natural speech gives 0 to 3
frames, as lips part before the vowel is loud.
"""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from rich import box
from rich.console import Console
from rich.table import Table

from egs_jax.face.mesh import FACE_OVAL, RIGID_POINTS, mouth_opening
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.runtime.progress import draws_lines
from kernels.checks import typechecked

LAG_REACH = 15  # frames either way
LAG_CONFIDENCE = 1.3  # at least; unrelated sound and picture stay under 1 in 95 of 100 cases
_LAG_CLEAR = 1.8  # from which on nothing else is asked: between the two, one lag in ten is wrong
_LAG_ALIKE, _LAG_USUAL = 2, 8  # frames by which halves differ, and by which films are off
MOUTH_CLOSED = 0.04  # opening over the distance of the eyes' outer corners
_HOP = SAMPLE_RATE // FPS
_SPEECH_BAND = (150.0, 4000.0)  # Hz
_CROP = 96  # pixels a side of the face on which sharpness is measured
_MIN_LAG_FRAMES = 150
_SILENT = 1e-7  # band power of a sound track without sound (-70 dB of full scale)


@dataclass(frozen=True)
class Finding:
    """One measured property: name, value (None if unknown), unit, verdict and remedy."""

    name: str
    value: float | None
    unit: str
    verdict: str
    remedy: str


@dataclass(frozen=True)
class Rule:
    """Bounds of a property: outside `ok` a warning, outside `fair` bad, with what to do then."""

    unit: str
    ok: tuple[float, float]
    fair: tuple[float, float]
    remedy: str

    def judge(self, name: str, value: float) -> Finding:
        """Return what is to be said of the property `name`."""
        if self.ok[0] <= value <= self.ok[1]:
            return Finding(name, value, self.unit, "ok", "")
        fair = self.fair[0] <= value <= self.fair[1]
        return Finding(name, value, self.unit, "warn" if fair else "bad", self.remedy)


def format_findings(title: str, findings: Sequence[Finding], width: int = 100) -> str:
    """Return findings as a text table, at most `width` columns wide."""
    frame = box.HEAVY_HEAD if draws_lines() else box.ASCII
    table = Table(title=title, title_justify="left", box=frame)
    table.add_column("property", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("what to do")
    for f in findings:
        value = "-" if f.value is None else f"{f.value:.4g} {f.unit}".strip()
        table.add_row(f.name, value, f.verdict, f.remedy)
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(table)
    return text.getvalue()


_INF = float("inf")
_RULES = {
    "frame rate": Rule("/s", (23.9, _INF), (14.9, _INF), "record at 25 pictures a second or more"),
    "frame gaps": Rule("", (0, 0.5), (0, _INF), "record at a constant rate (phones: lock it)"),
    "duration": Rule("s", (60, _INF), (10, _INF), "record one to five minutes of speech"),
    "frames with face": Rule("%", (99.5, _INF), (90, _INF), "keep the whole face in view"),
    "face width": Rule("px", (160, _INF), (80, _INF), "come closer or record at a higher size"),
    "sharpness": Rule(
        "", (5e-3, _INF), (1.5e-3, _INF), "focus on the eyes, clean the lens, add light"
    ),
    "yaw range": Rule("deg", (0, 50), (0, 90), "face the camera; small turns are enough"),
    "pitch range": Rule("deg", (0, 40), (0, 70), "keep the head level; small nods are enough"),
    "motion": Rule("%/frame", (0, 3), (0, 6), "move more slowly; fast moves blur"),
    "brightness": Rule("/255", (60, 200), (35, 230), "light the face evenly from the front"),
    "under-exposed": Rule("%", (0, 15), (0, 40), "add light on the face"),
    "over-exposed": Rule("%", (0, 3), (0, 15), "lower the exposure"),
    "flicker": Rule(
        "%", (0, 1.5), (0, 4), "lock exposure and white balance; avoid flickering lamps"
    ),
    "silence": Rule("%", (2, 60), (0, 85), "speak most of the time, with a few pauses"),
    "mouth closed": Rule(
        "%", (2, 70), (0, 90), "rest with lips closed for some seconds, then speak"
    ),
    "audio-video lag": Rule(
        "frames", (-2, 5), (-4, 7), "shift the sound until lips and voice agree"
    ),
}


@dataclass(frozen=True)
class CaptureReport:
    """All findings, in the order of the table."""

    findings: tuple[Finding, ...]
    lag_confidence: float | None

    def __getitem__(self, name: str) -> Finding:
        return next(finding for finding in self.findings if finding.name == name)

    @property
    def verdict(self) -> str:
        """The worst verdict of all."""
        order = ("ok", "unknown", "warn", "bad")
        return max((finding.verdict for finding in self.findings), key=order.index)

    def as_dict(self) -> dict:
        """Return the findings as plain numbers and strings, for `meta.json`."""
        return {f.name: asdict(f) for f in self.findings} | {"lag_confidence": self.lag_confidence}

    def format_table(self, width: int = 100) -> str:
        """Return the findings as a text table, at most `width` columns wide."""
        return format_findings("Capture check", self.findings, width)


class CaptureCheck:
    """A gatherer of a video's measurements while it streams by.

    Args:
        source_fps: Average rate of the source, before resampling to 25.
        variable_rate: Whether the source's rate varies.
    """

    def __init__(self, source_fps: float, variable_rate: bool = False):
        self._source_fps, self._variable_rate = float(source_fps), bool(variable_rate)
        self._frames: list[tuple[float, ...] | None] = []
        self._power: list[float] = []
        self._rest = np.zeros(0, np.float32)
        self._before: np.ndarray | None = None

    @typechecked
    def add_frame(
        self, frame: UInt8[np.ndarray, "H W 3"], landmarks: Float[np.ndarray, "478 3"] | None
    ) -> None:
        """Take in the next frame (25 a second), and its landmarks in pixels (None: no face)."""
        if landmarks is None:
            self._frames.append(None)
            self._before = None
            return
        points = landmarks.astype(np.float64)
        x_min, y_min = np.maximum(np.floor(points[FACE_OVAL, :2].min(0)), 0).astype(int)
        x_max, y_max = np.maximum(np.ceil(points[FACE_OVAL, :2].max(0)), 0).astype(int)
        crop = np.ascontiguousarray(frame[y_min:y_max, x_min:x_max])
        width = float(np.linalg.norm(points[454] - points[234]))
        rigid = points[RIGID_POINTS, :2].mean(0)
        moved = 0.0 if self._before is None else float(np.hypot(*(rigid - self._before)))
        self._before = rigid
        self._frames.append(
            (width, *_angles(points), moved / max(width, 1.0), *_light(crop), _opening(points))
        )

    @typechecked
    def add_audio(self, samples: Float[np.ndarray, "n"]) -> None:
        """Take in the next stretch of sound, mono at 16 kHz, of any length."""
        samples = np.concatenate([self._rest, samples.astype(np.float32)])
        count = samples.size // _HOP
        self._rest = samples[count * _HOP :]
        windows = samples[: count * _HOP].reshape(count, _HOP) * np.hanning(_HOP)[None]
        spectrum = np.abs(np.fft.rfft(windows, axis=1)) ** 2
        frequency = np.fft.rfftfreq(_HOP, 1 / SAMPLE_RATE)
        band = (frequency >= _SPEECH_BAND[0]) & (frequency <= _SPEECH_BAND[1])
        # Mean square of the samples (Parseval; the window's mean square is 3/8).
        self._power += list(2 * spectrum[:, band].sum(1) / _HOP**2 / 0.375)

    def report(self, kept: Bool[np.ndarray, " T"] | None = None) -> CaptureReport:
        """Return the findings over everything taken in so far, or over some frames of it."""
        return report_of([self], [kept])

    @property
    def frames(self) -> list[tuple[float, ...] | None]:
        """Nine numbers of every frame with a face."""
        return self._frames

    @property
    def power(self) -> Float[np.ndarray, " T"]:
        """Power of the sound in the speech band, one value a frame."""
        power = np.asarray(self._power[: len(self._frames)])
        return np.pad(power, (0, len(self._frames) - power.size))

    @property
    def source(self) -> tuple[float, bool]:
        """Average rate of the source, and whether it varies."""
        return self._source_fps, self._variable_rate


def report_of(
    checks: Sequence[CaptureCheck], kept: Sequence[Bool[np.ndarray, " T"] | None]
) -> CaptureReport:
    """Return the findings over several films of one person.

    Args:
      checks: What was taken in of each.
      kept: Which of its frames are used; None: all. Of the others only the face is missed.
    """
    frames: list[tuple[float, ...] | None] = []
    powers, everything, found = [np.zeros(0)], 0, 0
    for check, mask in zip(checks, kept, strict=True):
        chosen = range(len(check.frames)) if mask is None else np.flatnonzero(mask)
        frames += [check.frames[i] for i in chosen]
        powers.append(check.power[list(chosen)])
        everything += len(check.frames)
        found += sum(row is not None for row in check.frames)
    seen, power = [row for row in frames if row is not None], np.concatenate(powers)
    values: dict[str, float | None] = dict.fromkeys(_RULES)
    values["frame rate"] = min(check.source[0] for check in checks)
    values["frame gaps"] = float(any(check.source[1] for check in checks))
    values["duration"] = len(frames) / FPS
    values["frames with face"] = 100.0 * found / max(everything, 1)
    if seen:
        values.update(_face_values(np.asarray(seen)))
    audible = power.size > 0 and float(power.max()) > _SILENT
    if power.size:
        values["silence"] = 100.0 * _silent_share(power)
    confidence = None
    if audible and len(seen) >= 0.9 * len(frames):
        opening = _interpolated([None if row is None else row[-1] for row in frames])
        lag, confidence = audio_video_lag(opening, power)
        values["audio-video lag"] = None if lag is None else float(lag)
    return CaptureReport(tuple(_judge(n, v) for n, v in values.items()), confidence)


def _angles(points: np.ndarray) -> tuple[float, float]:
    """Return yaw and pitch in degrees, from the depths of the eyes' corners, brow and chin."""
    across, down = points[263] - points[33], points[152] - points[10]
    yaw = np.degrees(np.arctan2(across[2], np.hypot(across[0], across[1])))
    pitch = np.degrees(np.arctan2(down[2], np.hypot(down[0], down[1])))
    return float(yaw), float(pitch)


def _light(crop: np.ndarray) -> tuple[float, float, float, float]:
    """Return sharpness, mean brightness, under- and over-exposed share of a face."""
    if crop.size == 0:
        return 0.0, 0.0, 1.0, 0.0
    gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (_CROP, _CROP), interpolation=cv2.INTER_AREA).astype(np.float32)
    mean = float(small.mean())
    # Of brightness in units of its mean, so that a dark face is not called blurred.
    sharp = float(cv2.Laplacian(small / max(mean, 1.0), cv2.CV_32F).var())
    return sharp, mean, float((small < 20).mean()), float((small > 250).mean())


def _opening(points: np.ndarray) -> float:
    return float(mouth_opening(points[None])[0])


def _face_values(rows: np.ndarray) -> dict[str, float]:
    """Turn the per-frame numbers [T, 9] into findings."""
    width, yaw, pitch, moved, sharp, light, under, over, opening = rows.T
    spread = lambda x: float(np.percentile(x, 98) - np.percentile(x, 2))
    return {
        "face width": float(np.median(width)),
        "sharpness": float(np.median(sharp)),
        "yaw range": spread(yaw),
        "pitch range": spread(pitch),
        "motion": 100.0 * float(np.percentile(moved, 90)),
        "brightness": float(np.median(light)),
        "under-exposed": 100.0 * float(under.mean()),
        "over-exposed": 100.0 * float(over.mean()),
        "flicker": 100.0 * float(np.median(np.abs(np.diff(light)))) / max(float(light.mean()), 1.0)
        if light.size > 1
        else 0.0,
        "mouth closed": 100.0 * float((opening < MOUTH_CLOSED).mean()),
    }


def _silent_share(power: np.ndarray) -> float:
    """Return the share of frames 30 dB under the loud ones, or without any sound."""
    return float((power <= max(float(np.percentile(power, 95)) * 1e-3, _SILENT)).mean())


def _judge(name: str, value: float | None) -> Finding:
    rule = _RULES[name]
    if value is None:
        reason = {
            "audio-video lag": "not measurable: too short, silent, or lips and sound unrelated",
            "silence": "no sound: an avatar needs speech; record with a microphone",
        }.get(name, "no face was found; show one face, well lit, looking at the camera")
        verdict = "bad" if name == "silence" else "unknown"
        return Finding(name, None, rule.unit, verdict, reason)
    return rule.judge(name, value)


def _interpolated(values: list[float | None]) -> np.ndarray:
    known = np.asarray([index for index, value in enumerate(values) if value is not None])
    return np.interp(np.arange(len(values)), known, [values[index] for index in known])


@typechecked
def audio_video_lag(
    opening: Float[np.ndarray, "T"], power: Float[np.ndarray, "S"]
) -> tuple[int | None, float | None]:
    """Estimate by how many frames the sound comes after the lips.

    Cross-correlates the sound's loudness in the speech band with the opening of the lips and with
    the speed of the opening (each alone fails for some speakers), both without their slow part,
    in units of the spread over far-off shifts, and adds the two.

    Args:
        opening: Lip opening, one value a frame.
        power: Sound power in the speech band, one value a frame; cut or padded to T.

    Returns:
        The lag in frames (positive: sound late), None when unreliable; and the confidence: the
        peak within +-15 frames over the 95th percentile of the peaks of equally wide windows of
        shifts over a second, where sound and lips are unrelated. None for both when too short.
        Little confidence is enough for a lag that films have, if both halves tell the same.
    """
    count = opening.size
    power = np.pad(power[:count], (0, max(0, count - power.size)))
    lag, confidence = _best_lag(opening, power)
    if lag is None or confidence is None or confidence < LAG_CONFIDENCE:
        return None, confidence
    if confidence < _LAG_CLEAR:
        halves = (slice(0, count // 2), slice(count // 2, None))
        found = [_best_lag(opening[half], power[half])[0] for half in halves]
        alike = all(each is not None and abs(each - lag) <= _LAG_ALIKE for each in found)
        if not alike or abs(lag) > _LAG_USUAL:
            return None, confidence
    return lag, confidence


def _best_lag(
    opening: Float[np.ndarray, " T"], power: Float[np.ndarray, " T"]
) -> tuple[int | None, float | None]:
    """Return the likeliest lag, and the confidence in it."""
    count = opening.size
    if count < _MIN_LAG_FRAMES or np.ptp(opening) < 1e-6 or np.ptp(power) < 1e-12:
        return None, None
    smooth = np.convolve(np.pad(opening, 1, mode="edge"), [0.25, 0.5, 0.25], "valid")
    loudness = np.conj(np.fft.rfft(_standard(power**0.3)))
    total = np.zeros(count)
    for signal in (smooth, np.abs(np.gradient(smooth))):
        # correlation[l] = mean over t of signal[t] * loudness[t + l], around the circle
        correlation = np.fft.irfft(np.conj(np.fft.rfft(_standard(signal)) * loudness), count)
        total += correlation / max(float(correlation[FPS : count - FPS].std()), 1e-12)
    window = 2 * LAG_REACH + 1
    near = np.roll(total, LAG_REACH)[:window]
    far = np.lib.stride_tricks.sliding_window_view(
        total[FPS + LAG_REACH : -FPS - LAG_REACH], window
    )
    confidence = float(near.max() / max(np.percentile(far.max(1), 95), 1e-9))
    return int(near.argmax()) - LAG_REACH, confidence


def _standard(signal: np.ndarray) -> np.ndarray:
    """Take away the moving average over a second and scale to unit variance."""
    slow = np.convolve(np.pad(signal, FPS // 2, mode="edge"), np.ones(FPS) / FPS, "valid")
    fast = signal - slow
    return fast / max(float(fast.std()), 1e-12)
