"""The progress bar of everything that takes long."""

import rich.progress


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
