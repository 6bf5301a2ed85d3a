"""What the benchmark of operations says in the documentation."""

from __future__ import annotations

from benchmarks.operations import table


def test_each_kind_of_row_has_a_line_of_the_table() -> None:
    rows = [
        {"what": "evaluations", "1 thread (per hour)": 1000, "2 workers (per hour)": 1900},
        {"what": "bytes", "task": 6100, "state": 2_400_000, "model": 42_500_000},
        {"fault": "kill -9", "phase": "training", "moment_seconds": 1.0},
        {"fault": "kill -9 of the quickstart", "times": 20, "trials lost": 0},
        {"bad input": "study YAML", "tried": 5000},
    ]
    lines = [line for line in table(rows) if line]
    assert lines[2:] == [
        "| evaluations per hour, 1 thread | 1000 (1.00) |",
        "| evaluations per hour, 2 workers | 1900 (1.90) |",
        "| sent: a task, a round's adapter, quantizable weights for comparison |"
        " 6.1 kB, 2.4 MB, 42.5 MB |",
        "| kill -9 of the quickstart: times, trials lost | 20, 0 |",
        "| bad inputs tried: study YAML | 5,000 |",
    ]
