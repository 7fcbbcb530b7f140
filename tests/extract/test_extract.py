"""The whole stage on small images: features, resuming, damaged images, settings; and the encoder for searches."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warm
from PIL import Image

from sdc.errors import SdcError, UsageError
from sdc.extract import backbones
from sdc.extract import run as run_module
from sdc.extract.datasets import Dataset
from sdc.extract.encoder import Encoder, features_of_images, recorded_encoder
from sdc.extract.parts.part_set import Parts, parts_folder
from sdc.extract.run import ExtractSettings
from sdc.extract.run import extract_features as run
from sdc.extract.store import FeatureStore


def fill(root: Path, count: int) -> Path:
    """Images of noise in three subfolders, of different sizes and colours."""
    random = np.random.default_rng(0)
    for number in range(count):
        folder = root / f"class{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        height, width = random.integers(8, 40, 2)
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels if number % 4 else pixels[..., 0].copy()).save(folder / f"{number:04d}.png")
    return root


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return fill(tmp_path / "images", 20)


@pytest.fixture
def settings(tmp_path: Path, images: Path) -> ExtractSettings:
    return ExtractSettings(
        backbone="test_resnet", data="folder", root=images, weights="random:0", image_size=32,
        batch_size=3, part_rows=8, workers=2, device="cpu", out=tmp_path / "feats.h5",
    )  # fmt: skip


def changed(settings: ExtractSettings, **changes: Any) -> ExtractSettings:
    return dataclasses.replace(settings, **changes)


def expected_features(store: FeatureStore, root: Path, weights: str = "random:0") -> np.ndarray:
    """One image at a time, with torchvision's transforms."""
    import timm
    from torchvision import transforms

    torch.manual_seed(int(weights.split(":")[1]))
    model = timm.create_model("test_resnet", num_classes=0).eval()
    prepare = transforms.Compose(
        [
            transforms.Resize(round(32 * 256 / 224), transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        ]
    )
    with torch.inference_mode():
        rows = [model(prepare(Image.open(root / name).convert("RGB"))[None]) for name in store.ids()]
    return torch.cat(rows).numpy()


def test_the_names_of_classes_are_kept_and_told(
    settings: ExtractSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load = run_module.load_dataset

    def as_earlier(*arguments: Any) -> Dataset:
        dataset = load(*arguments)
        return dataclasses.replace(dataset, listing=dataclasses.replace(dataset.listing, classes={}))

    caplog.set_level("INFO", "sdc")
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "load_dataset", as_earlier)
        run(settings)
    assert FeatureStore(run(settings)).classes == {}
    assert "feats.h5 is of an earlier version, which kept no names of classes: remove it" in caplog.text
    settings.out.unlink()
    assert FeatureStore(run(settings)).classes == {"labels": {0: "class0", 1: "class1", 2: "class2"}}
    assert "labels: 3 classes: class0 (7), class1 (7), class2 (6)" in caplog.text


def test_features_are_those_of_the_backbone(settings: ExtractSettings, images: Path) -> None:
    assert run(settings) == settings.out
    store = FeatureStore(settings.out)
    assert store.features.dtype == np.float16
    assert store.ids() == sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    np.testing.assert_allclose(store.features, expected_features(store, images), rtol=2e-3, atol=2e-3)
    assert store.labels is not None
    assert [f"class{label}" for label in store.labels] == [name.split("/")[0] for name in store.ids()]
    assert {name: len(rows) for name, rows in store.splits.items()} == {"train": 18, "query": 2, "database": 20}
    assert store.skipped == []
    assert not parts_folder(settings.out).exists()

    found = store.provenance
    images_hash = found["settings"].pop("images")
    assert len(images_hash) == 32
    assert found.pop("version")
    assert found.pop("weights_sha256") == backbones.load_backbone("test_resnet", "random:0", 32).weights_sha256
    assert found == {
        "source": "extract", "backbone": "test_resnet", "weights": "random:0", "dataset": "folder",
        "preprocessing": {
            "size": 32, "resize": "crop", "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3,
        },
        "protocol": {"name": "category", "at": 1000},
        "settings": {"limit": None, "seed": 0, "split": None},
    }  # fmt: skip


def test_the_content_does_not_depend_on_workers_or_parts(settings: ExtractSettings, tmp_path: Path) -> None:
    run(settings)
    for number, changes in enumerate([{"workers": 1}, {"workers": 5}, {"part_rows": 9}, {"part_rows": 1000}]):
        # Batches of 3 out of parts of 8 differ from those out of parts of 9, which moves the last bits.
        other = FeatureStore(run(changed(settings, out=tmp_path / f"{number}.h5", **changes)))
        first = FeatureStore(settings.out)
        if "workers" in changes:
            assert (tmp_path / f"{number}.h5").read_bytes() == settings.out.read_bytes()
        np.testing.assert_allclose(other.features, first.features, rtol=2e-3, atol=2e-3)
        assert other.ids() == first.ids()


CHILD = """
import json, os, pathlib, signal, sys
from sdc.extract.parts.part_set import Parts
write, written = Parts.write, []
def killing(*arguments):
    write(*arguments)
    written.append(arguments)
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
Parts.write = killing
from sdc.extract.run import ExtractSettings
from sdc.extract.run import extract_features as run
settings = json.loads(sys.argv[1])
run(ExtractSettings(**{**settings, "root": pathlib.Path(settings["root"]), "out": pathlib.Path(settings["out"])}))
"""


def test_after_a_kill_the_same_command_ends_with_the_same_bytes(
    settings: ExtractSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(settings.root or tmp_path, 300)
    whole = run(changed(settings, out=tmp_path / "whole.h5"))
    script = json.dumps({**dataclasses.asdict(settings), "root": str(settings.root), "out": str(settings.out)})
    killed = warm.run(["-c", CHILD, script], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = parts_folder(settings.out)
    finished = {path.name for path in folder.glob("0*.safetensors")}
    assert 3 <= len(finished) < 38
    assert not settings.out.exists()

    embedded = []
    original = Encoder.__call__

    def counting(self: Encoder, pixels: np.ndarray) -> np.ndarray:
        embedded.append(len(pixels))
        return original(self, pixels)

    monkeypatch.setattr(Encoder, "__call__", counting)
    run(settings)
    assert settings.out.read_bytes() == whole.read_bytes()
    assert sum(embedded) <= 300 - 8 * (len(finished) - 1)  # the last part may be the one of 4 rows
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "feats"))] == ["feats.h5"]


