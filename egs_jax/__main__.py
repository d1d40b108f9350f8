"""The command line: one verb, one job. Heavy imports stay inside the verbs, so `--help` is quick.

Exit status: 0 done; 2 the input is at fault (one line says what, where, what to do); 1 anything
else. Every mistake on the command line is one line and 2 as well.
"""

import argparse
import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from egs_jax.runtime import arguments as kinds
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.consent import CONSENT
from egs_jax.runtime.environment import keep_programs, set_environment, take_memory_as_needed
from egs_jax.runtime.errors import InputError, TrainingError
from egs_jax.runtime.stopping import comes_of_a_stop, terminable
from egs_jax.serve.arguments import add_serve, add_view


def _show_anything() -> None:
    """Let the terminal show names and signs that its encoding lacks as escapes, not as an error.

    It may be of another language; what goes to a file on Windows is never UTF-8.
    """
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", "") == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    _show_anything()
    argv = sys.argv[1:] if argv is None else argv
    with terminable():
        try:
            set_environment()
            arguments = _parser(argv).parse_args(argv)
            arguments.run(arguments)
        except (Exception, KeyboardInterrupt) as error:
            if comes_of_a_stop(error):
                resumes = argv[:1] in (["train"], ["demo"])
                how = "; the same command goes on from the last checkpoint" if resumes else ""
                return _said(f"stopped{how}", 1)
            if (told := _explained(error)) is None:
                raise
            return _said(*told)
    return 0


def _said(words: object, status: int) -> int:
    print(f"egs-jax: {' '.join(str(words).split())}", file=sys.stderr)
    return status


def _explained(error: Exception) -> tuple[object, int] | None:
    """Return what is to be said of an error, and the exit status; None: a fault of the program."""
    if isinstance(error, InputError):
        return error, 2
    if isinstance(error, NotImplementedError):
        return (error, 2) if _is_unavailable(error) else None
    if isinstance(error, OSError | TrainingError):
        return error, 1
    if isinstance(error, RuntimeError | MemoryError):  # JAX's are RuntimeErrors
        from egs_jax.runtime.device import explain_exhaustion, is_exhaustion

        if is_exhaustion(error):
            return explain_exhaustion(error, "compute on the CPU by JAX_PLATFORMS=cpu"), 1
    return None


def _is_unavailable(error: NotImplementedError) -> bool:
    """Tell whether kernels that were asked for cannot run here: no fault of the program."""
    from kernels.dispatch import Unavailable

    return isinstance(error, Unavailable)


def entry() -> NoReturn:
    """Run as a process of its own."""
    status = main()
    for name in (signal.SIGTERM, signal.SIGINT):  # all is said and done
        signal.signal(name, signal.SIG_IGN)
    if status:
        # Python's own way out crashes in XLA where an interrupt came while it compiled, and waits
        # for the other hosts.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _parser(argv: list[str]) -> Parser:
    parser = Parser(prog="egs-jax", description="Audio-driven 3D Gaussian avatars.", epilog=CONSENT)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)

    def add(name: str, does: str) -> Parser:
        return verbs.add_parser(name, help=does, description=f"{does}.", epilog=CONSENT)

    def add_run(verb: Parser) -> None:
        verb.add_argument(
            "run_dir", type=Path, metavar="AVATAR", help="a run that `train` made, or an .egs file"
        )
        kinds.add_data_dir(verb)

    _add_preprocess(add("preprocess", "videos of one person -> dataset folder"))

    _add_import(add("import", "dataset of AD-NeRF, ER-NeRF, GaussianTalker, ... -> dataset folder"))

    _add_train(
        add("train", "dataset folder -> avatar; resumes by itself"), with_settings="train" in argv
    )

    verb = add("render", "avatar + speeches of any length -> films with sound, or a page")
    add_run(verb)
    _add_render(verb)

    add_serve(add("serve", "avatars on a page of this machine, and at a socket for programs"))

    verb = add("view", "avatar + speech -> page that shows its Gaussians, and what moves them")
    add_run(verb)
    add_view(verb)

    verb = add("export", "avatar -> one small file that speaks without its dataset, or a cloud")
    add_run(verb)
    verb.add_argument(
        "out", type=Path, metavar="OUT.egs|OUT.ply",
        help="file to write: what speaks, or the Gaussians of a moment for other viewers",
    )  # fmt: skip
    verb.add_argument(
        "--audio", type=Path, help="speech of which OUT.ply is a moment (default: silent, at rest)"
    )
    verb.add_argument("--at", type=kinds.time, metavar="SECONDS", help="that moment")
    verb.set_defaults(run=_export)

    verb = add("evaluate", "avatar -> eval.json, report.html, a table")
    add_run(verb)
    verb.add_argument(
        "--split", choices=("val", "train"), default="val",
        help="frames to compare: held out (val) or trained",
    )  # fmt: skip
    verb.set_defaults(run=_evaluate)

    verb = add("demo", "the whole way on a synthetic performer, or on your files")
    verb.add_argument(
        "--out", type=Path, default=Path("runs/demo"), metavar="FOLDER", help="(runs/demo)"
    )
    verb.add_argument("--video", type=Path, help="film of a person instead of the performer's")
    verb.add_argument("--audio", type=Path, help="speech to speak instead of the performer's")
    verb.set_defaults(run=_demo)
    return parser


