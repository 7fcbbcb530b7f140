"""Every check and figure that needs a CUDA device, in one command that takes about six minutes.

    python bench/gpu_check.py --out results                      # all parts
    python bench/gpu_check.py --out results --only env tests     # some
    python bench/gpu_check.py --out results --dry                # the code of all, tiny, on a CPU

Nothing is installed: it runs from a checkout, with what the machine's Python has; a part that lacks something says so
and is skipped. Each part is a process of its own with a time limit, since a broken one (an illegal access ends a
process's use of the device) must take no other with it. What is measured is on disk at once: a line of JSON each in
`gpu.jsonl`, also of what was skipped or ran over its limit. Last come a table and `step.csv`. GPU.md says more.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {  # seconds of each part, the parts in order of worth
    "env": 40, "tests": 120, "kernels": 75, "step": 75, "train": 50, "search": 60, "extract": 40, "compiled": 90,
    "sanitizer": 100, "profile": 60,
}  # fmt: skip
INTERPRETED = ("kernels", "step", "tests")  # of a dry run: they run Triton's kernels
SPARE = 15.0  # seconds: with less time left no part is begun
DRY_LIMIT = 4  # times as long may a part of a dry run take, on a busy machine
STEP = (
    "pairs", "B", "d", "K", "implementation", "us", "us_min", "us_max", "host_us", "wall_us", "mib", "loss_off",
    "gradient_off",
)  # fmt: skip


def keep(out: Path, **row: object) -> None:
    """A line of gpu.jsonl."""
    with open(out / "gpu.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def environment(out: Path, part: str, dry: bool) -> dict[str, str]:
    """The variables of a part's process."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    given = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "SDC_GPU_OUT": str(out)}
    given.setdefault("TRITON_CACHE_DIR", str(out / "triton"))
    given.setdefault("MPLCONFIGDIR", str(out / "matplotlib"))
    if dry:
        given |= {"SDC_GPU_DRY": "1", "CUDA_VISIBLE_DEVICES": ""}
        given |= {"TRITON_INTERPRET": "1"} if part in INTERPRETED else {}
    return given


def run_part(part: str, out: Path, limit: float, dry: bool) -> int | str:
    """Runs a part; its exit code, or that it took too long."""
    command = [sys.executable, str(ROOT / "bench" / "gpu_parts.py"), part]
    with open(out / "log.txt", "a", encoding="utf-8") as log:
        log.write(f"===== {part}\n")
        log.flush()
        process = subprocess.Popen(
            command, env=environment(out, part, dry), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"stopped after {limit:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # our own child, and what it started
                process.wait()


def read(out: Path) -> list[dict]:
    """The lines of gpu.jsonl; one that was cut short, by the end of a process, is left out."""
    rows = []
    for line in (out / "gpu.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def summarize(out: Path) -> None:
    """Prints the table of steps and what the other parts found; writes step.csv."""
    rows = read(out)
    machine = next((row for row in rows if row["part"] == "env" and "torch" in row), {})
    steps = [row for row in rows if row["part"] == "step" and "us" in row]
    if steps:
        with open(out / "step.csv", "w", newline="", encoding="utf-8") as file:
            named = ("gpu", "smi", "torch", "triton", "commit")
            file.write("# " + ", ".join(f"{name} {machine.get(name)}" for name in named) + "\n")
            writer = csv.DictWriter(file, STEP, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(steps)
        print(f"{'pairs':7}{'B':>6}{'d':>6}  {'implementation':14}{'us':>10}{'wall us':>10}{'MiB':>9}{'gradient':>10}")
    if any(row.get("dry") for row in rows):
        print("a dry run on a CPU: nothing here is a figure of a GPU")
    for row in steps:
        print(
            f"{row['pairs']:7}{row['B']:6}{row['d']:6}  {row['implementation']:14}{row['us']:10.1f}"
            f"{row['wall_us']:10.1f}{row['mib']:9.1f}{row['gradient_off']:10.1e}"
        )
    for row in rows:
        if row["part"] not in ("step", "kernels"):
            print(json.dumps(row)[:220])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder, made if need be")
    parser.add_argument("--only", nargs="+", choices=LIMITS, metavar="PART", help=f"of {', '.join(LIMITS)}")
    parser.add_argument("--seconds", type=float, default=370, help="no part lasts beyond these (default: 370)")
    parser.add_argument("--dry", action="store_true", help="tiny, on a CPU: tests the check, measures nothing")
    chosen = parser.parse_args()
    out = chosen.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for name in ("gpu.jsonl", "log.txt", "step.csv"):
        (out / name).unlink(missing_ok=True)
    began, failed = time.monotonic(), []
    more = DRY_LIMIT if chosen.dry else 1
    for part in chosen.only or LIMITS:
        left = chosen.seconds * more - (time.monotonic() - began)
        if left < SPARE:
            keep(out, part="ended", what=part, skipped="the time is up")
            continue
        started = time.monotonic()
        code = run_part(part, out, min(LIMITS[part] * more, left), chosen.dry)
        keep(out, part="ended", what=part, code=code, seconds=round(time.monotonic() - started, 1))
        failed += [part] if code else []
    summarize(out)
    if failed:
        print(f"failed: {', '.join(failed)}; see {out / 'log.txt'}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
