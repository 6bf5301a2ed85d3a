"""``qsearch evaluate``: picked configurations, baselines and full precision on unseen data."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qsearch.claims.claims import baselines
from qsearch.deployment.selection import best_under
from qsearch.errors import InputError
from qsearch.plugins.digests import ExamplesDigest, Inputs
from qsearch.plugins.evaluation import Evaluation, ExampleScores, MetricValue
from qsearch.plugins.harness import HarnessResults, HarnessScore
from qsearch.plugins.registry import load_plugin
from qsearch.sharing.archive import archive_study, restore_archive
from qsearch.storage.checkpoints import read_adapter, write_adapter
from qsearch.storage.study_record import (
    StudyRecord,
    read_study,
    row_configuration,
    write_study,
)
from qsearch.study.run import run_spec
from tests.engine.fake_study import (
    evaluations_of,
    of_objective,
    study_spec,
    write_study_yaml,
)


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


def test_what_limits_the_data_is_said_before_anything_is_loaded(
    qsearch, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_plugin("tasks", "fake")
    monkeypatch.setattr(task, "data_warnings", lambda _: ("few examples",), raising=False)
    assert "qsearch: few examples" in qsearch("evaluate", finished, "--bits", "4").errors

    def refuse(_: object) -> None:
        raise InputError("task.test: its texts are in task.train too")

    monkeypatch.setattr(task, "data_warnings", refuse)
    errors = qsearch("evaluate", finished, "--bits", "4").refused()
    assert "task.test: its texts are in task.train too" in errors


def test_a_picked_baseline_is_named_as_both(qsearch, finished: Path, record: StudyRecord) -> None:
    name, row = next(iter(baselines(record).items()))
    number = str(row["trial"])
    found = evaluated(qsearch, finished, "--trial", number)
    (picked, *others) = found["models"]
    assert (picked["name"], picked["baseline"]) == (f"trial {number}", name)
    assert all(model["trial"] != row["trial"] for model in others)
    for model in others:
        assert model["baseline"] == (None if model["trial"] is None else model["name"])
    lines = qsearch("evaluate", finished, "--trial", number).output.splitlines()
    both = f"trial {number}, {name} "
    assert lines[1].startswith(both)
    assert sum(line.startswith(both) for line in lines) == 1 + len(found["differences"])


def test_each_number_is_of_its_own_examples(
    qsearch, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = load_plugin("trainers", "fake")
    original = trainer.evaluate

    def compared(evaluation: Evaluation) -> Evaluation:
        """With a divergence of the first three of four examples."""
        kl = (0.1 + evaluation.loss, 0.3, 0.2, math.nan)
        losses = (evaluation.loss,) * 4
        return replace(
            evaluation,
            metrics={"kl": MetricValue(sum(kl[:3]) / 3, 0.01)},
            examples=ExampleScores(losses, (1.0,) * 4, {"kl": kl}),
        )

    monkeypatch.setattr(
        trainer, "evaluate", lambda *arguments: [compared(one) for one in original(*arguments)]
    )
    found = evaluated(qsearch, finished, "--bits", "4")
    first = found["models"][0]
    assert (first["examples"], first["metrics"]["kl"]["examples"]) == (4, 3)
    counts = {(one["metric"], one["examples"]) for one in found["differences"]}
    assert counts == {("loss", 4), ("kl", 3)}
    lines = qsearch("evaluate", finished, "--bits", "4").output.splitlines()
    assert "kl: of 3 of the 4 examples" in lines
    ends = {(line.split()[-6], line.split()[-1]) for line in lines if " to " in line}
    assert ends == {("loss", "4"), ("kl", "3")}


INPUTS = Inputs(
    {"model.safetensors": "a" * 64},
    {split: ExamplesDigest(2, split[0] * 64) for split in ("train", "validation")},
)


def of_test(**changes: str) -> Inputs:
    """The inputs of the study and its test examples, with other digests of some splits."""
    data = {split: ExamplesDigest(2, sha256) for split, sha256 in changes.items()}
    return replace(INPUTS, data={**INPUTS.data, "test": ExamplesDigest(2, "t" * 64), **data})


@pytest.fixture
def recorded(finished: Path, record: StudyRecord, tmp_path: Path) -> Path:
    """The study as one that knows its model and its examples."""
    directory = shutil.copytree(finished, tmp_path / "run")
    sessions = tuple(replace(session, inputs=INPUTS) for session in record.sessions)
    write_study(directory, replace(record, sessions=sessions))
    return directory


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            replace(INPUTS, model={"model.safetensors": "b" * 64}),
            f"model model.safetensors: {'a' * 64} → {'b' * 64}",
        ),
        (of_test(train="x" * 64), f"train examples: {'t' * 64} → {'x' * 64}"),
        (of_test(validation="x" * 64), f"validation examples: {'v' * 64} → {'x' * 64}"),
    ],
)
def test_another_model_or_other_examples_than_the_study_s_are_refused(
    qsearch, recorded: Path, monkeypatch: pytest.MonkeyPatch, inputs: Inputs, message: str
) -> None:
    trainer = load_plugin("trainers", "fake")
    monkeypatch.setattr(trainer, "inputs", inputs)
    monkeypatch.setattr(trainer, "load_state", None)  # Nothing is loaded before.
    errors = qsearch("evaluate", recorded, "--bits", "4").refused()
    assert f"{recorded} has results of another model or other examples (SHA-256): {message}" in (
        errors
    )
    assert errors.endswith("; bring back those of when the study began\n")


def test_examples_that_the_study_has_not_read_may_be_any(
    qsearch, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sha256 in ("t" * 64, "u" * 64):
        monkeypatch.setattr(load_plugin("trainers", "fake"), "inputs", of_test(test=sha256))
        assert evaluated(qsearch, recorded, "--bits", "4")["split"] == "test"


@pytest.fixture
def known(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The study, on a machine that has its model, its examples, and test examples."""
    monkeypatch.setattr(load_plugin("trainers", "fake"), "inputs", of_test())
    return recorded


