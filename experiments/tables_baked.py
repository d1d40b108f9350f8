"""Tables of the avatar that speaks: how near baked is to exact, how fast it draws, live, many."""

from collections.abc import Callable

from egs_jax.avatar.baking import CODES
from experiments._clips import labeled
from experiments._markdown import markdown, number
from experiments._summary import grouped


def baking(cases: list[dict]) -> str:
    """Lay out every run: dB to the exact pictures by the number of codes, and figures of both."""
    counts = sorted({case["codes"] for case in cases})
    rows = list(grouped(cases, "video", "preset", "body", "seed", "width").values())
    of = lambda row, codes: [case for case in row if case["codes"] == codes]

    def near(codes: int) -> Callable[[list[dict]], str]:
        def show(row: list[dict]) -> str:
            held = next((c for c in of(row, codes) if c["speech"] == "held out"), None)
            others = [c for c in of(row, codes) if c["speech"] != "held out"]
            if held is None:
                return "-"
            text = f"{held['psnr_to_exact']:.1f} ({held['psnr_to_exact_worst']:.1f})"
            if others:
                mean = sum(c["psnr_to_exact"] for c in others) / len(others)
                worst = min(c["psnr_to_exact_worst"] for c in others)
                text += f"; {mean:.1f} ({worst:.1f})"
            return text

        return show

    def both(name: str, digits: int) -> Callable[[list[dict]], str]:
        def show(row: list[dict]) -> str:
            told = next((c["figures"] for c in row if c.get("figures")), {})
            exact, baked = (told.get(kind, {}).get(name) for kind in ("exact", "baked"))
            return f"{number(exact, digits)} / {number(baked, digits)}"

        return show

    columns: dict[str, Callable[[list[dict]], str]] = {
        "clip (set), preset": lambda row: (
            f"{labeled(row[0]['video'])}, {row[0]['preset']}, {row[0]['width']} px"
        ),
        "Gaussians": lambda row: number(row[0]["gaussians"], 0),
        f"file of {CODES}, MB": lambda row: number(of(row, CODES)[0]["file_mb"], 1),
    }
    columns |= {
        f"{codes} codes" if codes == counts[0] else str(codes): near(codes) for codes in counts
    }
    columns |= {
        "mouth r, exact / baked": both("mouth_r", 3),
        "LMD, px": both("lmd", 3),
        "PSNR head, dB": both("psnr_head", 2),
        "commit": lambda row: row[0]["commit"][:7],
    }
    return markdown(columns, rows)


