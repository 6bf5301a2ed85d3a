"""Studies of an objective: searched to the end, one trial at a time, interrupted and resumed."""

from __future__ import annotations

import dataclasses
import gc
import math
import os
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.event import listen, remove
from sqlalchemy.orm import Session
from torch import nn

import qsearch
from qsearch.deployment.budgets import Budget
from qsearch.deployment.criteria import Criteria
from qsearch.deployment.exporting import export_configuration
from qsearch.deployment.picking import pick_configuration
from qsearch.errors import InputError, StudyBusyError
from qsearch.experiment.parameters import stored_precision
from qsearch.monitoring.events import read_events
from qsearch.monitoring.status import study_status
from qsearch.search.pareto import non_dominated, normalised_hypervolume
from qsearch.sharing.archive import archive_study, restore_archive
from qsearch.storage.paths import LOG, STUDY_YAML
from qsearch.storage.study_record import read_study
from tests.engine.api.conftest import BITS, INITIAL, OPTIONS, TRIALS, Loss
from tests.engine.fake_study import SMALL, in_child, write_study_yaml


def create(space: qsearch.Space, directory: Path, **arguments: Any) -> qsearch.Study:
    return qsearch.create_study(space, directory, **{"bits": BITS, "initial": INITIAL, **arguments})


def values(study: qsearch.Study) -> pd.DataFrame:
    """All that a study found out; not how long it took."""
    return study.trials_dataframe().drop(columns="seconds")


def test_trials_are_searched_after_a_first_set(searched: qsearch.Study) -> None:
    table = searched.trials_dataframe()
    assert list(table["trial"]) == list(range(TRIALS))
    assert set(table["method"][:INITIAL]) == {"uniform", "allocated", "random"}
    assert set(table["method"][INITIAL:]) == {"search"}
    assert table["average_bits"].between(*BITS).all()
    assert np.isfinite(table["predicted_loss"][INITIAL:]).all()


def test_losses_are_those_of_the_objective(searched: qsearch.Study, loss: Loss) -> None:
    best = searched.best()
    assert best.loss == stored_precision(loss(best.configuration))


def test_bytes_are_of_the_whole_model(searched: qsearch.Study, space: qsearch.Space) -> None:
    table = searched.trials_dataframe()
    weights = sum(layer.parameters for layer in space.layers)
    other = sum(value.nbytes for value in space.state.values()) - 4 * weights
    assert other > 0
    assert np.allclose(table["bytes"], other + table["average_bits"] * weights / 8, atol=64)


def test_the_search_improves_the_front_of_the_first_set(searched: qsearch.Study) -> None:
    table = searched.trials_dataframe()
    assert non_dominated(table[["loss", "average_bits"]].to_numpy())[INITIAL:].any()


def test_the_best_within_bits_has_the_least_loss_of_those(searched: qsearch.Study) -> None:
    table = searched.trials_dataframe()
    within = table[table["average_bits"] <= 4.5]
    assert searched.best(bits=4.5).loss == within["loss"].min()
    with pytest.raises(InputError, match=r"^bits 1: the smallest configuration takes 3\.\d+ aver"):
        searched.best(bits=1.0)


def test_the_best_within_bytes_has_the_least_loss_of_those(searched: qsearch.Study) -> None:
    table = searched.trials_dataframe()
    limit = int(table["bytes"].median())
    within = table[table["bytes"] <= limit]
    for given in (limit, np.int64(limit), f"{limit / 1000}kB"):
        best = searched.best(bytes=given)  # type: ignore[arg-type]
        assert best.loss == within["loss"].min() > searched.best().loss
        assert best.file_bytes == within["bytes"][within["loss"].idxmin()] <= limit
    with pytest.raises(InputError, match=r"^bytes 2kB: the smallest configuration takes 6\.\d+ kB"):
        searched.best(bytes="2kB")


