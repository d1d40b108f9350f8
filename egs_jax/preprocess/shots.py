"""Which frames of a film are used: stretches with the face, between cuts, of one person.

A stretch ends where the face is away for longer than `MAX_GAP`, where the film is cut, where it
fades or dissolves, where it stands still as no living person does, and where somebody else is
shown. Shorter than `LEAST_STRETCH` it is left out. Everything is told from the landmarks, the
thumbnails and the colors of `face_pass`. Letters: T frames of a film.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import percentile_filter

from egs_jax.face.mesh import RIGID_POINTS
from egs_jax.media.clock import FPS
from egs_jax.preprocess.face_pass import COLOR_EVERY, Faces
from egs_jax.preprocess.films import Film
from egs_jax.runtime.errors import InputError

MAX_GAP = 10
"""Frames (0.4 s) without a face that are bridged."""
LEAST_STRETCH = 25
"""Frames of the shortest stretch that is used."""
LEAST_SECONDS = 10
"""What must be left where something is left out. A film that is shorter as a whole is only warned
of."""
# At a cut the face or the picture changes by so much at least (eye distances; levels of 255, rms
# over the thumbnail), by so many times the usual change about there, and as many times the largest
# of the changes right before and after. Of cuts that leave out 1.2 s of one person, 7 in 10 are
# found; of frames that follow one another, 2 in 3,000 are taken for cuts.
_MOVED, _CHANGED = (0.05, 4.0, 2.5), (4.0, 3.0, 2.5)
_USUAL, _AROUND, _BESIDE = 80, 25, 3  # percentile and frames of the usual; frames either way
_BRIDGED = 6.0  # times as much at least over a gap that is bridged
_MIXED = 12  # frames before and after one that may be a mix of both
_SCENES = 25.0  # levels by which these two differ, rms
_MIX = (0.08, 0.92)  # shares of the later one
_UNMIXED = 0.2  # part of that difference that no mix explains, at most
# Of two faces: shape in distances of the eyes' outer corners, colors as 1 - correlation. Of four
# people filmed by one to three cameras the sum of both, in these units, is 2.3 and more between
# people and up to 1.4 between shots of one.
_SHAPE, _COLOR, _OTHER = 0.010, 0.3, 2.0
_SHAPE_LEAST = 0.0075
_LOOKS = 25  # frames by which a shot's face is known
_SHOWN = 8  # parts that are named one by one


class Part(NamedTuple):
    """Frames [start, stop) of a film."""

    start: int
    stop: int


class LeftOut(NamedTuple):
    """Frames [start, stop) of a film that are not used, and why."""

    start: int
    stop: int
    why: str


def cuts_between(
    landmarks: Float[np.ndarray, "T 478 3"], thumbnails: UInt8[np.ndarray, "T h w"],
    good: Bool[np.ndarray, " T"],
) -> Bool[np.ndarray, " T"]:  # fmt: skip
    """Tell before which good frames the film is cut: the face or the picture jumps."""
    cut = np.zeros(len(good), bool)
    known = np.flatnonzero(good)
    if len(known) < 2:
        return cut
    points = landmarks[known][:, RIGID_POINTS, :2].astype(np.float64)
    eyes = np.linalg.norm(landmarks[known, 33, :2] - landmarks[known, 263, :2], axis=-1)
    moved = np.median(np.linalg.norm(np.diff(points, axis=0), axis=-1), axis=-1) / eyes[1:]
    steps = zip(known, known[1:], strict=False)  # one by one: a film may be long
    changed = np.array([_rms(thumbnails[b] - np.float32(thumbnails[a])) for a, b in steps])
    wide = np.where(np.diff(known) > 1, _BRIDGED, 1.0)
    for values, (least, above_usual, above_beside) in ((moved, _MOVED), (changed, _CHANGED)):
        usual = percentile_filter(values, _USUAL, min(_AROUND, len(values)), mode="nearest")
        beside = np.lib.stride_tricks.sliding_window_view(
            np.pad(values, _BESIDE, mode="edge"), 2 * _BESIDE + 1
        ).copy()
        beside[:, _BESIDE] = 0
        most = np.maximum(above_usual * usual, above_beside * beside.max(axis=1))
        cut[known[1:]] |= values > np.maximum(wide * least, most)
    return cut


def mixed_scenes(thumbnails: UInt8[np.ndarray, "T h w"]) -> Bool[np.ndarray, " T"]:
    """Tell which frames are a mix of an earlier and a later picture: fades and dissolves."""
    count = len(thumbnails)
    mixed = np.zeros(count, bool)
    for i in range(count):
        near = thumbnails[[max(i - _MIXED, 0), i, min(i + _MIXED, count - 1)]]
        before, now, after = near.reshape(3, -1).astype(np.float32)
        change = after - before
        size = float(change @ change)
        if size < _SCENES**2 * len(change):
            continue
        share = float(change @ (now - before)) / size
        rest = now - before - share * change
        mixed[i] = _MIX[0] < share < _MIX[1] and float(rest @ rest) < _UNMIXED**2 * size
    return mixed


def frozen(thumbnails: UInt8[np.ndarray, "T h w"]) -> Bool[np.ndarray, " T"]:
    """Tell which frames are one picture held for a second or more."""
    same = (thumbnails[1:] == thumbnails[:-1]).all(axis=(1, 2))
    held = np.zeros(len(thumbnails), bool)
    for start, stop in runs_of(same):
        if stop - start >= FPS:
            held[start : stop + 1] = True
    return held


def runs_of(mask: Bool[np.ndarray, " T"]) -> list[Part]:
    """Return the runs [start, stop) of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return [Part(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def stretches_in(
    valid: Bool[np.ndarray, " T"], broken: Bool[np.ndarray, " T"], cut: Bool[np.ndarray, " T"]
) -> list[Part]:
    """Return the runs of frames with a face, none of them broken, between cuts.

    Gaps of up to `MAX_GAP` frames without a face are bridged.
    """
    parts: list[Part] = []
    for start, stop in runs_of(valid & ~broken):
        inner = [start, *(start + 1 + np.flatnonzero(cut[start + 1 : stop])).tolist(), stop]
        for a, b in zip(inner, inner[1:], strict=False):
            gap = slice(parts[-1].stop, a) if parts else slice(0, 0)
            near = bool(parts) and a - parts[-1].stop <= MAX_GAP
            if near and not broken[gap].any() and not cut[a]:
                parts[-1] = Part(parts[-1].start, b)
            else:
                parts.append(Part(a, b))
    return parts


class Choice(NamedTuple):
    """What is used of one film, and what is not."""

    parts: list[Part]
    left_out: list[LeftOut]


def choose_parts(faces: Faces) -> Choice:
    """Choose the stretches of one film, whoever they show."""
    mixed, held = mixed_scenes(faces.thumbnails), frozen(faces.thumbnails)
    broken = mixed | held
    cut = cuts_between(faces.landmarks, faces.thumbnails, faces.valid & ~broken)
    parts = stretches_in(faces.valid, broken, cut)
    parts = [part for part in parts if part.stop - part.start >= LEAST_STRETCH]
    used = np.zeros(len(broken), bool)
    for part in parts:
        used[part.start : part.stop] = True
    left_out = []
    for start, stop in runs_of(~used):
        shares = {
            "no face": 1 - faces.valid[start:stop].mean(),
            "a fade": (mixed & faces.valid)[start:stop].mean(),
            "a picture that stands still": (held & faces.valid)[start:stop].mean(),
        }
        why = max(shares, key=shares.__getitem__)
        left_out.append(
            LeftOut(start, stop, why if shares[why] > 0.1 else "under 1 s at a stretch")
        )
    return Choice(parts, left_out)


def same_person(films: Sequence[Faces], choices: Sequence[Choice]) -> list[Choice]:
    """Leave out the stretches that show somebody else than most of them do.

    A face is known by its mean shape, turned and scaled to one, and by its colors from point to
    point. Both must differ: a smile changes the one, another light the other.
    """
    places = [(k, part) for k, choice in enumerate(choices) for part in choice.parts]
    if len(places) < 2:
        return list(choices)
    looks = [_look(films[k], part) for k, part in places]
    model = looks[0][0]
    shapes = np.array([_turned(shape, model) for shape, _ in looks])
    shapes = np.array([_turned(shape, shapes.mean(axis=0)) for shape, _ in looks])
    colors = np.array([_standard(color) for _, color in looks])
    lengths = np.array([part.stop - part.start for _, part in places])
    apart = np.array([np.sqrt(np.square(shapes - s).sum(axis=-1).mean(axis=-1)) for s in shapes])
    unlike = 1 - np.einsum("ip,jp->ij", colors, colors)
    other = (apart / _SHAPE + unlike / _COLOR > _OTHER) & (apart > _SHAPE_LEAST)
    most = int(np.argmax((~other * lengths[None]).sum(axis=1)))
    kept = [Choice([], list(choice.left_out)) for choice in choices]
    for (k, part), strange in zip(places, other[most], strict=True):
        if strange:
            kept[k].left_out.append(LeftOut(*part, "somebody else"))
        else:
            kept[k].parts.append(part)
    return [Choice(parts, sorted(left_out)) for parts, left_out in kept]


def _look(faces: Faces, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean shape [P, 3] and the median color values [P 3] of a face in a part."""
    known = part.start + np.flatnonzero(faces.valid[part.start : part.stop])
    some = known[np.linspace(0, len(known) - 1, min(_LOOKS, len(known))).astype(int)]
    points = faces.landmarks[some][:, RIGID_POINTS].astype(np.float64)
    size = np.linalg.norm(faces.landmarks[some, 33] - faces.landmarks[some, 263], axis=-1)
    points = (points - points.mean(axis=1, keepdims=True)) / size[:, None, None]
    shape = np.mean([_turned(each, points[0]) for each in points], axis=0)
    return shape, colors_of(faces, [part])


def colors_of(faces: Faces, parts: Sequence[Part]) -> Float[np.ndarray, "P 3"]:
    """Return the median colors at the rigid points of a face over some parts; 0 if never looked."""
    seen = np.concatenate(
        [faces.colors[-(-a // COLOR_EVERY) : -(-b // COLOR_EVERY)] for a, b in parts]
    )
    seen = seen[np.isfinite(seen).all(axis=(1, 2))]
    return np.median(seen, axis=0) if len(seen) else np.zeros((len(RIGID_POINTS), 3), np.float32)


def _rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.square(difference).mean()))


def _turned(points: np.ndarray, model: np.ndarray) -> np.ndarray:
    """Turn and scale centered points [P, 3] onto others."""
    u, singular, vt = np.linalg.svd(points.T @ model)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    scale = (singular * sign).sum() / max(float((points**2).sum()), 1e-12)
    return scale * points @ (u * sign) @ vt


def _standard(color: np.ndarray) -> np.ndarray:
    """Return brightness from point to point, as a vector of mean 0 and length 1."""
    gray = color.mean(axis=-1)
    gray = gray - gray.mean()
    return gray / max(float(np.linalg.norm(gray)), 1e-9)


def choose_all(
    films: Sequence[Film], faces: Sequence[Faces], face: str | int | None = None
) -> list[list[Part]]:
    """Choose what is used of all films, and say what is not.

    Args:
      films: The films.
      faces: What `find_faces` found in each.
      face: Which face was asked for, for what is said.

    Returns:
      The parts of each film, in order; of some of several films there may be none.

    Raises:
      InputError: if no film shows a face, if all are too short, or if something is left out and
        less than `LEAST_SECONDS` remains.
    """
    names = films[0].path if len(films) == 1 else f"{films[0].path} and {len(films) - 1} more"
    total = sum(len(each.valid) for each in faces)
    if not any(each.valid.any() for each in faces):
        raise InputError(f"{names}: {_no_face(total, max(e.crowd for e in faces), face)}")
    if total < LEAST_STRETCH:
        raise InputError(
            f"{names}: {total} frames at 25 fps, at least {LEAST_STRETCH} are needed; "
            "record 3 to 5 minutes"
        )
    choices = same_person(faces, [choose_parts(each) for each in faces])
    for film, choice in zip(films, choices, strict=True):
        if choice.left_out:
            print(f"{film.path.name}: left out {told(choice.left_out, film.start)}")
    used = sum(b - a for choice in choices for a, b in choice.parts)
    longest = max((b - a for choice in choices for a, b, _ in choice.left_out), default=0)
    if not used or (longest > MAX_GAP and used < LEAST_SECONDS * FPS):
        film, choice = max(zip(films, choices, strict=True), key=lambda each: len(each[1].left_out))
        raise InputError(
            f"{names}: {used / FPS:.1f} s of one person's face are left, {LEAST_SECONDS} s are "
            f"needed; left out of {film.path.name}: {told(choice.left_out, film.start)}; keep the "
            f"face in view (gaps up to {MAX_GAP / FPS:.1f} s are bridged)"
        )
    count = sum(len(choice.parts) for choice in choices)
    if count > 1:
        print(f"{used / FPS:.1f} s in {count} stretches are used")
    return [choice.parts for choice in choices]


def _no_face(frames: int, crowd: int, face: str | int | None) -> str:
    if face is None or crowd == 0:
        return (
            f"no face in any of {frames} frames; show one face, well lit, that fills at least a "
            "fifth of the picture"
        )
    return (
        f"--face {face}: never more than {crowd} in the picture; leave it out, or count from the "
        "left, from 1 on"
    )


def bridge_gaps(
    landmarks: Float[np.ndarray, "T 478 3"], valid: Bool[np.ndarray, " T"]
) -> Float[np.ndarray, "T 478 3"]:
    """Interpolate landmarks linearly over frames without a face; hold them at the ends."""
    if valid.all():
        return landmarks
    known, flat = np.flatnonzero(valid), landmarks.reshape(len(valid), -1)
    filled = [np.interp(np.arange(len(valid)), known, column[known]) for column in flat.T]
    return np.stack(filled, axis=1).reshape(landmarks.shape).astype(np.float32)


def told(left_out: Sequence[LeftOut], start: int = 0) -> str:
    """Return what is left out as text, in seconds of the film's clock."""
    named = [
        f"{(a + start) / FPS:.1f}-{(b + start) / FPS:.1f} s ({why})"
        for a, b, why in left_out[:_SHOWN]
    ]
    more = [f"{len(left_out) - _SHOWN} more"] if len(left_out) > _SHOWN else []
    return ", ".join([*named, *more])
