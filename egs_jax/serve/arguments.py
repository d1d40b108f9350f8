"""What `serve` and `view` are told on the command line; nothing heavy is imported here.

Before: `runtime.arguments`; after: `__main__`.
"""

from pathlib import Path

from egs_jax.runtime import arguments as kinds
from egs_jax.runtime.arguments import Parser

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
    _add_address(verb)
    verb.add_argument(
        "--sessions", type=kinds.number, default=MOST_SESSIONS, metavar="N",
        help=f"most clients at once ({MOST_SESSIONS})",
    )  # fmt: skip


def add_view(verb: Parser) -> None:
    """Give the verb `view` its arguments, but for the avatar."""
    verb.add_argument("--audio", type=Path, metavar="FILE", help="speech to look at (silence)")
    _add_address(verb)


def _add_address(verb: Parser) -> None:
    verb.add_argument(
        "--port", type=int, default=PORT, help=f"to listen at ({PORT}); 0: any that is free"
    )
    verb.add_argument(
        "--host", default=HOST,
        help=f"name or address to listen at ({HOST}); another one lets other machines ask",
    )  # fmt: skip
