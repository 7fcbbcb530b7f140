from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from sdc.cli import cli
from sdc.errors import SdcError, UsageError
from sdc.retrieve.bits import hamming, pack
from sdc.retrieve.features import feature_source
from sdc.retrieve.index.index import Index
from sdc.retrieve.index.threads import faiss_module
from sdc.retrieve.search import search
from sdc.retrieve.search_settings import SearchSettings


@pytest.fixture
def settings(scene):
    return SearchSettings(index=scene.folder / "db.bin", k=7)


def expected_neighbors(scene, codes, k):
    """By brute force over the database, in the order (distance, row)."""
    index = scene.index
    distances = hamming(codes, index.database.codes)
    ids, labels = index.database.names(), index.database.labels.tolist()
    order = np.lexsort((np.broadcast_to(index.database.rows, distances.shape), distances), axis=1)[:, :k]
    return [
        [{"id": ids[p], "row": int(index.database.rows[p]), "distance": int(d[p]), "label": labels[p]} for p in places]
        for d, places in zip(distances, order, strict=True)
    ]


def test_without_queries_the_query_split_is_searched(scene, settings):
    found = search(settings)
    index = scene.index
    assert (found["index"], found["k"]) == (str(settings.index), 7)
    assert [result["query"] for result in found["results"]] == index.queries.names()
    assert [result["neighbors"] for result in found["results"]] == expected_neighbors(scene, index.queries.codes, 7)
    assert json.loads(json.dumps(found)) == found
    assert search(replace(settings, limit=3))["results"] == found["results"][:3]


def test_what_the_command_leaves_out_of_the_query_split_is_said(scene, caplog):
    caplog.set_level("INFO", "sdc")
    asked = ["search", "--index", str(scene.folder / "db.bin"), "-k", "1"]
    for options, shown in (([], 10), (["--limit", "3"], 3), (["--limit", "30"], 30), (["--id", "img/0007.png"], 1)):
        caplog.clear()
        lines = CliRunner().invoke(cli, [*asked, *options]).stdout.splitlines()
        assert len(lines) == shown
        said = f"the first {shown} of 30 queries of the query split: --limit takes more"
        assert (said in caplog.text) == (shown in (10, 3))
    caplog.clear()
    assert len(json.loads(CliRunner().invoke(cli, [*asked, "--json"]).stdout)["results"]) == 30
    assert not caplog.text


def test_a_query_that_finds_nothing_says_so(make_scene):
    scene = make_scene(database="without")
    asked = ["search", "--index", str(scene.folder / "db.bin"), "--radius", "0", "--limit", "30"]
    lines = CliRunner().invoke(cli, asked).stdout.splitlines()
    found = [result["neighbors"] for result in search(SearchSettings(scene.folder / "db.bin", radius=0))["results"]]
    assert [line.endswith(": nothing") for line in lines] == [not near for near in found]
    assert [] in found


def test_a_k_beyond_the_database_returns_every_row(scene, settings):
    found = search(replace(settings, k=10_000, limit=1))
    assert found["k"] == 400
    assert sorted(near["row"] for near in found["results"][0]["neighbors"]) == list(range(400))


@pytest.mark.parametrize("kind", ["npy", "npz", "h5"])
def test_vectors_of_a_file_are_encoded_by_the_recorded_model(scene, settings, kind):
    vectors = np.random.default_rng(3).standard_normal((9, 24)).astype(np.float32)
    path = scene.folder / f"queries.{kind}"
    names = [str(i) for i in range(9)]
    if kind == "npy":
        np.save(path, vectors)
    elif kind == "npz":
        names = [f"q{i}" for i in range(9)]
        np.savez(path, features=vectors, ids=np.array(names))
    else:
        path, vectors, names = scene.folder / "feats.h5", scene.store.features, scene.store.ids()
    found = search(replace(settings, queries=path))
    assert [result["query"] for result in found["results"]] == names
    codes = pack(scene.model.outputs(vectors))
    assert [result["neighbors"] for result in found["results"]] == expected_neighbors(scene, codes, 7)


def test_queries_compared_by_codes_open_no_features(settings, monkeypatch):
    opened = []
    monkeypatch.setattr(feature_source, "FeatureStore", lambda *arguments, **options: opened.append(arguments))
    for one in (settings, replace(settings, query="code"), replace(settings, radius=3)):
        assert search(one)["results"]
    assert not opened


