"""Numbers of other programs that were measured apart from ours: quoted with their conditions."""

import json
from typing import Any

from experiments._common import RESULTS

ORIGINAL = "EGSTalker"


def peer(about: str, name: str = ORIGINAL) -> dict[str, Any]:
    """Return what is known of a peer about "speed" or "quality"."""
    cases = json.loads((RESULTS / "peers.json").read_text("utf-8"))["cases"]
    [case] = [case for case in cases if (case["peer"], case["about"]) == (name, about)]
    return case


def original_ms(gaussians: int, size: int, batch: int) -> float | None:
    """Return the time of a frame by the original's code [ms]; None where it was not measured.

    Its calls were waited for one by one: compare them with calls that were waited for as well.
    """
    if (gaussians, size) != (50_000, 512):
        return None
    return peer("speed")["ms_a_frame"].get(str(batch))
