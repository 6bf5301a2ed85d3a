"""The loop: its rounds, its failures, and how it resumes where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from qsearch.errors import InputError, QsearchError, StudyBusyError
from qsearch.monitoring.events import Event, read_events
from qsearch.plugins.components import build_components
from qsearch.plugins.registry import load_plugin
from qsearch.search.pareto import (
    normalised_hypervolume,
    reference_point,
    segment_edges,
    segment_of,
    segmented_front,
)
from qsearch.spec.study_spec import StudySpec, load_spec
from qsearch.storage.checkpoints import read_adapter
from qsearch.storage.lock import study_lock
from qsearch.storage.round_state import read_rounds
from qsearch.storage.study_record import read_study, row_configuration
from qsearch.study import recording
from qsearch.study.run import run_study
from tests.engine.support import (
    FAULTS,
    SMALL,
    Stop,
    events_of,
    in_child,
    results,
    stopping_at,
    study_spec,
)

FAILING = study_spec(**SMALL, trainer__faults=FAULTS)


# Rounds


def test_first_round_trains_on_the_initial_set(finished: Path) -> None:
    record = read_study(finished)
    assert record.rounds[0].training_set == tuple(range(6))
    first = record.trials[(record.trials["round"] == 1) & (record.trials["trial"] < 6)]
    assert set(first["method"]) == {"uniform", "allocated", "random"}
    assert first["seen"].all()


def test_each_later_round_trains_on_the_segmented_front_of_the_one_before(finished: Path) -> None:
    record = read_study(finished)
    edges = segment_edges((2.25, 6.0), 8)
    assert record.segment_edges == tuple(edges)
    rows = record.trials[record.trials["round"] == 1]
    kept = segmented_front(rows[["loss", "average_bits"]].to_numpy(), edges)
    assert record.rounds[1].training_set == tuple(rows.loc[kept, "trial"])
    assert 2 < kept.sum() < len(rows)


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
            assert again.metric == pytest.approx(row["metric"], abs=1e-10)
            assert again.standard_error == pytest.approx(row["standard_error"], abs=1e-10)


def test_average_bits_segments_and_front_agree_with_the_configurations(finished: Path) -> None:
    record = read_study(finished)
    space = build_components(load_spec(finished / "study.yaml")).space
    index = np.array([space.encode(row_configuration(row)) for _, row in record.trials.iterrows()])
    assert (space.average_bits(index) == record.trials["average_bits"]).all()
    edges = np.array(record.segment_edges)
    assert (segment_of(space.average_bits(index), edges) == record.trials["segment"]).all()
    for _, rows in record.trials.groupby("round"):
        points = rows[["loss", "average_bits"]].to_numpy()
        assert (segmented_front(points, edges) == rows["on_front"]).all()


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


def test_returned_record_is_what_the_files_say(tmp_path: Path) -> None:
    record = run_study(study_spec(search__rounds=1, search__candidates=0), tmp_path / "run")
    again = read_study(tmp_path / "run")
    assert_frame_equal(again.trials, record.trials, check_exact=True)
    assert again.rounds == record.rounds
    assert set(again.trials["method"]) == {"uniform", "allocated", "random"}


def test_tied_layers_share_their_configuration_in_every_trial(tmp_path: Path) -> None:
    record = run_study(study_spec(space__tied="fused", search__rounds=1), tmp_path / "run")
    for _, row in record.trials.iterrows():
        configuration = row_configuration(row)
        for block in (0, 1):
            fused = {configuration[f"block.{block}.{role}"] for role in ("query", "key", "value")}
            assert len(fused) == 1


def test_search_has_a_greater_hypervolume_than_random_trials(tmp_path: Path) -> None:
    """With equal numbers of evaluations."""
    volumes = {}
    for name, changes in {
        "search": {"search__initial": 8, "search__candidates": 8},
        "random": {"search__initial": 16, "search__candidates": 0},
    }.items():
        record = run_study(study_spec(search__rounds=1, **changes), tmp_path / name)
        points = record.trials[["loss", "average_bits"]].to_numpy()
        volumes[name] = normalised_hypervolume(points, (3.0, 6.0), (0.0, 2.25))
    assert volumes["search"] > volumes["random"]


def test_a_space_smaller_than_the_study_is_searched_to_its_end(tmp_path: Path) -> None:
    spec = study_spec(
        trainer__blocks=1,
        quantizer={"name": "fake", "bits": [2, 4], "group_size": [32]},
        search__initial=10,
        search__candidates=20,
        search__average_bits=[2.0, 6.0],
    )
    record = run_study(spec, tmp_path / "run")
    assert record.trials["configuration"].nunique() <= 16
    assert record.trials["trial"].nunique() == record.trials["configuration"].nunique()


def test_a_space_of_one_configuration_is_refused(tmp_path: Path) -> None:
    spec = study_spec(
        quantizer={"name": "fake", "bits": [4], "group_size": [32]}, search__average_bits=[2.0, 6.0]
    )
    with pytest.raises(InputError, match="one configuration"):
        run_study(spec, tmp_path / "run")


# Failures


def failing(*faults: dict[str, Any], **changes: Any) -> StudySpec:
    return study_spec(trainer__faults=list(faults), **changes)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("nan", "not finite: loss nan"),
        ("error", "EvaluationError: the fake trainer was asked to fail"),
    ],
)
def test_failed_configuration_keeps_its_reason_and_the_study_continues(
    kind: str, reason: str, tmp_path: Path
) -> None:
    fault = {"kind": kind, "layer": "block.0.query", "bits": 2}
    record = run_study(failing(fault), tmp_path / "run")
    trials = record.trials
    failed = trials[trials["status"] == "failed"]
    assert len(failed) > 0
    assert failed["reason"].str.startswith(reason).all()
    assert not failed["reason"].str.contains("\n").any()
    assert failed["loss"].isna().all()
    assert not failed["on_front"].any()
    for _, row in trials.iterrows():
        hit = row_configuration(row)["block.0.query"]["bits"] == 2
        assert hit == (row["status"] == "failed")
    # A failed trial is not tried again, in this round or later.
    assert failed["trial"].is_unique
    assert len(record.rounds) == 2
    assert not set(record.rounds[1].training_set) & set(failed["trial"])
    logged = events_of(tmp_path / "run", "failed")
    assert {line["trial"] for line in logged} == set(failed["trial"])
    assert all(line["reason"].startswith(reason) for line in logged)


def test_configuration_that_fails_in_a_later_round_keeps_its_earlier_rows(tmp_path: Path) -> None:
    fault = {"kind": "error", "layer": "block.0.query", "bits": 3, "first_round": 2}
    record = run_study(failing(fault, search__rounds=3), tmp_path / "run")
    failed = record.trials[record.trials["status"] == "failed"]
    earlier = failed[failed["round"] == 2].merge(
        record.trials[record.trials["round"] == 1], on="trial"
    )
    assert len(earlier) > 0
    assert (earlier["status_y"] == "completed").all()
    third = record.trials[record.trials["round"] == 3]
    assert not set(third["trial"]) & set(earlier["trial"])


def test_every_evaluation_failing_ends_the_study_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(QsearchError, match="every evaluation failed") as caught:
        run_study(failing({"kind": "error"}, failures__rate=1.0), tmp_path / "run")
    assert not isinstance(caught.value, InputError)
    assert "log.jsonl" in str(caught.value)
    trials = read_study(tmp_path / "run").trials
    assert (trials["status"] == "failed").all()


def test_every_evaluation_failing_later_keeps_the_first_round(tmp_path: Path) -> None:
    spec = failing({"kind": "nan", "first_round": 2}, failures__rate=1.0)
    with pytest.raises(QsearchError, match="round 2: every evaluation failed"):
        run_study(spec, tmp_path / "run")
    record = read_study(tmp_path / "run")
    assert len(record.rounds) == 1
    assert (record.latest["round"] == 1).all()


def test_training_that_raises_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = load_plugin("trainers", "fake")
    original = trainer.train

    def fail(self: Any, configurations: Any, round: int, progress: Any = None) -> Any:
        if round == 2:
            raise RuntimeError("out of memory")
        return original(self, configurations, round, progress)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            run_study(study_spec(**SMALL), tmp_path / "run")
    assert len(read_study(tmp_path / "run").rounds) == 1
    run_study(study_spec(**SMALL), tmp_path / "run")
    assert len(read_study(tmp_path / "run").rounds) == 2


def test_a_trainers_details_hide_nothing_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = load_plugin("trainers", "fake")
    original = trainer.train
    details = {"steps": 99.0, "kind": 1.0, "round": 7.0, "own": 5.0}

    def telling(self: Any, configurations: Any, round: int, progress: Any = None) -> Any:
        return replace(original(self, configurations, round, progress), details=details)

    monkeypatch.setattr(trainer, "train", telling)
    run_study(study_spec(**SMALL), tmp_path / "run")
    trained = events_of(tmp_path / "run", "trained")
    values = [(line["round"], line["steps"], line["own"]) for line in trained]
    assert values == [(1, 3, 5.0), (2, 3, 5.0)]


# Resuming


@pytest.mark.parametrize(
    ("error", "kind", "count"),
    [
        (KeyboardInterrupt, "training", 2),
        (KeyboardInterrupt, "evaluated", 3),
        (Stop, "evaluated", 9),
        (Stop, "failed", 1),
        (KeyboardInterrupt, "searching", 2),
        (Stop, "round finished", 1),
    ],
)
def test_study_stopped_by_an_exception_resumes_to_the_uninterrupted_result(
    error: type[BaseException],
    kind: str,
    count: int,
    uninterrupted: pd.DataFrame,
    tmp_path: Path,
) -> None:
    with pytest.raises(error):
        run_study(FAILING, tmp_path / "run", observer=stopping_at(kind, count, error))
    stopped = read_study(tmp_path / "run").trials
    assert len(stopped) < len(uninterrupted)
    run_study(FAILING, tmp_path / "run")
    assert_frame_equal(results(tmp_path / "run"), uninterrupted, check_exact=True)
    # What was trained or evaluated before is not done again, nor what failed tried again.
    done = [
        (line["event"], line["round"], line.get("trial"))
        for line in read_events(tmp_path / "run" / "log.jsonl")
        if line["event"] in ("trained", "evaluated", "failed")
    ]
    assert len(done) == len(set(done))


def test_interruption_is_logged(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_study(
            study_spec(**SMALL),
            tmp_path / "run",
            observer=stopping_at("evaluated", 1, KeyboardInterrupt),
        )
    assert read_events(tmp_path / "run" / "log.jsonl")[-1]["event"] == "interrupted"
    assert len(read_study(tmp_path / "run").trials) == 1


def test_results_can_be_read_while_a_round_is_evaluated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(recording, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(recording, "MAX_SAVING", float("inf"))
    counts: list[int] = []

    def observe(event: Event) -> None:
        if event.kind == "evaluated":
            counts.append(len(read_study(tmp_path / "run").trials))

    run_study(study_spec(**SMALL, search__rounds=1), tmp_path / "run", observer=observe)
    assert counts == list(range(len(counts)))


def test_finished_study_runs_nothing_again(finished: Path) -> None:
    before, lines = results(finished), len(read_events(finished / "log.jsonl"))
    run_study(study_spec(trainer__noise=0.002), finished)  # A default that is written out.
    assert_frame_equal(results(finished), before, check_exact=True)
    new = read_events(finished / "log.jsonl")[lines:]
    assert [line["event"] for line in new] == ["started", "finished"]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("search__rounds", 1, "search.rounds: 2 → 1"),
        ("seed", 9, "seed: 3 → 9"),
        ("trainer__noise", 0.5, "trainer.noise: 0.002 → 0.5"),
        ("quantizer__bits", [2, 4], "quantizer.bits: [2, 3, 4, 8] → [2, 4]"),
    ],
)
def test_changed_study_is_refused_and_nothing_is_lost(
    field: str, value: Any, said: str, finished: Path
) -> None:
    def files() -> dict[str, bytes]:
        kept = [path for path in finished.rglob("*") if path.is_file() and path.name != "lock"]
        return {str(path): path.read_bytes() for path in kept}

    before = files()
    with pytest.raises(InputError) as caught:
        run_study(study_spec(**{field: value}), finished)
    assert said in str(caught.value)
    assert str(finished / "study.yaml") in str(caught.value)
    assert files() == before


def test_a_start_that_measured_nothing_leaves_its_directory_to_another_study(
    uninterrupted: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise InputError("trainer.device 'cuda' cannot be used")

    with monkeypatch.context() as patch:
        patch.setattr(load_plugin("trainers", "fake"), "quantization_error", refuse)
        with pytest.raises(InputError, match="cuda"):
            run_study(study_spec(**SMALL, seed=99, name="other"), tmp_path / "run")
    run_study(FAILING, tmp_path / "run")
    assert_frame_equal(results(tmp_path / "run"), uninterrupted, check_exact=True)
    assert load_spec(tmp_path / "run" / "study.yaml").seed == FAILING.seed


def test_a_directory_belongs_to_its_study_once_errors_are_measured(tmp_path: Path) -> None:
    observer = stopping_at("measured quantization error")
    with pytest.raises(Stop):
        run_study(study_spec(**SMALL), tmp_path / "run", observer=observer)
    with pytest.raises(InputError, match="seed: 3 → 99"):
        run_study(study_spec(**SMALL, seed=99), tmp_path / "run")


def test_a_directory_whose_measurement_was_deleted_still_belongs_to_its_study(
    tmp_path: Path,
) -> None:
    with pytest.raises(Stop):
        run_study(study_spec(**SMALL), tmp_path / "run", observer=stopping_at("started"))
    (tmp_path / "run" / "state" / "quantization_error.safetensors").unlink()
    with pytest.raises(InputError, match="seed: 3 → 99"):
        run_study(study_spec(**SMALL, seed=99), tmp_path / "run")


def test_study_given_more_rounds_resumes_as_if_it_had_them_from_the_start(
    uninterrupted: pd.DataFrame, tmp_path: Path
) -> None:
    run_study(study_spec(**SMALL, trainer__faults=FAULTS, search__rounds=1), tmp_path / "run")
    run_study(FAILING, tmp_path / "run")
    assert_frame_equal(results(tmp_path / "run"), uninterrupted, check_exact=True)


def test_second_process_on_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()

    def second() -> None:
        with pytest.raises(StudyBusyError):
            run_study(study_spec(), tmp_path)

    with study_lock(tmp_path):
        assert in_child(second) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]


def test_database_elsewhere_serves_run_and_resume(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    observer = stopping_at("evaluated", 3)
    with pytest.raises(Stop):
        run_study(study_spec(**SMALL), tmp_path / "run", url, observer)
    record = run_study(study_spec(**SMALL), tmp_path / "run", url)
    assert len(record.rounds) == 2
    assert not (tmp_path / "run" / "study.db").exists()


def test_another_database_than_the_directory_was_run_with_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    record = run_study(study_spec(**SMALL), tmp_path / "run", url)
    with pytest.raises(InputError, match="has results of it; give the --storage it was run with"):
        run_study(study_spec(**SMALL), tmp_path / "run")
    assert len(read_study(tmp_path / "run").trials) == len(record.trials)


def test_two_directories_do_not_share_an_experiment(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    run_study(study_spec(**SMALL), tmp_path / "first", url)
    with pytest.raises(InputError, match="belongs to another study directory"):
        run_study(study_spec(**SMALL, seed=99), tmp_path / "second", url)


def test_directory_with_results_but_no_study_is_refused(tmp_path: Path) -> None:
    run_study(study_spec(**SMALL), tmp_path / "run")
    (tmp_path / "run" / "study.yaml").unlink()
    with pytest.raises(InputError, match=r"study\.yaml is missing, but the directory holds"):
        run_study(study_spec(**SMALL, seed=99), tmp_path / "run")


def test_round_that_failed_as_a_whole_is_tried_again(
    uninterrupted: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = load_plugin("trainers", "fake")

    def fail(*_: Any) -> Any:
        raise RuntimeError("device lost")

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "evaluate", fail)
        with pytest.raises(QsearchError, match="device lost"):
            run_study(FAILING, tmp_path / "run")
    assert (read_study(tmp_path / "run").trials["status"] == "failed").all()
    run_study(FAILING, tmp_path / "run")
    assert_frame_equal(results(tmp_path / "run"), uninterrupted, check_exact=True)


# Disks


def test_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be written"):
        run_study(study_spec(), tmp_path / "file" / "run")


def test_rounds_read_back_as_written(finished: Path) -> None:
    states = read_rounds(finished)
    assert [state.record for state in states] == list(read_study(finished).rounds)
    assert [state.trials for state in states] == [8, 10]
