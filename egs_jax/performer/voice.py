"""A synthetic voice that babbles: sound made from phonemes, and the mouth that goes with them.

A source-filter synthesizer (Klatt 1980) in NumPy: a glottal source with intonation, jitter and
shimmer runs through four time-varying formant resonators in cascade, fricatives and bursts are
shaped noise, stops are silence and burst. Phonemes give both the sound and the mouth's shape, so
the mouth is a deterministic function of what is spoken. The voice is nobody's and the words are
none.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, lfilter, sosfilt

from egs_jax.media.clock import FPS, SAMPLE_RATE

_STEP = 0.005  # seconds between parameter rows
_EDGE = 0.24  # silence before and after [s]
LEAD = 0.08
"""Seconds by which the mouth is ahead of its sound, as in films of people in sync."""

# Vowel: formants 1-3 [Hz], jaw opening, lip rounding, duration factor.
_VOWELS = {
    "a": (860, 1330, 2700, 1.00, 0.12, 1.15),
    "e": (560, 2080, 2750, 0.55, 0.05, 1.00),
    "i": (340, 2550, 3150, 0.26, 0.00, 0.90),
    "o": (540, 930, 2650, 0.62, 0.80, 1.05),
    "u": (370, 900, 2550, 0.28, 1.00, 0.95),
    "A": (720, 1750, 2600, 0.82, 0.05, 1.10),
    "@": (560, 1480, 2650, 0.42, 0.20, 0.75),
}
# Consonant: kind, locus of formants 1-2 [Hz], opening, rounding, duration [s], noise [Hz], level.
_CONSONANTS = {
    "m": ("nasal", 280, 1050, 0.00, 0.15, 0.075, 0, 0.0),
    "n": ("nasal", 290, 1700, 0.20, 0.15, 0.065, 0, 0.0),
    "b": ("stop", 250, 900, 0.00, 0.15, 0.075, 900, 0.25),
    "d": ("stop", 280, 1800, 0.18, 0.15, 0.065, 3400, 0.35),
    "g": ("stop", 280, 2000, 0.24, 0.15, 0.070, 2000, 0.35),
    "p": ("stop", 250, 900, 0.00, 0.15, 0.095, 1000, 0.45),
    "t": ("stop", 280, 1800, 0.16, 0.15, 0.090, 4200, 0.50),
    "k": ("stop", 280, 2000, 0.24, 0.15, 0.095, 2200, 0.50),
    "s": ("fricative", 320, 1800, 0.12, 0.08, 0.105, 5600, 0.34),
    "S": ("fricative", 320, 1900, 0.16, 0.70, 0.105, 3100, 0.40),
    "f": ("fricative", 300, 1100, 0.05, 0.10, 0.095, 4500, 0.14),
    "l": ("liquid", 380, 1250, 0.34, 0.15, 0.065, 0, 0.0),
    "w": ("liquid", 320, 760, 0.14, 1.00, 0.070, 0, 0.0),
    "j": ("liquid", 300, 2350, 0.20, 0.05, 0.065, 0, 0.0),
}


@dataclass(frozen=True)
class Speech:
    """Sound and the mouth that makes it.

    Attributes:
      samples: float32 [S] in [-1, 1], mono.
      sample_rate: Samples per second [Hz].
      mouth_opening: float32 [T] in [0, 1] at 25 frames a second, 0 with closed lips.
      rounding: float32 [T] in [0, 1], 1 for the pursed lips of "u"; about 0.2 at rest.
      phonemes: (symbol, first second, last second) of everything spoken; pauses are not listed.
    """

    samples: np.ndarray
    sample_rate: int
    mouth_opening: np.ndarray
    rounding: np.ndarray
    phonemes: tuple[tuple[str, float, float], ...]


def _compose(seconds: float, rng: np.random.Generator) -> tuple[list, list]:
    """Choose phonemes with their times, and phrases (first, last second, base pitch factor)."""
    phonemes, phrases = [], []
    now = _EDGE
    while now < seconds - _EDGE - 0.3:
        end = min(now + rng.uniform(1.0, 3.0), seconds - _EDGE)
        start = now
        while now < end - 0.16:
            vowel = rng.choice(list(_VOWELS))
            length = 0.135 * _VOWELS[vowel][5] * rng.uniform(0.8, 1.3)
            if rng.uniform() < 0.93:
                consonant = rng.choice(list(_CONSONANTS))
                duration = _CONSONANTS[consonant][5] * rng.uniform(0.85, 1.2)
                phonemes.append((str(consonant), now, now + duration))
                now += duration
            length *= (
                1.35 if now + length > end - 0.2 else 1.0
            )  # the last syllable of a phrase drags
            stop = min(now + length, end)
            phonemes.append((str(vowel), now, stop))
            now = stop
        phrases.append((start, now, rng.uniform(0.94, 1.08)))
        now += rng.uniform(0.3, 0.8)
    return phonemes, phrases


def _tracks(seconds: float, phonemes: list) -> dict[str, np.ndarray]:
    """Return parameter rows every 5 ms [n]: formants, levels of voice and noise, mouth."""
    n = int(round(seconds / _STEP)) + 1
    flat = lambda value: np.full(n, float(value))
    rows = {
        "f1": flat(520),
        "f2": flat(1500),
        "f3": flat(2650),
        "opening": flat(0),
        "rounding": flat(0.2),
    }
    rows |= {"voice": flat(0), "noise": flat(0), "center": flat(3000), "nasal": flat(0)}
    for symbol, start, stop in phonemes:
        part = slice(int(round(start / _STEP)), int(round(stop / _STEP)))
        if symbol in _VOWELS:
            f1, f2, f3, opening, rounding, _ = _VOWELS[symbol]
            values = {"f1": f1, "f2": f2, "f3": f3, "voice": 1.0}
        else:
            kind, f1, f2, opening, rounding, _, center, level = _CONSONANTS[symbol]
            voice = {"nasal": 0.55, "liquid": 0.75, "fricative": 0.0, "stop": 0.0}[kind]
            voice = 0.12 if symbol in "bdg" else voice
            values = {"f1": f1, "f2": f2, "voice": voice, "nasal": float(kind == "nasal")}
            if center:
                rows["center"][part] = center
            if kind == "fricative":
                rows["noise"][part] = level
            if kind == "stop":  # the burst sits on the last 20 ms
                rows["noise"][max(part.stop - 4, 0) : part.stop] = level
        for name, value in (values | {"opening": opening, "rounding": rounding}).items():
            rows[name][part] = value
    # Articulators glide: the tongue in about 25 ms, jaw and lips slower; levels switch faster.
    widths = {"f1": 4, "f2": 5, "f3": 5, "opening": 7, "rounding": 9, "voice": 1.8, "noise": 0.9}
    return {
        k: gaussian_filter1d(v, widths[k], mode="nearest") if k in widths else v
        for k, v in rows.items()
    }


def _source(pitch: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Return the glottal flow's derivative [S] (Rosenberg pulses) for an irregular `pitch` [Hz]."""
    wobble = (
        1
        + 0.012
        * gaussian_filter1d(rng.normal(size=len(pitch)), rate * 0.006)
        * np.sqrt(rate * 0.006)
        * 1.9
    )
    phase = np.cumsum(pitch * wobble / rate)
    cycle = phase % 1
    open_, close = 0.42, 0.18
    rising = 0.5 - 0.5 * np.cos(np.pi * cycle / open_)
    falling = np.cos(np.pi / 2 * np.clip((cycle - open_) / close, 0, 1))
    flow = np.where(cycle < open_, rising, falling * (cycle < open_ + close))
    shimmer = 1 + 0.05 * rng.normal(size=int(phase[-1]) + 2)
    flow = flow * shimmer[phase.astype(int)]
    breath = 0.012 * rng.normal(size=len(pitch)) * (0.3 + flow)
    return np.diff(flow, prepend=0.0) * (rate / 1600) + breath


