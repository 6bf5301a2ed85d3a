"""What a round's search predicts losses from, in whole studies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pandas.testing import assert_frame_equal

from qsearch._arrays import Floats, Integers
from qsearch.errors import QsearchError
from qsearch.experiment import node as generation
from qsearch.plugins.components import build_components
from qsearch.plugins.evaluation import Evaluation
from qsearch.plugins.protocols import Split
from qsearch.plugins.registry import load_plugin
from qsearch.space.configuration import Configuration
from qsearch.spec.study_spec import StudySpec
from qsearch.storage.measurements import read_layer_scores, read_measurement
from qsearch.storage.study_record import read_study
from qsearch.study.run import run_study
from qsearch.surrogate.features import Features
from qsearch.surrogate.surrogate import Surrogate, fit_surrogate
from tests.engine.support import evaluations_of, results, study_spec

MEASURED = study_spec(
    trainer__blocks=1, search__initial=5, search__candidates=2, search__scores="measured"
)

Evaluate = Callable[[Any, list[Configuration], Split], list[Evaluation]]


def probes_of(spec: StudySpec) -> int:
    """One for each group, and one to compare with."""
    return len(build_components(spec).space.groups) + 1


def events(directory: Path) -> Counter[str]:
    lines = (directory / "log.jsonl").read_text().splitlines()
    return Counter(json.loads(line)["event"] for line in lines)


def test_measured_scores_cost_one_evaluation_a_group_and_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = evaluations_of(monkeypatch)
    run_study(MEASURED, tmp_path)
    record = read_study(tmp_path)
    rounds = len(record.rounds)
    assert len(seen) == len(record.trials) + rounds * probes_of(MEASURED)
    assert events(tmp_path)["measured sensitivity"] == rounds
    for round in range(rounds):
        losses = read_measurement(tmp_path, f"probes-{round}")
        assert losses is not None
        assert losses.shape == (probes_of(MEASURED),)
        assert np.isfinite(losses).all()


@pytest.mark.parametrize("scores", ["gradient", "measured"])
def test_scores_of_layers_are_kept_by_round_and_add_up_to_those_of_their_groups(
    scores: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Floats] = []
    use = generation.QsearchNode.use_scores

    def use_scores(self: Any, scores: Floats, *others: Any) -> None:
        used.append(scores)
        use(self, scores, *others)

    monkeypatch.setattr(generation.QsearchNode, "use_scores", use_scores)
    tied = [["query", "key", "value"]]
    spec = study_spec(search__scores=scores, search__initial=5, space__tied=tied)
    run_study(spec, tmp_path)
    space = build_components(spec).space
    assert len(used) == 2
    for round, of_groups in enumerate(used):
        layers = read_layer_scores(tmp_path, round, (len(space.layers), space.choices.size))
        assert layers is not None
        added = np.array([layers[list(group.members)].sum(axis=0) for group in space.groups])
        assert added == pytest.approx(of_groups, rel=1e-12)


def test_probes_are_not_evaluated_again_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, components = tmp_path / "whole", tmp_path / "parts"
    run_study(MEASURED, whole)
    with monkeypatch.context() as patch:
        evaluations_of(patch, stop_at=3)
        with pytest.raises(KeyboardInterrupt):
            run_study(MEASURED, components)
    saved = read_measurement(components, "probes-0")
    assert saved is not None
    assert np.isfinite(saved).sum() == 2
    seen = evaluations_of(monkeypatch)
    run_study(MEASURED, components)
    assert_frame_equal(results(components), results(whole), check_exact=True)
    record = read_study(components)
    assert len(seen) == len(record.trials) + len(record.rounds) * probes_of(MEASURED) - 2


def test_a_probe_that_fails_does_not_end_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = load_plugin("trainers", "fake")
    original: Evaluate = trainer.evaluate
    calls = 0

    def evaluate(self: Any, configurations: list[Configuration], split: Split) -> list[Evaluation]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("out of memory")
        return original(self, configurations, split)

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    run_study(MEASURED, tmp_path)
    losses = read_measurement(tmp_path, "probes-0")
    assert losses is not None
    assert np.isinf(losses).sum() == 1
    assert len(read_study(tmp_path).rounds) == MEASURED.search.rounds
    assert events(tmp_path)["probe failed"] == 1


def test_a_probe_that_failed_is_not_tried_again_when_the_study_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else scores would depend on whether the study was interrupted."""
    fault = {"kind": "error", "layer": "block.0.key", "bits": 3}
    flaky = MEASURED.model_copy(
        update={
            "trainer": MEASURED.trainer.model_copy(
                update={"faults": [{**fault, "once": str(tmp_path / "once")}]}
            )
        }
    )
    whole, components = tmp_path / "whole", tmp_path / "parts"
    run_study(flaky, whole)
    (tmp_path / "once").unlink()
    with monkeypatch.context() as patch:
        evaluations_of(patch, stop_at=probes_of(MEASURED) + 2)
        with pytest.raises(KeyboardInterrupt):
            run_study(flaky, components)
    run_study(flaky, components)
    assert events(components)["probe failed"] == 1
    assert_frame_equal(results(components), results(whole), check_exact=True)


def test_probes_that_all_fail_are_one_message_and_are_tried_again(tmp_path: Path) -> None:
    faults = [{"kind": "error", "once": str(tmp_path / "missing" / "once")}]
    broken = MEASURED.model_copy(
        update={"trainer": MEASURED.trainer.model_copy(update={"faults": faults})}
    )
    with pytest.raises(QsearchError, match=r"sensitivities cannot be measured.*tries again"):
        run_study(broken, tmp_path / "run")
    (tmp_path / "missing").mkdir()
    (tmp_path / "missing" / "once").touch()
    assert len(run_study(broken, tmp_path / "run").rounds) == MEASURED.search.rounds


def test_gradient_scores_are_the_default(tmp_path: Path) -> None:
    spec = study_spec(trainer__blocks=1, search__initial=5, search__candidates=2)
    run_study(spec, tmp_path)
    assert read_measurement(tmp_path, "sensitivity-1") is not None
    assert read_measurement(tmp_path, "probes-0") is None


@pytest.mark.parametrize(
    ("task", "target", "expected"),
    [("counting", "task", 4), ("counting", "examples", None), ("fake", "task", None)],
)
def test_sampling_noise_is_told_apart_where_the_task_counts_its_examples(
    task: str, target: str, expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int | None] = []

    def fit(features: Features, index: Integers, loss: Floats, examples: int | None) -> Surrogate:
        given.append(examples)
        return fit_surrogate(features, index, loss, examples)

    monkeypatch.setattr(generation, "fit_surrogate", fit)
    spec = study_spec(
        trainer__blocks=1,
        search__initial=5,
        search__candidates=2,
        search__target=target,
        task__name=task,
    )
    run_study(spec, tmp_path)
    assert set(given) == {expected}
