"""`--views` and `--tokens`: what they hold, that nothing else changes, that a kill or a flipped bit does no harm."""

from __future__ import annotations

import dataclasses
import pickle
import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import timm
import torch
import warm
from PIL import Image

from sdc.api import inspect
from sdc.errors import SdcError, UsageError
from sdc.extract import backbones
from sdc.extract import run as run_module
from sdc.extract.datasets import fashion_mnist
from sdc.extract.encoder import Encoder
from sdc.extract.parts.part_set import Parts, parts_folder
from sdc.extract.run import ExtractSettings
from sdc.extract.run import extract_features as run
from sdc.extract.store import FeatureStore, Listing, file_format, write_features

fashion = pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")


def unit(rows: np.ndarray) -> np.ndarray:
    centred = rows.astype(np.float64) - rows.astype(np.float64).mean(0)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)


def flip(path: Path, name: str, number: int) -> None:
    """Flips one bit of a dataset's byte of this number."""
    with h5py.File(path) as file:
        at = file[name].id.get_offset() + number
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("views")


@pytest.fixture(scope="module")
def photographs(folder: Path) -> ExtractSettings:
    """Fashion-MNIST through a trained network."""
    return ExtractSettings(image_size=64, limit=100, batch_size=16, part_rows=32, device="cpu", out=folder / "plain.h5")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> ExtractSettings:
    """Fashion-MNIST through a vision transformer in a moment: 2 x 2 patches, two views and tokens."""
    return ExtractSettings(
        backbone="test_vit", weights="random:0", image_size=32, limit=40, views=2, tokens=True,
        batch_size=3, part_rows=8, workers=2, device="cpu", out=folder / "tiny.h5",
    )  # fmt: skip


def changed(settings: ExtractSettings, **changes: Any) -> ExtractSettings:
    return dataclasses.replace(settings, **changes)


