"""What adapters recover is reported as it is recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.paper_runs import Outcome, Served
from benchmarks.recording import Benchmark
from benchmarks.recovery import MARGIN, OURS, PLANS, RATIO, report
from benchmarks.recovery_sets import ALONE, UNSEEN, Compared, report_sets
from qsearch.claims.paired_difference import paired_difference

PLAN = replace(PLANS["smollm2"], megabytes=(10.0,), bits=(2.5,), other_task=("letters", {}))


def outcome(folder: Path, method: str, kl: dict[str, list[float]]) -> Outcome:
    """A recorded study whose models have these divergences of the examples."""
    path = folder / f"{method}-0.json"
    served = []
    tables = []
    for name, values in kl.items():
        mean = float(np.mean(values))
        served.append(Served(name, 10_000_000, 2.5, mean, {"kl": (mean, None)}))
        columns = {"served": name, "weight": 1.0, "loss": values, "kl": values}
        tables.append(pd.DataFrame(columns))
    pd.concat(tables).to_parquet(path.with_suffix(".parquet"))
    return Outcome(method, 0, "digest", tuple(served), 1.0, 0.5, 4, 60, {}, path)


def test_ours_is_compared_with_the_best_other_on_both_texts(tmp_path: Path) -> None:
    own = {"10 MB": [0.30, 0.34], "10 MB, letters": [0.5, 0.6]}
    worse = {"10 MB": [0.6, 0.7], "10 MB, letters": [0.9, 0.9]}
    best = {"10 MB": [0.38, 0.42], "10 MB, letters": [0.5, 0.5]}
    outcomes = {
        OURS: [outcome(tmp_path, OURS, own)],
        "qlora": [outcome(tmp_path, "qlora", worse)],
        "lq-lora": [outcome(tmp_path, "lq-lora", best)],
    }
    benchmark = Benchmark("recovery")
    text = "\n".join(report(benchmark, PLAN, outcomes))
    ratio, upper, other_ratio, other_upper = benchmark.claims
    assert "10 MB: kl of composed-lora over that of the best other (lq-lora)" in ratio.claim
    assert (ratio.value, ratio.target) == (pytest.approx(0.8), RATIO)
    assert (upper.value, upper.target) == (pytest.approx(-0.08), MARGIN)
    assert "10 MB, letters" in other_ratio.claim
    assert other_ratio.value == pytest.approx(1.1)
    assert other_upper.value > 0.05
    assert "kl on letters" in text
    assert "| lq-lora | 1 | -0.0800 ± 0.0000 |" in text


def test_a_plan_without_records_has_no_table(tmp_path: Path) -> None:
    benchmark = Benchmark("recovery")
    assert report(benchmark, PLAN, {}) == []
    assert report_sets(benchmark, PLAN, []) == []
    assert not benchmark.claims


def test_upper_ends_of_unseen_and_of_all_are_claimed() -> None:
    unseen = paired_difference([0.41, 0.43], [0.40, 0.42])
    alone = paired_difference([0.40, 0.42], [0.45, 0.45])
    rows = [
        Compared(2.5, UNSEEN, kl=0.41, other_kl=0.42, difference=unseen),
        Compared(2.5, ALONE, kl=0.41, other_kl=0.45, difference=alone),
    ]
    benchmark = Benchmark("recovery")
    text = "\n".join(report_sets(benchmark, PLAN, rows))
    first, second = benchmark.claims
    assert first.value == pytest.approx(0.01)
    assert "did not meet" in first.claim
    assert second.value == pytest.approx(alone.high)
    assert "alone" in second.claim
    assert "| 2.5 | 0.410 | 0.420 | +0.0100 ± 0.0000 | 0.450 |" in text
