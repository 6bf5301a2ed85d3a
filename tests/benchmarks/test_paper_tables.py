"""The paper's comparison says what its records say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import paper, recording
from benchmarks.method_studies import plan_digest, study_of
from benchmarks.paper import MARGIN, PLANS, claim_differences
from benchmarks.paper_methods import METHODS, Plan
from benchmarks.paper_runs import FULL_PRECISION, Outcome, Served
from benchmarks.paper_tables import (
    Difference,
    difference,
    difference_markdown,
    differences,
    figure_of,
    served_markdown,
    served_table,
)
from benchmarks.recording import Benchmark
from qsearch.errors import InputError
from qsearch.plugins.evaluation import ExampleScores

PLAN = Plan(
    study=Path("made.yaml"),
    model="Made",
    megabytes=(10.0, 20.0),
    bits=(2.5, 3.0),
    bits_alone=(3.0, 3.5),
    seeds=dict.fromkeys(("coa-lora", "ptq", "qlora"), 3),
    better=(10.0,),
    metric=("accuracy", "points", 100),
)


def outcome(folder: Path, method: str, seed: int, losses: dict[str, list[float]]) -> Outcome:
    """A recorded study that serves each name with these losses of the examples."""
    path = folder / f"{method}-{seed}.json"
    served = []
    tables = []
    for name, values in losses.items():
        nbytes = None if name == FULL_PRECISION else int(9e6)
        accuracy = float(np.mean(np.array(values) < 0.5))
        served.append(
            Served(
                name,
                nbytes,
                nbytes and 2.25,
                float(np.mean(values)),
                {"accuracy": (accuracy, None)},
            )
        )
        columns = {"served": name, "weight": 1.0, "loss": values}
        tables.append(pd.DataFrame(columns))
    pd.concat(tables).to_parquet(path.with_suffix(".parquet"), index=False)
    machine = {"processor": "one", "cores": 2, "threads": 1, "commit": "abc"}
    return Outcome(method, seed, "plan", tuple(served), 10.0, 5.0, 5, 100, machine, path)


def alike(low: list[float], high: list[float]) -> dict[str, list[float]]:
    return {"10 MB": low, "20 MB": high}


def scores(*losses: float) -> ExampleScores:
    return ExampleScores(losses, (1.0,) * len(losses))


def test_a_difference_of_one_seed_has_the_interval_of_its_examples() -> None:
    value, half = difference({0: scores(1.0, 2.0, 4.0)}, {0: scores(1.0, 1.0, 2.0)})
    assert value == pytest.approx(1.0)
    # Differences 0, 1, 2: std 1, root of 3, Student's t(0.975, 2 degrees of freedom) = 4.3027.
    assert half == pytest.approx(4.3027 / 3**0.5, rel=1e-4)


def test_what_seeds_differ_by_widens_the_interval() -> None:
    # Every example differs by the same within a seed: no part of the interval is of the examples.
    own = {0: scores(1.0, 2.0), 1: scores(1.2, 2.2), 2: scores(1.4, 2.4)}
    other = dict.fromkeys(range(3), scores(1.0, 2.0))
    value, half = difference(own, other)
    assert value == pytest.approx(0.2)
    # Means 0, 0.2, 0.4: std 0.2.
    assert half == pytest.approx(4.3027 * 0.2 / 3**0.5, rel=1e-4)


def test_what_all_seeds_of_both_methods_share_does_not_widen_it() -> None:
    own = {seed: scores(1.0 + seed, 5.0 + seed) for seed in range(3)}
    other = {seed: scores(0.5 + seed, 4.5 + seed) for seed in range(3)}
    value, half = difference(own, other)
    assert value == pytest.approx(0.5)
    assert half == pytest.approx(0.0, abs=1e-9)


def test_methods_are_compared_over_the_seeds_that_both_have(tmp_path: Path) -> None:
    outcomes = {
        "coa-lora": [
            outcome(tmp_path, "coa-lora", seed, alike([0.2, 0.4], [0.1, 0.3])) for seed in (0, 1)
        ],
        "ptq": [
            outcome(tmp_path, "ptq", 1, alike([0.5, 0.7], [0.1, 0.3])),
            outcome(tmp_path, "ptq", 2, alike([9.0, 9.0], [9.0, 9.0])),
        ],
        "qlora": [outcome(tmp_path, "qlora", 2, alike([9.0, 9.0], [9.0, 9.0]))],
    }
    found = differences(PLAN, outcomes)
    assert [(one.size, one.rival, one.seeds) for one in found] == [
        ("10 MB", "ptq", 1),
        ("20 MB", "ptq", 1),
    ]
    assert [one.value for one in found] == pytest.approx([-0.3, 0.0])
    assert "| ptq | 1 | -0.3000 ± 0.0000 | +0.0000 ± 0.0000 |" in difference_markdown(found)


def test_not_worse_is_claimed_at_every_size_and_better_where_the_plan_names_it() -> None:
    benchmark = Benchmark("paper")
    claim_differences(
        benchmark,
        PLAN,
        [
            Difference("10 MB", "ptq", -0.01, 0.015, 3),
            Difference("20 MB", "ptq", 0.01, 0.02, 3),
        ],
    )
    not_worse, better, missed = benchmark.claims
    assert (not_worse.value, not_worse.target, not_worse.met) == (
        pytest.approx(0.005),
        MARGIN,
        True,
    )
    assert (better.target, better.met) == (0.0, False)
    assert (missed.value, missed.met) == (pytest.approx(0.03), False)
    assert "20 MB: loss of coa-lora less that of ptq" in missed.claim


def test_tables_have_means_over_seeds_and_what_is_not_quantized(tmp_path: Path) -> None:
    found = {
        "coa-lora": [
            outcome(
                tmp_path, "coa-lora", 0, alike([0.2, 0.4], [0.1, 0.3]) | {FULL_PRECISION: [0.1]}
            ),
            outcome(
                tmp_path, "coa-lora", 1, alike([0.4, 0.6], [0.1, 0.3]) | {FULL_PRECISION: [0.3]}
            ),
        ],
        "qlora": [outcome(tmp_path, "qlora", 0, alike([0.5, 0.7], [0.1, 0.3]))],
        "ptq": [],
    }
    table = served_table(PLAN, found)
    assert table["served"].tolist() == ["10 MB", "20 MB", FULL_PRECISION, "10 MB", "20 MB"]
    assert table["bytes"].tolist()[:2] == [9e6, 9e6]
    text = served_markdown(PLAN, table, "loss", 3)
    # Student's t(0.975, 1 degree of freedom) = 12.706 (tables), std 0.1414, root of 2.
    assert "| coa-lora | 2 | 0.400 ± 1.271 | 0.200 ± 0.000 | 0.200 ± 1.271 |" in text
    assert "| qlora | 1 | 0.600 | 0.200 | – |" in text
    assert [trace.name for trace in figure_of(PLAN, table).data] == ["coa-lora", "qlora"]


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder for the results of a comparison of what is recorded."""
    folder = tmp_path / "results"
    monkeypatch.setattr(recording, "RESULTS", folder)
    docs = tmp_path / "benchmarks.md"
    docs.write_text("Before\n<!-- table of bench-paper -->\n<!-- end of table -->\nAfter\n")
    monkeypatch.setattr(paper, "DOCS", docs)
    monkeypatch.setattr("sys.argv", ["paper", "--recorded"])
    return folder


