"""Break the code in many small ways, one at a time, and see that a test notices each.

Run by hand from the root: `python tests/mutate.py [--only WORD] [--jobs 2]`. Every line of
`mutations.MUTATIONS` is an edit of one file and the tests that must fail of it. Edits are made in
copies of the tracked files, never in the working tree. The record is
experiments/results/mutations.json; the exit status is 1 if an edit survives, does not fit, or
breaks more than a test can tell.
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from mutations import MUTATIONS, Mutation, misfits  # noqa: E402

from experiments._common import record  # noqa: E402


class Outcome(NamedTuple):
    """What came of an edit."""

    verdict: str
    """`killed`, `survived`, or `broken` where the tests could not run at all."""
    by: str
    """The test that failed first."""
    seconds: float


def copy_tree(folder: Path) -> Path:
    """Copy the tracked files as they are in the working tree; compiled programs are shared."""
    names = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (ROOT / ".cache").mkdir(exist_ok=True)
    (folder / ".cache").symlink_to((ROOT / ".cache").resolve())
    return folder


def run_tests(folder: Path, tests: list[str]) -> subprocess.CompletedProcess:
    """Run tests in a copy, until the first fails."""
    flags = ["-n", "0", "-x", "-rfE", "--tb=line", "--durations=0", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *flags, *tests],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def outcome_of(folder: Path, mutation: Mutation) -> Outcome:
    """Edit the copy, run the tests, mend the copy."""
    path = folder / mutation.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    started = time.perf_counter()
    try:
        done = run_tests(folder, list(mutation.tests))
    finally:
        path.write_text(text, encoding="utf-8")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    verdict = {0: "survived", 1: "killed"}.get(done.returncode, "broken")
    if verdict == "broken":
        print(done.stdout[-2000:], done.stderr[-2000:], sep="\n", file=sys.stderr)
    seconds = round(time.perf_counter() - started, 1)
    return Outcome(verdict, failed[1] if failed else "", seconds)


def main(argv: list[str] | None = None) -> int:
    """Check that the edits fit and that the tests pass without them; then make one at a time."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="edits whose name or file has this word")
    parser.add_argument("--jobs", type=int, default=1, help="how many at the same time")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments" / "results")
    options = parser.parse_args(argv)
    chosen = [m for m in MUTATIONS if options.only in m.name or options.only in m.file]
    if wrong := misfits(ROOT, chosen):
        print(*wrong, sep="\n", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(options.jobs) as pool:
        folders: SimpleQueue[Path] = SimpleQueue()
        for number in range(options.jobs):
            folders.put(copy_tree(Path(home) / str(number)))

        @contextlib.contextmanager
        def copy() -> Iterator[Path]:
            folder = folders.get()
            try:
                yield folder
            finally:
                folders.put(folder)

        def faults_without_edit(file: str) -> str:
            tests = {test for m in chosen for test in m.tests if test.startswith(f"{file}::")}
            with copy() as folder:
                done = run_tests(folder, sorted(tests))
            return done.stdout[-3000:] if done.returncode else ""

        files = sorted({test.partition("::")[0] for m in chosen for test in m.tests})
        if wrong := list(filter(None, pool.map(faults_without_edit, files))):
            print("tests fail without any edit:", *wrong, sep="\n", file=sys.stderr)
            return 1

        def case_of(mutation: Mutation) -> dict:
            with copy() as folder:
                case = mutation._asdict() | outcome_of(folder, mutation)._asdict()
            print("{verdict:9}{seconds:6} s  {name}: {by}".format(**case), flush=True)
            return case

        cases = list(pool.map(case_of, chosen))
    killed = sum(case["verdict"] == "killed" for case in cases)
    print(f"{killed} of {len(cases)} edits were noticed")
    if not options.only:
        print(record("mutations", cases, options.out))
    return int(killed < len(cases))


if __name__ == "__main__":
    sys.exit(main())
