"""Datasets that differ from another in their description alone: their files are links to its."""

import json
from pathlib import Path
from typing import Any

from egs_jax.data.dataset import Dataset
from egs_jax.runtime.files import write_atomically


def linked(folder: Path, target: Path, changes: dict[str, Any]) -> Dataset:
    """Link a dataset's files into another folder, whose `meta.json` differs by `changes`.

    Done again it changes nothing, so runs that read the folder are not disturbed.
    """
    meta = Dataset.open(folder).meta | changes
    target.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        place, file = target / path.name, path.resolve()
        if path.name != "meta.json" and not (place.is_symlink() and place.readlink() == file):
            place.unlink(missing_ok=True)
            place.symlink_to(file)
    text, place = json.dumps(meta, indent=2), target / "meta.json"
    if not place.exists() or place.read_text("utf-8") != text:
        write_atomically(place, text)
    return Dataset.open(target)