def without_origin(found: dict[str, Any]) -> dict[str, Any]:
    """What was evaluated, whichever call did it."""
    models = [{**model, "kept": None} for model in found["models"]]
    return {**found, "models": models, "outdated": None}


def test_a_second_call_evaluates_only_what_is_new(
    qsearch, known: Path, record: StudyRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = evaluations_of(monkeypatch)
    first = evaluated(qsearch, known, "--bits", "4")
    assert len(seen) == len(first["models"]) - 1, "full precision is not a configuration"
    assert not any(model["kept"] for model in first["models"])
    seen.clear()
    monkeypatch.setattr(load_plugin("trainers", "fake"), "evaluate_full_precision", None)
    with monkeypatch.context() as patch:
        patch.setattr(load_plugin("trainers", "fake"), "load_state", None)
        again = evaluated(qsearch, known, "--bits", "4")
    assert seen == []
    assert all(model["kept"] for model in again["models"])
    assert without_origin(again) == without_origin(first)
    other = evaluated(qsearch, known, "--sweep", "4,3")
    assert seen == [row_configuration(best_under(record, 3))]
    assert [model["kept"] for model in other["models"]] == [True, False] + [True] * (
        len(first["models"]) - 1
    )
    lines = qsearch("evaluate", known, "--sweep", "4,3").output
    count = len(other["models"])
    folder = known / "state" / "evaluations" / "test"
    said = f"{count} of the {count} models were evaluated before; to evaluate them again, delete"
    assert f"{said} {folder}\n" in lines


def other_adapter(directory: Path, patch: pytest.MonkeyPatch) -> None:
    state, report = read_adapter(directory, 2)
    write_adapter(directory, 2, replace(state, metadata={**state.metadata, "round": 7}), report)


def other_examples(directory: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(load_plugin("trainers", "fake"), "inputs", of_test(test="u" * 64))


def other_version(directory: Path, patch: pytest.MonkeyPatch) -> None:
    path = "qsearch.deployment.kept_evaluations.find_versions"
    patch.setattr(path, lambda spec: {"torch": "0"})


def another_round(directory: Path, patch: pytest.MonkeyPatch) -> None:
    run_spec(study_spec(search__rounds=3), directory)


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        (other_adapter, ["adapter"]),
        (other_examples, ["examples"]),
        (other_version, ["versions"]),
        (another_round, ["round", "adapter"]),
    ],
)
def test_what_was_measured_from_something_else_is_measured_again(
    qsearch,
    finished: Path,
    known: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Any,
    differing: list[str],
) -> None:
    if change is another_round:  # Its sessions have recorded no examples.
        known = shutil.copytree(finished, known.parent / "copy")
    evaluated(qsearch, known, "--sweep", "4,2.6")
    change(known, monkeypatch)
    seen = evaluations_of(monkeypatch)
    found = evaluated(qsearch, known, "--bits", "4")
    assert found["outdated"] == differing
    assert not any(model["kept"] for model in found["models"])
    assert len(seen) == len(found["models"]) - 1
    # Those of before that were not measured again are gone.
    folder = known / "state" / "evaluations" / "test"
    assert len(list(folder.iterdir())) == len(found["models"])
    assert evaluated(qsearch, known, "--bits", "4")["outdated"] == []


