"""What ``search`` can leave out: the elements of the search, one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qsearch.errors import InputError
from qsearch.plugins.components import build_components
from qsearch.plugins.quantizer_capabilities import storage_bits_of
from qsearch.search.pareto import non_dominated
from qsearch.space.configuration import Configuration
from qsearch.storage.study_record import StudyRecord
from qsearch.study.run import run_spec
from tests.engine.fake_study import SMALL, results, study_spec


def run(directory: Path, **changes: object) -> StudyRecord:
    return run_spec(study_spec(**SMALL | changes), directory)


def test_random_proposals_are_new_and_a_set_that_keeps_all_grows_by_them(tmp_path: Path) -> None:
    record = run(tmp_path, search__propose="random", search__keep="all")
    trials = record.trials.drop_duplicates("trial").set_index("trial")
    assert len(trials) == 5 + 2 * 2
    assert (trials["method"].loc[5:] == "random").all()
    assert trials["configuration"].is_unique
    assert trials["average_bits"].between(2.25, 6.0).all()
    assert [set(entry.training_set) for entry in record.rounds] == [{*range(5)}, {*range(7)}]


def test_a_frozen_set_stays_as_it_was(tmp_path: Path) -> None:
    record = run(tmp_path, search__keep="all", search__candidates=0)
    assert record.rounds[0].training_set == record.rounds[1].training_set


def test_without_segments_the_next_set_is_the_front(tmp_path: Path) -> None:
    record = run(tmp_path, search__keep="front")
    rows = record.trials[record.trials["round"] == 1]
    points = rows[["loss", "average_bits"]].to_numpy()
    expected = set(rows["trial"][non_dominated(points)])
    assert set(record.rounds[1].training_set) == expected


def test_local_search_can_be_left_out(finished: Path, tmp_path: Path) -> None:
    without = run_spec(study_spec(search__local_search=False), tmp_path)
    assert len(without.trials) > 6
    assert set(without.trials["configuration"]) != set(results(finished)["configuration"])


def test_average_bits_are_of_the_shapes_of_the_layers(tmp_path: Path) -> None:
    spec = study_spec(**SMALL, quantizer__name="shaped", search__average_bits=[3.0, 6.0])
    trials = run_spec(spec, tmp_path).trials.drop_duplicates("trial")
    assert set(trials["method"]) >= {"uniform", "allocated", "random"}
    assert trials["average_bits"].between(3.0, 6.0).all()
    components = build_components(spec)
    layers, quantizer = components.trainer.layers(), components.quantizer
    weights = [layer.parameters for layer in layers]
    for text, average in zip(trials["configuration"], trials["average_bits"], strict=True):
        chosen = Configuration.from_json(text)
        bits = [storage_bits_of(quantizer, layer.shape, chosen[layer.name]) for layer in layers]
        assert np.average(bits, weights=weights) == pytest.approx(average, rel=1e-12)


def test_a_budget_that_nothing_meets_is_refused_before_the_directory_is_the_studys(
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match=r"search\.initial\.uniform: "):
        run(tmp_path, search__initial={"uniform": [1.0, 3.0]})
    assert not (tmp_path / "study.yaml").exists()
