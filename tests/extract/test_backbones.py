"""Which features each backbone gives, where weights come from, and what identifies them."""

from __future__ import annotations

import hashlib
import os
import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
from PIL import Image

from sdc.errors import SdcError, UsageError
from sdc.extract import backbones
from sdc.extract.backbones import vgg16
from sdc.extract.backbones.base import Backbone
from sdc.extract.backbones.efficientnet_lite0 import packaged
from sdc.extract.backbones.weights import sha256
from sdc.extract.encoder import Encoder
from sdc.extract.images import Preprocessing
from sdc.extract.run import ExtractSettings
from sdc.extract.run import extract_features as run
from sdc.extract.store import FeatureStore

load_sample_image = pytest.importorskip("sklearn.datasets").load_sample_image

TINY = "test_resnet"  # of timm: 0.5 million parameters


def noise(size: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def features(module: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return module(images)


def hooked(model: torch.nn.Module, layer: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What a layer puts out, (n, d)."""
    seen: list[torch.Tensor] = []
    layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output.flatten(1)))
    features(model.eval(), images)
    return seen[0]


@dataclass(frozen=True)
class Seen:
    """One pass of a photograph: what some layers put out, and what the backbone did."""

    backbone: Backbone
    layers: dict[str, torch.Tensor]
    features: torch.Tensor


DIMENSIONS = {"vgg16": 4096, "resnet50": 2048, "deit_base": 768, "vit_base": 768}
# Of timm's modules: those that stand around the tensor that is taken.
LAYERS = {
    "vgg16": ("features", "pre_logits.fc1", "pre_logits.fc2", "pre_logits.act2"),
    "resnet50": ("layer4",),
    "deit_base": ("blocks.11", "norm"),
    "vit_base": ("blocks.11", "norm"),
}


def photograph() -> Image.Image:
    return Image.fromarray(load_sample_image("china.jpg"))  # 640 x 427


@pytest.fixture(scope="module", params=list(DIMENSIONS))
def seen(request: pytest.FixtureRequest) -> Seen:
    backbone = backbones.load_backbone(request.param, "random:0")
    encoder = Encoder(backbone, "cpu")
    pixels = Preprocessing(backbone.image_size, "crop", backbone.mean, backbone.std).pixels(photograph())
    layers: dict[str, torch.Tensor] = {}
    for name in LAYERS[request.param]:
        # A copy: ReLUs work in place.
        backbone.module.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: layers.update({name: output.clone()})
        )
    return Seen(backbone, layers, features(encoder.module, encoder.normalised(pixels[None])))


def test_the_papers_backbones_get_the_papers_input(seen: Seen) -> None:
    """224 pixels, bicubic, from 256 or squashed, ImageNet's mean and std: what torchvision's transforms give."""
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    backbone = seen.backbone
    bicubic = InterpolationMode.BICUBIC
    last = [ToTensor(), Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    resizes = {"crop": [Resize(256, bicubic), CenterCrop(224)], "squash": [Resize((224, 224), bicubic)]}
    for resize, first in resizes.items():
        pixels = Preprocessing(backbone.image_size, resize, backbone.mean, backbone.std).pixels(photograph())
        found = Encoder(backbone, "cpu").normalised(pixels[None])
        assert found.shape == (1, 3, 224, 224)
        torch.testing.assert_close(found, Compose([*first, *last])(photograph())[None], rtol=0, atol=1e-5)


def test_the_papers_backbones_give_the_papers_features(seen: Seen) -> None:
    """fc7 behind its ReLU, the global average, the CLS token behind the last norm."""
    import torch.nn.functional as F

    name, module, layers = seen.backbone.name, seen.backbone.module, seen.layers
    assert seen.features.shape == (1, seen.backbone.dimension) == (1, DIMENSIONS[name])
    if name == "vgg16":
        weights = module.state_dict()
        fc6 = F.linear(
            layers["features"].flatten(1), weights["pre_logits.fc1.weight"].flatten(1), weights["pre_logits.fc1.bias"]
        )
        torch.testing.assert_close(layers["pre_logits.fc1"].flatten(1), fc6, rtol=1e-3, atol=1e-6)
        assert (layers["pre_logits.fc2"] < 0).any()
        expected = layers["pre_logits.fc2"].flatten(1).clamp(min=0)  # with a dropout, half would be zeroed
        torch.testing.assert_close(layers["pre_logits.act2"].flatten(1), expected, rtol=0, atol=0)
    elif name == "resnet50":
        assert layers["layer4"].shape == (1, 2048, 7, 7)
        expected = layers["layer4"].mean((2, 3))
    else:
        assert layers["norm"].shape == (1, 1 + 14 * 14, 768)
        expected = layers["norm"][:, 0]
        assert not torch.allclose(layers["blocks.11"][:, 0], expected, atol=1e-3)
        assert not torch.allclose(layers["norm"].mean(1), expected, atol=1e-3)
    torch.testing.assert_close(seen.features, expected, rtol=1e-5, atol=1e-6)


def test_vit_base_is_timms_default_of_the_papers_year() -> None:
    """By timm's own name the same weights keep the mean and std that they were trained with."""
    recipe = backbones.backbone_spec("vit_base")
    assert recipe.model == "vit_base_patch16_224.augreg_in21k_ft_in1k"
    same = backbones.load_backbone(recipe.model, "random:0", 32)
    assert same.mean == same.std == (0.5, 0.5, 0.5)
    assert same.weights_sha256 == backbones.load_backbone("vit_base", "random:0", 32).weights_sha256


def test_vgg16_gives_fc7_after_its_relu() -> None:
    from torchvision.models import vgg16 as theirs

    torch.manual_seed(0)
    model = theirs(weights=None)
    images = noise(224, 1)
    fc7 = hooked(model, model.classifier[4], images)  # 0, 3: fc6 and fc7; 1, 4: their ReLUs
    backbone = backbones.load_backbone("vgg16", "random:0")
    converted = vgg16.convert(model.state_dict(), [])
    assert set(converted) == set(backbone.module.state_dict())
    backbone.module.load_state_dict(converted)
    found = features(backbone.module, images)
    assert found.shape == (1, backbone.dimension) == (1, 4096)
    assert (found >= 0).all()
    assert (found == 0).any()
    torch.testing.assert_close(found, fc7, rtol=1e-4, atol=1e-6)


def test_resnet50_gives_torchvisions_global_average(tmp_path: Path) -> None:
    from torchvision.models import resnet50

    torch.manual_seed(0)
    model = resnet50(weights=None)
    torch.save(model.state_dict(), tmp_path / "resnet50.pth")  # with its classifier, fc
    backbone = backbones.load_backbone("resnet50", str(tmp_path / "resnet50.pth"), 64)
    assert (backbone.dimension, backbone.image_size, backbone.weights) == (2048, 64, "file:resnet50.pth")
    assert (backbone.mean, backbone.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    images = noise(64)
    expected = hooked(model, model.layer4, images).view(2, 2048, -1).mean(2)
    torch.testing.assert_close(features(backbone.module, images), expected, rtol=1e-4, atol=1e-5)


def test_deit_base_gives_the_class_token_at_any_size() -> None:
    backbone = backbones.load_backbone("deit_base", "random:0", 64)
    assert backbone.dimension == 768
    images = noise(64)
    with torch.inference_mode():
        tokens = backbone.module.forward_features(images)  # after the last norm
    assert tokens.shape == (2, 1 + 4 * 4, 768)
    torch.testing.assert_close(features(backbone.module, images), tokens[:, 0])


def test_another_size_keeps_the_identity_of_the_weights() -> None:
    one, other = backbones.load_backbone("test_vit", "random:0"), backbones.load_backbone("test_vit", "random:0", 96)
    assert (one.image_size, other.image_size) == (160, 96)
    assert one.weights_sha256 == other.weights_sha256
    assert features(other.module, noise(96)).shape == (2, other.dimension)


def test_efficientnet_lite0_recognises_photographs() -> None:
    """The packaged weights are in their places: palace (698) and daisy (985) come first, as with the original code."""
    import timm

    backbone = backbones.load_backbone("efficientnet_lite0")
    assert (backbone.dimension, backbone.image_size) == (1280, 224)
    assert backbone.weights == "efficientnet-lite0-57934424"
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)
    preprocessing = Preprocessing(224, "crop", backbone.mean, backbone.std)
    pixels = [preprocessing.pixels(Image.fromarray(load_sample_image(name))) for name in ("china.jpg", "flower.jpg")]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1

    original = torch.load(packaged(), weights_only=True)
    logits = features(backbone.module, images) @ original["_fc.weight"].T + original["_fc.bias"]
    assert logits.argmax(1).tolist() == [698, 985]

    model = timm.create_model("tf_efficientnet_lite0").eval()
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    tensors = [tensor for name, tensor in original.items() if not name.endswith("num_batches_tracked")]
    model.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
    torch.testing.assert_close(features(model, images), logits, rtol=1e-4, atol=1e-4)


def test_any_timm_model_gives_what_it_pools() -> None:
    backbone = backbones.load_backbone(TINY, "random:0", 64)
    images = noise(64)
    with torch.inference_mode():
        maps = backbone.module.forward_features(images)
    assert backbone.dimension == maps.shape[1]
    torch.testing.assert_close(features(backbone.module, images), maps.mean((2, 3)))


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[dict[str, torch.Tensor], Path]:
    """The state dict of a model with classifier, and a place for files."""
    import timm

    torch.manual_seed(3)
    return dict(timm.create_model(TINY).state_dict()), tmp_path


def test_the_file_format_does_not_change_the_weights(tiny: tuple[dict[str, torch.Tensor], Path]) -> None:
    from safetensors.torch import save_file

    state, folder = tiny
    body = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    counters = [name for name in body if name.endswith("num_batches_tracked")]
    save_file(state, folder / "a.safetensors")
    torch.save(state, folder / "b.pth")
    torch.save({"state_dict": dict(reversed(body.items())), "epoch": 3}, folder / "c.pth")
    save_file({name: tensor for name, tensor in body.items() if name not in counters}, folder / "d.safetensors")
    loaded = [backbones.load_backbone(TINY, str(path), 64) for path in sorted(folder.iterdir())]
    assert len({one.weights_sha256 for one in loaded}) == 1
    assert [one.weights for one in loaded] == ["file:a.safetensors", "file:b.pth", "file:c.pth", "file:d.safetensors"]
    for one in loaded[1:]:
        torch.testing.assert_close(
            features(one.module, noise(64)), features(loaded[0].module, noise(64)), rtol=0, atol=0
        )

    state[next(iter(state))].view(-1)[0] += 1
    torch.save(state, folder / "other.pth")
    assert backbones.load_backbone(TINY, str(folder / "other.pth"), 64).weights_sha256 != loaded[0].weights_sha256


def test_the_hash_is_over_names_types_shapes_and_bytes() -> None:
    module = torch.nn.BatchNorm1d(2)
    state = hashlib.sha256()
    for name in ("bias", "running_mean", "running_var", "weight"):
        state.update(f"{name} <f4 (2,)\n".encode() + np.float32([name in ("running_var", "weight")] * 2).tobytes())
    assert sha256(module) == state.hexdigest()


def renamed(state: dict[str, torch.Tensor], name: str, other: str) -> dict[str, torch.Tensor]:
    return {other if key == name else key: tensor for key, tensor in state.items()}


def test_weights_that_do_not_fit_are_refused_by_name(tiny: tuple[dict[str, torch.Tensor], Path]) -> None:
    state, folder = tiny
    name = next(key for key in state if key.endswith("conv1.weight"))
    cases = {
        "missing": ({key: tensor for key, tensor in state.items() if key != name}, f"1 missing ({name})"),
        "renamed": (renamed(state, name, "what.is.this"), "1 unexpected (what.is.this)"),
        "shape": ({**state, name: state[name][:1]}, f"{name} is (1, "),
        "empty": ({}, "missing"),
    }
    for case, (changed, message) in cases.items():
        torch.save(changed, folder / f"{case}.pth")
        with pytest.raises(SdcError) as caught:
            backbones.load_backbone(TINY, str(folder / f"{case}.pth"), 64)
        assert message in str(caught.value)
        assert f"{case}.pth" in str(caught.value)
        assert "\n" not in str(caught.value)


class Bomb:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.mkdir, (os.environ["BOMB"],)


def test_nothing_foreign_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    torch.save({"conv": Bomb()}, tmp_path / "bomb.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Bomb()))
    for name in ("bomb.pth", "bare.pth"):
        with pytest.raises(SdcError, match="holds more than tensors"):
            backbones.load_backbone(TINY, str(tmp_path / name), 64)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["garbage.pth", "garbage.safetensors", "empty.pth", "number.pth", "absent.pth"])
def test_files_that_are_no_weights(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("number"):
        torch.save({"a": 1}, path)
    elif not name.startswith("absent"):
        path.write_bytes(b"root:x:0:0:" * 50 if name.startswith("garbage") else b"")
    with pytest.raises(SdcError, match=name.replace(".", r"\.")) as caught:
        backbones.load_backbone(TINY, str(path), 64)
    assert "\n" not in str(caught.value)


def test_random_weights_are_those_of_the_seed_in_any_process() -> None:
    state = torch.random.get_rng_state()
    one, other = backbones.load_backbone(TINY, "random:7", 64), backbones.load_backbone(TINY, "random:8", 64)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.weights == "random:7"
    assert one.weights_sha256 != other.weights_sha256
    script = (
        "import torch; torch.rand(5); from sdc.extract import backbones; "
        f"print(backbones.load_backbone({TINY!r}, 'random:7', 64).weights_sha256)"
    )
    found = warm.run(["-c", script], capture_output=True, check=True)
    assert found.stdout.strip() == one.weights_sha256


@pytest.mark.parametrize("weights", ["random:", "random:x", "random:-1", "random", "random:1.5"])
def test_a_seed_is_a_whole_number(weights: str) -> None:
    with pytest.raises(UsageError, match=r"random:SEED"):
        backbones.load_backbone(TINY, weights, 64)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the hub's cache; the hub itself is a port where nothing answers."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("by_choice", [False, True])
def test_without_the_hub_the_error_names_the_file(
    offline: Path, by_choice: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", by_choice)
    with pytest.raises(SdcError) as caught:
        backbones.load_backbone("resnet50")
    message = str(caught.value)
    assert "timm/resnet50.tv_in1k" in message
    assert "model.safetensors" in message
    assert "--weights" in message
    assert ("HF_HUB_OFFLINE" in message) is by_choice
    assert "\n" not in message


def test_weights_in_the_hubs_cache_need_no_network(offline: Path, tiny: tuple[dict[str, torch.Tensor], Path]) -> None:
    from safetensors.torch import save_file

    repository = offline / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    save_file(tiny[0], repository / "snapshots" / "abc" / "model.safetensors")
    backbone = backbones.load_backbone(TINY)
    assert backbone.weights == "test_resnet.r160_in1k"
    same = backbones.load_backbone(TINY, str(repository / "snapshots" / "abc" / "model.safetensors"))
    assert backbone.weights_sha256 == same.weights_sha256


def test_first_and_second_weights_of_resnet50_are_told_apart(offline: Path, tmp_path: Path) -> None:
    """By their tags alone: here the very same tensors stand under both."""
    from safetensors.torch import save_file

    save_file(backbones.load_backbone("resnet50", "random:0", 32).module.state_dict(), tmp_path / "weights.safetensors")
    for tag in ("tv_in1k", "tv2_in1k"):
        repository = offline / f"models--timm--resnet50.{tag}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("abc")
        (repository / "snapshots" / "abc").mkdir(parents=True)
        (repository / "snapshots" / "abc" / "model.safetensors").symlink_to(tmp_path / "weights.safetensors")
    (tmp_path / "images" / "a").mkdir(parents=True)
    for number in range(4):
        photograph().rotate(90 * number).resize((40, 40)).save(tmp_path / "images" / "a" / f"{number}.png")
    first = ExtractSettings(
        "resnet50", "folder", tmp_path / "images", image_size=32, workers=1, device="cpu", out=tmp_path / "first.h5"
    )
    second = replace(first, backbone="resnet50.tv2_in1k", out=tmp_path / "second.h5")
    one, other = (FeatureStore(run(settings)) for settings in (first, second))
    assert one.provenance["weights"] == "resnet50.tv_in1k"
    assert other.provenance["weights"] == "resnet50.tv2_in1k"
    assert one.provenance["weights_sha256"] == other.provenance["weights_sha256"]
    np.testing.assert_array_equal(one.features, other.features)
    assert one.fingerprint != other.fingerprint
    with pytest.raises(UsageError, match=r'weights: found "resnet50\.tv_in1k", wanted "resnet50\.tv2_in1k"'):
        run(replace(second, out=tmp_path / "first.h5"))


@pytest.mark.parametrize(("name", "hint"), [("resnet5O", "'resnet50'"), ("resnet50.tv_in2k", "'resnet50.tv_in1k'")])
def test_unknown_names(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match="unknown backbone") as caught:
        backbones.load_backbone(name, "random:0")
    assert f"did you mean {hint}" in str(caught.value)
    assert "efficientnet_lite0" in str(caught.value)


@pytest.mark.parametrize(("name", "size"), [("vgg11", 8), ("test_vit", 3)])
def test_sizes_that_a_backbone_does_not_take(name: str, size: int) -> None:
    with pytest.raises(UsageError, match=f"{name} does not take images of {size} x {size} pixels"):
        backbones.load_backbone(name, "random:0", size)


def test_every_listed_backbone_has_its_file() -> None:
    for name in backbones.BACKBONES:
        assert backbones.backbone_spec(name).model