def test_what_is_measured_again_is_said(
    qsearch, known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "evaluations of before" not in qsearch("evaluate", known, "--bits", "4").output
    other_examples(known, monkeypatch)
    other_adapter(known, monkeypatch)
    said = "evaluations of before are replaced: they differ in examples, adapter\n"
    assert said in qsearch("evaluate", known, "--bits", "4").output


def test_each_split_has_evaluations_of_its_own(qsearch, known: Path) -> None:
    evaluated(qsearch, known, "--bits", "4")
    found = evaluated(qsearch, known, "--bits", "4", "--split", "validation")
    assert not any(model["kept"] for model in found["models"])
    folders = (known / "state" / "evaluations").iterdir()
    assert {path.name for path in folders} == {"test", "validation"}


def test_a_damaged_evaluation_is_refused_with_its_remedy(qsearch, known: Path) -> None:
    evaluated(qsearch, known, "--bits", "4")
    path = known / "state" / "evaluations" / "test" / "full-precision.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    errors = qsearch("evaluate", known, "--bits", "4").refused()
    assert f"{path}: damaged: its checksum differs; delete it, then evaluate again" in errors
    path.unlink()
    models = evaluated(qsearch, known, "--bits", "4")["models"]
    assert [model["name"] for model in models if not model["kept"]] == ["full precision"]


def test_what_cannot_be_identified_or_is_too_large_is_not_kept(
    qsearch, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = load_plugin("trainers", "fake")
    for inputs in (INPUTS, replace(of_test(), model={}), of_test()):
        monkeypatch.setattr(trainer, "inputs", inputs)
        if inputs == of_test():
            path = "qsearch.storage.split_evaluations.MAX_EXAMPLES"
            monkeypatch.setattr(path, 1)
        evaluated(qsearch, recorded, "--bits", "4")
        kept = [path.name for path in (recorded / "state" / "evaluations").rglob("*.safetensors")]
        # Which examples full precision had, the fake trainer does not say.
        assert kept == ([] if inputs != of_test() else ["full-precision.safetensors"])


def test_results_are_printed_also_where_they_cannot_be_kept(
    qsearch, known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluated(qsearch, known, "--bits", "4")
    shutil.rmtree(known / "state" / "evaluations")
    (known / "state" / "evaluations").touch()
    code, output, errors = qsearch("evaluate", known, "--bits", "4", "--json")
    assert code == 0
    assert errors.count("evaluations are not kept: ") == 1
    found = json.loads(output)
    assert [model["loss"] for model in found["models"]] == [
        model["loss"] for model in expected["models"]
    ]


def test_an_archive_carries_what_was_evaluated(
    qsearch, known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluated(qsearch, known, "--bits", "4")
    archive_study(known, tmp_path / "study.zip")
    restore_archive(tmp_path / "study.zip", tmp_path / "restored")
    seen = evaluations_of(monkeypatch)
    found = evaluated(qsearch, tmp_path / "restored", "--bits", "4")
    assert without_origin(found) == without_origin(expected)
    assert seen == []


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
    assert "differences are over the same examples of the test data" in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one budget, --bits, --bytes or --memory, or a --trial; got none"),
        (["--bits", "4", "--sweep", "3,4"], "--sweep holds the budgets"),
        (["--bits", "4", "--length", "64"], "--length: task 'fake' has no option 'length'"),
        (["--trial", "99"], "the study has no trial of that number"),
        (["--bits", "4", "--limit", "3"], "--limit is for tasks of --lm-eval"),
        (["--bits", "4", "--lm-eval", "a,,b"], "--lm-eval 'a,,b': give names or paths"),
        (["--bits", "4", "--lm-eval", "a", "--split", "test"], "--lm-eval has data of its own"),
        (["--bits", "4", "--lm-eval", "a", "--length", "64"], "--lm-eval has data of its own"),
        (["--bits", "4", "--lm-eval", "a"], "--lm-eval: trainer 'fake' runs no tasks of lm_eval"),
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


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A harness of one task, whose score is the number of bits; what it was asked for."""
    asked: list[Any] = []

    def load_harness(self: Any, tasks: list[str], limit: int | None) -> Any:
        asked.append((tasks, limit))

        def run(configuration: Any) -> HarnessResults:
            asked.append(configuration)
            error = None if configuration is None else 0.25
            score = HarnessScore("words", "acc", float(len(asked)), error)
            return HarnessResults((score,), {"versions": {"words": 3.0}})

        return run

    monkeypatch.setattr(
        load_plugin("trainers", "fake"), "load_harness", load_harness, raising=False
    )
    return asked


def test_tasks_run_on_each_picked_configuration_and_the_loaded_model(
    qsearch, finished: Path, record: StudyRecord, harness: list[Any]
) -> None:
    # Two of the budgets pick the same configuration, which runs once.
    found = evaluated(
        qsearch, finished, "--sweep", "2.6,4,4.001", "--lm-eval", "a, b/c.yaml", "--limit", "3"
    )
    picked = [best_under(record, bits) for bits in (2.6, 4)]
    assert harness[0] == (["a", "b/c.yaml"], 3)
    assert harness[1:] == [*map(row_configuration, picked), None]
    assert [model["trial"] for model in found["models"]] == [
        *(int(row["trial"]) for row in picked),
        None,
    ]
    assert found["models"][0] == {
        "name": f"trial {picked[0]['trial']}",
        "trial": picked[0]["trial"],
        "average_bits": picked[0]["average_bits"],
        "file_bytes": picked[0]["bytes"],
        "scores": [{"task": "words", "metric": "acc", "value": 2.0, "standard_error": 0.25}],
        "harness": {"versions": {"words": 3.0}},
    }
    assert found["limit"] == 3


def test_scores_are_a_table(qsearch, finished: Path, harness: list[Any]) -> None:
    lines = qsearch(
        "evaluate", finished, "--bits", "4", "--lm-eval", "a", "--limit", "3"
    ).output.splitlines()
    assert lines[0].split() == ["task", "metric", "value", "model", "bits"]
    assert lines[1].split()[:6] == ["words", "acc", "2.0000", "±", "0.2500", "trial"]
    assert lines[2].split() == ["words", "acc", "3.0000", "loaded", "model"]
    assert lines[-1] == "of the first 3 examples of each task"


def test_no_tasks_run_on_another_model_whatever_the_data(
    qsearch, recorded: Path, harness: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = load_plugin("trainers", "fake")
    arguments = ("evaluate", recorded, "--bits", "4", "--lm-eval", "a")
    monkeypatch.setattr(trainer, "inputs", of_test(train="x" * 64))
    assert qsearch(*arguments).code == 0
    harness.clear()
    monkeypatch.setattr(trainer, "inputs", replace(INPUTS, model={"model.safetensors": "b" * 64}))
    code, _, errors = qsearch(*arguments)
    assert code == 2
    assert "has results of another model or other examples" in errors
    assert len(harness) == 1, "a task ran"


def test_no_state_is_loaded_before_the_tasks_are(
    qsearch, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, tasks: list[str], limit: int | None) -> Any:
        raise InputError("there is no such task")

    trainer = load_plugin("trainers", "fake")
    monkeypatch.setattr(trainer, "load_harness", refuse, raising=False)
    monkeypatch.delattr("qsearch.deployment.harness.load_last_state")
    code, _, errors = qsearch("evaluate", finished, "--bits", "4", "--lm-eval", "a")
    assert code == 2
    assert errors.splitlines() == ["loading tasks: a", "qsearch: there is no such task"]
