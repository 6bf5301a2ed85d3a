"""``qsearch evaluate``: picked configurations, baselines and full precision on unseen data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qsearch.deployment.selection import best_under
from qsearch.plugins.registry import load_plugin
from qsearch.storage.study_record import StudyRecord, read_study, write_study
from tests.engine.fake_study import of_objective, write_study_yaml


@pytest.fixture(scope="module")
def record(finished: Path) -> StudyRecord:
    return read_study(finished)


def evaluated(qsearch: Any, *arguments: str | Path) -> dict[str, Any]:
    code, output, errors = qsearch("evaluate", *arguments, "--json")
    assert code == 0, errors
    values: dict[str, Any] = json.loads(output)
    return values


def test_picked_ones_baselines_and_full_precision_are_evaluated(
    qsearch, finished: Path, record: StudyRecord
) -> None:
    found = evaluated(qsearch, finished, "--sweep", "2.6,4")
    picked = [int(best_under(record, bits)["trial"]) for bits in (2.6, 4)]
    uniform = record.latest[record.latest["method"] == "uniform"]
    names = [model["name"] for model in found["models"]]
    assert names[:2] == [f"trial {number}" for number in picked]
    others = set(uniform["trial"]) - set(picked)
    assert {model["trial"] for model in found["models"][2:-1]} == others
    assert names[-1] == "full precision"
    assert found["split"] == "test"


def test_the_split_is_the_one_that_was_asked_for(
    qsearch, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = load_plugin("trainers", "fake")
    original, splits = trainer.evaluate, []

    def evaluate(self: Any, configurations: Any, split: str) -> Any:
        splits.append(split)
        return original(self, configurations, split)

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    evaluated(qsearch, finished, "--bits", "4")
    assert set(splits) == {"test"}
    splits.clear()
    output = qsearch("evaluate", finished, "--bits", "4", "--split", "validation").output
    assert set(splits) == {"validation"}
    assert "the search has selected on these data; --split test evaluates on others" in output


def test_differences_are_paired_over_the_same_examples(qsearch, finished: Path) -> None:
    found = evaluated(qsearch, finished, "--bits", "4")
    losses = {model["name"]: model["loss"] for model in found["models"]}
    assert found["differences"]
    for one in found["differences"]:
        assert one["examples"] == 2
        if one["metric"] == "loss":
            expected = losses[one["model"]] - losses[one["other"]]
            assert one["difference"] == pytest.approx(expected)
            # What both examples share cancels: the fake trainer's differ by 0.2 under any model.
            assert one["standard_error"] == pytest.approx(0, abs=1e-9)
    lines = qsearch("evaluate", finished, "--bits", "4").output
    assert "differences are over the same 2 examples of the test data" in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one budget, --bits, --bytes or --memory, or a --trial; got none"),
        (["--bits", "4", "--sweep", "3,4"], "--sweep holds the budgets"),
        (["--bits", "4", "--length", "64"], "--length: task 'fake' has no option 'length'"),
        (["--trial", "99"], "the study has no trial of that number"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    qsearch, finished: Path, arguments: list[str], message: str
) -> None:
    assert message in qsearch("evaluate", finished, *arguments).refused()


def test_an_objective_is_evaluated_in_python(qsearch, record: StudyRecord, tmp_path: Path) -> None:
    write_study(tmp_path, of_objective(record))
    write_study_yaml(tmp_path / "study.yaml")
    assert (
        "the loss of this study is a Python function"
        in qsearch("evaluate", tmp_path, "--bits", "6").refused()
    )
