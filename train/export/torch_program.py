"""torch: a program for `torch.export.load`, a zip archive (.pt2) of tensors and JSON."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np
import torch

from sdc.files import checksum
from sdc.train.export.formats import Engine, Format, metadata
from sdc.train.head import PackedHead
from sdc.train.model import Model

_METADATA = "sdc.json"
_NO_COMMENT = bytes(2)  # how a zip archive ends: the length of its comment


class Torch(Format):
    def build(self, model: Model) -> bytes:
        example = (torch.zeros(2, model.dimension),)
        program = torch.export.export(PackedHead(model.tensors), example, dynamic_shapes=({0: torch.export.Dim("N")},))
        program.example_inputs = None  # they would be stored as a pickle
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # which names files of this machine
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files={_METADATA: json.dumps(metadata(model))})
        return _sealed(buffer.getvalue())

    def describe(self, data: bytes) -> dict[str, Any]:
        archive = data[: -len(_sealed(_NO_COMMENT))] + _NO_COMMENT
        if data != _sealed(archive):
            raise ValueError("it is damaged or was not written by `sdc export`")
        with zipfile.ZipFile(io.BytesIO(archive)) as members:
            (name,) = (name for name in members.namelist() if name.endswith(f"/extra/{_METADATA}"))
            recorded: dict[str, Any] = json.loads(members.read(name))
        return recorded

    def open(self, data: bytes) -> Engine:
        module = torch.export.load(io.BytesIO(data)).module()

        def engine(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            with torch.no_grad():
                codes, outputs = module(torch.from_numpy(features))
            return codes.numpy(), outputs.numpy()

        return engine


def _sealed(archive: bytes) -> bytes:
    """The zip archive with a checksum of its bytes as its comment."""
    comment = f"sdc:{checksum(archive)}".encode()
    return archive[: -len(_NO_COMMENT)] + len(comment).to_bytes(2, "little") + comment


FORMAT = Torch()
