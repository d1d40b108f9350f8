"""An avatar in one file: the same pictures without its dataset, and files that are none."""

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import speech

from egs_jax.__main__ import main
from egs_jax.avatar.avatar import KEPT, Avatar
from egs_jax.avatar.avatar_file import read_avatar
from egs_jax.avatar.draw import infer_step, load_drive
from egs_jax.avatar.export import export, keep
from egs_jax.avatar.look import Look
from egs_jax.avatar.point_cloud import properties
from egs_jax.avatar.precomputed import pose
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
        own, theirs = (dataclasses.replace(a, look=Look(poses=poses)).path for a in (avatar, found))
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


def test_a_run_keeps_its_own_file(trained_run, written, tmp_path, capsys):
    """As long as it is of the last step and the same settings; the networks stay with the run."""
    run = shutil.copytree(trained_run.folder, tmp_path / "run")
    assert not Avatar.load(run).is_exact  # baked once it is asked for
    keep(run)
    assert "speaks without its dataset" in capsys.readouterr().out
    assert (run / KEPT).read_bytes()[:2] == b"PK"
    found = Avatar.load(run)
    assert found.file == run / KEPT and found.clip is None
    assert found.dataset.folder == Path(found.config.data_dir)
    assert Avatar.load(run, exact=True).is_exact
    made = (run / KEPT).stat().st_mtime_ns
    keep(run)
    export(found, tmp_path / "copy.egs")
    assert (run / KEPT).stat().st_mtime_ns == made
    assert (tmp_path / "copy.egs").read_bytes() == (run / KEPT).read_bytes()
    _changed(written, run / KEPT, lambda told: told | {"step": told["step"] - 1})
    assert Avatar.load(run).file is None  # it was trained on since
    _changed(written, run / KEPT, lambda told: told | {"version": told["version"] - 1})
    assert Avatar.load(run).file is None  # of an older format: it is baked anew


def test_gaussians_of_a_moment_are_a_cloud_that_viewers_open(written, tmp_path, capsys):
    cloud, speech_file = tmp_path / "me.ply", spoken(tmp_path / "speech.wav", 0.5)
    assert main(["export", str(written), str(cloud)]) == 0
    header, data = cloud.read_bytes().split(b"end_header\n", 1)
    lines = header.decode().splitlines()
    names = [line.split()[-1] for line in lines if line.startswith("property float")]
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    harmonics = sum(name.startswith("f_rest_") for name in names)
    assert names[:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    assert names[9 + harmonics :] == [
        "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
    ]  # fmt: skip
    avatar = Avatar.load(written)
    points = np.frombuffer(data, "<f4").reshape(avatar.num_gaussians, len(names))
    np.testing.assert_allclose(np.linalg.norm(points[:, -4:], axis=1), 1, atol=1e-5)
    spoken_at = ["--audio", str(speech_file), "--at"]
    assert main(["export", str(written), str(cloud), *spoken_at, "0.3"]) == 0
    drive = load_drive(speech_file, avatar).frames(7, 8)
    moved = pose(avatar.config, avatar.kept, jax.device_put(drive))[0]
    want = properties(jax.tree.map(lambda v: np.asarray(v)[0][: len(points)], moved))
    got = np.frombuffer(cloud.read_bytes().split(b"end_header\n", 1)[1], "<f4")
    got = got.reshape(points.shape)
    np.testing.assert_allclose(got, want.view("<f4").reshape(got.shape), atol=1e-4)
    assert np.abs(got - points).max() > 1e-4
    capsys.readouterr()
    for arguments, told in (
        ([str(cloud), *spoken_at, "0.6"], "ends at 0.52 s"),
        ([str(cloud), "--at", "0.1"], "named by both --audio FILE and --at SECONDS"),
        ([str(tmp_path / "me.obj")], "name the file to write, say me.egs or me.ply"),
    ):
        assert main(["export", str(written), *arguments]) == 2
        assert told in capsys.readouterr().err


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
        "format 4, this version reads 3; update egs-jax": lambda t: t | {"version": 4},
        "reads 3; export it again from its run": lambda t: t | {"version": 2},
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
