"""What `make lint` runs and the tests run as well: the one list of it."""

import subprocess
import sys
from pathlib import Path

FOLDERS = ("egs_jax", "kernels", "experiments", "examples", "tests")
COMMANDS = (
    ("mypy",),
    ("ruff", "check", *FOLDERS),
    ("ruff", "format", "--check", *FOLDERS),
)
ROOT = Path(__file__).parents[1]


def run(command: tuple[str, ...]) -> subprocess.CompletedProcess:
    """Run one of the commands in the checkout."""
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, encoding="utf-8",
        errors="replace", check=False,
    )  # fmt: skip


def main() -> int:
    """Run all of them; say what each finds."""
    done = [run(command) for command in COMMANDS]
    for each in done:
        print(each.stdout + each.stderr, end="")
    return max(each.returncode for each in done)


if __name__ == "__main__":
    sys.exit(main())
