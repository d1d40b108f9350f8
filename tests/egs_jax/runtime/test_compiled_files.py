"""The folder of machine code: one a processor, bounded, and mended where a file is damaged."""

import json
import os
import subprocess
import zlib

import pytest
from helpers import python

from egs_jax.runtime import compiled_files
from egs_jax.runtime.compiled_files import processors_folder

INTEL = "processor : 0\nmodel name : X\nmicrocode : 0x1\ncpu MHz : 2400.1\nflags : avx avx2 fma\n\n"


@pytest.fixture
def folder_of(monkeypatch, tmp_path):
    """The folder that a machine takes of which Linux says this."""

    def folder(text, cores=2):
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(compiled_files, "CPUINFO", tmp_path / "cpuinfo")
        return processors_folder(tmp_path / "compiled", cores)

    return folder


@pytest.mark.parametrize(
    ("other", "cores", "same"),
    [
        (INTEL, 2, True),
        (INTEL.replace("2400.1", "800.3").replace("0x1", "0x2"), 2, True),
        (INTEL + INTEL.replace(": 0", ": 1"), 2, True),
        (INTEL.replace("avx2 ", ""), 2, False),
        (INTEL.replace("fma", "fma avx512f"), 2, False),
        (INTEL.replace(": X", ": Y"), 2, False),
        (INTEL + INTEL.replace("avx2 ", ""), 2, False),
        (INTEL.replace("flags", "Features"), 2, False),
        (INTEL, 1, False),
    ],
)
def test_every_processor_has_a_folder_of_its_own(folder_of, other, cores, same):
    mine = folder_of(INTEL)
    assert mine.is_dir()
    assert (folder_of(other, cores) == mine) == same


def test_a_machine_that_says_nothing_has_one_too(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled_files, "CPUINFO", tmp_path / "missing")
    assert processors_folder(tmp_path, 2).is_dir()


def test_damaged_files_are_removed_and_others_are_not_read_again(tmp_path, monkeypatch):
    zstandard = pytest.importorskip("zstandard").ZstdCompressor()
    folder = processors_folder(tmp_path, 2)
    whole = {"a": zlib.compress(b"code" * 99), "b": zstandard.compress(b"code" * 99)}
    for name, data in whole.items():
        (folder / f"{name}-cache").write_bytes(data)
        (folder / f"{name}cut-cache").write_bytes(data[:-3])
    (folder / "empty-cache").write_bytes(b"")
    (folder / "draw-program").write_bytes(b"looked at by `programs`")
    processors_folder(tmp_path, 2)
    left = {path.name for path in folder.iterdir()}
    assert left == {"a-cache", "b-cache", "draw-program", compiled_files.CHECKED}
    for path in folder.glob("*-cache"):
        os.utime(path, (0, 0))
    monkeypatch.setattr(compiled_files, "_unpacks", lambda data: pytest.fail("was read again"))
    processors_folder(tmp_path, 2)


def test_the_oldest_programs_of_any_processor_go_first(tmp_path):
    folder, other = processors_folder(tmp_path, 2), processors_folder(tmp_path, 4)
    beside = tmp_path / "a GPU's"
    beside.write_bytes(b"." * 5000)
    for age, path in enumerate([folder / "new", other / "old", folder / "older"]):
        path.write_bytes(b"." * 1000)
        os.utime(path, (2e9 - age, 2e9 - age))
    processors_folder(tmp_path, 2, most=2500)
    assert (folder / "new").exists() and (other / "old").exists() and beside.exists()
    assert not (folder / "older").exists()


def test_a_folder_that_cannot_be_tidied_is_no_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert not processors_folder(tmp_path / "file", 2).exists()


PROGRAM = """
import collections, json, warnings
from egs_jax.runtime.environment import keep_programs, set_environment
set_environment()
import jax, numpy as np
events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event]))
keep_programs()
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    x = jax.jit(lambda x: (np.sin(3.0) * jax.numpy.tanh(x @ x)).sum())(jax.numpy.ones((9, 9)))
print(json.dumps([float(x).hex(), events["/jax/compilation_cache/cache_hits"],
                  events["/jax/compilation_cache/cache_misses"], list(map(str, told)),
                  jax.config.jax_compilation_cache_dir]))
"""


def test_a_second_process_finds_what_the_first_compiled_and_mends_what_is_damaged(tmp_path):
    command, environment = python("-c", PROGRAM)
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    del environment["JAX_COMPILATION_CACHE_DIR"]

    def run():
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
        return json.loads(done.stdout)

    first, hits, misses, told, folder = run()
    assert folder.startswith(str(tmp_path / "egs_jax" / "compiled" / "cpu-"))
    assert misses > 0 and hits == 0 and told == []
    assert run() == [first, misses, 0, [], folder]
    (path,) = (tmp_path / "egs_jax").glob("compiled/*/jit__lambda*-cache")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert run() == [first, misses - 1, 1, [], folder]
    assert run() == [first, misses, 0, [], folder]
