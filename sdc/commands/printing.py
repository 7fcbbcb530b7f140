"""How the commands print what a stage returns."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from sdc.errors import log
from sdc.files import json_text


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on one line of standard output."""
    text = json_text(value)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value)  # in ASCII
    click.echo(text)


def print_numbers(values: dict[str, Any], path: str = "") -> None:
    """A number a line, under the path of its keys: `precision@10`, `coarse.map`."""
    for key, value in values.items():
        label = f"{path}{'@' if key.isdigit() else '.'}{key}" if path else key
        if isinstance(value, dict):
            print_numbers(value, label)
        else:
            click.echo(f"{label:22} {value:.4f}" if isinstance(value, float) else f"{label:22} {value}")


def print_file(path: Path, as_json: bool, more: Mapping[str, Any] | None = None) -> None:
    """What `sdc inspect` knows of a file that a stage wrote, in one line; JSON has `more` keys."""
    from sdc.api import inspect

    description = inspect(path)
    if as_json:
        print_json({"out": str(path), **description, **(more or {})})
    else:
        width = f"{description['bits']} bits" if "bits" in description else f"{description['dimension']} dimensions"
        click.echo(f"{path}: {description['rows']} rows of {width}")


def print_verdict(lines: Sequence[str], as_json: bool) -> None:
    """The lines of a verdict: below the answer, or in the log where the answer is JSON."""
    for line in lines:
        if as_json:
            log.info("%s", line)
        else:
            click.echo(line)


def print_change(change: dict[str, Any], as_json: bool, text: str) -> None:
    """What a change of an index did, and what the index holds now."""
    if as_json:
        print_json(change)
    else:
        click.echo(f"{change['index']}: {text}; {change['rows']} items, generation {change['generation']}")
