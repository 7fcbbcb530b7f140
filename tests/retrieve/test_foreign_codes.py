"""Codes that were made elsewhere: told from features, and made an index of."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from sdc.errors import SdcError, UsageError
from sdc.extract import ImportSettings, import_features
from sdc.retrieve import import_codes
from sdc.retrieve.evaluate import EvaluateSettings, evaluate
from sdc.retrieve.index import Index

RNG = np.random.default_rng(0)
LABELS = np.arange(300) % 5
X = (RNG.normal(size=(5, 64))[LABELS] + 0.8 * RNG.normal(size=(300, 64))).astype(np.float32)
BITS = X > 0
PACKED = np.packbits(BITS, axis=1)


@pytest.fixture
def given_files(tmp_path):
    """Packed codes as sentence-transformers and NumPy make them (the first bit is the highest), labels and ids."""
    np.save(tmp_path / "codes.npy", PACKED)
    np.save(tmp_path / "labels.npy", LABELS)
    (tmp_path / "ids.txt").write_text("".join(f"doc{row}\n" for row in range(300)))
    return tmp_path


def made(folder, name="codes.npy", **options):
    return Index.open(import_codes(ImportSettings(folder / name, out=folder / "db.bin", **options)))


def test_packed_codes_become_an_index(given_files):
    index = made(given_files, labels=given_files / "labels.npy", ids=given_files / "ids.txt")
    assert (index.ntotal, index.bits, len(index.queries)) == (300, 64, 30)
    np.testing.assert_array_equal(index.database.codes, PACKED)
    np.testing.assert_array_equal(index.database.labels, LABELS)
    assert index.database.names() == [f"doc{row}" for row in range(300)]
    distances, rows = index.search(PACKED[7:8], 5)
    expected = (BITS ^ BITS[7]).sum(axis=1)
    np.testing.assert_array_equal(distances[0], np.sort(expected)[:5])
    assert rows[0, 0] == 7
    scores = evaluate(EvaluateSettings(index=given_files / "db.bin"))
    assert (scores["protocol"], scores["queries"]) == ("category", 30)
    assert scores["map"] > 0.9


def test_other_forms_of_codes_give_the_same_distances(given_files):
    expected = made(given_files).search(PACKED[:9], 20)
    signed = (PACKED.astype(np.int16) - 128).astype(np.int8)
    flipped = np.packbits(BITS, axis=1, bitorder="little")
    for name, values, queries in (("signed", signed, PACKED[:9]), ("bool", BITS, flipped[:9])):
        np.savez(given_files / f"{name}.npz", codes=values, other=np.zeros((300, 2), np.uint8))
        found = made(given_files, f"{name}.npz", overwrite=True).search(queries, 20)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_texts_beside_codes_are_shown(tmp_path):
    texts = np.array([f"text {row}" for row in range(300)])
    np.savez(tmp_path / "x.npz", codes=PACKED, text=texts, label=LABELS)
    index = made(tmp_path, "x.npz")
    assert index.database.texts.take(np.array([7, 299])) == ["text 7", "text 299"]
    np.testing.assert_array_equal(index.database.labels, LABELS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (X, r"expected packed codes \(N, bits // 8\) uint8 or int8, or bits \(N, bits\) bool"),
        (BITS.astype(np.uint8), "found zeros and ones in 64 columns of bytes"),
        (BITS[:, :12], "found codes of 12 bits, expected a multiple of 8"),
        (PACKED[:, 0], "expected packed codes"),
    ],
)
def test_what_is_no_code_is_refused(tmp_path, values, message):
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(UsageError, match=message):
        import_codes(ImportSettings(tmp_path / "x.npy", out=tmp_path / "db.bin"))
    assert not (tmp_path / "db.bin").exists()


def test_importing_codes_again_is_kept_or_refused(given_files, caplog):
    caplog.set_level(logging.INFO)
    made(given_files)
    made(given_files)
    assert "nothing to do" in caplog.text
    with pytest.raises(UsageError, match="made with other settings"):
        made(given_files, labels=given_files / "labels.npy")
    with pytest.raises(UsageError, match="--dtype is of features"):
        made(given_files, dtype="float16")
    (given_files / "db.bin").write_bytes(b"no index")
    with pytest.raises(SdcError, match="--overwrite replaces it"):
        made(given_files)


@pytest.mark.parametrize(
    ("values", "hinted"),
    [
        (PACKED, True),
        ((PACKED.astype(np.int16) - 128).astype(np.int8), True),
        (np.abs(20 * X).clip(0, 255).astype(np.uint8), False),  # such as SIFT
        (BITS.astype(np.uint8), False),
        (np.tile(PACKED, (1, 80)), False),
    ],
)
def test_packed_codes_taken_for_features_are_told_of(tmp_path, caplog, values, hinted):
    np.save(tmp_path / "x.npy", values)
    import_features(ImportSettings(tmp_path / "x.npy", out=tmp_path / "f.h5"))
    assert ("look like packed codes of 64 bits" in caplog.text) is hinted


def test_the_command_makes_an_index_that_is_searched(given_files, command_in):
    sdc = command_in(given_files)
    shown = sdc.json("import", "codes.npy", "--codes", "--ids", "ids.txt")
    assert (shown["out"], shown["kind"], shown["bits"]) == ("db.bin", "index", 64)
    (found,) = sdc.json("search", "--id", "doc7", "-k", "1")["results"]
    assert found["neighbors"] == [{"id": "doc7", "row": 7, "distance": 0}]
    by_code = sdc.json("search", "--queries", "codes.npy", "--limit", "2", "-k", "1")["results"]
    assert [result["neighbors"][0]["id"] for result in by_code] == ["doc0", "doc1"]
    np.save(given_files / "narrow.npy", PACKED[:, :4])
    assert "codes of 32 bits, db.bin has 64" in sdc.error("search", "--queries", "narrow.npy", code=2)
    assert "records no model" in sdc.error("search", "--id", "doc7", "--rerank", "2", code=2)
