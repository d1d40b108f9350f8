"""Note every program that XLA compiles, in each process of a run, and list those compiled twice.

Python imports a file of this name by itself where PYTHONPATH has its folder, so that workers and
the processes that tests start take part. `make compilations` runs the tests so:

    COMPILE_LOG=folder PYTHONPATH=tests/compile_log python -m pytest ...
    python tests/compile_log/sitecustomize.py folder
"""

import collections
import logging
import os
import sys
from pathlib import Path


class Compilations(logging.Handler):
    """Write a line with process, key and name of every program that the cache does not have."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what JAX's compiler says of a miss: `(name, key)` are the message's arguments."""
        if "CACHE MISS" in str(record.msg):
            name, key = record.args
            test = os.environ.get("PYTEST_CURRENT_TEST", "a fixture").split(" ")[0]
            with (self.folder / str(os.getpid())).open("a", encoding="utf-8") as file:
                print(key, name, test, sep="\t", file=file)


def compilations(folder: Path) -> dict[tuple[str, str], list[str]]:
    """Return the tests that compiled each program (key, name) of a run."""
    found = collections.defaultdict(list)
    for path in sorted(folder.iterdir()):
        for line in path.read_text(encoding="utf-8").splitlines():
            key, name, test = line.split("\t")
            found[key, name].append(test)
    return dict(found)


def main(folder: Path) -> int:
    """Print the programs compiled more than once, the most often first; 1 if there are any."""
    found = compilations(folder)
    twice = {program: tests for program, tests in found.items() if len(tests) > 1}
    for (key, name), tests in sorted(twice.items(), key=lambda item: -len(item[1])):
        print(f"{len(tests)} x {name} ({key[-12:]}): {', '.join(sorted(set(tests)))}")
    print(f"{len(found)} programs compiled, {len(twice)} of them more than once")
    return int(bool(twice) or not found)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

if os.environ.get("COMPILE_LOG"):
    logger = logging.getLogger("jax._src.compiler")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(Compilations(Path(os.environ["COMPILE_LOG"])))
