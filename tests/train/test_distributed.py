"""Two processes under torchrun: loss, gradients and model are those of one, and what happens when one of them ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import warm

from sdc.train.model import Model

TRAIN = ["train", "--method", "sdc", "--bits", "16", "--hidden", "32", "--batch-size", "32", "--device", "cpu"]


def start(folder: Path, *arguments: object, restarts: int = 0) -> warm.Started:
    """torchrun with 2 processes; `arguments` are what each of them runs."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", restarts]
    environment, pipe = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}, subprocess.PIPE
    return warm.popen(["-m", *launcher, *arguments], cwd=folder, env=environment, stdout=pipe, stderr=pipe)


def finish(process: warm.Started, code: int = 0) -> tuple[str, str]:
    try:
        output, messages = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise
    assert process.returncode == code, f"exit code {process.returncode}\n{output}\n{messages}"
    return output, messages


GRADIENTS = """
import json, sys
import numpy as np, torch
from sdc.train.loop import joined
from sdc.train.head import make_head
from sdc.train.methods.sdc import SDC
from sdc.train.presets import make_recipe

def compute(pairs, hidden, module_of, gather, x, joint):
    '''Loss, gradients and running statistics of one batch, of which `x` is this process' share.'''
    head = make_head(24, 16, hidden, seed=0)
    head.train()
    module = module_of(head)
    outputs = module(x)
    loss = SDC(make_recipe(bits=16, pairs=pairs), 64, joint).loss(gather(x), outputs)
    loss.total.backward()
    found = {name: value.grad for name, value in head.named_parameters()}
    return {"loss": loss.total.detach(), "mean": head.norm.running_mean, "var": head.norm.running_var, **found}

batch = torch.from_numpy(np.random.default_rng(0).standard_normal((64, 24)).astype(np.float32))
differences = {}
with joined("cpu") as world:
    share = batch[world.rank * 32 : (world.rank + 1) * 32]
    for pairs in ("rows", "halves"):
        for hidden in (0, 40):
            many = compute(pairs, hidden, world.joint, world.gather, share, batch)
            one = compute(pairs, hidden, lambda head: head, lambda x: x, batch, batch)
            for name, value in one.items():
                # The batch norm takes the mean away: the gradient by the bias before it is nothing but rounding.
                size = one["output.weight"] if name == "output.bias" else value
                differences[f"{pairs} {hidden} {name}"] = float((many[name] - value).norm() / size.norm())
if world.rank == 1:
    print(json.dumps(differences))
"""


def test_loss_gradients_and_statistics_are_those_of_one_process(tmp_path):
    (tmp_path / "gradients.py").write_text(GRADIENTS)
    output, _ = finish(start(tmp_path, "gradients.py"))
    differences = json.loads(output)
    assert len(differences) == 2 * (7 + 9)
    assert {name: value for name, value in differences.items() if value > 1e-6} == {}


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory) -> Path:
    """A folder with feats.h5."""
    place = tmp_path_factory.mktemp("distributed")
    os.link(made / "feats.h5", place / "feats.h5")
    return place


def test_the_model_is_that_of_one_process(folder, command_in):
    """The batch is cut to what the processes can share equally; only one of them speaks."""
    chosen = [*TRAIN[:7], "--pairs", "halves", "--epochs", "3", "--device", "cpu"]
    output, messages = finish(
        start(folder, "-m", "sdc", *chosen, "--batch-size", "51", "--out", "two.safetensors", "--json")
    )
    command_in(folder)(*chosen, "--batch-size", "50", "--out", "one.safetensors")
    assert json.loads(output)["epochs"] == 3
    assert messages.count("training sdc") == messages.count("the batch is 50, not 51") == 1
    one, two = (Model.load(folder / f"{name}.safetensors") for name in ("one", "two"))
    vectors = np.random.default_rng(0).standard_normal((500, one.dimension)).astype(np.float32)
    np.testing.assert_allclose(two.outputs(vectors), one.outputs(vectors), atol=2e-3)
    losses = [[epoch["total"] for epoch in model.metadata["training"]["curve"]] for model in (one, two)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


NEIGHBORS = ["train", "--goal", "neighbors", "--bits", "16", "--hidden", "16", "--steps", "20", "--device", "cpu"]
# Learning the tables that score takes the most of a training of so few rows.
QUICK = """
from dataclasses import replace
from sdc.cli import main
from sdc.train import fit_tables

fit_tables.DIALS = {name: replace(dial, steps=15) for name, dial in fit_tables.DIALS.items()}
main()
"""


@pytest.mark.slow
def test_neighbors_is_trained_by_two_as_by_one(tmp_path, command_in):
    """The batch's temperature, loss and bank are of the joint batch; one process fits the tables, alike each time."""
    (tmp_path / "quick.py").write_text(QUICK)
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).standard_normal((1500, 24)).astype(np.float32))
    run = command_in(tmp_path)
    run("import", "vectors.npy", "--out", "feats.h5")
    for name in ("two.st", "again.st"):
        _, messages = finish(start(tmp_path, "quick.py", *NEIGHBORS, "--batch-size", "512", "--out", name))
        assert messages.count("goal neighbors") == messages.count("training neighbors") == 1
        assert not (tmp_path / f"{name}.checkpoint").exists()
    assert (tmp_path / "two.st").read_bytes() == (tmp_path / "again.st").read_bytes()
    run(*NEIGHBORS, "--batch-size", "512", "--out", "one.st")
    one, two = (Model.load(tmp_path / name) for name in ("one.st", "two.st"))
    vectors = np.load(tmp_path / "vectors.npy")
    np.testing.assert_allclose(two.outputs(vectors), one.outputs(vectors), atol=2e-3)
    assert two.tables.price == one.tables.price
    differing = np.bitwise_count(two.encode(vectors) ^ one.encode(vectors)).mean() / 8
    assert differing < 0.1


