"""Configs as text: dotted options for the command line, and the JSON of a run folder."""

import ast
import dataclasses
import functools
import inspect
import json
import textwrap
import types
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from egs_jax.config import Config
from egs_jax.runtime.errors import InputError


def options(config: Any, prefix: str = "") -> dict[str, tuple[Any, Any, str]]:
    """Flatten a config to {dotted name: (type, value, help)}; nested configs are not listed."""
    flat: dict[str, tuple[Any, Any, str]] = {}
    hints, docs = get_type_hints(type(config)), _field_docs(type(config))
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), prefix + item.name
        if dataclasses.is_dataclass(value):
            flat |= options(value, name + ".")
        else:
            flat[name] = (hints[item.name], value, docs.get(item.name, ""))
    return flat


def as_arguments(settings: dict[str, Any]) -> list[str]:
    """Return what is typed for settings, {dotted name: value}; `override` reads the values back."""
    text = lambda value: ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return [f"--{name}={text(value)}" for name, value in settings.items()]


def override(config: Any, changes: dict[str, str]) -> Any:
    """Return `config` with dotted fields replaced by values parsed from text.

    Raises:
      InputError: unknown field, or text that is not of the field's type.
    """
    known = options(config)
    values: dict[str, Any] = {}
    for name, text in changes.items():
        if name not in known:
            raise InputError(f"--{name}: no such setting; `train tiny --help` lists them")
        values[name] = _parse(name, known[name][0], text)
    return _replace(config, values)


def to_json(config: Config) -> str:
    """Return the config as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(text: str | bytes, where: Path | str) -> Config:
    """Read back what `to_json` wrote.

    Raises:
      InputError: if it is not such a file.
    """
    try:
        values = json.loads(text)
        values["model"].setdefault("lips", "learned")  # as all were before there was a choice
        return _from_dict(Config, values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{where}: not a run's config, or of another version ({error}); name a "
            "run folder made by train"
        ) from error


def _replace(config: Any, values: dict[str, Any]) -> Any:
    """Apply `dataclasses.replace` to dotted names."""
    own = {name: value for name, value in values.items() if "." not in name}
    for head in {name.split(".")[0] for name in values if "." in name}:
        inner = {n.partition(".")[2]: v for n, v in values.items() if n.startswith(head + ".")}
        own[head] = _replace(getattr(config, head), inner)
    return dataclasses.replace(config, **own)


def _from_dict(cls: type, values: dict[str, Any]) -> Any:
    """Rebuild a nested config from plain JSON values."""
    hints = get_type_hints(cls)
    made = {}
    for name, value in values.items():
        kind = hints[name]
        if dataclasses.is_dataclass(kind):
            made[name] = _from_dict(kind, value)
        else:
            made[name] = tuple(value) if get_origin(kind) is tuple else value
    return cls(**made)


def _parse(name: str, kind: Any, text: str) -> Any:
    """Read one value from its text, by type."""
    if isinstance(kind, types.UnionType) or get_origin(kind) not in (None, tuple, Literal):
        if text.lower() == "none":
            return None
        kind = next(k for k in get_args(kind) if k is not type(None))
    if get_origin(kind) is Literal:
        if text in get_args(kind):
            return text
        raise InputError(f"--{name}: got {text!r}, expected one of {', '.join(get_args(kind))}")
    try:
        if get_origin(kind) is tuple:
            parts = tuple(float(part) for part in text.split(","))
            if len(parts) != len(get_args(kind)):
                raise ValueError
            return parts
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        expected = "start,end" if get_origin(kind) is tuple else getattr(kind, "__name__", kind)
        raise InputError(f"--{name}: got {text!r}, expected {expected}") from None


@functools.cache
def _field_docs(cls: type) -> dict[str, str]:
    """Return the string under each field of a dataclass, read from its source."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    body = definition.body  # type: ignore[attr-defined]
    docs = {}
    for item, after in zip(body, body[1:], strict=False):
        if isinstance(item, ast.AnnAssign) and isinstance(after, ast.Expr):
            docs[ast.unparse(item.target)] = ast.literal_eval(after.value)
    return docs
