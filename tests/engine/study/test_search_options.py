"""What ``search`` can leave out: the components of the method, one by one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from qsearch.errors import InputError
from qsearch.search.pareto import non_dominated
from qsearch.storage.study_record import StudyRecord, read_study
from qsearch.study.run import run_study
from tests.engine.support import evaluations_of, results, study_spec


def run(directory: Path, **changes: object) -> StudyRecord:
    run_study(study_spec(search__rounds=3, **changes), directory)
    return read_study(directory)


def test_random_proposals_are_new_random_configurations(tmp_path: Path) -> None:
    record = run(tmp_path / "run", search__propose="random", search__candidates=4)
    methods = record.trials.drop_duplicates("trial").set_index("trial")["method"]
    assert (methods.loc[6:] == "random").all()
    assert len(methods) == 6 + 3 * 4
    assert record.trials.drop_duplicates("trial")["configuration"].is_unique
    assert record.trials["average_bits"].between(2.25, 6.0).all()


def test_an_interrupted_study_draws_the_same_random_configurations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"search__propose": "random", "search__keep": "all"}
    run(tmp_path / "whole", **changes)
    with monkeypatch.context() as patched:
        evaluations_of(patched, stop_at=9)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", **changes)
    run(tmp_path / "cut", **changes)
    pd.testing.assert_frame_equal(results(tmp_path / "cut"), results(tmp_path / "whole"))


def test_a_frozen_set_stays_as_it_was(tmp_path: Path) -> None:
    record = run(tmp_path / "run", search__keep="all", search__candidates=0)
    sets = [entry.training_set for entry in record.rounds]
    assert sets == [sets[0]] * 3


def test_a_set_that_keeps_all_grows_by_the_candidates(tmp_path: Path) -> None:
    record = run(tmp_path / "run", search__keep="all", search__propose="random")
    sizes = [len(entry.training_set) for entry in record.rounds]
    assert sizes == [6, 8, 10]
    assert set(record.rounds[0].training_set) < set(record.rounds[2].training_set)


def test_without_segments_the_next_set_is_the_front(tmp_path: Path) -> None:
    record = run(tmp_path / "run", search__keep="front")
    rows = record.trials[record.trials["round"] == 1]
    points = rows[["loss", "average_bits"]].to_numpy()
    expected = set(rows["trial"][non_dominated(points)])
    assert set(record.rounds[1].training_set) == expected


def test_local_search_can_be_left_out(tmp_path: Path) -> None:
    without = run(tmp_path / "without", search__local_search=False)
    with_it = run(tmp_path / "with")
    assert len(without.trials) > 6
    found = [set(record.trials["configuration"]) for record in (without, with_it)]
    assert found[0] != found[1]


def test_a_study_resumes_with_the_options_it_began_with_alone(tmp_path: Path) -> None:
    run(tmp_path / "run")
    with pytest.raises(InputError, match=r"search\.keep"):
        run(tmp_path / "run", search__keep="all")


@pytest.mark.parametrize("field", ["uniform", "allocated"])
def test_a_budget_that_nothing_meets_is_refused_before_the_directory_is_the_studys(
    tmp_path: Path, field: str
) -> None:
    with pytest.raises(InputError, match=rf"search\.initial\.{field}: .* has 1 or fewer"):
        run(tmp_path / "run", search__initial={field: [1.0, 3.0]})
    record = run(tmp_path / "run", search__initial={field: [3.0, 4.0]})
    assert len(record.rounds) == 3
