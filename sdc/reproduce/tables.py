"""The tables of the paper (Ng et al., "Unsupervised Hashing with Similarity Distribution Calibration", BMVC 2023, arXiv
2302.07669), as data: set, backbone, code lengths, methods with their settings, and the published figures.

Figures are mAP in percent, laid out as printed; `-` is a cell that is not known here, and is never filled in. They come
from the paper (`PAPER`) and its supplement (`SUPPLEMENT`), docs/suppmat.pdf of github.com/kamwoh/sdc.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdc.errors import unknown_name_error

PAPER, SUPPLEMENT = "main paper", "supplement"
Published = Mapping[tuple[str, int], float]


@dataclass(frozen=True)
class Entry:
    """A method of a table.

    Attributes:
        label: its name in the paper.
        settings: of `sdc.train.TrainSettings`.
        views: of the images that it learns from.
    """

    label: str
    settings: Mapping[str, Any]
    views: int = 1


@dataclass(frozen=True)
class Table:
    """A table of the paper, or the part of it that is of one set and backbone.

    Attributes:
        place: where it stands.
        about: what it shows.
        data: the set that is evaluated, one of `sdc.extract.datasets.DATASETS`.
        backbone: of `sdc.extract.backbones.BACKBONES`, or `R50_DELG`, which sdc does not have.
        bits: the code lengths.
        entries: the methods, by the names that `--methods` takes.
        published: the known figures, by method and bits.
        images: of each split, as the paper has it.
        trained_on: another set whose train split the heads are trained on.
        notes: what a reader has to know to compare.
    """

    place: str
    about: str
    data: str
    backbone: str
    bits: tuple[int, ...]
    entries: Mapping[str, Entry]
    published: Published
    images: Mapping[str, int]
    trained_on: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def scores(self) -> tuple[str, ...]:
        """What is compared, by the columns of `sdc.experiments.tables`."""
        from sdc.extract.datasets import about_dataset

        revisited = about_dataset(self.data).protocol["name"] == "revisited"
        return ("map_easy", "map_medium", "map_hard") if revisited else ("map",)

    @property
    def views(self) -> int:
        """Views to extract: those of the method that needs most, so that one file serves all."""
        return max(entry.views for entry in self.entries.values())


def printed(text: str) -> Published:
    """The figures of a table as it is printed: a line of methods, then a line for each number of bits."""
    header, *lines = (line.split() for line in text.strip().splitlines())
    return {
        (method, int(bits)): float(value)
        for bits, *values in lines
        for method, value in zip(header[1:], values, strict=True)
        if value != "-"
    }


# The supplement's schedule of the category sets, for every method; what else belongs to a method (head, weights of its
# terms) is its own authors', as the supplement says and the published code has it.
SCHEDULE = {"epochs": 100, "batch_size": 64, "lr": 1e-4, "decay_at": 80, "weight_decay": 5e-4}
CATEGORY = {
    "lsh": Entry("LsH", {"method": "lsh"}),
    "sh": Entry("SH", {"method": "sh"}),
    "itq": Entry("ITQ", {"method": "itq"}),
    "ssdh": Entry("SSDH", {"method": "ssdh", **SCHEDULE}),
    "greedyhash": Entry("GreedyHash", {"method": "greedyhash", **SCHEDULE}),
    "tbh": Entry("TBH", {"method": "tbh", **SCHEDULE}),
    "bihalf": Entry("BiHalf", {"method": "bihalf", **SCHEDULE}),
    "cibhash": Entry("CIBHash", {"method": "cibhash", **SCHEDULE}, views=2),
    "sdc": Entry("SDC without L_cl", {"method": "sdc", "preset": "paper-category"}),
    "sdc-contrastive": Entry("SDC", {"method": "sdc-contrastive", "preset": "paper-category"}, views=2),
    "default": Entry("sdc (default preset)", {"method": "sdc", "preset": "default"}),
}
# The supplement trains these alone on landmarks; its quantization weights are 0.01 for GreedyHash and SDC.
INSTANCE = {
    "itq": Entry("ITQ", {"method": "itq"}),
    "greedyhash": Entry("GreedyHash", {"method": "greedyhash", "preset": "paper-instance"}),
    "bihalf": Entry("BiHalf", {"method": "bihalf", "preset": "paper-instance"}),
    "sdc": Entry("SDC", {"method": "sdc", "preset": "paper-instance"}),
    "default": Entry("sdc (default preset)", {"method": "sdc", "preset": "default"}),
}
ALPHAS = ("0.2", "0.5", "0.7", "1", "2", "3", "5", "7", "10")
GAUSSIAN = "gaussian"


def calibrations(preset: str) -> dict[str, Entry]:
    """The rows of the supplement's Table 1, all without L_cl."""
    entries = {
        f"beta-{a}": Entry(f"Beta({a}, {a})", {"preset": preset, "calibration": f"beta:{a},{a}"}) for a in ALPHAS
    }
    return {**entries, GAUSSIAN: Entry("Gaussian (0, 0.3)", {"preset": preset, "calibration": "truncnorm:0.3"})}


