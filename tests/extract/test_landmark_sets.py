"""Landmark sets as users have them on disk: listings, boxes, scales, ground truth up to db.bin, and what is refused."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdc.errors import SdcError, UsageError
from sdc.extract import backbones, datasets
from sdc.extract.datasets.gldv2 import PROTOCOL as RELEVANT
from sdc.extract.encoder import features_of_images
from sdc.extract.images import Preprocessing
from sdc.extract.run import ExtractSettings
from sdc.extract.run import extract_features as run
from sdc.extract.store import FeatureStore, IdArray, Listing, Ragged
from sdc.retrieve.index.index import Index

LEVELS = ("easy", "hard", "junk")
Make = Callable[..., Any]


@pytest.fixture
def extracting(tmp_path: Path, landmarks: Make) -> Callable[..., FeatureStore]:
    """Extracts the small ROxford with a small network."""

    def extract(**changes: Any) -> FeatureStore:
        options = {
            "backbone": "test_resnet", "data": "roxf", "root": tmp_path / "landmarks", "weights": "random:0",
            "image_size": 96, "workers": 2, "part_rows": 8, "device": "cpu", "out": tmp_path / "feats.h5", **changes,
        }  # fmt: skip
        return FeatureStore(run(ExtractSettings(**options)))

    return extract


def truth_by_id(store: FeatureStore) -> dict[str, dict[str, set[str]]]:
    """Of each query, by level, the ids of its images."""
    queries = store.ids(store.splits["query"])
    return {
        query: {level: set(store.ids(lists[number])) for level, lists in store.groundtruth.items()}
        for number, query in enumerate(queries)
    }


def expected_truth(gnd: dict[str, Any], without: tuple[str, ...] = ()) -> dict[str, dict[str, set[str]]]:
    return {
        query: {level: {gnd["imlist"][place] for place in entry[level]} - {*without} for level in LEVELS}
        for query, entry in zip(gnd["qimlist"], gnd["gnd"], strict=True)
        if query not in without
    }


@pytest.mark.parametrize(("name", "folder"), [("roxf", "roxford5k"), ("rparis", "rparis6k")])
def test_the_database_comes_first_and_the_ground_truth_is_rows(landmarks: Make, name: str, folder: str) -> None:
    made = landmarks(folder)
    dataset = datasets.load_dataset(name, made.root)
    listing = dataset.listing
    assert listing.ids == [*made.gnd["imlist"], *made.gnd["qimlist"]]
    np.testing.assert_array_equal(listing.splits["database"], np.arange(30))
    np.testing.assert_array_equal(listing.splits["query"], [30, 31, 32])
    assert len(listing.splits["train"]) == 0
    for level in LEVELS:
        for number, entry in enumerate(made.gnd["gnd"]):
            np.testing.assert_array_equal(listing.groundtruth[level][number], sorted(entry[level]))
    assert (dataset.name, dataset.resize, dataset.protocol) == (name, "longest", {"name": "revisited"})


def test_the_set_is_found_by_its_folder_or_the_environment(landmarks: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = landmarks()
    expected = datasets.load_dataset("roxf", made.root).listing.digest()
    assert datasets.load_dataset("roxf", made.folder).listing.digest() == expected
    monkeypatch.setenv("SDC_DATA", str(made.root))
    assert datasets.load_dataset("roxf").listing.digest() == expected


def test_a_query_is_cropped_to_its_box_and_nothing_else_is(landmarks: Make) -> None:
    made = landmarks()
    made.gnd["gnd"][1]["bbx"] = [-5, 10.5, 100, 1e6]  # over the borders
    made.gnd["gnd"][2]["bbx"] = [1000, 1000, 1100, 1100]  # beside the image
    made.write()
    dataset = datasets.load_dataset("roxf", made.root)
    found = []
    for row, name in enumerate(dataset.listing.ids[:32]):
        whole = np.asarray(Image.open(made.folder / "jpg" / f"{name}.jpg"))
        with dataset.open(row) as image:
            pixels = np.asarray(image)
        if row == 30:
            np.testing.assert_array_equal(pixels, whole[16 : whole.shape[0] - 25, 20 : whole.shape[1] - 30])
        elif row == 31:
            np.testing.assert_array_equal(pixels, whole[10:, :100])
        else:
            np.testing.assert_array_equal(pixels, whole)
        found.append(pixels.shape[:2])
    assert len(set(found)) > 6  # pictures of many shapes
    with pytest.raises(ValueError, match="has nothing of its"):
        dataset.open(32)


@pytest.mark.parametrize(
    ("size", "scale", "side", "expected"),
    [
        ((200, 100), 1.0, 100, (100, 50)),
        ((100, 200), 1.0, 100, (50, 100)),
        ((200, 100), 0.7071, 100, (71, 35)),
        ((200, 100), 1.4142, 100, (141, 71)),
        ((80, 60), 1.0, 100, (80, 60)),  # never made larger but by the scale
        ((80, 60), 1.4142, 100, (113, 85)),
        ((4000, 10), 1.0, 400, (400, 32)),  # networks need some pixels in both directions
    ],
)
def test_images_keep_their_shape(size: tuple[int, int], scale: float, side: int, expected: tuple[int, int]) -> None:
    preprocessing = Preprocessing(side, "longest", (0.5,) * 3, (0.5,) * 3, (scale,))
    (pixels,) = preprocessing.scaled(Image.new("L", size, 77))
    assert pixels.shape == (expected[1], expected[0], 3)
    assert (pixels == 77).all()


def by_hand(path: Path, box: Any, model: torch.nn.Module, side: int, scales: tuple[float, ...]) -> np.ndarray:
    """Features of one image, scale by scale, in double precision from the network on."""
    image = Image.open(path).convert("RGB")
    if box is not None:
        image = image.crop(tuple(round(border) for border in box))
    shrink = min(1, side / max(image.size))
    total = np.zeros(1)
    for scale in scales:
        size = [max(32, round(length * shrink * scale)) for length in image.size]
        pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float32) / 255
        with torch.inference_mode():
            row = model(torch.from_numpy((pixels - 0.5) / 0.5).permute(2, 0, 1)[None])[0].double().numpy()
        total = total + row / np.sqrt((row**2).sum()) / len(scales)
    return total / np.sqrt((total**2).sum())


@pytest.mark.parametrize("scales", [None, (1.0,), (0.5, 1.25)])
def test_features_are_normalised_averages_of_normalised_scales(
    landmarks: Make, extracting: Callable[..., FeatureStore], scales: tuple[float, ...] | None
) -> None:
    made = landmarks()
    store = extracting(scales=scales)
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=0).eval()
    boxes = [None] * 30 + [entry["bbx"] for entry in made.gnd["gnd"]]
    used = scales or (0.7071, 1.0, 1.4142)
    expected = [
        by_hand(made.folder / "jpg" / f"{name}.jpg", box, model, 96, used)
        for name, box in zip(store.ids(), boxes, strict=True)
    ]
    np.testing.assert_allclose(store.features, expected, atol=5e-4)
    assert store.provenance["preprocessing"] == {
        "size": 96, "resize": "longest", "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3,
        "scales": list(used),
    }  # fmt: skip
    assert store.provenance["protocol"] == {"name": "revisited"}
    assert truth_by_id(store) == expected_truth(made.gnd)
    for lists in store.groundtruth.values():
        assert lists.values.dtype == np.int64


def test_a_new_image_gets_the_features_that_the_store_has(
    landmarks: Make, extracting: Callable[..., FeatureStore]
) -> None:
    made, store = landmarks(), extracting()
    paths = [made.folder / "jpg" / f"{name}.jpg" for name in store.ids(np.arange(5))]
    np.testing.assert_allclose(features_of_images(paths, store.provenance), store.features[:5], atol=5e-4)


def test_what_cannot_be_read_leaves_the_ground_truth_too(
    landmarks: Make, extracting: Callable[..., FeatureStore]
) -> None:
    made = landmarks()
    lost = ("chelsea_whole", "astronaut_left", "retina_left", "china_query")
    (made.folder / "jpg" / f"{lost[0]}.jpg").write_bytes(b"")
    (made.folder / "jpg" / f"{lost[1]}.jpg").write_bytes(b"no image")
    whole = (made.folder / "jpg" / f"{lost[2]}.jpg").read_bytes()
    (made.folder / "jpg" / f"{lost[2]}.jpg").write_bytes(whole[: len(whole) // 2])
    made.gnd["gnd"][2]["bbx"] = [1000, 1000, 1100, 1100]
    made.write()
    store = extracting()
    assert {name for name, _ in store.skipped} == {*lost}
    assert truth_by_id(store) == expected_truth(made.gnd, without=lost)
    assert len(store.groundtruth["junk"]) == len(store.splits["query"]) == 2


def test_a_limit_keeps_queries_and_their_ground_truth(landmarks: Make, extracting: Callable[..., FeatureStore]) -> None:
    made = landmarks()
    store = extracting(limit=12)
    assert len(store) == 12
    assert len(store.splits["query"]) >= 1
    kept = {*store.ids()}
    whole = expected_truth(made.gnd)
    assert truth_by_id(store) == {
        query: {level: whole[query][level] & kept for level in LEVELS} for query in store.ids(store.splits["query"])
    }


def test_another_ground_truth_is_another_set(landmarks: Make, extracting: Callable[..., FeatureStore]) -> None:
    made = landmarks()
    extracting()
    extracting()  # of the same settings: nothing to do
    made.gnd["gnd"][0]["easy"] = [5]
    made.write()
    with pytest.raises(UsageError, match=r"other settings \(settings.images"):
        extracting()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_selection_keeps_what_is_left_of_each_list(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    split = np.array(data.draw(st.lists(st.sampled_from("qdb"), min_size=n, max_size=n)))
    query, database = np.flatnonzero(split != "d"), np.flatnonzero(split != "q")
    chosen = st.lists(st.sampled_from(database.tolist())) if len(database) else st.just([])
    lists = [data.draw(chosen) for _ in query]
    listing = Listing([f"i{row}" for row in range(n)], {"query": query, "database": database}, groundtruth={
        "relevant": Ragged.of(lists)
    })  # fmt: skip
    rows = np.flatnonzero(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    part = listing.select(rows)
    kept = {part.ids[row]: row for row in range(len(part.ids))}
    assert len(part.groundtruth["relevant"]) == len(part.splits["query"])
    for number, row in enumerate(part.splits["query"].tolist()):
        whole = lists[query.tolist().index(int(part.ids[row][1:]))]
        expected = sorted(kept[f"i{found}"] for found in set(whole) if f"i{found}" in kept)
        assert part.groundtruth["relevant"][number].tolist() == expected


def test_a_listing_refuses_a_ground_truth_that_does_not_fit() -> None:
    splits = {"query": np.array([3]), "database": np.array([0, 1])}
    for lists, message in [
        ([[0], [1]], "ground truth easy: found lists for 2 queries, expected 1"),
        ([[2]], "ground truth easy of query 0: row 2 is not in the database split"),
        ([[0, 4]], "ground truth easy of query 0: row 4 is not"),
        ([[-1]], "ground truth easy of query 0: row -1 is not"),
    ]:
        with pytest.raises(SdcError, match=message):
            Listing(list("abcd"), splits, groundtruth={"easy": Ragged.of(lists)})


def without(key: str) -> Callable[[Any], Any]:
    return lambda gnd: {name: value for name, value in gnd.items() if name != key}


def entry(**changes: Any) -> Callable[[Any], Any]:
    """Changes the second query's entry."""
    return lambda gnd: {**gnd, "gnd": [gnd["gnd"][0], {**gnd["gnd"][1], **changes}, gnd["gnd"][2]]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("imlist"), r"gnd_roxford5k\.pkl has no imlist \(found qimlist, gnd\)"),
        (without("gnd"), "has no gnd"),
        (lambda gnd: [gnd], r"has no imlist \(found list\)"),
        (lambda gnd: {**gnd, "imlist": "all"}, "imlist is a str, expected a list"),
        (lambda gnd: {**gnd, "qimlist": [1, 2, 3]}, "qimlist holds 1 at 0, expected names"),
        (lambda gnd: {**gnd, "gnd": gnd["gnd"][:2]}, "gnd has 2 entries, expected 3"),
        (lambda gnd: {**gnd, "gnd": [{"ok": [1], "junk": []}] * 3}, r"query coffee_query has no easy \(found ok, junk"),
        (entry(easy=[3, 30]), "query retina_query: easy has the index 30, expected 0 to 29"),
        (entry(junk=np.array([-1])), "query retina_query: junk has the index -1"),
        (entry(hard=[0.5]), "query retina_query: hard holds float64"),
        (entry(hard=[[1], [2]]), r"hard holds int64 of shape \(2, 1\)"),
        (entry(bbx=[1, 2, 3]), "query retina_query: bbx is .* expected left, upper, right, lower"),
        (entry(bbx=[30, 2, 3, 9]), "query retina_query: bbx is"),
        (entry(bbx=None), "query retina_query: bbx is None"),
        (lambda gnd: {**gnd, "imlist": [*gnd["imlist"], "gone"]}, r"1 of 34 images of .* are not there, first .*gone"),
        (lambda gnd: {**gnd, "imlist": [*gnd["imlist"], "coffee_left"]}, "id 'coffee_left' is there twice"),
    ],
)
def test_a_ground_truth_that_is_not_as_it_must_be_is_refused(
    landmarks: Make, change: Callable[[Any], Any], message: str
) -> None:
    made = landmarks()
    (made.folder / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(change(made.gnd)))
    with pytest.raises(SdcError, match=message):
        datasets.load_dataset("roxf", made.root)


