"""The unquantized model that evaluations are compared with: what it is, and where it is kept."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from qsearch_coalora.adapter.adapted_model import AdaptedModel
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.methods.qlora import QLoRATrainer
from qsearch_coalora.methods.shared_lora import SharedLoRATrainer
from qsearch_coalora.tasks.workload import task_workload
from qsearch_coalora.training.reference import require_room

from qsearch.claims.paired_difference import paired_scores
from qsearch.deployment.selection import best_under
from qsearch.errors import DamagedFileError, InputError
from qsearch.plugins.protocols import Scores
from qsearch.spec.study_spec import StudySpec
from qsearch.storage.example_scores import read_example_scores, read_reference_scores
from qsearch.storage.mapped_arrays import read_mapped
from qsearch.storage.paths import reference_path
from qsearch.study.run import run_spec
from tests.coalora.conftest import save_llama
from tests.coalora.training.test_full_precision import Exact, uniform

COMPARED = {"perplexity", "kl", "kl_p99", "same_top"}


@pytest.fixture
def make(make_trainer: Any, make_causal_task: Any, llama_folder: Path) -> Callable[..., Any]:
    """Return a maker of trainers of a language model."""

    def trainer(method: Any = PTQTrainer, model: Path = llama_folder, **options: Any) -> Any:
        task = make_causal_task(validation_tokens=24 * 20)
        if method is PTQTrainer:
            options = {"fine_tune": False} | options
        return make_trainer(method=method, task=task, model=model, eval_batch_size=8, **options)

    return trainer


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "run" / "state").mkdir(parents=True)
    return tmp_path / "run"


def test_a_model_that_loses_nothing_does_not_diverge(make: Any) -> None:
    trainer = make(plugin=Exact())
    trainer.train([uniform(trainer)], 1)
    (same,) = trainer.evaluate([uniform(trainer)], "validation")
    assert set(same.metrics) == COMPARED
    assert same.metrics["kl"].value == pytest.approx(0.0, abs=1e-6)
    assert same.metrics["same_top"].value == 1.0


def test_divergence_is_of_the_loaded_model_whatever_is_trained(
    make: Any, make_configuration: Any
) -> None:
    trainer = make(SharedLoRATrainer, learning_rate=1e-2)
    chosen = make_configuration(trainer, 0)
    adapted, batches = trainer.study.adapted, [*trainer.study.task.batches("validation", 8)]
    with torch.no_grad(), adapted.base_model():
        logits = [adapted.logits(batch) for batch in batches]
    trainer.train([chosen], 1)
    (actual,) = trainer.evaluate([chosen], "validation")
    expected = []
    trainer.place(chosen)
    with torch.no_grad():
        for reference, batch in zip(
            logits, trainer.study.task.batches("validation", 8), strict=True
        ):
            p = reference[:, :-1].double().log_softmax(-1)
            q = trainer.study.adapted.logits(batch)[:, :-1].double().log_softmax(-1)
            expected.append((p.exp() * (p - q)).sum(-1))
    tokens = torch.cat(expected).flatten()
    assert actual.metrics["kl"].value == pytest.approx(tokens.mean().item(), rel=1e-3)
    assert actual.metrics["kl_p99"].value == pytest.approx(
        tokens.quantile(0.99, interpolation="higher").item(), rel=1e-2
    )
    assert actual.metrics["kl"].value > 1e-4
    # Full precision has the adapter, so it diverges too.
    assert trainer.evaluate_full_precision("validation").metrics["kl"].value > 1e-6


def test_what_is_kept_is_read_again_not_made_again(
    make: Any, directory: Path, monkeypatch: pytest.MonkeyPatch, make_configuration: Any
) -> None:
    first = make()
    made = first.prepare_reference(directory)
    assert (made.compared, len(made.examples.losses)) == (20, 20)
    chosen = make_configuration(first, 0)
    (expected,) = first.evaluate([chosen], "validation")
    monkeypatch.setattr(AdaptedModel, "base_model", None)
    second = make()
    assert second.prepare_reference(directory) == made
    (again,) = second.evaluate([chosen], "validation")
    assert (again.metrics, again.examples) == (expected.metrics, expected.examples)


def test_without_a_directory_it_is_made_at_the_first_evaluation(
    make: Any, make_configuration: Any
) -> None:
    trainer = make()
    (own,) = trainer.evaluate([make_configuration(trainer, 0)], "validation")
    assert set(own.metrics) == COMPARED
    assert set(own.examples.metrics) == {"kl", "same_top"}


def test_a_damaged_file_or_one_of_another_model_is_refused(
    make: Any, directory: Path, tmp_path: Path
) -> None:
    make().prepare_reference(directory)
    path = reference_path(directory, "validation")
    shutil.copy(path, tmp_path / "kept")
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="its checksum differs; delete it, then run"):
        make().prepare_reference(directory)
    shutil.copy(tmp_path / "kept", path)
    (tmp_path / "other").mkdir()
    other = save_llama(tmp_path / "other", 40)
    with pytest.raises(DamagedFileError, match="differs from this study in model; delete it"):
        make(model=other).prepare_reference(directory)
    path.unlink()
    make(model=other).prepare_reference(directory)


def test_it_is_kept_of_as_many_examples_as_fit(
    make: Any, directory: Path, make_configuration: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(reference_mebibytes=1)
    # A sequence takes 23 tokens of 63 log-probabilities and numbers, and their rests.
    room = 5 * 23 * (63 * 8 + 4) + 100
    monkeypatch.setattr("qsearch_coalora.training.reference.MEBIBYTE", room)
    monkeypatch.setattr("qsearch_coalora.tasks.causal_lm.TOKEN_BYTES", 63 * 8 + 4)
    scores = trainer.prepare_reference(directory)
    assert (scores.compared, len(scores.examples.losses)) == (5, 20)
    (evaluation,) = trainer.evaluate([make_configuration(trainer, 0)], "validation")
    kl = evaluation.examples.metrics["kl"]
    assert [math.isnan(value) for value in kl] == [False] * 5 + [True] * 15
    assert evaluation.metrics["kl"].value == pytest.approx(sum(kl[:5]) / 5, rel=1e-5)
    _, arrays = read_mapped(reference_path(directory, "validation"))
    assert arrays["reference.tokens"].shape == (5, 23, 63)


def test_no_room_for_one_sequence_is_refused_before_anything_is_loaded(
    make_trainer: Any, make_causal_task: Any
) -> None:
    # 512 logarithms and numbers, and the rest: 4,100 bytes of each of 511 tokens.
    refused = make_trainer(task=make_causal_task(length=512), model="none", reference_mebibytes=1)
    message = (
        r"trainer\.reference_mebibytes 1 does not hold .* one example \(task\.length 512\);"
        " give at least 2, or 0 to compare with no model"
    )
    with pytest.raises(InputError, match=message):
        refused.requirements()
    with pytest.raises(InputError, match=message):
        _ = refused.study.loaded


@pytest.mark.parametrize("limit", [0, 2])
def test_room_for_one_sequence_or_none_is_accepted(
    make_trainer: Any, make_causal_task: Any, limit: int
) -> None:
    task = make_causal_task(length=512)
    require_room(make_trainer(task=task, reference_mebibytes=limit).study, task_workload(task))


def test_a_task_that_does_not_say_what_it_keeps_is_refused_when_it_does_not_fit(
    make: Any, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(reference_mebibytes=1)
    monkeypatch.setattr("qsearch_coalora.tasks.causal_lm.TOKEN_BYTES", 0)
    monkeypatch.setattr("qsearch_coalora.training.reference.MEBIBYTE", 2**12)
    with pytest.raises(InputError, match=r"reference_mebibytes 1 does not hold .* at least 3, or"):
        trainer.prepare_reference(directory)
    assert list((directory / "state").iterdir()) == []


def test_without_room_nothing_is_compared(make: Any, directory: Path) -> None:
    trainer = make(reference_mebibytes=0)
    assert trainer.prepare_reference(directory) is None
    (evaluation,) = trainer.evaluate([uniform(trainer)], "validation")
    assert set(evaluation.metrics) == {"perplexity"}


def test_check_says_of_how_many_tokens_it_is(make_trainer: Any, make_causal_task: Any) -> None:
    # A kibibyte more than 4 a token: 512 logarithms and numbers, and the rest.
    for tokens, notes in ((24 * 10, []), (24 * 20, ["255 of 480 validation tokens"])):
        task = make_causal_task(validation_tokens=tokens)
        trainer = make_trainer(method=PTQTrainer, task=task, reference_mebibytes=1)
        found = [note for note in trainer.requirements().notes if "kl is over" in note]
        assert len(found) == len(notes)
        assert all(part in note for part, note in zip(notes, found, strict=True))
        assert all("trainer.reference_mebibytes to 2" in note for note in found)


def test_training_after_it_is_as_without_it(
    make: Any, directory: Path, make_configuration: Any
) -> None:
    def trained(prepares: bool) -> dict[str, torch.Tensor]:
        trainer = make(SharedLoRATrainer, learning_rate=1e-2)
        chosen = [make_configuration(trainer, 0)]
        trainer.train(chosen, 1)
        if prepares:
            trainer.prepare_reference(directory)
        trainer.train(chosen, 2)
        tensors: dict[str, torch.Tensor] = trainer.state().tensors
        return tensors

    with_it, without = trained(True), trained(False)
    assert all(torch.equal(with_it[name], without[name]) for name in without)


def labels_of(trainer: Any) -> torch.Tensor:
    """The label of each validation example under the model in memory."""
    batches = trainer.study.task.batches("validation", trainer.study.options.eval_batch_size)
    with torch.no_grad():
        return torch.cat([trainer.study.adapted.logits(batch).argmax(-1) for batch in batches])


def test_flips_are_labels_other_than_those_of_the_round_without_quantization(
    make_trainer: Any, directory: Path
) -> None:
    trainer = make_trainer(method=SharedLoRATrainer, learning_rate=1e-2, steps=30)
    coarse = uniform(trainer)
    for round in (1, 2):
        trainer.train([coarse], round)
        trainer.prepare_reference(directory)
        full = trainer.evaluate_full_precision("validation")
        assert full.metrics["flips"].value == 0.0
        assert set(full.metrics) == {"accuracy", "f1", "flips"}
        (actual,) = trainer.evaluate([coarse], "validation")
        trainer.place(coarse)
        quantized = labels_of(trainer)
        with trainer.study.adapted.unquantized():
            unquantized = labels_of(trainer)
        differing = (quantized != unquantized).float()
        assert actual.metrics["flips"].value == differing.mean().item()
        assert actual.examples.metrics["flips"] == tuple(differing.tolist())
    assert list((directory / "state").iterdir()) == []


def test_where_each_configuration_has_its_own_adapter_nothing_flips(make_trainer: Any) -> None:
    trainer = make_trainer(method=QLoRATrainer)
    (evaluation,) = trainer.evaluate([uniform(trainer)], "validation")
    assert set(evaluation.metrics) == {"accuracy", "f1"}


def test_scores_of_batches_are_joined_by_name() -> None:
    one = Scores(torch.zeros(2), torch.ones(2), {"kl": torch.zeros(2)}, {"kl": torch.zeros(5)})
    joined = Scores.concatenate([one, one])
    assert (len(joined.losses), len(joined.metrics["kl"]), len(joined.details["kl"])) == (4, 4, 10)


def test_a_study_searches_for_low_divergence(
    llama_folder: Path, make_causal_task: Any, tmp_path: Path
) -> None:
    text = str(make_causal_task().options.train)
    spec = StudySpec.model_validate(
        {
            "name": "divergence",
            "model": {"name": str(llama_folder)},
            "task": {
                "name": "causal-lm",
                "train": text,
                "validation": text,
                "length": 24,
                "validation_tokens": 24 * 8,
            },
            "quantizer": {"name": "integer", "group_size": [32]},
            "trainer": {"name": "ptq", "fine_tune": False, "calibration_batches": 1},
            "search": {
                "rounds": 1,
                "initial": 4,
                "candidates": 2,
                "segments": 4,
                "average_bits": [2.6, 8.4],
                "objective": "kl",
            },
        }
    )
    record = run_spec(spec, tmp_path / "run")
    latest = record.latest
    assert len(latest) >= 4
    assert (latest["kl"] > 0).all()
    assert (latest["kl_p99"] >= latest["kl"]).all()
    assert latest["kl_p99_standard_error"].isna().all()
    best = best_under(record, 9)
    assert best["kl"] == latest["kl"].min()
    # Nothing is trained, so that the model of the round is the loaded one.
    full = record.rounds[0].full_precision
    assert full is not None
    assert full.metrics["kl"].value == pytest.approx(0.0, abs=1e-6)
    reference = read_reference_scores(tmp_path / "run")
    assert reference.losses == read_example_scores(tmp_path / "run", 1, "full-precision").losses
    own = read_example_scores(tmp_path / "run", 1, int(best["trial"]))
    assert paired_scores(own, reference).difference == pytest.approx(
        best["loss"] - full.loss, abs=1e-5
    )
    assert paired_scores(own, own, "kl").difference == 0.0
