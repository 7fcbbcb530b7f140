"""What the commands share: common options, and how they print."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path, readable=False)  # what cannot be read is the stages' to say
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
device = click.option("--device", help="cpu or cuda.  [default: cuda where there is one]")
encoded_features = click.option(
    "--features", type=PATH, help="The features that were encoded.  [default: where they were then]"
)
jobs = click.option("--jobs", type=int, help="Cells at once, a process of one thread each.  [default: one a processor]")
overwrite = click.option("--overwrite", is_flag=True, help="Replace an output that was made with other settings.")


def size(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """Bytes, from a number or one with a unit, as 800MB or 4GiB."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,18}(?:\.\d+)?)\s*([KMGT]I?)?B?", text.strip().upper())
    if not found:
        raise click.BadParameter(f"{text!r}: expected bytes, or a number with a unit, e.g. 800MB or 4GiB")
    return int(float(found[1]) * _UNITS[found[2] or ""])


def out(default: Path) -> Callable[[F], F]:
    return click.option("--out", type=PATH, default=default, show_default=True, help="File to write.")


def features(default: Path) -> Callable[[F], F]:
    return click.option("--features", type=PATH, default=default, show_default=True, help="Feature file to read.")


def lengths(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """64 or 16,32,64"""
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r}: expected lengths of codes, such as 64 or 16,32,64") from None


def report(path: Path, as_json: bool) -> None:
    """Says what a stage wrote."""
    from sdc.api import inspect as describe

    found = describe(path)
    if as_json:
        print_json({"out": str(path), **found})
    else:
        width = f"{found['bits']} bits" if "bits" in found else f"{found['dimension']} dimensions"
        click.echo(f"{path}: {found['rows']} rows of {width}")


def print_numbers(found: dict[str, Any], path: str = "") -> None:
    """A number a line, under the path of its keys: `precision@10`, `coarse.map`."""
    for key, value in found.items():
        label = f"{path}{'@' if key.isdigit() else '.'}{key}" if path else key
        if isinstance(value, dict):
            print_numbers(value, label)
        else:
            click.echo(f"{label:22} {value:.4f}" if isinstance(value, float) else f"{label:22} {value}")


def print_json(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))
