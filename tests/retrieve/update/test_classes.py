"""Classes go by their names: through feats.h5, db.bin, what is added to it, and compaction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdc.errors import UsageError
from sdc.extract.store import Listing, write_features
from sdc.retrieve.encode import EncodeSettings, run
from sdc.retrieve.index import Index
from sdc.retrieve.update import changes
from sdc.retrieve.update.settings import AddSettings, CompactSettings
from sdc.train import Model

D, BITS = 8, 16


class Zoo:
    """A folder with a model, and features and indexes of items that are called CLASS/NUMBER."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        tensors = {"output.weight": rng.standard_normal((BITS, D)), "output.bias": rng.standard_normal(BITS)}
        metadata = {"method": "lsh", "settings": {"bits": BITS}, "features": {"fingerprint": "others"}}
        self.model = Model(tensors, metadata).save(folder / "model.safetensors")

    def store(self, file: str, labels, names=None, *, coarse=None, first: int = 0, dataset: str = "vectors") -> Path:
        labels = np.array(labels)
        n = len(labels)
        classes = {level: dict(given) for level, given in (names or {}).items()}
        listing = Listing(
            [f"{file}/{first + row}" for row in range(n)], {"query": np.arange(1), "database": np.arange(n)},
            labels, None if coarse is None else np.array(coarse), classes=classes,
        )  # fmt: skip
        features = np.random.default_rng(n).standard_normal((n, D)).astype(np.float32)
        provenance = {"source": "extract", "dataset": dataset}
        return write_features(self.folder / file, listing, provenance, D, np.float32, [features])

    def index(self, *arguments, **options) -> Path:
        features = self.store("feats.h5", *arguments, **options)
        return run(EncodeSettings(features, self.model, out=self.folder / "db.bin"))

    def add(self, *arguments, **options):
        return changes.add(AddSettings(self.folder / "db.bin", self.store("new.h5", *arguments, **options)))

    def labels(self) -> list[str | int | None]:
        """What each item's class is called."""
        index = Index.open(self.folder / "db.bin")
        names = index.database.classes.get("labels", {})
        return [names.get(label, label) for label in index.database.labels.tolist()]


PETS = {"labels": {0: "cat", 1: "dog", 2: "eel"}}


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return Zoo(tmp_path)


def test_dogs_added_without_cats_stay_dogs(zoo: Zoo) -> None:
    zoo.index([0, 1, 2, 1], PETS)
    answer = zoo.add([0, 0], {"labels": {0: "dog"}})
    assert "new_classes" not in answer
    index = Index.open(zoo.folder / "db.bin")
    assert index.database.labels.tolist() == [0, 1, 2, 1, 1, 1]
    assert zoo.labels() == ["cat", "dog", "eel", "dog", "dog", "dog"]


def test_a_new_class_gets_a_new_number(zoo: Zoo) -> None:
    zoo.index([0, 1, 2, 1], PETS)
    answer = zoo.add([1, 0, -1], {"labels": {0: "ant", 1: "dog"}})
    assert answer["new_classes"] == {"labels": {"3": "ant"}}
    assert zoo.labels() == ["cat", "dog", "eel", "dog", "dog", "ant", -1]
    zoo.add([0, 1, 2], {"labels": {0: "bee", 1: "ant", 2: "cow"}}, first=10)
    assert zoo.labels()[7:] == ["bee", "ant", "cow"]
    changes.compact(CompactSettings(zoo.folder / "db.bin"))
    index = Index.open(zoo.folder / "db.bin")
    assert index.changes is None
    assert index.database.classes["labels"] == {0: "cat", 1: "dog", 2: "eel", 3: "ant", 4: "bee", 5: "cow"}
    assert zoo.labels() == ["cat", "dog", "eel", "dog", "dog", "ant", -1, "bee", "ant", "cow"]


