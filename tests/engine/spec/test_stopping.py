"""When a study stops: by evaluations, and where the hypervolume no longer rises."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from qsearch.errors import InputError
from qsearch.spec.search_spec import SearchSpec
from qsearch.spec.stopping import out_of_time, round_shares, rounds_without_gain, stop_reason
from qsearch.spec.study_spec import load_spec
from qsearch.study.run import run_spec
from tests.engine.fake_study import SMALL, events_of, in_child, results, study_spec
from tests.engine.spec.stopping_studies import CHANGES, FIRST_ROUND, die_at, reason, run

EVALUATION = ["trial", "round", "configuration", "status", "loss"]


def limits(rounds: int = 9, candidates: int = 4, **stop: Any) -> SearchSpec:
    return SearchSpec.model_validate({"rounds": rounds, "candidates": candidates, "stop": stop})


# Rules


VOLUMES = st.lists(st.floats(0, 1), max_size=8)


@given(volumes=VOLUMES, tolerance=st.floats(0, 0.5))
def test_rounds_without_gain_are_those_after_the_last_gain(
    volumes: list[float], tolerance: float
) -> None:
    gains = [
        round
        for round in range(1, len(volumes))
        if volumes[round] - max(volumes[:round]) >= tolerance
    ]
    last = max(gains, default=0)
    assert rounds_without_gain(volumes, tolerance) == max(len(volumes) - 1 - last, 0)


@given(
    used=st.integers(0, 50),
    budget=st.none() | st.integers(2, 50),
    members=st.integers(2, 20),
    candidates=st.integers(0, 20),
)
def test_a_round_shares_what_is_left_with_the_set_first(
    used: int, budget: int | None, members: int, candidates: int
) -> None:
    search = limits(candidates=candidates, evaluations=budget)
    of_set, of_search = round_shares(search, used, members)
    left = members + candidates if budget is None else max(budget - used, 0)
    assert of_set + of_search == min(left, members + candidates)
    assert of_set == min(members, left)


@pytest.mark.parametrize(
    ("stop", "done", "expected"),
    [
        ({}, ([0.1, 0.1, 0.1], 10**6, 1e6), ""),
        ({"evaluations": 20}, ([0.1], 18, 0.0), ""),
        ({"evaluations": 20}, ([0.1], 20, 0.0), "search.stop.evaluations: 20 reached"),
        (
            {"evaluations": 20},
            ([0.1], 19, 0.0),
            "search.stop.evaluations: 1 of 20 left, a round needs 2",
        ),
        ({"hours": 1.5}, ([0.1], 9, 1.49), ""),
        ({"hours": 1.5}, ([0.1], 9, 1.5), "search.stop.hours: 1.5 reached"),
        ({"tolerance": 0.01}, ([0.1, 0.1], 9, 0.0), ""),
        (
            {"tolerance": 0.01, "patience": 1},
            ([0.1, 0.1], 9, 0.0),
            "search.stop.tolerance: successive rounds that raised the hypervolume by less than"
            " 0.01: 1",
        ),
        ({}, ([0.1] * 9, 9, 0.0), "search.rounds: 9 reached"),
        (
            {"evaluations": 20, "hours": 2},
            ([0.1], 20, 3.0),
            "search.stop.evaluations: 20 reached; search.stop.hours: 2 reached",
        ),
    ],
)
def test_every_limit_that_is_reached_is_a_reason(
    stop: dict[str, Any], done: tuple[list[float], int, float], expected: str
) -> None:
    assert stop_reason(limits(**stop), *done) == expected
    assert out_of_time(limits(**stop), done[2]) == ("search.stop.hours" in expected)


# Evaluations


@pytest.mark.parametrize(
    ("budget", "made", "rounds", "why"),
    [
        (3, 3, 1, "3 reached"),  # Part of the first set.
        (6, 6, 1, "6 reached"),  # The first set and one candidate.
        (FIRST_ROUND + 1, FIRST_ROUND, 1, "1 of 8 left, a round needs 2"),
        (FIRST_ROUND + 2, FIRST_ROUND + 2, 2, "9 reached"),  # Part of the second set.
    ],
)
def test_budget_makes_the_first_evaluations_of_the_unlimited_study(
    budget: int, made: int, rounds: int, why: str, unlimited: pd.DataFrame, tmp_path: Path
) -> None:
    record = run(tmp_path / "run", evaluations=budget)
    assert reason(tmp_path / "run") == f"search.stop.evaluations: {why}"
    assert len(record.rounds) == rounds
    assert not (tmp_path / "run" / "state" / f"adapter-{rounds + 1}.safetensors").exists()
    assert_frame_equal(record.trials[EVALUATION], unlimited[EVALUATION].head(made))
    assert record.latest["on_front"].any()
    # Failures use the budget.
    assert (unlimited.head(FIRST_ROUND)["status"] == "failed").any()


@pytest.mark.parametrize(("left", "baselines", "candidates"), [(8, 0, 0), (9, 1, 0), (10, 1, 1)])
def test_baselines_come_after_the_set_and_before_candidates(
    left: int, baselines: int, candidates: int, tmp_path: Path
) -> None:
    initial = {"uniform": [2.3, 2.5, 3.3, 3.5, 4.3, 4.5], "random": 4}
    changes = SMALL | {"search__initial": initial, "search__keep": "front"}
    spec = study_spec(**changes, search__stop={"evaluations": 12 + left})
    record = run_spec(spec, tmp_path)
    training_set = record.rounds[1].training_set
    assert len(training_set) == 8
    rows = record.latest[~record.latest["trial"].isin(training_set)]
    assert rows["method"].tolist() == ["uniform"] * baselines + ["search"] * candidates


def run_killed(directory: Path, deaths: tuple[int, ...], **stop: Any) -> None:
    """Run the small study, killed at these events of a session, and once more to its end."""
    for count in deaths:
        observer = die_at(count, ("trained", "searching", "evaluated", "round finished"))
        assert in_child(partial(run, directory, observer, **stop)) == 9
    run(directory, **stop)


def test_killed_study_stops_where_the_uninterrupted_one_does(tmp_path: Path) -> None:
    budget = FIRST_ROUND + 3
    run(tmp_path / "uninterrupted", evaluations=budget)
    run_killed(tmp_path / "killed", (2, 3, 4), evaluations=budget)
    assert reason(tmp_path / "killed") == reason(tmp_path / "uninterrupted")
    assert_frame_equal(
        results(tmp_path / "killed"), results(tmp_path / "uninterrupted"), check_exact=True
    )


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study, ended by a limit after its first round; read-only for tests."""
    directory = tmp_path_factory.mktemp("ended") / "run"
    run(directory, evaluations=FIRST_ROUND)
    return directory


