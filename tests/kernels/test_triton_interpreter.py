"""Runs the tests of interpreted/ with TRITON_INTERPRET=1, a process for each file (see its conftest)."""

import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

triton = pytest.importorskip("triton")
HERE = Path(__file__).parent
FILES = sorted(path.name for path in (HERE / "interpreted").glob("test_*.py"))


def version(module):
    return tuple(int(number) for number in module.__version__.split(".")[:2])


pytestmark = pytest.mark.skipif(
    version(triton) <= (3, 6) and version(numpy) >= (2, 4),
    reason="the interpreter of Triton up to 3.6 fails with NumPy from 2.4 on",
)


def interpreted(name, mark, timeout):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        mark,
        str(HERE / "interpreted" / name),
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True, timeout=timeout, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@pytest.mark.parametrize("name", FILES)
def test_quick(name):
    interpreted(name, "not slow", 570)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", FILES)
def test_all(name):
    interpreted(name, "slow", 1750)
