"""Scores of examples that a study keeps, and what it lowers instead of the loss."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qsearch.api.creation import load_study
from qsearch.claims.paired_difference import paired_scores
from qsearch.deployment.selection import best_under
from qsearch.errors import DamagedFileError, EvaluationError, InputError
from qsearch.experiment.loading import read_experiment
from qsearch.experiment.url import sqlite_url
from qsearch.plugins.evaluation import ExampleScores
from qsearch.plugins.registry import load_plugin
from qsearch.search.pareto import reference_point
from qsearch.sharing.archive import archive_study, restore_archive
from qsearch.storage import example_scores
from qsearch.storage.example_scores import (
    read_example_scores,
    read_reference_scores,
    write_example_scores,
)
from qsearch.storage.paths import examples_path, reference_examples_path, reference_path
from qsearch.storage.study_record import read_study
from qsearch.study.reference import prepare_reference
from qsearch.study.run import run_spec
from tests.engine.fake_study import SMALL, Stop, events_of, results, stopping_at, study_spec

COMPARING = {
    **SMALL,
    "task": {"name": "diverging"},
    "trainer__name": "comparing",
    "search__objective": "kl",
}


@pytest.fixture(scope="module")
def comparing(fake_plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that lowers the divergence."""
    directory = tmp_path_factory.mktemp("comparing") / "run"
    run_spec(study_spec(**COMPARING), directory)
    return directory


def test_scores_of_each_evaluation_are_kept(comparing: Path) -> None:
    trials = read_study(comparing).trials
    assert len(trials) > 6
    for _, row in trials.iterrows():
        scores = read_example_scores(comparing, int(row["round"]), int(row["trial"]))
        assert np.mean(scores.losses) == pytest.approx(row["loss"], abs=1e-6)
        assert scores.metrics == {"accuracy": (0.0, 1.0)}
    first = [read_example_scores(comparing, 1, trial) for trial in (0, 1)]
    difference = paired_scores(*first).difference
    losses = trials[trials["round"] == 1].set_index("trial")["loss"]
    assert difference == pytest.approx(losses[0] - losses[1], abs=1e-6)


