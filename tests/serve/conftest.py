"""Two indexes: of vectors, and of Fashion-MNIST images embedded by EfficientNet-Lite0; and `sdc serve` over them."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import warm

from sdc.extract.store import Listing, write_features
from sdc.retrieve.encode import EncodeSettings, run
from sdc.train.model import Model

ROWS, DIMENSION, BITS = 400, 24, 16
FASHION = Path("/usr/share/datasets/fashion-mnist")


def write_set(
    folder: Path, *, seed: int = 0, labels: str | None = "single", ids: list[str] | None = None, named: bool = False
) -> Path:
    """feats.h5, model.safetensors and db.bin of ROWS vectors in three classes, 30 of them queries; returns db.bin."""
    chance = np.random.default_rng(seed)
    kind = chance.integers(0, 3, ROWS)
    features = chance.standard_normal((3, DIMENSION))[kind] + chance.standard_normal((ROWS, DIMENSION))
    made = {"single": kind.astype(np.int32), "multi": (chance.random((ROWS, 3)) < 0.4).astype(np.uint8), None: None}
    listing = Listing(
        ids or [f"img/{row:04}.png" for row in range(ROWS)],
        {"query": np.arange(30), "database": np.arange(ROWS)},
        labels=made[labels],
        classes={"labels": {0: "cat", 1: "dog", 2: "7"}} if named else {},
    )
    write_features(
        folder / "feats.h5", listing, {"source": "import", "seed": seed}, DIMENSION, np.float32,
        [features.astype(np.float32)],
    )  # fmt: skip
    write_model(folder / "model.safetensors", DIMENSION, seed)
    return encode(folder)


def write_model(path: Path, dimension: int, seed: int = 0, bits: int = BITS) -> None:
    chance = np.random.default_rng(seed)
    tensors = {"output.weight": chance.standard_normal((bits, dimension)), "output.bias": np.zeros(bits)}
    Model(tensors, {"method": "lsh", "settings": {"seed": seed}, "features": {"fingerprint": "others"}}).save(path)


def encode(folder: Path, out: str = "db.bin") -> Path:
    names = {"features": "feats.h5", "model": "model.safetensors", "out": out}
    return run(EncodeSettings(**{key: folder / name for key, name in names.items()}, overwrite=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_set(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def make_set():
    return write_set


@pytest.fixture(scope="session")
def encoded():
    return encode


@pytest.fixture(scope="session")
def make_model():
    return write_model


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images/ (80 of Fashion-MNIST's, by class) and feats.h5, model.safetensors and db.bin of them."""
    from PIL import Image

    from sdc.extract import ExtractSettings
    from sdc.extract import extract_features as extract

    if not FASHION.is_dir():
        pytest.skip(f"Fashion-MNIST is not at {FASHION}: install the package dataset-fashion-mnist")
    folder = tmp_path_factory.mktemp("pictures")
    with gzip.open(FASHION / "t10k-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(FASHION / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    for number in range(80):
        path = folder / "images" / f"class {labels[number]}" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[number]).save(path)
    extract(
        ExtractSettings(
            "efficientnet_lite0", "folder", folder / "images", image_size=32, out=folder / "feats.h5", workers=1,
            device="cpu",
        )
    )  # fmt: skip
    write_model(folder / "model.safetensors", 1280, bits=64)
    encode(folder)
    return folder


@dataclass
class Server:
    """`sdc serve` in a process of its own, its log in a file."""

    process: warm.Started
    log: Path
    port: int = 0

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait(self, seconds: float = 120) -> int:
        return self.process.wait(seconds)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON of one request on a connection of its own."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)) as connection:
            if body is None:
                connection.request("GET", path)
            else:
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                connection.request("POST", path, raw, {"content-type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def memory(self) -> int:
        """Resident bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def serving(folder: Path, *options: Any) -> Iterator[Server]:
    log = folder / "serve.log"
    with log.open("wb") as file:
        process = warm.popen(["-m", "sdc", "serve", "--port", "0", *options], cwd=folder, stderr=file)
    server = Server(process, log)
    try:
        until = time.monotonic() + 300
        while not (found := re.search(r"at http://\S+:(\d+)/", server.said)):
            assert process.poll() is None, server.said
            assert time.monotonic() < until, server.said
            time.sleep(0.02)
        server.port = int(found[1])
        yield server
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in server.said, server.said


@pytest.fixture(scope="session")
def serve():
    """Starts `sdc serve` with options in a folder, and ends it."""
    return serving


@contextlib.contextmanager
def in_process(folder: Path, **options: Any) -> Iterator[Any]:
    """A client of the service over a folder's db.bin, in this process; `client.service` is the service.

    Options are those of the settings, and `loopback`, whether only this machine is served.
    """
    from starlette.testclient import TestClient

    from sdc.serve.app import Service
    from sdc.serve.settings import ServeSettings
    from sdc.serve.snapshot import Snapshot

    loopback = options.pop("loopback", True)
    settings = ServeSettings(index=folder / "db.bin", **options)
    service = Service(settings, Snapshot.open(settings), loopback=loopback)
    with TestClient(service.application(), base_url="http://localhost") as client:
        client.service = service  # type: ignore[attr-defined]
        yield client


@pytest.fixture(scope="session")
def asked():
    return in_process


def refusal_of(response: Any, status: int) -> str:
    """The message of a refusal."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (message,) = response.json().values()
    assert list(response.json()) == ["error"]
    assert "\n" not in message
    return message


@pytest.fixture(scope="session")
def refusal():
    return refusal_of
