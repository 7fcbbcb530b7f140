"""A small index with the model and features it is made of, and a plain dictionary of what it must hold."""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sdc.extract.store import FeatureStore, Listing, write_features
from sdc.files import fingerprint
from sdc.retrieve.bits import pack
from sdc.retrieve.encode import EncodeSettings, run
from sdc.retrieve.index.index import Index
from sdc.retrieve.update import changes
from sdc.retrieve.update.settings import AddSettings, CompactSettings, RemoveSettings
from sdc.train.model import Model

DIMENSION, BITS, QUERIES = 12, 16, 6

State = dict[str, tuple[int, bytes, int]]  # of each id its row, code and label
Change = tuple[Callable[[], object], State]  # what makes it, and what follows


def features_of(name: str, version: int = 0) -> np.ndarray:
    """The features of an item, which depend on nothing else."""
    return np.random.default_rng([version, *name.encode()]).standard_normal(DIMENSION).astype(np.float32)


class Shelf:
    """A folder with model.safetensors, feats.h5 and db.bin.

    Attributes:
        expected: what the index must hold, kept by `add`, `remove` and so on.
        next_row: the number of the next row.
    """

    def __init__(self, folder: Path, count: int = 40, **options: object) -> None:
        self.folder, self.path, self._files = folder, folder / "db.bin", 0
        rng = np.random.default_rng(0)
        tensors = {"output.weight": rng.standard_normal((BITS, DIMENSION)), "output.bias": rng.standard_normal(BITS)}
        metadata = {"method": "lsh", "settings": {"bits": BITS}, "features": {"fingerprint": "others"}}
        self.model = Model.load(Model(tensors, metadata).save(folder / "model.safetensors"))
        names = [f"first/{number:03}" for number in range(count)]
        self.store(names, "feats.h5", query=np.arange(QUERIES))
        self.encode(**options)
        self.expected = {name: self.entry(name, row) for row, name in enumerate(names)}
        self.next_row = count

    def entry(self, name: str, row: int, version: int = 0) -> tuple[int, bytes, int]:
        code = pack(self.model.outputs(features_of(name, version)[None]))[0]
        return row, code.tobytes(), len(name) % 5

    def store(self, names: Sequence[str], file: str, version: int = 0, query: np.ndarray | None = None) -> Path:
        listing = Listing(
            list(names),
            {"query": np.arange(0) if query is None else query, "database": np.arange(len(names))},
            labels=np.array([len(name) % 5 for name in names], np.int32),
        )
        features = [np.stack([features_of(name, version) for name in names])]
        return write_features(self.folder / file, listing, {"source": "import"}, DIMENSION, np.float32, features)

    def encode(self, **options: object) -> Path:
        paths = {"features": "feats.h5", "model": "model.safetensors", "out": "db.bin"}
        return run(EncodeSettings(**{key: self.folder / name for key, name in paths.items()}, **options))  # type: ignore[arg-type]

    def added(
        self, names: Sequence[str], version: int = 0, replace: bool = False
    ) -> tuple[Callable[[], object], State]:
        """What adds these items, and the state that follows."""
        self._files += 1
        path = self.store(names, f"more{self._files}.h5", version)
        entries = {name: self.entry(name, self.next_row + row, version) for row, name in enumerate(names)}
        return lambda: changes.add(AddSettings(self.path, path, replace=replace)), {**self.expected, **entries}

    def removed(self, names: Sequence[str]) -> Change:
        left = {name: entry for name, entry in self.expected.items() if name not in names}
        return lambda: changes.remove(RemoveSettings(self.path, tuple(names))), left

    def compacted(self) -> Change:
        return lambda: changes.compact(CompactSettings(self.path)), self.expected

    def add(self, names: Sequence[str], version: int = 0, replace: bool = False) -> None:
        change, expected = self.added(names, version, replace)
        change()
        self.accept(expected)

    def remove(self, names: Sequence[str]) -> None:
        change, expected = self.removed(names)
        change()
        self.accept(expected)

    def compact(self) -> None:
        self.compacted()[0]()

    def accept(self, state: State) -> None:
        """Takes a state for the one that the index must have."""
        self.expected = state
        self.next_row = max(self.next_row, 1 + max(row for row, _, _ in state.values()))

    def check(self) -> Index:
        """Asserts that the index is as expected, its searches brute force over what it must hold."""
        index = Index.open(self.path)
        assert state_of(index) == self.expected
        check_searches(index, self.expected)
        return index


