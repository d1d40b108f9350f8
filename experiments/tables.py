"""Tables of quality: held-out frames, the paper's choices, other speech, the cloud, whole runs.

`TABLES` has every table of all READMEs by name, with what makes it; those of the mouth and of where
errors lie are in `tables_mouth.py`, that of seconds of video in `tables_curve.py`, those of baked
avatars in `tables_baked.py`, those of time and memory in `tables_speed.py`.
"""

from collections.abc import Callable

from experiments import tables_baked, tables_curve, tables_mouth, tables_speed
from experiments._clips import labeled
from experiments._markdown import markdown, number
from experiments._peers import peer
from experiments._regions import REGIONS
from experiments._runs import FIGURES, cases_of
from experiments._summary import (
    QUALITY,
    Metric,
    Spread,
    grouped,
    paired,
    shown,
    spread_of,
    stands_out,
)

BASE = "paper"
BASES = {"long_window_ppe_off": "long_window"}
"""What a variant of the ablations differs from in one choice, where that is not `BASE`."""


def reconstruction(cases: list[dict]) -> str:
    """Show mean and deviation over the seeds of each clip and preset; report clips last."""
    return markdown(_reconstruction_columns(), _alike(cases, "head"))


def persons(cases: list[dict]) -> str:
    """Show the same of whole persons, with what only they have."""
    of = lambda name, digits: lambda row: shown(spread_of([c[name] for c in row]), digits)
    columns = _reconstruction_columns()
    first = list(columns)[:3]
    columns = {name: columns[name] for name in first} | {
        "PSNR whole frame, dB": of("psnr_frame", 2),
        "person (with the true body pose)": lambda row: (
            f"{of('psnr_person', 2)(row)} ({of('psnr_person_given_body', 2)(row)})"
        ),
        "head": of("psnr_head", 2),
        "SSIM, LPIPS person": lambda row: (
            f"{of('ssim_person', 4)(row)}, {of('lpips_person', 4)(row)}"
        ),
        "LPIPS head": of("lpips", 4),
        "mouth r": of("mouth_r", 2),
        "person's share of the picture": of("person_fraction", 2),
        "commit": columns["commit"],
    }
    return markdown(columns, _alike(cases, "person"))


def _alike(cases: list[dict], body: str) -> list[list[dict]]:
    """Group cases of one body that differ in their seed alone, report clips last."""
    cases = sorted((c for c in cases if c["body"] == body), key=lambda c: c["set"])
    return list(grouped(cases, "video", "preset", "width", "seconds_held_out", "commit").values())


def reconstruction_by_seed(cases: list[dict]) -> str:
    """Lay out the same and more for every run."""
    cell = lambda name, digits: lambda row: number(row[0][name], digits)
    columns = _reconstruction_columns() | {
        "seeds": lambda row: f"seed {row[0]['seed']}, {row[0]['body']}",
        "PSNR composite, dB (paper: 36.07, Obama)": cell("psnr", 2),
        "PSNR lips, dB": cell("psnr_lips", 2),
        "SSIM": cell("ssim", 4),
        "mouth gain": lambda row: number(row[0].get("mouth_gain"), 2),
        "error at the widest, narrowest tenth": lambda row: " / ".join(
            number(row[0].get(f"mouth_{end}_error")) for end in ("wide", "narrow")
        ),
        "closures (shifted p95; of how many)": lambda row: (
            f"{number(row[0].get('closures'))} ({number(row[0].get('closures_shift_p95'))}; "
            f"{number(row[0].get('num_closures'), 0)})"
        ),
        "sync lag, frames (confidence)": lambda row: (
            f"{number(row[0]['sync_lag_frames'], 0)} ({number(row[0]['sync_conf'])})"
        ),
        "frames a second (paper: 66.36)": lambda row: (
            f"{number(row[0]['render_fps'], 0)}, {row[0]['device']}"
        ),
    }
    rows = [[case] for case in sorted(cases, key=lambda c: c["set"])]
    return markdown(columns, rows)


