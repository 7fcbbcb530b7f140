"""An extraction by several processes: the bytes are those of one, whoever is killed, and nobody works twice."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import warm
from PIL import Image

from sdc.errors import SdcError
from sdc.extract import run as run_module
from sdc.extract.datasets import Dataset
from sdc.extract.encoder import Encoder
from sdc.extract.image_loader import ImageBatch
from sdc.extract.images import Preprocessing
from sdc.extract.parts import leases as leases_module
from sdc.extract.parts import part_set as parts_module
from sdc.extract.parts import worker
from sdc.extract.parts.leases import Leases
from sdc.extract.parts.part_set import Parts, parts_folder
from sdc.extract.parts.worker import assemble_once
from sdc.extract.run import ExtractSettings, make_parts
from sdc.extract.run import extract_features as run
from sdc.extract.store import FeatureStore, Listing, default_splits
from sdc.files import machine
from sdc.progress import Progress

N, PART_ROWS = 102, 8
PARTS = 13
BAD = (5, 40)
ELSEWHERE = {"machine": "0badcafe", "host": "elsewhere", "process": 77}


class Stub:
    """Stands for the encoder: features are sums of pixels; before each batch it does what a test asks for."""

    def __init__(self, before: Callable[[int], None] = lambda row: None) -> None:
        self.before = before

    def arrays(self, batch: ImageBatch, *, tokens: bool) -> dict[str, np.ndarray]:
        if len(batch.rows):
            self.before(int(batch.rows[0]))
        return {"features": batch.pixels.reshape(-1, 12, 16).sum(axis=2).astype(np.float16)}


def picture(row: int) -> Image.Image:
    if row in BAD:
        raise ValueError("cannot be decoded")
    return Image.fromarray(np.random.default_rng(row).integers(0, 99, (8, 8, 3), np.uint8))


def make(out: Path, encoder: Stub | None = None, open_image: Callable[[int], Image.Image] = picture) -> Path:
    """What `sdc extract` does once it has its set and its backbone."""
    listing = Listing([f"{row:05d}.png" for row in range(N)], default_splits(N, 0))
    dataset = Dataset("stub", listing, open_image, "content")
    parts = Parts(out, listing, {"source": "extract", "backbone": "stub"}, PART_ROWS)
    settings = ExtractSettings(batch_size=3, workers=1, out=out)
    preprocessing = Preprocessing(8, "squash", (0.5,) * 3, (0.5,) * 3)  # type: ignore[arg-type]
    make_parts(parts, dataset, preprocessing, encoder or Stub(), settings)  # type: ignore[arg-type]
    return assemble_once(parts)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make(tmp_path_factory.mktemp("one") / "feats.h5").read_bytes()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Forks a process that makes `out`; gives back its id. None is left behind."""
    monkeypatch.setattr(worker, "POLL", 0.02)
    started = []

    def fork(out: Path, before: Callable[[int], None], log: Path) -> int:
        child = os.fork()
        if child == 0:
            write = Parts.write

            def logged(parts: Parts, number: int, *arguments: Any) -> None:
                write(parts, number, *arguments)
                with log.open("a") as file:
                    file.write(f"{os.getpid()} {number}\n")

            Parts.write = logged  # type: ignore[assignment]
            status = 1
            try:
                make(out, Stub(before))
                status = 0
            finally:
                os._exit(status)
        started.append(child)
        return child

    yield fork
    for child in started:
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            continue