def test_an_interruption_keeps_the_finished_parts(
    settings: ExtractSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = Encoder.__call__
    calls = []

    def interrupted(self: Encoder, pixels: np.ndarray) -> np.ndarray:
        calls.append(len(pixels))
        if len(calls) == 5:  # a part of 8 rows is 3 batches
            raise KeyboardInterrupt
        return original(self, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(settings)
    assert "1 of 3 parts are kept" in caplog.text
    assert "the same command goes on" in caplog.text
    assert not settings.out.exists()
    with pytest.raises(UsageError, match=r"unfinished run with other settings.*seed: found 0, wanted 1"):
        run(changed(settings, seed=1))
    run(settings)
    whole = run(changed(settings, out=tmp_path / "whole.h5"))
    assert settings.out.read_bytes() == whole.read_bytes()


def test_damaged_images_are_left_out_and_reported(
    settings: ExtractSettings, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = (images / "class1/0001.png").read_bytes()
    (images / "class1/0001.png").write_bytes(good[: len(good) // 2])
    (images / "class0/0000.png").write_bytes(b"")
    (images / "class2/0005.png").write_bytes(b"not an image")
    run(changed(settings, split="0.3"))
    store = FeatureStore(settings.out)
    assert len(store) == 17
    assert [name for name, _ in store.skipped] == ["class0/0000.png", "class1/0001.png", "class2/0005.png"]
    assert dict(store.skipped)["class0/0000.png"] == "the file is empty"
    assert "3 of 20 images could not be read and were left out (class0/0000.png: the file is empty;" in caplog.text
    np.testing.assert_allclose(store.features, expected_features(store, images), rtol=2e-3, atol=2e-3)
    assert sorted([*store.splits["query"], *store.splits["database"]]) == list(range(17))
    assert "class0/0000.png" not in store.ids()


def test_a_part_of_damaged_images_alone(settings: ExtractSettings, images: Path) -> None:
    for path in sorted(images.rglob("*.png"))[:8]:
        path.write_bytes(b"damaged")
    assert len(FeatureStore(run(settings))) == 12


def test_no_readable_image_is_an_error_that_leaves_nothing(settings: ExtractSettings, images: Path) -> None:
    for path in images.rglob("*.png"):
        path.write_bytes(b"damaged")
    with pytest.raises(SdcError, match=r"none of the 20 images can be read; the first: class0/0000.png: not an image"):
        run(settings)
    assert not settings.out.exists()
    assert not parts_folder(settings.out).exists()


def test_a_whole_output_of_the_same_settings_is_left_alone(
    settings: ExtractSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(settings)
    before = settings.out.stat()
    monkeypatch.setattr(Encoder, "__call__", lambda self, pixels: pytest.fail("embedded again"))
    assert run(changed(settings, batch_size=7, workers=1, part_rows=5)) == settings.out
    assert settings.out.stat().st_mtime_ns == before.st_mtime_ns


def test_features_older_than_coarse_labels_still_belong(
    settings: ExtractSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stop(parts: Parts) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Parts, "assemble", stop)
        run(settings)
    old = FeatureStore(run(changed(settings, out=settings.out.with_name("old.h5"))))
    assert old.labels_coarse is None

    load = run_module.load_dataset

    def with_coarse(*arguments: Any) -> Dataset:
        dataset = load(*arguments)
        assert dataset.listing.labels is not None
        listing = dataclasses.replace(dataset.listing, labels_coarse=dataset.listing.labels // 2)
        return dataclasses.replace(dataset, listing=listing)

    monkeypatch.setattr(run_module, "load_dataset", with_coarse)
    caplog.set_level("INFO", "sdc")
    run(changed(settings, out=old.path))
    assert "nothing to do" in caplog.text
    assert FeatureStore(old.path).fingerprint == old.fingerprint
    new = FeatureStore(run(settings))  # goes on from the parts
    assert "3 of 3 parts are there already" in caplog.text
    assert new.labels_coarse is not None
    assert (new.labels_coarse == old.labels // 2).all()
    assert new.provenance == old.provenance
    assert new.fingerprint != old.fingerprint


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"weights": "random:1"}, "weights_sha256"),
        ({"image_size": 40}, "preprocessing.size: found 32, wanted 40"),
        ({"limit": 10}, "settings.limit: found null, wanted 10"),
        ({"split": "0.5"}, 'settings.split: found null, wanted "0.5"'),
        ({"backbone": "test_vit"}, "backbone"),
    ],
)
def test_other_settings_are_refused_unless_overwritten(
    settings: ExtractSettings, changes: dict[str, Any], field: str
) -> None:
    run(settings)
    before = settings.out.read_bytes()
    with pytest.raises(UsageError, match="made with other settings") as caught:
        run(changed(settings, **changes))
    assert field in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert settings.out.read_bytes() == before
    run(changed(settings, **changes, overwrite=True))
    assert settings.out.read_bytes() != before


def test_images_that_changed_are_noticed(settings: ExtractSettings, images: Path) -> None:
    run(settings)
    Image.new("RGB", (50, 50)).save(images / "class0/0000.png")
    with pytest.raises(UsageError, match=r"settings\.images"):
        run(settings)


def test_a_limit_keeps_every_split_and_class(settings: ExtractSettings) -> None:
    store = FeatureStore(run(changed(settings, limit=10)))
    assert {name: len(rows) for name, rows in store.splits.items()} == {"train": 9, "query": 1, "database": 10}
    assert store.labels is not None
    assert set(store.labels.tolist()) == {0, 1, 2}
    all_of_them = FeatureStore(run(changed(settings, out=settings.out.with_name("all.h5"))))
    rows = np.array([all_of_them.ids().index(name) for name in store.ids()])
    np.testing.assert_allclose(store.features, all_of_them.features[rows], rtol=2e-3, atol=2e-3)


def test_overflow_of_float16_is_refused(settings: ExtractSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Encoder.normalised
    monkeypatch.setattr(Encoder, "normalised", lambda self, pixels: original(self, pixels) * 1e9)
    with pytest.raises(SdcError, match="infinite"):
        run(settings)
    assert not settings.out.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "--batch-size is 0, expected at least 1"),
        ({"part_rows": 0}, "--part-rows"),
        ({"limit": 0}, "--limit"),
        ({"workers": -1}, "--workers"),
        ({"image_size": 0}, "--image-size"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ExtractSettings(**changes)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", ""])
def test_devices_that_are_not_there(settings: ExtractSettings, device: str) -> None:
    with pytest.raises(UsageError, match=f"--device {device}: cannot be used here"):
        run(changed(settings, device=device))
    assert list(settings.out.parent.iterdir()) == [settings.root]


def test_an_out_in_no_folder(settings: ExtractSettings, tmp_path: Path) -> None:
    with pytest.raises(SdcError, match=r"the folder .* does not exist"):
        run(changed(settings, out=tmp_path / "absent" / "feats.h5"))


def test_images_become_the_rows_they_were(settings: ExtractSettings, images: Path) -> None:
    run(settings)
    store = FeatureStore(settings.out)
    rows = np.array([0, 7, 19])
    found = features_of_images([images / name for name in store.ids(rows)], store.provenance, batch_size=2)
    assert found.dtype == store.features.dtype
    np.testing.assert_allclose(found, store.take(rows), rtol=2e-3, atol=2e-3)


def test_an_image_that_cannot_be_read_is_named(settings: ExtractSettings, images: Path, tmp_path: Path) -> None:
    provenance = FeatureStore(run(settings)).provenance
    (tmp_path / "bad.jpg").write_bytes(b"bad")
    with pytest.raises(SdcError, match=r"cannot read the image .*bad\.jpg: not an image"):
        features_of_images([images / "class0/0000.png", tmp_path / "bad.jpg"], provenance)
    with pytest.raises(SdcError, match=r"absent\.jpg: No such file"):
        features_of_images([tmp_path / "absent.jpg"], provenance)
    with pytest.raises(UsageError, match="no image is named"):
        features_of_images([], provenance)


def test_only_the_recorded_weights_will_do(settings: ExtractSettings, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for seed in (4, 5):
        module = backbones.load_backbone("test_resnet", f"random:{seed}", 32).module
        save_file(module.state_dict(), tmp_path / f"{seed}.safetensors")
    provenance = FeatureStore(run(changed(settings, weights=str(tmp_path / "4.safetensors")))).provenance
    assert provenance["weights"] == "file:4.safetensors"
    with pytest.raises(UsageError, match=r"weights file 4\.safetensors"):
        recorded_encoder(provenance)
    with pytest.raises(SdcError, match="are not those of the features"):
        recorded_encoder(provenance, str(tmp_path / "5.safetensors"))
    assert recorded_encoder(provenance, str(tmp_path / "4.safetensors")).backbone.weights == "file:4.safetensors"


def test_imported_features_have_no_encoder() -> None:
    with pytest.raises(UsageError, match="were imported"):
        recorded_encoder({"source": "import", "backbone": None})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_mixed_precision_is_close_to_the_cpu() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 96, 96, 3), np.uint8)
    rows = {
        device: Encoder(backbones.load_backbone("efficientnet_lite0", None, 96), device)(pixels).astype(np.float64)
        for device in ("cpu", "cuda")
    }
    cosine = (rows["cpu"] * rows["cuda"]).sum(1) / np.prod([np.linalg.norm(x, axis=1) for x in rows.values()], axis=0)
    assert cosine.min() > 0.999
