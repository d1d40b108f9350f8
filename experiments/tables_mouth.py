"""Tables of the mouth: what sound tells of it, under other sound or none, where errors lie."""

from collections.abc import Callable

from egs_jax.speech.layout import LAYOUTS
from experiments._clips import labeled
from experiments._markdown import markdown, number
from experiments._summary import Spread, grouped, shown, spread_of

Maker = Callable[[list[dict]], str]


def _head(case: dict) -> str:
    body = case.get("body", "head")  # none is said of runs before there were persons
    return f"{labeled(case['video'])}, {case['preset']}, {case['width']} px, {body}"


def _mean(cases: list[dict], name: str, digits: int) -> str:
    """Mean and deviation over seeds; a dash where a case has no such number."""
    return shown(spread_of([case.get(name) for case in cases]), digits)


def mouths_of_others(cases: list[dict]) -> str:
    """Lay heads beside foreign speeches at their own poses: r to the loudness less the true one."""
    own = [case for case in cases if case["poses"] == "own training clip"]
    heads: dict[str, list[dict]] = {}
    for case in own:
        heads.setdefault(_head(case), []).append(case)

    def cell(speech: str) -> Callable[[str], str]:
        def show(head: str) -> str:
            found = [case for case in heads[head] if case["speech"] == speech]
            values = [case["mouth_sound_r"] for case in found]
            gaps = [_gap(case) for case in found]
            if not found:
                return "-"
            return f"{shown(spread_of(values), 2)} ({shown(spread_of(gaps), 2, signed=True)})"

        return show

    columns = {
        "head": lambda head: head,
        "seeds": lambda head: str(len({case["seed"] for case in heads[head]})),
        "true mouth, own speech": lambda head: _mean(heads[head], "mouth_sound_r_true", 2),
        **{
            f"{speech} (less the true mouth's)": cell(speech)
            for speech in dict.fromkeys(case["speech"] for case in own)
        },
    }
    return markdown(columns, list(heads))


def _gap(case: dict) -> float | None:
    pair = case["mouth_sound_r"], case["mouth_sound_r_true"]
    return None if None in pair else pair[0] - pair[1]


def stillness(cases: list[dict]) -> str:
    """Show what a head does under each sound without a voice, mean and deviation over seeds."""
    rows = list(grouped(cases, "video", "preset", "body", "width", "sound").values())
    columns = {
        "head": lambda row: _head(row[0]),
        "seeds": lambda row: str(len(row)),
        "sound": lambda row: f"{row[0]['sound']}, {number(row[0]['seconds'], 0)} s",
        "lips move, % of speech": lambda row: _mean(row, "moves_percent", 2),
        "by landmarks, %": lambda row: _mean(row, "moves_landmarks_percent", 1),
        "r of both, speech": lambda row: _mean(row, "seen_r", 2),
        "opening, percentile of speech": lambda row: _mean(row, "percentile", 0),
        "blinks seen, asked for": lambda row: (
            f"{sum(case['blinks_seen'] for case in row)}, {sum(case['blinks'] for case in row)}"
        ),
    }
    return markdown(columns, rows)


PLACES = {
    "psnr_head": "as drawn",
    "psnr_head_aligned": "aligned",
    "psnr_head_by_flow": "by a smooth flow",
    "psnr_head_without_lips": "without the lips",
    "psnr_head_without_lips_and_eyes": "without lips and eyes",
    "psnr_head_on_training_frames": "training frames",
}
"""Figures of `error_by_place` that are all PSNR of the head [dB], and their labels."""


def error_by_place(cases: list[dict]) -> str:
    """Show PSNR of the head as drawn, and what is gained by each thing that is taken away."""

    def gain(name: str) -> Callable[[list[dict]], str]:
        def show(row: list[dict]) -> str:
            pairs = [(case[name], case["psnr_head"]) for case in row]
            gains = [None if None in pair else pair[0] - pair[1] for pair in pairs]
            return shown(spread_of(gains), 2, signed=True)

        return show

    def of_region(region: str) -> Callable[[list[dict]], str]:
        def show(row: list[dict]) -> str:
            found = [case["by_region"][region] for case in row]
            part = lambda name: _rounded(spread_of([each[name] for each in found]), 0)
            return f"{part('error_percent')}, {part('pixels_percent')}"

        return show

    rows = list(grouped(cases, "video", "preset", "body", "width").values())
    regions = list(dict.fromkeys(region for case in cases for region in case["by_region"]))
    columns = {
        "run": lambda row: _head(row[0]),
        "seeds": lambda row: str(len(row)),
        "PSNR head, dB": lambda row: _mean(row, "psnr_head", 2),
        **{label: gain(name) for name, label in PLACES.items() if name != "psnr_head"},
        "error in the worst tenth, %": lambda row: _mean(row, "worst_tenth_error_percent", 0),
        **{f"{region}: % of the error, of the pixels": of_region(region) for region in regions},
    }
    return markdown(columns, rows)