def _add_preprocess(verb: Parser) -> None:
    """Give the verb `preprocess` its arguments."""
    verb.add_argument(
        "video", type=Path, metavar="VIDEO", nargs="+", help="any films that ffmpeg reads"
    )
    verb.add_argument("dataset_dir", type=Path, metavar="DATASET_DIR", help="folder to make")
    verb.add_argument("--size", type=kinds.side, help="side of the square frames in pixels (512)")
    verb.add_argument(
        "--audio-features", metavar="whisper|whisper-base|mel", default="whisper",
        help="how speech is heard: as whisper (the default, of English), whisper-base (of 99 "
        "languages) or mel (no network)",
    )  # fmt: skip
    _add_look_ahead(verb)
    verb.add_argument(
        "--face-parser", type=Path, metavar="FILE.tflite", help="a network of your own for masks"
    )
    verb.add_argument("--max-seconds", type=kinds.seconds, help="use only this much of the video")
    verb.add_argument("--val-seconds", type=kinds.seconds, help="hold out this much (default 1/11)")
    verb.add_argument("--start", type=kinds.time, help="second of the video to begin at")
    verb.add_argument("--end", type=kinds.seconds, help="second of the video to stop at")
    verb.add_argument(
        "--face", type=kinds.face, metavar="left|right|N",
        help="whose face where there are several; N counts from the left (default: the largest)",
    )  # fmt: skip
    verb.add_argument(
        "--audio", type=Path, metavar="FILE",
        help="the same speech by another microphone, started whenever",
    )  # fmt: skip
    verb.add_argument(
        "--audio-track", type=kinds.number, metavar="N",
        help="sound track to hear, 1 is the first (the one with the speech)",
    )  # fmt: skip
    verb.set_defaults(run=_preprocess)


def _add_render(verb: Parser) -> None:
    """Give the verb `render` its arguments."""
    verb.add_argument(
        "audio", type=Path, metavar="AUDIO", nargs="+", help="any sounds that ffmpeg reads"
    )
    verb.add_argument(
        "--out", required=True, type=Path, metavar="OUT.mp4|.mov|.webm|.html|FOLDER",
        help="film or page to write, one that is there is replaced once the new one is whole; or a "
        "folder: of one speech's frames as PNGs, or of several speeches' films",
    )  # fmt: skip
    _add_look(verb)
    verb.add_argument(
        "--into",
        type=Path,
        metavar="FILM",
        help="the film that it was trained on: put the avatar at its place in the whole picture",
    )
    verb.add_argument(
        "--exact", action="store_true",
        help="let a run's networks move every Gaussian in every frame, not what was baked of them: "
        "slower, and the same to the eye",
    )  # fmt: skip
    verb.set_defaults(run=_render)


def _add_look(verb: Parser) -> None:
    """Give a verb the fields of `Look`, all absent unless they are given."""
    parts = verb.add_argument_group("how it is shown", argument_default=argparse.SUPPRESS)
    parts.add_argument(
        "--poses", metavar="clip|still|FILE",
        help="how the head moves: as in the clip (default), not at all, or as in a file: .npy with "
        "head -> camera transforms [T,4,4], or .csv with yaw,pitch,roll[,x,y,z] a frame",
    )  # fmt: skip
    parts.add_argument(
        "--background", metavar="plate|clip|COLOR|IMAGE|VIDEO|transparent",
        help="what is behind it: the room without it (default), the clip's own frames, #rrggbb or "
        "a basic color of CSS, a picture or a film, scaled to cover, or nothing (not in .mp4)",
    )  # fmt: skip
    parts.add_argument(
        "--blinks", type=float, metavar="PER_MINUTE", help="how often it blinks (15; 0: never)"
    )
    parts.add_argument("--fps", type=int, metavar="25|30|50|60", help="frames a second (25)")
    parts.add_argument("--size", type=int, metavar="N", help="pixels across (as trained)")
    parts.add_argument(
        "--label", action="store_true", help="mark the picture as AI-generated, for all to see"
    )


def _add_look_ahead(verb: Parser) -> None:
    verb.add_argument(
        "--look-ahead", type=kinds.seconds, metavar="SECONDS",
        help="the most sound after a frame that it may hear, for which a live avatar waits: 0.4 to "
        "converse (default: 0.85 with whisper, 0.45 with mel)",
    )  # fmt: skip


def _add_import(verb: Parser) -> None:
    """Give the verb `import` its arguments."""
    verb.add_argument("folder", type=Path, metavar="FOLDER", help="has transforms_train.json")
    verb.add_argument("dataset_dir", type=Path, metavar="DATASET_DIR", help="folder to make")
    verb.add_argument(
        "--audio-features", default="whisper",
        metavar="whisper|whisper-base|mel|deepspeech|wav2vec|hubert|FILE",
        help="whisper (default), whisper-base or mel, made of its sound; or its own: by the "
        "program's name, or by a .npy file of the folder. An avatar of those can be evaluated only",
    )  # fmt: skip
    _add_look_ahead(verb)
    verb.set_defaults(run=_import)


