"""Note every program that XLA compiles, in each process of a run, and list those compiled twice.

Python imports a file of this name by itself where PYTHONPATH has its folder, so that workers and
the processes that tests start take part. `make test-all` runs the tests so:

    COMPILE_LOG=folder PYTHONPATH=tests/compile_log python -m pytest ...
    python tests/compile_log/sitecustomize.py folder
"""

import collections
import logging
import os
import sys
import threading
import time
from pathlib import Path

SECONDS = 1.0
"""Programs that take less are not worth an order of the tests: two workers may both need them."""


class Compilations(logging.Handler):
    """Write a line with key, name, seconds and test of each program that the cache did not have."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.begun = folder, threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """Hear what JAX's compiler says: of a miss (name, key), and then that it is compiled."""
        name, key, start = getattr(self.begun, "program", ("", "", 0.0))
        if key:
            self.begun.program = ("", "", 0.0)
            test, _, _ = os.environ.get("PYTEST_CURRENT_TEST", "a fixture").partition(" (")
            with (self.folder / str(os.getpid())).open("a", encoding="utf-8") as file:
                print(key, name, f"{time.monotonic() - start:.3f}", test, sep="\t", file=file)
        if "CACHE MISS" in str(record.msg):
            self.begun.program = (*record.args, time.monotonic())


def compilations(folder: Path) -> dict[tuple[str, str], list[tuple[float, str]]]:
    """Return seconds and test of each compilation of every program (key, name) of a run."""
    found = collections.defaultdict(list)
    for path in sorted(folder.iterdir()):
        for line in path.read_text(encoding="utf-8").splitlines():
            key, name, seconds, test = line.split("\t")
            found[key, name].append((float(seconds), test))
    return dict(found)


def main(folder: Path) -> int:
    """Print the programs of a second and more that were compiled twice; 1 if there are any."""
    found = compilations(folder)
    twice = {program: made for program, made in found.items() if len(made) > 1}
    large = {program: made for program, made in twice.items() if max(made)[0] >= SECONDS}
    for (key, name), made in sorted(large.items(), key=lambda item: -sum(s for s, _ in item[1])):
        print(f"{name} ({key[-12:]}):")
        print(*(f"  {seconds:6.1f} s in {test}" for seconds, test in made), sep="\n")
    total = sum(seconds for made in found.values() for seconds, _ in made)
    print(
        f"{len(found)} programs compiled in {total:.0f} s; {len(twice)} of them more than once, of "
        f"which {len(large)} took {SECONDS:g} s or more"
    )
    return int(bool(large) or not found)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

if __name__ == "sitecustomize" and os.environ.get("COMPILE_LOG"):
    logger = logging.getLogger("jax._src.compiler")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(Compilations(Path(os.environ["COMPILE_LOG"])))
