"""The page that talks, as far as no browser is needed: its parts, its size, what it may run."""

import base64
import hashlib
import html
import io
import json
import re
import zipfile
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers import speech

from egs_jax.__main__ import main
from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.avatar_file import read_avatar
from egs_jax.avatar.draw import load_drive, motion_codes
from egs_jax.avatar.export import export
from egs_jax.avatar.motion import record, steps_of
from egs_jax.avatar.page import NOTICE, as_text, linked, page
from egs_jax.media.audio_file import read_audio, write_wav
from egs_jax.runtime.errors import InputError


class Parts(HTMLParser):
    """Texts and attributes of elements, as a browser takes them."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.attributes, self.inside = {}, {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        named = tag if tag in ("script", "style", "h1", "title") else given.get("name")
        self.inside = given.get("id") or named
        self.attributes[self.inside] = given

    def handle_data(self, data):
        if self.inside:
            self.texts[self.inside] = self.texts.get(self.inside, "") + data

    def handle_endtag(self, tag):
        self.inside = None


def bytes_of(text):
    """Undo `as_text`, as web/text.js does."""
    stands_for = {0xA1: 0x00, 0xA2: 0x0D, 0xA3: ord("<")}
    values = np.array([stands_for.get(ord(c), ord(c)) for c in text], np.uint8)
    bits = np.unpackbits(values[:, None], axis=1)[:, 1:].ravel()
    return np.packbits(bits[: len(bits) // 8 * 8]).tobytes()


@pytest.fixture(scope="module")
def written(trained_run, tmp_path_factory):
    """A page, its avatar and its speech."""
    home = tmp_path_factory.mktemp("page")
    export(Avatar.load(trained_run.folder, exact=False), home / "me.egs")
    write_wav(home / "<b>hello.wav", speech(1.3), 16_000)
    command = ["render", str(home / "me.egs"), str(home / "<b>hello.wav")]
    assert main([*command, "--out", str(home / "talk.html")]) == 0
    return home


@pytest.fixture(scope="module")
def parts(written):
    return Parts((written / "talk.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("size", [0, 1, 6, 7, 8, 4096, 7 * 2**17 + 5])
def test_bytes_come_back_from_text(size):
    data = np.random.default_rng(size).integers(0, 256, size).astype(np.uint8).tobytes()
    text = as_text(data)
    assert bytes_of(text)[:size] == data and len(bytes_of(text)) <= size + 1
    assert not set(text) & set("\0\r<")


def test_text_is_a_sixth_longer_than_bytes():
    data = np.random.default_rng(0).integers(0, 256, 100_000).astype(np.uint8).tobytes()
    assert len(as_text(data).encode()) < 1.175 * len(data)


def test_a_page_has_all_frames_codes_and_poses(written, parts):
    avatar = Avatar.load(written / "me.egs")
    drive = load_drive(written / "<b>hello.wav", avatar)
    whole, ranges = drive.frames(0, drive.num_frames), np.asarray(avatar.baked.ranges)
    codes = np.asarray(motion_codes(avatar, whole))
    found = np.frombuffer(bytes_of(parts.texts["motion"]), record(codes.shape[1]))
    assert len(found) == drive.num_frames == 33
    assert parts.attributes["motion"]["data-fps"] == "25"
    back = ranges.mean(axis=0) + found["codes"][:, : codes.shape[1]] * steps_of(ranges)
    np.testing.assert_allclose(back, codes, atol=1e-3 * np.ptp(ranges, axis=0).max())
    np.testing.assert_allclose(found["head"][:, 4:], whole.viewmats[:, :3, 3], atol=1e-6)
    np.testing.assert_allclose(found["body"][:, 4:], whole.bodies[:, :3, 3], atol=1e-6)


def test_a_page_has_what_draws_and_nothing_that_speaks(written, parts):
    shown = zipfile.ZipFile(io.BytesIO(zlib.decompress(bytes_of(parts.texts["avatar"]))))
    whole = zipfile.ZipFile(written / "me.egs")
    words, all_words = (json.loads(z.read("avatar.json")) for z in (shown, whole))
    names = set(shown.namelist()) - {"avatar.json"}
    assert names == set(words["arrays"])
    colors, whole_colors = (np.frombuffer(z.read("cloud/sh"), "<f2") for z in (shown, whole))
    assert 0 < np.count_nonzero(colors != whole_colors) < len(colors)
    np.testing.assert_allclose(colors, whole_colors, rtol=2**-6, atol=1e-7)
    for name in names - {"cloud/sh"}:
        assert shown.read(name) == whole.read(name)
        assert words["arrays"][name] == all_words["arrays"][name]
    assert not [n for n in names if n.split("/")[0] in ("networks", "sample", "reader")]
    assert {"form/counts", "shine/steps", "follows", "skins", "ranges", "scene/plate"} <= names
    assert "command" not in json.dumps(words) and "sha256" not in words.get("clip", {})


def test_a_part_of_a_file_does_not_speak(parts, tmp_path):
    (tmp_path / "part.egs").write_bytes(zlib.decompress(bytes_of(parts.texts["avatar"])))
    with pytest.raises(InputError, match="makes no sense"):
        read_avatar(tmp_path / "part.egs")


def test_a_page_has_the_sound(written, parts):
    path = written / "sound.m4a"
    path.write_bytes(bytes_of(parts.texts["speech"]))
    assert abs(len(read_audio(path)) / 16_000 - 1.3) < 0.05
    assert parts.attributes["speech"]["data-type"] == "audio/mp4"


def test_a_page_runs_its_own_script_and_loads_nothing(written, parts):
    text = (written / "talk.html").read_text(encoding="utf-8")
    policy = html.unescape(re.search(r'Policy" content="([^"]*)"', text)[1])
    assert policy.startswith("default-src 'none'; ")
    for kind in ("script", "style"):
        digest = hashlib.sha256(parts.texts[kind].encode()).digest()
        assert f"{kind}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert "unsafe" not in policy and "http" not in policy
    assert not re.search(r'(?:src|href)\s*=\s*"', text)
    assert not re.search(r"^(import|export)\b", parts.texts["script"], re.MULTILINE)


def test_a_page_says_that_it_is_synthetic_and_its_name_is_text(parts):
    assert parts.texts["h1"] == parts.texts["title"] == "<b>hello"
    assert parts.attributes["description"]["content"] == NOTICE and "synthetic" in NOTICE


def test_a_page_is_little_more_than_what_is_in_it(written):
    avatar = Avatar.load(written / "me.egs")
    empty = len(page("", avatar, b"", b"", b"").encode())
    assert empty < 80_000
    sound, motion = 480_000, 1500 * record(32).itemsize
    noise = np.random.default_rng(0).integers(0, 256, 10_900_000).astype(np.uint8).tobytes()
    # As many bytes as 25,000 Gaussians of the clip whose patterns are the least regular of three.
    longest = len(page("", avatar, noise, noise[:motion], noise[:sound]).encode())
    assert longest < 15e6


def test_linked_modules_come_after_what_they_need():
    script = linked("talk")
    order = re.findall(r"^const \$(\w+) = \(\(\) => \{$", script, re.MULTILINE)
    assert order[-1] == "talk" and len(order) == len(set(order))
    for place, name in enumerate(order):
        after = script.partition(f"const ${name} = ")[2].partition("\nconst $")[0]
        needed = set(re.findall(r"^const \{[^}]*\} = \$(\w+);$", after, re.MULTILINE))
        assert needed <= set(order[:place]), name


def test_a_page_of_what_cannot_be_one_is_refused(written, trained_run, capsys):
    out = written / "no.html"
    command = ["render", str(trained_run.folder), str(written / "<b>hello.wav"), "--exact"]
    assert main([*command, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "leave out --exact" in error and not out.exists()
    nowhere = written / "nowhere" / "talk.html"
    command = ["render", str(written / "me.egs"), str(written / "<b>hello.wav")]
    assert main([*command, "--out", str(nowhere)]) == 2
    assert "choose a folder that exists" in capsys.readouterr().err