def _add_train(verb: Parser, *, with_settings: bool) -> None:
    """Give the verb `train` its arguments; those of its settings only where they are asked for."""
    verb.add_argument("preset", choices=("paper", "sharp", "fast", "tiny"), help="tiny is for CPUs")
    verb.add_argument("--data-dir", required=True, type=Path, help="what `preprocess` made")
    verb.add_argument("--run-dir", required=True, type=Path, help="folder to make or to go on in")
    verb.add_argument(
        "--hosts", metavar="ADDRESS:PORT,COUNT,INDEX",
        help="share the frames of each step with the --devices of other machines, which get the "
        "same command: where host 0 is reached, how many hosts, and which of them this is "
        "(10.0.0.5:1234,2,0 here, 10.0.0.5:1234,2,1 there); host 0 writes the run folder",
    )  # fmt: skip
    if with_settings:
        _add_settings(verb)
    verb.set_defaults(run=_train)


def _add_settings(verb: Parser) -> None:
    """Make every field of the config an option, by its dotted name."""
    from egs_jax.config_text import options
    from egs_jax.presets import PRESETS

    for name, (_, value, text) in options(PRESETS["tiny"]).items():
        if name not in ("preset", "data_dir"):
            flags = {f"--{name}", f"--{name.replace('_', '-')}"}
            verb.add_argument(
                *sorted(flags), dest=f"set:{name}", metavar="VALUE", help=f"{text} (tiny: {value})"
            )


def _preprocess(arguments: argparse.Namespace) -> None:
    take_memory_as_needed()
    from egs_jax.preprocess.pipeline import preprocess

    preprocess(
        arguments.video,
        arguments.dataset_dir,
        size=arguments.size,
        audio_features=arguments.audio_features,
        face_parser=arguments.face_parser,
        max_seconds=arguments.max_seconds,
        val_seconds=arguments.val_seconds,
        start=arguments.start,
        end=arguments.end,
        face=arguments.face,
        audio=arguments.audio,
        audio_track=arguments.audio_track,
        look_ahead=arguments.look_ahead,
    )


def _import(arguments: argparse.Namespace) -> None:
    from egs_jax.adnerf.imported import import_dataset

    import_dataset(
        arguments.folder,
        arguments.dataset_dir,
        audio_features=arguments.audio_features,
        look_ahead=arguments.look_ahead,
    )


def _train(arguments: argparse.Namespace) -> None:
    from egs_jax.config_text import override
    from egs_jax.presets import preset

    changes = {
        name.removeprefix("set:"): value
        for name, value in vars(arguments).items()
        if name.startswith("set:") and value is not None
    }
    config = override(preset(arguments.preset, data_dir=str(arguments.data_dir.resolve())), changes)
    from egs_jax.avatar.export import keep
    from egs_jax.config_text import to_json
    from egs_jax.data.dataset import Dataset
    from egs_jax.training.hosts import first, joined
    from egs_jax.training.loop import fit

    dataset = Dataset.open(arguments.data_dir)
    if arguments.hosts is None:  # several tune a program together: none may find it kept
        keep_programs()
    settings = to_json(dataclasses.replace(config, data_dir=""))
    told = {"command": settings, "dataset": json.dumps(dataset.meta)}
    with joined(arguments.hosts, told):
        fit(config, dataset, run_dir=arguments.run_dir)
        if first():
            keep(arguments.run_dir)


def _render(arguments: argparse.Namespace) -> None:
    take_memory_as_needed()
    from egs_jax.avatar.film import render_video
    from egs_jax.avatar.look import Look

    keep_programs()
    given = vars(arguments)
    names = [field.name for field in dataclasses.fields(Look) if field.name in given]
    render_video(
        arguments.run_dir, arguments.audio, arguments.out,
        look=Look(**{name: given[name] for name in names}), into=arguments.into,
        data_dir=arguments.data_dir, exact=arguments.exact or None,
    )  # fmt: skip


def _export(arguments: argparse.Namespace) -> None:
    take_memory_as_needed()
    from egs_jax.avatar.export import export_avatar

    keep_programs()
    export_avatar(
        arguments.run_dir, arguments.out, data_dir=arguments.data_dir, audio=arguments.audio,
        at=arguments.at,
    )  # fmt: skip


def _evaluate(arguments: argparse.Namespace) -> None:
    take_memory_as_needed()
    from egs_jax.evaluation.evaluate import evaluate

    keep_programs()
    evaluate(arguments.run_dir, split=arguments.split, data_dir=arguments.data_dir)


def _demo(arguments: argparse.Namespace) -> None:
    from egs_jax.demo import demo

    keep_programs()
    demo(arguments.out, video=arguments.video, audio=arguments.audio)


if __name__ == "__main__":
    entry()
