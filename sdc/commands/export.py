"""The command export."""

from __future__ import annotations

from pathlib import Path

import click

from sdc.commands.options import OUTPUT, PATH, as_json, overwrite
from sdc.commands.printing import print_json
from sdc.train.export import ExportSettings


@click.command()
@click.option("--model", type=PATH, default=ExportSettings.model, show_default=True)
@click.option("--onnx", type=OUTPUT, metavar="FILE", help="Write an ONNX file; needs sdc-hash[export].")
@click.option("--torch", type=OUTPUT, metavar="FILE", help="Write a program for torch.export.load.")
@overwrite
@as_json
def export(model: Path, as_json: bool, overwrite: bool, **files: Path | None) -> None:
    """Write the head for other programs: features in, packed codes out.

    Each file is checked against PyTorch, bit for bit, before it appears.
    """
    from sdc.train import Model
    from sdc.train.export import export_head

    if not any(files.values()):
        raise click.UsageError("nothing to write: give --onnx FILE, --torch FILE or both")
    for name, file in files.items():
        if file is not None:
            export_head(ExportSettings(model=model, format=name, out=file, overwrite=overwrite))
    head = Model.load(model)
    if as_json:
        written = {name: file and str(file) for name, file in files.items()}
        made_of = {"method": head.metadata["method"], "bits": head.bits, "fingerprint": head.fingerprint}
        print_json({"model": str(model), **made_of, **written})
        return
    for name, file in files.items():
        if file is not None:
            click.echo(f"{file}: {head.metadata['method']}, {head.bits} bits, for {name}")