def start(cases: list[dict]) -> str:
    """Lay out what passes until an avatar draws, the first time and later ones."""

    def times(case: dict, later: bool) -> dict[str, dict[str, float]]:
        rows = case["parts"][1:] if later else case["parts"][:1]
        whole = case["render"][1:] if later else case["render"][:1]
        middle = lambda values: sorted(values)[len(values) // 2]
        parts = {
            name: {unit: middle([row[name][unit] for row in rows]) for unit in ("wall_s", "cpu_s")}
            for name in rows[0]
        }
        command = {unit: middle([row[unit] for row in whole]) for unit in ("wall_s", "cpu_s")}
        return {"render": command} | parts

    rows = [(case, later) for case in cases for later in (False, True)]
    cell = lambda name: lambda row: "{wall_s:.2f} ({cpu_s:.2f})".format(**times(*row)[name])
    columns: dict[str, Callable[[tuple], str]] = {
        "avatar": lambda row: (
            f"{row[0]['run']['video']}, {row[0]['run']['preset']}, {row[0]['gaussians']:,}, "
            f"{row[0]['size']} px"
        ),
        "start": lambda row: "second and later" if row[1] else "first",
        "`render`, whole": cell("render"),
        "imports": cell("imports"),
        "loading": cell("load"),
        "compiling": cell("compile"),
        "first frame": cell("first_frame"),
        "of a second stream": cell("first_frame_of_second_stream"),
    }
    return markdown(columns, rows)


def pictures_on_cpu(cases: list[dict]) -> str:
    """Lay out what a picture costs a CPU."""
    cell = lambda name, digits=1: lambda case: number(case[name], digits)
    columns: dict[str, Callable[[dict], str]] = {
        "scene": lambda case: f"{case['name']}, {case['gaussians']:,}, {case['size']} px",
        "moving, ms of a core": lambda case: number(case.get("moving_ms")),
        "of random networks: decoder, codes (share)": lambda case: (
            f"{case['decoder_ms']:.0f}, {case['codes_ms']:.1f} ({case['codes_share']:.3f})"
            if "decoder_ms" in case
            else "-"
        ),
        "projection": cell("projection_ms"),
        "lists": cell("lists_ms"),
        "blending": cell("blend_ms"),
        "frames a second of both cores": cell("frames_a_second"),
        "live, sound included": lambda case: number(case.get("live_fps"), 1),
    }
    return markdown(columns, cases)


def streams(cases: list[dict]) -> str:
    """Lay out how many live sessions a device holds; encoding below."""
    held = [case for case in cases if "sessions" in case]
    at = lambda case: case["tried"].get(str(max(case["sessions"], 1)), {})  # of none held, of one
    turns = lambda case: ", at once" if case.get("at_once") else ", by turns"
    columns: dict[str, Callable[[dict], str]] = {
        "avatars": lambda case: f"{case['name']}, {case['size']} px",
        "frames": lambda case: case["frames"],
        "device": lambda case: f"{case['device']}, {case['host_cores']} cores",
        "processes, on the device": lambda case: (
            number(case["processes"], 0) + (turns(case) if case["processes"] > 1 else "")
        ),
        "sessions held": lambda case: f"**{case['sessions']}**",
        "late then (of one where none is held), p50 / p99 ms": lambda case: " / ".join(
            number(at(case).get(f"late_p{q}_ms"), 1) for q in (50, 99)
        ),
        "stated latency, s": lambda case: number(case["latency_s"]),
        "commit": lambda case: case["commit"][:7],
    }
    encoding = ", ".join(
        f"{case['frames_a_second']:,.0f} frames a second of {case['size']} px ({case['encoder']}, "
        f"{case['host_cores']} cores)" for case in cases if case["name"] == "H.264"
    )  # fmt: skip
    return markdown(columns, held) + f"\n\nH.264, apart: {encoding}."


def served(cases: list[dict]) -> str:
    """Lay out what clients of a server get, and what it costs."""
    columns: dict[str, Callable[[dict], str]] = {
        "avatar": lambda case: f"{case['gaussians']:,}, {case['size']} px",
        "device": lambda case: f"{case['device']}, {case['cores']} cores",
        "clients, speaking": lambda case: f"{case['clients']}, {case['speech_share']:.0%}",
        "minutes": lambda case: number(case["seconds"] / 60, 1),
        "sound to frame beyond the stated latency, p50 / p95 / p99 ms": lambda case: " / ".join(
            number(case[f"beyond_latency_p{q}_ms"], 0) for q in (50, 95, 99)
        ),
        "frames late": lambda case: f"{case['late'] / case['frames']:.2%}",
        "sound dropped": lambda case: (
            f"{case['dropped_s'] / case['clients'] / case['seconds']:.2%}"
        ),
        "drift, ms": lambda case: number(case["drift_ms"], 1),
        "cores of the server": lambda case: number(case["server_cores"]),
        "its memory, MiB: first, most, last": lambda case: ", ".join(
            number(each(case["resident_mb"]), 0)
            for each in (lambda rows: rows[0], max, lambda rows: rows[-1])
        ),
        "commit": lambda case: case["commit"][:7],
    }
    return markdown(columns, cases)


def interruption(cases: list[dict]) -> str:
    """Lay out what mouths do that are interrupted."""
    steps = lambda name: (
        lambda case: " / ".join(
            number(case[f"{name}_{at}_step_max"], 3) for at in ("seam", "later", "usual")
        )
    )
    columns: dict[str, Callable[[dict], str]] = {
        "avatar": lambda case: f"{labeled(case['video'])}, {case['preset']}, {case['width']} px",
        "interruptions": lambda case: number(case["interruptions"], 0),
        "largest steps of the opening: at the seam / after it / without interruption": (
            steps("opening")
        ),
        "in the clip": lambda case: number(case["opening_clip_step_max"], 3),
        "of the lips' gap": steps("gap"),
        "gap from rest when due / afterwards": lambda case: " / ".join(
            number(case[f"gap_from_rest_{at}"]) for at in ("when_due", "afterwards")
        ),
        "commit": lambda case: case["commit"][:7],
    }
    return markdown(columns, cases)


TABLES = {
    "streams": ("bench_streams", streams),
    "served": ("serve_hour", served),
    "interruption": ("interruption", interruption),
    "baking": ("baking", baking),
    "start": ("bench_start", start),
    "pictures_on_cpu": ("bench_cpu", pictures_on_cpu),
}
"""Tables by name: the file of its cases, and what makes the table of them."""
