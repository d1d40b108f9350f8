"""What `serve` and `view` are told on the command line; heavy imports stay inside the verbs.

Before: `runtime.arguments`; after: `__main__`.
"""

import argparse
from pathlib import Path

from egs_jax.runtime import arguments as kinds
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.environment import keep_programs, take_memory_as_needed

PORT, HOST = 8765, "127.0.0.1"
"""Where a server listens, unless it is told otherwise."""
MOST_SESSIONS = 32
"""Clients at once, unless it is told otherwise."""


def add_serve(verb: Parser) -> None:
    """Give the verb `serve` its arguments."""
    verb.add_argument(
        "avatars", type=Path, metavar="AVATAR", nargs="+",
        help="runs that `train` made, or .egs files",
    )  # fmt: skip
    kinds.add_data_dir(verb)
    verb.add_argument(
        "--poses", default="clip", metavar="clip|still|FILE", help="how heads move, as of `render`"
    )
    verb.add_argument(
        "--blinks", type=float, metavar="PER_MINUTE", help="how often they blink (15; 0: never)"
    )
    _add_address(verb)
    verb.add_argument(
        "--sessions", type=kinds.number, default=MOST_SESSIONS, metavar="N",
        help=f"most clients at once ({MOST_SESSIONS})",
    )  # fmt: skip
    verb.set_defaults(run=_serve)


def add_view(verb: Parser) -> None:
    """Give the verb `view` its arguments, but for the avatar."""
    verb.add_argument("--audio", type=Path, metavar="FILE", help="speech to look at (silence)")
    _add_address(verb)
    verb.set_defaults(run=_view)


def _add_address(verb: Parser) -> None:
    verb.add_argument(
        "--port", type=int, default=PORT, help=f"to listen at ({PORT}); 0: any that is free"
    )
    verb.add_argument(
        "--host", default=HOST,
        help=f"name or address to listen at ({HOST}); another one lets other machines ask",
    )  # fmt: skip


def _serve(arguments: argparse.Namespace) -> None:
    take_memory_as_needed()
    from egs_jax.avatar.look import USUAL_BLINKS, Look
    from egs_jax.serve.server import serve

    keep_programs()
    blinks = USUAL_BLINKS if arguments.blinks is None else arguments.blinks
    serve(
        arguments.avatars, Look(poses=arguments.poses, blinks=blinks), data_dir=arguments.data_dir,
        host=arguments.host, port=arguments.port, sessions=arguments.sessions,
    )  # fmt: skip


def _view(arguments: argparse.Namespace) -> None:
    take_memory_as_needed()
    from egs_jax.serve.view import view

    keep_programs()
    view(
        arguments.run_dir, arguments.audio, data_dir=arguments.data_dir, host=arguments.host,
        port=arguments.port,
    )  # fmt: skip
