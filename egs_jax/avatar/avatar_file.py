"""One file with all that an avatar needs to speak: NAME.egs.

A zip archive: `avatar.json`, which says what everything is, and an array a member, its bytes in C
order, little-endian. No member is a path, none is ever unpacked to the disk; sizes are compared
with what the description says before memory is taken, and hashes before a number is used.

Before: `baked`, `scene`; after: `avatar`, which loads one in place of a run folder.
"""

import dataclasses
import hashlib
import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from egs_jax.avatar.baked import Baked, rounded_up
from egs_jax.avatar.precomputed import Spatial, assemble
from egs_jax.avatar.scene import PersonScene, Scene
from egs_jax.config import Config
from egs_jax.config_text import from_json, to_json
from egs_jax.data.body import BodyModel
from egs_jax.model import forward as model
from egs_jax.model.limits import Limits
from egs_jax.runtime.consent import CONSENT
from egs_jax.runtime.errors import MAY_NOT_READ, InputError
from egs_jax.runtime.files import atomically
from egs_jax.runtime.provenance import provenance
from egs_jax.speech.layout import Layout
from kernels.codes import Patterns
from kernels.deform import DeformInputs

FORMAT, VERSION = "egs-avatar", 2
"""What `avatar.json` says that it is."""
SUFFIX = ".egs"
DESCRIPTION = "avatar.json"
MOST_BYTES = 2**30
"""Of all arrays together; a file that says that it has more is refused."""
_MOST_WORDS = 2**22  # bytes of the description
_DATE = (1980, 1, 1, 0, 0, 0)  # of every member: equal avatars are equal files
_TYPES = ("<f4", "<f2", "|i1", "|u1", "<f8")
_HALF = (
    "cloud/log_scales", "cloud/quats", "cloud/logit_opacities", "cloud/sh", "skins", "weights",
    "reader",
)  # fmt: skip
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


class Written(NamedTuple):
    """What a file holds."""

    config: Config
    scene: Scene
    baked: Baked
    clip: dict[str, Any]
    """What the clip is known by (`training.run_clip`)."""
    step: int
    """Of training, that it was made after."""


def write_avatar(
    path: str | Path, written: Written, networks: Mapping[str, Any], spatial: Spatial,
    sh_degree: int,
) -> None:  # fmt: skip
    """Write an avatar, all of it or nothing.

    Args:
      path: Of the file; one that is there is replaced.
      written: What it holds.
      networks: Parameters of its networks, {module name: parameters}.
      spatial: What is known of the Gaussians of its sample.
      sh_degree: Degree of spherical harmonics that is drawn.

    Raises:
      InputError: if the avatar is a head alone, or the file cannot be written.
    """
    path, scene = Path(path), written.scene
    person = _person(scene, f"{path}: ")
    arrays = _arrays(written, person, networks, spatial)
    words = {
        "format": FORMAT,
        "version": VERSION,
        "consent": CONSENT,
        "made_by": provenance(),
        "config": json.loads(to_json(dataclasses.replace(written.config, data_dir=""))),
        "clip": written.clip,
        "step": written.step,
        "sh_degree": sh_degree,
        "scene": _scene_words(scene, person),
    }
    try:
        with atomically(path) as part:
            _write(part, words, arrays)
    except OSError as error:
        raise InputError(f"{path}: cannot write there ({error}); name another place") from None


def write_shown(file: IO[bytes], baked: Baked, scene: Scene) -> None:
    """Write the part of a file that a screen needs: Gaussians, patterns and the room, no voice.

    Whoever has it can draw what the avatar is told to do, and cannot let it say anything. Members
    are not packed: that is left to what carries them.

    Raises:
      InputError: if the avatar is a head alone.
    """
    person = _person(scene)
    size = {"width": scene.width, "height": scene.height}
    words = {"format": FORMAT, "version": VERSION, "consent": CONSENT, "scene": size}
    _write(file, words, _as_written(_shown(baked, scene, person)), zipfile.ZIP_STORED)


