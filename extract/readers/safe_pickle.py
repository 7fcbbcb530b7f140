"""Reading the pickles in which some image sets come, without unpickling them freely: a pickle is a program.

Plain values and NumPy arrays are all that comes out. Nothing that a pickle names is ever imported or called: the few
names that arrays are pickled with stand for functions of our own, which build an array from bytes, shape and dtype.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError

# Extension codes and outside references reach objects without naming them.
REFUSED_OPCODES = ("EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER")
PLAIN = (bool, int, float, str, bytes, type(None), np.generic)
DTYPE = re.compile(r"[<>=|]?(\?|[biufcSU]\d+)")


def read_pickle(path: Path, encoding: str = "ASCII") -> object:
    """What a pickle holds: lists, tuples and dicts of numbers, str, bytes, None, NumPy scalars and arrays of these.

    Arrays of numbers, bools and strings are known, under the old and the new names of NumPy's modules and in every
    protocol; no arrays of objects, no structured ones.

    Args:
        encoding: how the strings of Python 2 are decoded; "bytes" leaves them bytes. As in `pickle.load`.

    Raises:
        SdcError: no such file; damaged; or it asks for anything else, which is named and has not been run.
    """
    try:
        data = path.read_bytes()
        _check_opcodes(data)
        return _plain(_Unpickler(io.BytesIO(data), encoding=encoding).load(), {})
    except _RefusedError as error:
        raise SdcError(
            f"cannot read {path}: the pickle asks for {error}, which is refused: only numbers, text, lists, dicts and "
            "NumPy arrays are read, and nothing was run; fetch the file from where the set comes from"
        ) from None
    except OSError as error:
        raise SdcError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # whatever damaged bytes make of the parser
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SdcError(f"cannot read {path} as a pickle ({reason}): fetch it again") from error


class _RefusedError(Exception):
    """What was asked for."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ADMITTED:
            raise _RefusedError(f"{module}.{name}")
        return ADMITTED[module, name]


class _Function:
    """A callable that a pickle may name. It has no attributes, so that none can be set."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise _RefusedError("a change of one of NumPy's functions")


class _Dtype:
    """A dtype as pickled: a name first, then a state that adds the byte order."""

    __slots__ = ("value",)

    def __init__(self, name: str | bytes, *_: object) -> None:
        text = _text(name)
        if not DTYPE.fullmatch(text):
            raise _RefusedError(f"an array of dtype {text!r}")
        self.value = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *composed = state[:5]
        if any(composed):
            raise _RefusedError("a structured array")
        self.__init__(_text(order) + self.value.str[1:])  # type: ignore[misc]


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class _Array:
    """An array as pickled: empty first, then a state with its content."""

    __slots__ = ("value",)

    def __init__(self, value: np.ndarray | None = None) -> None:
        self.value = value

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, fortran, data = state[-4:]
        self.value = _from_bytes(data, dtype, shape, "F" if fortran else "C").value


def _from_bytes(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: Any) -> _Array:
    raw = data.encode("latin1") if isinstance(data, str) else data  # str: Python 2's, decoded as such
    if not isinstance(raw, (bytes, bytearray)) or not isinstance(dtype, _Dtype):
        raise _RefusedError("an array of objects")
    return _Array(np.frombuffer(raw, dtype.value).reshape(shape, order=order).copy())


def _empty(kind: object, *_: object) -> _Array:
    if kind is not NDARRAY:
        raise _RefusedError("a kind of array other than numpy.ndarray")
    return _Array()


def _scalar(dtype: _Dtype, data: Any) -> np.generic:
    value: np.generic = _from_bytes(data, dtype, (), "C").value[()]  # type: ignore[index,assignment]
    return value


def _encoded(text: str, encoding: str) -> bytes:
    """Bytes, as Python 3 writes them in Python 2's protocols."""
    if encoding != "latin1":
        raise _RefusedError(f"the encoding {encoding!r}")
    return text.encode("latin1")


def _no_call(*_: object) -> None:
    raise _RefusedError("a call of numpy.ndarray")


NDARRAY = _Function(_no_call)
ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): _Function(_Dtype),
    ("_codecs", "encode"): _Function(_encoded),
    ("builtins", "bytes"): _Function(lambda: b""),
    ("__builtin__", "bytes"): _Function(lambda: b""),
}
for _core in ("numpy.core", "numpy._core"):
    ADMITTED |= {
        (f"{_core}.multiarray", "_reconstruct"): _Function(_empty),
        (f"{_core}.multiarray", "scalar"): _Function(_scalar),
        (f"{_core}.numeric", "_frombuffer"): _Function(_from_bytes),
    }


def _check_opcodes(data: bytes) -> None:
    """Refuses what `find_class` is not asked about, and places in the memo that only serve to fill the memory."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in REFUSED_OPCODES:
            raise _RefusedError(f"an object outside of itself (opcode {opcode.name})")
        if opcode.name in ("LONG_BINPUT", "PUT") and isinstance(argument, int) and argument > len(data):
            raise _RefusedError(f"{argument} places in its memo")


def _plain(value: object, seen: dict[int, Any]) -> Any:
    """The value with NumPy arrays in the place of our `_Array`s.

    Args:
        seen: what has been converted, by id, so that loops end.

    Raises:
        _RefusedError: any other kind of object.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, _Array) and value.value is not None:
        return value.value
    if id(value) in seen:
        return seen[id(value)]
    plain: Any
    if type(value) is list:
        plain = seen[id(value)] = []
        plain += [_plain(item, seen) for item in value]
    elif type(value) is dict:
        plain = seen[id(value)] = {}
        plain.update({_plain(key, seen): _plain(item, seen) for key, item in value.items()})
    elif type(value) is tuple:
        plain = seen[id(value)] = tuple(_plain(item, seen) for item in value)
    else:
        raise _RefusedError(f"an object of type {type(value).__name__.lstrip('_').lower()}")
    return plain
