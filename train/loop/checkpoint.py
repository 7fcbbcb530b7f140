"""Checkpoints of a training run: everything needed to continue it bit for bit, beside its output.

OUT.checkpoint is a safetensors file: the states of head and method, Adam's state, and how far the run had come. The
order of rows is a function of the seed and the epoch, so no random state needs keeping.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdc.errors import SdcError, UsageError
from sdc.files import atomic_write, checksum, differing, fingerprint
from sdc.settings import essential
from sdc.train.model import SCHEMA, read_tensors


@dataclass
class State:
    """How far a run has come: `step` batches into `epoch`, the mean losses of the epochs so far, and the best check.

    Attributes:
        seconds: spent so far, as counts against a budget.
        agreement: the best so far (see `sdc.train.loop.early_stopping`), `best_step` when, `waited` checks ago.
        cuts: of the learning rate.
        done: training is over, before its last epoch.
    """

    epoch: int = 0
    step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    sums: list[float] = field(default_factory=list)  # of the epoch under way
    seconds: float = 0.0
    agreement: float = -1.0
    best_step: int = 0
    waited: int = 0
    cuts: int = 0
    done: bool = False


class Checkpoint:
    """The checkpoint of one output.

    Args:
        out: the model's path; the checkpoint is OUT.checkpoint.
        settings: what the run is made of; a checkpoint of other settings is refused.
        default: of the settings, what those have that a checkpoint does not name.
    """

    def __init__(self, out: Path, settings: dict[str, Any], default: Mapping[str, Any] | None = None) -> None:
        self.path = out.with_name(out.name + ".checkpoint")
        self.settings, self.default = settings, default or {}

    def save(
        self, modules: nn.ModuleDict, optimizer: torch.optim.Optimizer, state: State, best: dict[str, Tensor] | None
    ) -> None:
        """Writes the checkpoint, whole or not at all; `best` is the head at the best check."""
        from safetensors.torch import save

        tensors = dict(modules.state_dict())
        tensors |= {f"best.{name}": value for name, value in (best or {}).items()}
        for number, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        described = {"settings": self.settings, "state": vars(state)}
        header = {
            "schema": SCHEMA,
            "fingerprint": _content({name: value.numpy() for name, value in tensors.items()}, described),
            **described,
        }
        with atomic_write(self.path) as temporary:
            temporary.write_bytes(save(tensors, metadata={"sdc": json.dumps(header)}))

    def load(self, modules: nn.ModuleDict, optimizer: torch.optim.Optimizer) -> tuple[State, dict[str, Tensor] | None]:
        """Restores modules and optimizer; returns the state and the best head.

        Raises:
            SdcError: the checkpoint is damaged.
            UsageError: it is of other settings; the message names them.
        """
        arrays, header, recorded = read_tensors(self.path, "checkpoint")
        if _content(arrays, header) != recorded:
            raise SdcError(f"{self.path} is damaged: train without --resume to start again")
        different = differing(essential(header["settings"], self.default, always=self.settings), self.settings)
        if different:
            raise UsageError(
                f"{self.path} was made with other settings ({'; '.join(different)}): "
                "use those settings, or train without --resume to start again"
            )
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        modules.load_state_dict({name: value for name, value in tensors.items() if name.split(".")[0] in modules})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("adam."):
                _, number, key = name.split(".")
                moments.setdefault(int(number), {})[key] = value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        best = {name[5:]: value for name, value in tensors.items() if name.startswith("best.")}
        return State(**header["state"]), best or None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _content(arrays: dict[str, np.ndarray], described: dict[str, Any]) -> str:
    sums = {name: checksum(np.ascontiguousarray(array)) for name, array in arrays.items()}
    return fingerprint({**described, "tensors": sums})