def read_avatar(path: str | Path) -> Written:
    """Read an avatar.

    Raises:
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
        raise InputError(f"{path}: {_what_it_is(path)} ({error}); export it again") from None
    try:
        return _put_together(path, words, arrays)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: what it says makes no sense ({error!r}); export it again"
        ) from None


def _arrays(
    written: Written, person: PersonScene, networks: Mapping[str, Any], spatial: Spatial
) -> dict[str, np.ndarray]:
    """Return all arrays of a file by their names."""
    baked, scene, body = written.baked, written.scene, person.body_model
    tree = {
        "follows": baked.follows,
        "sample": {
            "features": spatial.features, "agents": spatial.agents,
            "static_mix": spatial.static_mix,
        },
        "sample_mean": baked.sample_mean, "weights": baked.weights, "reader": baked.reader,
        "networks": {name: networks[name] for name in ("tokens", "attention", "deform")},
        "scene": {
            "viewmats": scene.viewmats, "still_viewmat": scene.still_viewmat,
            "silence": scene.silence, "bodies": person.bodies, "still_body": person.still_body,
            "body_rest": body.rest, "body_coefficients": body.coefficients,
            "body_limits": body.limits,
        },
    }  # fmt: skip
    return _as_written(_shown(baked, scene, person) | flatten_dict(tree, sep="/"))


def _shown(baked: Baked, scene: Scene, person: PersonScene) -> dict[str, Any]:
    """Return the arrays that drawing needs once codes and poses are known."""
    live = int(baked.alive.sum())
    tree = {
        "cloud": {name: value[:live] for name, value in baked.cloud._asdict().items()},
        "form": {"counts": baked.form.counts[..., :live], "steps": baked.form.steps},
        "shine": {"counts": baked.shine.counts[..., :live], "steps": baked.shine.steps},
        "ranges": baked.ranges, "skins": None if baked.skins is None else baked.skins[:live],
        "scene": {
            "intrinsics": scene.intrinsics, "limits": person.limits.values, "plate": person.plate,
        },
    }  # fmt: skip
    return flatten_dict(tree, sep="/")


def _as_written(flat: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return arrays of the types that a file has, in the order of their names."""
    there = {name: flat[name] for name in sorted(flat) if flat[name] is not None}
    return {
        name: np.asarray(value, np.float16 if name in _HALF else None, order="C")
        for name, value in jax.device_get(there).items()
    }


def _person(scene: Scene, place: str = "") -> PersonScene:
    if not isinstance(scene.own, PersonScene):
        raise InputError(
            f"{place}this avatar is a head over its clip's own frames, which no such file has "
            "room for; speak from its run folder, or train with --model.body person"
        )
    return scene.own


def _scene_words(scene: Scene, person: PersonScene) -> dict[str, Any]:
    names = ("width", "height", "start", "still_frame", "sound_kind", "sound_name", "loudness")
    words = {name: getattr(scene, name) for name in names}
    told = person.body_model
    errors = {"error": told.error, "still_error": told.still_error}
    return words | {"layout": dataclasses.asdict(scene.layout), "body_model": errors}


def _write(
    file: Path | IO[bytes], words: dict[str, Any], arrays: Mapping[str, np.ndarray],
    method: int = zipfile.ZIP_DEFLATED,
) -> None:  # fmt: skip
    """Write an archive of a description and its arrays."""
    told = {
        name: {
            "dtype": array.dtype.str,
            "shape": list(array.shape),
            "sha256": hashlib.sha256(array.tobytes()).hexdigest(),
        }
        for name, array in arrays.items()
    }
    description = json.dumps(words | {"arrays": told}, indent=1).encode()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(DESCRIPTION, _DATE), description, method, 6)
        for name, array in arrays.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), array.tobytes(), method, 6)


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
        remedy = "update egs-jax" if version > VERSION else "export it again"
        raise InputError(f"{path}: format {version}, this version reads {VERSION}; {remedy}")
    return words


def _read_arrays(
    path: Path, archive: zipfile.ZipFile, told: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Read the arrays that a description tells of; each is compared with it."""
    try:
        kinds = {name: (np.dtype(entry["dtype"]), tuple(map(int, entry["shape"])), entry["sha256"])
                 for name, entry in told.items()}  # fmt: skip
        fits = all(
            kind.str in _TYPES and min(shape, default=1) > 0 for kind, shape, _ in kinds.values()
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


def _what_it_is(path: Path) -> str:
    """Say what a file is that is no archive, or a damaged one."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError:
        return "cannot be read"
    if start == b"ply\n":
        return "a point cloud (ply), which has no voice: name a run folder or an .egs file"
    return "damaged or cut short" if start[:2] == b"PK" else "no avatar"


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
    zeros = DeformInputs(*(jnp.zeros((len(rows["features"]), *value.shape[1:])) for value in cloud))
    known = [device(rows.get(name)) for name in ("features", "agents", "static_mix")]
    exists = jnp.ones(len(rows["features"]), bool)
    spatial = Spatial(zeros, *known, skins=None, alive=exists)
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
        reader=full("reader"),
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
    )


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
    if letters["L"] != 14 * letters["S"]:
        raise ValueError(f"reader is {letters['L']} long")
    made = jax.eval_shape(
        lambda: model.init_networks(config.model, jax.random.key(0), letters["F"])
    )
    needed = {name: made[name] for name in ("tokens", "attention", "deform")}
    for name, value in flatten_dict({"networks": needed}, sep="/").items():
        if name not in arrays or arrays[name].shape != value.shape:
            raise ValueError(f"{name}: expected {list(value.shape)}")
