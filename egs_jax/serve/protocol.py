"""What client and server say to each other over one WebSocket, as bytes and back.

A client's binary messages are its sound: mono PCM, 16 bits, little-endian, at the rate that its
`hello` named. Its text messages are JSON objects with a "type": `hello` first, then `interrupt`,
`finish`, `source` and `look`. A server's binary messages are frames, of `HEADER` and a body: a
record of `avatar.motion`, a JPEG, or an access unit of H.264. Its text messages are events, JSON
objects with a "type" as well. The whole list is in this room's README.

Before: a socket; after: `speaker`.
"""

import json
import math
import struct
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int16

from egs_jax.avatar.motion import packed
from egs_jax.avatar.poses import Viewpoint
from egs_jax.avatar.shared_drawing import MotionFrame
from egs_jax.media.sound_tracks import RATES
from egs_jax.runtime.errors import InputError

HEADER = struct.Struct("<BBeId")
"""Kind (one of `WANTS`), 1 where somebody speaks, blink, number, time [s]; little-endian."""
CODES = 1
"""Kind of a frame that its client draws."""
WANTS = {"codes": CODES, "jpeg": 2, "h264": 3}
"""What a client may want, and the kind of the frames that it gets then."""
MOST_BYTES = 1 << 18
"""Longest message of a client: 2.7 s of sound at 48 kHz."""
MOST_ZOOM = 6.0
"""As the page's own."""
MOST_TURN = 360.0
"""Degrees by which one may ask to look from aside; every avatar lets itself be seen from less."""


class Hello(NamedTuple):
    """Who is to speak, and how."""

    avatar: str | None
    """Its name; None: the first."""
    rate: int
    """Samples a second of the sound to come."""
    want: str
    """One of `WANTS`."""


class Framing(NamedTuple):
    """How frames are drawn that come as pictures."""

    zoom: float = 1.0
    """How many times larger than the avatar's own picture."""
    x: float = 0.5
    """Middle of what is seen, as a share of the picture; likewise y."""
    y: float = 0.5
    background: tuple[int, int, int] | None = None
    """A color; None: the avatar's plate."""


class Command(NamedTuple):
    """What a client asks for."""

    kind: str
    """`interrupt`, `finish`, `source` or `look`."""
    live: bool = False
    """Whether further sound comes at its own pace, as of a microphone: what is late is dropped."""
    framing: Framing = Framing()
    view: Viewpoint = Viewpoint()
    """From where one looks."""


def hello(text: str) -> Hello:
    """Read a client's first message.

    Raises:
      InputError: if it is none; the message is one line for who wrote the client.
    """
    said = _object(text)
    if said.get("type") != "hello":
        raise InputError('say {"type": "hello", ...} first')
    avatar, rate, want = said.get("avatar"), said.get("rate", 16_000), said.get("want", "codes")
    if not (isinstance(rate, int) and RATES[0] <= rate <= RATES[1]) or isinstance(rate, bool):
        raise InputError(f"rate: expected a whole number of Hz from {RATES[0]} to {RATES[1]}")
    if not isinstance(want, str) or want not in WANTS:
        raise InputError(f"want: expected one of {', '.join(WANTS)}")
    if not (avatar is None or isinstance(avatar, str)):
        raise InputError("avatar: expected a name")
    return Hello(avatar, rate, want)


def command(text: str) -> Command:
    """Read any further text message of a client.

    Raises:
      InputError: if it is none.
    """
    said = _object(text)
    kind = said.get("type")
    if kind in ("interrupt", "finish"):
        return Command(str(kind))
    if kind == "source" and isinstance(live := said.get("live"), bool):
        return Command("source", live=live)
    if kind == "look":
        turns = (_between(said, name, 0.0, (-MOST_TURN, MOST_TURN)) for name in ("yaw", "pitch"))
        view = Viewpoint(*map(math.radians, turns))
        return Command("look", framing=_framing(said), view=view)
    raise InputError("type: expected interrupt, finish, look, or source with live true or false")


def _object(text: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise InputError("expected a JSON object with a type")
    return said


def _framing(said: dict[str, Any]) -> Framing:
    zoom = _between(said, "zoom", 1.0, (1.0, MOST_ZOOM))
    x, y = (_between(said, name, 0.5, (0.0, 1.0)) for name in ("x", "y"))
    background = said.get("background", "plate")
    if background == "plate":
        return Framing(zoom, x, y)
    try:
        if not (isinstance(background, str) and len(background) == 7 and background[0] == "#"):
            raise ValueError
        red, green, blue = bytes.fromhex(background[1:])
    except ValueError:
        raise InputError("background: expected plate, or a color as #rrggbb") from None
    return Framing(zoom, x, y, (red, green, blue))


def _between(said: dict[str, Any], name: str, default: float, limits: tuple[float, float]) -> float:
    value = said.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name}: expected a number")
    if not limits[0] <= value <= limits[1]:
        raise InputError(f"{name}: expected a number from {limits[0]:g} to {limits[1]:g}")
    return float(value)


def sound(data: bytes) -> Int16[np.ndarray, " S"]:
    """Read a client's sound.

    Raises:
      InputError: if it has half a sample.
    """
    if len(data) % 2:
        raise InputError("sound: expected 16-bit samples, got an odd number of bytes")
    return np.frombuffer(data, "<i2").astype(np.int16)


def event(kind: str, **words: Any) -> str:
    """Return an event of the server as text."""
    return json.dumps({"type": kind, **words})


def coded(ranges: Float[np.ndarray, "2 K"], frame: MotionFrame) -> bytes:
    """Return a frame's codes and poses as a message.

    Args:
      ranges: Least and greatest codes of training (`Baked.ranges`).
      frame: Of a whole person.
    """
    head = HEADER.pack(CODES, frame.speaking, frame.eye, frame.number, frame.time)
    record = packed(ranges, frame.codes[None], frame.viewmat[None], frame.body[None])
    return head + record.tobytes()


def pictured(want: str, number: int, time: float, picture: bytes, *, speaking: bool) -> bytes:
    """Return a drawn frame as a message of the kind that its client wants."""
    return HEADER.pack(WANTS[want], speaking, 0.0, number, time) + picture
