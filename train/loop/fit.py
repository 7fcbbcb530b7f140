"""Fitting a hash head to features: the same code under `sdc train` and `sdc.Hasher`."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdc.devices import torch_device
from sdc.errors import SdcError, UsageError, log
from sdc.progress import Progress
from sdc.train.feature_space import SAMPLE, principal_space
from sdc.train.head import start_head
from sdc.train.loop.batches import Batch, Batches
from sdc.train.loop.checkpoint import Checkpoint, State
from sdc.train.loop.distributed import World
from sdc.train.loop.early_stopping import CHECK_EVERY, DATABASE, FROM_STEPS, NEIGHBORS, Agreement, held_out
from sdc.train.methods import ClosedForm, load_method
from sdc.train.methods.gradient_method import GradientMethod
from sdc.train.recipe import CUT, CUTS, LEAST_GAIN, Recipe

DROPPED = 0.2  # of the features, in each copy that stands for a view
REMEDIES = {
    "tokens": "make them with sdc extract --tokens, or try wch-global, which learns from the features alone",
    "labels": "train without --supervised, or import them with sdc import --labels",
}
SAVE_EVERY = 60.0  # seconds between checkpoints of a run that is not interrupted


class Interrupted(SdcError):  # noqa: N818 — not a failure: the run was asked to stop
    """The run was stopped by Ctrl-C or SIGTERM, after its checkpoint was saved."""

    exit_code = 130


def fit(
    features: np.ndarray,
    rows: np.ndarray,
    recipe: Recipe,
    *,
    views: Sequence[np.ndarray] = (),
    extras: Mapping[str, np.ndarray | None] | None = None,
    device: str | None = None,
    checkpoint: Checkpoint | None = None,
    resume: bool = False,
    world: World | None = None,
    start: float | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Fits the recipe's method to `features[rows]`.

    Args:
        features: (N, d) array or memory map, see `Batches`.
        rows: (n,) row numbers to train on, ascending.
        recipe: the run's settings.
        views: further views of the features, each (N, d), for methods that learn from several.
        extras: what methods may learn from beside them: `tokens` (N, T, w), `labels` (N,) or (N, C).
        device: of PyTorch; None takes CUDA where there is one.
        checkpoint: where the state is kept for `resume`; None keeps none.
        resume: continue from the checkpoint where there is one.
        start: by time.monotonic(), when the recipe's budget began to run; None for now.
        world: the processes that share the batches of a trained method; all call this with the same arguments.

    Returns:
        The tensors of a `Model`, and what is worth recording: `rows`, `epochs`, `steps`, `loss`, `curve` and more.

    Raises:
        SdcError: too few rows, the loss is no longer finite, or another process is gone.
        UsageError: the method learns from tokens or labels, and there are none.
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
    needed = {name: (extras or {}).get(name) for name in method.extras(recipe)}
    found = {name: array for name, array in needed.items() if array is not None}
    for name in needed.keys() - found.keys():
        raise UsageError(f"{recipe.method} learns from {name}, and these features have none: {REMEDIES[name]}")
    world = world or World(device=device)
    start = time.monotonic() if start is None else start
    run = _Run(features, rows, recipe, method, world, views=views[: method.views - 1], extras=found, start=start)
    return run.train(checkpoint, resume or world.restarts > 0)


class _Run:
    """One run of gradient steps."""

    def __init__(
        self,
        features: np.ndarray,
        rows: np.ndarray,
        recipe: Recipe,
        method: type[GradientMethod],
        world: World,
        *,
        views: Sequence[np.ndarray],
        extras: Mapping[str, np.ndarray],
        start: float,
    ) -> None:
        self.world, self.start = world, start
        self.device = torch_device(world.device)
        self.recipe = recipe = recipe.resolved(features.shape[1])
        self.batch_size, held = _batch_size(recipe, len(rows), world.size), rows[:0]
        if recipe.patience and (recipe.budget or recipe.epochs * (len(rows) // self.batch_size) >= FROM_STEPS):
            rows, held = held_out(rows, recipe.seed)
            self.batch_size = _batch_size(recipe, len(rows), world.size)
        if self.batch_size < recipe.batch_size:
            few = len(rows) < recipe.batch_size
            why = f"the train split has {len(rows)} rows" if few else "it is cut into equal parts"
            log.info("%s: the batch is %d, not %d", why, self.batch_size, recipe.batch_size)
        self.held = len(held)
        self.batches = Batches(features, rows, self.batch_size, recipe.seed, world.rank, world.size, views, extras)
        sample = _sample(features, rows, recipe.seed)
        self.space = None
        if recipe.space == "principal":
            assert recipe.locality is not None
            self.space = principal_space(sample, recipe.bits, recipe.locality, self.device)
        mapped = self._map(sample)
        self.head = start_head(recipe, features.shape[1], mapped).to(self.device)
        self.joint = world.joint(self.head)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.method = method(recipe, self.batch_size, mapped).to(self.device)
        self.modules = nn.ModuleDict({"head": self.head, "method": self.method})
        self.copies = method.views if len(views) < method.views - 1 else 0
        if self.copies:
            log.info(
                "%s learns from %d views and the features hold %d: copies with %.0f %% of the dimensions dropped "
                "stand in (sdc extract --views %d makes real ones)",
                recipe.method, method.views, 1 + len(views), 100 * DROPPED, method.views,
            )  # fmt: skip
        self.best: dict[str, Tensor] | None = None
        self.agreement: Agreement | None = None
        if self.held and len(mapped) > NEIGHBORS:
            queries = self._map(features[held])
            self.agreement = Agreement(self.method.teacher, queries, mapped[:DATABASE])
        self.optimizer = torch.optim.Adam(self.modules.parameters(), weight_decay=recipe.weight_decay, fused=True)

    def train(self, checkpoint: Checkpoint | None, resume: bool) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        state = State()
        if checkpoint is not None:  # with other batches, a place among them means nothing
            checkpoint.settings = {**checkpoint.settings, "rows of a batch": self.batch_size}
        if checkpoint is not None and checkpoint.path.exists():
            if resume:
                state, self.best = checkpoint.load(self.modules, self.optimizer)
                self.start -= state.seconds
                log.info("continuing %s at epoch %d", checkpoint.path, state.epoch + 1)
            else:
                log.info("%s is left by an interrupted run; it is not used without --resume", checkpoint.path)
        elif resume:
            log.info("there is no checkpoint to continue: starting afresh")
        self.world.check_equal(state.epoch, state.step)
        sums = state.sums or [0.0] * len(self.method.terms)
        self.sums = torch.tensor(sums, dtype=torch.float64, device=self.device)
        self._loop(state, checkpoint)
        if self.best is not None:
            self.head.load_state_dict(self.best)
        tensors = {name: value.cpu().numpy() for name, value in self.head.state_dict().items()}
        tensors.pop("norm.num_batches_tracked", None)
        return self.space.fold(tensors) if self.space else tensors, {
            "rows": len(self.batches.rows),
            "held_out": self.held,
            "epochs": state.epoch,
            "steps": self._taken(state),
            "loss": state.curve[-1]["total"] if state.curve else None,
            "curve": state.curve,
            "agreement": None if self.agreement is None else state.agreement,
            "best_step": state.best_step if self.agreement is not None else self._taken(state),
            "locality": self.recipe.locality,
            "lr": self.recipe.lr,
        }

    def _loop(self, state: State, checkpoint: Checkpoint | None) -> None:
        # Where torchrun may start a run again, there is a checkpoint of this one, and no former one's, from its start.
        self.saved = time.monotonic() if self.world.size == 1 else -math.inf
        epochs = self.recipe.epochs or sys.maxsize
        self.head.train()
        # With locality the start, ITQ's solution, keeps more neighbours than any trained head, and finds fewer rows of
        # the same kind: only trained heads are compared.
        if self.best is None and not self.recipe.locality:
            self._check(state)
        silent = self.world.rank > 0
        with (
            _Stop() as stop,
            Progress("train", epochs * self.batches.steps, "steps", self._taken(state), silent) as bar,
        ):
            while state.epoch < epochs and not state.done:
                self._set_rate(state)
                with contextlib.closing(self.batches.epoch(state.epoch, state.step)) as batches:
                    for batch in batches:
                        self.sums += self._step(batch, self._taken(state))
                        state.step += 1
                        goes_on = self._after_step(state, bar)
                        self._keep(state, checkpoint, stop)
                        if not goes_on:
                            break
                self._end_epoch(state, bar)
        if self._taken(state) % CHECK_EVERY:
            self._check(state)

    def _taken(self, state: State) -> int:
        """Steps so far."""
        return state.epoch * self.batches.steps + state.step

    def _after_step(self, state: State, bar: Progress) -> bool:
        """Looks whether training should go on."""
        taken, budget = self._taken(state), self.recipe.budget
        state.seconds = time.monotonic() - self.start
        if budget:
            limit = (self.recipe.epochs or sys.maxsize) * self.batches.steps
            bar.total = min(limit, max(taken, int(taken * budget / state.seconds)))
        bar.advance()
        if taken % CHECK_EVERY == 0:
            self._check(state)
        if budget and self.world.any(state.seconds > budget, taken):
            log.info("the budget of %g s is spent after %d steps", budget, taken)
            state.done = True
        return not state.done

    def _check(self, state: State) -> None:
        """Keeps the head if it is the best so far; cuts the rate, or ends, if there was none for long."""
        if self.agreement is None:
            return
        agreement = self.world.same(self.agreement(self.head))
        if agreement > state.agreement + LEAST_GAIN:
            state.agreement, state.best_step, state.waited = agreement, self._taken(state), 0
            self.best = {name: value.clone() for name, value in self.head.state_dict().items()}
            return
        state.waited += 1
        if state.waited < self.recipe.patience:
            return
        assert self.best is not None
        state.waited, state.cuts = 0, state.cuts + 1
        self.head.load_state_dict(self.best)
        self._set_rate(state)
        if state.cuts > CUTS:
            log.info("held-out rows gain nothing any more: done after %d steps", self._taken(state))
            state.done = True

    def _keep(self, state: State, checkpoint: Checkpoint | None, stop: _Stop) -> None:
        """Saves a checkpoint when it is time; raises Interrupted where the run is asked to stop."""
        stopping = self.world.any(stop.asked, self._taken(state))
        due = time.monotonic() - self.saved > SAVE_EVERY
        if checkpoint is not None and self.world.rank == 0 and (stopping or due):
            state.sums = self.sums.tolist()
            checkpoint.save(self.modules, self.optimizer, state, self.best)
            self.saved = time.monotonic()
        if stopping:
            where = f"; continue with --resume ({checkpoint.path})" if checkpoint else ""
            raise Interrupted(f"stopped in epoch {state.epoch + 1}{where}")

    def _end_epoch(self, state: State, bar: Progress) -> None:
        means = [value / max(1, state.step) for value in self.sums.tolist()]
        if not np.isfinite(means).all():
            raise SdcError(
                f"the loss is {means[0]} in epoch {state.epoch + 1}: training diverged; "
                f"lower --lr (it is {self.recipe.lr:g})"
            )
        state.curve.append(dict(zip(self.method.terms, means, strict=True)))
        bar.advance(0, f"loss {means[0]:.4f}")
        if state.step == self.batches.steps:
            state.epoch, state.step = state.epoch + 1, 0
        self.sums.zero_()

    def _set_rate(self, state: State) -> None:
        assert self.recipe.lr is not None  # `resolved` has filled it in
        decayed = 0 < self.recipe.decay_at <= state.epoch
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * CUT**state.cuts / (10 if decayed else 1)

    def _step(self, batch: Batch, number: int) -> Tensor:
        self.method.generator.manual_seed((self.recipe.seed << 32) + number)
        inputs = self._map(batch.features, self.copies)
        outputs = self.joint(inputs)
        extras = {
            name: self.world.gather(torch.from_numpy(array).to(self.device)) for name, array in batch.extras.items()
        }
        loss = self.method.loss(self.world.gather(inputs), outputs, **extras)
        self.optimizer.zero_grad()
        loss[0].backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return torch.stack([term.detach() for term in loss])

    def _map(self, stored: np.ndarray, copies: int = 0) -> Tensor:
        """Features as stored, as float32 in the recipe's space and on the device; or as many copies with gaps."""
        features = torch.from_numpy(stored).to(self.device).to(torch.float32)
        if copies:
            features = features.unsqueeze(1).expand(-1, copies, -1)
            joint = (self.batch_size, *features.shape[1:])
            drawn = torch.rand(joint, generator=self.method.generator, device=self.device)
            mine = drawn.chunk(self.world.size)[self.world.rank]
            features = features * (mine >= DROPPED) / (1 - DROPPED)
        return self.space(features) if self.space else features


def _sample(features: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """At most `SAMPLE` of the rows' features, float32, in random order."""
    random = np.random.default_rng((seed, 2))
    chosen = random.choice(len(rows), min(SAMPLE, len(rows)), replace=False, shuffle=False)
    sample = features[rows[np.sort(chosen)]].astype(np.float32)  # in ascending order: faster from a disk
    return random.permutation(sample)


def _batch_size(recipe: Recipe, rows: int, ranks: int) -> int:
    """The recipe's, or the next smaller one that the rows allow and that makes whole halves and equal shares."""
    if rows < 2:
        raise SdcError(f"training needs at least 2 rows, the train split has {rows}")
    size = min(recipe.batch_size, rows)
    size -= size % math.lcm(2 if recipe.pairs == "halves" else 1, ranks)
    if not size:
        raise UsageError(f"a batch of {min(recipe.batch_size, rows)} rows has no share for each of {ranks} processes")
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
