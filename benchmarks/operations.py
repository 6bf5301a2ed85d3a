"""What a running study holds and survives: load, faults, kills and bad inputs.

    python -m benchmarks.operations [PART …] [--recorded]

Each part has a record, ``results/operations-PART.json``; without a part, all are measured. All but
the bad inputs are on the real MiniLM. ``--recorded`` writes the table from the records alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.objectives import ROOT
from benchmarks.operations_faults import faults
from benchmarks.operations_kills import kills
from benchmarks.operations_load import load
from benchmarks.recording import RESULTS, Benchmark, fill_table, parts_to_measure

DOCS = ROOT / "docs" / "operations.md"
_TIMES_AS_MANY = "4"
"""Inputs that the fuzz tests try here, over those that they try alone."""


def main() -> None:
    """Measure what is asked for, and write records and the table of the documentation."""
    for part in parts_to_measure(__doc__, PARTS):
        benchmark = Benchmark(f"operations-{part}", f"python -m benchmarks.operations {part}")
        PARTS[part](benchmark)
        benchmark.write()
    recorded = [RESULTS / f"operations-{part}.json" for part in PARTS]
    texts = [path.read_text(encoding="utf-8") for path in recorded if path.is_file()]
    fill_table(
        DOCS, "operations", table([row for text in texts for row in json.loads(text)["rows"]])
    )


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
    lines = ["", "| what | value (ratio to one process with one thread) |", "|---|---|"]
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
    tried: Counter[str] = Counter()
    for row in rows:
        if "bad input" in row:
            tried[row["bad input"].partition(":")[0]] += row["tried"]
    lines += [f"| bad inputs tried: {kind} | {count:,} |" for kind, count in tried.items()]
    return [*lines, ""]


PARTS: dict[str, Callable[[Benchmark], None]] = {
    "load": load,
    "faults": faults,
    "kills": kills,
    "inputs": bad_inputs,
}

if __name__ == "__main__":
    main()