def test_one_process_solves_a_closed_form_method(folder):
    output, messages = finish(start(folder, "-m", "sdc", "train", "--method", "itq", "--bits", "16", "--out", "itq.st"))
    assert output.count("itq.st: itq, 16 bits") == messages.count("training itq") == 1


# Checkpoints at each step; the process of rank 1 comes to a bad end at its tenth step.
SCRIPT = """
import os, signal, sys
from sdc.errors import SdcError
from sdc.cli import main
from sdc.train.loop import checkpoint, fitting

checkpoint.SAVE_EVERY = 0.0
end, step, done = sys.argv.pop(1), fitting._Run._step, [0]

def counted(self, batch, number):
    done[0] += 1
    if done[0] == 10 and os.environ["RANK"] == "1":
        if end == "raise":
            raise SdcError("a bad end")
        if int(os.environ["TORCHELASTIC_RESTART_COUNT"]) < 2:
            os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, number)

fitting._Run._step = counted
main()
"""


def undisturbed(folder: Path, epochs: int) -> bytes:
    path = folder / f"undisturbed-{epochs}.safetensors"
    if not path.exists():
        finish(start(folder, "-m", "sdc", *TRAIN, "--epochs", epochs, "--out", path.name))
    return path.read_bytes()


def test_after_a_kill_the_run_goes_on_from_its_checkpoint(folder):
    (folder / "script.py").write_text(SCRIPT)
    run = start(folder, "script.py", "kill", *TRAIN, "--epochs", 4, "--out", "killed.safetensors", restarts=3)
    _, messages = finish(run)
    assert messages.count("continuing killed.safetensors.checkpoint") == 2
    assert (folder / "killed.safetensors").read_bytes() == undisturbed(folder, 4)
    assert not (folder / "killed.safetensors.checkpoint").exists()


def test_an_error_in_one_process_ends_all(folder):
    (folder / "script.py").write_text(SCRIPT)
    run = start(folder, "script.py", "raise", *TRAIN, "--epochs", 4, "--out", "raised.safetensors")
    started = time.monotonic()
    _, messages = finish(run, code=1)
    assert "sdc: error: a bad end" in messages
    assert time.monotonic() - started < 60
    assert not (folder / "raised.safetensors").exists()


# Writes a file OUT.begun at its tenth step, and takes half a second for each from then on.
SLOW = """
import pathlib, sys, time
from sdc.cli import main
from sdc.progress import Progress

advance, steps = Progress.advance, []

def slow(*arguments):
    advance(*arguments)
    steps.append(arguments)
    if len(steps) >= 10:
        pathlib.Path(f"{sys.argv[-1]}.begun").touch()
        time.sleep(0.5)

Progress.advance = slow
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_asked_to_stop_it_saves_a_checkpoint_and_resumes(folder, number):
    name = f"stopped-{number}.safetensors"
    chosen = [*TRAIN, "--epochs", 30, "--out", name]
    (folder / "slow.py").write_text(SLOW)
    run = start(folder, "slow.py", *chosen)
    while not (folder / f"{name}.begun").exists() and run.poll() is None:
        time.sleep(0.01)
    run.send_signal(number)
    _, messages = run.communicate(timeout=300)
    assert run.returncode != 0
    assert f"continue with --resume ({name}.checkpoint)" in messages
    assert not (folder / name).exists()
    _, messages = finish(start(folder, "-m", "sdc", *chosen, "--resume"))
    assert messages.count(f"continuing {name}.checkpoint") == 1
    assert (folder / name).read_bytes() == undisturbed(folder, 30)
