"""Checkpoints of a training run: everything needed to continue it bit for bit, beside its output.

OUT.checkpoint is a safetensors file: the states of head and method, Adam's state, and how far the run had come. The
order of rows is a function of the seed and the epoch, so no random state needs keeping.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdc.errors import SdcError, UsageError, log
from sdc.files import atomic_write, checksum, differing, fingerprint
from sdc.settings import essential
from sdc.train.loop.distributed import World
from sdc.train.loop.interrupt import Interrupted
from sdc.train.loop.state import State
from sdc.train.tensors import SCHEMA, read_tensors

SAVE_EVERY = 60.0  # seconds between checkpoints of a run that is not interrupted


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


class Checkpointing:
    """When a run saves its checkpoint, and how it starts from one.

    Args:
        checkpoint: where it is saved; None saves nothing.
        batch_size: belongs to its settings: among other batches, a place means nothing.
        modules, optimizer: what is saved.
        world: the processes that train together; the first one saves, and all stop at one step.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        batch_size: int,
        modules: nn.ModuleDict,
        optimizer: torch.optim.Optimizer,
        world: World,
    ) -> None:
        if checkpoint is not None:
            checkpoint.settings = {**checkpoint.settings, "rows of a batch": batch_size}
        self.checkpoint, self.modules, self.optimizer, self.world = checkpoint, modules, optimizer, world
        # Where torchrun may start a run again, there is a checkpoint of this one, and no former one's, from its start.
        self._saved = time.monotonic() if world.size == 1 else -math.inf

    def restore(self, resume: bool) -> tuple[State, dict[str, Tensor] | None]:
        """The state to start from and the best head so far; with `resume` those of the checkpoint, if there is one."""
        if self.checkpoint is not None and self.checkpoint.path.exists():
            if resume:
                state, best = self.checkpoint.load(self.modules, self.optimizer)
                log.info("continuing %s at epoch %d", self.checkpoint.path, state.epoch + 1)
                return state, best
            log.info("%s is left by an interrupted run; it is not used without --resume", self.checkpoint.path)
        elif resume:
            log.info("there is no checkpoint to continue: starting afresh")
        return State(), None

    def after_step(self, state: State, step: int, sums: Tensor, best: dict[str, Tensor] | None, asked: bool) -> None:
        """Saves a checkpoint when it is time.

        Args:
            step: how many there were so far.
            sums: of the losses of the epoch under way.
            best: the head at the best check.
            asked: this process is asked to stop.

        Raises:
            Interrupted: some process is asked to stop; the checkpoint is saved.
        """
        stopping = self.world.any(asked, step)
        if stopping or time.monotonic() - self._saved > SAVE_EVERY:
            self.save(state, sums, best)
        if stopping:
            where = f"; continue with --resume ({self.checkpoint.path})" if self.checkpoint else ""
            raise Interrupted(f"stopped in epoch {state.epoch + 1}{where}")

    def save(self, state: State, sums: Tensor, best: dict[str, Tensor] | None) -> None:
        """Saves a checkpoint, in the first process; arguments as those of `after_step`."""
        if self.checkpoint is not None and self.world.rank == 0:
            state.sums = sums.tolist()
            self.checkpoint.save(self.modules, self.optimizer, state, best)
            self._saved = time.monotonic()


def _content(arrays: dict[str, np.ndarray], described: dict[str, Any]) -> str:
    sums = {name: checksum(np.ascontiguousarray(array)) for name, array in arrays.items()}
    return fingerprint({**described, "tensors": sums})
