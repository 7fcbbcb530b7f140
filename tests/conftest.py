"""What tests of several stages share."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

# Before anything loads OpenMP: the workers of a run share the cores, and tensors as small as those of tests only wait
# for each other's threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest
import warm

# A busy machine may take a second for what takes a millisecond.
hypothesis.settings.register_profile("sdc", deadline=None)
hypothesis.settings.load_profile("sdc")

ENGINES = "tests/retrieve/engines/"
# What takes longest comes first, so that no worker is alone at the end.
FIRST = (
    "tests/test_whole_job.py", ENGINES, "tests/kernels/test_triton_interpreter.py", "tests/retrieve/rerank/",
    "tests/experiments/", "tests/train/",
)  # fmt: skip


def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):  # workers of pytest-xdist use the server of the one above them
        started = contextlib.ExitStack()
        started.enter_context(warm.server())
        session.config.add_cleanup(started.close)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def turn(item: pytest.Item) -> int:
        return next((at for at, path in enumerate(FIRST) if item.nodeid.startswith(path)), len(FIRST))

    items.sort(key=turn)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A worker takes a file at a time, so that its fixtures are made once; the engines' servers start once for all."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return ENGINES if path.startswith(ENGINES) else path

    config.option.loadscopereorder = False  # else the files with the most tests come first, whatever they take
    return ByFile(config, log)


class Command:
    """`sdc` as a user runs it, in a folder of its own, in a process of its own (which starts warm)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: Any, code: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        done = warm.run(["-m", "sdc", *arguments], cwd=self.folder, capture_output=True, **options)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: Any) -> dict[str, Any]:
        """The one JSON object that --json prints."""
        found: dict[str, Any] = json.loads(self(*arguments, "--json").stdout)
        return found

    def error(self, *arguments: Any, code: int = 1, **options: Any) -> str:
        """The one line of a refusal; nothing goes to standard output and no file is left half-written."""
        before = sorted(os.listdir(self.folder))
        done = self(*arguments, code=code, **options)
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        assert sorted(os.listdir(self.folder)) == before
        (line,) = [line for line in done.stderr.splitlines() if line.startswith(("sdc: error:", "Error:"))]
        return line


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture(scope="session")
def command_in() -> type[Command]:
    """Makes a `sdc` that runs in a given folder."""
    return Command


def save_vectors(folder: Path, rows: int = 300, dimension: int = 24, classes: int = 5) -> Path:
    """vectors.npy (rows, dimension) float32 around one centre a class, and labels.npy."""
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=rows)
    features = rng.standard_normal((classes, dimension))[labels] * 2 + rng.standard_normal((rows, dimension))
    np.save(folder / "vectors.npy", features.astype(np.float32))
    np.save(folder / "labels.npy", labels)
    return folder / "vectors.npy"


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    return save_vectors(tmp_path)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with vectors.npy, labels.npy, and feats.h5, model.safetensors and db.bin made of them."""
    folder = tmp_path_factory.mktemp("made")
    save_vectors(folder)
    command = Command(folder)
    command("import", "vectors.npy", "--labels", "labels.npy")
    command("train", "--epochs", "3", "--batch-size", "64", "--bits", "32")
    command("encode")
    return folder
