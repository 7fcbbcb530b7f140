"""Fitting a hash head to features: the same code under `sdc train` and `sdc.Hasher`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc.artifacts import Progress, SdcError, log, torch_device
from sdc.train.checkpoint import Checkpoint, State
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
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Fits the recipe's method to `features[rows]`.

    Args:
        features: (N, d) array or memory map; only the rows of a batch are read at a time.
        rows: (n,) row numbers to train on.
        recipe: the run's settings.
        device: of PyTorch; None takes CUDA where there is one.
        checkpoint: where the state is kept for `resume`; None keeps none.
        resume: continue from the checkpoint where there is one.

    Returns:
        The tensors of a `Model`, and what is worth recording: `rows`, `epochs`, `steps`, `loss`, `curve`.

    Raises:
        SdcError: too few rows, or the loss is no longer finite.
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
    return _Run(features, rows, recipe, method, device).train(checkpoint, resume)


class _Run:
    """One run of gradient steps."""

    def __init__(
        self, features: np.ndarray, rows: np.ndarray, recipe: Recipe, method: type[Trained], device: str | None
    ) -> None:
        if len(rows) < 2:
            raise SdcError(f"training needs at least 2 rows, the train split has {len(rows)}")
        self.device = torch_device(device)
        self.features, self.rows, self.recipe = features, rows, recipe
        self.batch_size = min(recipe.batch_size, len(rows))
        if recipe.pairs == "halves":
            self.batch_size -= self.batch_size % 2
        if self.batch_size < recipe.batch_size:
            why = f"the train split has {len(rows)} rows" if len(rows) < recipe.batch_size else "halves are even"
            log.info("%s: the batch is %d, not %d", why, self.batch_size, recipe.batch_size)
        self.steps = len(rows) // self.batch_size
        dimension = features.shape[1]
        hidden = (recipe.hidden or dimension) if recipe.head == "mlp" else 0
        self.head = make_head(dimension, recipe.bits, hidden, recipe.seed).to(self.device)
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
        self._loop(state, checkpoint)
        tensors = {name: value.cpu().numpy() for name, value in self.head.state_dict().items()}
        del tensors["norm.num_batches_tracked"]
        return tensors, {
            "rows": len(self.rows),
            "epochs": state.epoch,
            "steps": state.epoch * self.steps,
            "loss": state.curve[-1]["total"],
            "curve": state.curve,
        }

    def _loop(self, state: State, checkpoint: Checkpoint | None) -> None:
        recipe, saved = self.recipe, time.monotonic()
        total, already = recipe.epochs * self.steps, state.epoch * self.steps + state.step
        self.head.train()
        with _Stop() as stop, Progress("train", total, "steps", already) as progress:
            while state.epoch < recipe.epochs:
                self._set_rate(state.epoch)
                sums = torch.tensor(state.sums, dtype=torch.float64, device=self.device)
                for batch in self._batches(state):
                    sums += self._step(batch)
                    state.step += 1
                    progress.advance()
                    due = time.monotonic() - saved > SAVE_EVERY
                    if checkpoint is not None and (stop.asked or due):
                        state.sums = sums.tolist()
                        checkpoint.save(self.head, self.optimizer, state)
                        saved = time.monotonic()
                    if stop.asked:
                        where = f"; continue with --resume ({checkpoint.path})" if checkpoint else ""
                        raise Interrupted(f"stopped at epoch {state.epoch + 1} of {recipe.epochs}{where}")
                self._end_epoch(state, sums, progress)

    def _end_epoch(self, state: State, sums: Tensor, progress: Progress) -> None:
        means = [value / self.steps for value in sums.tolist()]
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

    def _batches(self, state: State) -> Iterator[np.ndarray]:
        """The row numbers of the epoch's batches from `state.step` on: a function of seed and epoch alone."""
        order = np.random.default_rng((self.recipe.seed, state.epoch)).permutation(self.rows)
        for step in range(state.step, self.steps):
            yield order[step * self.batch_size : (step + 1) * self.batch_size]

    def _step(self, batch: np.ndarray) -> Tensor:
        x = torch.from_numpy(self.features[batch]).to(self.device, torch.float32)
        loss = self.method.loss(x, self.head(x))
        self.optimizer.zero_grad()
        loss.total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return torch.stack([term.detach() for term in loss])


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
