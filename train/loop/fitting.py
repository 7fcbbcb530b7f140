"""Fitting a hash head to features: the same code under `sdc train` and `sdc.Hasher`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdc.devices import threads_by_work, torch_device
from sdc.errors import SdcError, UsageError, log
from sdc.progress import Progress
from sdc.train.feature_space import draw_sample, make_space
from sdc.train.head import start_head
from sdc.train.loop.batches import Batch, Batches
from sdc.train.loop.checkpoint import Checkpoint, Checkpointing
from sdc.train.loop.distributed import World
from sdc.train.loop.early_stopping import CHECK_EVERY, DATABASE, NEIGHBORS, Agreement, EarlyStopping, split_rows
from sdc.train.loop.interrupt import StopSignals
from sdc.train.loop.schedule import one_cycle
from sdc.train.loop.state import State
from sdc.train.loop.step_work import step_work
from sdc.train.methods import ClosedForm, GradientMethod, load_method
from sdc.train.recipe import CUT, Recipe
from sdc.train.tensors import UNIT_EPSILON

DROPPED = 0.2  # of the features, in each copy that stands for a view
REMEDIES = {
    "tokens": "make them with sdc extract --tokens, or try wch-global, which learns from the features alone",
    "labels": "train without --supervised, or import them with sdc import --labels",
}


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
        drawn = np.random.default_rng(recipe.seed).permutation(rows)[: method.sample]
        sample = features[np.sort(drawn)].astype(np.float32)
        summary: dict[str, Any] = {"rows": len(rows), "epochs": 0, "steps": 0, "loss": None, "curve": []}
        return method.fit(sample, recipe.bits, recipe.seed), summary
    needed = {name: (extras or {}).get(name) for name in method.extras(recipe)}
    present = {name: array for name, array in needed.items() if array is not None}
    for name in needed.keys() - present.keys():
        raise UsageError(f"{recipe.method} learns from {name}, and these features have none: {REMEDIES[name]}")
    world = world or World(device=device)
    start = time.monotonic() if start is None else start
    run = _Run(features, rows, recipe, method, world, views=views[: method.views - 1], extras=present, start=start)
    rows_a_step = run.batches.batch_size * method.views
    with threads_by_work(step_work(rows_a_step, features.shape[1], run.modules, present.get("tokens"))):
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
        rows, held_out, batch_size = split_rows(recipe, rows, world.size)
        self.batches = Batches(features, rows, batch_size, recipe.seed, world.rank, world.size, views, extras)
        sample = draw_sample(features, rows, recipe.seed)
        stored = self._stored(sample)
        self.space = make_space(recipe, stored.cpu().numpy(), self.device)
        inputs = self._inputs(stored)
        self.head = start_head(recipe, features.shape[1], inputs).to(self.device)
        self.joint = world.joint(self.head)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.method = method(recipe, batch_size, inputs if method.in_space else stored).to(self.device)
        self.copies = _copies(recipe, method, 1 + len(views))
        agreement = None
        if len(held_out) and len(inputs) > NEIGHBORS:
            agreement = self._agreement(self._stored(features[held_out]), stored[:DATABASE])
        self.stopping = EarlyStopping(agreement, len(held_out), recipe.patience, world)
        self.modules = nn.ModuleDict({"head": self.head, "method": self.method})
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
        self.optimizer = kind(self.method.parameter_groups(self.head), fused=True)

    def train(self, checkpoint: Checkpoint | None, resume: bool) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The tensors and the summary that `fit` returns."""
        saving = Checkpointing(checkpoint, self.batches.batch_size, self.modules, self.optimizer, self.world)
        state, self.stopping.best = saving.restore(resume)
        self.start -= state.seconds
        self.world.check_equal(state.epoch, state.step)
        sums = state.sums or [0.0] * len(self.method.terms)
        self.sums = torch.tensor(sums, dtype=torch.float64, device=self.device)
        self._loop(state, saving)
        self.stopping.restore_best(self.head)
        tensors = {name: value.cpu().numpy() for name, value in self.head.state_dict().items()}
        tensors.pop("norm.num_batches_tracked", None)
        steps = self._steps(state)
        if self.space:
            tensors = self.space.fold(tensors)
        if self.recipe.normalize:
            tensors["unit.epsilon"] = np.array([UNIT_EPSILON], np.float32)
        return tensors, {
            "rows": len(self.batches.rows),
            "held_out": self.stopping.held_out,
            "epochs": state.epoch,
            "steps": steps,
            "loss": state.curve[-1]["total"] if state.curve else None,
            "curve": state.curve,
            **self.stopping.summary(state, steps),
            "locality": self.recipe.locality,
            "lr": self.recipe.lr,
        }

    def _loop(self, state: State, saving: Checkpointing) -> None:
        epochs = self.recipe.epochs or sys.maxsize
        total = self.recipe.steps or epochs * self.batches.steps
        self.head.train()
        # With locality the start, ITQ's solution, keeps more neighbours than any trained head, and finds fewer rows of
        # the same kind: only trained heads are compared.
        if self.stopping.best is None and not self.recipe.locality:
            self._check(state)
        silent = self.world.rank > 0
        with StopSignals() as stop, Progress("train", total, "steps", self._steps(state), silent) as bar:
            while state.epoch < epochs and not state.done:
                self._set_rate(state)
                with contextlib.closing(self.batches.epoch(state.epoch, state.step)) as batches:
                    for batch in batches:
                        if self.recipe.schedule != "constant":
                            self._set_rate(state)
                        self.sums += self._step(batch, self._steps(state))
                        state.step += 1
                        goes_on = self._after_step(state, bar)
                        saving.after_step(state, self._steps(state), self.sums, self.stopping.best, stop.asked)
                        if not goes_on:
                            break
                self._end_epoch(state, bar)
        if self.recipe.fits_tables:  # these take their time yet
            saving.save(state, self.sums, self.stopping.best)
        if self._steps(state) % CHECK_EVERY:
            self._check(state)

    def _steps(self, state: State) -> int:
        """Steps so far."""
        return state.epoch * self.batches.steps + state.step

    def _step(self, batch: Batch, number: int) -> Tensor:
        """One step of the optimizer; the terms of the loss before it."""
        self.method.generator.manual_seed((self.recipe.seed << 32) + number)
        stored = self._stored(batch.features, self.copies)
        inputs = self._inputs(stored)
        outputs = self.joint(inputs)
        extras = {
            name: self.world.gather(torch.from_numpy(array).to(self.device)) for name, array in batch.extras.items()
        }
        learned_from = inputs if self.method.in_space else stored
        loss = self.method.loss(self.world.gather(learned_from), outputs, **extras)
        self.optimizer.zero_grad()
        loss[0].backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return torch.stack([term.detach() for term in loss])

    def _after_step(self, state: State, bar: Progress) -> bool:
        """Checks held-out rows when it is time, ends training where the budget is spent; whether it goes on."""
        steps, budget = self._steps(state), self.recipe.budget
        state.seconds = time.monotonic() - self.start
        if budget:
            limit = self.recipe.steps or (self.recipe.epochs or sys.maxsize) * self.batches.steps
            bar.total = min(limit, max(steps, int(steps * budget / state.seconds)))
        bar.advance()
        if steps % CHECK_EVERY == 0:
            self._check(state)
        if budget and self.world.any(state.seconds > budget, steps):
            log.info("the budget of %g s is spent after %d steps", budget, steps)
            state.done = True
        if self.recipe.steps and steps >= self.recipe.steps:
            state.done = True
        return not state.done

    def _check(self, state: State) -> None:
        if self.stopping.check(self.head, state, self._steps(state)):
            self._set_rate(state)

    def _end_epoch(self, state: State, bar: Progress) -> None:
        means = [value / max(1, state.step) for value in self.sums.tolist()]
        if not np.isfinite(means).all():
            raise SdcError(
                f"the loss is {means[0]} in epoch {state.epoch + 1}: training diverged; "
                f"lower --lr (it is {self.recipe.lr:g})"
            )
        state.curve.append(dict(zip(self.method.terms, means, strict=True)))
        recall = f", held-out recall@{NEIGHBORS} {state.agreement:.3f}" if self.stopping.agreement else ""
        bar.advance(0, f"loss {means[0]:.4f}{recall}")
        if state.step == self.batches.steps:
            state.epoch, state.step = state.epoch + 1, 0
        self.sums.zero_()

    def _set_rate(self, state: State) -> None:
        assert self.recipe.lr is not None  # `resolved` has filled it in
        decayed = 0 < self.recipe.decay_at <= state.epoch
        rate = self.recipe.lr * CUT**state.cuts / (10 if decayed else 1)
        if self.recipe.schedule == "one-cycle":
            rate *= one_cycle(self._share(state))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)

    def _share(self, state: State) -> float:
        """The share of the run that is over, by steps or by the budget."""
        steps, recipe = self._steps(state), self.recipe
        limits = [recipe.steps, recipe.epochs * self.batches.steps]
        share = max((steps / limit for limit in limits if limit), default=0.0)
        return min(1.0, max(share, state.seconds / recipe.budget if recipe.budget else 0.0))

    def _agreement(self, queries: Tensor, database: Tensor) -> Agreement:
        inputs = self._inputs(queries), self._inputs(database)
        teacher_inputs = inputs if self.method.in_space else (queries, database)
        of_queries, of_database = map(self.method.teacher, teacher_inputs)
        return Agreement(of_queries @ of_database.T, *inputs)

    def _inputs(self, stored: Tensor) -> Tensor:
        """Features in the recipe's space, as the head takes them."""
        return self.space(stored) if self.space else stored

    def _stored(self, array: np.ndarray, copies: int = 0) -> Tensor:
        """Features as float32 on the device, of unit length where the recipe says so; or as many copies with gaps."""
        features = torch.from_numpy(array).to(self.device).to(torch.float32)
        if self.recipe.normalize:
            features = F.normalize(features, dim=-1, eps=UNIT_EPSILON)
        if copies:
            features = features.unsqueeze(1).expand(-1, copies, -1)
            joint = (self.batches.batch_size, *features.shape[1:])
            drawn = torch.rand(joint, generator=self.method.generator, device=self.device)
            share = drawn.chunk(self.world.size)[self.world.rank]
            features = features * (share >= DROPPED) / (1 - DROPPED)
        return features


def _copies(recipe: Recipe, method: type[GradientMethod], views: int) -> int:
    """How many copies of each row stand in for the views that the method learns from; 0 where there are these views."""
    if views >= method.views:
        return 0
    log.info(
        "%s learns from %d views and the features hold %d: copies with %.0f %% of the dimensions dropped "
        "stand in (sdc extract --views %d makes real ones)",
        recipe.method, method.views, views, 100 * DROPPED, method.views,
    )  # fmt: skip
    return method.views
