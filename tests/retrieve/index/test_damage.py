"""Damaged db.bin files, flat and IVF: each is refused by the command, with a clear error, exit code 1 and no answer.

Whatever opens or refuses them does it in a process of its own, so that a crash is seen.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import warm

from sdc.retrieve.index import faiss_layout
from sdc.retrieve.index.ids import Ids
from sdc.retrieve.index.index import Index
from sdc.retrieve.index.records import Records

COMMAND = """
import contextlib, io, sys
from pathlib import Path
from sdc.errors import log
from sdc.cli import main
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(path.name, end=" ", flush=True)
    sys.argv, out, err = ["sdc", "search", "--index", str(path)], io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    log.handlers.clear()
    lines = err.getvalue().splitlines()
    clear = len(lines) == 1 and lines[0].startswith("sdc: error: ") and str(path) in lines[0]
    print("exit code", code, "clear" if clear else lines, "no answer" if not out.getvalue() else "ANSWERED", flush=True)
"""

UNVERIFIED = """
import sys
from pathlib import Path
from sdc.errors import SdcError
from sdc.retrieve.index import Index
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(path.name, end=" ", flush=True)
    try:
        index = Index.open(path, verify=False)
        index.search(index.database.codes[:3], 5)
        index.range_search(index.database.codes[:3], 9)
        print("opened", flush=True)
    except SdcError as error:
        print("refused", flush=True)
"""

CODES = np.random.default_rng(1).integers(0, 256, (300, 8), dtype=np.uint8)
LABELS = {"labels": np.arange(300) % 7, "labels_coarse": np.arange(300) % 3}


def regions(whole):
    """Where each part of a db.bin of 300 codes of 64 bits lies, by name: start and end."""
    end = len(whole) - 56
    body, header = (int.from_bytes(whole[end + at : end + at + 8], "little") for at in (16, 32))
    arrays = json.loads(whole[end - header : end])["arrays"]
    found = {"footer": (end, end + 48), "seal": (end + 48, end + 56), "JSON header": (end - header, end)}
    for name, place in arrays.items():
        start, size = body + place["offset"], math.prod(place["shape"]) * np.dtype(place["dtype"]).itemsize
        found[name] = (start, start + size)
    covered = sorted(found.values())
    gaps = [(a[1], b[0]) for a, b in pairwise([(0, body), *covered]) if a[1] < b[0]]
    found |= {f"padding {number}": gap for number, gap in enumerate(gaps)}
    if whole.startswith(b"IBxF"):
        return found | {"FAISS header": (0, 33), "codes": (33, body)}
    lists = whole.index(b"ilar")
    found |= {"FAISS header": (0, 41), "quantizer header": (41, 74), "centroids": (74, lists - 9)}
    return found | {"lists header": (lists - 9, lists + 40), "lists": (lists + 40, body)}


def damaged(whole):
    """Over 500: cut at many lengths, bits flipped in every region, bytes after the end, and wrong types."""
    rng, parts = np.random.default_rng(0), regions(whole)
    assert sum(end - start for start, end in parts.values()) == len(whole)  # nothing is left out
    cuts = {*range(40), *(border - shift for border in np.ravel([*parts.values()]) for shift in (0, 1))}
    cuts |= set(rng.integers(len(whole), size=40).tolist())
    for length in sorted(cuts - {-1, len(whole)}):
        yield f"cut at {length}", whole[:length]
    for name, (start, end) in parts.items():
        places = {start, end - 1, *rng.integers(start, end, 30 if end - start > 30 else end - start).tolist()}
        for place in sorted(places):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << int(rng.integers(8))
            yield f"{name}, flip at {place}", bytes(flipped)
    for tail in (b"\0", b"\0" * 56, whole[-56:], whole):
        yield f"{tail[:9]!r}, {len(tail)} bytes after the end", whole + tail
    for head in (b"IBxF", b"IBwF", b"IBMp", b"IBHf", b"IxF2", b"\x89HDF", b"PK\3\4", b"null"):
        if not whole.startswith(head):
            yield f"begins with {head!r}", head + whole[len(head) :]
        yield f"{head!r} and zeros", head + bytes(300)


def outcomes(script, folder):
    """What became of each file; a file at which the process died has no outcome."""
    done = warm.run(["-c", script, folder], capture_output=True)
    assert done.returncode == 0, (done.returncode, done.stdout[-100:], done.stderr[-500:])
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_damaged_files_are_refused_without_a_crash_or_an_answer(tmp_path, kind):
    queries = Records(CODES[:12], np.arange(300, 312), Ids.of([f"query {n}" for n in range(12)]))
    ids = [f"id {n}" for n in range(300)]
    path = Index.build(CODES, ids=ids, queries=queries, index_type=kind, **LABELS).save(tmp_path / "db.bin")
    folder, made = tmp_path / "damaged", {}
    folder.mkdir()
    for number, (what, data) in enumerate(damaged(path.read_bytes())):
        if data != path.read_bytes()[: faiss_layout.FLAT_HEADER.size + 300 * 8]:  # cut just there it is plain FAISS'
            made[f"{number:04}"] = what
            (folder / f"{number:04}").write_bytes(data)
    assert len(made) >= 500
    found = {made[name]: outcome for name, outcome in outcomes(COMMAND, folder).items()}
    assert {what: outcome for what, outcome in found.items() if outcome != "exit code 1 clear no answer"} == {}
    assert len(found) == len(made)
    found = outcomes(UNVERIFIED, folder)  # opened or refused, but nothing else
    assert set(found.values()) == {"opened", "refused"}  # so it is the verification that refuses the rest
    assert len(found) == len(made)
