"""Clips that settings are chosen on, and clips that are only reported on: no other list.

Whatever is tried (a rate, a weight, a schedule, an architecture) is judged by the held-out frames
of a dev clip; these have been looked at often, and the settings fit them. A report clip is measured
when all is decided, and nothing is decided by it.
"""

from typing import Literal, NamedTuple


class Clip(NamedTuple):
    """A film, known by the hash of its file."""

    name: str
    set: Literal["dev", "report"]


CLIPS = {
    "3eb498d35b1786000008da567c786387016b291f5500e3710c34dcf6141c1107": Clip(
        "obama_bp_450_25fps_20s", "dev"
    ),
    "fd62473264970165c19dbac710b12ad0beab4c93f1e5e01e0a44546ba5125c1d": Clip(
        "tedlieu_256_60s", "dev"
    ),
    "788e9bf674044497ad4d8d32042d619f680aea304bbb85bcd615d9f68f9fd5e7": Clip(
        "andrew_256_25s", "report"
    ),
    "9efc1aded2474ae4efc6daff67a8c4c298b2ab4740ac70cbf708f8df9be204f4": Clip(
        "feifei_256_15s", "report"
    ),
}
"""Films by the SHA-256 of their file; every other, the synthetic performer's too, is a dev clip."""


def set_of(sha256: str) -> Literal["dev", "report"]:
    """Return the set of the film with this hash."""
    return CLIPS[sha256].set if sha256 in CLIPS else "dev"


def labeled(name: str) -> str:
    """Write the name of a film with its set, for a table."""
    sets = {clip.name: clip.set for clip in CLIPS.values()}
    return f"{name} ({sets.get(name, 'dev')})"
