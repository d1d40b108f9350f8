"""The table of `data_curve`, and what it says a user gains by filming longer."""

from collections.abc import Callable

from experiments._markdown import markdown
from experiments._summary import CURVE, Metric, grouped, paired, shown, spread_of, stands_out

Curve = dict[float, list[dict]]
"""Cases of all seeds by seconds of video, the shortest first."""


def curves_of(cases: list[dict]) -> dict[str, Curve]:
    """Return the curves of what is alike but for seed and seconds, by what they are of."""
    found = {}
    for group in grouped(cases, "source_sha256", "preset", "width", "body").values():
        seconds = grouped(sorted(group, key=lambda case: case["seconds"]), "seconds")
        first = group[0]
        name = f"{first['video']} ({first['set']}), {first['preset']}, {first['width']} px"
        name += "" if first["body"] == "person" else f", {first['body']}"
        found[name] = {length: alike for (length,), alike in seconds.items()}
    return found


def data_curve(cases: list[dict]) -> str:
    """Lay out every length: means over seeds, and the mean difference to the length before it.

    A difference that is larger than its own deviation is bold.
    """
    rows = []
    for name, curve in curves_of(cases).items():
        before = [[], *curve.values()]
        rows += [(name, found, base) for found, base in zip(curve.values(), before, strict=False)]

    def cell(metric: Metric) -> Callable[[tuple], str]:
        def show(row: tuple) -> str:
            _, found, base = row
            text = shown(spread_of([metric.value(case) for case in found]), metric.digits)
            gap = paired(found, base, metric)
            mark = "**" if gap and stands_out(gap) else ""
            return text + (
                f" ({mark}{shown(gap, metric.digits, signed=True)}{mark})" if gap else ""
            )

        return show

    of = lambda name, digits: lambda row: shown(spread_of([c.get(name) for c in row[1]]), digits)
    columns = {
        "clip (set), preset": lambda row: row[0],
        "seconds of video (trained on)": lambda row: (
            f"{row[1][0]['seconds']:g} ({of('seconds_trained', 1)(row)})"
        ),
        "films": lambda row: str(row[1][0]["films"]),
        "seeds": lambda row: str(len(row[1])),
    } | {metric.label: cell(metric) for metric in CURVE}
    columns |= {
        "mouth r of shifted sound, p95": of("mouth_r_shift_p95", 2),
        "closures": of("closures", 2),
        "closures of shifted sound, p95": of("closures_shift_p95", 2),
        "PSNR head of the nearest frame, dB": of("baseline_nearest_frame", 2),
        "commit": lambda row: ", ".join(sorted({case["commit"][:7] for case in row[1]})),
    }
    return markdown(columns, rows) + "\n\n" + gains_text(cases)


def gains_text(cases: list[dict]) -> str:
    """Say what more seconds of video gain: a paragraph a curve, of one length to the next."""
    parts = []
    for name, curve in curves_of(cases).items():
        lengths, first = list(curve), next(iter(curve.values()))[0]
        pairs = [*zip(lengths, lengths[1:], strict=False)]
        pairs += [(lengths[0], lengths[-1])] if len(pairs) > 1 else []
        told = "".join(f"\n- {_gained(curve, *pair)}" for pair in pairs)
        tested = f"{first['films_tested']} films, {first['seconds_held_out']:g} s"
        parts.append(f"{name}, tested on {tested}:\n{told or f'{chr(10)}- one length alone'}")
    return "\n\n".join(parts)


def _gained(curve: Curve, short: float, long: float) -> str:
    """Say what one length has over another, and what is no more than its own deviation."""
    gains, same = [], []
    for metric in CURVE:
        gap = paired(curve[long], curve[short], metric)
        if gap is None:
            continue
        label, _, unit = metric.label.partition(", ")
        if gap.std is None or stands_out(gap):
            gains.append(f"{label} {shown(gap, metric.digits, signed=True)} {unit}".strip())
        else:
            same.append(label)
    text = f"{long:g} s instead of {short:g} s: {', '.join(gains) or 'nothing that stands out'}"
    return text + (f"; no more than its deviation: {', '.join(same)}" if same else "")
