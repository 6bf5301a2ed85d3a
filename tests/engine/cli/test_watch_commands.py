"""``status``."""

from __future__ import annotations

import os
from pathlib import Path

from qsearch.monitoring.events import Event, EventKind, event_log
from qsearch.storage.lock import study_lock
from qsearch.storage.paths import LOG
from qsearch.storage.study_record import read_study


def test_status_says_how_far_a_study_is(qsearch, finished: Path) -> None:
    code, output, _ = qsearch("status", finished)
    record = read_study(finished)
    assert code == 0
    assert f"{len(record.trials)} completed, 0 failed" in output
    assert f"{record.rounds[-1].hypervolume:.4f}" in output
    assert "finished at" in output
    searched = next(line for line in output.splitlines() if line.startswith("searched"))
    assert searched.split()[1:] == ["2.25", "to", "6", "average", "bits"]
    running = next(line for line in output.splitlines() if line.startswith("running"))
    assert running.split() == ["running", "no"]


def test_status_of_a_study_without_results_says_who_runs_it(qsearch, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    event_log(tmp_path / LOG)(Event(EventKind.FAILED, 1, {"trial": 2, "reason": "gone"}))
    with study_lock(tmp_path):
        code, output, _ = qsearch("status", tmp_path)
    assert code == 0
    lines = {line.split("  ")[0]: line for line in output.splitlines()}
    assert "none yet" in lines["results"]
    assert "gone" in lines["last event"]
    assert f"process {os.getpid()} on" in lines["running"]
