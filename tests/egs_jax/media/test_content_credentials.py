"""Films that are signed as synthetic, where that is asked for and can be done; else one line."""

import json
import subprocess
import sys

import numpy as np
import pytest

from egs_jax.avatar.label import DIGITAL_SOURCE, manifest
from egs_jax.media.content_credentials import CERTIFICATE, KEY, Credentials, credentials, sign
from egs_jax.media.film_format import film_format
from egs_jax.media.video_reader import read_frames
from egs_jax.media.video_writer import VideoWriter
from egs_jax.runtime.errors import InputError

_LEAF = """basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=critical,emailProtection
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
"""
_MADE = """
openssl ecparam -name prime256v1 -genkey -noout -out ca.key
openssl req -x509 -new -key ca.key -subj /O=Test/CN=Root -days 2 -out ca.pem -addext keyUsage=critical,keyCertSign
openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out leaf.key
openssl req -new -key leaf.key -subj /O=Test/CN=Signer -out leaf.csr
openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile leaf.cnf -out leaf.pem
"""  # noqa: E501


def test_nobody_asks_and_half_a_question(monkeypatch):
    for name in (CERTIFICATE, KEY):
        monkeypatch.delenv(name, raising=False)
    assert credentials({}) is None
    monkeypatch.setenv(KEY, "x")
    with pytest.raises(InputError, match=f"{CERTIFICATE}: is not set"):
        credentials({})


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    monkeypatch.setenv(CERTIFICATE, "x")
    monkeypatch.setenv(KEY, "x")
    with pytest.raises(InputError, match="c2pa-python is not installed"):
        credentials({})


def test_a_film_that_cannot_be_signed_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    made = film_format(".mp4", 16, 16)
    with pytest.raises(OSError, match="cannot sign the film"):
        with VideoWriter(tmp_path / "v.mp4", 16, 16, form=made,
                         signed_with=Credentials("x", "x", "{}")) as film:  # fmt: skip
            film.write_frame(np.zeros((16, 16, 3), np.uint8))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # it needs c2pa-python (the extra `c2pa`) and openssl
def test_a_signed_film_says_that_it_is_synthetic(monkeypatch, tmp_path):
    c2pa = pytest.importorskip("c2pa", reason="pip install c2pa-python")
    (tmp_path / "leaf.cnf").write_text(_LEAF)
    subprocess.run(["sh", "-ec", _MADE], cwd=tmp_path, check=True, capture_output=True)
    chain = (tmp_path / "leaf.pem").read_text() + (tmp_path / "ca.pem").read_text()
    monkeypatch.setenv(CERTIFICATE, chain)
    monkeypatch.setenv(KEY, (tmp_path / "leaf.key").read_text())
    found = credentials(manifest("v.mp4"))
    for suffix in (".mp4", ".mov"):
        path, form = tmp_path / f"v{suffix}", film_format(suffix, 16, 16)
        with VideoWriter(path, 16, 16, form=form, signed_with=found) as film:
            film.write_frame(np.zeros((16, 16, 3), np.uint8))
        told = json.loads(c2pa.Reader(str(path)).json())
        assert DIGITAL_SOURCE in json.dumps(told)
        faults = {fault["code"] for fault in told.get("validation_status", [])}
        assert faults <= {"signingCredential.untrusted"}  # our own root
        assert len(list(read_frames(path))) == 1
    monkeypatch.setenv(KEY, chain)
    with pytest.raises(InputError, match="cannot sign with these"):
        credentials({})
    with pytest.raises(OSError, match="cannot sign the film"):
        sign(path, "mov", Credentials(chain, chain, "{}"))
