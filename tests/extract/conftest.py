"""Places where writing fails, honestly made: a full disk, a folder without permission, a limit on file sizes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

NOBODY = 65534


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a small file system here: {error}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def in_child(function: Callable[[], object], prepare: Callable[[], object]) -> str:
    """Runs a function in a forked process after `prepare`; gives back "TypeName: message" of what it raised, or ""."""
    reader, writer = os.pipe()  # not a file: `prepare` may forbid these
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            prepare()
            function()
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        message = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the process ended with status {status}"
    return message


@pytest.fixture
def unprivileged() -> Callable[[Callable[[], object]], str]:
    """Runs a function as a user to whom permissions apply (root ignores them)."""

    def prepare() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)

    return lambda function: in_child(function, prepare)


@pytest.fixture
def limited() -> Callable[[Callable[[], object], int], str]:
    """Runs a function in which no file may grow above so many bytes."""

    def run(function: Callable[[], object], size: int) -> str:
        return in_child(function, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))

    return run
