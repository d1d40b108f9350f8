"""What clients say: good words are understood, all others are one line of explanation."""

import json

import numpy as np
import pytest

from egs_jax.avatar.motion import record, steps_of
from egs_jax.avatar.poses import Viewpoint
from egs_jax.avatar.shared_drawing import MotionFrame
from egs_jax.runtime.errors import InputError
from egs_jax.serve import protocol
from egs_jax.serve.protocol import HEADER, Command, Framing, Hello


def text(**words):
    return json.dumps(words)


def test_a_hello_says_who_and_how():
    said = text(type="hello", avatar="me", rate=44_100, want="jpeg", more="ignored")
    assert protocol.hello(said) == Hello("me", 44_100, "jpeg")
    assert protocol.hello(text(type="hello")) == Hello(None, 16_000, "codes")


@pytest.mark.parametrize(
    "said",
    [
        "", "{", "3", "[]", "null", '"hello"', "[" * 100_000, "{}", text(type="hi"),
        text(type="hello", rate=10), text(type="hello", rate=1e9), text(type="hello", rate=True),
        text(type="hello", rate="16000"), text(type="hello", want="vp9"),
        text(type="hello", want=["codes"]), text(type="hello", avatar=7),
    ],
)  # fmt: skip
def test_no_hello(said):
    with pytest.raises(InputError, match=r"^[^\n]{10,120}$"):
        protocol.hello(said)


def test_commands():
    assert protocol.command(text(type="interrupt")) == Command("interrupt")
    assert protocol.command(text(type="finish")) == Command("finish")
    assert protocol.command(text(type="source", live=True)) == Command("source", live=True)
    assert protocol.command(text(type="look")) == Command("look", framing=Framing())
    said = text(type="look", zoom=2, x=0.25, y=1, background="#0a80ff")
    framing = Framing(2.0, 0.25, 1.0, (10, 128, 255))
    assert protocol.command(said) == Command("look", framing=framing)
    told = protocol.command(text(type="look", yaw=18, pitch=-9.0))
    assert told == Command("look", view=Viewpoint(np.pi / 10, -np.pi / 20))


@pytest.mark.parametrize(
    "said",
    [
        "no", text(type="hello"), text(type="source"), text(type="source", live=1),
        text(type="look", zoom=0.5), text(type="look", zoom=7), '{"type":"look","zoom":NaN}',
        text(type="look", yaw=361), text(type="look", pitch="up"), '{"type":"look","yaw":NaN}',
        text(type="look", zoom="2"), text(type="look", x=-1), text(type="look", y=True),
        text(type="look", background="red"), text(type="look", background="#12345"),
        text(type="look", background="#1 2 3 4"), text(type="look", background=[1, 2, 3]),
        text(type="look", background="/etc/passwd"),
    ],
)  # fmt: skip
def test_no_command(said):
    with pytest.raises(InputError, match=r"^[^\n]{10,120}$"):
        protocol.command(said)


def test_anything_else_is_told_to_be_wrong():
    rng = np.random.default_rng(0)
    good = text(type="look", zoom=2.0, background="#ffffff").encode()
    for _ in range(2000):
        data = bytearray(good)
        for place in rng.integers(0, len(data), rng.integers(1, 6)):
            data[place] = rng.integers(256)
        said = bytes(data[: rng.integers(len(data) + 1)]).decode("utf-8", "replace")
        for read in (protocol.hello, protocol.command):
            try:
                read(said)
            except InputError:
                pass


def test_sound_is_whole_samples():
    samples = np.array([0, 1, -1, 32767, -32768], np.int16)
    np.testing.assert_array_equal(protocol.sound(samples.astype("<i2").tobytes()), samples)
    assert protocol.sound(b"").shape == (0,)
    with pytest.raises(InputError, match="16-bit"):
        protocol.sound(b"abc")


def test_a_frame_of_codes_has_all_of_it():
    ranges = np.float32([[-1, 0, 2], [1, 4, 3]])
    codes, pose = np.float32([0.5, 1.0, 2.9]), np.eye(4, dtype=np.float32)
    pose[:3, 3] = [0.1, -0.2, 4.0]
    data = protocol.coded(ranges, MotionFrame(7, 0.28, codes, pose, pose, 0.5, True))
    assert HEADER.unpack_from(data) == (protocol.CODES, 1, 0.5, 7, 0.28)
    [found] = np.frombuffer(data[HEADER.size :], record(3))
    np.testing.assert_allclose(found["head"], [1, 0, 0, 0, 0.1, -0.2, 4.0])
    got = found["codes"][:3] * steps_of(ranges) + ranges.mean(axis=0)
    np.testing.assert_allclose(got, codes, atol=1e-4)


@pytest.mark.parametrize(("want", "kind"), [("jpeg", 2), ("h264", 3)])
def test_a_drawn_frame_ends_in_its_picture(want, kind):
    data = protocol.pictured(want, 3, 0.12, b"picture", speaking=False)
    assert HEADER.unpack_from(data) == (kind, 0, 0.0, 3, 0.12)
    assert data[HEADER.size :] == b"picture"
