"""Programs kept without tracing: found again by what they depend on, and by nothing else."""

import concurrent.futures
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT, compilations, largest_file

from egs_jax.runtime import programs
from egs_jax.runtime.programs import SUFFIX, Kept

X = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)


def _mix(power, parts, offset):
    return {"sum": jnp.tanh(parts["x"]) ** power + offset, "max": parts["x"].max()}


def result(largest, total):
    return {"max": largest, "sum": total}


def other_process(**settings):
    """The function as a process that has not called it yet has it."""
    return Kept(_mix, result, **settings)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "_kept", {})
    programs.keep_in(tmp_path)
    return tmp_path


def calls(kept, static=2, x=X):
    """What a call gives, and which functions of ours it traced."""
    with compilations() as made:
        found = jax.device_get(kept(static, {"x": x}, np.float32(1)))
    return found, [name for name in made if "flat" in name or "_mix" in name]


def test_what_was_traced_once_is_found_with_the_same_bits(folder, monkeypatch):
    first, traced = calls(other_process())
    assert traced and len(list(folder.glob(f"mix-*{SUFFIX}"))) == 1
    kept = other_process()
    again, traced = calls(kept)
    assert traced == [] and calls(kept)[1] == []
    monkeypatch.setattr(programs, "_kept", {})
    alone, _ = calls(other_process())
    for name in ("max", "sum"):
        np.testing.assert_array_equal(again[name], first[name])
        np.testing.assert_array_equal(alone[name], first[name])
    np.testing.assert_allclose(first["sum"], np.tanh(X) ** 2 + 1, rtol=1e-5)
    assert first["max"] == 1


def test_nothing_is_written_where_nothing_is_kept(folder, monkeypatch):
    monkeypatch.setattr(programs, "_kept", {})
    calls(other_process())
    assert not list(folder.iterdir())


@pytest.mark.parametrize("change", ["static", "shape", "type", "precision", "code"])
def test_all_that_tracing_depends_on_tells_programs_apart(folder, monkeypatch, change):
    monkeypatch.setattr(programs, "_code_digest", lambda: "one")
    calls(other_process())
    if change == "code":
        monkeypatch.setattr(programs, "_code_digest", lambda: "another")
    x = {"shape": X[:2], "type": X.astype(np.float16)}.get(change, X)
    with jax.default_matmul_precision("highest" if change == "precision" else None):
        _, traced = calls(other_process(), 3 if change == "static" else 2, x)
    assert traced and len(list(folder.glob(f"*{SUFFIX}"))) == 2


def test_the_digest_is_of_all_our_code(monkeypatch, tmp_path):
    digest = programs._code_digest.__wrapped__
    package = shutil.copytree(ROOT / "egs_jax", tmp_path / "egs_jax")
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels")
    want = digest()
    monkeypatch.setattr(programs, "__file__", str(package / "runtime" / "programs.py"))
    assert digest() == want
    for part in (package / "model" / "kan.py", tmp_path / "kernels" / "rasterize" / "api.py"):
        with part.open("a") as file:
            file.write("\n")
        assert digest() != want
        want = digest()


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:-1] + b"?",
                                    lambda data: b"", lambda data: data + b"more"])  # fmt: skip
def test_a_damaged_file_is_made_anew(folder, damage):
    want, _ = calls(other_process())
    (path,) = folder.glob(f"*{SUFFIX}")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    got, traced = calls(other_process())
    assert traced and len(path.read_bytes()) == len(whole)
    np.testing.assert_array_equal(got["sum"], want["sum"])
    assert calls(other_process())[1] == []


@pytest.mark.parametrize("gone", [True, False])
def test_a_program_that_cannot_be_kept_is_used_and_said(folder, caplog, monkeypatch, gone):
    programs.keep_in(folder / "gone" if gone else folder)
    with largest_file(100):
        got, _ = calls(other_process())
    np.testing.assert_allclose(got["sum"], np.tanh(X) ** 2 + 1, rtol=1e-5)
    assert "not kept, the next start is slower" in caplog.text and caplog.text.count("\n") == 1
    assert not list(folder.iterdir())


def _asks_python(static, x):
    return jax.pure_callback(lambda x: np.asarray(x) + static, x, x)


def test_a_program_that_cannot_be_exported_is_used_and_said(folder, caplog):
    kept = Kept(_asks_python, lambda x: x)
    for _ in range(2):
        np.testing.assert_array_equal(kept(2, X), X + 2)
    assert "not kept, every start is slower" in caplog.text and caplog.text.count("\n") == 1
    assert not list(folder.iterdir())


def _wrong(static, x):
    raise ValueError("of the caller")


def test_a_fault_of_the_function_is_told_as_it_is():
    with pytest.raises(ValueError, match="of the caller"):
        Kept(_wrong, lambda x: x)(2, X)


def test_several_threads_trace_once():
    kept = other_process()
    with compilations() as made, concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: kept(2, {"x": X}, np.float32(1)), range(8)))
    assert len([name for name in made if "_mix" in name or "flat" in name]) == 1


def test_the_donated_argument_makes_room(folder):
    def moved(static, x, y):
        return x + static * y, y - static

    for _ in range(2):  # traced, then read
        kept = Kept(moved, lambda *both: both, donated=2)
        x, y = jax.device_put((X, X + 1))
        found, _ = kept(2, x, y)
        np.testing.assert_allclose(found, X + 2 * (X + 1))
        assert y.is_deleted() and not x.is_deleted()
