"""A round's candidates, in whole studies that screen them on a part of the examples."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ax.core.trial_status import TrialStatus
from pandas.testing import assert_frame_equal

from qsearch.errors import InputError, QsearchError
from qsearch.plugins.components import build_components
from qsearch.plugins.evaluation import Evaluation
from qsearch.plugins.protocols import Split
from qsearch.plugins.registry import load_plugin
from qsearch.space.configuration import Configuration
from qsearch.spec.search_spec import StopSpec
from qsearch.spec.study_spec import StudySpec
from qsearch.storage.measurements import read_measurement
from qsearch.storage.round_state import read_candidates
from qsearch.storage.study_record import read_study
from qsearch.study.checking import check_study
from qsearch.study.run import run_study
from tests.engine.support import evaluations_of, results, study_spec

SCREENED = study_spec(
    trainer__blocks=1,
    search__initial=5,
    search__candidates=2,
    search__screening={"one_in": 4, "factor": 3},
    task__name="counting",
)

EvaluatePart = Callable[[Any, list[Configuration], Split, int], list[Evaluation]]


def screened_by(
    monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None, fail: bool = False
) -> list[int]:
    """Record the parts that are evaluated; raise what no evaluation survives at the given one."""
    trainer = load_plugin("trainers", "fake")
    original: EvaluatePart = trainer.evaluate_part
    seen: list[int] = []

    def evaluate(
        self: Any, configurations: list[Configuration], split: Split, one_in: int
    ) -> list[Evaluation]:
        seen.append(one_in)
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        if fail:
            raise RuntimeError("out of memory")
        return original(self, configurations, split, one_in)

    monkeypatch.setattr(trainer, "evaluate_part", evaluate)
    return seen


@pytest.fixture(scope="module")
def screened(
    fake_plugins: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[int]]:
    """Directory of the screened study, run to its end and only read, and its parts' sizes."""
    directory = tmp_path_factory.mktemp("screened") / "run"
    with pytest.MonkeyPatch.context() as patch:
        seen = screened_by(patch)
        run_study(SCREENED, directory)
    return directory, seen


def test_candidates_are_screened_and_as_many_as_without_are_evaluated(
    screened: tuple[Path, list[int]],
) -> None:
    directory, seen = screened
    record = read_study(directory)
    assert seen == [4] * (3 * 2 * len(record.rounds))
    new = record.trials[record.trials["method"] == "search"].groupby("trial")["round"].min()
    assert new.value_counts().tolist() == [2, 2]
    for round in range(len(record.rounds)):
        losses = read_measurement(directory, f"screening-{round}")
        assert losses is not None
        assert losses.shape == (2, 6)


def test_what_is_screened_out_is_no_result(screened: tuple[Path, list[int]]) -> None:
    directory, _ = screened
    trials = read_study(directory).trials
    assert set(trials["status"]) == {"completed"}
    assert trials["loss"].max() < 0.3 + 0.5 + 4  # None has the part's offset alone.
    evaluated = set(trials["trial"])
    found = [read_candidates(path) for path in sorted(directory.glob("state/candidates-*.json"))]
    assert len(found) == 2
    for candidates in found:
        assert set(candidates.chosen) <= evaluated
        assert len(candidates.screened_out) == 4
        assert not set(candidates.screened_out) & evaluated
    assert len(evaluated) == 5 + 2 * 2


