"""The command line's parser, whose mistakes are one line, and the kinds of values that it takes."""

import argparse
import contextlib
from pathlib import Path
from typing import Any, NoReturn

from egs_jax.runtime.errors import InputError


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are `InputError`s: one line, exit 2."""

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is not known where the help for it is: a verb's options in the verb's."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where the help is."""
        raise InputError(f"{message}; see `{self.prog} --help`")


def add_data_dir(verb: Parser) -> None:
    """Let a verb that loads avatars be told where a dataset was moved."""
    verb.add_argument(
        "--data-dir", type=Path, metavar="DATASET_DIR", help="where its dataset was moved"
    )


def side(text: str) -> int:
    """Read the side of a picture [pixels]."""
    with contextlib.suppress(ValueError):
        if 32 <= (value := int(text)) <= 4096:
            return value
    raise argparse.ArgumentTypeError(f"got {text}, expected a whole number from 32 to 4096")


def time(text: str) -> float:
    """Read a moment [s]."""
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"got {text}, expected seconds, 0 or more")


def number(text: str) -> int:
    """Read a number that counts from 1."""
    with contextlib.suppress(ValueError):
        if (value := int(text)) > 0:
            return value
    raise argparse.ArgumentTypeError(f"got {text}, expected a whole number from 1 on")


def face(text: str) -> str | int:
    """Read whose face is meant: left, right, or its number."""
    if text in ("left", "right"):
        return text
    with contextlib.suppress(argparse.ArgumentTypeError):
        return number(text)
    raise argparse.ArgumentTypeError(f"got {text}, expected left, right or a number from 1 on")


def seconds(text: str) -> float:
    """Read a duration [s]."""
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"got {text}, expected more than 0 seconds")