def _reconstruction_columns() -> dict[str, Callable[[list[dict]], str]]:
    """Columns of runs that differ in their seed."""
    of = lambda name, digits: lambda row: shown(spread_of([c[name] for c in row]), digits)
    return {
        "clip (set)": lambda row: f"{row[0]['video']} ({row[0]['set']})",
        "preset, px": lambda row: f"{row[0]['preset']}, {row[0]['width']}",
        "seeds": lambda row: str(len(row)),
        "seconds trained, held out": lambda row: (
            f"{row[0]['seconds_trained']:.1f}, {row[0]['seconds_held_out']:.1f}"
        ),
        "PSNR head (mean / nearest frame), dB": lambda row: (
            f"**{of('psnr_head', 2)(row)}** ({row[0]['baseline_mean_frame']:.2f} / "
            f"{row[0]['baseline_nearest_frame']:.2f})"
        ),
        "head's share of the picture": lambda row: number(row[0]["head_fraction"]),
        "LPIPS": of("lpips", 4),
        "LMD, px": of("lmd", 2),
        "mouth r (shifted p95)": lambda row: (
            f"{of('mouth_r', 2)(row)} ({of('mouth_r_shift_p95', 2)(row)})"
        ),
        "silence, percentile": of("mouth_silence_percentile", 0),
        "commit": lambda row: row[0]["commit"][:7],
    }


PEER_METRICS = {
    "psnr_head": ("PSNR head, dB", 2),
    "psnr": ("PSNR composite, dB", 2),
    "psnr_lips": ("PSNR lips, dB", 2),
    "psnr_frame": ("PSNR of whole frames, dB", 2),
    "ssim": ("SSIM", 4),
    "lpips": ("LPIPS", 4),
    "lmd": ("LMD, px", 2),
    "mouth_r": ("mouth r", 2),
    "mouth_gain": ("mouth gain (1 is the true mouth's)", 2),
    "blink_r": ("blink r (an input's echo)", 2),
}
"""Figures of the comparison with the original's code: label and digits."""


def beside_the_original(cases: list[dict], preset: str = "paper", body: str = "head") -> list[dict]:
    """Pick our runs on the dataset folder that the original's code was trained on."""
    alike = peer("quality") | {"preset": preset, "body": body}
    names = ("video", "width", "preset", "body")
    return [case for case in cases if all(case[name] == alike[name] for name in names)]


def peers(cases: list[dict]) -> str:
    """Lay ours beside the original's code, trained on the very same dataset folder."""
    theirs, ours = peer("quality"), beside_the_original(cases)
    persons = beside_the_original(cases, "sharp", "person")
    around = ("psnr", "psnr_frame")  # a person stands before the plate: other pixels
    best = {"psnr_head": max(theirs["psnr_head_by_deformation_step"].values())}
    columns = {
        "": lambda name: PEER_METRICS[name][0],
        f"`paper`, a head, {len(ours)} seeds": lambda name: shown(
            spread_of([case.get(name) for case in ours]), PEER_METRICS[name][1]
        ),
        f"`sharp`, the head of a person, {len(persons)} seeds": lambda name: shown(
            spread_of([None if name in around else case.get(name) for case in persons]),
            PEER_METRICS[name][1],
        ),
        "the original's code, at its best step": lambda name: number(best.get(name)),
        "at its end": lambda name: number(theirs["at_the_end"][name], PEER_METRICS[name][1]),
    }
    note = f"The original's code, measured apart ({theirs['measured']}): {theirs['conditions']}."
    return markdown(columns, list(PEER_METRICS)) + "\n\n" + note


def _settings(cases: list[dict]) -> list[tuple[str, list[dict], list[dict]]]:
    """Rows of the ablations: video and preset, the variant's cases, and those it stands beside."""
    rows = []
    groups = grouped(cases, "dataset", "preset", "size", "series")
    for (dataset, preset, size, series), group in groups.items():
        variants = {name: found for (name,), found in grouped(group, "variant").items()}
        where = f"{labeled(dataset)}, {preset}, {size} px, series {series}"
        base = lambda name, variants=variants: variants.get(BASES.get(name, BASE), [])
        rows += [(where, found, base(name)) for name, found in variants.items()]
    return rows


def ablation_gaps(cases: list[dict]) -> dict[tuple[int, str], dict[str, Spread]]:
    """Return by series and variant, then by label, the mean difference to what it stands beside."""
    return {
        (found[0]["series"], found[0]["variant"]): {
            metric.label: paired(found, base, metric) for metric in QUALITY
        }
        for _, found, base in _settings(cases)
    }


