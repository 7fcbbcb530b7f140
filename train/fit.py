"""Fitting a hash head to features: the same code under `sdc train` and `sdc.Hasher`."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc.artifacts import Progress, SdcError, UsageError, log, torch_device
from sdc.train.batches import Batch, Batches
from sdc.train.checkpoint import Checkpoint, State
from sdc.train.distributed import World
from sdc.train.head import make_head
from sdc.train.methods import ClosedForm, Trained, load_method
from sdc.train.recipe import Recipe

SAVE_EVERY = 60.0  # seconds between checkpoints of a run that is not interrupted


class Interrupted(SdcError):  # noqa: N818 — not a failure: the run was asked to stop
    """The run was stopped by Ctrl-C or SIGTERM, after its checkpoint was saved."""

    exit_code = 130


def fit(
    features: np.ndarray,
    rows: np.ndarray,
    recipe: Recipe,
    *,
    device: str | None = None,
    checkpoint: Checkpoint | None = None,
    resume: bool = False,
    world: World | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Fits the recipe's method to `features[rows]`.

    Args:
        features: (N, d) array or memory map, see `Batches`.
        rows: (n,) row numbers to train on, ascending.
        recipe: the run's settings.
        device: of PyTorch; None takes CUDA where there is one.
        checkpoint: where the state is kept for `resume`; None keeps none.
        resume: continue from the checkpoint where there is one.
        world: the processes that share the batches of a trained method; all call this with the same arguments.

    Returns:
        The tensors of a `Model`, and what is worth recording: `rows`, `epochs`, `steps`, `loss`, `curve`.

    Raises:
        SdcError: too few rows, the loss is no longer finite, or another process is gone.
        Interrupted: Ctrl-C or SIGTERM; the checkpoint is saved.
    """
    method = load_method(recipe.method)
    if isinstance(method, ClosedForm):
        if not len(rows):
            raise SdcError(f"no rows to fit {recipe.method} to: the train split is empty")
        chosen = np.random.default_rng(recipe.seed).permutation(rows)[: method.sample]
        sample = features[np.sort(chosen)].astype(np.float32)
        summary: dict[str, Any] = {"rows": len(rows), "epochs": 0, "steps": 0, "loss": None, "curve": []}
        return method.fit(sample, recipe.bits, recipe.seed), summary
    world = world or World(device=device)
    return _Run(features, rows, recipe, method, world).train(checkpoint, resume or world.restarts > 0)


