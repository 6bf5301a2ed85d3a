"""The loop: its rounds, its failures, and how it resumes where it stopped."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from qsearch.errors import InputError, QsearchError
from qsearch.monitoring.events import Event, read_events
from qsearch.plugins.components import build_components
from qsearch.plugins.evaluation import TrainReport
from qsearch.plugins.registry import load_plugin
from qsearch.search.pareto import (
    normalised_hypervolume,
    reference_point,
    segment_edges,
    segment_of,
    segmented_front,
)
from qsearch.spec.study_spec import load_spec
from qsearch.storage.checkpoints import read_adapter
from qsearch.storage.directory import has_results
from qsearch.storage.paths import LOG
from qsearch.storage.study_record import read_study, row_configuration
from qsearch.study import results as study_results
from qsearch.study.run import run_spec
from tests.engine.fake_study import (
    FAILING,
    FAULTS,
    SMALL,
    Stop,
    evaluations_of,
    events_of,
    results,
    stopping_at,
    study_spec,
)

# Rounds


def test_first_round_trains_on_the_initial_set(finished: Path) -> None:
    record = read_study(finished)
    assert record.rounds[0].training_set == tuple(range(6))
    first = record.trials[(record.trials["round"] == 1) & (record.trials["trial"] < 6)]
    assert set(first["method"]) == {"uniform", "allocated", "random"}
    assert first["seen"].all()


def test_each_round_evaluates_its_set_and_its_candidates(finished: Path) -> None:
    record = read_study(finished)
    for entry in record.rounds:
        rows = record.trials[record.trials["round"] == entry.round]
        candidates = [4 + 2 * entry.round, 5 + 2 * entry.round]
        assert sorted(rows["trial"]) == sorted({*entry.training_set, *candidates})
        assert set(rows.loc[rows["method"] == "search", "trial"]) >= set(candidates)


def test_a_configuration_is_seen_once_it_was_trained_on(finished: Path) -> None:
    record = read_study(finished)
    for _, row in record.trials.iterrows():
        trained = [e for e in record.rounds if e.round <= row["round"]]
        assert row["seen"] == any(row["trial"] in entry.training_set for entry in trained)


def test_no_configuration_is_evaluated_twice_in_a_round(finished: Path) -> None:
    trials = read_study(finished).trials
    assert not trials.duplicated(["round", "configuration"]).any()
    assert trials.groupby("trial")["configuration"].nunique().max() == 1


def test_losses_are_those_of_the_adapter_of_their_round(finished: Path) -> None:
    components = build_components(load_spec(finished / "study.yaml"))
    trials = read_study(finished).trials
    for round in (1, 2):
        components.trainer.load_state(read_adapter(finished, round)[0])
        for _, row in trials[trials["round"] == round].iterrows():
            (again,) = components.trainer.evaluate([row_configuration(row)], "validation")
            assert again.loss == pytest.approx(row["loss"], abs=1e-10)
            assert again.metrics["accuracy"].value == pytest.approx(row["accuracy"], abs=1e-10)
            assert again.standard_error == pytest.approx(row["standard_error"], abs=1e-10)


def test_average_bits_segments_and_front_agree_with_the_configurations(finished: Path) -> None:
    record = read_study(finished)
    space = build_components(load_spec(finished / "study.yaml")).space
    index = np.array([space.encode(row_configuration(row)) for _, row in record.trials.iterrows()])
    assert (space.average_bits(index) == record.trials["average_bits"]).all()
    edges = segment_edges((2.25, 6.0), 8)
    assert record.segment_edges == tuple(edges)
    assert (segment_of(space.average_bits(index), edges) == record.trials["segment"]).all()
    for _, rows in record.trials.groupby("round"):
        points = rows[["loss", "average_bits"]].to_numpy()
        assert (segmented_front(points, edges) == rows["on_front"]).all()


def test_each_later_round_trains_on_the_front_of_the_one_before(tmp_path: Path) -> None:
    record = run_spec(study_spec(search__initial=12, search__segments=2), tmp_path)
    rows = record.trials[record.trials["round"] == 1]
    assert record.rounds[1].training_set == tuple(rows.loc[rows["on_front"], "trial"])
    assert 2 < rows["on_front"].sum() < len(rows)


def test_each_round_evaluates_the_uniform_configurations_of_the_first_set(tmp_path: Path) -> None:
    record = run_spec(
        study_spec(
            search__initial=12, search__keep="front", search__candidates=6, search__rounds=3
        ),
        tmp_path,
    )
    first = record.trials[record.trials["round"] == 1]
    uniform = set(first.loc[first["method"] == "uniform", "trial"])
    assert len(uniform) >= 2
    assert not uniform <= set(record.rounds[-1].training_set)
    for entry in record.rounds:
        rows = record.trials[record.trials["round"] == entry.round]
        assert uniform | set(entry.training_set) <= set(rows["trial"])


def test_a_round_that_trains_nothing_evaluates_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = load_plugin("trainers", "fake")
    train = trainer.train

    def once(self: Any, configurations: Any, round: int, progress: Any = None) -> TrainReport:
        if round > 1:
            return TrainReport(0, 0.0, ())
        report: TrainReport = train(self, configurations, round, progress)
        return report

    monkeypatch.setattr(trainer, "train", once)
    evaluated = evaluations_of(monkeypatch)
    record = run_spec(study_spec(**SMALL, search__rounds=3), tmp_path)
    rows = record.trials
    assert len(rows) > rows["trial"].nunique()
    assert len(evaluated) == rows["trial"].nunique()
    columns = ["loss", "standard_error"]
    assert (rows.groupby("trial")[columns].nunique() == 1).all(axis=None)
    # What a round takes over belongs to the phase in which it evaluates its set.
    for entry in record.rounds[1:]:
        lines = [line for line in read_events(tmp_path / LOG) if line["round"] == entry.round]
        kinds = [line["event"] for line in lines]
        start, end = kinds.index("evaluating the set"), kinds.index("searching")
        of_set = [line for line in lines[start:end] if line["event"] == "evaluated"]
        assert kinds[:start].count("evaluated") == 0
        total = lines[start]["total"]
        assert [line["done"] for line in of_set] == list(range(1, total + 1))
        assert {line["total"] for line in of_set} == {total}
        assert {line["trial"] for line in of_set} >= set(entry.training_set)


def test_a_baseline_that_failed_is_not_evaluated_again(tmp_path: Path) -> None:
    faults = [{"kind": "error", "layer": "block.0.query", "bits": 3}]
    spec = study_spec(search__initial=12, trainer__faults=faults, failures__rate=1.0)
    record = run_spec(spec, tmp_path)
    failed = record.trials[record.trials["status"] == "failed"]
    assert "uniform" in set(failed["method"])
    assert failed["trial"].is_unique


def test_hypervolume_is_measured_from_the_first_rounds_reference(finished: Path) -> None:
    record = read_study(finished)
    first = record.trials[record.trials["round"] == 1]
    reference = reference_point(first["loss"].to_numpy(), (2.25, 6.0))
    assert record.reference_point == pytest.approx(reference)
    for entry in record.rounds:
        rows = record.trials[record.trials["round"] == entry.round]
        points = rows[["loss", "average_bits"]].to_numpy()
        share = normalised_hypervolume(points, reference, (0.0, 2.25))
        assert entry.hypervolume == pytest.approx(share)


def test_log_tells_the_story_in_order(finished: Path) -> None:
    kinds = [(line["event"], line["round"]) for line in read_events(finished / "log.jsonl")]
    of_a_round = ("round started", "trained", "searched", "round finished")
    story = [
        ("measured quantization error", 1),
        ("started", 1),
        *((kind, round) for round in (1, 2) for kind in of_a_round),
        ("finished", 2),
    ]
    assert [entry for entry in kinds if entry in story] == story
    assert kinds.count(("evaluated", 1)) == 8


def test_another_seed_gives_another_study(finished: Path, tmp_path: Path) -> None:
    run_spec(study_spec(seed=4, search__rounds=1), tmp_path)
    assert not set(results(tmp_path)["loss"]) & set(results(finished)["loss"])


def test_a_space_smaller_than_the_study_is_searched_to_its_end(tmp_path: Path) -> None:
    spec = study_spec(
        trainer__blocks=1,
        quantizer={"name": "fake", "bits": [2, 4], "group_size": [32]},
        search__initial=10,
        search__candidates=20,
        search__average_bits=[2.0, 6.0],
    )
    record = run_spec(spec, tmp_path / "run")
    assert record.trials["configuration"].nunique() <= 16
    assert record.trials["trial"].nunique() == record.trials["configuration"].nunique()


def test_a_space_of_one_configuration_is_refused(tmp_path: Path) -> None:
    spec = study_spec(
        quantizer={"name": "fake", "bits": [4], "group_size": [32]}, search__average_bits=[2.0, 6.0]
    )
    with pytest.raises(InputError, match="one configuration"):
        run_spec(spec, tmp_path / "run")


# Failures


def test_failed_configurations_are_logged_and_not_tried_again(faulty: Path) -> None:
    record = read_study(faulty)
    failed = record.trials[record.trials["status"] == "failed"]
    assert set(failed["round"]) == {1, 2}
    assert not failed["on_front"].any()
    assert failed["trial"].is_unique
    in_first = record.trials[record.trials["round"] == 1].set_index("trial")["status"]
    failed_in_first, failed_in_second = (failed[failed["round"] == n]["trial"] for n in (1, 2))
    assert not set(record.rounds[1].training_set) & set(failed_in_first)
    earlier = in_first[in_first.index.isin(failed_in_second)]
    assert len(earlier) > 0
    assert (earlier == "completed").all(), "a later failure leaves what is there"
    logged = [(line["trial"], line["reason"]) for line in events_of(faulty, "failed")]
    assert logged == list(zip(failed["trial"], failed["reason"], strict=True))


def test_every_evaluation_failing_ends_the_study_and_keeps_earlier_rounds(tmp_path: Path) -> None:
    fault = {"kind": "nan", "first_round": 2}
    spec = study_spec(**SMALL, trainer__faults=[fault], failures__rate=1.0)
    with pytest.raises(QsearchError, match="round 2: every evaluation failed") as caught:
        run_spec(spec, tmp_path / "run")
    assert not isinstance(caught.value, InputError)
    assert "log.jsonl" in str(caught.value)
    record = read_study(tmp_path / "run")
    assert len(record.rounds) == 1
    assert (record.latest["round"] == 1).all()


def test_a_trainers_details_hide_nothing_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = load_plugin("trainers", "fake")
    original = trainer.train
    details = {"steps": 99.0, "kind": 1.0, "round": 7.0, "own": 5.0}

    def telling(self: Any, configurations: Any, round: int, progress: Any = None) -> Any:
        return replace(original(self, configurations, round, progress), details=details)

    monkeypatch.setattr(trainer, "train", telling)
    run_spec(study_spec(**SMALL, search__rounds=1), tmp_path / "run")
    (line,) = events_of(tmp_path / "run", "trained")
    assert (line["event"], line["round"], line["steps"], line["own"]) == ("trained", 1, 3, 5.0)


# Resuming


@pytest.mark.parametrize(
    ("error", "kind", "count"), [(KeyboardInterrupt, "training", 2), (Stop, "evaluated", 9)]
)
def test_study_stopped_by_an_exception_resumes_to_the_uninterrupted_result(
    error: type[BaseException],
    kind: str,
    count: int,
    uninterrupted: pd.DataFrame,
    tmp_path: Path,
) -> None:
    with pytest.raises(error):
        run_spec(FAILING, tmp_path / "run", observer=stopping_at(kind, count, error))
    stopped = read_study(tmp_path / "run").trials
    assert len(stopped) < len(uninterrupted)
    ended = "interrupted" if error is KeyboardInterrupt else "stopped"
    assert read_events(tmp_path / "run" / "log.jsonl")[-1]["event"] == ended
    run_spec(FAILING, tmp_path / "run")
    assert_frame_equal(results(tmp_path / "run"), uninterrupted, check_exact=True)
    # What was trained or evaluated before is not done again, nor what failed tried again.
    done = [
        (line["event"], line["round"], line.get("trial"))
        for line in read_events(tmp_path / "run" / "log.jsonl")
        if line["event"] in ("trained", "evaluated", "failed")
    ]
    assert len(done) == len(set(done))


def test_results_can_be_read_while_a_round_is_evaluated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(study_results, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(study_results, "MAX_SAVING", float("inf"))
    counts: list[int] = []

    def observe(event: Event) -> None:
        if event.kind == "evaluated":
            counts.append(len(read_study(tmp_path / "run").trials))

    run_spec(study_spec(**SMALL, search__rounds=1), tmp_path / "run", observer=observe)
    assert counts == list(range(7))


def test_finished_study_runs_nothing_again(finished: Path) -> None:
    before, lines = results(finished), len(read_events(finished / "log.jsonl"))
    run_spec(study_spec(trainer__noise=0.002), finished)  # A default that is written out.
    assert_frame_equal(results(finished), before, check_exact=True)
    new = read_events(finished / "log.jsonl")[lines:]
    assert [line["event"] for line in new] == ["started", "finished"]


def test_changed_study_is_refused_and_nothing_is_lost(finished: Path) -> None:
    def files() -> dict[str, bytes]:
        kept = [path for path in finished.rglob("*") if path.is_file() and path.name != "lock"]
        return {str(path): path.read_bytes() for path in kept}

    before = files()
    with pytest.raises(InputError) as caught:
        run_spec(study_spec(quantizer__bits=[2, 4]), finished)
    assert "quantizer.bits: [2, 3, 4, 8] → [2, 4]" in str(caught.value)
    assert str(finished / "study.yaml") in str(caught.value)
    assert files() == before


def test_a_directory_belongs_to_the_study_that_has_measured_something_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise InputError("trainer.device 'cuda' cannot be used")

    with monkeypatch.context() as patch:
        patch.setattr(load_plugin("trainers", "fake"), "quantization_error", refuse)
        with pytest.raises(InputError, match="cuda"):
            run_spec(study_spec(**SMALL, seed=99, name="other"), tmp_path)
    with pytest.raises(Stop):
        run_spec(FAILING, tmp_path, observer=stopping_at("started"))
    assert load_spec(tmp_path / "study.yaml").seed == FAILING.seed
    for _ in range(2):
        with pytest.raises(InputError, match="seed: 3 → 99"):
            run_spec(study_spec(**SMALL, trainer__faults=FAULTS, seed=99), tmp_path)
        # Once it was measured, deleting it gives the directory to nobody.
        (tmp_path / "state" / "quantization_error.safetensors").unlink(missing_ok=True)


def test_a_database_elsewhere_serves_the_directory_it_was_made_with_alone(tmp_path: Path) -> None:
    url, spec = f"sqlite:///{tmp_path / 'shared.db'}", study_spec(**SMALL, search__rounds=1)
    with pytest.raises(Stop):
        run_spec(spec, tmp_path / "run", url, stopping_at("evaluated", 3))
    assert not (tmp_path / "run" / "study.db").exists()
    with pytest.raises(InputError, match="has results of it; give the --storage it was run with"):
        run_spec(spec, tmp_path / "run")
    with pytest.raises(InputError, match="belongs to another study directory"):
        run_spec(study_spec(**SMALL, seed=99), tmp_path / "second", url)
    assert not has_results(tmp_path / "second")
    assert len(run_spec(spec, tmp_path / "run", url).rounds) == 1


def test_directory_with_results_but_no_study_is_refused(finished: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    (copy / "study.yaml").unlink()
    with pytest.raises(InputError, match=r"study\.yaml is missing, but the directory holds"):
        run_spec(study_spec(seed=99), copy)
