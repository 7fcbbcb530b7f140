"""Prints what the last measured run of the tests covered, lines and branches; fails below 95 % of the lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path

LEAST = 95.0  # percent of the lines
SHOWN = 10

report = json.loads(Path(".coverage.json").read_text(encoding="utf-8"))
missing = {name: each["summary"]["missing_lines"] for name, each in report["files"].items()}
print("lines that no test runs, most first:")
for name in sorted(missing, key=lambda name: -missing[name])[:SHOWN]:
    print(f"{missing[name]:6} {name}")


def share(of: str) -> float:
    covered = report["summary"][f"covered_{of}"]
    return 100 * covered / (covered + report["summary"][f"missing_{of}"])


print(f"coverage: {share('lines'):.1f} % of the lines, {share('branches'):.1f} % of the branches")
if share("lines") < LEAST:
    sys.exit(f"expected at least {LEAST:g} % of the lines")
