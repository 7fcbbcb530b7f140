"""What the commands' options share: types that are read from text, and options of several commands."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """The type of an option whose text `parse` reads; where that raises ValueError, `refusal` follows the text."""

    name = "text"

    def __init__(self, parse: Callable[[str], Any], refusal: str = "") -> None:
        self.parse, self.refusal = parse, refusal

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except ValueError:
            self.fail(f"{value!r}{self.refusal}", param, ctx)


class OutputFile(click.Path):
    """The type of an option that names a file to write. A name that ends as a folder's is refused, not cut short."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, readable=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value.endswith(("/", os.sep)):
            self.fail(f"{value} is the name of a folder, expected that of a file, such as {value}FILE", param, ctx)
        return super().convert(value, param, ctx)


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d{1,18}(?:\.\d+)?)\s*([KMGT]I?)?B?", text.strip().upper())
    if not match:
        raise ValueError(text)
    return int(float(match[1]) * _UNITS[match[2] or ""])


def _seconds(text: str) -> float:
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    seconds = float(text[:-1]) * unit if unit else float(text)
    if not 0 < seconds < float("inf"):
        raise ValueError(text)
    return seconds


PATH = click.Path(path_type=Path, readable=False)  # what cannot be read is the stages' to say
OUTPUT = OutputFile()
SIZE = Parsed(_bytes, ": expected bytes, or a number with a unit, e.g. 800MB or 4GiB")
DURATION = Parsed(_seconds, " is no time: give seconds, or a number with s, m or h, such as 30s")
LENGTHS = Parsed(
    lambda text: tuple(int(part) for part in text.split(",")),
    ": expected lengths of codes, such as 64 or 16,32,64",
)
FACTORS = Parsed(
    lambda text: tuple(float(part) for part in text.split(",")), ": expected factors, such as 0.7071,1,1.4142"
)
# Whatever the system takes the bytes of the command line for, ids are UTF-8.
ID = Parsed(lambda text: os.fsencode(text).decode("utf-8", "surrogateescape"), " is not valid Unicode")
NAMES = Parsed(lambda text: tuple(text.split(",")))

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
device = click.option("--device", help="cpu or cuda.  [default: cuda where there is one]")
encoded_features = click.option(
    "--features", type=PATH, help="The features that were encoded.  [default: where they were then]"
)
jobs = click.option("--jobs", type=int, help="Cells at once, a process of one thread each.  [default: one a processor]")
overwrite = click.option("--overwrite", is_flag=True, help="Replace an output that was made with other settings.")


def out(default: Path) -> Callable[[F], F]:
    return click.option("--out", type=OUTPUT, default=default, show_default=True, help="File to write.")


def out_folder(default: Path) -> Callable[[F], F]:
    return click.option("--out", type=PATH, default=default, show_default=True, help="Folder to fill.")


def features(default: Path) -> Callable[[F], F]:
    return click.option("--features", type=PATH, default=default, show_default=True, help="Feature file to read.")


def index(default: Path) -> Callable[[F], F]:
    return click.option("--index", type=PATH, default=default, show_default=True)


def verify(default: bool, of: str = "") -> Callable[[F], F]:
    """Whether to check every byte, `of` what."""
    return click.option(
        "--verify/--no-verify", default=default, show_default=True, help=f"Check every byte{of and f' of {of}'} first."
    )
