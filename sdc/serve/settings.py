"""The settings of `sdc serve`, and the limits that cannot be set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from sdc.errors import UsageError
from sdc.serve import allowed_hosts

MOST_VECTORS = 1024  # in one request
MOST_NEIGHBORS = 100_000  # in one answer, over all its queries: about 8 MB of JSON
MOST_COMPARED = 200_000  # features that one request may have compared: a second or two where they are in memory
MOST_LABELS = 100  # that one search is restricted to
MOST_PIXELS = 40_000_000  # of an image, half as many for kinds that take more memory: about half a gigabyte
LONGEST_SIDE = 1 << 16  # of an image: each row takes memory of its own
MOST_EXAMPLES = 100
SEARCHES = 128  # that run or wait; more are told to come again
CONNECTIONS = 512
HELD = 1 << 28  # bytes of bodies and answers held at once


@dataclass(frozen=True)
class ServeSettings:
    """What `sdc serve` does; the defaults are the command's.

    Attributes:
        index: a db.bin; what changes in it is taken up.
        model: the model that encoded it; None takes the recorded path, anew with each index.
        features: those that were encoded, for reranking; None takes the recorded path.
        precision: of them, see `sdc.retrieve.features.PRECISIONS`.
        host: the name or address to listen on.
        port: 0 takes any that is free.
        allow_hosts: names that it answers to beside localhost and addresses, see `sdc.serve.allowed_hosts`.
        images: the folder that the ids are paths in, to show the images.
        weights: the backbone's weights for images, where they can't be had by their tag.
        max_k: neighbours a query may ask for.
        max_body: bytes of a request's body.
        timeout: seconds that a request may take: to be sent, to wait and to be answered.
        verify: check every byte of the index, each time it is opened.

    Raises:
        UsageError: a number out of its range, no host, or a file or folder that is not there.
    """

    index: Path = Path("db.bin")
    model: Path | None = None
    features: Path | None = None
    precision: str = "stored"
    host: str = "127.0.0.1"
    port: int = 8000
    allow_hosts: tuple[str, ...] = ()
    images: Path | None = None
    weights: str | None = None
    max_k: int = 1000
    max_body: int = 8 << 20
    timeout: float = 10.0
    verify: bool = True

    def __post_init__(self) -> None:
        if not self.host.strip():
            raise UsageError("--host is empty: expected a name or address of this machine, 0.0.0.0 for all of them")
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port {self.port}: expected 0 to 65535")
        for name in self.allow_hosts:
            allowed_hosts.check(name)
        if not 1 <= self.max_k <= MOST_NEIGHBORS:
            raise UsageError(f"--max-k {self.max_k}: expected 1 to {MOST_NEIGHBORS}")
        if not 1 <= self.max_body <= HELD:
            raise UsageError(f"--max-body {self.max_body}: expected 1 to {HELD} bytes")
        if not (self.timeout > 0 and math.isfinite(self.timeout)):
            raise UsageError(f"--timeout {self.timeout:g}: expected seconds above 0")
        if self.weights and not self.weights.startswith("random:") and not Path(self.weights).is_file():
            raise UsageError(f"--weights {self.weights}: no such file; expected the backbone's weights, or random:SEED")
        if self.images is not None and not self.images.is_dir():
            raise UsageError(f"--images {self.images}: no such folder; name the one whose paths are the index's ids")
