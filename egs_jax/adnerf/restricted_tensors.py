"""Tensors out of a PyTorch file, without PyTorch and without running what the file says.

Such a file is a pickle beside raw numbers, and a pickle is a program that may call anything. Here
it is read instruction by instruction, and the reader knows only those that build dicts, lists,
tuples, strings, numbers and dense tensors. Nothing is ever imported or called: a name is a word
that is compared with a short list. Every other instruction and every other name is refused.

Both forms are read: the zip of PyTorch 1.6 and later (`NAME/data.pkl` beside `NAME/data/KEY`) and
the row of pickles before it. Only the tensors asked for are read from the disk.
"""

import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from egs_jax.runtime.errors import MAY_NOT_READ, InputError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LARGEST_PROGRAM = 10_000_000  # bytes; that of a few tensors has some hundreds
_MOST_ELEMENTS = 1 << 31
_DTYPES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "LongStorage": "i8",
    "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "?",
}  # fmt: skip
_REBUILD, _PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
_ORDERED = "collections.OrderedDict"
_NAMES = {_REBUILD, _PARAMETER, _ORDERED, *(f"torch.{storage}" for storage in _DTYPES)}
_PUSHED = {  # instructions that push what stands behind them
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "NONE": lambda: None,
    "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
}  # fmt: skip
_DAMAGE = (
    ValueError, TypeError, IndexError, KeyError, AttributeError, EOFError, OverflowError,
    NotImplementedError, RuntimeError, MemoryError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
"""What reading a broken file may raise."""


class _Name(NamedTuple):
    """A name that the program says."""

    text: str


class _Storage(NamedTuple):
    """Where the numbers of tensors are."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage; offset and strides in numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_tensors(path: str | Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Read tensors and plain numbers by name from the dict that a PyTorch file holds.

    Args:
      path: What `torch.save` wrote of a dict with strings as keys.
      names: The keys wanted; those that the file has not are left out.

    Returns:
      Arrays by name, in the native byte order; numbers as arrays without axes.

    Raises:
      InputError: if the file is missing, damaged, no such dict, or asks for anything but dense
        tensors and plain values.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\3\4"
            file.seek(0)
            return _read_zip(file, set(names)) if is_zip else _read_legacy(file, set(names))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except PermissionError:
        raise InputError(f"{path}: {MAY_NOT_READ}") from None
    except _Refused as why:
        raise InputError(f"{path}: {why}; do not use it") from None
    except (*_DAMAGE, OSError) as why:
        reason = str(why) or type(why).__name__
        raise InputError(f"{path}: not a readable file of tensors ({reason}); copy it again") from (
            why
        )


class _Refused(Exception):
    """The file asks for something that no file of tensors needs."""


def _read_zip(file: IO[bytes], names: set[str]) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        programs = [name for name in entries if name.split("/")[1:] == ["data.pkl"]]
        if len(programs) != 1:
            raise ValueError("no data.pkl in the zip")
        folder = programs[0].removesuffix("data.pkl")
        if entries[programs[0]].file_size > _LARGEST_PROGRAM:
            raise _Refused("its description is far too long for tensors")
        with archive.open(programs[0]) as program:
            told = _run(program)
        order: Literal["<", ">"] = "<"
        if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") == b"big":
            order = ">"

        def load(storage: _Storage) -> np.ndarray:
            entry = entries[f"{folder}data/{storage.key}"]
            dtype = np.dtype(storage.dtype).newbyteorder(order)
            if entry.file_size != storage.count * dtype.itemsize:
                raise ValueError(f"{entry.filename} has not the size that is promised")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise _Refused("its numbers are packed, which PyTorch never does")
            return np.frombuffer(archive.read(entry), dtype)

        return _chosen(told, names, load)


def _read_legacy(file: IO[bytes], names: set[str]) -> dict[str, np.ndarray]:
    if _run(file) != _LEGACY_MAGIC:
        raise ValueError("not written by torch.save")
    _protocol, system = _run(file), _run(file)
    order = "<" if not isinstance(system, dict) or system.get("little_endian", True) else ">"
    told = _run(file)
    places, dtypes = {}, {s.key: s.dtype for s in _storages(told)}
    for key in _run(file):
        count = int.from_bytes(file.read(8), "little" if order == "<" else "big")
        dtype = np.dtype(dtypes[key]).newbyteorder(order)
        places[key] = (file.tell(), count, dtype)
        file.seek(count * dtype.itemsize, 1)

    def load(storage: _Storage) -> np.ndarray:
        start, count, dtype = places[storage.key]
        file.seek(start)
        content = file.read(min(count, _MOST_ELEMENTS) * dtype.itemsize)
        if storage.count != count or len(content) != count * dtype.itemsize:
            raise ValueError("it is cut short")
        return np.frombuffer(content, dtype)

    return _chosen(told, names, load)


def _storages(told: Any) -> list[_Storage]:
    """Return the storages of all tensors of the file's dict."""
    values = told.values() if isinstance(told, dict) else ()
    return [value.storage for value in values if isinstance(value, _Tensor)]


def _chosen(
    told: Any, names: set[str], load: Callable[[_Storage], np.ndarray]
) -> dict[str, np.ndarray]:
    """Bring the tensors and numbers with these names into memory."""
    if not isinstance(told, dict):
        raise ValueError("holds no dict of tensors")
    found = {}
    for name, value in told.items():
        if name not in names:
            continue
        if isinstance(value, _Tensor):
            found[name] = _array(value, load)
        elif isinstance(value, bool | int | float):
            found[name] = np.asarray(value)
        else:
            raise ValueError(f"{name} is no tensor")
    return found


def _array(tensor: _Tensor, load: Callable[[_Storage], np.ndarray]) -> np.ndarray:
    """Read a tensor; a view that would leave its storage raises `ValueError`."""
    numbers = (tensor.offset, *tensor.shape, *tensor.strides)
    if len(tensor.shape) != len(tensor.strides) or not all(
        isinstance(number, int) and 0 <= number < _MOST_ELEMENTS for number in numbers
    ):
        raise ValueError("a tensor with an impossible shape")
    flat = load(tensor.storage)
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, flat.dtype.newbyteorder("="))
    reach = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    size = int(np.prod([float(n) for n in tensor.shape]))
    if tensor.offset + reach >= len(flat) or size > len(flat):
        raise ValueError("a tensor larger than its numbers")
    steps = [step * flat.itemsize for step in tensor.strides]
    view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, steps)
    return view.astype(flat.dtype.newbyteorder("="))  # a copy


