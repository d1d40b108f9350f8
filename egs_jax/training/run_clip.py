"""The clip that a run is trained on: known by what it is, wherever its dataset lies.

A dataset may be moved, copied to another machine and named anew: a run goes on with it, and its
avatar speaks, as long as it is the same. What it is stands in the run's `environment.json`.
Before: `data`; after: `run_folder`, the avatar.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from egs_jax.config import Config
from egs_jax.data.dataset import Dataset
from egs_jax.runtime.errors import InputError

ENVIRONMENT = "environment.json"
"""Name of the record of what computed a run, and from which clip."""
CLIP = "clip"
"""What the clip is called in that record."""


def clip_of(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes a dataset this one and no other, of its `meta.json`, ready for JSON.

    That is the SHA-256 of what was filmed, and how it was cut: the same film preprocessed to other
    frames, or with other frames held out, is another clip.
    """
    heard = meta.get("audio_features") or {}
    return {
        "sha256": _hashes(meta.get("source")),
        **{name: meta.get(name) for name in ("num_frames", "width", "height", "splits")},
        "audio_features": heard.get("kind"),
        "look_ahead": heard.get("look_ahead"),  # None: the default's
    }


def check_clip(run_dir: Path, config: Config, meta: Mapping[str, Any], folder: str | Path) -> None:
    """Refuse a dataset that is not the one that a run was trained on; where it lies is no matter.

    Args:
      run_dir: The run.
      config: Its settings, with the place where its dataset was.
      meta: What the `meta.json` of a dataset says.
      folder: Where that is.

    Raises:
      InputError: says what differs.
    """
    before = _recorded(run_dir)
    if before is None:
        if Path(config.data_dir).resolve() != Path(folder).resolve():
            print(
                f"{run_dir}: does not say which clip it was trained on (an older version made it); "
                f"{folder} is taken for it"
            )
        return
    check_same(run_dir, before, meta, folder)


def check_same(
    trained: Path, before: Mapping[str, Any], meta: Mapping[str, Any], folder: str | Path
) -> None:
    """Refuse a dataset that is not the one that an avatar was trained on.

    Args:
      trained: The avatar, a run or a file.
      before: The clip that it was trained on (`clip_of`).
      meta: What the `meta.json` of a dataset says.
      folder: Where that is.

    Raises:
      InputError: says what differs.
    """
    now = clip_of(meta)
    changed = [name for name in now if before.get(name) != now[name]]
    if "sha256" in changed:
        was, found = (", ".join(h[:12] for h in clip["sha256"]) for clip in (before, now))
        what = f"was made from another film (SHA-256 {found or 'unknown'}, the run's {was})"
    elif changed:
        name = changed[0]
        what = f"is the same film preprocessed otherwise ({name}: {now[name]}, {before.get(name)})"
    else:
        return
    raise InputError(
        f"{folder}: {what} than {trained} was trained on; name its own dataset by --data-dir, or "
        "train in a new --run-dir"
    )


def open_dataset(
    run_dir: Path, config: Config, data_dir: str | Path | None = None
) -> tuple[Config, Dataset]:
    """Open the dataset of a run as its config sees it.

    Args:
      run_dir: The run.
      config: Its settings.
      data_dir: Where the dataset is now; None: where it was.

    Returns:
      The config with the dataset's place, and the dataset.

    Raises:
      InputError: if it is not there, damaged, or another one.
    """
    folder = Path(config.data_dir if data_dir is None else data_dir)
    if data_dir is None and not (folder / "meta.json").exists() and not folder.is_file():
        raise InputError(
            f"{folder}: not a dataset folder (no meta.json), where that of {run_dir} was; if it "
            "was moved, name its place by --data-dir DATASET_DIR"
        )
    dataset = Dataset.open(folder, config.size, config.model.resolved.body)
    check_clip(run_dir, config, dataset.meta, folder)
    return dataclasses.replace(config, data_dir=str(folder.resolve())), dataset


def _recorded(run_dir: Path) -> dict[str, Any] | None:
    """Return the clip in a run's record; None: it does not say."""
    try:
        found = json.loads((Path(run_dir) / ENVIRONMENT).read_bytes())[CLIP]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("sha256"), list) else None


def _hashes(source: Any) -> list[str]:
    """Return all hashes in what `meta.json` says of the source, films and sound, in its order."""
    if isinstance(source, Mapping):
        own = [source["sha256"]] if isinstance(source.get("sha256"), str) else []
        return own + [each for part in source.values() for each in _hashes(part)]
    if isinstance(source, list | tuple):
        return [each for part in source for each in _hashes(part)]
    return []