def end(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def work(log: Path) -> dict[int, list[int]]:
    """The parts that each process made."""
    found: dict[int, list[int]] = {}
    for line in log.read_text().splitlines():
        process, number = map(int, line.split())
        found.setdefault(process, []).append(number)
    return found


@pytest.mark.parametrize("count", [2, 3])
def test_several_share_the_work(tmp_path: Path, expected: bytes, start: Callable[..., int], count: int) -> None:
    out, log = tmp_path / "feats.h5", tmp_path / "log"
    together = 9 // count  # parts that each begins when all have begun as many

    def keep_step(row: int) -> None:
        name = str(os.getpid())
        if not row % PART_ROWS:
            (begun / f"{name}.{sum(1 for _ in begun.glob(f'{name}.*'))}").touch()
        mine = sum(1 for _ in begun.glob(f"{name}.*"))
        while mine <= together and sum(1 for _ in begun.glob(f"*.{mine - 1}")) < count:
            time.sleep(0.005)

    (begun := tmp_path / "begun").mkdir()
    children = [start(out, keep_step, log) for _ in range(count)]
    assert [end(child) for child in children] == [0] * count
    assert out.read_bytes() == expected
    made = work(log)
    assert set(made) == set(children)
    assert sorted(number for numbers in made.values() for number in numbers) == list(range(PARTS))
    assert max(map(len, made.values())) - min(map(len, made.values())) <= 6  # claimed as needed, not all at first
    assert sorted(os.listdir(tmp_path)) == ["begun", "feats.h5", "log"]


def test_the_parts_of_a_killed_process_are_taken_over(
    tmp_path: Path, expected: bytes, start: Callable[..., int]
) -> None:
    out, log = tmp_path / "feats.h5", tmp_path / "log"

    def hang(row: int) -> None:
        if row >= 3 * PART_ROWS:
            time.sleep(600)

    first = start(out, hang, log)
    folder = parts_folder(out)
    while not (folder / "000002.safetensors").exists() or not (folder / "000003.claim").exists():
        time.sleep(0.005)
    second = start(out, lambda row: None, log)
    while len(list(folder.glob("*.safetensors"))) < PARTS - 2:  # the first has loaded ahead, into one more part at most
        time.sleep(0.005)
    assert not out.exists()
    os.kill(first, signal.SIGKILL)
    assert end(first) == -signal.SIGKILL
    assert end(second) == 0
    assert out.read_bytes() == expected
    made = work(log)
    assert made[first] == [0, 1, 2]
    assert sorted(made[second]) == list(range(3, PARTS))


def claim(folder: Path, name: str, owner: dict[str, Any], age: float = 0) -> Path:
    path = folder / f"{name}.claim"
    path.write_text(json.dumps(owner))
    when = leases_module.file_system_time(folder) - age
    os.utime(path, (when, when))
    return path


OLD, FRESH = leases_module.STALE + 60, leases_module.STALE - 60


@pytest.mark.parametrize(
    ("owner", "age", "taken"),
    [
        (ELSEWHERE, FRESH, False),
        (ELSEWHERE, OLD, True),
        ({}, FRESH, False),  # not written yet
        ({}, OLD, True),
        ({"machine": "HERE", "host": "here", "process": "PARENT"}, FRESH, False),
        ({"machine": "HERE", "host": "here", "process": "PARENT"}, OLD, True),  # stopped, or its id was given away
        ({"machine": "HERE", "host": "here", "process": "DEAD"}, 0, True),
        ({"machine": "HERE", "host": "here", "process": "OURS"}, 0, True),  # of a process before us that had our id
    ],
)
def test_which_claims_are_taken_over(tmp_path: Path, owner: dict[str, Any], age: float, taken: bool) -> None:
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    values = {"HERE": machine(), "PARENT": os.getppid(), "DEAD": dead.pid, "OURS": os.getpid()}
    owner = {key: values.get(value, value) for key, value in owner.items()}
    path = claim(tmp_path, "000001", owner, age)
    with Leases(tmp_path) as leases:
        assert leases.take("000001") == taken
        assert leases.take("000002")
        assert not leases.take("000002")  # ours already
        if taken:
            assert json.loads(path.read_text())["process"] == os.getpid()
        leases.release("000002")
        assert leases.take("000002")
    assert [entry.name for entry in tmp_path.iterdir()] == ([] if taken else ["000001.claim"])


def test_ages_are_by_the_clock_of_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a share whose clock is a day behind ours, and one that is a day ahead."""
    touch = Path.touch
    for shift in (-86400, 86400):

        def shifted(path: Path, shift: int = shift) -> None:
            touch(path)
            os.utime(path, (time.time() + shift,) * 2)

        with monkeypatch.context() as patch, Leases(tmp_path) as leases:
            patch.setattr(Path, "touch", shifted)
            claim(tmp_path, "000001", ELSEWHERE, FRESH)
            assert not leases.take("000001")
            claim(tmp_path, "000001", ELSEWHERE, OLD)
            assert leases.take("000001")


def test_a_claim_stays_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases_module, "BEAT", 0.01)
    with Leases(tmp_path) as leases:
        leases.take("000001")
        path = tmp_path / "000001.claim"
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 120
        while path.stat().st_mtime < 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_another_host_is_waited_for_until_it_is_gone(
    tmp_path: Path, expected: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "feats.h5"
    folder = parts_folder(out)
    caplog.set_level("INFO", "sdc")
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(len(list(folder.glob("*.safetensors"))))
        if len(waited) == 3:
            claim(folder, "000004", ELSEWHERE, OLD)

    def begin(row: int) -> None:
        if row == 0:
            claim(folder, "000004", ELSEWHERE)

    monkeypatch.setattr(worker, "time", SimpleNamespace(sleep=sleep))
    make(out, Stub(begin))
    assert waited == [PARTS - 1] * 3
    assert out.read_bytes() == expected
    assert caplog.text.count("waiting for parts that others make: 1 of process 77 of elsewhere") == 1
    assert "process 77 of elsewhere is gone, its 000004.claim is taken over" in caplog.text


def test_an_interruption_releases_the_claims(tmp_path: Path, expected: bytes) -> None:
    out = tmp_path / "feats.h5"

    def interrupt(row: int) -> None:
        if row >= 2 * PART_ROWS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(out, Stub(interrupt))
    names = sorted(os.listdir(parts_folder(out)))
    assert names == ["000000.safetensors", "000001.safetensors", "manifest.json"]
    assert make(out).read_bytes() == expected


def test_one_that_is_overtaken_ends_well(tmp_path: Path, expected: bytes) -> None:
    """All is finished while it is at a part, as after it was suspended for an hour."""
    out = tmp_path / "feats.h5"

    def overtaken(row: int) -> None:
        if row == PART_ROWS:
            make(out)  # takes over our claims, as those of a dead process that had our id
            assert not parts_folder(out).exists()

    assert make(out, Stub(overtaken)) == out
    assert out.read_bytes() == expected
    assert os.listdir(tmp_path) == ["feats.h5"]


def test_parts_that_vanish_are_an_error(tmp_path: Path) -> None:
    out = tmp_path / "feats.h5"

    def remove(row: int) -> None:
        if row == PART_ROWS:
            parts_folder(out).rename(tmp_path / "away")

    with pytest.raises(SdcError, match=r"feats.h5.parts was removed while parts were made: run the same command again"):
        make(out, Stub(remove))


def test_no_readable_image_by_two(tmp_path: Path) -> None:
    out = tmp_path / "feats.h5"
    stopped = []

    def unreadable(row: int) -> Image.Image:
        if row >= 2 * PART_ROWS and not stopped:
            stopped.append(row)
            raise MemoryError  # the one error that ends a run
        raise ValueError("cannot be decoded")

    with pytest.raises(MemoryError):
        make(out, open_image=unreadable)
    with pytest.raises(SdcError, match=r"all 102 were skipped; the first, 00000.png: cannot be decoded"):
        make(out, open_image=unreadable)
    assert os.listdir(tmp_path) == []


def test_parts_by_two_that_overwrite_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One has seen the old parts when the other has removed them and made some new."""
    out, listing = tmp_path / "feats.h5", Listing([f"{row}" for row in range(4)], {})

    def begin() -> Parts:
        return Parts(out, listing, {"backbone": "new"}, 2, overwrite=True)

    Parts(out, listing, {"backbone": "old"}, 2)
    manifest, seen = parts_module._manifest, []

    def slow(folder: Path) -> dict[str, Any]:
        found = manifest(folder)
        if not seen:
            seen.append(found)
            begin().write(0, np.zeros((2, 3), np.float16), np.arange(2), [])
        return found

    monkeypatch.setattr(parts_module, "_manifest", slow)
    assert begin().missing() == [1]


def test_temporary_files_of_other_machines_stay(tmp_path: Path) -> None:
    out = tmp_path / "feats.h5"
    folder = parts_folder(out)
    folder.mkdir()
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    ours, theirs, abandoned = (
        folder / f".00000{number}.safetensors.{where}.{dead.pid}.tmp"
        for number, where in enumerate((machine(), "0badcafe", "0badcafe"))
    )
    for path in (ours, theirs, abandoned):
        path.touch()
    os.utime(abandoned, (0, 0))
    Parts(out, Listing(["a"], {}), {}, 1)
    assert [path.exists() for path in (ours, theirs, abandoned)] == [False, True, False]


def test_progress_tells_rate_time_left_and_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "feats.h5"
    caplog.set_level("INFO", "sdc")
    monkeypatch.setattr(Progress, "log_every", 0)
    seconds = itertools.count()
    monkeypatch.setattr("sdc.progress.time", SimpleNamespace(monotonic=lambda: 0.1 * next(seconds)))
    make(out, Stub())
    form = re.compile(r"extract: \d+ of 102 images, .* a second, \d+ s left, 2 failed")
    lines = [line for line in caplog.messages if form.fullmatch(line)]
    assert lines
    assert lines[-1].startswith("extract: 102 of 102")


@pytest.fixture
def settings(tmp_path: Path) -> ExtractSettings:
    root = tmp_path / "images"
    root.mkdir()
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{number:03d}.png")
    return ExtractSettings(
        backbone="test_resnet", data="folder", root=root, weights="random:0", image_size=32,
        batch_size=2, part_rows=4, workers=1, device="cpu", out=tmp_path / "feats.h5",
    )  # fmt: skip


ARGUMENTS = (
    *("extract", "--backbone", "test_resnet", "--data", "folder", "--root", "images", "--weights", "random:0"),
    *("--image-size", "32", "--batch-size", "2", "--part-rows", "4", "--workers", "1", "--device", "cpu", "--json"),
)


def single(settings: ExtractSettings) -> bytes:
    """What one process writes; on one thread, as torchrun has it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run(dataclasses.replace(settings, out=settings.out.with_name("single.h5"))).read_bytes()
    finally:
        torch.set_num_threads(threads)


def commands(folder: Path, count: int, *launcher: str) -> list[tuple[str, str]]:
    """What so many processes of this command say on both outputs."""
    command, pipe = ["-m", *launcher, "sdc", *ARGUMENTS], subprocess.PIPE
    processes = [warm.popen(command, cwd=folder, stdout=pipe, stderr=pipe) for _ in range(count)]
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, said
    return said


def test_the_same_command_twice(settings: ExtractSettings, tmp_path: Path) -> None:
    wanted = single(settings)
    for output, messages in commands(tmp_path, 2):
        assert json.loads(output)["rows"] == 40
        assert "Traceback" not in messages
    assert settings.out.read_bytes() == wanted
    assert not parts_folder(settings.out).exists()


def test_torchrun(settings: ExtractSettings, tmp_path: Path) -> None:
    wanted = single(settings)
    ((output, _),) = commands(tmp_path, 1, "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    assert json.loads(output)["rows"] == 40  # of one process alone
    assert settings.out.read_bytes() == wanted


def test_one_that_comes_late_has_nothing_to_do(settings: ExtractSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is made while it still loads its backbone."""
    begun = []

    def load(*arguments: Any) -> Encoder:
        begun.append(arguments)
        if len(begun) == 1:
            run(settings)
            monkeypatch.setattr(Encoder, "__call__", lambda self, pixels: pytest.fail("embedded again"))
        return Encoder(*arguments)

    monkeypatch.setattr(run_module, "Encoder", load)
    assert run(settings) == settings.out
    assert len(begun) == 2
    assert len(FeatureStore(settings.out)) == 40
    assert not parts_folder(settings.out).exists()


@pytest.mark.parametrize(
    ("name", "rank", "expected"),
    [
        (None, "0", "cuda:0"),
        (None, "5", "cuda:1"),
        ("cuda", "3", "cuda:3"),
        ("cuda:2", "0", "cuda:2"),
        ("cpu", "1", "cpu"),
    ],
)
def test_devices_under_torchrun(monkeypatch: pytest.MonkeyPatch, name: str | None, rank: str, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert run_module._device(name) == name
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert run_module._device(name) == expected
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert run_module._device(name) == name
