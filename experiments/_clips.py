"""Clips that settings are chosen on, and clips that are only reported on: no other list.

Whatever is tried (a rate, a weight, a schedule, an architecture) is judged by the held-out frames
of a dev clip; these have been looked at often, and the settings fit them. A report clip is measured
when all is decided, and nothing is decided by it.
"""

from typing import Literal, NamedTuple


class Clip(NamedTuple):
    """A film, known by the hash of its file, or several, by the hash of their hashes in order."""

    name: str
    set: Literal["dev", "report"]
    films: int = 1


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
    # Speaker s1 of the GRID corpus, 80 sentences. The fifth, tenth, ... eightieth film in the order
    # of names is a test sentence; a dataset has the 64 others first, then these 16.
    "24fb6392ec5564635a0e5e512e4317937ef188a45d00a935a21e998d5a7141a5": Clip(
        "grid_s1", "report", films=80
    ),
    # The 64 training sentences alone.
    "e29286836ed9f10fd28fcc6fbdfc1bff24466fe04b1aa70e80c3f27307406df9": Clip(
        "grid_s1_train", "dev", films=64
    ),
}
"""Clips by SHA-256 (`meta.json`: source); every other, the synthetic performer's too, is dev."""


def set_of(sha256: str) -> Literal["dev", "report"]:
    """Return the set of the film with this hash."""
    return CLIPS[sha256].set if sha256 in CLIPS else "dev"


def name_of(sha256: str, otherwise: str) -> str:
    """Return the name of the clip with this hash; `otherwise` if it is none of these."""
    return CLIPS[sha256].name if sha256 in CLIPS else otherwise


def labeled(name: str) -> str:
    """Write the name of a film with its set, for a table."""
    sets = {clip.name: clip.set for clip in CLIPS.values()}
    return f"{name} ({sets.get(name, 'dev')})"
