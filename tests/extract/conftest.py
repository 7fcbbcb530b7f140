"""Places where writing fails, honestly made: a full disk, a folder without permission, a limit on file sizes.

And small landmark sets made from real photographs.
"""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

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


PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "camera", "coins", "page", "retina")


@pytest.fixture(scope="session")
def photographs() -> dict[str, Image.Image]:
    """Real pictures of many shapes, colour and grey, none above 320 pixels."""
    photographs, datasets = pytest.importorskip("skimage.data"), pytest.importorskip("sklearn.datasets")
    pictures = {name: Image.fromarray(getattr(photographs, name)()) for name in PHOTOGRAPHS}
    pictures |= {name: Image.fromarray(datasets.load_sample_image(f"{name}.jpg")) for name in ("china", "flower")}
    for picture in pictures.values():
        picture.thumbnail((320, 320))
    return pictures


@dataclass(frozen=True)
class Landmarks:
    """A small roxford5k or rparis6k as users have it on disk."""

    root: Path  # holds the folder of the set
    folder: Path
    gnd: dict[str, Any]

    def write(self, **changes: Any) -> None:
        """The ground truth again, with other parts."""
        path = self.folder / f"gnd_{self.folder.name}.pkl"
        path.write_bytes(pickle.dumps({**self.gnd, **changes}, 2))


@pytest.fixture
def landmarks(tmp_path: Path, photographs: dict[str, Image.Image]) -> Callable[[str], Landmarks]:
    """Makes the set: of each photograph the whole, its left part and its mirror image; three of them are queries."""

    def make(name: str = "roxford5k") -> Landmarks:
        folder = tmp_path / "landmarks" / name
        (folder / "jpg").mkdir(parents=True)
        images = []
        for place, picture in photographs.items():
            parts = {
                "whole": picture,
                "left": picture.crop((0, 0, picture.width * 2 // 3, picture.height)),
                "mirror": ImageOps.mirror(picture),
            }
            for kind, part in parts.items():
                images.append(f"{place}_{kind}")
                part.save(folder / "jpg" / f"{images[-1]}.jpg", quality=90)
        queries, entries = [], []
        for place in ("coffee", "retina", "china"):
            picture = photographs[place].rotate(3, expand=True)
            queries.append(f"{place}_query")
            picture.save(folder / "jpg" / f"{queries[-1]}.jpg", quality=90)
            at = {kind: images.index(f"{place}_{kind}") for kind in ("whole", "left", "mirror")}
            entries.append(
                {
                    "bbx": [20.4, 15.6, picture.width - 30.0, picture.height - 25.0],
                    "easy": np.array([at["whole"]]),
                    "hard": [at["mirror"], at["left"]],
                    "junk": [] if place == "china" else np.array([0, 1]),
                }
            )
        made = Landmarks(tmp_path / "landmarks", folder, {"imlist": images, "qimlist": queries, "gnd": entries})
        made.write()
        return made

    return make