def _run(program: IO[bytes]) -> Any:
    """Read one pickle of plain values and tensors, up to its end."""
    machine = _Machine()
    for instruction, argument, _ in pickletools.genops(program):
        if instruction.name == "STOP":
            (value,) = machine.stack
            return value
        machine.step(instruction.name, argument)
    raise ValueError("it is cut short")


class _Machine:
    """The few instructions of a pickle that plain values and tensors are made of."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._marks: list[int] = []

    def step(self, name: str, argument: Any) -> None:
        """Do one instruction.

        Raises:
          _Refused: if plain values and tensors do not need it.
        """
        stack = self.stack
        if name in _PUSHED:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            items = self._since_mark() if name == "TUPLE" else self._pop(int(name[-1]))
            stack.append(tuple(items))
        elif name in ("SETITEM", "SETITEMS"):
            items = self._pop(2) if name == "SETITEM" else self._since_mark()
            _dict(stack[-1]).update(zip(items[::2], items[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            items = self._pop(1) if name == "APPEND" else self._since_mark()
            _list(stack[-1]).extend(items)
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            parts = argument.split(" ") if name == "GLOBAL" else self._pop(2)
            stack.append(_named(".".join(map(str, parts))))
        elif name == "REDUCE":
            function, arguments = self._pop(2)
            stack.append(_made(function, arguments))
        elif name == "BINPERSID":
            stack.append(_stored(*self._pop(1)))
        elif name not in ("PROTO", "FRAME"):
            raise _Refused(f"it has the pickle instruction {name}, which no tensor needs")

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) - (self._marks[-1] if self._marks else 0) < count:
            raise ValueError("its instructions do not fit together")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items


def _dict(value: Any) -> dict:
    if not isinstance(value, dict):
        raise ValueError("sets an item of what is no dict")
    return value


def _list(value: Any) -> list:
    if not isinstance(value, list):
        raise ValueError("appends to what is no list")
    return value


def _named(name: str) -> _Name:
    if name not in _NAMES:
        raise _Refused(f"it asks for {name}, which is no part of a tensor")
    return _Name(name)


def _stored(told: Any) -> _Storage:
    """Return the storage that ("storage", type, key, device, count, ...) tells of."""
    kind, storage, key, _device, count = told[:5]
    dtype = _DTYPES.get(storage.text.removeprefix("torch."))
    if kind != "storage" or dtype is None or not (isinstance(key, str) and isinstance(count, int)):
        raise ValueError("a storage of an unknown kind")
    return _Storage(dtype, key, count)


def _made(function: Any, arguments: Any) -> Any:
    """Return what a call of one of `_NAMES` gives; nothing is called."""
    if function == _Name(_REBUILD):
        storage, offset, shape, strides = arguments[:4]
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor without a storage")
        return _Tensor(storage, offset, tuple(shape), tuple(strides))
    if function == _Name(_PARAMETER):
        return arguments[0]
    if function == _Name(_ORDERED) and len(arguments) <= 1:
        return dict(*arguments)
    raise _Refused("it calls what makes no tensor")