class _Run:
    """One run of gradient steps."""

    def __init__(
        self, features: np.ndarray, rows: np.ndarray, recipe: Recipe, method: type[Trained], world: World
    ) -> None:
        self.recipe, self.world = recipe, world
        self.device = torch_device(world.device)
        self.batch_size = _batch_size(recipe, len(rows), world.size)
        self.batches = Batches(features, rows, self.batch_size, recipe.seed, world.rank, world.size)
        dimension = features.shape[1]
        hidden = (recipe.hidden or dimension) if recipe.head == "mlp" else 0
        self.head = make_head(dimension, recipe.bits, hidden, recipe.seed).to(self.device)
        self.joint = world.joint(self.head)
        self.method = method(recipe, self.batch_size, self.device)
        self.optimizer = torch.optim.Adam(
            self.head.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
        )

    def train(self, checkpoint: Checkpoint | None, resume: bool) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        state = State()
        if checkpoint is not None and checkpoint.path.exists():
            if resume:
                state = checkpoint.load(self.head, self.optimizer)
                log.info("continuing %s at epoch %d", checkpoint.path, state.epoch + 1)
            else:
                log.info("%s is left by an interrupted run; it is not used without --resume", checkpoint.path)
        elif resume:
            log.info("there is no checkpoint to continue: starting afresh")
        self.world.check_equal(state.epoch, state.step)
        self._loop(state, checkpoint)
        tensors = {name: value.cpu().numpy() for name, value in self.head.state_dict().items()}
        del tensors["norm.num_batches_tracked"]
        return tensors, {
            "rows": len(self.batches.rows),
            "epochs": state.epoch,
            "steps": state.epoch * self.batches.steps,
            "loss": state.curve[-1]["total"],
            "curve": state.curve,
        }

    def _loop(self, state: State, checkpoint: Checkpoint | None) -> None:
        recipe, world, steps = self.recipe, self.world, self.batches.steps
        # Where torchrun may start a run again, there is a checkpoint of this one, and no former one's, from its start.
        saved = time.monotonic() if world.size == 1 else -math.inf
        total, already = recipe.epochs * steps, state.epoch * steps + state.step
        self.head.train()
        with _Stop() as stop, Progress("train", total, "steps", already, silent=world.rank > 0) as progress:
            while state.epoch < recipe.epochs:
                self._set_rate(state.epoch)
                sums = torch.tensor(state.sums, dtype=torch.float64, device=self.device)
                with contextlib.closing(self.batches.epoch(state.epoch, state.step)) as batches:
                    for batch in batches:
                        sums += self._step(batch)
                        state.step += 1
                        progress.advance()
                        stopping = world.any(stop.asked, state.epoch * steps + state.step)
                        due = time.monotonic() - saved > SAVE_EVERY
                        if checkpoint is not None and world.rank == 0 and (stopping or due):
                            state.sums = sums.tolist()
                            checkpoint.save(self.head, self.optimizer, state)
                            saved = time.monotonic()
                        if stopping:
                            where = f"; continue with --resume ({checkpoint.path})" if checkpoint else ""
                            raise Interrupted(f"stopped at epoch {state.epoch + 1} of {recipe.epochs}{where}")
                self._end_epoch(state, sums, progress)

    def _end_epoch(self, state: State, sums: Tensor, progress: Progress) -> None:
        means = [value / self.batches.steps for value in sums.tolist()]
        if not np.isfinite(means).all():
            raise SdcError(
                f"the loss is {means[0]} in epoch {state.epoch + 1}: training diverged; "
                f"lower --lr (it is {self.recipe.lr:g})"
            )
        state.curve.append(dict(zip(("total", "calibration", "quantization"), means, strict=True)))
        progress.advance(0, f"loss {means[0]:.4f}")
        state.epoch, state.step, state.sums = state.epoch + 1, 0, [0.0, 0.0, 0.0]

    def _set_rate(self, epoch: int) -> None:
        decayed = 0 < self.recipe.decay_at <= epoch
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr / 10 if decayed else self.recipe.lr

    def _step(self, batch: Batch) -> Tensor:
        stored = torch.from_numpy(batch.features).to(self.device)
        outputs = self.joint(stored.to(torch.float32))
        loss = self.method.loss(self.world.gather(stored).to(torch.float32), outputs)
        self.optimizer.zero_grad()
        loss.total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return torch.stack([term.detach() for term in loss])


def _batch_size(recipe: Recipe, rows: int, ranks: int) -> int:
    """The recipe's, or the next smaller one that the rows allow and that makes whole halves and equal shares."""
    if rows < 2:
        raise SdcError(f"training needs at least 2 rows, the train split has {rows}")
    size = min(recipe.batch_size, rows)
    size -= size % math.lcm(2 if recipe.pairs == "halves" else 1, ranks)
    if not size:
        raise UsageError(f"a batch of {min(recipe.batch_size, rows)} rows has no share for each of {ranks} processes")
    if size < recipe.batch_size:
        why = f"the train split has {rows} rows" if rows < recipe.batch_size else "it is cut into equal parts"
        log.info("%s: the batch is %d, not %d", why, size, recipe.batch_size)
    return size


class _Stop:
    """Remembers Ctrl-C and SIGTERM until the step is done, so that the state is saved between two steps."""

    def __init__(self) -> None:
        self.asked = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:  # a second Ctrl-C does not wait
            raise KeyboardInterrupt
        self.asked = True