def test_coarse_classes_are_matched_too(zoo: Zoo) -> None:
    two = {**PETS, "labels_coarse": {0: "furry", 1: "wet"}}
    zoo.index([0, 1, 2], two, coarse=[0, 0, 1])
    zoo.add([0, 1], {"labels": {0: "eel", 1: "yak"}, "labels_coarse": {0: "wet", 1: "furry"}}, coarse=[0, 1])
    database = Index.open(zoo.folder / "db.bin").database
    assert database.labels.tolist() == [0, 1, 2, 2, 3]
    assert database.labels_coarse.tolist() == [0, 0, 1, 1, 0]


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (PETS, None, r"new.h5 have no names, those of .*db.bin the names cat, dog, eel, .*: extract the new items"),
        (None, PETS, r"new.h5 have the names cat, dog, eel, those of .*db.bin no names, .* and encode anew"),
        (PETS, {"labels": {0: "0", 1: "1", 2: "2"}}, r"new.h5 have the numbers 0, 1, 2, those of .* the names cat"),
        ({"labels": {0: "0", 1: "1", 2: "2"}}, PETS, r"new.h5 have the names cat, .*db.bin the numbers 0, 1, 2"),
    ],
)
def test_names_on_one_side_alone_are_refused(zoo: Zoo, ours, theirs, message: str) -> None:
    zoo.index([0, 1, 2], ours)
    with pytest.raises(UsageError, match=message):
        zoo.add([0, 1, 2], theirs)
    assert Index.open(zoo.folder / "db.bin").changes is None
    assert not (zoo.folder / "db.bin.changes").exists()


@pytest.mark.parametrize("ours", [None, {"labels": {1: "1", 2: "2", 10: "10"}}], ids=["plain", "named"])
@pytest.mark.parametrize("theirs", [None, {"labels": {2: "02", 7: "7"}}], ids=["plain", "named"])
def test_classes_that_are_numbers_stay_these(zoo: Zoo, ours, theirs) -> None:
    zoo.index([1, 2, 10], ours)
    zoo.add([7, 2], theirs)
    database = Index.open(zoo.folder / "db.bin").database
    assert database.labels.tolist() == [1, 2, 10, 7, 2]
    named = {1: "1", 2: "2", 7: "7", 10: "10"}
    expected = named if ours else {2: "02", 7: "7"} if theirs else None
    assert database.classes.get("labels") == expected


def test_folders_numbered_by_an_old_version_are_refused(zoo: Zoo) -> None:
    zoo.index([0, 2, 1], None, dataset="folder")  # of the folders 1, 10 and 2
    with pytest.raises(UsageError, match="so classes cannot be matched"):
        zoo.add([1, 2], {"labels": {1: "1", 2: "2"}}, dataset="folder")


def test_names_written_in_two_ways_are_one(zoo: Zoo) -> None:
    zoo.index([0, 1], {"labels": {0: "b\u00e4r", 1: "dog"}})
    zoo.add([0], {"labels": {0: "ba\u0308r"}})
    assert zoo.labels() == ["b\u00e4r", "dog", "b\u00e4r"]


def test_a_class_in_other_capitals_is_warned_about(zoo: Zoo, caplog: pytest.LogCaptureFixture) -> None:
    zoo.index([0, 1, 2], PETS)
    zoo.add([0], {"labels": {0: "Dog"}})
    assert zoo.labels()[3] == "Dog"
    assert "the new class 'Dog' differs from 'dog' in capitals alone" in caplog.text


def test_columns_of_several_labels_go_by_name(zoo: Zoo) -> None:
    zoo.index([[1, 0, 1], [0, 1, 0]], PETS)
    zoo.add([[1, 0], [1, 1]], {"labels": {0: "eel", 1: "cat"}})
    assert Index.open(zoo.folder / "db.bin").database.labels.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 0, 1]]
    with pytest.raises(UsageError, match=r"has the class 'ant', which .*db.bin has no column of labels for"):
        zoo.add([[1, 0], [1, 1]], {"labels": {0: "ant", 1: "cat"}}, first=10)
