"""Parts: an extraction that is killed, resumed, shared among processes or damaged ends with the very same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import steps
import warm

from sdc.errors import SdcError, UsageError
from sdc.extract.parts import part_set as parts_module
from sdc.extract.parts.part_set import Parts, is_up_to_date
from sdc.extract.store import FeatureStore, Listing, default_splits

N, DIMENSION, PART_ROWS = 600, 64, 32
SKIPPED = (5, 64, 65, 599)
PROVENANCE = {"source": "extract", "backbone": "fake", "settings": {"seed": 0, "limit": None}, "version": "0.1.0"}


def listing(n: int = N) -> Listing:
    labels = np.arange(n) % 7
    return Listing([f"{row:05d}.png" for row in range(n)], default_splits(n, 0), labels, labels // 2)


def make(parts: Parts, number: int) -> None:
    """One part of an extraction whose features depend on nothing but the row."""
    rows = parts.rows(number)
    kept = np.array([row for row in rows if row not in SKIPPED], np.int64)
    features = np.stack([np.random.default_rng(row).standard_normal(DIMENSION) for row in kept]).astype(np.float16)
    skipped = [(parts.listing.ids[row], "cannot be decoded") for row in rows if row in SKIPPED]
    parts.write(number, features, kept, skipped)


def begin(out: Path, **changes: Any) -> Parts:
    return Parts(**{"out": out, "listing": listing(), "provenance": PROVENANCE, "part_rows": PART_ROWS, **changes})


def undisturbed(out: Path) -> Path:
    parts = begin(out)
    for number in parts.missing():
        make(parts, number)
    return parts.assemble()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return undisturbed(tmp_path_factory.mktemp("undisturbed") / "feats.h5").read_bytes()


def test_skipped_rows_are_left_out_and_listed(tmp_path: Path) -> None:
    store = FeatureStore(undisturbed(tmp_path / "feats.h5"))
    rows = [row for row in range(N) if row not in SKIPPED]
    assert store.ids() == [f"{row:05d}.png" for row in rows]
    for place, row in enumerate(rows):
        expected = np.random.default_rng(row).standard_normal(DIMENSION).astype(np.float16)
        np.testing.assert_array_equal(store.features[place], expected)
    assert store.labels is not None
    np.testing.assert_array_equal(store.labels, np.array(rows) % 7)
    for name, whole in listing().splits.items():
        assert store.ids(store.splits[name]) == [f"{row:05d}.png" for row in whole if row not in SKIPPED]
    assert store.skipped == [(f"{row:05d}.png", "cannot be decoded") for row in SKIPPED]
    assert store.provenance == PROVENANCE
    assert [path.name for path in tmp_path.iterdir()] == ["feats.h5"]


def test_resuming_makes_what_is_missing(tmp_path: Path, expected: bytes) -> None:
    out = tmp_path / "feats.h5"
    parts = begin(out)
    assert parts.missing() == list(range(19))
    assert parts.rows(18) == range(576, 600)
    for number in (18, 3, 0):
        make(parts, number)
    again = begin(out)
    assert again.missing() == [number for number in range(19) if number not in (0, 3, 18)]
    with pytest.raises(SdcError, match="16 of 19 parts are missing: run the same command again"):
        again.assemble()
    for number in again.missing():
        make(again, number)
    again.assemble()
    assert out.read_bytes() == expected
    assert not again.folder.exists()


def changed(**settings: Any) -> dict[str, Any]:
    return {**PROVENANCE, "settings": {**PROVENANCE["settings"], **settings}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"provenance": changed(seed=1)}, "provenance.settings.seed: found 0, wanted 1"),
        ({"provenance": changed(views=2)}, "provenance.settings.views: found null, wanted 2"),
        ({"provenance": {**PROVENANCE, "backbone": "other"}}, 'provenance.backbone: found "fake", wanted "other"'),
        ({"part_rows": 16}, "part_rows: found 32, wanted 16"),
        ({"listing": listing(599)}, "listing: found"),
        ({"listing": Listing(listing().ids, listing().splits)}, "listing: found"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    out = tmp_path / "feats.h5"
    make(begin(out), 4)
    with pytest.raises(UsageError, match="unfinished run with other settings") as caught:
        begin(out, **changes)
    assert message in str(caught.value)
    assert 4 not in begin(out).missing()  # the refusal cost nothing
    fresh = begin(out, overwrite=True, **changes)
    assert fresh.missing() == list(range(len(fresh)))


def test_another_version_may_go_on(tmp_path: Path) -> None:
    out = tmp_path / "feats.h5"
    make(begin(out), 4)
    assert 4 not in begin(out, provenance={**PROVENANCE, "version": "9.9"}).missing()


def test_damaged_parts_are_made_again(tmp_path: Path, expected: bytes, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "feats.h5"
    parts = begin(out)
    for number in parts.missing():
        make(parts, number)
    rng, files = random.Random(0), sorted(parts.folder.glob("*.safetensors"))
    for number, path in enumerate(files[:17]):
        data = bytearray(path.read_bytes())
        if number % 3:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        else:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
    files[18].write_bytes(files[17].read_bytes())  # whole, but in the wrong place
    again = begin(out)
    assert again.missing() == [*range(17), 18]
    assert "000016.safetensors is thrown away" in caplog.text
    for number in again.missing():
        make(again, number)
    again.assemble()
    assert out.read_bytes() == expected


def test_a_part_damaged_at_the_last_moment_is_not_used(tmp_path: Path, expected: bytes) -> None:
    out = tmp_path / "feats.h5"
    parts = begin(out)
    for number in parts.missing():
        make(parts, number)
    path = parts.folder / "000007.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SdcError, match="part 7 was damaged or removed: run the same command again"):
        parts.assemble()
    assert not out.exists()
    again = begin(out)
    assert again.missing() == [7]
    make(again, 7)
    again.assemble()
    assert out.read_bytes() == expected


def test_parts_of_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    ours, theirs = begin(tmp_path / "a.h5"), begin(tmp_path / "b.h5", provenance=changed(seed=1))
    make(theirs, 2)
    (ours.folder / "000002.safetensors").write_bytes((theirs.folder / "000002.safetensors").read_bytes())
    assert 2 in begin(tmp_path / "a.h5").missing()


def test_bad_features_are_refused_by_id(tmp_path: Path) -> None:
    parts = begin(tmp_path / "feats.h5")
    features = np.zeros((PART_ROWS, DIMENSION), np.float32)
    features[3, 1], features[9, 0] = np.nan, -np.inf
    with pytest.raises(SdcError, match=r"2 rows hold NaN or infinite values \('00035.png', '00041.png'\)"):
        parts.write(1, features, np.arange(32, 64), [])
    assert 1 in parts.missing()


@pytest.mark.parametrize(
    ("rows", "kept", "skipped"),
    [
        (31, np.arange(32, 64), []),  # a row without features
        (31, np.arange(32, 63), []),  # a row that is neither kept nor skipped
        (32, np.arange(0, 32), []),  # of another part
        (32, np.arange(64, 32, -1), []),  # not ascending
    ],
)
def test_a_part_accounts_for_each_of_its_rows(tmp_path: Path, rows: int, kept: np.ndarray, skipped: list[Any]) -> None:
    with pytest.raises(ValueError, match="part 1"):
        begin(tmp_path / "feats.h5").write(1, np.zeros((rows, 4), np.float32), kept, skipped)


def test_nothing_kept_at_all_is_an_error(tmp_path: Path) -> None:
    parts = begin(tmp_path / "feats.h5", listing=listing(3))
    parts.write(
        0, np.empty((0, 4), np.float16), np.empty(0, np.int64), [(f"{row:05d}.png", "no image") for row in range(3)]
    )
    with pytest.raises(SdcError, match=r"all 3 were skipped; the first, 00000.png: no image"):
        parts.assemble()


def test_a_missing_folder_and_a_folder_as_output(tmp_path: Path) -> None:
    with pytest.raises(SdcError, match=r"folder .*nowhere does not exist"):
        begin(tmp_path / "nowhere" / "feats.h5")
    with pytest.raises(UsageError, match="is a folder"):
        begin(tmp_path)


def test_a_full_disk_costs_one_part(small_disk: Path) -> None:
    whole = listing(4096)
    fixed = (small_disk / "feats.h5", whole, PROVENANCE, 1024)

    def work(parts: Parts) -> None:
        for number in parts.missing():
            kept = np.array(parts.rows(number))
            parts.write(number, np.repeat(kept[:, None], 192, 1).astype(np.float16), kept, [])

    with pytest.raises(SdcError, match="the disk is full"):
        work(Parts(*fixed))
    assert not [*small_disk.rglob("*.tmp")]
    assert Parts(*fixed).missing() == [2, 3]
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    parts = Parts(*fixed)
    assert parts.missing() == [2, 3]
    work(parts)
    parts.assemble()
    np.testing.assert_array_equal(FeatureStore(fixed[0]).features[:, 0], np.arange(4096).astype(np.float16))


def test_a_limit_on_file_sizes_costs_nothing(tmp_path: Path, limited: Any, expected: bytes) -> None:
    out = tmp_path / "feats.h5"
    message = limited(lambda: undisturbed(out), 60_000)  # a part fits, the store does not
    assert "SdcError: cannot write" in message
    assert "ulimit" in message
    parts = begin(out)
    assert parts.missing() == []
    parts.assemble()
    assert out.read_bytes() == expected


def test_no_permission(tmp_path: Path, unprivileged: Any) -> None:
    begin(tmp_path / "started.h5")
    for parent in [tmp_path, *tmp_path.parents[:2]]:
        parent.chmod(0o755)
    for name in ("new.h5", "started.h5"):
        message = unprivileged(lambda name=name: undisturbed(tmp_path / name))
        assert message.startswith(f"SdcError: cannot write {tmp_path}"), message
        assert "no permission" in message


def test_settled(tmp_path: Path, expected: bytes) -> None:
    out = tmp_path / "feats.h5"
    assert not is_up_to_date(out, PROVENANCE)
    undisturbed(out)
    assert is_up_to_date(out, PROVENANCE)
    assert is_up_to_date(out, {**PROVENANCE, "version": "9.9"})
    assert is_up_to_date(out, PROVENANCE, overwrite=True)
    with pytest.raises(UsageError, match=r"settings.seed: found 0, wanted 1.*--overwrite"):
        is_up_to_date(out, changed(seed=1))
    assert not is_up_to_date(out, changed(seed=1), overwrite=True)
    assert out.read_bytes() == expected
    out.write_bytes(expected[:-5])
    with pytest.raises(SdcError, match=r"is truncated.*--overwrite to replace it"):
        is_up_to_date(out, PROVENANCE)
    assert not is_up_to_date(out, PROVENANCE, overwrite=True)


def test_settled_leaves_another_unfinished_run_alone(tmp_path: Path) -> None:
    out = tmp_path / "feats.h5"
    undisturbed(out)
    other = begin(out, provenance=changed(seed=1))
    make(other, 0)
    assert is_up_to_date(out, PROVENANCE)
    assert 0 not in begin(out, provenance=changed(seed=1)).missing()


def dead_process() -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def test_stale_temporary_files_are_cleared_away(tmp_path: Path) -> None:
    out = tmp_path / "feats.h5"
    folder = begin(out).folder
    dead, alive = dead_process(), os.getppid()
    gone = [
        folder / f".000003.safetensors.{dead}.tmp",
        tmp_path / f".feats.h5.{dead}.tmp",
        tmp_path / f".feats.h5.parts.{dead}.tmp" / "000001.safetensors",
        folder / f".000005.safetensors.{alive}.tmp",  # old: the process id was given to another process
    ]
    stay = [
        folder / f".000004.safetensors.{alive}.tmp",
        tmp_path / f".feats.h5.{alive}.tmp",
        tmp_path / f".other.h5.{dead}.tmp",
        tmp_path / ".feats.h5.notes.tmp",
    ]
    for path in [*gone, *stay]:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    os.utime(gone[-1], (time.time() - 7200,) * 2)
    begin(out)
    assert [path for path in gone if path.exists()] == []
    assert [path for path in stay if path.exists()] == stay
    assert not gone[2].parent.exists()


# A stand-in for `sdc extract` in a process of its own: `python test_parts.py OUT LOG STEP [SHARE OF]`. It is killed at
# its STEP-th line, never where that is 0; `count` adds how many there are to the log.
def main(out: str, log: str, step: str, share: str = "0", of: str = "1") -> None:
    with steps.killed_at(None if step == "count" else int(step)) as counted:
        extract(out, log, share, of)
    if step == "count":
        with open(log, "a") as file:
            file.write(f"{counted.done}\n")


def extract(out: str, log: str, share: str, of: str) -> None:
    if is_up_to_date(Path(out), PROVENANCE):
        return
    parts = begin(Path(out))
    for number in parts.missing():
        if number % int(of) == int(share):
            with open(log, "a") as file:
                file.write(f"{number}\n")
            make(parts, number)
    if not parts.missing():
        parts.assemble()


def start(*arguments: object) -> warm.Started:
    return warm.popen([__file__, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: warm.Started) -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def kill_and_resume(folder: Path, kills: int, expected: bytes, seed: int) -> Counter[str]:
    """Kills extractions at random lines, always the same one until it is whole; counts what was killed when."""
    rng, out, log = random.Random(seed), folder / "feats.h5", folder / "log"
    finish(start(out, log, "count"))
    length, stages, done = int(log.read_text().split()[-1]), Counter[str](), 0
    while done < kills:
        out.unlink()
        log.write_text("")
        killed_here = 0
        while True:
            process = start(out, log, rng.randrange(length) if done < kills else 0)
            process.communicate()
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL
            done, killed_here = done + 1, killed_here + 1
            stages["whole" if out.exists() else "parts" if out.with_name("feats.h5.parts").exists() else "nothing"] += 1
            if out.exists():
                assert out.read_bytes() == expected
        assert out.read_bytes() == expected
        assert sorted(path.name for path in folder.iterdir()) == ["feats.h5", "log"]
        work = Counter(log.read_text().split())
        assert len(work) == 19
        assert work.total() <= 19 + killed_here, "more than one part's work was repeated after a kill"
    return stages


def test_killed_five_times(tmp_path: Path, expected: bytes) -> None:
    assert kill_and_resume(tmp_path, 5, expected, seed=0).total() >= 5


@pytest.mark.slow
def test_killed_fifty_times(tmp_path: Path, expected: bytes) -> None:
    stages = kill_and_resume(tmp_path, 50, expected, seed=1)
    assert stages.total() >= 50
    assert stages["parts"] > 10


MOMENTS = {
    "before the store has its name": "artifacts.os.replace",
    "between its name and the end of the parts": "parts_module._remove",
    "amid the removal of the parts": "parts_module.shutil.rmtree",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_the_worst_moments(tmp_path: Path, moment: str, expected: bytes) -> None:
    out = tmp_path / "feats.h5"
    parts = begin(out)
    for number in parts.missing():
        make(parts, number)
    child = os.fork()
    if child == 0:
        import sdc.files as artifacts

        names = {"artifacts": artifacts, "parts_module": parts_module}
        first, *between, last = MOMENTS[moment].split(".")
        target = names[first]
        for name in between:
            target = getattr(target, name)
        setattr(target, last, lambda *args, **more: os.kill(os.getpid(), signal.SIGKILL))
        parts.assemble()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert out.exists() == (moment != "before the store has its name")
    if not is_up_to_date(out, PROVENANCE):
        again = begin(out)
        assert again.missing() == []
        again.assemble()
    assert out.read_bytes() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["feats.h5"]


def test_processes_share_the_work(tmp_path: Path, expected: bytes) -> None:
    out, log = tmp_path / "feats.h5", tmp_path / "log"
    for process in [start(out, log, 0, share, 3) for share in range(3)]:
        finish(process)
    if not out.exists():  # each saw parts of the others missing
        begin(out).assemble()
    assert out.read_bytes() == expected
    assert sorted(map(int, log.read_text().split())) == list(range(19))
    assert not out.with_name("feats.h5.parts").exists()


def test_two_may_assemble_at_once(tmp_path: Path, expected: bytes) -> None:
    out = tmp_path / "feats.h5"
    first = begin(out)
    for number in first.missing():
        make(first, number)
    second = begin(out)
    assert second.missing() == []
    assert first.assemble() == second.assemble() == out
    assert out.read_bytes() == expected


def test_the_settings_of_the_parts_can_be_read(tmp_path: Path) -> None:
    manifest = json.loads((begin(tmp_path / "feats.h5").folder / "manifest.json").read_text())
    assert manifest["part_rows"] == PART_ROWS
    assert manifest["provenance"]["settings"] == PROVENANCE["settings"]


if __name__ == "__main__":
    main(*sys.argv[1:])