CIFAR10 = {"train": 5000, "query": 1000, "database": 59000}
IMAGENET100 = {"train": 13000, "query": 5000, "database": 128500}
NUSWIDE = {"train": 10500, "query": 2100, "database": 193734}
COCO = {"train": 10000, "query": 5000, "database": 117200}
GLDV2 = {"train": 1_200_000, "query": 1129, "database": 761_757}
CATEGORY_BITS, INSTANCE_BITS = (16, 32, 64), (128, 256, 512)
R50_DELG = "r50-delg"

DELG = (
    "The paper's features are those of R50-DELG-GLDv2-clean (2048 dimensions), which sdc does not have: import a dump "
    "(`sdc import`) and name it with --features."
)
GAMMA = "BiHalf keeps γ = 6; the supplement lowers the weight of its term on landmarks (to 0.1)."
TRAINED = "Heads are trained on GLDv2's train split, as in the supplement."
RECENTRED = "SDC's batch norm is re-centred on the database (`sdc encode`); the supplement does not speak of it."
UNPLACED = "Published for SDC at 512 bits: 63.8; of which difficulty is not known here."
WITHOUT = "The figures are of heads trained without L_cl."
VGG16 = "The supplement does not name the backbone of this figure; VGG16 is the default of the authors' code."

TABLES = {
    "cifar10": Table(
        PAPER, "category-level retrieval, CIFAR10", "cifar10", "vgg16", CATEGORY_BITS, CATEGORY,
        printed("""
            bits  itq  greedyhash  tbh   bihalf  cibhash  sdc-contrastive  sdc
            16    46.8    44.9     48.2   54.7    56.2         59.8         -
            32    51.3    51.9     50.2   58.1    59.2         64.0         -
            64    54.4    55.7     50.7   60.6    61.2         66.3        63.0
        """),
        CIFAR10,
    ),
    "cifar10-vit": Table(
        PAPER, "another backbone, CIFAR10", "cifar10", "vit_base", (64,), CATEGORY,
        printed("""
            bits  sdc-contrastive
            64         89.0
        """),
        CIFAR10,
    ),
    "imagenet100": Table(
        PAPER, "category-level retrieval, ImageNet100", "imagenet100", "vgg16", CATEGORY_BITS, CATEGORY,
        printed("""
            bits  sdc-contrastive  sdc
            64         80.6        80.4
        """),
        IMAGENET100, notes=(VGG16,),
    ),
    "nuswide": Table(
        PAPER, "category-level retrieval, NUS-WIDE", "nuswide", "vgg16", CATEGORY_BITS, CATEGORY, {}, NUSWIDE,
    ),
    "coco": Table(PAPER, "category-level retrieval, MS-COCO", "coco", "vgg16", CATEGORY_BITS, CATEGORY, {}, COCO),
    "gldv2": Table(
        PAPER, "instance-level retrieval, GLDv2", "gldv2", R50_DELG, INSTANCE_BITS, INSTANCE,
        printed("""
            bits  sdc
            512   12.1
        """),
        GLDV2, notes=(DELG, RECENTRED, GAMMA),
    ),
    "roxf": Table(
        PAPER, "instance-level retrieval, ROxford5k", "roxf", R50_DELG, INSTANCE_BITS, INSTANCE, {},
        {"train": 0, "query": 70, "database": 4993}, "gldv2", (DELG, TRAINED, RECENTRED, GAMMA),
    ),
    "rparis": Table(
        PAPER, "instance-level retrieval, RParis6k", "rparis", R50_DELG, INSTANCE_BITS, INSTANCE, {},
        {"train": 0, "query": 70, "database": 6322}, "gldv2",
        (DELG, TRAINED, RECENTRED, GAMMA, UNPLACED),
    ),
    "calibration-cifar10": Table(
        f"{SUPPLEMENT}, Table 1", "the calibration distribution, CIFAR10", "cifar10", "vgg16", (64,),
        calibrations("paper-category"),
        printed(f"""
            bits  beta-0.2  beta-0.5  beta-0.7  beta-1  beta-2  beta-3  beta-5  beta-7  beta-10  {GAUSSIAN}
            64      19.3      54.8      55.9     58.4    62.5    62.5    63.0    62.6    61.3       62.6
        """),
        CIFAR10, notes=(WITHOUT,),
    ),
    "calibration-imagenet100": Table(
        f"{SUPPLEMENT}, Table 1", "the calibration distribution, ImageNet100", "imagenet100", "vgg16", (64,),
        calibrations("paper-category"),
        printed(f"""
            bits  beta-0.2  beta-0.5  beta-0.7  beta-1  beta-2  beta-3  beta-5  beta-7  beta-10  {GAUSSIAN}
            64      70.3      76.3      77.2     79.0    80.2    80.3    80.4    81.3    80.7       80.2
        """),
        IMAGENET100, notes=(WITHOUT, VGG16),
    ),
    "calibration-gldv2": Table(
        f"{SUPPLEMENT}, Table 1", "the calibration distribution, GLDv2", "gldv2", R50_DELG, (512,),
        calibrations("paper-instance"),
        printed(f"""
            bits  beta-0.2  beta-0.5  beta-0.7  beta-1  beta-2  beta-3  beta-5  beta-7  beta-10  {GAUSSIAN}
            512     11.6      11.9      11.8     12.0    12.1    12.0    12.1    11.8    11.8       11.5
        """),
        GLDV2, notes=(DELG, RECENTRED, WITHOUT),
    ),
    "contrastive-cifar10": Table(
        f"{SUPPLEMENT}, Table 2", "the contrastive term, CIFAR10", "cifar10", "vgg16", (64,),
        {name: CATEGORY[name] for name in ("sdc-contrastive", "sdc")},
        printed("""
            bits  sdc-contrastive  sdc
            64         66.3        63.0
        """),
        CIFAR10,
    ),
    "contrastive-imagenet100": Table(
        f"{SUPPLEMENT}, Table 2", "the contrastive term, ImageNet100", "imagenet100", "vgg16", (64,),
        {name: CATEGORY[name] for name in ("sdc-contrastive", "sdc")},
        printed("""
            bits  sdc-contrastive  sdc
            64         80.6        80.4
        """),
        IMAGENET100, notes=(VGG16,),
    ),
}  # fmt: skip


def table_of(name: str) -> Table:
    """Raises UsageError for an unknown name."""
    if name not in TABLES:
        raise unknown_name_error("table", name, TABLES)
    return TABLES[name]


def catalogue() -> list[dict[str, Any]]:
    """All tables, as JSON: what `sdc reproduce` lists."""
    from sdc.extract.datasets import about_dataset

    def needs(table: Table) -> list[dict[str, str]]:
        sets = list(dict.fromkeys((table.data, table.trained_on or table.data)))
        if table.backbone == R50_DELG:
            return [
                {"data": data, "path": "R50-DELG-GLDv2-clean features", "from": "a dump, with sdc import"}
                for data in sets
            ]
        return [{"data": data, **piece} for data in sets for piece in about_dataset(data).record()["needs"]]

    return [
        {
            "name": name,
            "place": table.place,
            "about": table.about,
            "data": table.data,
            "trained_on": table.trained_on or table.data,
            "backbone": table.backbone,
            "bits": list(table.bits),
            "methods": list(table.entries),
            "published": len(table.published),
            "cells": len(table.bits) * len(table.entries) * len(table.scores),
            "needs": needs(table),
        }
        for name, table in TABLES.items()
    ]
