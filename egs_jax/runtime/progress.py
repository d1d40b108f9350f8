"""The progress bar of everything that takes long, and what a terminal can show."""

import sys
from typing import TextIO

import rich.progress


def draws_lines(stream: TextIO | None = None) -> bool:
    """Tell whether a stream (standard output) can show the lines of a table."""
    try:
        "\u250f\u2501\u2503".encode(getattr(stream or sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def progress(
    total: int | None, description: str, unit: str = "step", *, quiet: bool = False
) -> rich.progress.Progress:
    """Return a progress bar with rate and ETA on standard error; its one task is 0."""
    from rich.console import Console

    bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn(unit + "s"),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("ETA"),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[note]}"),
        console=Console(stderr=True, quiet=quiet),
        refresh_per_second=2,
    )
    bar.add_task(description, total=total, note="")
    return bar
