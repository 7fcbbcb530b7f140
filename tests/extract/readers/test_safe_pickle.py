"""The restricted unpickler: arrays and plain values come out as they went in, and nothing else comes out or runs."""

from __future__ import annotations

import copyreg
import importlib
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdc.errors import SdcError
from sdc.extract.readers.safe_pickle import read_pickle as load

PLAIN = {
    "imlist": ["a", "b", "é"], "nested": [{"bbx": (1.5, 2.0, 3, -4), "easy": [0, 1 << 70]}],
    "raw": b"\0\xff\x80", "none": None, "truth": True, "nothing": (), b"key": b"",
}  # fmt: skip
ARRAYS = [
    np.arange(12, dtype=np.uint8).reshape(3, 4),
    np.arange(12, dtype=">i4").reshape(2, 3, 2),
    np.asfortranarray(np.random.default_rng(0).standard_normal((3, 5))),
    np.zeros((0, 7), np.float32),
    np.array([True, False]),
    np.array(["ab", "c\u00e9"]),
    np.array([b"x", b"yz"]),
    np.arange(10, dtype=np.int64)[::2],
]


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "found.pkl"
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("module", [b"numpy._core", b"numpy.core"])
def test_arrays_scalars_and_plain_values_round_trip(
    written: Callable[[bytes], Path], protocol: int, module: bytes
) -> None:
    scalars = [np.int64(-3), np.float32(0.5), np.str_("ab"), np.bool_(True)]
    data = pickle.dumps([PLAIN, ARRAYS, scalars], protocol)
    # NumPy 1 and 2 call their modules differently: both names are tried, whichever NumPy writes here.
    if protocol < 4:  # later protocols count the bytes of a name
        data = data.replace(b"numpy._core", module).replace(b"numpy.core", module)
    plain, arrays, numbers = load(written(data))  # type: ignore[misc]
    assert plain == PLAIN
    for found, expected in zip(arrays, ARRAYS, strict=True):
        assert type(found) is np.ndarray
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        found[...] = found  # writable
    assert numbers == scalars
    assert [type(number) for number in numbers] == [type(number) for number in scalars]


@pytest.mark.parametrize("core", ["numpy._core", "numpy.core"])
def test_both_names_of_numpys_module_are_read_in_protocol_5(written: Callable[[bytes], Path], core: str) -> None:
    array = np.arange(6.0).reshape(2, 3)
    name = b"\x8c" + bytes([len(core) + 8]) + core.encode() + b".numeric"
    data = pickle.dumps(array, 5)
    frame = re.sub(rb"\x80\x05\x95.{8}", b"\x80\x05", data, flags=re.DOTALL)  # its length would have to change
    changed, count = re.subn(rb"\x8c.numpy\.(_core|core)\.numeric", name, frame, flags=re.DOTALL)
    assert count == 1
    np.testing.assert_array_equal(load(written(changed)), array)  # type: ignore[arg-type]


PYTHON_2 = (  # cPickle.dumps({"data": numpy.array([[200, 1]], "u1"), "labels": [6, 9]}, 2) of Python 2.7
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05"
    b"(K\x01K\x01K\x02\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
    b"K\x00tb\x89U\x02\xc8\x01tbU\x06labelsq\x08]q\x09(K\x06K\x09eu."
)


def test_pickles_of_python_2_are_read_in_both_encodings(written: Callable[[bytes], Path]) -> None:
    path = written(PYTHON_2)
    found: Any = load(path, "bytes")
    assert set(found) == {b"data", b"labels"}
    assert found[b"labels"] == [6, 9]
    np.testing.assert_array_equal(found[b"data"], np.array([[200, 1]], np.uint8))
    found = load(path, "latin1")
    np.testing.assert_array_equal(found["data"], np.array([[200, 1]], np.uint8))
    with pytest.raises(SdcError, match=r"found\.pkl as a pickle .*ascii"):  # 200 is no ASCII
        load(path)


