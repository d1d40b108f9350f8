"""Files of PyTorch: their tensors are read, and nothing that they say is done."""

import os
import pickle
import zipfile
from collections import OrderedDict
from fractions import Fraction

import numpy as np
import pytest
from adnerf_dataset import torch_legacy, torch_pickle, torch_zip

from egs_jax.adnerf.restricted_tensors import read_tensors
from egs_jax.runtime.errors import InputError

VALUES = {
    "euler": np.arange(6, dtype=np.float32).reshape(2, 3),
    "trans": np.arange(6, dtype=np.float64).reshape(3, 2) / 7,
    "ids": np.array([3, 2**40]),
    "focal": 1200.0,
    "none": None,
}


@pytest.mark.parametrize("write", [torch_zip, torch_legacy])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tensors_and_numbers_come_back(tmp_path, write, protocol):
    path = write(tmp_path / "params.pt", *torch_pickle(VALUES, protocol))
    found = read_tensors(path, ("euler", "trans", "ids", "focal", "absent"))
    assert set(found) == {"euler", "trans", "ids", "focal"}
    for name, array in found.items():
        assert array.dtype == np.asarray(VALUES[name]).dtype
        np.testing.assert_array_equal(array, VALUES[name])


def test_views_are_followed_and_only_what_is_asked_for_is_read(tmp_path):
    program, numbers = torch_pickle({"a": VALUES["euler"], "huge": np.zeros(9, np.float32)})
    # K2 K3 -> K3 K2 as shape, K3 K1 -> K1 K3 as strides: the transposed view of the same numbers.
    turned = program.replace(b"K\x02K\x03\x86", b"K\x03K\x02\x86", 1)
    turned = turned.replace(b"K\x03K\x01\x86", b"K\x01K\x03\x86", 1)
    assert turned != program
    del numbers["101"]  # another's numbers may be missing: they are not touched
    path = torch_zip(tmp_path / "params.pt", turned, numbers)
    np.testing.assert_array_equal(read_tensors(path, ["a"])["a"], VALUES["euler"].T)
    with pytest.raises(InputError, match="not a readable file of tensors"):
        read_tensors(path, ["huge"])


class Hostile:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


class WithState:
    def __init__(self):
        self.a = 1


HOSTILE = {
    "a command": (Hostile(os.system, ("touch {}",)), "system"),
    "a built-in": (Hostile(eval, ("1",)), "eval"),
    "an object": (WithState(), "WithState|copyreg"),
    "another class": (Fraction(1, 2), "Fraction"),
    "an attribute": (Hostile(getattr, (OrderedDict, "fromkeys")), "getattr"),
    "a call of a tensor's part": (Hostile(OrderedDict, ([], [])), "makes no tensor"),
}


@pytest.mark.parametrize("write", [torch_zip, torch_legacy])
@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_else_is_ever_done(tmp_path, write, name):
    thing, what = HOSTILE[name]
    mark = tmp_path / "mark"
    if name == "a command":
        thing = Hostile(os.system, (f"touch {mark}",))
    path = write(tmp_path / "params.pt", *torch_pickle(VALUES, worse=thing))
    with pytest.raises(InputError, match=what) as caught:
        read_tensors(path, ["euler"])
    assert "do not use it" in str(caught.value) and str(path) in str(caught.value)
    assert not mark.exists()


def _edited(path, change):
    path.write_bytes(change(path.read_bytes()))
    return path


DAMAGE = {
    "empty": lambda b: b"",
    "text": lambda b: b"hello\n" * 100,
    "cut": lambda b: b[:-30],
    "cut early": lambda b: b[:60],
    "other pickle": lambda b: pickle.dumps([1, 2]),
}


@pytest.mark.parametrize("write", [torch_zip, torch_legacy])
@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_line(tmp_path, write, name):
    path = write(tmp_path / "params.pt", *torch_pickle(VALUES))
    with pytest.raises(InputError, match="not a readable file of tensors|do not use it"):
        read_tensors(_edited(path, DAMAGE[name]), ["euler", "trans", "ids"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"K\x02K\x03\x86", b"K\x09K\x03\x86"),  # 9 rows where there are 2
        (b"K\x03K\x01\x86", b"K\x09K\x01\x86"),  # strides that leave the numbers
        (b"K\x06tq", b"K\x07tq"),  # more numbers promised than there are
    ],
)
def test_views_stay_inside_their_numbers(tmp_path, old, new):
    program, numbers = torch_pickle({"euler": VALUES["euler"]})
    assert old in program
    path = torch_zip(tmp_path / "params.pt", program.replace(old, new, 1), numbers)
    with pytest.raises(InputError, match="not a readable file of tensors"):
        read_tensors(path, ["euler"])


def test_packed_numbers_and_endless_descriptions_are_refused(tmp_path):
    program, numbers = torch_pickle({"euler": np.zeros(100_000, np.float32)})
    path = tmp_path / "params.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", program)
        archive.writestr("a/data/100", numbers["100"].tobytes())
    with pytest.raises(InputError, match="packed"):
        read_tensors(path, ["euler"])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", program + b"." * 20_000_000)
    with pytest.raises(InputError, match="far too long"):
        read_tensors(path, ["euler"])


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_tensors(tmp_path / "params.pt", ["euler"])