def test_the_best_may_have_to_keep_limits_of_metrics(
    space: qsearch.Space, loss: Loss, tmp_path: Path
) -> None:
    def objective(configuration: Mapping[str, Any]) -> qsearch.Observation:
        value = loss(configuration)
        return qsearch.Observation(value, metrics={"agreement": -value})

    study = create(space, tmp_path, metrics=[qsearch.Metric("agreement", better="higher")])
    study.optimize(objective, trials=INITIAL)
    table = study.trials_dataframe()
    limit = float(table["loss"].median())
    worse, better = table[table["loss"] >= limit], table[table["loss"] <= limit]
    # Without a budget, it is the smallest that keeps them.
    assert study.best(min={"agreement": -limit}).average_bits == better["average_bits"].min()
    # With one, it is the best of those that keep them.
    found = study.best(bits=8, min={"loss": limit}, max={"agreement": 0.0})
    assert found.loss == worse["loss"].min() > table["loss"].min()
    with pytest.raises(InputError, match=r"^max f1=1: the study has no metric 'f1'; it has"):
        study.best(max={"f1": 1})


def test_bytes_that_the_study_does_not_know_are_refused(tmp_path: Path) -> None:
    file = write_study_yaml(tmp_path / "study.yaml", **SMALL, trainer__name="whole")
    study = qsearch.run_study(file, tmp_path / "run")
    assert study.best().file_bytes is None
    with pytest.raises(InputError, match=r"^bytes: .*run does not say how large .*; use bits$"):
        study.best(bytes="60MB")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 4, "bytes": 5}, "give one budget, bits or bytes, not both"),
        ({"bits": "4"}, "bits: give a number of average bits, not '4'"),
        ({"bits": [4]}, r"bits: give a number of average bits, not \[4\]"),
        ({"bits": math.nan}, "bits: give a number of average bits, not nan"),
        ({"bytes": "60 apples"}, "bytes '60 apples': give a positive number of bytes"),
        ({"bytes": -1}, "bytes '-1': give a positive number of bytes"),
        ({"max": ["loss"]}, r"max: give metrics and numbers, such as .* not \['loss'\]"),
        ({"min": {"loss": "low"}}, "min: give metrics and numbers, .* not {'loss': 'low'}"),
    ],
)
def test_bad_arguments_of_best_are_named(
    searched: qsearch.Study, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        searched.best(**arguments)


def test_a_study_of_bytes_searches_and_shows_bytes(
    space: qsearch.Space, loss: Loss, tmp_path: Path, searched: qsearch.Study
) -> None:
    ends = (searched.trials_dataframe()["bytes"].quantile(end) for end in (0.3, 0.8))
    low, high = map(int, ends)
    study = create(space, tmp_path, bits=None, bytes=(low, f"{high}B"))
    trial = study.ask()
    assert trial.file_bytes == space.file_bytes(trial.configuration)
    assert f"{trial.average_bits:.4f} average bits, {trial.file_bytes / 1000:.1f} kB" in repr(trial)
    study.tell(trial, loss(trial.configuration))
    study.close()
    study = create(space, tmp_path, bits=None, bytes=(low, high))
    study.optimize(loss, trials=INITIAL + 2)
    table = study.trials_dataframe()
    assert table["bytes"].between(low, high).all()
    front = study.front()
    on_front = non_dominated(table[["loss", "bytes"]].to_numpy())
    expected = table[on_front].sort_values("bytes")
    assert [trial.file_bytes for trial in front] == expected["bytes"].tolist()
    assert [trial.number for trial in front] == expected["trial"].tolist()
    assert study.plot_front().layout.title.text == "Loss against file size, round 1"
    assert read_study(tmp_path).size == "bytes"


def test_an_interval_of_bits_may_be_of_a_study_of_bytes(
    space: qsearch.Space, loss: Loss, tmp_path: Path, searched: qsearch.Study
) -> None:
    study = create(space, tmp_path, size="bytes")
    study.optimize(loss, trials=TRIALS)
    assert_frame_equal(values(study), values(searched))  # What is searched is the same.
    table = study.trials_dataframe()
    by_size = {}
    for size in ("average_bits", "bytes"):
        points = table[["loss", size]].to_numpy()
        worst, least = points.max(axis=0), (0.0, points[:, 1].min())
        by_size[size] = normalised_hypervolume(points, worst, least)
    assert by_size["bytes"] == pytest.approx(by_size["average_bits"], rel=1e-3)


def test_the_front_is_sorted_and_dominates_all_else(searched: qsearch.Study) -> None:
    table = searched.trials_dataframe()
    on_front = non_dominated(table[["loss", "average_bits"]].to_numpy())
    expected = table[on_front].sort_values("average_bits")["trial"].tolist()
    assert [trial.number for trial in searched.front()] == expected


def test_the_long_table_has_each_knob_of_each_layer(
    searched: qsearch.Study, space: qsearch.Space
) -> None:
    table = searched.configurations_dataframe()
    assert len(table) == TRIALS * len(space.layers) * len(OPTIONS)
    best = searched.best()
    rows = table[(table["trial"] == best.number) & (table["knob"] == "bits")]
    assert dict(zip(rows["layer"], rows["value"], strict=True)) == {
        name: layer["bits"] for name, layer in best.configuration.items()
    }


def test_the_directory_is_an_ordinary_one(searched: qsearch.Study) -> None:
    status = study_status(searched.directory)
    assert (status.completed, status.evaluations) == (TRIALS, TRIALS)
    assert status.finished == f"{TRIALS} trials"
    picked = pick_configuration(searched.directory, Budget("bits", 4.5))
    assert picked.configuration == searched.best(bits=4.5).configuration


def test_commands_that_would_train_or_export_name_the_python_way(
    searched: qsearch.Study, tmp_path: Path
) -> None:
    spec = searched.directory / STUDY_YAML
    with pytest.raises(InputError, match=r"study.yaml: trainer.name: 'objective': .*create_study"):
        qsearch.run_study(spec, searched.directory)
    with pytest.raises(InputError, match=r"mine: the loss of this study is .* qsearch.quantized"):
        export_configuration(
            searched.directory, Criteria(Budget("bits", 4.5)), tmp_path / "out", "merged"
        )
    assert not (tmp_path / "out").exists()


def test_a_study_file_runs_and_its_results_load(tmp_path: Path) -> None:
    file = write_study_yaml(tmp_path / "study.yaml", **SMALL)
    study = qsearch.run_study(str(file), str(tmp_path / "run"), overrides=["search.rounds=2"])
    assert study.name == "fake"
    table = study.trials_dataframe()
    assert set(table["round"]) == {1, 2}
    assert study.best().metrics == {"accuracy": table["accuracy"][study_row(study, table)]}
    with pytest.raises(InputError, match=r"this study trains by 'fake'; .* qsearch.run_study"):
        study.ask()


def study_row(study: qsearch.Study, table: pd.DataFrame) -> int:
    """The row of the best trial, of the last round."""
    rows = table[(table["trial"] == study.best().number) & (table["round"] == 2)]
    return int(rows.index[0])


def test_a_loaded_study_has_the_same_results(
    searched: qsearch.Study, model: nn.Module, loss: Loss
) -> None:
    loaded = qsearch.load_study(str(searched.directory))
    assert_frame_equal(loaded.trials_dataframe(), searched.trials_dataframe())
    best = loaded.best(bits=4.5)
    assert best == searched.best(bits=4.5)
    assert stored_precision(loss(best.configuration)) == best.loss  # It knows its quantizer.


def test_optimizing_further_evaluates_the_rest_alone(
    space: qsearch.Space, loss: Loss, tmp_path: Path, searched: qsearch.Study
) -> None:
    calls = []

    def counted(configuration: Mapping[str, Any]) -> float:
        calls.append(configuration)
        return loss(configuration)

    create(space, tmp_path).optimize(counted, trials=INITIAL)
    study = create(space, tmp_path)
    study.optimize(counted, trials=TRIALS)
    study.optimize(counted, trials=TRIALS)
    assert len(calls) == TRIALS
    assert_frame_equal(values(study), values(searched))


def test_a_killed_study_resumes_to_the_same_results(
    space: qsearch.Space, loss: Loss, tmp_path: Path, searched: qsearch.Study
) -> None:
    def deadly(configuration: Mapping[str, Any]) -> float:
        if len(evaluated(tmp_path)) == INITIAL + 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(configuration)

    def run() -> None:
        create(space, tmp_path).optimize(deadly, trials=TRIALS)

    assert in_child(run) == -signal.SIGKILL
    study = create(space, tmp_path)
    study.optimize(loss, trials=TRIALS)
    assert_frame_equal(values(study), values(searched))
    assert evaluated(tmp_path) == list(range(TRIALS))


def evaluated(directory: Path) -> list[int]:
    """The trials whose results a study's log has."""
    lines = read_events(directory / LOG)
    return [line["trial"] for line in lines if line.get("event") == "evaluated"]


def test_an_archive_continues_elsewhere_with_the_trial_that_waited(
    space: qsearch.Space, loss: Loss, tmp_path: Path, searched: qsearch.Study
) -> None:
    study = create(space, tmp_path / "mine")
    study.optimize(loss, trials=INITIAL + 1)
    waiting = study.ask()
    study.close()
    archive_study(tmp_path / "mine", tmp_path / "mine.zip")
    restore_archive(tmp_path / "mine.zip", tmp_path / "there" / "mine")
    restored = create(space, tmp_path / "there" / "mine")
    assert restored.ask() == waiting
    restored.optimize(loss, trials=TRIALS)
    assert_frame_equal(values(restored), values(searched))


def test_asking_and_telling_finds_what_optimize_finds(
    space: qsearch.Space, loss: Loss, tmp_path: Path, searched: qsearch.Study
) -> None:
    with create(space, tmp_path) as study:
        for _ in range(TRIALS):
            trial = study.ask()
            study.tell(trial, loss(trial.configuration))
    assert_frame_equal(values(study), values(searched))


def test_several_trials_may_wait_at_once(space: qsearch.Space, loss: Loss, tmp_path: Path) -> None:
    with create(space, tmp_path) as study:
        asked = [study.ask() for _ in range(INITIAL + 2)]
        assert len({trial.configuration for trial in asked}) == INITIAL + 2
        for trial in reversed(asked):
            study.tell(trial.number, loss(trial.configuration))
        assert study.ask().number == INITIAL + 2
        assert list(study.trials_dataframe()["trial"]) == list(range(INITIAL + 2))


def test_a_trial_that_was_never_told_is_asked_for_again(
    space: qsearch.Space, tmp_path: Path
) -> None:
    study = create(space, tmp_path)
    study.tell(study.ask(), 0.5)
    waiting = study.ask()
    study.close()
    assert create(space, tmp_path).ask() == waiting


def test_a_forgotten_study_takes_nothing_from_one_in_use(
    space: qsearch.Space, tmp_path: Path
) -> None:
    forgotten: list[Any] = [create(space, tmp_path / "a")]
    forgotten[0].ask()
    forgotten.append(forgotten)  # Only the collector frees it.
    with create(space, tmp_path / "b") as study:
        trial = study.ask()

        def collect(*_: object) -> None:
            forgotten.clear()
            gc.collect()

        listen(Session, "before_flush", collect)
        try:
            study.tell(trial, 0.5)
        finally:
            remove(Session, "before_flush", collect)
    assert create(space, tmp_path / "a").ask().number == 0
    assert create(space, tmp_path / "b").ask().number == 1


def test_a_result_that_was_not_saved_can_be_told_again(
    space: qsearch.Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = create(space, tmp_path)
    trial = study.ask()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DefaultDialect, "do_commit", interrupt)
        with pytest.raises(KeyboardInterrupt):
            study.tell(trial, 0.5)
    study.tell(trial, 0.4)
    study.close()
    again = create(space, tmp_path)
    assert again.ask().number == 1
    assert list(again.trials_dataframe()["loss"]) == [0.4]


def test_results_may_be_told_by_threads(space: qsearch.Space, tmp_path: Path) -> None:
    def tell(trial: qsearch.Trial) -> None:
        study.tell(trial, qsearch.Observation(0.5, metrics={"own": float(trial.number)}))

    with create(space, tmp_path) as study:
        asked = [study.ask() for _ in range(INITIAL)]
        with ThreadPoolExecutor(INITIAL) as threads:
            list(threads.map(tell, asked))
        table = study.trials_dataframe()
    assert list(table["own"]) == list(table["trial"]) == list(range(INITIAL))


def test_losses_may_be_negative(space: qsearch.Space, loss: Loss, tmp_path: Path) -> None:
    study = create(space, tmp_path)
    study.optimize(lambda configuration: loss(configuration) - 1, trials=INITIAL + 1)
    assert study.best().loss == study.trials_dataframe()["loss"].min() < 0


def test_results_can_be_read_while_optimize_runs(
    space: qsearch.Space, loss: Loss, tmp_path: Path
) -> None:
    known: list[int] = []
    study = create(space, tmp_path)

    def look(trial: qsearch.Trial) -> None:
        known.append(len(study.trials_dataframe()))
        assert study.best().loss is not None

    study.optimize(loss, trials=3, on_trial=look)
    assert known == [1, 2, 3]


def test_optimize_alone_asks_and_tells_while_it_runs(space: qsearch.Space, tmp_path: Path) -> None:
    study = create(space, tmp_path)
    with pytest.raises(qsearch.ObjectiveError, match=r"optimize is running; it asks, tells and"):
        study.optimize(lambda configuration: study.ask().average_bits, trials=2)


def test_an_objective_may_change_what_is_not_a_weight(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Linear(32, 32))
    space = qsearch.Space.from_model(model, "integer", OPTIONS)

    def objective(configuration: Mapping[str, Any]) -> float:
        with torch.no_grad(), qsearch.quantized(model, configuration):
            return float(model(torch.rand(4, 64)).square().mean())

    study = qsearch.create_study(space, tmp_path, bits=BITS, initial=2)
    study.optimize(objective, trials=2)
    study.optimize(objective, trials=3)
    assert len(study.trials_dataframe()) == 3


def test_the_directory_stays_where_it_is_when_the_process_moves(
    space: qsearch.Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with qsearch.create_study(space, "mine", bits=BITS) as study:
        trial = study.ask()
        monkeypatch.chdir(tmp_path / "elsewhere")
        study.tell(trial, 0.5)
    assert len(qsearch.load_study(tmp_path / "mine").trials_dataframe()) == 1


def test_a_fork_does_not_close_the_study(space: qsearch.Space, tmp_path: Path) -> None:
    with create(space, tmp_path) as study:
        trial = study.ask()
        assert in_child(study.close) == 0
        assert study_status(tmp_path).running is not None
        study.tell(trial, 0.5)


def test_a_moved_directory_keeps_its_name(space: qsearch.Space, tmp_path: Path) -> None:
    with create(space, tmp_path / "old") as study:
        study.tell(study.ask(), 0.5)
    (tmp_path / "old").rename(tmp_path / "new")
    assert create(space, tmp_path / "new").name == "old"


def test_two_studies_of_one_process_do_not_mix(
    space: qsearch.Space, loss: Loss, tmp_path: Path
) -> None:
    studies = [create(space, tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    for _ in range(INITIAL + 1):
        for study in studies:
            trial = study.ask()
            study.tell(trial, loss(trial.configuration))
    tables = [values(study) for study in studies]
    assert [len(table) for table in tables] == [INITIAL + 1] * 2
    assert not tables[0]["loss"].equals(tables[1]["loss"])
    for study, table in zip(studies, tables, strict=True):
        study.close()
        assert_frame_equal(values(qsearch.load_study(study.directory)), table)


def test_without_a_directory_nothing_is_left(space: qsearch.Space, loss: Loss) -> None:
    study = qsearch.create_study(space, bits=BITS, initial=2)
    study.optimize(loss, trials=2)
    directory = study.directory
    assert study.best().loss is not None
    del study
    assert not directory.exists()


def test_metrics_and_examples_are_kept(space: qsearch.Space, loss: Loss, tmp_path: Path) -> None:
    def objective(configuration: Mapping[str, Any]) -> qsearch.Observation:
        value = loss(configuration)
        return qsearch.Observation(value, 0.01, 256, {"accuracy": 1 - value, "speed": 3.0})

    metric = qsearch.Metric("accuracy", better="higher")
    study = create(space, tmp_path, metrics=[metric])
    study.optimize(objective, trials=INITIAL + 1)
    table = qsearch.load_study(tmp_path).trials_dataframe()
    assert table["accuracy"].to_numpy() == pytest.approx(1 - table["loss"].to_numpy())
    assert set(table["speed"]) == {3.0}
    assert set(table["standard_error"]) == {0.01}
    # With examples, the search corrects for sampling noise.
    assert np.isfinite(table["estimated_loss"]).all()
    best = study.best()
    assert best.metrics == pytest.approx({"accuracy": 1 - best.loss, "speed": 3.0})  # type: ignore[operator]
    assert best.estimated_loss == table["estimated_loss"].min()


def test_without_examples_losses_are_taken_as_they_are(searched: qsearch.Study) -> None:
    assert searched.trials_dataframe()["estimated_loss"].isna().all()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (ValueError("mine"), "trial 2: the objective raised ValueError: mine; 2 results are kept"),
        (float("nan"), "trial 2: a loss must be finite, not nan; 2 results are kept"),
        ("0.5", r"trial 2: a loss is a number, not '0.5' \(str\); 2 results are kept"),
    ],
)
def test_a_wrong_result_ends_the_call_and_loses_nothing(
    space: qsearch.Space, tmp_path: Path, result: object, message: str
) -> None:
    results = iter([0.5, 0.4, result, 0.3])

    def objective(configuration: Mapping[str, Any]) -> Any:
        value = next(results)
        if isinstance(value, Exception):
            raise value
        return value

    study = create(space, tmp_path)
    with pytest.raises(qsearch.ObjectiveError, match=message):
        study.optimize(objective, trials=3)
    assert study_status(tmp_path).last_event["event"] == "stopped"  # type: ignore[index]
    study.optimize(objective, trials=3)
    assert list(study.trials_dataframe()["loss"]) == [0.5, 0.4, 0.3]


def test_caught_exceptions_are_failures_of_their_trial(
    space: qsearch.Space, tmp_path: Path
) -> None:
    results = iter([0.5, MemoryError("full"), float("inf"), 0.3])

    def objective(configuration: Mapping[str, Any]) -> Any:
        value = next(results)
        if isinstance(value, Exception):
            raise value
        return value

    seen: list[qsearch.Trial] = []
    study = create(space, tmp_path)
    caught = (MemoryError, qsearch.ObjectiveError)
    study.optimize(objective, trials=4, catch=caught, on_trial=seen.append)
    table = study.trials_dataframe()
    assert list(table["status"]) == ["completed", "failed", "failed", "completed"]
    assert list(table["reason"][1:3]) == [
        "MemoryError: full",
        "ObjectiveError: a loss must be finite, not inf",
    ]
    assert [trial.loss for trial in seen] == [0.5, 0.3]


def test_an_interrupt_keeps_what_was_found(
    space: qsearch.Space, loss: Loss, tmp_path: Path
) -> None:
    def interrupted(configuration: Mapping[str, Any]) -> float:
        if len(evaluated(tmp_path)) == 2:
            raise KeyboardInterrupt
        return loss(configuration)

    study = create(space, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        study.optimize(interrupted, trials=4)
    assert len(study.trials_dataframe()) == 2
    assert study_status(tmp_path).last_event["event"] == "interrupted"  # type: ignore[index]


def test_a_space_that_is_used_up_ends_the_search(tmp_path: Path) -> None:
    torch.manual_seed(0)
    space = qsearch.Space.from_model(
        nn.Linear(64, 8), "integer", {"bits": [2, 4, 8], "group_size": [32]}
    )
    study = qsearch.create_study(space, tmp_path, bits=(2.0, 9.0), initial=3)
    study.optimize(lambda configuration: 0.5, trials=6)
    assert len(study.trials_dataframe()) == 3
    with pytest.raises(qsearch.QsearchError, match="no configuration is left to try"):
        study.ask()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": 3}, "objective: give a function, not 3"),
        ({"trials": 1}, "trials: give a number of trials, 2 or more, not 1"),
        ({"trials": 2.0}, "trials: give a number of trials, 2 or more, not 2.0"),
        ({"catch": ["all"]}, r"catch: give a tuple of exceptions, not \['all'\]"),
    ],
)
def test_bad_arguments_of_optimize_are_named(
    space: qsearch.Space, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        create(space, tmp_path).optimize(**{"objective": len, "trials": 2, **arguments})


def test_telling_what_was_not_asked_for_is_refused(space: qsearch.Space, tmp_path: Path) -> None:
    with create(space, tmp_path) as study:
        with pytest.raises(InputError, match="trial 0: it does not wait for a result; ask for one"):
            study.tell(0, 0.5)
        trial = study.ask()
        with pytest.raises(InputError, match=r"trial 7: .* those that do are \[0\]"):
            study.tell(7, 0.5)
        with pytest.raises(InputError, match="tell: give a trial or its number, not 'first'"):
            study.tell("first", 0.5)  # type: ignore[arg-type]
        other = dataclasses.replace(trial, configuration=space.sample(seed=9))
        with pytest.raises(InputError, match="trial 0: it has another configuration"):
            study.tell(other, 0.5)
        with pytest.raises(InputError, match="tell: give either an observation or a failure"):
            study.tell(trial)
        study.tell(trial, 0.5)
        with pytest.raises(InputError, match=r"trial 0: .* those that do are \[\]"):
            study.tell(trial, 0.5)


def test_losses_of_other_examples_are_refused(space: qsearch.Space, tmp_path: Path) -> None:
    with create(space, tmp_path) as study:
        study.tell(study.ask(), qsearch.Observation(0.5, examples=100))
        with pytest.raises(
            qsearch.ObjectiveError, match="mean over 50 examples, those before over 100"
        ):
            study.tell(study.ask(), qsearch.Observation(0.5, examples=50))


def test_a_missing_metric_is_named(space: qsearch.Space, tmp_path: Path) -> None:
    metric = qsearch.Metric("f1", better="higher")
    with (
        create(space, tmp_path, metrics=[metric]) as study,
        pytest.raises(qsearch.ObjectiveError, match=r"metrics lacks 'f1', .* it has \['acc'\]"),
    ):
        study.tell(study.ask(), qsearch.Observation(0.5, metrics={"acc": 1.0}))


def test_a_directory_in_use_is_refused(space: qsearch.Space, tmp_path: Path) -> None:
    with create(space, tmp_path) as study:
        study.ask()
        with pytest.raises(
            StudyBusyError, match=r"is being run already, by process .*; close it here"
        ):
            create(space, tmp_path).ask()


def test_another_study_is_refused_before_any_trial(
    searched: qsearch.Study, space: qsearch.Space
) -> None:
    with pytest.raises(InputError, match=r"average_bits: \[2.75, 7.0\] → \[3.0, 7.0\]"):
        create(space, searched.directory, bits=(3.0, 7.0))


def test_another_model_is_refused(searched: qsearch.Study, loss: Loss) -> None:
    torch.manual_seed(1)
    other = nn.Sequential(
        nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 32)
    )
    space = qsearch.Space.from_model(other, "integer", OPTIONS)
    study = qsearch.load_study(searched.directory, space)
    before = searched.trials_dataframe()
    with pytest.raises(InputError, match=r"has results of another model .*: model weights: "):
        study.optimize(loss, trials=TRIALS + 2)
    assert_frame_equal(searched.trials_dataframe(), before)


def test_continuing_needs_the_space(searched: qsearch.Study, loss: Loss) -> None:
    with pytest.raises(InputError, match="give load_study the space"):
        qsearch.load_study(searched.directory).optimize(loss, trials=TRIALS + 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"bits": (30, 60)},
            r"bits: give \(low, high\) within the space's 2.5 to 8.5 .*\(30",
        ),
        ({"bits": None}, r"give where to search, as bits=\(low, high\) or as bytes="),
        ({"bytes": (6000, 9000)}, r"give where to search, as bits=\(low, high\) or as bytes="),
        ({"bits": None, "bytes": 3}, r"bytes: give \(low, high\), such as .* not 3"),
        ({"bits": None, "bytes": (5, 3)}, r"bytes: give \(low, high\), such as .*5, 3\)"),
        ({"bits": None, "bytes": ("6MB", "9MB")}, r"bytes: \[6000000, 9000000\] lies outside"),
        (
            {"bits": None, "bytes": (6000, 9000), "size": "average_bits"},
            "create_study: search: .*bytes is the interval of size: bytes",
        ),
        ({"size": "megabytes"}, "create_study: search.size: .* not 'megabytes'"),
        ({"bits": 3.0}, r"bits: give \(low, high\) .* not 3.0"),
        ({"bits": (5, 3)}, r"bits: give \(low, high\) .* not \(5, 3\)"),
        ({"initial": 1}, "create_study: search.initial: .* not 1"),
        ({"seed": -1}, "create_study: seed: .* not -1"),
        ({"metrics": [qsearch.Metric("loss", "lower")]}, "metrics: a metric may not be .* 'loss'"),
        ({"metrics": [qsearch.Metric("f1", "higher")] * 2}, "metrics: a metric may .* called 'f1'"),
        ({"metrics": [qsearch.Metric("f1", "bigger")]}, "metrics: give such as .* not Metric"),  # type: ignore[arg-type]
        ({"metrics": "f1"}, "metrics: give a list of metrics, not 'f1'"),
    ],
)
def test_bad_arguments_of_create_study_are_named(
    space: qsearch.Space, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        create(space, tmp_path, **arguments)


def test_a_space_is_required(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"space: make one by qsearch.Space.from_model, not str"):
        qsearch.create_study("x", tmp_path, bits=BITS)  # type: ignore[arg-type]