def test_what_was_not_kept_is_named(comparing: Path, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not kept of trial 99 in round 1"):
        read_example_scores(comparing, 1, 99)
    # The fake trainer does not say what examples score without quantization.
    with pytest.raises(InputError, match="not kept of full-precision in round 1"):
        read_example_scores(finished, 1, "full-precision")
    with pytest.raises(InputError, match="is not compared with the loaded model"):
        read_reference_scores(finished)


def test_a_damaged_file_of_scores_is_refused(comparing: Path, tmp_path: Path) -> None:
    shutil.copytree(comparing, tmp_path / "run")
    path = examples_path(tmp_path / "run", 1, "trial-0000")
    path.write_bytes(path.read_bytes()[:-3] + b"abc")
    with pytest.raises(DamagedFileError, match=r"trial-0000.safetensors: damaged: its checksum"):
        read_example_scores(tmp_path / "run", 1, 0)


def test_no_more_examples_are_kept_than_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = examples_path(tmp_path, 1, "trial-0000")
    two = ExampleScores((0.5, 1.0), (1.0, 2.0), {"kl": (0.25, 0.5)})
    write_example_scores(path, two)
    assert read_example_scores(tmp_path, 1, 0) == two
    monkeypatch.setattr(example_scores, "MAX_EXAMPLES", 1)
    # An evaluation that is repeated does not keep the scores of the one before.
    write_example_scores(path, two)
    assert not path.exists()


def test_scores_are_in_archives_and_what_they_are_compared_with_is_made_again(
    comparing: Path, tmp_path: Path
) -> None:
    archive_study(comparing, tmp_path / "study.zip")
    restore_archive(tmp_path / "study.zip", tmp_path / "run")
    assert read_example_scores(tmp_path / "run", 2, 0) == read_example_scores(comparing, 2, 0)
    assert not reference_path(tmp_path / "run", "validation").exists()
    run_spec(study_spec(**COMPARING, search__rounds=3), tmp_path / "run")
    assert reference_path(tmp_path / "run", "validation").exists()
    before, after = results(comparing), results(tmp_path / "run")
    assert after[after["round"] < 3].reset_index(drop=True).equals(before)


def test_the_reference_is_made_before_evaluations_and_reported(comparing: Path) -> None:
    assert reference_examples_path(comparing).is_file()
    assert read_reference_scores(comparing).losses == (0.25, 0.25)
    first, *_ = events_of(comparing, "measured the reference")
    assert (first["examples"], first["compared"]) == (2, 1)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (None, ("measured the reference", {"examples": 0, "compared": 0})),
        (
            EvaluationError("no memory"),
            ("reference failed", {"reason": "EvaluationError: no memory"}),
        ),
        (
            DamagedFileError("checksum"),
            ("reference failed", {"reason": "DamagedFileError: checksum"}),
        ),
    ],
    ids=["nothing is compared", "failed", "refused"],
)
def test_measuring_the_reference_ends_with_an_event(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    outcome: Exception | None,
    expected: tuple[str, dict[str, Any]],
) -> None:
    def prepare(trainer: Any, directory: Path) -> None:
        if outcome is not None:
            raise outcome

    trainer = load_plugin("trainers", "comparing")
    monkeypatch.setattr(trainer, "prepare_reference", prepare)
    events: list[tuple[str, dict[str, Any]]] = []
    study: Any = SimpleNamespace(
        directory=tmp_path,
        components=SimpleNamespace(trainer=trainer.__new__(trainer)),
        emit=lambda kind, **fields: events.append((kind, fields)),
    )
    refused = isinstance(outcome, DamagedFileError)
    with pytest.raises(DamagedFileError) if refused else nullcontext():
        prepare_reference(study)
    assert [kind for kind, _ in events] == ["measuring the reference", expected[0]]
    assert events[1][1].items() >= expected[1].items()


def test_a_stopped_study_comes_to_the_same_results(comparing: Path, tmp_path: Path) -> None:
    spec = study_spec(**COMPARING)
    with pytest.raises(Stop):
        run_spec(spec, tmp_path / "run", observer=stopping_at("evaluated", 4))
    run_spec(spec, tmp_path / "run")
    assert results(tmp_path / "run").equals(results(comparing))


def test_a_metric_as_objective_is_what_fronts_are_of(comparing: Path) -> None:
    record = read_study(comparing)
    assert record.objective == "kl"
    assert record.trials["estimated_loss"].isna().all(), "sampling noise is of losses alone"
    # The divergence rises with the bits, so that nothing dominates the fewest.
    fewest = record.latest.sort_values("average_bits").iloc[0]
    assert best_under(record, 6.0)["trial"] == fewest["trial"]
    assert record.latest.groupby("segment")["on_front"].sum().max() >= 1
    first = record.trials[record.trials["round"] == 1]["kl"].to_numpy()
    assert record.reference_point == pytest.approx(reference_point(first, (2.25, 6.0)))
    assert load_study(comparing).front()[0].number == fewest["trial"]
    experiment = read_experiment(sqlite_url(comparing / "study.db"), "fake")
    assert set(experiment.optimization_config.objective.metric_names) == {"kl", "average_bits"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search__objective": "kl"}, "search.objective: task 'fake' has no metric 'kl'"),
        ({"search__objective": "f1"}, "objective"),
        ({"search__objective": "kl", "search__target": "task"}, "objective kl, leave target out"),
    ],
)
def test_an_objective_that_cannot_be_is_refused(
    fake_plugins: None, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((InputError, ValueError), match=message):
        run_spec(study_spec(**SMALL | changes), tmp_path / "run")


def test_a_trainer_that_gives_no_such_metric_fails(fake_plugins: None, tmp_path: Path) -> None:
    spec = study_spec(**COMPARING | {"trainer__name": "fake"})
    with pytest.raises(Exception, match=r"gave no kl, which search\.objective asks for"):
        run_spec(spec, tmp_path / "run")