def test_an_item_is_searched_by_its_id(scene, settings):
    found = search(replace(settings, ids=("img/0007.png", "img/0123.png")))
    codes = scene.index.database.codes[[7, 123]]
    assert [result["query"] for result in found["results"]] == ["img/0007.png", "img/0123.png"]
    assert [result["neighbors"] for result in found["results"]] == expected_neighbors(scene, codes, 7)


def test_an_id_of_the_query_split_alone_is_found(make_scene):
    scene = make_scene(database="without")
    name = scene.index.queries.names()[4]
    assert scene.index.database.find(name) == -1
    found = search(SearchSettings(scene.folder / "db.bin", ids=(name,), k=3))
    assert found["results"][0]["neighbors"] == expected_neighbors(scene, scene.index.queries.codes[4:5], 3)[0]


def test_an_unknown_id_names_the_nearest(settings):
    with pytest.raises(UsageError, match=r"unknown id 'img/0007\.pgn'.*did you mean 'img/0007\.png'"):
        search(replace(settings, ids=("img/0007.pgn",)))
    with pytest.raises(UsageError, match=r"its ids look like 'img/0000\.png'"):
        search(replace(settings, ids=("§",)))


def test_queries_of_another_head_are_refused_with_fingerprints(scene, settings):
    np.save(scene.folder / "q.npy", np.ones((2, 24), np.float32))
    recorded = scene.model.fingerprint
    scene.write_model(seed=9)  # in the recorded place
    with pytest.raises(UsageError) as caught:
        search(replace(settings, queries=scene.folder / "q.npy"))
    assert recorded in str(caught.value)
    assert scene.model.fingerprint in str(caught.value)
    scene.write_model("right.safetensors")
    right = replace(settings, queries=scene.folder / "q.npy", model=scene.folder / "right.safetensors")
    assert len(search(right)["results"]) == 2


def test_a_model_that_is_gone_is_asked_for(scene, settings):
    np.save(scene.folder / "q.npy", np.ones((2, 24), np.float32))
    (scene.folder / "model.safetensors").unlink()
    with pytest.raises(SdcError, match=r"is not at .*model\.safetensors.*--model"):
        search(replace(settings, queries=scene.folder / "q.npy"))


