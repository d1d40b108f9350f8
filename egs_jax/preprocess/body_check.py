"""The body check: is this clip good enough for an avatar of a whole person, and if not, what to do.

After the capture check, which is about any avatar: an avatar of a person has shoulders and stands
before one clean plate of the room (`room_check`); an avatar of a head needs neither. Its findings
are printed once masks and body poses are there, and stored in `meta.json`.

Thresholds are rules of thumb like those of the capture check. Of films of 450 and 256 px, shaken by
half a pixel, 2 and 10 px, the camera's figure is 0.1 to 0.2, 0.5 to 0.8 and 2 to 4 %. The 95 %
quantile of what the body's poses do not explain is 0.4 to 0.6 % of the picture where people sit and
talk; 0.6 % is also left of a lean by 12 degrees, which is followed.
"""

from dataclasses import asdict, dataclass

from egs_jax.preprocess.body_tracking import BodyTrack
from egs_jax.preprocess.capture_check import Finding, Rule, format_findings
from egs_jax.preprocess.room_check import RoomFigures

HEAD = "--model.body head"
"""Setting of `train` for an avatar that needs neither shoulders nor a still room."""
_INF = float("inf")
_RULES = {
    "camera": Rule("%", (0, 0.25), (0, 1.0), "let the camera stand still and lock its zoom"),
    "other rooms": Rule("% frames", (0, 0), (0, 5), "cut out what shows another place"),
    "background": Rule("%", (0, 0.5), (0, _INF), "let nothing move behind the person; no screens"),
    "other people": Rule(
        "% frames", (0, 2), (0, _INF), "film one person; others become part of the room"
    ),
    "shoulders": Rule("%", (4, _INF), (2, _INF), "film with the shoulders in view"),
    "bending": Rule("%", (0, 0.75), (0, 2), "lean and turn less; shoulders are followed stiffly"),
    "shoulders lost": Rule(
        "% frames", (0, 5), (0, 50), "lean and turn less; let no hand hide them"
    ),
}
_FAULTS = {
    "camera": "the camera moves (by {:.1f} % of the picture)",
    "other rooms": "another place is seen in {:.0f} % of the frames",
}
"""What leaves no clean plate of the room."""


@dataclass(frozen=True)
class BodyReport:
    """All findings, in the order of the table."""

    findings: tuple[Finding, ...]

    def __getitem__(self, name: str) -> Finding:
        return next(finding for finding in self.findings if finding.name == name)

    @property
    def plate(self) -> dict[str, str]:
        """Whether there is a clean plate of the room: "verdict" (ok, warn or bad) and "why" not."""
        verdicts = [self[name].verdict for name in _FAULTS]
        worst = next((verdict for verdict in ("bad", "warn") if verdict in verdicts), "ok")
        faults = [self[name] for name in _FAULTS if self[name].verdict == worst != "ok"]
        why = " and ".join(_FAULTS[fault.name].format(fault.value) for fault in faults)
        return {"verdict": worst, "why": why}

    def as_dict(self) -> dict:
        """Return the findings and the verdict on the plate, for `meta.json`."""
        return {finding.name: asdict(finding) for finding in self.findings} | {"plate": self.plate}

    def format(self) -> str:
        """Return the findings as a text table, and a line on a plate that is not clean."""
        text, plate = format_findings("Body check", self.findings), self.plate
        if plate["verdict"] == "ok":
            return text
        what = "no clean room" if plate["verdict"] == "bad" else "a blurred room"
        return (
            f"{text}{what} for an avatar of a whole person: {plate['why']}; train with {HEAD}, or "
            "film again in one place with the camera standing still\n"
        )


def check_body(room: RoomFigures | None, body: BodyTrack, size: int) -> BodyReport:
    """Judge room and body.

    Args:
      room: What was seen of the room; None: too little.
      body: The body's poses and figures.
      size: Side of the frames, pixels.

    Returns:
      The findings; `unknown` where nothing could be measured.
    """
    unseen = "too little of the room is seen to tell"
    findings = []
    if room is None:
        names = ("camera", "other rooms", "background", "other people")
        findings += [Finding(name, None, _RULES[name].unit, "unknown", unseen) for name in names]
    else:
        findings += [
            _judge("camera", 100 * room.camera),
            _judge("other rooms", 100 * room.elsewhere),
            _judge("background", 100 * room.changing),
            _judge("other people", 100 * room.others),
        ]
        if any(finding.verdict == "bad" for finding in findings[:2]):
            findings[2] = Finding("background", None, "%", "unknown", "the whole room changes")
    findings.append(_judge("shoulders", 100 * body.torso_share))
    if body.followed:
        findings.append(_judge("bending", 100 * body.residual_px[1] / size))
    else:
        reason = "shoulders that cannot be followed stand still"
        findings.append(Finding("bending", None, "%", "unknown", reason))
    findings.append(_judge("shoulders lost", 100 * body.failed))
    return BodyReport(tuple(findings))


def _judge(name: str, value: float) -> Finding:
    return _RULES[name].judge(name, value)
