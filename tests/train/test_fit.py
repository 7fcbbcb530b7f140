"""Training: deterministic, resumable bit for bit, and better than it began."""

from __future__ import annotations

import signal
import threading

import numpy as np
import pytest
import torch
import warm

import sdc
from sdc.errors import SdcError, UsageError
from sdc.train.loop import fit
from sdc.train.loop.checkpoint import Checkpoint
from sdc.train.presets import make_recipe


def clusters(n=400, d=24, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    x = rng.standard_normal((classes, d))[labels] * 2 + rng.standard_normal((n, d))
    return x.astype(np.float32), labels


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


X, LABELS = clusters()
ROWS = np.arange(len(X))
RECIPE = make_recipe(bits=16, epochs=4, batch_size=64)


def test_the_same_seed_gives_the_same_head_and_another_another():
    first, summary = fit(X, ROWS, RECIPE)
    assert equal(first, fit(X, ROWS, RECIPE)[0])
    assert not equal(first, fit(X, ROWS, make_recipe(bits=16, epochs=4, batch_size=64, seed=1))[0])
    assert summary["steps"] == 4 * (400 // 64)


def test_training_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    fit(X, ROWS, RECIPE)
    assert torch.rand(1) == expected


@pytest.mark.parametrize("pairs", ["rows", "halves", "all"])
def test_the_loss_falls_and_neighbours_survive(pairs):
    start = {"space": "raw", "init": "random", "head": "mlp"}
    tensors, summary = fit(X, ROWS, make_recipe(bits=32, epochs=15, batch_size=64, pairs=pairs, lr=1e-3, **start))
    curve = [epoch["total"] for epoch in summary["curve"]]
    assert curve[-1] < 0.8 * curve[0]
    hasher = sdc.Hasher(bits=32, epochs=15, batch_size=64, pairs=pairs, lr=1e-3, **start).fit(X)
    codes = np.sign(hasher.outputs(X))
    agreement = codes @ codes.T / 32
    np.fill_diagonal(agreement, -2)
    assert (LABELS[agreement.argmax(1)] == LABELS).mean() > 0.9
    assert tensors["output.weight"].shape == (32, 24)


def test_only_the_given_rows_are_used():
    other = X.copy()
    other[200:] = np.nan
    assert equal(fit(X, ROWS[:200], RECIPE)[0], fit(other, ROWS[:200], RECIPE)[0])


def test_a_batch_larger_than_the_set_is_clamped():
    for count, pairs in ((2, "rows"), (3, "halves"), (14, "rows")):
        _, summary = fit(X, ROWS[:count], make_recipe(bits=8, epochs=2, pairs=pairs))
        assert summary["steps"] == 2


def test_too_few_rows_are_refused():
    with pytest.raises(SdcError, match="at least 2 rows, the train split has 1"):
        fit(X, ROWS[:1], RECIPE)
    with pytest.raises(SdcError, match="train split is empty"):
        fit(X, ROWS[:0], make_recipe(method="lsh"))


def test_divergence_is_said():
    with pytest.raises(SdcError, match="diverged; lower --lr"):
        fit(X * 1e30, ROWS, make_recipe(bits=16, epochs=2, lr=1e30, space="raw", init="random"))


@pytest.mark.parametrize("steps", [1, 6, 13])
def test_interrupted_and_resumed_it_ends_bit_for_bit_the_same(stopped_after, tmp_path, steps):
    undisturbed, summary = fit(X, ROWS, RECIPE)
    checkpoint = Checkpoint(tmp_path / "model.safetensors", {"bits": 16})
    with stopped_after(steps, match="--resume"):
        fit(X, ROWS, RECIPE, checkpoint=checkpoint)
    assert checkpoint.path.exists()
    resumed, again = fit(X, ROWS, RECIPE, checkpoint=checkpoint, resume=True)
    assert equal(undisturbed, resumed)
    assert again == summary


def test_a_checkpoint_of_other_settings_is_refused(stopped_after, tmp_path):
    out = tmp_path / "model.safetensors"
    with stopped_after(3):
        fit(X, ROWS, RECIPE, checkpoint=Checkpoint(out, {"lr": 1.0}))
    with pytest.raises(UsageError, match=r"lr: found 1\.0, wanted 2\.0"):
        fit(X, ROWS, RECIPE, checkpoint=Checkpoint(out, {"lr": 2.0}), resume=True)
    whole = (tmp_path / "model.safetensors.checkpoint").read_bytes()
    assert whole.count(b'step\\": 3') == 1
    for damaged in (whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:], whole.replace(b'step\\": 3', b'step\\": 2')):
        (tmp_path / "model.safetensors.checkpoint").write_bytes(damaged)
        with pytest.raises(SdcError, match="damaged") as refusal:
            fit(X, ROWS, RECIPE, checkpoint=Checkpoint(out, {"lr": 1.0}), resume=True)
        assert refusal.value.exit_code == 1


def test_it_trains_in_another_thread_too():
    found = []
    thread = threading.Thread(target=lambda: found.append(fit(X, ROWS, RECIPE)[0]))
    thread.start()
    thread.join()
    assert equal(found[0], fit(X, ROWS, RECIPE)[0])


def test_a_checkpoint_of_other_batches_is_refused(stopped_after, tmp_path):
    """As where fewer processes share a batch: a step would be another place in the epoch, or beyond its end."""
    checkpoint = Checkpoint(tmp_path / "model.safetensors", {})
    with stopped_after(5):
        fit(X, ROWS, RECIPE, checkpoint=checkpoint)
    with pytest.raises(UsageError, match="rows of a batch"):
        fit(X, ROWS, make_recipe(bits=16, epochs=4, batch_size=100), checkpoint=checkpoint, resume=True)


def test_a_killed_run_leaves_its_last_checkpoint_whole(tmp_path):
    """kill -9 while a checkpoint is written: the next run resumes and ends as an undisturbed one."""
    script = (
        "import numpy as np, os, pathlib, signal, sys\n"
        "from sdc.train.loop import checkpoint as c, fit\n"
        "from sdc.train import make_recipe\n"
        "c.SAVE_EVERY = 0.0\n"
        "x = np.load('x.npy')\n"
        "recipe = make_recipe(bits=16, epochs=4, batch_size=64, hidden=32)\n"
        "moment, calls = sys.argv[1], []\n"
        "def killing(original):\n"
        "    def call(*arguments):\n"
        "        calls.append(arguments)\n"
        "        if moment == 'after': original(*arguments)\n"
        "        if len(calls) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        if moment != 'after': original(*arguments)\n"
        "    return call\n"
        "name = {'half': 'fsync', 'before': 'replace', 'after': 'replace'}.get(moment)\n"
        "if name: setattr(os, name, killing(getattr(os, name)))\n"
        "t, s = fit(x, np.arange(len(x)), recipe, checkpoint=c.Checkpoint(pathlib.Path('m'), {}), resume=True)\n"
        "np.savez('done.npz', **t)\n"
    )
    np.save(tmp_path / "x.npy", X)
    for moment in ("half", "before", "after", "never"):
        done = warm.run(["-c", script, moment], cwd=tmp_path, capture_output=True)
        assert done.returncode == (0 if moment == "never" else -signal.SIGKILL), done.stderr
        assert (tmp_path / "done.npz").exists() == (moment == "never")
        assert (tmp_path / "m.checkpoint").exists()
    with np.load(tmp_path / "done.npz") as done:
        assert equal(dict(done), fit(X, ROWS, RECIPE)[0])
