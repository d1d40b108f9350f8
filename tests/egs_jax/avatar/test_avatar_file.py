"""An avatar in one file: the same pictures without its dataset, and files that are none."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest
from helpers import speech

from egs_jax.__main__ import main
from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.avatar_file import read_avatar
from egs_jax.avatar.draw import infer_step, load_drive
from egs_jax.avatar.export import export
from egs_jax.data.dataset import Dataset
from egs_jax.media.audio_file import write_wav
from egs_jax.runtime.consent import CONSENT
from egs_jax.runtime.errors import InputError


def spoken(path, seconds):
    write_wav(path, speech(seconds), 16_000)
    return path


@pytest.fixture(scope="module")
def avatar(trained_run):
    return Avatar.load(trained_run.folder, exact=False)


@pytest.fixture(scope="module")
def written(avatar, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "me.egs"
    export(avatar, path)
    return path


def test_a_file_speaks_as_its_run_does_without_the_dataset(avatar, written, tmp_path):
    sound = spoken(tmp_path / "speech.wav", 0.6)
    moved = written.rename(tmp_path / "elsewhere.egs")
    found = Avatar.load(moved)
    moved.rename(written)
    assert found.clip is None and not found.is_exact
    drives = [load_drive(sound, each).frames(0, 4) for each in (avatar, found)]
    want, got = (infer_step(each, d) for each, d in zip((avatar, found), drives, strict=True))
    np.testing.assert_array_equal(got.rgb, want.rgb)
    for poses in ("clip", "still"):
        own, theirs = (dataclasses.replace(a, poses=poses).path for a in (avatar, found))
        np.testing.assert_array_equal(own.viewmats, theirs.viewmats)
        np.testing.assert_array_equal(own.bodies, theirs.bodies)
    with zipfile.ZipFile(written) as archive:
        words = json.loads(archive.read("avatar.json"))
    assert words["consent"] == CONSENT and words["config"]["data_dir"] == ""
    assert words["made_by"]["command"] and words["clip"]["sha256"]


def test_export_and_render_by_command(trained_run, tmp_path, capsys):
    out, film = tmp_path / "me.egs", tmp_path / "talk.mp4"
    assert main(["export", str(trained_run.folder), str(out)]) == 0
    assert "speaks without its dataset" in capsys.readouterr().out
    sound = spoken(tmp_path / "speech.wav", 0.4)
    assert main(["render", str(out), str(sound), "--out", str(film)]) == 0
    assert film.stat().st_size > 1000


def test_what_a_file_cannot_do_is_said(avatar, written, painted):
    with pytest.raises(InputError, match="name the run folder to draw exactly"):
        Avatar.load(written, exact=True)
    found = Avatar.load(written)
    with pytest.raises(InputError, match="no clip to compare with; name it by --data-dir"):
        _ = found.dataset
    with pytest.raises(InputError, match="no networks of all Gaussians; name its run"):
        _ = found.prepared
    assert Avatar.load(written, painted).dataset.folder == painted
    with pytest.raises(InputError, match=r"end in \.egs"):
        export(avatar, written.with_suffix(".zip"))
    head = dataclasses.replace(avatar, clip=Dataset.open(painted, avatar.config.size, "head"))
    with pytest.raises(InputError, match="a head over its clip's own frames"):
        export(head, written.with_name("head.egs"))
    assert not written.with_name("head.egs").exists()


def test_another_clip_is_refused(written, painted, tmp_path):
    import shutil

    other = shutil.copytree(painted, tmp_path / "other")
    meta = json.loads((other / "meta.json").read_text())
    meta["source"]["sha256"] = "0" * 64
    (other / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match="was made from another film"):
        Avatar.load(written, other)


def _changed(written, path, words=None, arrays=()):
    """Write the file again with some of its description or arrays changed."""
    with zipfile.ZipFile(written) as old, zipfile.ZipFile(path, "w") as new:
        told = json.loads(old.read("avatar.json"))
        for name in old.namelist():
            if name == "avatar.json":
                new.writestr(name, json.dumps(words(told) if words else told))
            else:
                new.writestr(name, dict(arrays).get(name, old.read(name)))
    return path


def _entry(name, **more):
    def change(told):
        told["arrays"][name] |= more
        return told

    return change


def _without(name):
    def change(told):
        del told["arrays"][name]
        return told

    return change


def test_descriptions_that_make_no_sense(written, tmp_path):
    path = tmp_path / "bad.egs"
    cases = {
        "format 2, this version reads up to 1; update egs-jax": lambda t: t | {"version": 2},
        "an archive of another program": lambda t: t | {"format": "other"},
        "is damaged": lambda t: t | {"version": "new"},
        "tells of arrays that no avatar has": _entry("reader", shape=[2**20, 2**20]),
        "tells of arrays that no avatar has ": _entry("reader", dtype="|O8"),
        r"reader is damaged \(another hash\)": _entry("reader", sha256="0" * 64),
        "cloud/means is missing": _without("cloud/means"),
        r"cloud/means is damaged": _entry("cloud/means", shape=[2, 3]),
        "makes no sense": lambda t: t | {"scene": {}},
        "not a run's config": lambda t: t | {"config": {"model": {}, "wrong": 1}},
    }
    for told, words in cases.items():
        with pytest.raises(InputError, match=told.strip()) as error:
            read_avatar(_changed(written, path, words))
        assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_numbers_that_are_none_and_shapes_that_do_not_fit(written, tmp_path):
    import hashlib

    path = tmp_path / "bad.egs"
    with zipfile.ZipFile(written) as archive:
        entry = json.loads(archive.read("avatar.json"))["arrays"]["ranges"]
        ranges = np.frombuffer(archive.read("ranges"), "<f4").reshape(entry["shape"])

    def load(array):
        data = array.tobytes()
        sha = hashlib.sha256(data).hexdigest()
        words = _entry("ranges", sha256=sha, shape=list(array.shape))
        Avatar.load(_changed(written, path, words, {"ranges": data}))

    load(ranges.copy())
    with pytest.raises(InputError, match="ranges has numbers that are not finite"):
        load(np.float32(np.nan) * ranges)
    with pytest.raises(InputError, match="makes no sense"):
        load(ranges[:, :-1])


def test_files_that_are_no_avatar(written, tmp_path):
    path, whole = tmp_path / "bad.egs", written.read_bytes()
    cases = {
        "damaged or cut short": whole[: len(whole) // 2],
        "a point cloud": b"ply\nformat binary_little_endian 1.0\n",
        "no avatar": b"hello",
        "no avatar ": b"",
    }
    for told, data in cases.items():
        path.write_bytes(data)
        with pytest.raises(InputError, match=told.strip()):
            Avatar.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../etc/x", "y")
    with pytest.raises(InputError, match="an archive of another program"):
        Avatar.load(path)
    with pytest.raises(InputError, match="missing; name a run folder or an .egs file"):
        Avatar.load(tmp_path / "none.egs")
    for at in range(100, len(whole), len(whole) // 12):  # one byte of it
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            Avatar.load(path)
        except InputError:
            continue
