"""One file with all that an avatar needs to speak: NAME.egs.

A zip archive: `avatar.json`, which says what everything is, and an array a member, its bytes in C
order, little-endian. No member is a path, none is ever unpacked to the disk; sizes are compared
with what the description says before memory is taken, and hashes before a number is used.

Before: `baked`, `scene`; after: `avatar`, which loads one in place of a run folder, and
`avatar_writer`, which makes one.
"""

import hashlib
import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from egs_jax.avatar.baked import Baked, nothing, rounded_up
from egs_jax.avatar.precomputed import Spatial, assemble
from egs_jax.avatar.scene import PersonScene, Scene, SourceFilm
from egs_jax.config import Config
from egs_jax.config_text import from_json
from egs_jax.data.body import BodyModel
from egs_jax.model import forward as model
from egs_jax.model.limits import Limits
from egs_jax.runtime.errors import MAY_NOT_READ, InputError
from egs_jax.speech.layout import Layout
from kernels.codes import Patterns
from kernels.deform import DeformInputs

FORMAT, VERSION = "egs-avatar", 3
"""What `avatar.json` says that it is."""
SUFFIX = ".egs"
DESCRIPTION = "avatar.json"
MOST_BYTES = 2**30
"""Of all arrays together; a file that says that it has more is refused."""
_MOST_WORDS = 2**22  # bytes of the description
_LARGEST_SIDE = 2**14  # pixels of a film
_TYPES = ("<f4", "<f2", "|i1", "|u1", "<f8")
_SHAPES = {
    "cloud/means": "N 3", "cloud/log_scales": "N 3", "cloud/quats": "N 4",
    "cloud/logit_opacities": "N", "cloud/sh": "N H 3",
    "form/counts": "K 14 N", "form/steps": "K 14", "shine/counts": "k M N", "shine/steps": "k M",
    "follows": "K k",
    "sample/features": "S E", "sample/agents": "A E", "sample/static_mix": "S A",
    "sample_mean": "S 14", "weights": "S 14", "reader": "L K", "ranges": "2 K", "skins": "N",
    "scene/intrinsics": "3 3", "scene/viewmats": "P 4 4", "scene/still_viewmat": "4 4",
    "scene/silence": "R F", "scene/bodies": "P 4 4", "scene/still_body": "4 4",
    "scene/body_rest": "4 4", "scene/body_coefficients": "Q 6", "scene/body_limits": "2 6",
    "scene/limits": "25", "scene/plate": "h w 3",
}  # fmt: skip
"""Shapes of all arrays but the networks'; a letter stands for the same size everywhere."""
_MAY_LACK = ("sample/static_mix",)  # with cross-attention


class OlderFormat(InputError):
    """A file is of a format that is not read any more."""


class Written(NamedTuple):
    """What a file holds."""

    config: Config
    scene: Scene
    baked: Baked
    clip: dict[str, Any]
    """What the clip is known by (`training.run_clip`)."""
    step: int
    """Of training, that it was made after."""