@pytest.fixture
def copy(ended: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ended, tmp_path / "copy"))


def test_finished_study_does_not_continue_until_its_limit_is_raised(
    copy: Path, unlimited: pd.DataFrame
) -> None:
    assert len(run(copy, evaluations=FIRST_ROUND).trials) == FIRST_ROUND
    reasons = [event["reason"] for event in events_of(copy, "finished")]
    assert reasons == ["search.stop.evaluations: 7 reached"] * 2
    run(copy)
    assert reason(copy) == "search.rounds: 3 reached"
    assert_frame_equal(results(copy), unlimited, check_exact=True)


def test_changed_limits_are_written_and_logged(copy: Path) -> None:
    spec = study_spec(**CHANGES | {"search__rounds": 4}, search__stop={"evaluations": 3})
    run_spec(spec, copy)
    written = load_spec(copy / "study.yaml", resolved=True).search
    assert (written.rounds, written.stop.evaluations) == (4, 3)
    (event,) = events_of(copy, "limits changed")
    assert event["changed"] == ["search.rounds: 3 → 4", "search.stop.evaluations: 7 → 3"]


def test_limits_of_a_study_that_cannot_be_opened_stay(copy: Path) -> None:
    before = (copy / "study.yaml").read_bytes()
    with pytest.raises(InputError, match="--storage"):
        run_spec(study_spec(**CHANGES), copy, f"sqlite:///{copy / 'other.db'}")
    with pytest.raises(InputError, match="seed: 3 → 9") as caught:
        run_spec(study_spec(**CHANGES, seed=9), copy)
    assert "search.stop" not in str(caught.value)
    assert (copy / "study.yaml").read_bytes() == before


def test_what_a_cut_round_left_out_is_evaluated_in_the_next(tmp_path: Path) -> None:
    run(tmp_path / "run", evaluations=3)
    record = run(tmp_path / "run")
    second = record.trials[record.trials["round"] == 2]
    assert set(record.rounds[1].training_set) <= {0, 1, 2}
    assert set(second["trial"]) == {*record.rounds[1].training_set, 3, 4}
    third = record.trials[record.trials["round"] == 3]
    assert set(third["trial"]) == {*record.rounds[2].training_set, 5, 6}


# Hypervolume


def test_study_stops_after_patience_rounds_without_gain_though_it_is_killed(
    unlimited: pd.DataFrame, tmp_path: Path
) -> None:
    run_killed(tmp_path / "run", (7, 1), tolerance=1.0, patience=1)
    assert "raised the hypervolume by less than 1: 1" in reason(tmp_path / "run")
    assert_frame_equal(results(tmp_path / "run"), unlimited.query("round <= 2"), check_exact=True)