class Reduced:
    """Pickles as a call of `function` with `arguments`, and a state where there is one."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


def numpy_name(dotted: str) -> Any:
    module, name = dotted.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_is_refused_and_nothing_runs(
    written: Callable[[bytes], Path], tmp_path: Path, protocol: int
) -> None:
    mark = tmp_path / "ran"
    touch = f"touch {mark}"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    for attack, name in [
        (Reduced(os.system, touch), rf"{os.name}\.system"),
        (Reduced(eval, code), "eval"),
        (Reduced(exec, code), "exec"),
        (Reduced(__import__, "antigravity"), "__import__"),
        (Reduced(getattr, "text", "format"), "getattr"),
        (copyreg.__newobj__, "__newobj__"),  # type: ignore[attr-defined]
        (np.random.default_rng(0), "numpy.random"),
        (Path("."), "Path"),
        (Reduced(copyreg.add_extension, "os", "system", 77), "add_extension"),
        (Reduced(pickle.loads, b"."), "loads"),
        (Reduced(np.load, str(mark), None, True), "load"),
        (Reduced(np.fromfile, str(mark)), "fromfile"),
        (Reduced(np.memmap, str(mark), "u1", "w+", 0, (9,)), "memmap"),
        (Reduced(numpy_name("numpy.testing._private.utils.runstring"), code, {}), "runstring"),
    ]:
        for wrapped in (attack, {"imlist": [1, attack]}, [np.zeros(3), attack]):
            with pytest.raises(SdcError, match=rf"found\.pkl: the pickle asks for .*{name}.*nothing was run"):
                load(written(pickle.dumps(wrapped, protocol)))
    assert not mark.exists()
    assert pickle.loads(pickle.dumps(Reduced(os.system, touch), protocol)) == 0  # the attack is one
    assert mark.exists()


def test_names_with_dots_and_lookalikes_are_refused(written: Callable[[bytes], Path]) -> None:
    for module, name in [
        ("numpy", "ndarray.tofile"), ("numpy", "dtype.__class__"), ("numpy._core.multiarray", "fromfile"),
        ("numpy._core.multiarray", "_reconstruct.__globals__"), ("numpy.core.multiarray", "array"),
        ("numpy._core.numeric", "frombuffer"), ("builtins", "bytes.__subclasses__"),
        ("sdc.extract.readers.safe_pickle", "load"),
        ("numpy.matrixlib.defmatrix", "matrix"), ("copyreg", "_reconstructor"), ("builtins", "object"),
    ]:  # fmt: skip
        data = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, name)) + b"\x93."
        with pytest.raises(SdcError, match=f"asks for {module}.{name}"):
            load(written(data))


def test_extension_codes_reach_nothing(written: Callable[[bytes], Path], tmp_path: Path) -> None:
    """A registered code, once used, is answered from a cache that `find_class` never sees."""
    mark = tmp_path / "ran"
    copyreg.add_extension(os.system.__module__, "system", 201)
    try:
        data = pickle.dumps(Reduced(os.system, f"touch {mark}"), 2)
        assert b"\x82\xc9" in data  # EXT1 201
        assert pickle.loads(data) == 0
        assert mark.exists()
        mark.unlink()
        with pytest.raises(SdcError, match="opcode EXT1"):
            load(written(data))
    finally:
        copyreg.remove_extension(os.system.__module__, "system", 201)
    assert not mark.exists()


def test_our_own_functions_cannot_be_changed_or_misused(written: Callable[[bytes], Path]) -> None:
    glob = b"cnumpy\ndtype\n"
    new = b"cnumpy.core.multiarray\n_reconstruct\n"
    for data, found in [
        (glob + b"}(U\x01xK\x01ub.", "a change"),  # a state for a function
        (glob + b"N}(U\x05_callNu\x86b.", "a change"),  # attributes for a function
        (glob + b".", "type function"),
        (b"cnumpy\nndarray\n(tR.", "a call of numpy.ndarray"),
        (new + b"cnumpy\ndtype\nK\x00\x85U\x01b\x87R.", "a kind of array"),
        (new + b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R.", "type array"),  # never filled
        (glob + b"(U\x01OtR.", "dtype 'O'"),
        (glob + b"(U\x05i4,f8tR.", "dtype 'i4,f8'"),
        (glob + b"(U\x02V8tR.", "dtype 'V8'"),
        (glob + b"(U\x02i4tR.", "type dtype"),
        (glob + b"(U\x02i4tR(K\x03U\x01<N(U\x01xtNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.", "a structured array"),
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00xU\x03hextR.", "the encoding 'hex'"),
        (b"\x80\x04\x8f.", "type set"),
        (b"\x80\x05\x96\x01\x00\x00\x00\x00\x00\x00\x00x.", "type bytearray"),
        (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
        (b"U\x01x\x51.", "opcode BINPERSID"),
        (b"Nr" + struct.pack("<I", 1 << 31) + b".", "places in its memo"),
    ]:
        with pytest.raises(SdcError, match=f"the pickle asks for .*{found}"):
            load(written(data))
    np.testing.assert_array_equal(load(written(pickle.dumps(ARRAYS[0]))), ARRAYS[0])  # type: ignore[arg-type]


def test_an_array_of_objects_is_refused(written: Callable[[bytes], Path]) -> None:
    for protocol in (2, 4):
        with pytest.raises(SdcError, match="asks for an array of dtype 'O"):
            load(written(pickle.dumps(np.array([1, "a", None], object), protocol)))


def test_loops_and_shared_parts_stay_what_they_are(written: Callable[[bytes], Path]) -> None:
    shared = [1, 2]
    loop: list[Any] = [shared, shared]
    loop.append(loop)
    found: Any = load(written(pickle.dumps(loop)))
    assert found[0] == [1, 2]
    assert found[0] is found[1]
    assert found[2] is found


def test_a_file_that_is_missing_cut_or_too_deep_is_named(written: Callable[[bytes], Path], tmp_path: Path) -> None:
    with pytest.raises(SdcError, match=r"cannot read .*absent\.pkl: No such file"):
        load(tmp_path / "absent.pkl")
    whole = pickle.dumps({"data": ARRAYS[0], "text": ["a"] * 50})
    for data in (b"", whole[:-1], whole[: len(whole) // 2], b"\x89PNG\r\n", b"]" * 100_000 + b"a" * 99_999 + b"."):
        with pytest.raises(SdcError, match=r"cannot read .*found\.pkl"):
            load(written(data))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_changed_byte_gives_a_plain_value_or_an_error(
    written: Callable[[bytes], Path], place: int, byte: int
) -> None:
    data = bytearray(pickle.dumps({"data": ARRAYS[0], "text": ["a", b"b", 1.5]}, 2))
    data[place % len(data)] = byte
    try:
        found = load(written(bytes(data)))
    except SdcError:
        return
    assert isinstance(found, (dict, list, tuple, int, float, str, bytes, np.ndarray, np.generic, type(None)))