def _ablations(cases: list[dict]) -> str:
    """Means over seeds; for all but the base the mean difference, bold if beyond its deviation."""

    def cell(metric: Metric) -> Callable[[tuple], str]:
        def show(row: tuple) -> str:
            _, found, base = row
            text = shown(spread_of([metric.value(case) for case in found]), metric.digits)
            if found[0]["variant"] == BASE:
                return text
            gap = paired(found, base, metric)
            mark = "**" if gap and stands_out(gap) else ""
            return f"{text} ({mark}{shown(gap, metric.digits, signed=True)}{mark})"

        return show

    columns = {
        "video, preset": lambda r: r[0],
        "variant": lambda r: f"`{r[1][0]['variant']}`",
        "seeds": lambda r: str(len(r[1])),
    } | {metric.label: cell(metric) for metric in QUALITY}
    columns["commit"] = lambda r: ", ".join(sorted({case["commit"][:7] for case in r[1]}))
    return markdown(columns, _settings(cases))


def _ablation_costs(cases: list[dict]) -> str:
    minutes = lambda found: spread_of(
        [c["train_seconds"] and c["train_seconds"] / 60 for c in found]
    )
    columns = {
        "video, preset": lambda r: r[0],
        "variant": lambda r: f"`{r[1][0]['variant']}`",
        "steps": lambda r: f"{r[1][0]['static_steps']:,} + {r[1][0]['deform_steps']:,}",
        "parameters: planes": lambda r: f"{r[1][0]['parameters']['planes']:,}",
        "other networks": lambda r: f"{r[1][0]['parameters']['networks']:,}",
        "of these at work in a frame": lambda r: f"{r[1][0]['parameters']['per_frame']:,}",
        "Gaussians": lambda r: shown(spread_of([c["num_gaussians"] for c in r[1]]), 0),
        "training, min": lambda r: shown(minutes(r[1]), 1),
        "device": lambda r: ", ".join(sorted({c["device"] for c in r[1]})),
    }
    return markdown(columns, _settings(cases))


def _cross_driven(cases: list[dict]) -> str:
    columns = {
        "head": lambda c: (
            f"{labeled(c['video'])}, {c['preset']}, {c['width']} px, seed {c['seed']}"
        ),
        "speech": lambda c: c["speech"],
        "poses": lambda c: c["poses"],
        "frames": lambda c: str(c["frames"]),
        "sync lag, frames (confidence; true lag)": lambda c: (
            f"{number(c['sync_lag_frames'], 0)} ({number(c['sync_conf'])}; "
            f"{number(c['sync_lag_true_frames'], 0)})"
        ),
        "mouth and sound r (shifted p95; true)": lambda c: (
            f"{number(c['mouth_sound_r'])} ({number(c['mouth_sound_r_shift_p95'])}; "
            f"{number(c['mouth_sound_r_true'])})"
        ),
        "silence, percentile": lambda c: number(c["mouth_silence_percentile"], 0),
        "jitter, px": lambda c: number(c["jitter_px"]),
        "LPIPS to the nearest frame (of true frames)": lambda c: (
            f"{number(c['lpips_nearest'], 3)} ({number(c['lpips_nearest_true'], 3)})"
        ),
    }
    return markdown(columns, cases)


def _free_pose(cases: list[dict]) -> str:
    columns = {
        "avatar": lambda c: (
            f"{labeled(c['video'])}, {c['preset']}, {c['width']} px, seed {c['seed']}"
        ),
        "body": lambda c: c["body"],
        "face found, %": lambda c: number(100 * c["found_share"], 0),
        "landmarks off, % of the face's width": lambda c: number(c["landmarks_percent"]),
        "holes, % of the person": lambda c: number(c["holes_percent"]),
        "high frequencies at the jaw (a film has 1)": lambda c: number(c["jaw"]),
        "tear, %": lambda c: number(c["tear_percent"], 1),
        "commit": lambda c: c["commit"][:7],
    }
    return markdown(columns, cases)


HELD_OUT = ("person", "head", "head_nearest_body", "head_own_body", "nearest")


def _held_out_poses(cases: list[dict]) -> str:
    def beside(figure: str, digits: int) -> Callable[[dict], str]:
        return lambda c: " / ".join(number(c.get(f"{name}.{figure}"), digits) for name in HELD_OUT)

    columns = {
        "clip, preset, seed": lambda c: f"{labeled(c['video'])}, {c['preset']}, {c['seed']}",
        "frames trained, left out": lambda c: f"{c['frames_trained']}, {c['frames_left_out']}",
        "PSNR person, dB": beside("psnr_person", 2),
        "PSNR head, dB": beside("psnr_head", 2),
        "LPIPS person": beside("lpips_person", 4),
        "landmarks off, px": beside("landmarks_px", 2),
        "commit": lambda c: c["commit"][:7],
    }
    return markdown(columns, cases)


