"""A run's records: config.json, environment.json, metrics.jsonl, TensorBoard events."""

import contextlib
import dataclasses
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from egs_jax.config import Config, Stage
from egs_jax.config_text import as_arguments, from_json, options, to_json
from egs_jax.presets import PRESETS
from egs_jax.runtime.assets import ASSETS
from egs_jax.runtime.errors import MAY_NOT_READ, InputError
from egs_jax.runtime.files import write_atomically
from egs_jax.runtime.provenance import provenance
from egs_jax.training.checkpoint import check_name
from egs_jax.training.run_clip import CLIP, ENVIRONMENT, check_clip, clip_of
from kernels import dispatch

PLACES = ("devices", "parallel", "frames_on", "data_dir")
"""Settings that say where a run is computed and its dataset lies, not what: it may go on elsewhere,
as long as a step has as many frames there, and the clip is the same."""


def start_run(run_dir: Path, config: Config, meta: Mapping[str, Any] | None = None) -> None:
    """Make the run folder, or check that it belongs to the same config; record the environment.

    Args:
      run_dir: The folder.
      config: Settings of the run.
      meta: What the dataset's `meta.json` says; None: there is no dataset to compare.

    Raises:
      InputError: if the folder holds a run with other settings or of another clip, is a dataset, or
        cannot be made.
    """
    check_name(run_dir)
    path = run_dir / "config.json"
    if not path.exists() and (run_dir / "meta.json").exists():
        raise InputError(f"{run_dir}: is a dataset folder; name another --run-dir")
    if path.exists():
        stored = from_json(path.read_bytes(), path)
        changed = _changed(stored, config)
        if changed:
            raise InputError(
                f"{run_dir}: holds a run with other settings ({', '.join(sorted(changed))}); "
                f"resume it with `{_command(stored)}`, or name a new --run-dir"
            )
        for stage in get_args(Stage):
            if stored.frames(stage) != config.frames(stage):
                raise InputError(
                    f"devices: {config.devices} make {config.frames(stage)} frames a step of the "
                    f"{stage} stage, {run_dir} has {stored.frames(stage)}; resume it with "
                    f"--devices {stored.devices}, or name a new --run-dir"
                )
        if meta is not None:
            check_clip(run_dir, stored, meta, config.data_dir or stored.data_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_atomically(path, to_json(config))
        elif config.data_dir not in ("", stored.data_dir):  # it is looked for there from now on
            moved = dataclasses.replace(stored, data_dir=config.data_dir)
            write_atomically(path, to_json(moved))
        _record_environment(run_dir / ENVIRONMENT, config, meta)
    except OSError as error:
        raise InputError(f"{run_dir}: cannot write there ({error}); name another folder") from None


def load_config(run_dir: Path) -> Config:
    """Read the config of a run folder.

    Raises:
      InputError: if it is not one.
    """
    path = Path(run_dir) / "config.json"
    try:
        return from_json(path.read_bytes(), path)
    except PermissionError:
        raise InputError(f"{path}: {MAY_NOT_READ}") from None
    except OSError:
        raise InputError(
            f"{run_dir}: not a run folder (no config.json); make one with "
            "`python -m egs_jax train tiny --data-dir DATASET --run-dir RUN`"
        ) from None


def _record_environment(path: Path, config: Config, meta: Mapping[str, Any] | None) -> None:
    """Write what computes the run from now on; what computed it before stays under `earlier`.

    Which implementation a kernel has is known once a step has been compiled: `RunLog` records it.
    """
    now = provenance()
    models = (meta or {}).get("models")
    now["models"] = dict(models or {})
    if meta is not None:
        now[CLIP] = clip_of(meta)
    if models is None:
        now["notes"]["models"] = "the dataset does not say which networks made it"
    if config.loss.perceptual > 0:
        now["models"]["lpips_vgg16"] = ASSETS["lpips_vgg16"].sha256
    now["kernels"] = dispatch.implementations()
    before = _read_record(path) if path.exists() else {}
    if before is None:
        before = {}
        print(f"{path}: cannot be read; what computed this run before is in {_put_aside(path)}")
    earlier = before.pop("earlier", [])
    known = now.keys() - {"kernels", "notes"}
    if before and any(before.get(name) != now[name] for name in known):
        earlier = [*earlier, before]
    write_atomically(path, json.dumps({**now, "earlier": earlier}, indent=2) + "\n")


def _read_record(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if it is none or cannot be read."""
    with contextlib.suppress(OSError):
        return _parse_record(path.read_bytes())
    return None


def _parse_record(text: bytes) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        return found if isinstance(found, dict) else None
    return None


def _put_aside(path: Path) -> str:
    """Rename a file that cannot be read, in place of no other, and return its new name."""
    names = (f"{path.name}.unreadable{number or ''}" for number in itertools.count())
    aside = next(name for name in names if not path.with_name(name).exists())
    path.rename(path.with_name(aside))
    return aside


class RunLog:
    """Metrics of a run: one JSON line and one TensorBoard point a logged step."""

    def __init__(self, run_dir: Path, step: int):
        """Open the log to go on at `step` (see `rewind`)."""
        self.path = run_dir / "metrics.jsonl"
        self._board: Any = None
        self._kernels: dict[str, str] | None = None
        self.rewind(step)

    def rewind(self, step: int) -> None:
        """Drop the lines of later steps, which will run again, and that of the finished state.

        Raises:
          InputError: see `read_metrics`.
        """
        from tensorboardX import SummaryWriter

        past = lambda line: line.get("step", 0) <= step and "state_sha256" not in line
        kept = [json.dumps(line) + "\n" for line in read_metrics(self.path) if past(line)]
        write_atomically(self.path, "".join(kept))
        if self._board is not None:
            self._board.close()
        self._board = SummaryWriter(str(self.path.parent / "tensorboard"), purge_step=step + 1)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; non-finite numbers become null.

        By then steps have been compiled: what their kernels run on goes to `environment.json`.
        """
        self._record_kernels()
        clean = {k: None if _non_finite(v) else v for k, v in record.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(clean) + "\n")
        for name, value in clean.items():
            if isinstance(value, float) and "step" in clean:
                self._board.add_scalar(name, value, clean["step"])

    def close(self) -> None:
        """Flush everything."""
        self._board.close()

    def _record_kernels(self) -> None:
        found, path = dispatch.implementations(), self.path.parent / ENVIRONMENT
        record = _read_record(path) if found != self._kernels else None
        if record:
            record["kernels"] = self._kernels = found
            write_atomically(path, json.dumps(record, indent=2) + "\n")


class NoLog:
    """The log of a host that keeps none: nothing is written."""

    def rewind(self, step: int) -> None:
        """Do nothing."""

    def write(self, record: dict[str, Any]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a `metrics.jsonl`; none if it is missing.

    The last one may be cut off, by a crash or because it is just being written, and is left out
    then. (`RunLog` begins by writing whole lines only: none comes after one that is cut off.)

    Raises:
      InputError: if any other line is not one of a log.
    """
    lines = path.read_bytes().splitlines() if path.exists() else []
    records = [_parse_record(line) for line in lines]
    if None in records[:-1]:
        raise InputError(
            f"{path}: line {records.index(None) + 1} is damaged, not one that training writes; "
            "delete it, or copy the file again"
        )
    return [record for record in records if record is not None]


def _changed(theirs: Config, ours: Config) -> dict[str, Any]:
    """Return the settings of `theirs` that differ and say what is computed, by dotted names."""
    mine = options(ours)
    pairs = {name: (value, mine[name][1]) for name, (_, value, _) in options(theirs).items()}
    return {name: a for name, (a, b) in pairs.items() if name not in PLACES and a != b}


def _command(config: Config) -> str:
    """Return what is typed to train with such settings, but for the places."""
    own = _changed(config, PRESETS[config.preset]) if config.preset in PRESETS else {}
    return " ".join(["train", config.preset, *as_arguments(own)])


def _non_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