def read_avatar(path: str | Path) -> Written:
    """Read an avatar.

    Raises:
      OlderFormat: if it is of an earlier version, an `InputError` as well.
      InputError: if it is no such file, of a newer version, damaged, or holds what makes no sense.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            words = _description(path, archive)
            arrays = _read_arrays(path, archive, words["arrays"])
    except FileNotFoundError:
        raise InputError(f"{path}: missing; name a run folder or an {SUFFIX} file") from None
    except PermissionError:
        raise InputError(f"{path}: {MAY_NOT_READ}") from None
    except (zipfile.BadZipFile, OSError, zlib.error, EOFError, NotImplementedError) as error:
        raise InputError(f"{path}: {_what_it_is(path, error)}") from None
    try:
        return _put_together(path, words, arrays)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: what it says makes no sense ({error!r}); export it again"
        ) from None


def _description(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    """Read and check what a file says that it is."""
    if DESCRIPTION not in archive.namelist():
        raise InputError(f"{path}: an archive of another program (no {DESCRIPTION}), no avatar")
    try:
        words = json.loads(_member(archive, DESCRIPTION, _MOST_WORDS))
        known, version = words["format"] == FORMAT, int(words["version"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path}: {DESCRIPTION} is damaged ({error}); export it again") from None
    if not known:
        raise InputError(f"{path}: an archive of another program, no avatar")
    if version != VERSION:
        remedy = "update egs-jax" if version > VERSION else "export it again from its run"
        kind = InputError if version > VERSION else OlderFormat
        raise kind(f"{path}: format {version}, this version reads {VERSION}; {remedy}")
    return words


def _read_arrays(
    path: Path, archive: zipfile.ZipFile, told: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Read the arrays that a description tells of; each is compared with it."""
    try:
        kinds = {name: (np.dtype(entry["dtype"]), tuple(map(int, entry["shape"])), entry["sha256"])
                 for name, entry in told.items()}  # fmt: skip
        fits = all(
            kind.str in _TYPES and min(shape, default=0) >= 0 for kind, shape, _ in kinds.values()
        )
        sizes = {name: kind.itemsize * math.prod(shape) for name, (kind, shape, _) in kinds.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: {DESCRIPTION} is damaged ({error}); export it again") from None
    if not fits or sum(sizes.values()) > MOST_BYTES:
        raise InputError(f"{path}: {DESCRIPTION} tells of arrays that no avatar has")
    arrays = {}
    for name, (kind, shape, sha256) in kinds.items():
        try:
            data = _member(archive, name, sizes[name])
        except KeyError:
            raise InputError(f"{path}: {name} is missing; export it again") from None
        if len(data) != sizes[name] or hashlib.sha256(data).hexdigest() != sha256:
            raise InputError(f"{path}: {name} is damaged (another hash); export it again")
        arrays[name] = np.frombuffer(data, kind).reshape(shape)
        if kind.kind == "f" and not np.isfinite(arrays[name]).all():
            raise InputError(f"{path}: {name} has numbers that are not finite; train again")
    return arrays


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Read a member, of which at most one byte more than `most` is ever unpacked."""
    with archive.open(name) as file:
        return file.read(most + 1)


def _what_it_is(path: Path, error: Exception) -> str:
    """Say what a file is that is no archive, or a damaged one, and what to do."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError:
        return f"cannot be read ({error})"
    if start == b"ply\n":
        return f"a point cloud (ply), which has no voice: name a run folder or an {SUFFIX} file"
    found = "damaged or cut short" if start[:2] == b"PK" else "no avatar"
    return f"{found} ({error}); export it again"


def _put_together(path: Path, words: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> Written:
    config = from_json(json.dumps(words["config"]), path)
    _check_shapes(config, arrays)
    parts, told = unflatten_dict(arrays, sep="/"), words["scene"]
    scene = _scene(parts["scene"], told)
    assert isinstance(scene.own, PersonScene)
    full = lambda name: jnp.asarray(parts[name], jnp.float32)
    device = lambda tree: jax.tree.map(jnp.asarray, tree)
    cloud = DeformInputs(**{n: jnp.asarray(v, jnp.float32) for n, v in parts["cloud"].items()})
    rows = parts["sample"]
    known = [device(rows.get(name)) for name in ("features", "agents", "static_mix")]
    exists = jnp.ones(len(rows["features"]), bool)
    spatial = Spatial(nothing(len(exists), 1), *known, skins=None, alive=exists)
    sh_degree = int(words["sh_degree"])
    sample = assemble(config, parts["networks"], spatial, sh_degree, scene.own.limits)
    everyone = len(cloud.means)
    baked = Baked(
        cloud=cloud,
        form=Patterns(**device(parts["form"])),
        shine=Patterns(**device(parts["shine"])),
        sample=sample,
        follows=full("follows"),
        sample_mean=full("sample_mean"),
        weights=full("weights"),
        reader=jnp.asarray(parts["reader"].T, jnp.float32),
        ranges=full("ranges"),
        alive=jnp.ones(everyone, bool),
        offsets=jnp.zeros((everyone, 2)),
        skins=full("skins"),
    )
    return Written(config, scene, rounded_up(baked), dict(words["clip"]), int(words["step"]))


def _scene(arrays: Mapping[str, np.ndarray], told: Mapping[str, Any]) -> Scene:
    layout = told["layout"] | {"margins": tuple(told["layout"]["margins"])}
    body = BodyModel(
        arrays["body_rest"], arrays["body_coefficients"], arrays["body_limits"],
        **told["body_model"],
    )  # fmt: skip
    own = PersonScene(
        bodies=arrays["bodies"],
        still_body=arrays["still_body"],
        body_model=body,
        limits=Limits(jnp.asarray(arrays["limits"])),
        plate=arrays["plate"],
    )
    if arrays["plate"].shape != (told["height"], told["width"], 3):
        raise ValueError(f"a plate of {list(arrays['plate'].shape)}")
    return Scene(
        width=int(told["width"]),
        height=int(told["height"]),
        intrinsics=arrays["intrinsics"],
        start=int(told["start"]),
        viewmats=arrays["viewmats"],
        still_frame=int(told["still_frame"]),
        still_viewmat=arrays["still_viewmat"],
        silence=arrays["silence"],
        layout=Layout(**layout),
        sound_kind=str(told["sound_kind"]),
        sound_name=str(told["sound_name"]),
        loudness=float(told["loudness"]),
        own=own,
        film=None if (film := told.get("film")) is None else _film(film),
    )


def _film(told: Mapping[str, Any]) -> SourceFilm:
    red, green, blue = map(float, told["gain"])
    numbers = {name: int(told[name]) for name in ("left", "top", "side", "start")}
    if min(numbers.values()) < 0 or not 0 < numbers["side"] <= _LARGEST_SIDE:
        raise ValueError(f"a film cut at {numbers}")
    if not 0 < min(red, green, blue) <= max(red, green, blue) < math.inf:
        raise ValueError(f"a film's gain of {told['gain']}")
    return SourceFilm(str(told["name"]), str(told["sha256"]), **numbers, gain=(red, green, blue))


def _check_shapes(config: Config, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise a `ValueError` if an array is missing or does not fit the others."""
    letters: dict[str, int] = {"H": model.harmonics(config.model)}
    for name, text in _SHAPES.items():
        if name not in arrays:
            if name not in _MAY_LACK:
                raise ValueError(f"{name} is missing")
            continue
        shape, wanted = arrays[name].shape, text.split()
        sizes = [int(a) if a.isdigit() else letters.setdefault(a, size)
                 for a, size in zip(wanted, shape, strict=False)]  # fmt: skip
        if len(wanted) != len(shape) or list(shape) != sizes:
            raise ValueError(f"{name} is {list(shape)}, not {text}")
    if letters["M"] != 3 * letters["H"] - 3:
        raise ValueError("numbers of a Gaussian")
    if none := [a for a, size in letters.items() if size == 0 and a not in "Mk"]:
        raise ValueError(f"arrays of no size ({', '.join(none)})")
    if letters["L"] != 14 * letters["S"]:
        raise ValueError(f"reader is {letters['L']} long")
    made = jax.eval_shape(
        lambda: model.init_networks(config.model, jax.random.key(0), letters["F"])
    )
    needed = {name: made[name] for name in ("tokens", "attention", "deform")}
    for name, value in flatten_dict({"networks": needed}, sep="/").items():
        if name not in arrays or arrays[name].shape != value.shape:
            raise ValueError(f"{name}: expected {list(value.shape)}")
