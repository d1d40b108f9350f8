"""What a researcher's page gets: a speech, and what its parts move."""

import dataclasses
import gzip
import json

import numpy as np
import pytest
from helpers import voice
from scipy.spatial.transform import Rotation

from egs_jax.__main__ import _parser
from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.motion import record
from egs_jax.media.audio_file import write_wav
from egs_jax.runtime.errors import InputError
from egs_jax.serve.view import motions, speech_files


@pytest.fixture(scope="module")
def avatar(trained_run):
    return Avatar.load(trained_run.folder, exact=False)


def codes_of(avatar, data):
    return np.frombuffer(data, record(avatar.baked.ranges.shape[1]))["codes"].astype(int)


def test_motions_differ_by_what_is_left_out(avatar):
    found = {kind: codes_of(avatar, data) for kind, data in motions(avatar, [voice(4.4)]).items()}
    assert {len(codes) for codes in found.values()} == {110}
    blinks = np.abs(found["all"] - found["open"]).max(axis=1)
    sound = np.abs(found["all"] - found["silent"]).max(axis=1)
    assert 5 <= (blinks > 0).sum() <= 16  # one or two blinks of seven frames
    assert (sound > 0).mean() > 0.8
    assert (found["all"] == found["still"]).all()  # the painted clip has one pose
    turned = avatar.scene.still_viewmat.copy()
    turned[:3, :3] = Rotation.from_euler("y", 0.2).as_matrix() @ turned[:3, :3]
    made = dataclasses.replace(avatar)
    made.__dict__["scene"] = dataclasses.replace(avatar.scene, still_viewmat=turned)
    made.__dict__["baked"] = avatar.baked.replace(sample=avatar.baked.sample.replace(limits=None))
    first, second = (motions(made, [voice(0.2)])[kind] for kind in ("all", "still"))
    assert (codes_of(avatar, first) != codes_of(avatar, second)).any()
    poses = [np.frombuffer(each, record(avatar.baked.ranges.shape[1])) for each in (first, second)]
    np.testing.assert_array_equal(*(each["head"] for each in poses))


def test_a_speech_as_files(avatar, tmp_path):
    path = tmp_path / "speech.wav"
    write_wav(path, voice(1.0), 16_000)
    files = speech_files(avatar, "me", path, None)
    words = json.loads(files["speech.json"].data)
    assert words["name"] == "me" and {words["sound"], "avatar.egs", "all.bin"} <= files.keys()
    assert words["tokens"] == [] and not files["shares.bin"].data
    with pytest.raises(InputError, match="no such file"):
        speech_files(avatar, "me", tmp_path / "nothing.wav", None)


def test_networks_tell_who_listens_to_what(avatar, trained_run, tmp_path):
    path = tmp_path / "speech.wav"
    write_wav(path, voice(0.4), 16_000)
    networks = Avatar.load(trained_run.folder, exact=True)
    files = speech_files(avatar, "me", path, networks)
    tokens = json.loads(files["speech.json"].data)["tokens"]
    assert tokens == ["sound", "eyes", "pose", "null", "lips"]
    data = files["shares.bin"]
    shares = np.frombuffer(gzip.decompress(data.data) if data.is_packed else data.data, np.float32)
    shares = shares.reshape(len(tokens), -1)
    assert shares.shape[1] == np.sum(avatar.baked.alive)
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=1e-5)


def test_command_lines():
    parse = lambda *words: _parser(list(words)).parse_args(words)
    told = parse("serve", "a", "b.egs", "--port", "0", "--sessions", "3", "--poses", "still")
    assert [str(path) for path in told.avatars] == ["a", "b.egs"]
    assert (told.host, told.port, told.sessions, told.poses) == ("127.0.0.1", 0, 3, "still")
    assert str(parse("serve", "a", "--data-dir", "d").data_dir) == "d"
    told = parse("view", "a", "--audio", "b.wav", "--host", "0.0.0.0")
    assert (str(told.run_dir), str(told.audio), told.host) == ("a", "b.wav", "0.0.0.0")
    for wrong in (["serve"], ["serve", "a", "--sessions", "0"], ["view", "a", "b"]):
        with pytest.raises(InputError):
            parse(*wrong)
