"""Many files as one: a folder of shards, a pattern, or a data set that Hugging Face's `datasets` saved."""

from __future__ import annotations

import glob
import itertools
import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError, UsageError, few, log
from sdc.extract.readers.table import Table, unreadable
from sdc.files import require_file
from sdc.text import natural_key


def find_files(paths: Sequence[Path], what: str, endings: Collection[str], without: Collection[Path]) -> list[Path]:
    """The files that paths, folders and patterns such as `part-*.parquet` stand for, in the order of their rows.

    The files of a folder or pattern come in natural order (part-2 before part-10); those of a list as they are given,
    but in natural order where a shell may have put them into alphabetical order.

    Args:
        what: they are expected to be, for the errors: "file of vectors".
        endings: of the files of a folder that count.
        without: files of a folder that do not count.

    Raises:
        UsageError: files of several kinds, or a folder of splits.
        SdcError: nothing is there.
    """
    files = [file for path in paths for file in _files(path, what, endings, without)]
    return sorted(files, key=_natural) if files == sorted(files) else files


def _natural(path: Path) -> Any:
    return natural_key(str(path))


def _files(path: Path, what: str, endings: Collection[str], without: Collection[Path]) -> list[Path]:
    if path.is_dir():
        return _of_folder(path, what, endings, without)
    if not path.exists() and glob.has_magic(str(path)):
        found = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]
        if not found:
            raise SdcError(f"no {what} at {path}: the pattern matches no file")
        return sorted(found, key=_natural)
    return [require_file(path, what, "numpy.save")]


def _of_folder(folder: Path, what: str, endings: Collection[str], without: Collection[Path]) -> list[Path]:
    splits, state = folder / "dataset_dict.json", folder / "state.json"
    if splits.is_file():
        names = _json(splits, "splits")
        raise UsageError(f"{folder} is a folder of splits, {few(names)}: name one of them, as {folder}/{names[0]}")
    if state.is_file():  # as `Dataset.save_to_disk` says
        return [require_file(folder / file["filename"], what, "save_to_disk") for file in _json(state, "_data_files")]
    files = [file for file in folder.iterdir() if file.is_file() and file.name[0] not in "._" and file not in without]
    files = [file for file in files if file.suffix.lower() in endings]
    kinds = Counter(file.suffix.lower() for file in files)
    if len(kinds) > 1:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        example = f"{folder}/*{max(kinds, key=lambda kind: kinds[kind])}"
        raise UsageError(f"{folder} holds files of several kinds ({counts}): name those meant, as by '{example}'")
    if not files:
        raise UsageError(
            f"{folder} is a folder, expected {what}, or a folder of files that end in {', '.join(endings)}; for those "
            f"in its subfolders give a pattern such as '{folder}/**/*.parquet'"
        )
    return sorted(files, key=_natural)


def _json(path: Path, key: str) -> list[Any]:
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))[key])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SdcError(f"cannot read {path}: expected {key}, as Hugging Face's datasets writes it") from error


def one_after_the_other(opened: Sequence[tuple[Path, list[Table]]]) -> list[Table]:
    """The tables of several files as one each; what does not fit together can only be named."""
    filled = [(file, tables) for file, tables in opened if any(table.shape[0] for table in tables)]
    if len(filled) < len(opened):
        log.info("%d of %d files are empty", len(opened) - len(filled), len(opened))
    filled = filled or [opened[0]]
    by_name: dict[str, list[tuple[Path, Table]]] = {}
    for file, tables in filled:
        for table in tables:
            by_name.setdefault(table.name, []).append((file, table))
    return [_joined(name, parts, [file for file, _ in filled]) for name, parts in by_name.items()]


def _joined(name: str, parts: Sequence[tuple[Path, Table]], files: Sequence[Path]) -> Table:
    tables = [table for _, table in parts]
    first, kinds = tables[0], {table.dtype for table in tables}
    shape = (sum(table.shape[0] for table in tables), *first.shape[1:])
    if len(parts) < len(files):
        without = next(file for file in files if file not in {file for file, _ in parts})
        return unreadable(name, shape, first.dtype, f"is not there in {without} and is in {parts[0][0]}")
    for file, table in parts:
        if table.problem:
            return unreadable(name, shape, table.dtype, f"of {file} {table.problem}")
        if table.shape[1:] != first.shape[1:]:
            return unreadable(
                name, shape, table.dtype, f"is {table.shape} in {file} and {first.shape} in {parts[0][0]}"
            )
        if table.classes != first.classes:
            return unreadable(name, shape, table.dtype, f"has other classes in {file} than in {parts[0][0]}")
    if len(kinds) > 1:
        numbers = all(table.numeric for table in tables)
        plain = ["float32" if kind == "bfloat16" else kind for kind in kinds]
        kinds = {np.result_type(*plain).name if numbers else "object"}
    return Table(name, shape, kinds.pop(), lambda: _chained(tables), classes=first.classes)


def _chained(tables: Sequence[Table]) -> Iterator[np.ndarray]:
    return itertools.chain.from_iterable(table.blocks() for table in tables)
