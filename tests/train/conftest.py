"""Runs that are stopped in their midst."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from sdc.train.loop import Interrupted, checkpoint, fitting


@pytest.fixture
def stopped_after(monkeypatch):
    """with stopped_after(steps): a run that is asked to stop in the middle of that step, and does."""

    @contextlib.contextmanager
    def stopping(steps, match=None):
        step, done = fitting._Run._step, [0]

        def counted(self, batch, number):
            done[0] += 1
            if done[0] == steps:
                os.kill(os.getpid(), signal.SIGINT)
            return step(self, batch, number)

        with monkeypatch.context() as patch, pytest.raises(Interrupted, match=match):
            patch.setattr(fitting._Run, "_step", counted)
            yield

    return stopping


@pytest.fixture
def killed_before(monkeypatch):
    """with killed_before(number): a run that fails as it begins that step, with a checkpoint of the one before."""

    @contextlib.contextmanager
    def killing(number):
        step = fitting._Run._step

        def failing(self, batch, reached):
            if reached == number:
                raise KeyboardInterrupt
            return step(self, batch, reached)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(checkpoint, "SAVE_EVERY", 0.0)
            patch.setattr(fitting._Run, "_step", failing)
            yield

    return killing
