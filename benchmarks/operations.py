"""What a running study holds and survives: load, faults, kills and bad inputs.

    python -m benchmarks.operations [--recorded]

All but the bad inputs are on the real MiniLM. ``--recorded`` writes the table from the record.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.objectives import ROOT
from benchmarks.operations_faults import faults
from benchmarks.operations_kills import kills
from benchmarks.operations_load import load
from benchmarks.recording import RESULTS, Benchmark, fill_table, only_recorded

DOCS = ROOT / "docs" / "operations.md"
_TIMES_AS_MANY = "4"
"""Inputs that the fuzz tests try here, over those that they try in the test suite."""


def main() -> None:
    """Measure all, write ``results/operations.json`` and the table of the documentation."""
    benchmark = Benchmark("operations")
    if only_recorded(__doc__):
        recorded = json.loads((RESULTS / "operations.json").read_text(encoding="utf-8"))
        fill_table(DOCS, "operations", table(recorded["rows"]))
        return
    load(benchmark)
    faults(benchmark)
    kills(benchmark)
    bad_inputs(benchmark)
    benchmark.write()
    fill_table(DOCS, "operations", table(benchmark.rows))


def bad_inputs(benchmark: Benchmark) -> None:
    """Run the fuzz tests on many more inputs than the test suite does."""
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts.json"
        named = {"QSEARCH_FUZZ_EXAMPLES": _TIMES_AS_MANY, "QSEARCH_FUZZ_COUNTS": str(counts)}
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "--timeout", "0", "tests/fuzz"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **named},
            capture_output=True,
            text=True,
            check=False,
        )
        tried: dict[str, int] = json.loads(counts.read_text(encoding="utf-8"))
    for kind, count in tried.items():
        benchmark.row(**{"bad input": kind, "tried": count})
    if ended.returncode:
        print(ended.stdout)
    benchmark.claim("bad inputs tried", sum(tried.values()), 10_000, "higher")
    failed = ended.stdout.count("\nFAILED")
    benchmark.claim("kinds of bad input with a traceback or a stray file", failed, 0, "lower")


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table of the documentation, as lines of Markdown."""
    lines = ["", "| what | figure |", "|---|---|"]
    for row in rows:
        if "per hour" in " ".join(row):
            rates = {
                name.removesuffix(" (per hour)"): v for name, v in row.items() if name != "what"
            }
            first = next(iter(rates.values()))
            lines += [
                f"| {row['what']} per hour, {name} | {rate} ({rate / first:.2f}) |"
                for name, rate in rates.items()
            ]
        elif row.get("what") == "bytes":
            lines.append(
                f"| sent: a task, a round's adapter, quantizable weights for comparison |"
                f" {row['task'] / 1e3:.1f} kB, {row['state'] / 1e6:.1f} MB,"
                f" {row['model'] / 1e6:.1f} MB |"
            )
        elif row.get("what") == "saving":
            each = row["seconds each, at the end"]
            lines.append(f"| saving a result, after {row['results']} others | {each:.3f} s |")
        elif "times" in row:
            lines.append(
                f"| {row['fault']}: times, trials lost | {row['times']}, {row['trials lost']} |"
            )
        elif "bad input" in row:
            lines.append(f"| bad inputs tried: {row['bad input']} | {row['tried']} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