def _rounded(spread: Spread | None, digits: int) -> str:
    return shown(spread and spread._replace(std=None), digits)


def lips_from_sound(cases: list[dict]) -> str:
    """Show what the reader tells of each clip's held-out lips, alone and with a prior of others."""
    rows = [found for (_, _), found in grouped(cases, "video", "seconds").items()]

    def pair(name: str, digits: int = 2) -> Callable[[list[dict]], str]:
        def show(row: list[dict]) -> str:
            values = {case["others"]: number(case[name], digits) for case in row}
            return ", ".join(values[others] for others in sorted(values))

        return show

    columns = {
        "clip": lambda row: labeled(row[0]["video"]),
        "seconds fitted on": lambda row: number(row[0]["seconds"], 1),
        "opening: r alone, with a prior": pair("opening_r"),
        "gain": pair("opening_gain"),
        "width: r": pair("width_r"),
        "closures (of how many)": lambda row: f"{pair('closures')(row)} ({row[0]['num_closures']})",
    }
    return markdown(columns, rows)


def speech_features(cases: list[dict]) -> str:
    """Show for each kind of features its cost, what a line tells from it, and other languages."""
    kinds = {kind: group for (kind,), group in grouped(cases, "kind").items()}
    of = lambda kind, series: [case for case in kinds[kind] if case["series"] == series]
    clips = dict.fromkeys(case["clip"] for case in cases if case["series"] == "held out")

    def cost(*names: str) -> Callable[[str], str]:
        return lambda kind: ", ".join(number(of(kind, "cost")[0][name]) for name in names)

    def told(clip: str) -> Callable[[str], str]:
        def show(kind: str) -> str:
            [case] = [case for case in of(kind, "held out") if case["clip"] == clip]
            return f"{number(case['r'])} ({number(case['r_blocks'])})"

        return show

    def wider(english: bool) -> Callable[[str], str]:
        def show(kind: str) -> str:
            spoken = [c for c in of(kind, "language") if (c["voice"] == "en-us") == english]
            return shown(spread_of([v for c in spoken for v in c["vowels_wider"].values()]), 2)

        return show

    columns = {
        "features": lambda kind: f"`{kind}`",
        "CPU seconds a second of sound: file, live": cost("file_cpu_s_per_s", "live_cpu_s_per_s"),
        **{f"{labeled(clip)}: r held out (of blocks)": told(clip) for clip in clips},
        "vowels wider: English": wider(True),
        "seven other languages": wider(False),
    }
    return markdown(columns, list(kinds))


def look_ahead(cases: list[dict]) -> str:
    """Show for every layout that can be chosen how soon a frame is told, how well, and the cost."""
    fields = ("hop_rows", "left_rows", "ahead_rows")
    wanted = [
        (kind, *(getattr(layout, name) for name in fields), round(layout.look_ahead(), 6))
        for kind, layouts in LAYOUTS.items()
        for layout in layouts
    ]
    groups = grouped(cases, "kind", *fields, "look_ahead_s")
    rows = [found for key, found in groups.items() if (*key[:4], round(key[4], 6)) in wanted]
    sources = dict.fromkeys(case["source"] for case in cases)

    def told(source: str) -> Callable[[list[dict]], str]:
        def show(row: list[dict]) -> str:
            found = [case for case in row if case["source"] == source]
            if not found:
                return "-"
            return f"{number(found[0]['r_opening'])} ({number(found[0]['r_opening_crossed'])})"

        return show

    columns = {
        "features": lambda row: f"`{row[0]['kind']}`",
        "look-ahead, s": lambda row: number(row[0]["look_ahead_s"], 3),
        **{
            f"{labeled(source.rsplit('.', 1)[0])}: r held out (crossed)": told(source)
            for source in sources
        },
        "CPU seconds a second of sound: file, live": lambda row: (
            f"{_mean(row, 'cpu_s_per_s_file', 2)}, {_mean(row, 'cpu_s_per_s_stream', 2)}"
        ),
    }
    return markdown(columns, rows)


TABLES: dict[str, tuple[str, Maker]] = {
    "lips_from_sound": ("lips_from_sound", lips_from_sound),
    "speech_features": ("speech_features", speech_features),
    "look_ahead": ("look_ahead", look_ahead),
    "mouths_of_others": ("cross_driven", mouths_of_others),
    "stillness": ("stillness", stillness),
    "error_by_place": ("error_by_place", error_by_place),
}
