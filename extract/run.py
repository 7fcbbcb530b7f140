"""The stage `extract`: a backbone turns a set of images into feats.h5."""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdc._version import __version__
from sdc.devices import MOST_SEED, is_main_process
from sdc.errors import UsageError, log
from sdc.extract.augment import Augmentation
from sdc.extract.backbones import Backbone, load_backbone, require_tokens
from sdc.extract.datasets import Dataset, Prefixes, load_dataset
from sdc.extract.encoder import Encoder
from sdc.extract.image_loader import ImageLoader
from sdc.extract.images import LONGEST, SCALES, Preprocessing
from sdc.extract.labels import say_classes
from sdc.extract.parts import Leases, Parts, PartWorker, assemble_once, is_up_to_date
from sdc.extract.store import FeatureStore
from sdc.extract.subsample import stratified
from sdc.files import fingerprint
from sdc.progress import Progress
from sdc.settings import recorded

RECORDED_WHERE_USED = ("views", "tokens")  # options that came after the first feature stores


@dataclass(frozen=True)
class ExtractSettings:
    """What to extract, with which backbone, and how.

    Attributes:
        backbone: one of `sdc.extract.backbones.BACKBONES`, or the name of a timm model.
        data: one of `sdc.extract.datasets.DATASETS`.
        root: the folder that the set lies in; see `sdc.extract.datasets.base.find_root` for the default.
        weights: a file, or "random:SEED"; by default the pretrained ones.
        image_size: side of the backbone's input in pixels; by default its own. For landmark sets the longest side.
        scales: for landmark sets: factors of that size, see `sdc.extract.encoder.Encoder.over_scales`.
        limit: a sample of at most so many images.
        views: how many views of each image; all but the first are augmented.
        tokens: keep the patch tokens as well, which vision transformers have.
        split: for sets that take one: a file, or for a folder the share of queries.
        exclude: of a folder: patterns of files and folders to leave out, such as `*_thumb.jpg` or `old/*`.
        strip_prefix, add_prefix: for sets of list files, see `sdc.extract.datasets.Prefixes`.
        batch_size: images at once through the backbone.
        part_rows: images in a part, which is what a kill can cost.
        workers: threads that load images; by default one for each CPU.
        device: by default CUDA where there is one; of several each process of torchrun takes its own.
        seed: for the sample, random splits and augmented views.
        out: the feature store to write.
        overwrite: replace an `out` made with other settings.
    """

    backbone: str = "efficientnet_lite0"
    data: str = "fashion-mnist"
    root: Path | None = None
    weights: str | None = None
    image_size: int | None = None
    scales: tuple[float, ...] | None = None
    limit: int | None = None
    views: int = 1
    tokens: bool = False
    split: str | None = None
    exclude: tuple[str, ...] = ()
    strip_prefix: str | None = None
    add_prefix: str | None = None
    batch_size: int = 64
    part_rows: int = 1024
    workers: int | None = None
    device: str | None = None
    seed: int = 0
    out: Path = Path("feats.h5")
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("image_size", "limit", "views", "batch_size", "part_rows", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {value}, expected at least 1")
        if not 0 <= self.seed <= MOST_SEED:
            raise UsageError(f"--seed is {self.seed}, expected 0 to {MOST_SEED}")


def extract_features(settings: ExtractSettings) -> Path:
    """Writes the features of a set of images; does nothing where they are there already.

    Run again after an interruption, it makes only the parts that are missing. Run several times at once, on one host or
    on several that share the folder of `settings.out`, the runs share the parts, and each ends when all is done. Images
    that cannot be read are left out, listed in the store, and reported.

    Returns:
        `settings.out`.

    Raises:
        UsageError: settings that are unknown or do not fit, or an `out` of other settings.
        SdcError: the set, the weights or the disk are not as they must be, or no image at all can be read.
    """
    if not is_main_process():
        log.setLevel(logging.WARNING)
    if settings.tokens:
        require_tokens(settings.backbone)
    prefixes = Prefixes(settings.strip_prefix, settings.add_prefix)
    whole = load_dataset(settings.data, settings.root, settings.split, settings.seed, prefixes, settings.exclude)
    backbone, preprocessing = _load_backbone(settings, whole.resize)
    provenance = _provenance(settings, whole, backbone, preprocessing)
    if is_up_to_date(settings.out, provenance, overwrite=settings.overwrite):
        if whole.listing.classes and not FeatureStore(settings.out, verify=False).classes:
            log.warning(
                "%s is of an earlier version, which kept no names of classes: remove it and extract again to have them",
                settings.out,
            )  # fmt: skip
        return settings.out
    dataset = whole
    if settings.limit is not None:
        dataset = whole.select(stratified(whole.listing, settings.limit, settings.seed))
    if is_main_process():
        say_classes(dataset.listing)
    encoder = Encoder(backbone, _device(settings.device))
    parts = Parts(settings.out, dataset.listing, provenance, settings.part_rows, overwrite=settings.overwrite)
    if is_up_to_date(settings.out, provenance, overwrite=settings.overwrite):
        return settings.out  # another process ended while this one began
    try:
        make_parts(parts, dataset, preprocessing, encoder, settings)
        out = assemble_once(parts)
    except KeyboardInterrupt:
        log.warning(
            "interrupted: %d of %d parts are kept in %s, the same command goes on from there",
            len(parts) - len(parts.absent()), len(parts), parts.folder,
        )  # fmt: skip
        raise
    if is_main_process():
        _warn_of_skipped(FeatureStore(out, verify=False), len(dataset))
    return out


def _device(name: str | None) -> str | None:
    """Of several CUDA devices each process of torchrun takes its own, unless one is named by its number."""
    if name in (None, "cuda") and "TORCHELASTIC_RUN_ID" in os.environ:
        import torch

        if count := torch.cuda.device_count():
            return f"cuda:{int(os.environ['LOCAL_RANK']) % count}"
    return name


def _load_backbone(settings: ExtractSettings, resize: str) -> tuple[Backbone, Preprocessing]:
    """The backbone, and how images become its input."""
    size, scales = settings.image_size, settings.scales
    if resize == "longest":
        if settings.views > 1 or settings.tokens:
            raise UsageError("--views and --tokens are not for landmark sets, whose images keep their shape")
        size, scales = size or LONGEST, SCALES if scales is None else scales
    backbone = load_backbone(settings.backbone, settings.weights, size, any_shape=resize == "longest")
    return backbone, Preprocessing(backbone.image_size, resize, backbone.mean, backbone.std, scales or ())


def _provenance(
    settings: ExtractSettings, dataset: Dataset, backbone: Backbone, preprocessing: Preprocessing
) -> dict[str, Any]:
    """What the features depend on; `dataset` is the set before `limit` is applied."""
    return {
        "source": "extract",
        "backbone": backbone.name,
        "weights": backbone.weights,
        "weights_sha256": backbone.weights_sha256,
        "preprocessing": preprocessing.record(),
        **({"augmentation": Augmentation.record()} if settings.views > 1 else {}),
        "dataset": dataset.name,
        "protocol": dict(dataset.protocol),
        "settings": {
            "limit": settings.limit,
            "seed": settings.seed,
            "split": settings.split and _file_name(Path(settings.split)),
            # Catches images, labels or a split file that have changed under the same settings.
            "images": fingerprint({"listing": dataset.listing.digest(), "content": dataset.content}),
            **{name: value for name, value in recorded(settings).items() if name in RECORDED_WHERE_USED},
        },
        "version": __version__,
    }


def _file_name(path: Path) -> str:
    """The name of a file; of a stream, whose name is a number that happened to be free, the same each time."""
    return "stream" if path.exists() and not path.is_file() else path.name


def make_parts(
    parts: Parts, dataset: Dataset, preprocessing: Preprocessing, encoder: Encoder, settings: ExtractSettings
) -> None:
    """Makes parts until all are there, beside other processes that do the same.

    Raises:
        SdcError: no image at all can be read; the parts are removed then.
    """
    augmentation = None
    if settings.views > 1:
        augmentation = Augmentation(settings.views - 1, preprocessing.size, settings.seed, dataset.listing.ids)
    # Images that keep their shape go through the backbone one by one, and are large.
    batch_size = 1 if preprocessing.scales else settings.batch_size
    embed = functools.partial(encoder.arrays, tokens=settings.tokens)
    with (
        Leases(parts.folder) as leases,
        ImageLoader(dataset.open, preprocessing, settings.workers, augmentation) as loader,
        Progress("extract", 0, "images", silent=not is_main_process()) as progress,
    ):
        PartWorker(parts, leases, loader, embed, batch_size, progress).run()


def _warn_of_skipped(store: FeatureStore, total: int) -> None:
    """Warns of images that could not be read."""
    if store.skipped:
        first = "; ".join(f"{name}: {reason}" for name, reason in store.skipped[:3])
        more = "; ..." if len(store.skipped) > 3 else ""
        log.warning(
            "%d of %d images could not be read and were left out (%s%s); /skipped in %s lists them",
            len(store.skipped), total, first, more, store.path,
        )  # fmt: skip
