"""Prints what the last measured run of the tests covered, lines and branches; fails below 95 % of the lines."""

from __future__ import annotations

import json
import sys
import tempfile

import coverage

LEAST = 95.0  # percent of the lines
SHOWN = 10

measured = coverage.Coverage()
measured.load()
with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
    measured.json_report(outfile=file.name)
    report = json.load(file)
files = {name: each["summary"]["missing_lines"] for name, each in report["files"].items()}
totals = report["totals"]
lines = 100 * totals["covered_lines"] / totals["num_statements"]
branches = 100 * totals["covered_branches"] / totals["num_branches"]
print("lines that no test runs, most first:")
for name in sorted(files, key=lambda name: -files[name])[:SHOWN]:
    print(f"{files[name]:6} {name}")
print(f"coverage: {lines:.1f} % of the lines, {branches:.1f} % of the branches")
if lines < LEAST:
    sys.exit(f"expected at least {LEAST:g} % of the lines")
