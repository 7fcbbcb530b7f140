"""The jobs of `sdc ablate` and `sdc reproduce`: processes of one thread that compute cells."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from sdc._version import __version__
from sdc.errors import SdcError
from sdc.experiments.grid import Cell
from sdc.files import atomic_write, json_text
from sdc.progress import Progress

# Set before NumPy and PyTorch are loaded: one thread a job.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def compute_all(cells: Mapping[str, Cell], jobs: int, folder: Path, total: int, what: str) -> None:
    """Computes cells, by name, in `jobs` processes.

    Args:
        folder: of the cells' files.
        total: cells of the whole grid, for the progress shown.
        what: the name of the command, likewise.

    Raises:
        SdcError: as `compute`, or a job was killed.
    """
    if not cells:
        return
    context = multiprocessing.get_context("spawn")
    lifeline, open_end = context.Pipe(duplex=False)  # the jobs end when `open_end` is closed, by us or with us
    with _environment(ONE_THREAD), Progress(what, total, "cells", total - len(cells)) as progress:
        pool = ProcessPoolExecutor(min(jobs, len(cells)), context, initializer=_start_job, initargs=(lifeline,))
        try:
            with _ctrl_c_blocked():
                futures = {pool.submit(compute, c, folder / f"{name}.json"): c for name, c in cells.items()}
            for future in as_completed(futures):
                future.result()
                progress.advance(1, futures[future].label)
            pool.shutdown()
        except BrokenProcessPool:
            raise SdcError(
                "a job was killed, perhaps for want of memory: lower --jobs. Finished cells are kept, the same "
                "command goes on"
            ) from None
        finally:
            open_end.close()
            lifeline.close()
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Blocks Ctrl-C meanwhile, and for good in processes that are started meanwhile: this process ends those."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    former = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start_job(lifeline: Connection) -> None:
    def end() -> None:
        with contextlib.suppress(EOFError):
            lifeline.recv()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 — progress and messages are the parent's to show
    from sdc.api import Hasher

    # What is loaded and built at the first training is no part of any cell's time.
    Hasher(bits=8, epochs=1, batch_size=8).fit(np.random.default_rng(0).standard_normal((32, 16)))


def compute(cell: Cell, path: Path) -> None:
    """Trains, encodes, evaluates and, where it is asked for, diagnoses a cell, and writes its file.

    Args:
        cell: what to compute; where its model goes is decided here.
        path: the cell's .json file, the last to be written.

    Raises:
        SdcError: anything but a failure of the settings themselves, which is written as `refused`.
    """
    from sdc.retrieve import EncodeSettings, encode_database
    from sdc.retrieve.diagnose import DiagnoseSettings, diagnose
    from sdc.retrieve.evaluate import EvaluateSettings, evaluate
    from sdc.train import train_head

    work = path.parent / f".{path.stem}"
    work.mkdir(exist_ok=True)
    model, index = work / "model.safetensors", work / "db.bin"
    record: dict[str, Any] = {"version": __version__}
    started = time.monotonic()
    try:
        train_head(replace(cell.settings, out=model, overwrite=True))
    except SdcError as error:
        if error.exit_code == 130 or isinstance(error.__cause__, OSError):  # interrupted, or a full disk
            raise
        record["refused"] = " ".join(str(error).split())
    else:
        record["seconds"] = time.monotonic() - started
        features = cell.encoded or cell.features
        encode_database(EncodeSettings(features=features, model=model, out=index, overwrite=True))
        record["evaluate"] = evaluate(
            EvaluateSettings(index=index, features=features, neighbors="float" if cell.diagnosed else None)
        )
        if cell.diagnosed:
            asked = DiagnoseSettings(index=index, features=features, out=path.with_suffix(".csv"))
            record["diagnose"] = diagnose(asked)
    with atomic_write(path) as temporary:
        temporary.write_text(json_text(record), encoding="utf-8")
    shutil.rmtree(work)
