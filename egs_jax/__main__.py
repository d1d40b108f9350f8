"""The command line: one verb, one job. Heavy imports stay inside the verbs, so `--help` is quick.

Exit status: 0 done; 2 the input is at fault (one line says what, where, what to do); 1 anything
else. Every mistake on the command line is one line and 2 as well.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from egs_jax.runtime.consent import CONSENT
from egs_jax.runtime.environment import keep_programs, set_environment
from egs_jax.runtime.errors import InputError, TrainingError


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are `InputError`s: one line, exit 2."""

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where the help is."""
        raise InputError(f"{message}; see `{self.prog} --help`")


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    set_environment()
    argv = sys.argv[1:] if argv is None else argv
    try:
        arguments = _parser(argv).parse_args(argv)
        with _terminable():
            arguments.run(arguments)
    except (InputError, NotImplementedError) as error:
        if not (isinstance(error, InputError) or _is_unavailable(error)):
            raise
        print(f"egs-jax: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resumes = argv[:1] in (["train"], ["demo"])
        how = "; the same command goes on from the last checkpoint" if resumes else ""
        print(f"egs-jax: stopped{how}", file=sys.stderr)
        return 1
    except (OSError, TrainingError) as error:
        print(f"egs-jax: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _is_unavailable(error: NotImplementedError) -> bool:
    """Tell whether kernels that were asked for cannot run here: no fault of the program."""
    from kernels.dispatch import Unavailable

    return isinstance(error, Unavailable)


def entry() -> NoReturn:
    """Run as a process of its own."""
    status = main()
    if status:
        # Python's own way out crashes in XLA where an interrupt came while it compiled, and waits
        # for the other hosts.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM stop the work as Ctrl-C does, so that files are closed and one line says so.

    The second of them ends the process: the first may have been ignored, or what it interrupted
    may never let go of a lock.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread
        return

    stopping = []

    def stop(number: int, frame: FrameType | None) -> None:
        if frame and frame.f_code.co_name == "_xla_gc_callback":  # nothing raised there gets out
            threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
            return
        if stopping:
            os._exit(1)
        stopping.append(True)
        raise KeyboardInterrupt

    before = {name: signal.signal(name, stop) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _parser(argv: list[str]) -> Parser:
    parser = Parser(prog="egs-jax", description="Audio-driven 3D Gaussian avatars.", epilog=CONSENT)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)

    def add(name: str, does: str) -> Parser:
        return verbs.add_parser(name, help=does, description=f"{does}.", epilog=CONSENT)

    def add_run(verb: Parser) -> None:
        verb.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="what `train` made")

    verb = add("preprocess", "video of one person -> dataset folder")
    verb.add_argument("video", type=Path, metavar="VIDEO", help="any film that ffmpeg reads")
    verb.add_argument("dataset_dir", type=Path, metavar="DATASET_DIR", help="folder to make")
    verb.add_argument("--size", type=_side, help="side of the square frames in pixels (512)")
    verb.add_argument(
        "--audio-features", choices=("whisper", "mel"), default="whisper",
        help="how speech is heard (whisper)",
    )  # fmt: skip
    verb.add_argument(
        "--face-parser", type=Path, metavar="FILE.tflite", help="a network of your own for masks"
    )
    verb.add_argument("--max-seconds", type=_seconds, help="use only this much of the video")
    verb.add_argument("--val-seconds", type=_seconds, help="hold out this much (default 1/11)")
    verb.set_defaults(run=_preprocess)

    _add_import(add("import", "dataset of AD-NeRF, ER-NeRF, GaussianTalker, ... -> dataset folder"))

    verb = add("train", "dataset folder -> avatar; resumes by itself")
    verb.add_argument("preset", choices=("paper", "fast", "tiny"), help="tiny is for CPUs")
    verb.add_argument("--data-dir", required=True, type=Path, help="what `preprocess` made")
    verb.add_argument("--run-dir", required=True, type=Path, help="folder to make or to go on in")
    verb.add_argument(
        "--hosts", metavar="ADDRESS:PORT,COUNT,INDEX",
        help="share the frames of each step with the --devices of other machines, which get the "
        "same command: where host 0 is reached, how many hosts, and which of them this is "
        "(10.0.0.5:1234,2,0 here, 10.0.0.5:1234,2,1 there); host 0 writes the run folder",
    )  # fmt: skip
    if "train" in argv:
        _add_settings(verb)
    verb.set_defaults(run=_train)

    verb = add("render", "avatar + speech of any length -> mp4 with sound")
    add_run(verb)
    verb.add_argument("audio", type=Path, metavar="AUDIO", help="any sound that ffmpeg reads")
    verb.add_argument(
        "--out", required=True, type=Path, metavar="OUT.mp4",
        help="film to write; one that is there is replaced once the new one is whole",
    )  # fmt: skip
    verb.add_argument(
        "--poses", default="clip", metavar="clip|still|FILE",
        help="how the head moves: as in the clip (default), not at all, or as in a file: .npy with "
        "head -> camera transforms [T,4,4], or .csv with yaw,pitch,roll[,x,y,z] a frame",
    )  # fmt: skip
    verb.set_defaults(run=_render)

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


def _add_import(verb: Parser) -> None:
    """Give the verb `import` its arguments."""
    verb.add_argument("folder", type=Path, metavar="FOLDER", help="has transforms_train.json")
    verb.add_argument("dataset_dir", type=Path, metavar="DATASET_DIR", help="folder to make")
    verb.add_argument(
        "--audio-features", default="whisper", metavar="whisper|mel|deepspeech|wav2vec|hubert|FILE",
        help="whisper (default) or mel, made of its sound; or its own: by the program's name, or "
        "by a .npy file of the folder. An avatar of those can be evaluated only",
    )  # fmt: skip
    verb.set_defaults(run=_import)


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
    from egs_jax.preprocess.pipeline import preprocess

    preprocess(
        arguments.video,
        arguments.dataset_dir,
        size=arguments.size,
        audio_features=arguments.audio_features,
        face_parser=arguments.face_parser,
        max_seconds=arguments.max_seconds,
        val_seconds=arguments.val_seconds,
    )


def _import(arguments: argparse.Namespace) -> None:
    from egs_jax.preprocess.imported import import_dataset

    import_dataset(arguments.folder, arguments.dataset_dir, audio_features=arguments.audio_features)


def _train(arguments: argparse.Namespace) -> None:
    from egs_jax.config_text import override
    from egs_jax.presets import preset

    changes = {
        name.removeprefix("set:"): value
        for name, value in vars(arguments).items()
        if name.startswith("set:") and value is not None
    }
    config = override(preset(arguments.preset, data_dir=str(arguments.data_dir.resolve())), changes)
    from egs_jax.config_text import to_json
    from egs_jax.data.dataset import Dataset
    from egs_jax.training.hosts import joined
    from egs_jax.training.loop import fit

    dataset = Dataset.open(arguments.data_dir)
    if arguments.hosts is None:  # several tune a program together: none may find it kept
        keep_programs()
    settings = to_json(dataclasses.replace(config, data_dir=""))
    told = {"command": settings, "dataset": json.dumps(dataset.meta)}
    with joined(arguments.hosts, told):
        fit(config, dataset, run_dir=arguments.run_dir)


def _render(arguments: argparse.Namespace) -> None:
    from egs_jax.avatar.film import render_video

    keep_programs()
    render_video(arguments.run_dir, arguments.audio, arguments.out, poses=arguments.poses)


def _evaluate(arguments: argparse.Namespace) -> None:
    from egs_jax.evaluation.evaluate import evaluate

    keep_programs()
    evaluate(arguments.run_dir, split=arguments.split)


def _demo(arguments: argparse.Namespace) -> None:
    from egs_jax.demo import demo

    keep_programs()
    demo(arguments.out, video=arguments.video, audio=arguments.audio)


def _side(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 32 <= (value := int(text)) <= 4096:
            return value
    raise argparse.ArgumentTypeError(f"got {text}, expected a whole number from 32 to 4096")


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"got {text}, expected more than 0 seconds")


if __name__ == "__main__":
    entry()
