"""The paper's comparison says what its records say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import paper, paper_tables, recording
from benchmarks.paper import PLANS, claim_against_rivals
from benchmarks.paper_runs import BUDGETS, ENTRIES, METHODS, Outcome, Served, plan_digest, study_of
from benchmarks.paper_tables import (
    Scale,
    budget_markdown,
    budget_table,
    figure_of,
    figures_of,
    markdown_of,
    table_of,
)
from benchmarks.recording import Benchmark, Claim
from benchmarks.zero_shot import Seen
from qsearch.errors import InputError

ACCURACY = Scale("metric", worst=0.5, best=1.0, unit="points", per_unit=100)
LOSS = Scale("loss", worst=10.0, best=0.0, unit="nats", per_unit=1)


def outcome(
    method: str,
    accuracy: float,
    seed: int = 0,
    minutes: float = 10.0,
    loss: float = 3.0,
    processor: str = "one",
) -> Outcome:
    served = tuple(Served(budget, budget, loss, accuracy, 0.01) for budget in BUDGETS)
    machine = {"processor": processor, "cores": 2, "threads": 1, "commit": "abc"}
    return Outcome(method, seed, "plan", served, minutes, minutes / 2, 5, 100, machine)


def runs(**accuracies: dict[int, float]) -> dict[str, list[Outcome]]:
    """The outcomes of methods by name, with an accuracy for each seed."""
    named = {name.replace("_", "-"): by_seed for name, by_seed in accuracies.items()}
    return {
        name: [outcome(name, accuracy, seed) for seed, accuracy in by_seed.items()]
        for name, by_seed in named.items()
    }


def rows_of(**accuracies: dict[int, float]) -> pd.DataFrame:
    """The table's rows by method."""
    return table_of(figures_of(runs(**accuracies), ACCURACY)).set_index("method")


def claims_of(outcomes: dict[str, list[Outcome]]) -> list[Claim]:
    benchmark = Benchmark("paper")
    claim_against_rivals(benchmark, PLANS["sst2-minilm"], figures_of(outcomes, ACCURACY))
    return benchmark.claims


def test_hypervolume_of_one_quality_is_a_rectangle() -> None:
    # (0.8 - 0.5) / 0.5 of the height, from 2.5 to 7.25 of the 5 bits.
    full = outcome("ptq", 0.8, loss=4.0)
    assert ACCURACY.hypervolume(full) == pytest.approx(0.6 * 4.75 / 5)
    assert LOSS.hypervolume(full) == pytest.approx(0.6 * 4.75 / 5)
    assert ACCURACY.hypervolume(outcome("ptq", 0.45)) == 0
    # Bits that are left unused count at own bits alone.
    spare = replace(full, served=tuple(replace(one, average_bits=2.25) for one in full.served))
    assert ACCURACY.hypervolume(spare) == pytest.approx(ACCURACY.hypervolume(full))
    assert ACCURACY.hypervolume(spare, at="average_bits") == pytest.approx(0.6)


def test_a_gap_is_positive_where_the_method_is_better_than_the_reference() -> None:
    better, worse = outcome("coa-lora", 0.83, loss=2.5), outcome("qlora", 0.8, loss=3.0)
    assert ACCURACY.gap(better, worse) == pytest.approx(3.0)
    assert LOSS.gap(better, worse) == pytest.approx(0.5)


def test_gaps_are_taken_between_equal_seeds() -> None:
    row = rows_of(qlora={1: 0.70, 2: 0.70}, coa_lora={0: 0.8, 1: 0.72}).loc["coa-lora"]
    assert row["gap"] == pytest.approx(2.0)
    assert np.isnan(row["gap ±"])


def test_claims_compare_hypervolume_and_minutes() -> None:
    outcomes = {
        "qlora": [outcome("qlora", 0.8, seed, 100) for seed in range(3)],
        "shared-lora": [outcome("shared-lora", 0.79, seed, 20) for seed in range(3)],
        "coa-lora": [outcome("coa-lora", 0.82 + 0.001 * seed, seed, 40) for seed in range(3)],
    }
    claims = claims_of(outcomes)
    assert [claim.met for claim in claims] == [True, True, True, True]
    (minutes,) = [claim for claim in claims if "minutes" in claim.claim]
    assert minutes.value == pytest.approx(0.4)
    assert "5 runs" in minutes.claim


