"""Made-up datasets in the form of AD-NeRF, and PyTorch files without PyTorch."""

import io
import json
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from unittest import mock

import imageio.v3 as imageio
import numpy as np

STORAGES = {"f4": "FloatStorage", "f8": "DoubleStorage", "i8": "LongStorage"}
CV = np.diag([1.0, -1.0, -1.0])


class _Storage:
    """What `persistent_id` writes of the numbers of a tensor."""

    def __init__(self, key: str, array: np.ndarray):
        self.key, self.array = key, np.ascontiguousarray(array).reshape(-1)


class _Tensor:
    """Pickled as PyTorch pickles a tensor."""

    def __init__(self, storage: _Storage, array: np.ndarray, rebuild):
        steps = [step // array.itemsize for step in np.empty(array.shape, array.dtype).strides]
        self._call = rebuild, (storage, 0, array.shape, tuple(steps), False, OrderedDict())

    def __reduce_ex__(self, protocol):
        return self._call


def torch_pickle(values: dict, protocol: int = 2, **instead) -> tuple[bytes, dict[str, np.ndarray]]:
    """The pickle that `torch.save` makes of a dict, and its numbers by key."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*args): ...

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2, torch._utils = _rebuild_tensor_v2, utils
    kinds = {name: type(name, (), {"__module__": "torch"}) for name in STORAGES.values()}
    for name, kind in kinds.items():
        setattr(torch, name, kind)
    numbers = {}

    def tensor(value):
        if not isinstance(value, np.ndarray):
            return value
        key = str(100 + len(numbers))
        numbers[key] = value
        return _Tensor(_Storage(key, value), value, _rebuild_tensor_v2)

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if isinstance(thing, _Storage):
                kind = kinds[STORAGES[thing.array.dtype.str[1:]]]
                return ("storage", kind, thing.key, "cuda:0", thing.array.size)
            return None

    stream = io.BytesIO()
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        told = {name: tensor(value) for name, value in values.items()} | instead
        Pickler(stream, protocol).dump(told)
    return stream.getvalue(), numbers


def torch_zip(path: Path, program: bytes, numbers: dict[str, np.ndarray]) -> Path:
    """A file of PyTorch 1.6 and later."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", program)
        for key, array in numbers.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def torch_legacy(path: Path, program: bytes, numbers: dict[str, np.ndarray]) -> Path:
    """A file of PyTorch before 1.6."""
    parts = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}]
    content = b"".join(pickle.dumps(part, 2) for part in parts)
    content += program + pickle.dumps(list(numbers), 2)
    for array in numbers.values():
        content += struct.pack("<q", array.size) + array.tobytes()
    path.write_bytes(content)
    return path


def rotations(euler: np.ndarray) -> np.ndarray:
    """The tracker's rotation: Rx Ry Rz, written out one by one."""
    found = []
    for a, b, g in euler:
        x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
        y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
        z = np.array([[np.cos(g), np.sin(g), 0], [-np.sin(g), np.cos(g), 0], [0, 0, 1]])
        found.append(x @ y @ z)
    return np.array(found)


def transform_matrix(turn: np.ndarray, shift: np.ndarray) -> list:
    """Camera to world as the family's json has it, of the tracker's rotation and translation."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn.T, -turn.T @ shift / 10
    return matrix.tolist()


def write_split(folder: Path, split: str, numbers, matrices=None, **told) -> None:
    """Write transforms_SPLIT.json; no matrices: the cameras are in track_params.pt only."""
    frames = [{"img_id": int(n), "aud_id": int(n)} for n in numbers]
    for frame, matrix in zip(frames, [] if matrices is None else matrices, strict=False):
        frame["transform_matrix"] = matrix
    told = {"focal_len": 1200.0, "cx": 8.0, "cy": 8.0} | told
    (folder / f"transforms_{split}.json").write_text(json.dumps(told | {"frames": frames}))


def small_folder(folder: Path, count: int = 10, first: int = 0, held_out: int = 3) -> Path:
    """A folder with the smallest pictures: enough for all that needs no face."""
    (folder / "ori_imgs").mkdir(parents=True)
    numbers = np.arange(first, first + count)
    for number in numbers:
        picture = np.full((16, 16, 3), number, np.uint8)
        imageio.imwrite(folder / "ori_imgs" / f"{number}.jpg", picture)
    matrix = [transform_matrix(np.eye(3), np.array([0.0, 0.0, -8.0]))] * count
    write_split(folder, "train", numbers[:-held_out], matrix)
    write_split(folder, "val", numbers[-held_out:], matrix)
    return folder
