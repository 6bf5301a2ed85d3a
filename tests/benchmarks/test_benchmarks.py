"""Benchmarks run, and say what their records say."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from benchmarks import candidates, search_runs, search_tables, stand_in, unseen
from benchmarks.candidates import BATCH, problem_of, seconds_of
from benchmarks.memory import peak_memory
from benchmarks.objectives import Objective
from benchmarks.recording import Benchmark, Claim, parts_to_measure
from benchmarks.sampling_noise import fitted_to, sampling_noise_std
from benchmarks.search import PLANS
from benchmarks.search_methods import Archive, Peer, Problem, Proposals
from benchmarks.search_methods.allocation import random_peer
from benchmarks.search_runs import Losses, Run, hypervolumes, record_run
from benchmarks.searchers import qsearch_searcher
from qsearch._arrays import Floats, Integers
from qsearch.search.pareto import hypervolume
from qsearch.space.sampling import sample_configurations


@pytest.fixture(scope="module")
def made() -> tuple[Problem, Floats]:
    """A problem of six layers, and the scores behind it."""
    return problem_of(1, np.random.default_rng(0))


@pytest.fixture
def objective(
    made: tuple[Problem, Floats], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Objective:
    """A made loss on six layers, whose runs are recorded in a folder of the test."""
    monkeypatch.setattr(search_runs, "DATA", tmp_path)
    problem, scores = made
    assert problem.correlation is not None

    def loss(index: Integers) -> float:
        return float(0.3 + scores[np.arange(len(scores)), index].sum())

    warm = problem.start[np.argsort(problem.space.average_bits(problem.start))][[0, 60, 120, 180]]
    return Objective(
        name="made",
        space=problem.space,
        scores=scores,
        correlation=problem.correlation,
        examples=512,
        warm_start=warm,
        evaluate=loss,
    )


def record(objective: Objective, method: str, peer: Peer, seed: int, count: int) -> pd.DataFrame:
    losses = Losses(objective.name, objective.evaluate)
    return record_run(Run(objective.name, method, "warm", seed), peer, objective, losses, count)


@pytest.mark.parametrize(
    ("given", "parts"), [([], ["a", "b"]), (["b"], ["b"]), (["--recorded"], [])]
)
def test_a_benchmark_measures_the_parts_that_are_named_or_all(
    given: list[str], parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", *given])
    assert list(parts_to_measure(None, ["a", "b"])) == parts


def test_a_batch_of_candidates_is_timed(
    made: tuple[Problem, Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = iter((100.0, 100.0 + 3 * BATCH))
    monkeypatch.setattr(candidates, "time", SimpleNamespace(perf_counter=lambda: next(readings)))
    assert seconds_of(qsearch_searcher, *made) == 3


def test_the_stand_in_is_what_was_fitted() -> None:
    objective = stand_in.stand_in()
    index = objective.warm_start
    loss = np.array([objective.evaluate(row) for row in index])
    assert (loss > 0.28).all()
    assert (loss < 0.5).all()
    assert 0.7 < stand_in.held_out_fit()["r2"] < 1


def test_runs_are_continued_and_never_shortened(objective: Objective) -> None:
    seen: list[int] = []

    def counted(index: Integers) -> float:
        seen.append(1)
        return objective.evaluate(index)

    first = record(objective, "random", random_peer, 0, 12)
    again = record(replace(objective, evaluate=counted), "random", random_peer, 0, 20)
    assert len(seen) == 8
    assert again["loss"].tolist()[:12] == first["loss"].tolist()
    shorter = record(replace(objective, evaluate=counted), "random", random_peer, 0, 12)
    assert len(seen) == 8
    assert shorter["loss"].tolist() == first["loss"].tolist()
    parquet = search_runs.folder_of("made") / "random-warm-0.parquet"
    assert len(pd.read_parquet(parquet)) == 20

    def failing(problem: Problem, generator: np.random.Generator) -> Proposals:
        archive = Archive(problem)
        for turn, index in enumerate(
            sample_configurations(problem.space, 12, problem.bits, generator)
        ):
            if turn == 11:
                raise KeyboardInterrupt
            archive.add(index, (yield index))

    with pytest.raises(KeyboardInterrupt):
        record(objective, "random", failing, 0, 30)
    assert len(pd.read_parquet(parquet)) == 20  # It was cut short in its replay.


def test_a_mixed_start_has_uniform_configurations_within_the_bits_of_allocations(
    objective: Objective,
) -> None:
    problem = search_runs.warm_problem(objective, objective.evaluate)
    mixed = search_runs.with_mixed_start(problem, objective.evaluate)
    assert np.array_equal(mixed.start[::2], problem.start[::2])
    assert (mixed.start[1::2] == mixed.start[1::2, :1]).all()
    bits = objective.space.average_bits
    assert (bits(mixed.start[1::2]) <= bits(problem.start[1::2])).all()
    assert mixed.start_loss.tolist() == [objective.evaluate(index) for index in mixed.start]
    assert mixed.reference_point == problem.reference_point


def test_hypervolumes_are_those_of_the_points_so_far(objective: Objective) -> None:
    table = record(objective, "random", random_peer, 0, 15)
    reference = (float(table["loss"].max()) + 0.1, 7.25)
    found = hypervolumes(table, reference, 0.0)
    points = table[["loss", "average_bits"]].to_numpy()
    expected = [hypervolume(points[: n + 1], reference) for n in range(len(points))]
    assert found == pytest.approx(np.array(expected) / (reference[0] * 5.0))


def test_the_report_compares_fewer_evaluations_areas_and_allocators(objective: Objective) -> None:
    for seed in (0, 1):
        record(objective, "qsearch", qsearch_searcher, seed, 14)
        record(objective, "random", random_peer, seed, 14)
    record(objective, "allocated", random_peer, 5, 14)
    record(objective, "amq", random_peer, 0, 10)
    benchmark = Benchmark("search")
    (figure,) = search_tables.report(benchmark, objective, 14, 6)
    assert {row["method"] for row in benchmark.rows} == {"qsearch", "random", "allocated", "amq"}
    (cut,) = [row for row in benchmark.rows if row["method"] == "amq"]
    assert cut["evaluations"] == 10
    assert "after 6" in cut
    assert "after 14" not in cut
    said = [claim.claim for claim in benchmark.claims]
    assert any("hypervolume of qsearch after 6 evaluations" in claim for claim in said)
    assert any("one-sided p-value" in claim for claim in said)
    for count in (6, 14):
        assert any(
            f"{count} evaluations each: greatest excess of qsearch's loss over allocated's" in claim
            for claim in said
        )
    assert len(figure.data) == 3


def test_a_peer_whose_runs_are_not_complete_counts_with_what_it_has(objective: Objective) -> None:
    record(objective, "qsearch", qsearch_searcher, 0, 14)
    record(objective, "random", random_peer, 0, 14)
    record(objective, "amq", qsearch_searcher, 1, 12)
    benchmark = Benchmark("search")
    search_tables.report(benchmark, objective, 14, 6)
    (claim,) = [claim for claim in benchmark.claims if "best peer (amq)" in claim.claim]
    tables = search_runs.recorded_runs("made")
    box = search_runs.reference_box(objective)
    own, other = (
        hypervolumes(tables[search_runs.Run("made", method, "warm", seed)], *box)
        for method, seed in (("qsearch", 0), ("amq", 1))
    )
    assert claim.value == pytest.approx(own[5] / other[11], abs=1e-4)


@pytest.mark.parametrize(
    ("own", "others", "low"),
    [([2.0, 2.1, 2.2], [1.0, 1.2, 1.1], True), ([1.0, 1.2, 1.1], [2.0], False)],
)
def test_seeds_that_all_agree_are_no_evidence_of_chance(
    own: list[float], others: list[float], low: bool
) -> None:
    assert search_tables.p_value_above(np.array([2.0, 2.0]), np.array([1.0])) is None
    p_value = search_tables.p_value_above(np.array(own), np.array(others))
    assert p_value is not None
    assert 0 < p_value < 1
    assert (p_value < 0.05) == low


def test_sampling_noise_of_a_difference_is_less_between_similar_configurations(
    objective: Objective,
) -> None:
    generator = np.random.default_rng(0)
    index = sample_configurations(objective.space, 30, (2.25, 7.25), generator)
    noise = 0.01 * generator.standard_normal(30)
    loss = np.array([objective.evaluate(row) for row in index]) + noise

    def sampling_noise(of: Objective, first: Integers, second: Integers) -> float:
        return float(sampling_noise_std(fitted_to(of, index, loss), of.examples, first, second)[0])

    same, other = index[:1], index[1:2]
    similar = same.copy()
    similar[0, 0] = other[0, 0]
    stds = [sampling_noise(objective, same, second) for second in (same, similar, other)]
    assert stds[0] == 0
    assert 0 < stds[1] < stds[2]
    assert sampling_noise(replace(objective, examples=512 * 10**4), same, other) < 0.1 * stds[2]


def test_plans_name_methods_that_exist() -> None:
    for name, plan in PLANS.items():
        runs = plan.runs(name)
        assert len(set(runs)) == len(runs)
        assert sum(run.method == "allocated" and run.start == "warm" for run in runs) == 1


def test_a_run_chooses_the_least_loss_within_each_budget() -> None:
    bits = np.array([2.3, 7.0, 2.7, 3.4, 5.5])
    loss = np.array([0.5, 0.3, 0.4, 0.45, 0.35])
    index = np.arange(5)[:, None]
    table = pd.DataFrame({"index": list(index), "average_bits": bits, "loss": loss})
    chosen = unseen.chosen_by(table, loss)
    assert chosen.index[:, 0].tolist() == [0, 0, 2, 2, 2, 2, 2, 4]
    assert chosen.loss.tolist() == loss[chosen.index[:, 0]].tolist()


def test_unseen_losses_are_evaluated_once_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[int] = []

    class Model:
        def unseen_loss(self, index: Integers, seen_loss: float) -> float:
            evaluated.append(int(index[0]))
            return seen_loss + 1

    monkeypatch.setattr(unseen, "DATA", tmp_path)
    monkeypatch.setattr(unseen, "wide", lambda name: Model())
    (tmp_path / "made").mkdir()
    index, seen = np.array([[3, 1], [4, 1], [3, 1]]), np.array([0.3, 0.4, 0.3])
    for _ in range(2):
        losses = unseen.UnseenLosses("made", record=True)
        assert losses.of(index, seen).tolist() == [1.3, 1.4, 1.3]
    assert evaluated == [3, 4]
    recorded = unseen.UnseenLosses("made", record=False)
    assert recorded.known(index)
    assert not recorded.known(index + 1)


@pytest.mark.parametrize(
    ("value", "target", "better", "met"),
    [
        (0.99996, 1.0, "higher", False),
        (1.0, 1.0, "higher", True),
        (0.05004, 0.05, "lower", False),
        (3.0, None, "lower", None),
    ],
)
def test_claims_are_met_without_rounding(
    value: float, target: float | None, better: str, met: bool | None
) -> None:
    assert Claim("c", value, target, better).met is met  # type: ignore[arg-type]


def test_the_peak_of_a_process_is_its_own() -> None:
    held = np.ones(300 * 2**17)  # 300 MiB
    assert peak_memory([sys.executable, "-c", "pass"]) < 100
    assert peak_memory([sys.executable, "-c", "bytearray(200 * 2**20)"]) > 200
    assert held.nbytes == 300 * 2**20
    with pytest.raises(RuntimeError, match="no such thing"):
        peak_memory([sys.executable, "-c", "raise SystemExit('no such thing')"])
