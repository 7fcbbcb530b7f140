"""The results of `sdc reproduce` beside the published ones: results.csv, results.md and results.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdc._version import __version__
from sdc.errors import log
from sdc.experiments import (
    CSV,
    DASH,
    TABLE,
    Cell,
    GridFolder,
    Row,
    grouped,
    make_rows,
    markdown_table,
    mean_sd,
    values,
    with_spread,
    write_csv,
)
from sdc.extract.datasets import about_dataset
from sdc.extract.store import SPLITS, FeatureStore
from sdc.files import atomic_write, json_text
from sdc.reproduce.tables import R50_DELG, Table, table_of

JSON = "results.json"
UNKNOWN = "unknown"
NEARLY = 0.01  # by which a split's size may differ from the paper's, whose own are rounded


def departures(table: Table, limit: int | None, evaluated: FeatureStore, trained: FeatureStore) -> list[str]:
    """Why figures of these features cannot be compared with the published ones; empty where they can."""
    reasons = [] if limit is None else [f"--limit {limit}: a sample of the images"]
    for split in SPLITS:
        store = trained if split == "train" else evaluated
        expected = _images(table)[split]
        count = len(store.splits[split])
        if abs(count - expected) > NEARLY * expected:
            reasons.append(f"{count} {split} images, the paper has {expected}")
    for store in dict.fromkeys((evaluated, trained)):
        backbone, weights = store.provenance.get("backbone"), str(store.provenance.get("weights"))
        if backbone is not None and backbone != table.backbone:
            reasons.append(f"{store.path.name} is of {backbone}, the paper's features are of {table.backbone}")
        if weights.startswith("random:"):
            reasons.append(f"{store.path.name} is of random weights")
    return reasons


def _images(table: Table) -> Mapping[str, int]:
    """How many images each split has in the paper. The train split may be another set's."""
    if table.trained_on is None:
        return table.images
    return {**table.images, "train": table_of(table.trained_on).images["train"]}


def write(folder: GridFolder, name: str, cells: Sequence[Cell], notes: Sequence[str]) -> None:
    """Writes the table of finished cells.

    Args:
        name: the table's.
        notes: why it cannot be compared, see `departures`.
    """
    table, results = table_of(name), folder.read_cells(cells)
    rows = compared(table, make_rows(cells, results))
    conventions: Mapping[str, str] = next((one["evaluate"]["conventions"] for one in results if "evaluate" in one), {})
    content = {
        "table": name,
        "place": table.place,
        "about": table.about,
        "data": table.data,
        "trained_on": table.trained_on or table.data,
        "backbone": table.backbone,
        "protocol": dict(about_dataset(table.data).protocol),
        "comparable": not notes,
        "departures": list(notes),
        "notes": list(table.notes),
        "conventions": conventions,
        "settings": {entry: dict(table.entries[entry].settings) for entry in dict.fromkeys(r["method"] for r in rows)},
        "version": __version__,
        "rows": rows,
    }
    write_csv(folder.path / CSV, rows)
    with atomic_write(folder.path / JSON) as temporary:
        temporary.write_text(json_text(content, indent=1), encoding="utf-8")
    with atomic_write(folder.path / TABLE) as temporary:
        temporary.write_text(markdown(content), encoding="utf-8")
    log.info("%s: %d cells", folder.path, len(cells))


def compared(table: Table, rows: Sequence[Row]) -> list[Row]:
    """A row for each method, length and score: ours (mean over seeds) beside the published figure, in percent.

    What is not known is None.
    """
    lines: list[Row] = []
    for (method, bits), group in grouped(rows, ["method", "bits"]).items():
        assert isinstance(method, str)
        assert isinstance(bits, int)
        reasons = [str(row["refused"]) for row in group if row["refused"]]
        for score in table.scores:
            scores = mean_sd(group, score)
            ours = None if scores is None else 100 * scores[0]
            published = table.published.get((method, bits))
            lines.append(
                {
                    "method": method,
                    "label": table.entries[method].label,
                    "bits": bits,
                    "score": score,
                    "ours": ours,
                    "sd": 100 * scores[1] if scores and len(values(group, score)) > 1 else None,
                    "seeds": len(values(group, score)),
                    "published": published,
                    "difference": None if ours is None or published is None else ours - published,
                    "seconds": (mean_sd(group, "seconds") or (None,))[0],
                    "refused": reasons[0] if reasons else None,
                }
            )
    return lines


def markdown(content: Mapping[str, Any]) -> str:
    """The text of results.md."""
    rows: Sequence[Row] = content["rows"]
    comparable = "" if content["comparable"] else "Not comparable with the published figures: "
    departures = f"{comparable}{'; '.join(content['departures'])}." if content["departures"] else ""
    trained = "" if content["trained_on"] == content["data"] else f", heads trained on {content['trained_on']}"
    settings = {
        entry: ", ".join(f"{k} {v}" for k, v in entry_settings.items())
        for entry, entry_settings in content["settings"].items()
    }
    sections = [
        f"# {content['about']} ({content['place']})",
        f"{content['data']}, {_backbone(content['backbone'])}{trained}. {_score(content)} in percent: ours, "
        f"published, and the difference. Paper presets: the last epoch. sdc {content['version']}.",
        departures,
        _table(rows),
        "\n".join(f"- {key}: {value}" for key, value in content["conventions"].items()),
        "\n".join(f"- {entry}: {entry_settings}" for entry, entry_settings in settings.items()),
        "\n".join(f"- {note}" for note in content["notes"]),
        "\n".join(
            f"{DASH} {row['label']}, {row['bits']} bits: {row['refused']}"
            for row in rows
            if row["refused"] and row["score"] == rows[0]["score"]
        ),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _score(content: Mapping[str, Any]) -> str:
    at = content["protocol"].get("at")
    return f"mAP@{at}" if at else "mAP"


def _backbone(name: str) -> str:
    return "R50-DELG-GLDv2-clean" if name == R50_DELG else name


def _table(rows: Sequence[Row]) -> str:
    several = len({row["score"] for row in rows}) > 1
    titles = ["method", "bits", *(["difficulty"] if several else []), "ours", "published", "difference"]
    lines = []
    for row in rows:
        ours = DASH if row["ours"] is None else with_spread(row["ours"], row["sd"], ".1f")
        published = UNKNOWN if row["published"] is None else f"{row['published']:.1f}"
        difference = DASH if row["difference"] is None else f"{row['difference']:+.1f}"
        difficulty = [row["score"].removeprefix("map_")] if several else []
        lines.append([row["label"], str(row["bits"]), *difficulty, ours, published, difference])
    return markdown_table(titles, lines)
