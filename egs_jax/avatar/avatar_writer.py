"""An avatar -> its file (`avatar_file` says what is in one), or the part of it that a screen needs.

Before: `avatar_file`; after: `export`, `page`.
"""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from egs_jax.avatar.avatar_file import DESCRIPTION, FORMAT, VERSION, Written
from egs_jax.avatar.baked import Baked
from egs_jax.avatar.precomputed import Spatial
from egs_jax.avatar.scene import PersonScene, Scene
from egs_jax.config_text import to_json
from egs_jax.runtime.consent import CONSENT
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.files import atomically
from egs_jax.runtime.provenance import provenance

_DATE = (1980, 1, 1, 0, 0, 0)  # of every member: equal avatars are equal files
_HALF = (
    "cloud/log_scales", "cloud/quats", "cloud/logit_opacities", "cloud/sh", "skins", "weights",
    "reader",
)  # fmt: skip


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

    Whoever has it can draw what the avatar is told to do, and cannot let it say anything. Further
    harmonics keep 6 significant bits, which nobody sees and packs better. Members are not packed:
    that is left to what carries them.

    Raises:
      InputError: if the avatar is a head alone.
    """
    person = _person(scene)
    size = {"width": scene.width, "height": scene.height}
    words = {"format": FORMAT, "version": VERSION, "consent": CONSENT, "scene": size}
    arrays = _as_written(_shown(baked, scene, person))
    colors = arrays["cloud/sh"].view(np.uint16)
    rounded = (colors[:, 1:] + 16) & ~np.uint16(31)  # may carry into the exponent, which is right
    arrays["cloud/sh"] = np.concatenate([colors[:, :1], rounded], axis=1).view(np.float16)
    _write(file, words, arrays, zipfile.ZIP_STORED)


def _arrays(
    written: Written, person: PersonScene, networks: Mapping[str, Any], spatial: Spatial
) -> dict[str, np.ndarray]:
    """Return all arrays of a file by their names."""
    baked, scene, body = written.baked, written.scene, person.body_model
    tree = {
        "sample": {
            "features": spatial.features, "agents": spatial.agents,
            "static_mix": spatial.static_mix,
        },
        "sample_mean": baked.sample_mean, "weights": baked.weights, "reader": baked.reader.T,
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
        "follows": baked.follows, "ranges": baked.ranges,
        "skins": None if baked.skins is None else baked.skins[:live],
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
    words |= {"layout": dataclasses.asdict(scene.layout), "body_model": errors}
    return words if scene.film is None else words | {"film": dataclasses.asdict(scene.film)}


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
