"""Where a result comes from: commit, command, versions of what computes, and the device."""

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

PACKAGES = {
    "jax": ("jax",),
    "jaxlib": ("jaxlib",),
    "flax": ("flax",),
    "optax": ("optax",),
    "orbax-checkpoint": ("orbax-checkpoint",),
    "numpy": ("numpy",),
    "jax-triton": ("jax-triton",),
    "triton": ("triton",),
    "opencv": ("opencv-python-headless", "opencv-python"),
    "av": ("av",),
    "ai-edge-litert": ("ai-edge-litert",),
    "chex": ("chex",),
    "imageio": ("imageio",),
}
"""Packages that a result may depend on, and the distributions of which one brings each."""


def provenance() -> dict[str, Any]:
    """Return what made a result, ready for JSON.

    Returns:
      `commit`, `command`, `python`, `device`, `packages` and `notes`, which says of each value that
      is null why it is.
    """
    name, reason = commit()
    return {
        "commit": name,
        "command": shlex.join(sys.orig_argv),
        "python": platform.python_version(),
        "device": device(),
        "packages": package_versions(),
        "notes": {"commit": reason} if reason else {},
    }


def commit() -> tuple[str | None, str | None]:
    """Return the commit of this code's checkout, with "+" if tracked files have changes.

    A copy without history (on a borrowed machine, say) names its commit in `EGS_COMMIT`.

    Returns:
      The commit and None, or None and the reason why there is none.
    """
    if given := os.environ.get("EGS_COMMIT"):
        return given, None
    here = Path(__file__).resolve()

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here.parent), *words], capture_output=True, encoding="utf-8",
            errors="replace", check=True,
        )  # fmt: skip
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # else the checkout around it is another's
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if changes else ""), None
    except OSError:
        return None, "git is not installed; EGS_COMMIT can name the commit"
    except subprocess.CalledProcessError:
        return None, "the code is in no git checkout; EGS_COMMIT can name the commit"


def package_versions() -> dict[str, str | None]:
    """Return the versions of `PACKAGES`; null for those that are not installed."""
    return {name: _first_version(candidates) for name, candidates in PACKAGES.items()}


def device() -> str:
    """Return platform and kind of the device that JAX computes on."""
    first = jax.devices()[0]
    return f"{first.platform}: {first.device_kind}"


def _first_version(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