def test_a_malicious_ground_truth_is_refused_and_nothing_runs(landmarks: Make, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    made = landmarks()
    made.write(imlist=Attack())
    with pytest.raises(SdcError, match=r"gnd_roxford5k\.pkl: the pickle asks for posix\.system, which is refused"):
        datasets.load_dataset("roxf", made.root)
    assert not (tmp_path / "ran").exists()


def test_missing_files_are_named_with_where_they_come_from(landmarks: Make, tmp_path: Path) -> None:
    made = landmarks()
    with pytest.raises(SdcError, match=r"no .*rparis6k/gnd_rparis6k\.pkl: it comes from .*revisitop"):
        datasets.load_dataset("rparis", made.root)
    (made.root / "inner").mkdir()
    with pytest.raises(SdcError, match=r"there is one in .*landmarks: name that folder"):
        datasets.load_dataset("roxf", made.root / "inner")
    (made.folder / "jpg" / "coffee_query.jpg").unlink()
    with pytest.raises(SdcError, match=r"1 of 33 images .* first .*/jpg/coffee_query\.jpg: oxbuild_images"):
        datasets.load_dataset("roxf", made.root)


def test_options_that_do_not_go_with_the_set_are_refused(
    landmarks: Make, extracting: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    landmarks()
    for changes, message in [
        ({"views": 2}, "--views and --tokens are not for landmark sets"),
        ({"scales": ()}, "--scales names none"),
        ({"scales": (1.0, 0.0)}, "--scales has 0, expected"),
        ({"scales": (1e9,)}, r"--scales has 1e\+09, expected"),
        ({"scales": (float("nan"),)}, "--scales has nan"),
        ({"data": "folder", "scales": (1.0,)}, "--scales is for landmark sets"),
        ({"backbone": "test_vit_relpos"}, "test_vit_relpos takes squares alone"),
    ]:
        with pytest.raises(UsageError, match=message):
            extracting(**changes)
    assert not (tmp_path / "feats.h5").exists()


def test_a_vision_transformer_takes_any_shape() -> None:
    backbone = backbones.load_backbone("test_vit", "random:0", 200, any_shape=True)
    native = backbones.load_backbone("test_vit", "random:0")
    assert backbone.weights_sha256 == native.weights_sha256
    assert backbone.image_size == 200
    square = torch.rand(1, 3, native.image_size, native.image_size, generator=torch.manual_seed(0))
    with torch.inference_mode():
        assert backbone.module(torch.zeros(1, 3, 90, 131)).shape == (1, backbone.dimension)
        torch.testing.assert_close(backbone.module.eval()(square), native.module.eval()(square))


def test_from_disk_to_neighbours(landmarks: Make, command: Any) -> None:
    """Real photographs through a real network: a query's first neighbours are of its own place."""
    made = landmarks()
    command(
        "extract", "--backbone", "efficientnet_lite0", "--data", "roxf", "--root", made.root, "--image-size", 160,
        "--scales", "0.7071,1,1.4142",
    )  # fmt: skip
    command("train", "--method", "lsh", "--bits", 256, "--train-on", "database")
    command("encode")
    store = FeatureStore(command.folder / "feats.h5")
    index = Index.open(command.folder / "db.bin")
    assert index.queries is not None
    assert {*index.queries.groundtruth} == {*LEVELS}
    for level, lists in index.queries.groundtruth.items():
        for number in range(3):
            np.testing.assert_array_equal(lists[number], store.groundtruth[level][number])
            assert np.isin(lists[number], index.database.rows).all()
    part = index.queries.take(np.array([2, 0]))
    np.testing.assert_array_equal(part.groundtruth["hard"][0], store.groundtruth["hard"][2])
    assert index.metadata["features"]["provenance"]["protocol"] == {"name": "revisited"}
    found = command.json("search", "-k", 3)["results"]
    assert [result["query"] for result in found] == made.gnd["qimlist"]
    for result, one in zip(found, made.gnd["gnd"], strict=True):
        rows = {neighbor["row"] for neighbor in result["neighbors"]}
        assert rows == {*one["easy"], *one["hard"]}


# Google Landmarks v2


@pytest.fixture
def google(tmp_path: Path, photographs: dict[str, Image.Image]) -> Callable[..., Path]:
    """Makes the set: 6 training images of 2 landmarks, 5 in the index, queries of each usage."""

    def make(**changes: str) -> Path:
        root = tmp_path / "gldv2"
        pictures = list(photographs.values())
        names = {folder: [identifier(folder, k) for k in range(6 if folder == "train" else 5)] for folder in FOLDERS}
        for folder, ids in names.items():
            for number, name in enumerate(ids):
                path = root / folder / name[0] / name[1] / name[2] / f"{name}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                pictures[number].save(path)
        index, test = names["index"], names["test"]
        files = {
            "train_clean.csv": "landmark_id,images\n"
            f"1,{' '.join(names['train'][:4])}\n203092,{' '.join(names['train'][4:])}\n",
            "index.csv": "id\n" + "\n".join(index) + "\n",
            "test.csv": "id\n" + "\n".join(test) + "\n",
            "retrieval_solution_v2.1.csv": "id,images,Usage\n"
            f"{test[0]},{index[3]} {index[1]},Public\n{test[1]},None,Ignored\n{test[2]},{index[4]},Private\n"
            f"{test[3]},{index[0]} {index[0]} {index[2]},Private\n",
        }
        for name, text in {**files, **changes}.items():
            (root / name).write_text(text, encoding="utf-8")
        return root

    return make


FOLDERS = ("train", "index", "test")


def identifier(folder: str, number: int) -> str:
    """16 hexadecimal digits, in no order."""
    return f"{(number * 7919 + 13 * len(folder)) * 0x9E3779B97F4A7C15 % 2**64:016x}"


def test_the_three_splits_of_gldv2_and_their_relevant_images(google: Callable[..., Path]) -> None:
    dataset = datasets.load_dataset("gldv2", google())
    listing = dataset.listing
    queries = [identifier("test", number) for number in (0, 2, 3)]
    assert list(listing.ids) == [
        *(f"train/{identifier('train', number)}" for number in range(6)),
        *(f"index/{identifier('index', number)}" for number in range(5)),
        *(f"test/{query}" for query in queries),
    ]
    assert {name: rows.tolist() for name, rows in listing.splits.items()} == {
        "train": [0, 1, 2, 3, 4, 5], "database": [6, 7, 8, 9, 10], "query": [11, 12, 13],
    }  # fmt: skip
    assert [listing.groundtruth["relevant"][number].tolist() for number in range(3)] == [[7, 9], [10], [6, 8]]
    assert (dataset.resize, dataset.protocol) == ("longest", {"name": "relevant", "at": 100})
    assert {*listing.groundtruth} == {"relevant"}
    assert dataset.protocol == RELEVANT
    for row in range(14):
        with dataset.open(row) as image:
            assert image.size[0] > 0


def test_ids_stay_bytes(google: Callable[..., Path]) -> None:
    listing = datasets.load_dataset("gldv2", google()).listing
    part = listing.select(np.array([1, 7, 11]))
    for ids, count in ((listing.ids, 14), (part.ids, 3)):
        assert isinstance(ids, IdArray)
        assert ids.encoded.nbytes == 22 * count
    assert list(part.ids) == [listing.ids[1], listing.ids[7], listing.ids[11]]
    assert part.ids[1:] == [listing.ids[7], listing.ids[11]]
    assert part.groundtruth["relevant"][0].tolist() == [1]


def test_csv_files_may_lie_in_folders_and_test_csv_is_optional(google: Callable[..., Path]) -> None:
    root = google()
    expected = datasets.load_dataset("gldv2", root).listing.digest()
    (root / "test.csv").unlink()
    for name, folder in [("train_clean.csv", "train"), ("index.csv", "index"), ("retrieval_solution_v2.1.csv", "test")]:
        text = (root / name).read_text(encoding="utf-8")
        (root / name).unlink()
        (root / folder / name).write_text(text.replace("\n", "\r\n"), encoding="utf-8-sig")  # as some editors save it
    assert datasets.load_dataset("gldv2", root).listing.digest() == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train_clean.csv", "landmark_id,image\n1,00\n", r"train_clean\.csv has no column images \(found landmark_id"),
        ("index.csv", "", r"index\.csv has no column id \(found nothing"),
        ("retrieval_solution_v2.1.csv", "id,images\n", r"solution_v2\.1\.csv has no column Usage \(found id, images"),
        ("train_clean.csv", "landmark_id,images\n1\n", "line 2: found 1 columns, expected 2"),
        ("train_clean.csv", "landmark_id,images\n1,../../secret\n", "line 2: '../../secret' is no id"),
        ("train_clean.csv", "landmark_id,images\n", "names no image"),
        ("index.csv", "id\n0123456789ABCDEF\n", "line 2: '0123456789ABCDEF' is no id"),
        ("index.csv", "id\n0123456789abcdef\n", r"2\.1\.csv, line 2: [0-9a-f]{16} is not in index\.csv"),
        (
            "retrieval_solution_v2.1.csv",
            "id,images,Usage\n0,None,Secret\n",
            "line 2: Usage is 'Secret', expected Public",
        ),
        ("retrieval_solution_v2.1.csv", "id,images,Usage\n0,None,Ignored\n", "has no query of Usage Public or Private"),
        (
            "train_clean.csv",
            f"landmark_id,images\n1,{'0' * 16}\n",
            r"no .*/train/0/0/0/0000000000000000\.jpg, nor any of",
        ),
        ("train_clean.csv", f"landmark_id,images\n1,{'9' * 16} {'9' * 16}\n", "no .*/train/9/9/9/"),
        ("index.csv", f"id\n{identifier('index', 0)}\n{identifier('index', 0)}\n", "is not in|there twice"),
    ],
)
def test_a_csv_that_is_not_as_it_must_be_is_refused(
    google: Callable[..., Path], name: str, text: str, message: str
) -> None:
    with pytest.raises(SdcError, match=message):
        datasets.load_dataset("gldv2", google(**{name: text}))


def test_missing_pieces_of_gldv2_are_named(google: Callable[..., Path]) -> None:
    root = google()
    (root / "index.csv").rename(root / "elsewhere.csv")
    with pytest.raises(SdcError, match=r"no .*/index\.csv: it comes from .*google-landmark"):
        datasets.load_dataset("gldv2", root)
    (root / "elsewhere.csv").rename(root / "index.csv")
    (root / "test").rename(root / "queries")
    with pytest.raises(SdcError, match=r"no .*/test/./././[0-9a-f]{16}\.jpg, nor any of 3 images"):
        datasets.load_dataset("gldv2", root)


def test_gldv2_from_disk_to_neighbours(google: Callable[..., Path], command: Any) -> None:
    root = google()
    lost = identifier("index", 1)
    next(root.glob(f"index/*/*/*/{lost}.jpg")).unlink()
    command(
        "extract", "--backbone", "test_resnet", "--weights", "random:0", "--data", "gldv2", "--root", root,
        "--image-size", 64, "--scales", "1",
    )  # fmt: skip
    command("train", "--method", "lsh", "--bits", 64)
    command("encode")
    index = Index.open(command.folder / "db.bin")
    assert index.queries is not None
    relevant = index.queries.groundtruth["relevant"]
    found = [index.ids(relevant[number]) for number in range(3)]
    assert found == [[f"index/{identifier('index', k)}" for k in of] for of in ([3], [4], [0, 2])]  # 1 is lost
    store = FeatureStore(command.folder / "feats.h5")
    assert store.skipped == [(f"index/{lost}", "No such file or directory")]
    assert store.provenance["protocol"] == {"name": "relevant", "at": 100}
    results = command.json("search", "-k", 2)["results"]
    assert [result["query"] for result in results] == [f"test/{identifier('test', k)}" for k in (0, 2, 3)]
    # The pictures are the same ones in each folder.
    firsts = [result["neighbors"][0] for result in results]
    assert [first["id"] for first in firsts] == [f"index/{identifier('index', k)}" for k in (0, 2, 3)]
    assert [first["distance"] for first in firsts] == [0, 0, 0]
