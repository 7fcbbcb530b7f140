from __future__ import annotations

import multiprocessing
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def forked_jobs() -> Iterator[None]:
    """Jobs of this process are forked, which spares each 5 s of imports; commands in processes of their own spawn."""
    get_context = multiprocessing.get_context
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            multiprocessing, "get_context", lambda method=None: get_context("fork" if method == "spawn" else method)
        )
        yield