def _point_density(cases: list[dict]) -> str:
    median = lambda where, name: lambda c: f"{1000 * c[where][name]['p50']:.1f}"
    columns = {
        "video, preset, seed": lambda c: f"{labeled(c['dataset'])}, {c['preset']}, {c['seed']}",
        "static stage": lambda c: "yes" if c["static_steps"] else "no",
        "Gaussians, start and end": lambda c: (
            f"{c['start']['gaussians']:,}, {c['end']['gaussians']:,}"
        ),
        **{
            f"{name}, start and end": lambda c, name=name: (
                f"{c['start']['by_region'][name]:,}, {c['end']['by_region'][name]:,}"
            )
            for name in REGIONS
        },
        "median size, thousandths": median("end", "size"),
        "median spacing, thousandths": median("end", "spacing"),
        "PSNR of the last batches, dB": lambda c: number(c["curve"]["psnr"][-1]),
        "training, min": lambda c: number(c["train_seconds"] and c["train_seconds"] / 60, 1),
    }
    return markdown(columns, cases)


def _attention_map(cases: list[dict]) -> str:
    """A row a kind of tokens: its share of the attention (the window's sum), and its moves."""
    rows = []
    for case in cases:
        kinds: dict[str, list[str]] = {}
        for token in case["share"]:
            kinds.setdefault(token.split()[0], []).append(token)
        rows += [(case, kind, tokens) for kind, tokens in kinds.items()]

    def cell(region: str) -> Callable[[tuple], str]:
        def show(row: tuple) -> str:
            case, kind, tokens = row
            parts = [case["share"][token][region] for token in tokens]
            share = None if None in parts else sum(parts)
            moves = case["moves"].get(kind, {}).get(region)
            return f"{number(share)}, {number(moves and 1000 * moves)}"

        return show

    columns = {
        "video, preset, seed": lambda r: (
            f"{labeled(r[0]['video'])}, {r[0]['preset']}, {r[0]['seed']}"
        ),
        "token": lambda r: r[1],
    } | {f"{region}: share, moves": cell(region) for region in REGIONS}
    return markdown(columns, rows)


def _kill_training(cases: list[dict]) -> str:
    columns = {
        "kills": lambda c: str(c["kills"]),
        "runs that came to their end, all with the same hash": lambda c: str(c["finished_runs"]),
        "an undisturbed run, s": lambda c: number(c["undisturbed_s"], 1),
        "state_sha256": lambda c: f"`{c['state_sha256'][:16]}`...",
    }
    return markdown(columns, cases[-1:])


Maker = Callable[[list[dict]], str]

TABLES: dict[str, tuple[str, Maker]] = (
    {
        "reconstruction": ("self_reconstruction", reconstruction),
        "persons": ("self_reconstruction", persons),
        "self_reconstruction": ("self_reconstruction", reconstruction_by_seed),
        "peers": ("self_reconstruction", peers),
        "ablations": ("ablations", _ablations),
        "ablation_costs": ("ablations", _ablation_costs),
        "cross_driven": ("cross_driven", _cross_driven),
        "free_pose": ("free_pose", _free_pose),
        "held_out_poses": ("held_out_poses", _held_out_poses),
        "point_density": ("point_density", _point_density),
        "attention_map": ("attention_map", _attention_map),
        "data_curve": ("data_curve", tables_curve.data_curve),
        "kill_training": ("kill_training", _kill_training),
    }
    | tables_baked.TABLES
    | tables_mouth.TABLES
    | tables_speed.TABLES
)
"""Tables by name: the file of its cases, and what makes the table of them."""


def table(name: str) -> str:
    """Return a table, with the experiment's figure where there is one of that name.

    Raises:
      ValueError: if no table has this name.
    """
    if name not in TABLES:
        raise ValueError(f"no table is called {name!r}; there are {', '.join(TABLES)}")
    file, make = TABLES[name]
    cases = cases_of(file)
    text = make(cases) if cases else f"*Not run yet: there is no `results/{file}.json`.*"
    figure = FIGURES / f"{name}.png"
    return text + (f"\n\n![{name}](figures/{name}.png)" if figure.exists() else "")
