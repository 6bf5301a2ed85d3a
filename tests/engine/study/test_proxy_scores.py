"""What a round's search predicts losses from, in whole studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qsearch._arrays import Floats, Integers
from qsearch.plugins.components import build_components
from qsearch.plugins.registry import load_plugin
from qsearch.search import searcher
from qsearch.search.allocation import allocate
from qsearch.search.layer_scores import error_scores, weighted_scores
from qsearch.storage.measurements import read_layer_scores, read_measurement
from qsearch.storage.study_record import row_configuration
from qsearch.study.run import run_spec
from qsearch.surrogate.features import Features
from qsearch.surrogate.surrogate import Surrogate, fit_surrogate
from tests.engine.fake_study import SMALL, events_of, study_spec, trains_nothing


def test_scores_of_layers_are_kept_by_round_and_add_up_to_those_of_their_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Floats] = []
    use = searcher.Searcher.use_scores

    def use_scores(self: Any, scores: Floats, *others: Any) -> None:
        used.append(scores)
        use(self, scores, *others)

    monkeypatch.setattr(searcher.Searcher, "use_scores", use_scores)
    spec = study_spec(**SMALL, space__tied=[["query", "key", "value"]])
    run_spec(spec, tmp_path)
    space = build_components(spec).space
    assert len(used) == 2
    for round, of_groups in enumerate(used, start=1):
        layers = read_layer_scores(tmp_path, round, (len(space.layers), space.choices.size))
        assert layers is not None
        added = np.array([layers[list(group.members)].sum(axis=0) for group in space.groups])
        assert added == pytest.approx(of_groups, rel=1e-12)


def test_where_nothing_is_trained_sensitivity_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trains_nothing(monkeypatch)
    run_spec(study_spec(**SMALL), tmp_path)
    first, second = (read_measurement(tmp_path, f"sensitivity-{round}") for round in (1, 2))
    assert first is not None
    assert second is not None
    assert first.tolist() == second.tolist()
    assert len(events_of(tmp_path, "measuring sensitivity")) == 1


@pytest.mark.parametrize("is_fixed", [True, False])
def test_the_first_set_is_allocated_by_sensitivities_that_are_fixed(
    is_fixed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trains_nothing(monkeypatch)
    plugin = load_plugin("trainers", "fake")
    monkeypatch.setattr(plugin, "sensitivity_is_fixed", is_fixed, raising=False)
    spec = study_spec(**SMALL | {"search__initial": 8, "search__budgets": [3.0, 4.0]})
    record = run_spec(spec, tmp_path)
    space = build_components(spec).space
    error = read_measurement(tmp_path, "quantization_error")
    sensitivity = read_measurement(tmp_path, "sensitivity-1")
    assert error is not None
    assert sensitivity is not None
    by_error, measured = error_scores(space, error), weighted_scores(space, error, sensitivity)
    first = record.trials[record.trials["round"] == 1]
    rows = first[first["method"] == "allocated"]
    found = [row_configuration(row) for _, row in rows.iterrows()]
    scores = measured if is_fixed else by_error
    assert found == [space.decode(allocate(space, scores, budget)) for budget in (3.0, 4.0)]
    assert len(events_of(tmp_path, "measuring sensitivity")) == 1


@pytest.mark.parametrize(
    ("task", "target", "expected"),
    [("counting", "task", 4), ("counting", "examples", None), ("fake", "task", None)],
)
def test_sampling_noise_is_modelled_where_the_task_counts_its_examples(
    task: str, target: str, expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int | None] = []

    def fit(features: Features, index: Integers, loss: Floats, examples: int | None) -> Surrogate:
        given.append(examples)
        return fit_surrogate(features, index, loss, examples)

    monkeypatch.setattr(searcher, "fit_surrogate", fit)
    changes = {"search__target": target, "task__name": task, "search__rounds": 1}
    run_spec(study_spec(**SMALL, **changes), tmp_path)
    assert set(given) == {expected}