def test_claims_are_over_common_seeds_and_need_three() -> None:
    outcomes = runs(
        qlora={0: 0.9, 1: 0.7, 2: 0.7, 3: 0.7},
        lq_lora=dict.fromkeys((0, 1, 2), 0.7),
        coa_lora=dict.fromkeys((1, 2, 3), 0.8),
    )
    (volume, minutes) = claims_of(outcomes)
    assert "less that of qlora, 3 seeds" in volume.claim
    assert volume.value == pytest.approx(0.2 * 4.75 / 5)
    assert minutes.value == pytest.approx(1)


@pytest.mark.parametrize(("elsewhere", "expected"), [(1, [0.4]), (2, [])])
def test_minutes_are_compared_over_three_seeds_of_one_machine(
    elsewhere: int, expected: list[float]
) -> None:
    own = [outcome("coa-lora", 0.8, seed, 40) for seed in range(4)]
    rivals = [
        outcome("qlora", 0.8, seed, 1000, processor="other")
        if seed < elsewhere
        else outcome("qlora", 0.8, seed, 100)
        for seed in range(4)
    ]
    claims = claims_of({"coa-lora": own, "qlora": rivals})
    minutes = [claim.value for claim in claims if "minutes" in claim.claim]
    assert minutes == pytest.approx(expected)


def test_overlapping_intervals_miss_the_claim() -> None:
    outcomes = runs(shared_lora=dict.fromkeys(range(3), 0.80), coa_lora={0: 0.78, 1: 0.83, 2: 0.88})
    (interval,) = [claim for claim in claims_of(outcomes) if "interval" in claim.claim]
    assert interval.met is False


def test_the_tables_name_each_method_and_the_figure_draws_it() -> None:
    outcomes = runs(qlora={0: 0.8}, ptq={0: 0.7}, lq_lora={})
    text = markdown_of(table_of(figures_of(outcomes, ACCURACY)), "points")
    assert "| qlora | 1 | 0.570 | – | 0.570 | 0.00 | 10.0 |" in text
    assert "| ptq | 1 | 0.380 | – | 0.380 | -10.00 | 10.0 |" in text
    assert [trace.name for trace in figure_of(outcomes, ACCURACY, "made").data] == ["qlora", "ptq"]
    # The paper's values stand next to ours.
    outcomes = runs(coa_lora={0: 0.8}, ptq={0: 0.7})
    text = markdown_of(table_of(figures_of(outcomes, ACCURACY), "SST-2"), "points")
    assert "| coa-lora | 1 | 0.570 | 0.000 | 0.570 | – | 10.0 | 0.67 / +1.74 / 52 |" in text
    assert "| ptq | 1 | 0.380 | -0.190 | 0.380 | – | 10.0 | – |" in text


def test_methods_are_compared_with_ours_over_common_seeds_and_with_their_reference() -> None:
    table = rows_of(
        qlora={0: 0.9},
        coa_lora={0: 0.8, 1: 0.9},
        rank_8={0: 0.7, 1: 0.8},
        rank_32={2: 0.8},
        integer_ptq={0: 0.7},
        integer={0: 0.8},
    )
    assert table.loc["rank-8", "less ours"] == pytest.approx(-0.2 * 4.75 / 5)
    # What all seeds share does not widen the interval of a difference.
    assert table.loc["rank-8", "less ours ±"] == pytest.approx(0, abs=1e-9)
    assert table.loc["rank-8", "hypervolume ±"] > 0.1
    assert np.isnan(table.loc["rank-32", "less ours"])
    assert table.loc["integer", "gap"] == pytest.approx(10.0)


