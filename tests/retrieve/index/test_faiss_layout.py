"""The bytes that the installed FAISS writes are those that `sdc.retrieve.index.faiss_layout` takes them for."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from sdc.retrieve.index import faiss_layout

faiss = pytest.importorskip("faiss")

CODES = np.random.default_rng(0).integers(0, 256, (500, 4), dtype=np.uint8)
OTHER = f"FAISS {faiss.__version__} lays this index out otherwise than sdc.retrieve.index.faiss_layout reads it: "


def mapped(index, path):
    faiss.write_index_binary(index, str(path))
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def check(data, read, **expected):
    try:
        layout = read(data)
    except ValueError:
        pytest.fail(OTHER + f"it begins with {data[:64].hex(' ')}")
    found = layout._asdict()
    assert found == {"bits": 32, "ntotal": 500, "size": len(data), **expected}, OTHER + f"{found}"


def test_flat(tmp_path):
    index = faiss.IndexBinaryFlat(32)
    index.add(CODES)
    data = mapped(index, tmp_path / "flat")
    check(data, faiss_layout.flat_layout, codes_at=len(data) - CODES.size)
    assert data[len(data) - CODES.size :] == CODES.tobytes(), OTHER + "the codes"
    assert data[: len(data) - CODES.size] == faiss_layout.flat_header(*CODES.shape), OTHER + "the header"


@pytest.mark.parametrize("lists", [8, 400])  # with most of them empty FAISS writes their sizes as pairs
def test_ivf(tmp_path, lists):
    quantizer = faiss.IndexBinaryFlat(32)
    index = faiss.IndexBinaryIVF(quantizer, 32, lists)
    index.train(CODES)
    index.add(CODES if lists == 8 else np.repeat(CODES[:5], 100, axis=0))
    data = mapped(index, tmp_path / "ivf")
    assert (b"full" in data[:4096], b"sprs" in data[:4096]) == (lists == 8, lists == 400), OTHER + "the lists"
    check(data, faiss_layout.ivf_layout, codes_at=None)


def test_any_other_type(tmp_path):
    index = faiss.IndexBinaryHash(32, 4)
    index.add(CODES)
    data = mapped(index, tmp_path / "hash")
    assert data[:4] == b"IBHh", OTHER + "its fourcc"
    check(data, lambda data: faiss_layout.other_layout(data, len(data)), codes_at=None)