@pytest.mark.parametrize(
    ("vectors", "error", "message"),
    [
        (np.full((4, 24), np.nan, np.float32), SdcError, r"4 vectors hold NaN or Inf \(rows 0, 1, 2, 3\)"),
        (np.diag([np.inf] * 24)[:2].astype(np.float32), SdcError, "NaN or Inf"),
        (np.ones((4, 25), np.float32), UsageError, r"shape \(4, 25\), the model .* takes 24 dimensions"),
        (np.ones(24, np.float32), UsageError, "two-dimensional"),
        (np.ones((0, 24), np.float32), SdcError, "no values"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(scene, settings, vectors, error, message):
    path = scene.folder / "q.npy"
    np.save(path, vectors)
    with pytest.raises(error, match=message):
        search(replace(settings, queries=path))


def test_files_that_are_not_there_are_named(scene, settings):
    with pytest.raises(SdcError, match=r"gone\.npy"):
        search(replace(settings, queries=scene.folder / "gone.npy"))
    with pytest.raises(SdcError, match=r"gone\.bin"):
        search(replace(settings, index=scene.folder / "gone.bin"))


def test_an_image_is_searched_through_the_recorded_backbone(scene):
    from PIL import Image

    from sdc.extract import ExtractSettings
    from sdc.extract import extract_features as run

    folder = scene.folder / "pictures"
    rng = np.random.default_rng(0)
    for kind in ("a", "b"):
        (folder / kind).mkdir(parents=True)
        for number in range(6):
            coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((48, 48)).save(folder / kind / f"{number}.png")
    made = scene.folder / "pictures.h5"
    run(ExtractSettings("resnet18", "folder", folder, "random:0", 64, out=made, workers=1, device="cpu"))
    scene.write_model("wide.safetensors", dimension=512, bits=256)
    scene.encode("pictures.h5", "wide.safetensors", "pictures.bin")
    ids = Index.open(scene.folder / "pictures.bin").database.names()
    images = tuple(folder / ids[place] for place in (2, 5))
    found = search(SearchSettings(scene.folder / "pictures.bin", images=images, k=3))
    assert [result["query"] for result in found["results"]] == [str(path) for path in images]
    # Features are stored in half precision and batches differ: a bit or two near zero may flip.
    nearest = [result["neighbors"][0] for result in found["results"]]
    assert [near["id"] for near in nearest] == [ids[2], ids[5]]
    assert max(near["distance"] for near in nearest) <= 2
    with pytest.raises(SdcError, match=r"none\.png"):
        search(SearchSettings(scene.folder / "pictures.bin", images=(folder / "none.png",)))


def test_images_need_a_recorded_backbone(settings, scene):
    with pytest.raises(UsageError, match="does not record a backbone"):
        search(replace(settings, images=(scene.folder / "a.png",)))


@pytest.mark.parametrize(("options", "message"), [({"k": 0}, "k must be at least 1"), ({"limit": 0}, "limit")])
def test_counts_below_one_are_refused(settings, options, message):
    with pytest.raises(UsageError, match=message):
        search(replace(settings, **options))


def test_an_index_without_queries_asks_for_some(make_scene):
    scene = make_scene(queries=0)
    with pytest.raises(UsageError, match="no query split: give queries with --queries FILE"):
        search(SearchSettings(scene.folder / "db.bin"))


def test_plain_faiss_is_searched_by_row_or_with_a_named_model(scene, caplog):
    faiss = faiss_module()
    plain = faiss.IndexBinaryFlat(16)
    plain.add(scene.index.database.codes)
    path = scene.folder / "plain.bin"
    faiss.write_index_binary(plain, str(path))
    by_id = search(SearchSettings(path, ids=("12",), k=1))
    assert by_id["results"][0]["neighbors"][0]["distance"] == 0
    np.save(scene.folder / "q.npy", scene.store.features[:3])
    with pytest.raises(UsageError, match="records no model"):
        search(SearchSettings(path, queries=scene.folder / "q.npy"))
    trusted = SearchSettings(path, queries=scene.folder / "q.npy", model=scene.folder / "model.safetensors", k=5)
    found = [result["neighbors"] for result in search(trusted)["results"]]
    assert [[(n["row"], n["distance"]) for n in near] for near in found] == [
        [(n["row"], n["distance"]) for n in near]
        for near in expected_neighbors(scene, pack(scene.model.outputs(scene.store.features[:3])), 5)
    ]
    assert "taken on trust" in caplog.text


def test_neither_search_nor_evaluation_imports_torch(scene):
    np.save(scene.folder / "q.npy", np.ones((2, 24), np.float32))
    script = """
import sys
from pathlib import Path
from sdc.retrieve.evaluate import EvaluateSettings, evaluate
from sdc.retrieve.search import search
from sdc.retrieve.search_settings import SearchSettings
folder = Path(sys.argv[1])
assert search(SearchSettings(folder / "db.bin"))["results"]
assert search(SearchSettings(folder / "db.bin", queries=folder / "q.npy", ids=("img/0001.png",)))["results"]
assert evaluate(EvaluateSettings(folder / "db.bin", neighbors="float"))["map"] > 0
assert "torch" not in sys.modules, "torch was imported"
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(scene.folder)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_modules_leaves_faiss_and_torch_alone():
    script = """
import sys
import sdc.retrieve.encode, sdc.retrieve.evaluate.run, sdc.retrieve.index.index, sdc.retrieve.search
heavy = {"torch", "faiss", "h5py", "scipy", "PIL", "rich"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_faiss_threads_sleep_and_their_number_stays(scene):
    faiss = faiss_module()
    before = faiss.omp_get_max_threads()
    Index.open(scene.folder / "db.bin").search(np.zeros((1, 2), np.uint8), 3)
    assert faiss.omp_get_max_threads() == before
    script = (
        "import os; from sdc.retrieve.index.threads import faiss_module; "
        "faiss_module(); print(os.environ['OMP_WAIT_POLICY'])"
    )
    unset = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, env=unset)
    assert done.stdout.strip() == "PASSIVE"