def test_quality_is_shown_for_each_budget_with_the_bits_served() -> None:
    spare = outcome("qlora", 0.8)
    spare = replace(spare, served=tuple(replace(one, average_bits=2.25) for one in spare.served))
    table = budget_table({"qlora": [spare, outcome("qlora", 0.7, 1)], "ptq": []}, ACCURACY)
    assert table["budget"].tolist() == list(BUDGETS)
    assert table["metric"].tolist() == pytest.approx([0.75] * len(BUDGETS))
    assert table["average_bits"][0] == pytest.approx((2.25 + 2.5) / 2)
    # Student's t(0.975, 1 degree of freedom) = 12.706 (tables), std 0.0707, root of 2.
    assert "| qlora | 2 | 0.750 ± 0.635 (2.38) |" in budget_markdown(table, ACCURACY)


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder for the results of a comparison of what is recorded."""
    for module in (paper, recording):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["paper", "--recorded"])
    return tmp_path


def test_the_report_has_tables_claims_and_a_page_without_links(
    monkeypatch: pytest.MonkeyPatch, results: Path
) -> None:
    found = {
        name: [outcome(name, 0.8 + 0.01 * position, seed) for seed in range(3)]
        for position, name in enumerate(("qlora", "shared-lora", "coa-lora"))
    }
    seen = [Seen(2.5, 0.82, 0.81, 0.4, 0.4), Seen(3.0, 0.83, 0.83, 0.4, 0.4)]

    def recorded(study: Path, name: str, seed: int, recorded: bool) -> Outcome | None:
        assert recorded
        return found[name][seed] if name in found and "sst2" in study.name else None

    monkeypatch.setattr(paper, "outcome_of", recorded)
    monkeypatch.setattr(paper, "zero_shot", lambda study, seed, recorded: seen)
    paper.main()
    text = (results / "paper.md").read_text()
    assert "a share of the box from a metric of 0.5 at 7.25 bits" in text
    row = "| 0.608 ± 0.000 | 0.000 ± 0.000 | 0.608 ± 0.000 | 2.00 ± 0.00 | 10.0 ± 0.0 |"
    assert f"| coa-lora | 3 {row}" in text
    assert "Nothing is recorded yet." in text
    result = json.loads((results / "paper.json").read_text())
    assert {row["table"] for row in result["rows"]} == {
        "methods",
        "quality by budget",
        "seen less unseen",
        "machines",
    }
    (zero, _) = [claim for claim in result["claims"] if "unseen" in claim["claim"]]
    assert zero["value"] == pytest.approx(0.5)
    page = (results / "paper.html").read_text()
    assert "sst2-minilm: quality by budget" in page
    assert 'src="http' not in page
    assert "0.5000 ± 0.0000 points (3 seeds of 2 configurations)" in text


def test_a_record_that_is_refused_leaves_the_results_as_they_are(
    monkeypatch: pytest.MonkeyPatch, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(study: Path, name: str, seed: int, recorded: bool) -> None:
        if "sst2" in study.name:
            raise InputError(f"{name}-{seed}.json: recorded under another plan")

    monkeypatch.setattr(paper, "outcome_of", refused)
    with pytest.raises(SystemExit, match="1"):
        paper.main()
    assert "sst2-minilm: qlora-0.json: recorded under another plan" in capsys.readouterr().err
    assert not list(results.iterdir())


def test_the_papers_table_is_as_published() -> None:
    assert "| coa-lora | 0.62 / +4.34 / 57 |" in paper_tables.paper_markdown()
    assert "0.63 / – / 97" in paper_tables.paper_markdown()


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, method) for name, plan in PLANS.items() for method in (*METHODS, *plan.ablations)],
)
def test_every_entry_is_a_study_that_differs_from_the_plan_as_it_says(
    name: str, method: str
) -> None:
    plan = PLANS[name].study
    assert plan_digest(plan, method, 2) != plan_digest(plan, method, 1)
    spec = study_of(plan, method, 2)
    assert spec.seed == 2
    assert spec.trainer.name == ENTRIES[method].trainer
    if method not in METHODS:
        own = study_of(plan, "coa-lora", 2)
        assert spec != own.model_copy(update={"name": spec.name})