@fashion
def test_views_are_of_the_same_images_beside_the_plain_one(photographs: ExtractSettings) -> None:
    plain = FeatureStore(run(photographs))
    store = FeatureStore(run(changed(photographs, views=3, out=photographs.out.with_name("three.h5"))))
    assert plain.views == []
    assert plain.tokens is store.tokens is None
    np.testing.assert_array_equal(store.features, plain.features)
    assert store.ids() == plain.ids()
    assert store.fingerprint != plain.fingerprint
    assert [(view.shape, view.dtype) for view in store.views] == [(plain.features.shape, np.float16)] * 2

    rows = [unit(view) for view in (store.features, *store.views)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        similarity = rows[one] @ rows[other].T
        own = similarity.diagonal()
        assert own.max() < 0.999, "they are augmented, each for itself"
        others = similarity[~np.eye(len(own), dtype=bool)].reshape(len(own), -1)
        assert (own > others.mean(1)).all()
        assert (own > np.quantile(others, 0.9, axis=1)).mean() > 0.8
        assert (own > others.max(1)).mean() > 0.3  # chance would be 0.01


@fashion
def test_provenance_and_inspect_name_them(tiny: ExtractSettings) -> None:
    store = FeatureStore(run(tiny))
    assert store.provenance["settings"]["views"] == 2
    assert store.provenance["settings"]["tokens"] is True
    assert store.provenance["augmentation"]["crop"] == [0.5, 1.0]
    assert store.tokens is not None
    assert (store.tokens.shape, store.tokens.dtype) == ((40, 4, 64), np.float16)
    for array in (store.views[0], store.tokens):
        assert isinstance(array, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    found = inspect(tiny.out)
    assert (found["views"], found["tokens"], found["whole"]) == (2, [4, 64], True)
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again.tokens, store.tokens)
    with pytest.raises(UsageError, match=r"settings\.tokens: found true, wanted null; settings\.views: found 2"):
        run(changed(tiny, views=1, tokens=False))
    with pytest.raises(UsageError, match=r"settings\.views: found 2, wanted 3"):
        run(changed(tiny, views=3))


@fashion
def test_workers_parts_and_batches_do_not_change_them(tiny: ExtractSettings) -> None:
    first = FeatureStore(run(tiny))
    for number, changes in enumerate([{"workers": 1}, {"workers": 4}, {"batch_size": 8}, {"part_rows": 11}]):
        out = tiny.out.with_name(f"tiny{number}.h5")
        other = FeatureStore(run(changed(tiny, out=out, **changes)))
        if "workers" in changes:
            assert out.read_bytes() == tiny.out.read_bytes()
        # Another size of batch moves the last bits, of views and tokens no more than of the plain features.
        np.testing.assert_allclose(other.views[0], first.views[0], rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(other.tokens, first.tokens, rtol=2e-3, atol=2e-3)


@fashion
def test_a_sample_has_the_views_of_the_whole(tiny: ExtractSettings) -> None:
    whole = FeatureStore(run(tiny))
    sample = FeatureStore(run(changed(tiny, limit=25, out=tiny.out.with_name("sample.h5"))))
    ids = whole.ids()
    shared = [(row, ids.index(name)) for row, name in enumerate(sample.ids()) if name in ids]
    assert len(shared) > 3
    for mine, theirs in shared:
        np.testing.assert_allclose(sample.views[0][mine], whole.views[0][theirs], rtol=2e-3, atol=2e-3)
    other = FeatureStore(run(changed(tiny, seed=1, limit=None, data="folder", **images(tiny, 6))))
    same = FeatureStore(run(changed(tiny, seed=0, limit=None, data="folder", **images(tiny, 6), overwrite=True)))
    np.testing.assert_array_equal(other.features, same.features)
    assert (other.views[0] != same.views[0]).any(axis=1).all()


def images(settings: ExtractSettings, count: int) -> dict[str, Path]:
    """Small images in a folder, and a name for their features."""
    root = settings.out.with_name("images")
    root.mkdir(exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 30 + number, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
    return {"root": root, "out": settings.out.with_name("images.h5")}


def test_images_that_cannot_be_read_are_left_out_of_all_of_them(tiny: ExtractSettings, tmp_path: Path) -> None:
    there = changed(tiny, data="folder", limit=None, part_rows=4, **images(changed(tiny, out=tmp_path / "x.h5"), 12))
    whole = FeatureStore(run(changed(there, out=tmp_path / "whole.h5")))
    for number in (1, 10, 11, 2, 3):  # in order of names 0, 1, 10, 11 | 2, ...: three of the first part
        (tmp_path / "images" / f"{number}.png").write_bytes(b"damaged")
    (tmp_path / "images" / "0.png").write_bytes(b"")  # now all of it
    store = FeatureStore(run(there))
    rows = [whole.ids().index(name) for name in store.ids()]
    assert len(rows) == 6
    for found, expected in ((store.views[0], whole.views[0]), (store.tokens, whole.tokens)):
        assert expected is not None
        np.testing.assert_allclose(found, expected[rows], rtol=2e-3, atol=2e-3)


KILLED = """
import os, signal
from sdc.extract.parts.part_set import Parts
write, written = Parts.write, []
def killing(*arguments):
    write(*arguments)
    written.append(arguments)
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
Parts.write = killing
from sdc.cli import main
main()
"""


@fashion
def test_after_a_kill_the_same_command_ends_with_the_same_bytes(tiny: ExtractSettings, tmp_path: Path) -> None:
    settings = changed(tiny, limit=300)
    whole = run(changed(settings, out=tmp_path / "whole.h5"))
    out = tmp_path / "feats.h5"
    command = ["extract", "--tokens", "--out", str(out)]
    for name in ("backbone", "weights", "image_size", "limit", "views", "batch_size", "part_rows", "workers", "device"):
        command += [f"--{name.replace('_', '-')}", str(getattr(settings, name))]
    killed = warm.run(["-c", KILLED, *command], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert 3 <= len(list(parts_folder(out).glob("0*.safetensors"))) < 38
    assert not out.exists()
    damaged = parts_folder(out) / "000001.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1  # in the last of its arrays
    damaged.write_bytes(data)
    warm.run(["-m", "sdc", *command], check=True, capture_output=True)
    assert out.read_bytes() == whole.read_bytes()


@fashion
@pytest.mark.parametrize("name", ["features", "views/1/features", "tokens"])
def test_a_flipped_bit_is_found(tiny: ExtractSettings, tmp_path: Path, name: str) -> None:
    path = tmp_path / "feats.h5"
    whole = run(tiny).read_bytes()
    for number in (0, 1001, 40 * 64 * 2 - 1):
        path.write_bytes(whole)
        flip(path, name, number)
        with pytest.raises(SdcError, match=rf"damaged in /{name}, rows 0 to 39"):
            FeatureStore(path)
        assert inspect(path)["whole"] is False


def test_tokens_have_a_checksum_a_block(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).standard_normal((700, 9, 64)).astype(np.float16)
    listing = Listing([str(row) for row in range(700)], {})
    column = file_format.Column("tokens", tokens.shape, tokens.dtype, np.array_split(tokens, 5))
    features = tokens[:, 0]
    path = write_features(tmp_path / "f.h5", listing, {}, 64, np.float16, [features], further=[column])
    np.testing.assert_array_equal(FeatureStore(path).tokens, tokens)
    flip(path, "tokens", 600 * 9 * 64 * 2 + 5)
    with pytest.raises(SdcError, match=r"damaged in /tokens, rows (\d+) to (\d+)") as caught:
        FeatureStore(path)
    first, last = (int(word) for word in str(caught.value).split("rows ")[1].split(":")[0].split(" to "))
    assert 0 < first <= 600 <= last < 700
    tokens[5, 8, 1] = np.inf
    with pytest.raises(SdcError, match=r"1 of 700 rows hold .*\(row 5\)"):
        write_features(tmp_path / "g.h5", listing, {}, 64, np.float16, [features], further=[column])
    assert not (tmp_path / "g.h5").exists()


def test_parts_refuse_further_arrays_that_do_not_fit(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "feats.h5", Listing(["a", "b", "c", "d"], {}), {}, 2)
    features, kept = np.zeros((2, 4), np.float16), np.arange(2)
    with pytest.raises(ValueError, match="part 0"):
        parts.write(0, features, kept, [], {"tokens": np.zeros((1, 3, 4), np.float16)})
    with pytest.raises(SdcError, match=r"1 rows hold NaN or infinite values \('b'\)"):
        parts.write(0, features, kept, [], {"tokens": np.stack([np.zeros((3, 4)), np.full((3, 4), np.nan)])})
    parts.write(0, features, kept, [], {"tokens": np.zeros((2, 3, 4), np.float16)})
    parts.write(1, features, kept + 2, [], {"tokens": np.zeros((2, 5, 4), np.float16)})
    with pytest.raises(SdcError, match="parts of different shapes"):
        parts.assemble()


@pytest.mark.parametrize(
    ("name", "size", "prefix", "width", "pool"),
    [
        ("test_vit", 48, 1, 64, "class"),
        ("test_vit2", 48, 1, 64, "mean, norm"),  # the last norm stands behind the pooling
        ("vit_small_patch16_dinov3", 64, 5, 384, "mean"),  # a class token and four registers
        ("vit_tiny_patch16_224", 224, 1, 192, "class"),
    ],
)
def test_tokens_are_the_patches_behind_the_last_norm(name: str, size: int, prefix: int, width: int, pool: str) -> None:
    encoder = Encoder(backbones.load_backbone(name, "random:1", size), "cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    features, tokens = encoder.with_tokens(pixels)
    assert tokens.shape == (2, (size // 16) ** 2, width)
    assert tokens.dtype == np.float16
    np.testing.assert_array_equal(features, encoder(pixels))

    with torch.inference_mode():
        sequence = encoder.module.forward_features(encoder.normalised(pixels))
        patches = sequence[:, prefix:]
        pooled = sequence[:, 0] if pool == "class" else patches.mean(1)
        if pool == "mean, norm":
            patches, pooled = encoder.module.fc_norm(patches), encoder.module.fc_norm(pooled)
    np.testing.assert_allclose(tokens, patches.numpy(), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(features, pooled.numpy(), rtol=2e-3, atol=2e-3)
    # What comes out of a layer norm that was not trained yet.
    np.testing.assert_allclose(tokens.astype(float).mean(2), 0, atol=1e-2)
    np.testing.assert_allclose(tokens.astype(float).std(2), 1, atol=2e-2)
    empty = encoder.with_tokens(pixels[:0])
    assert [array.shape for array in empty] == [(0, features.shape[1]), (0, *tokens.shape[1:])]


def test_tokens_go_row_by_row() -> None:
    encoder = Encoder(backbones.load_backbone("test_vit", "random:0", 48), "cpu")
    encoder.module.blocks = torch.nn.Identity()  # each patch by itself
    torch.nn.init.zeros_(encoder.module.pos_embed)
    for row, column in ((0, 1), (2, 0)):
        pixels = np.zeros((1, 48, 48, 3), np.uint8)
        pixels[0, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16] = 255
        tokens = encoder.with_tokens(pixels)[1][0]
        other = tokens[4]  # in the middle
        assert [place for place in range(9) if (tokens[place] != other).any()] == [3 * row + column]


@pytest.mark.parametrize("seed", [0, 1])
def test_an_images_patches_go_with_its_class_token(seed: int) -> None:
    """Even untrained, features lie nearer to the mean patch of their own images than to those of others."""
    encoder = Encoder(backbones.load_backbone("test_vit", f"random:{seed}", 64), "cpu")
    random = np.random.default_rng(seed)
    colours = random.integers(0, 206, (24, 1, 1, 3))
    pixels = (colours + random.integers(0, 50, (24, 64, 64, 3))).astype(np.uint8)
    features, tokens = encoder.with_tokens(pixels)
    similarity = unit(features) @ unit(tokens.astype(np.float32).mean(1)).T
    shifted = [np.roll(similarity, shift, axis=1).diagonal().mean() for shift in range(24)]
    assert np.argmax(shifted) == 0


@pytest.mark.parametrize("name", ["efficientnet_lite0", "vgg16", "resnet50", "swin_tiny_patch4_window7_224"])
def test_backbones_without_tokens_are_refused_before_any_work(
    tiny: ExtractSettings, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "load_backbone", lambda *_: pytest.fail("its weights were fetched"))
    expected = f"--tokens: {name} has no patch tokens, only vision transformers have: deit_base"
    with pytest.raises(UsageError, match=expected) as caught:
        run(changed(tiny, backbone=name, out=tmp_path / "feats.h5"))
    for other in str(caught.value).split("such as ")[1].split(", "):
        assert timm.is_model(other)
    assert not list(tmp_path.iterdir())


def test_no_view_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="--views is 0, expected at least 1"):
        ExtractSettings(views=0)