def _resonate(
    signal: np.ndarray, frequency: np.ndarray, bandwidth: np.ndarray, rate: int
) -> np.ndarray:
    """Apply a resonator of unit gain at 0 Hz whose center moves; both tracks [n] every 5 ms."""
    block = int(round(_STEP * rate))
    out, state = np.empty_like(signal), np.zeros(2)
    radius = np.exp(-np.pi * bandwidth / rate)
    b, c = 2 * radius * np.cos(2 * np.pi * frequency / rate), -(radius**2)
    gain = 1 - b - c
    previous = gain[0]
    for k in range(-(-len(signal) // block)):
        row = min(k, len(b) - 1)
        # The state scales with the gain: rescaled, a moving center does not click.
        state *= gain[row] / previous
        previous = gain[row]
        part = slice(k * block, (k + 1) * block)
        out[part], state = lfilter([gain[row]], [1, -b[row], -c[row]], signal[part], zi=state)
    return out


def _noise(
    tracks: dict[str, np.ndarray], at: np.ndarray, rate: int, rng: np.random.Generator
) -> np.ndarray:
    """Return fricatives and bursts [S]: white noise through one moving resonance, no low end."""
    white = rng.normal(size=len(at)) * np.interp(
        at, np.arange(len(tracks["noise"])) * _STEP, tracks["noise"]
    )
    center = np.minimum(tracks["center"], 0.44 * rate)
    shaped = _resonate(white, center, 500 + 0.12 * center, rate)
    return sosfilt(butter(2, 600, "highpass", fs=rate, output="sos"), shaped)


def synthesize(seconds: float, seed: int, sample_rate: int = SAMPLE_RATE) -> Speech:
    """Babble for a while: phrases of 1 to 3 s with pauses of 0.3 to 0.8 s, silence at both ends.

    Args:
      seconds: Length of the sound [s], at least 1.
      seed: Chooses every phoneme and every noise; the same seed gives the same samples.
      sample_rate: Samples per second [Hz], at least 8000.

    Returns:
      Sound, and the opening and rounding of the mouth at 25 frames a second.

    Raises:
      ValueError: if `seconds` or `sample_rate` is too small.
    """
    if seconds < 1 or sample_rate < 8000:
        raise ValueError(
            f"seconds, sample_rate: expected >= 1 and >= 8000, got {seconds} and {sample_rate}; "
            "ask for more"
        )
    rng = np.random.default_rng(seed)
    phonemes, phrases = _compose(seconds, rng)
    tracks = _tracks(seconds, phonemes)
    count = int(round(seconds * sample_rate))
    at = np.arange(count) / sample_rate
    rows_at = np.arange(len(tracks["f1"])) * _STEP

    pitch = np.full(count, 175.0)
    for start, stop, factor in phrases:  # falls along the phrase; stressed syllables rise
        inside = (at >= start) & (at < stop)
        along = (at[inside] - start) / (stop - start)
        accents = 1 + 0.07 * np.sin(2 * np.pi * (at[inside] - start) * rng.uniform(1.2, 1.9))
        pitch[inside] = 175 * factor * (1.13 - 0.30 * along) * accents
    voice = _source(gaussian_filter1d(pitch, 0.012 * sample_rate), sample_rate, rng)
    voice *= np.interp(at, rows_at, tracks["voice"])
    bandwidths = (70 + 130 * tracks["nasal"], 95 + 60 * tracks["nasal"], 140, 220)
    centers = (tracks["f1"], tracks["f2"], tracks["f3"], 3900.0)
    for center, bandwidth in zip(centers, bandwidths, strict=True):
        track = np.minimum(np.broadcast_to(center, rows_at.shape), 0.45 * sample_rate)
        voice = _resonate(voice, track, np.broadcast_to(bandwidth, rows_at.shape), sample_rate)

    noise = _noise(tracks, at, sample_rate, rng)
    spoken = gaussian_filter1d((tracks["voice"] > 0.6).astype(float), 2)
    loudness = np.sqrt(
        (voice**2 * np.interp(at, rows_at, spoken)).sum()
        / max(spoken.sum() * _STEP * sample_rate, 1)
    )
    hiss = np.sqrt((noise**2).mean() / max((tracks["noise"] ** 2).mean(), 1e-9))
    mix = voice / max(loudness, 1e-9) + 0.9 * noise / max(hiss, 1e-9)
    samples = 0.13 * mix
    samples = np.tanh(samples * 1.2) / 1.2
    edge = np.clip(np.minimum(at, at[-1] - at) / 0.05, 0, 1)

    frames = np.arange(int(round(seconds * FPS))) / FPS
    mouth = {
        k: np.interp(frames + LEAD, rows_at, tracks[k]).astype(np.float32)
        for k in ("opening", "rounding")
    }
    return Speech(
        samples=(samples * edge).astype(np.float32),
        sample_rate=sample_rate,
        mouth_opening=np.clip(mouth["opening"], 0, 1),
        rounding=np.clip(mouth["rounding"], 0, 1),
        phonemes=tuple(phonemes),
    )
