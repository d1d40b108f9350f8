"""The body check's verdicts, and what it says of a room without a clean plate."""

import json

import numpy as np
import pytest

from egs_jax.preprocess.body_check import HEAD, check_body
from egs_jax.preprocess.body_tracking import BodyTrack
from egs_jax.preprocess.room_check import RoomFigures

STILL = RoomFigures(camera=0.0005, elsewhere=0.0, changing=0.001, others=0.0)
POSES = np.zeros((1, 4, 4), np.float32)
SEEN = BodyTrack(POSES, True, (0.8, 1.2), 0.0, 5.0, 0.15)
UNSEEN = BodyTrack(POSES, False, (np.nan, np.nan), 1.0, 0.0, 0.01)
NAMES = [
    "camera",
    "other rooms",
    "background",
    "other people",
    "shoulders",
    "bending",
    "shoulders lost",
]


def verdicts(room=STILL, body=SEEN) -> dict[str, str]:
    """What is not ok."""
    report = check_body(room, body, 256)
    return {f.name: f.verdict for f in report.findings if f.verdict != "ok"}


def test_a_good_clip_is_ok():
    report = check_body(STILL, SEEN, 256)
    assert [finding.name for finding in report.findings] == NAMES and verdicts() == {}
    assert report.plate == {"verdict": "ok", "why": ""} and HEAD not in report.format()
    stored = json.loads(json.dumps(report.as_dict()))
    assert list(stored) == [*NAMES, "plate"] and stored["camera"]["value"] == pytest.approx(0.05)


def test_every_finding_reacts_to_its_figure():
    moves = {"background": "unknown"}
    assert verdicts(STILL._replace(camera=0.005)) == {"camera": "warn"}
    assert verdicts(STILL._replace(camera=0.02)) == {"camera": "bad", **moves}
    assert verdicts(STILL._replace(elsewhere=0.04)) == {"other rooms": "warn"}
    assert verdicts(STILL._replace(elsewhere=0.2)) == {"other rooms": "bad", **moves}
    assert verdicts(STILL._replace(changing=0.5)) == {"background": "warn"}
    assert verdicts(STILL._replace(others=1.0)) == {"other people": "warn"}
    unseen = {"shoulders": "bad", "bending": "unknown", "shoulders lost": "bad"}
    assert verdicts(body=UNSEEN) == unseen
    bent = BodyTrack(POSES, True, (1.0, 4.0), 0.2, 5.0, 0.03)
    assert verdicts(body=bent) == dict.fromkeys(NAMES[4:], "warn")
    assert check_body(STILL, bent, 256)["bending"].value == pytest.approx(100 * 4 / 256)
    assert verdicts(None) == dict.fromkeys(NAMES[:4], "unknown")


def test_what_leaves_no_plate_is_one_line():
    report = check_body(STILL._replace(camera=0.031, elsewhere=0.25), SEEN, 256)
    why = (
        "the camera moves (by 3.1 % of the picture) and another place is seen in 25 % of the frames"
    )
    assert report.plate == {"verdict": "bad", "why": why}
    line = report.format().splitlines()[-1]
    assert line.startswith(f"no clean room for an avatar of a whole person: {why}; ")
    assert HEAD in line and "camera standing still" in line
    slight = check_body(STILL._replace(camera=0.005, elsewhere=0.25), SEEN, 256)
    assert slight.plate["why"] == "another place is seen in 25 % of the frames"
    slight = check_body(STILL._replace(camera=0.005), SEEN, 256)
    assert slight.plate["verdict"] == "warn"
    assert slight.format().splitlines()[-1].startswith("a blurred room for an avatar of a whole")
    assert check_body(None, SEEN, 256).plate["verdict"] == "ok"