def test_the_report_has_tables_claims_and_a_page_without_links(
    monkeypatch: pytest.MonkeyPatch, results: Path, tmp_path: Path
) -> None:
    sizes = [f"{size:g} MB" for size in PLANS["minilm"].megabytes]

    def recorded(plan: Plan, recorded: bool) -> list[Outcome]:
        assert recorded
        if plan.name != "minilm":
            return []
        return [
            outcome(tmp_path, method, seed, {size: [loss, 2 * loss] for size in sizes})
            for method, loss in (("coa-lora", 0.2), ("ptq", 0.3))
            for seed in range(3)
        ]

    monkeypatch.setattr(paper, "outcomes_of", recorded)
    paper.main()
    text = paper.DOCS.read_text()
    assert (text.split("\n")[0], text.split("\n")[-2]) == ("Before", "After")
    assert "| coa-lora | 3 | 0.300 ± 0.000 |" in text
    assert "| ptq | 3 | -0.1500 ± 0.6353 |" in text
    assert "Nothing is recorded yet." in text
    result = json.loads((results / "paper.json").read_text())
    assert {row["table"] for row in result["rows"]} == {
        "served",
        "loss of CoA-LoRA less others'",
        "studies",
    }
    assert len(result["claims"]) == len(sizes) + len(PLANS["minilm"].better)
    page = (results / "paper.html").read_text()
    assert "MiniLM-L6 on SST-2: served" in page
    assert 'src="http' not in page


def test_a_record_that_is_refused_leaves_the_results_as_they_are(
    monkeypatch: pytest.MonkeyPatch, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(plan: Plan, recorded: bool) -> list[Outcome]:
        if plan.name == "minilm":
            raise InputError("qlora-0.json: recorded under another plan")
        return []

    monkeypatch.setattr(paper, "outcomes_of", refused)
    with pytest.raises(SystemExit, match="1"):
        paper.main()
    assert "minilm: qlora-0.json: recorded under another plan" in capsys.readouterr().err
    assert not results.exists()


@pytest.mark.parametrize(
    ("name", "method"), [(name, method) for name, plan in PLANS.items() for method in plan.seeds]
)
def test_every_method_of_a_plan_is_a_study_of_its_own(name: str, method: str) -> None:
    plan = PLANS[name]
    digests = [plan_digest(plan.study, method, seed, plan.entries) for seed in (1, 2)]
    assert digests[0] != digests[1]
    spec = study_of(plan.study, method, 2, plan.entries, {"QSEARCH_DATA": "/d", "PAPER_TEXT": "/t"})
    assert spec.seed == 2
    assert spec.trainer.name == METHODS[method].trainer
    bits = plan.bits if METHODS[method].has_adapter else plan.bits_alone
    assert len(bits) == len(plan.megabytes)
    first = spec.search.initial
    assert [*first.uniform, *first.allocated] == [*bits] * len(METHODS[method].first)
    assert bool(spec.search.candidates) is METHODS[method].is_searched
