"""The folder where a CPU's compiled programs lie: one a processor, bounded, without damaged files.

Machine code of another processor may use instructions that this one lacks, and XLA divides work
among the cores that it finds, which decides the last bits. So the folder's name says both, and what
one kind of machine compiled is never seen by another that shares the home.

JAX reads and writes most of the files. It neither replaces a damaged one, which a full disk or a
killed process leaves, nor bounds their number without another package: `processors_folder` does.
"""

import contextlib
import hashlib
import importlib
import os
import platform
import time
import zlib
from pathlib import Path
from typing import Any

MOST_BYTES = 2**30
"""Of all processors' programs together; the oldest go first."""
CHECKED = "checked"
"""An empty file as old as the last look at the others."""
CPUINFO = Path("/proc/cpuinfo")
"""What Linux says of every core."""
_X86 = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")
_ARM = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features")
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_SLACK = 2.0  # seconds: the resolution of the coarsest file system's clock


def processors_folder(home: Path, cores: int, most: int = MOST_BYTES) -> Path:
    """Return the folder in `home` for programs of this processor, ready to be used.

    Args:
      home: Where the folders of all processors lie.
      cores: Those that this process may use.
      most: Bytes that may lie there.
    """
    facts = f"{processor()}\n{cores} cores"
    folder = home / f"cpu-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
    with contextlib.suppress(OSError):  # what cannot be tidied is used as it is
        folder.mkdir(parents=True, exist_ok=True)
        _drop_damaged(folder)
        _drop_oldest(home, most)
    return folder


def processor() -> str:
    """Return what machine code depends on: kind and instructions of the processor."""
    told = {platform.system(), platform.machine(), platform.processor()}
    with contextlib.suppress(OSError):
        text = CPUINFO.read_text("utf-8", "replace")
        lines = (
            line.partition(":") for line in text.splitlines()
        )  # of all cores: kinds may differ
        told |= {f"{k.strip()}: {v.strip()}" for k, _, v in lines if k.strip() in _X86 + _ARM}
    return "\n".join(sorted(told))


def _drop_damaged(folder: Path) -> None:
    """Remove JAX's files that cannot be unpacked, of those written since the last look."""
    stamp, now = folder / CHECKED, time.time()
    since = stamp.stat().st_mtime if stamp.exists() else 0.0
    for path in folder.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            if path.stat().st_mtime >= since and not _unpacks(path.read_bytes()):
                path.unlink()
    stamp.touch()
    os.utime(stamp, (now - _SLACK, now - _SLACK))


def _unpacks(data: bytes) -> bool:
    """Tell whether data is whole, by the sum that its packing holds; JAX packs by one of two."""
    try:
        if data.startswith(_ZSTANDARD):
            _zstandard().decompress(data)
        else:
            zlib.decompress(data)
    except Exception:  # of a kind for each library
        return False
    return True


def _zstandard() -> Any:
    """Return the library by which JAX packed; without it JAX packs otherwise."""
    try:
        return importlib.import_module("compression.zstd")  # of Python, from 3.14 on
    except ImportError:
        return importlib.import_module("zstandard").ZstdDecompressor()


def _drop_oldest(home: Path, most: int) -> None:
    """Remove the files written first, until the rest takes no more than `most` bytes."""
    found = []
    for path in home.glob("cpu-*/*"):
        with contextlib.suppress(FileNotFoundError):
            seen = path.stat()
            found.append((seen.st_mtime, seen.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            return
        path.unlink(missing_ok=True)
        total -= size