def state_of(index: Index) -> State:
    database = index.database
    assert database.labels is not None
    assert (np.diff(database.rows) > 0).all()
    names = database.names()
    assert len(set(names)) == len(names) == index.ntotal
    codes = [code.tobytes() for code in database.codes]
    return dict(zip(names, zip(database.rows.tolist(), codes, database.labels.tolist(), strict=True), strict=True))


def check_searches(index: Index, expected: State) -> None:
    rows = np.array(sorted(row for row, _, _ in expected.values()))
    by_row = {row: (name, code) for name, (row, code, _) in expected.items()}
    codes = np.stack([np.frombuffer(by_row[row][1], np.uint8) for row in rows.tolist()])
    assert index.ntotal == len(rows)
    assert index.queries is not None
    queries = np.concatenate([index.queries.codes, codes[-3:]])
    everything = np.bitwise_count(queries[:, None] ^ codes[None]).sum(axis=2, dtype=np.int32)
    for within in (None, rows[::3], rows[-1:]):
        allowed = np.ones(len(rows), bool) if within is None else np.isin(rows, within)
        at, here = everything[:, allowed], rows[allowed]
        order = np.argsort(at, axis=1, kind="stable")
        for k in (1, 5, len(rows) + 1):
            distances, found = index.search(queries, k, within=within)
            np.testing.assert_array_equal(found, here[order[:, :k]])
            np.testing.assert_array_equal(distances, np.take_along_axis(at, order[:, :k], axis=1))
        limits, distances, found = index.range_search(queries, 4, within=within)
        for query, (start, end) in enumerate(pairwise(limits)):
            inside = order[query][: int((at[query] <= 4).sum())]
            np.testing.assert_array_equal(found[start:end], here[inside])
            np.testing.assert_array_equal(distances[start:end], at[query][inside])
    assert index.ids(rows) == [by_row[row][0] for row in rows.tolist()]
    np.testing.assert_array_equal(index.codes(rows), codes)
    name = by_row[int(rows[len(rows) // 2])][0]
    assert index.find(name) == expected[name][0]
    assert index.find("nobody") is None


def hash_of(state: State) -> str:
    return fingerprint({name: [row, code.hex(), label] for name, (row, code, label) in state.items()})


def reader(path: Path, out: Path, stop: Path) -> Callable[[], None]:
    """Opens an index again and again until there is a file `stop`, and writes down what it finds."""

    def read() -> None:
        with open(out, "w") as file:
            stopped = False
            while not stopped:
                stopped = stop.exists()
                index = Index.open(path)
                file.write(f"{index.generation} {hash_of(state_of(index))} {index.current()}\n")
                file.flush()

    return read


def seen(out: Path, states: Mapping[int, str], distinct: int) -> None:
    """Asserts that a reader has found the states of their generations alone, in their order, and so many of them."""
    lines = [line.split() for line in out.read_text().splitlines()]
    assert all(states[int(generation)] == found for generation, found, _ in lines)
    generations = [int(generation) for generation, *_ in lines]
    assert generations == sorted(generations)
    assert len(set(generations)) >= distinct
    assert lines[-1][2] == "True"


def left_over(shelf: Shelf) -> set[str]:
    """Files in the folder of changes that nothing names."""
    folder = shelf.folder / "db.bin.changes"
    index = Index.open(shelf.path)
    named = {"lock", "manifest.json"} if index.changes else set()
    named |= {name for change in (index.changes.changes if index.changes else ()) for name in change.names}
    found = set(os.listdir(folder)) if folder.exists() else set()
    assert not named - found
    return found - named


@contextlib.contextmanager
def forked(work: Callable[[], object]) -> Iterator[tuple[int, int]]:
    """A child process that does some work; yields its id and a pipe that says `done` at the end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            work()
            os.write(writing, b"done")
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    try:
        yield child, reading
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    (tmp_path / "shelf").mkdir()
    return Shelf(tmp_path / "shelf")


@pytest.fixture
def make_shelf() -> type[Shelf]:
    return Shelf


@pytest.fixture
def tools() -> type[Tools]:
    return Tools


class Tools:
    """The functions above, since a conftest is not imported from."""

    state_of, check_searches, left_over, forked = map(staticmethod, (state_of, check_searches, left_over, forked))
    hash_of, reader, seen = map(staticmethod, (hash_of, reader, seen))
    features_of, store = staticmethod(features_of), FeatureStore
