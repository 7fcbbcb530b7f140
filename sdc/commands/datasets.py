"""The command datasets."""

from __future__ import annotations

import click

from sdc.commands.options import as_json
from sdc.commands.printing import print_json
from sdc.extract.datasets import catalogue


@click.command("datasets")
@as_json
def datasets(as_json: bool) -> None:
    """List the sets of images: what must be on disk, where to get it, splits, labels and protocol.

    \b
    With SDC_DATA=/data, the set NAME is sought in /data/NAME where --root names no folder.
    """
    listed = catalogue()
    if as_json:
        print_json(listed)
        return
    for entry in listed["datasets"]:
        needs: dict[str, list[str]] = {}
        for piece in entry["needs"]:
            needs.setdefault(piece["from"], []).append(piece["path"])
        at = entry["protocol"].get("at")
        lines = [
            *(f"needs {', '.join(paths)}, from {source}" for source, paths in needs.items()),
            f"splits: {entry['splits']}",
            f"labels: {entry['labels']}",
            f"protocol: {entry['protocol']['name']}, {f'mAP@{at}' if at else 'mAP over all'}",
        ]
        click.echo(f"{entry['name']}: {entry['summary']}")
        for line in lines:
            click.echo(f"    {line}")