@pytest.mark.parametrize("stop_at", [1, 4, 9])
def test_an_interrupted_screening_goes_on_where_it_stopped(
    stop_at: int,
    screened: tuple[Path, list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, components = screened[0], tmp_path / "parts"
    with monkeypatch.context() as patch:
        screened_by(patch, stop_at=stop_at)
        with pytest.raises(KeyboardInterrupt):
            run_study(SCREENED, components)
    seen = screened_by(monkeypatch)
    run_study(SCREENED, components)
    assert len(seen) == 12 - (stop_at - 1)
    assert_frame_equal(results(components), results(whole), check_exact=True)


def test_an_interruption_after_screening_changes_no_candidate(
    screened: tuple[Path, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, components = screened[0], tmp_path / "parts"
    with monkeypatch.context() as patch:
        evaluations_of(patch, stop_at=7)  # The second of the first round's promoted candidates.
        with pytest.raises(KeyboardInterrupt):
            run_study(SCREENED, components)
    run_study(SCREENED, components)
    assert_frame_equal(results(components), results(whole), check_exact=True)


def test_if_no_candidate_can_be_screened_the_first_ones_are_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screened_by(monkeypatch, fail=True)
    run_study(SCREENED, tmp_path)
    record = read_study(tmp_path)
    assert (record.trials["method"] == "search").sum() >= 2 * 2
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    failed = [line for line in log if line["event"] == "screening failed"]
    assert len(failed) == 12
    assert {line["reason"] for line in failed} == {"RuntimeError: out of memory"}


@pytest.mark.parametrize(("before", "after"), [(None, 6), (6, None)])
def test_a_limit_may_change_while_candidates_are_screened(
    before: int | None, after: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limited(evaluations: int | None) -> StudySpec:
        stop = SCREENED.search.stop.model_copy(update={"evaluations": evaluations})
        search = SCREENED.search.model_copy(update={"stop": stop, "rounds": 1})
        return SCREENED.model_copy(update={"search": search})

    with monkeypatch.context() as patch:
        screened_by(patch, stop_at=3)
        with pytest.raises(KeyboardInterrupt):
            run_study(limited(before), tmp_path)
    run_study(limited(after), tmp_path)
    trials = read_study(tmp_path).trials
    assert len(trials) == (5 + 2 if after is None else after)
    losses = read_measurement(tmp_path, "screening-0")
    assert losses is not None
    assert losses.shape[1] == (6 if after is None else 3)


def test_a_lowered_limit_holds_for_candidates_that_were_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = study_spec(trainer__blocks=1, search__initial=5, search__candidates=4)
    limited = study_spec(
        trainer__blocks=1, search__initial=5, search__candidates=4, search__stop__evaluations=7
    )
    with monkeypatch.context() as patch:
        evaluations_of(patch, stop_at=6)
        with pytest.raises(KeyboardInterrupt):
            run_study(spec, tmp_path)
    run_study(limited, tmp_path)
    assert len(read_study(tmp_path).trials) == 7


def test_without_two_losses_nothing_is_screened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = screened_by(monkeypatch)
    faults = [{"kind": "nan", "layer": None, "first_round": 0}]
    spec = study_spec(
        trainer__blocks=1,
        trainer__faults=faults,
        search__initial=5,
        search__screening={},
        task__name="counting",
        failures__rate=1.0,
    )
    with pytest.raises(QsearchError, match="every evaluation failed"):
        run_study(spec, tmp_path)
    assert not seen


@pytest.mark.parametrize(
    ("task", "trainer", "said"),
    [
        ("fake", "fake", "task 'fake' does not say how many examples it has"),
        ("counting", "whole", "trainer 'whole' cannot evaluate a part of the examples"),
    ],
)
def test_plugins_that_cannot_screen_are_refused_at_once(task: str, trainer: str, said: str) -> None:
    spec = study_spec(search__screening={}, task__name=task, trainer__name=trainer)
    with pytest.raises(InputError, match=f"my.yaml: search.screening: {said}"):
        build_components(spec, "my.yaml")


def test_check_counts_what_is_screened() -> None:
    lines = dict(check_study(SCREENED, "my.yaml"))
    assert lines["rounds"] == "2, about 14 evaluations and 12 on a part of the examples"


def test_check_counts_no_screening_that_a_limit_of_evaluations_rules_out() -> None:
    """5 of the set and 2 of the search in round 1, 5 and 1 in round 2; 3 are screened for each."""
    search = SCREENED.search.model_copy(update={"stop": StopSpec(evaluations=13)})
    lines = dict(check_study(SCREENED.model_copy(update={"search": search}), "my.yaml"))
    assert lines["rounds"] == "2, about 13 evaluations and 9 on a part of the examples"


def test_check_counts_no_round_that_a_limit_of_evaluations_rules_out() -> None:
    """Two whole rounds take 14 of 15 evaluations; the one that is left makes no round."""
    limits = {"rounds": 9, "stop": StopSpec(evaluations=15), "scores": "measured"}
    search = SCREENED.search.model_copy(update=limits)
    said = dict(check_study(SCREENED.model_copy(update={"search": search}), "my.yaml"))["rounds"]
    groups = len(build_components(SCREENED, "my.yaml").space.groups)
    probes = 2 * (groups + 1)
    assert said == (
        f"2, about 14 evaluations and {probes} to measure sensitivities"
        " and 12 on a part of the examples"
    )


def test_screened_out_trials_are_abandoned_in_ax(screened: tuple[Path, list[int]]) -> None:
    with closing(sqlite3.connect(next(screened[0].glob("*.db")))) as database:
        statuses = [row[0] for row in database.execute("SELECT status FROM trial_v2")]
    assert statuses.count(TrialStatus.ABANDONED.value) == 2 * 4
    assert statuses.count(TrialStatus.COMPLETED.value) == 5 + 2 * 2
