"""What training lowers, as trainer.loss says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.methods.composed_lora import ComposedLoRATrainer
from qsearch_coalora.methods.lq_lora import LQLoRATrainer
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.methods.shared_lora import SharedLoRATrainer
from qsearch_coalora.training.objective import Objective

from qsearch.errors import InputError


@pytest.fixture
def make(make_trainer: Any, make_causal_task: Any, llama_folder: Path) -> Any:
    """Return a maker of trainers of a language model."""

    def trainer(**options: Any) -> Any:
        task = make_causal_task()
        values = {"method": SharedLoRATrainer, "eval_batch_size": 8} | options
        return make_trainer(task=task, model=llama_folder, **values)

    return trainer


def exact_divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL of each sequence (n), with all of the vocabulary, in double precision."""
    logs = [one[:, :-1].double().log_softmax(-1) for one in (p, q)]
    return (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean(-1)


def logits_of(trainer: Any, batch: Any, configuration: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of the unquantized model, and those of a configuration."""
    adapted = trainer.study.adapted
    with torch.no_grad(), adapted.base_model():
        original = adapted.logits(batch)
    adapted.use(configuration)
    return original, adapted.logits(batch)


@pytest.mark.parametrize(("loss", "share"), [("kl", 1.0), ("mixed", 0.5)])
def test_it_is_the_divergence_from_the_unquantized_model(
    make: Any, make_configuration: Any, loss: str, share: float
) -> None:
    trainer = make(loss=loss)
    objective = Objective(trainer.study)
    batch = next(iter(trainer.study.task.batches("train", 3, torch.Generator().manual_seed(1))))
    original, own = logits_of(trainer, batch, make_configuration(trainer, 0))
    task = trainer.study.task.score(own, batch).losses.mean()
    expected = share * exact_divergence(original, own).mean() + (1 - share) * task
    assert objective(own, batch, objective.targets(batch)).item() == pytest.approx(
        expected.item(), rel=1e-4
    )


def test_its_gradient_is_that_of_the_divergence(make: Any, make_configuration: Any) -> None:
    trainer = make(loss="kl")
    objective = Objective(trainer.study)
    batch = next(iter(trainer.study.task.batches("train", 3)))
    original, own = logits_of(trainer, batch, make_configuration(trainer, 0))
    leaf = own.detach().requires_grad_()
    loss = objective(leaf, batch, objective.targets(batch))
    (actual,) = torch.autograd.grad(loss, leaf)
    (expected,) = torch.autograd.grad(exact_divergence(original, leaf).mean(), leaf)
    assert torch.allclose(actual, expected.to(actual), atol=1e-6)


def test_training_on_it_brings_the_model_nearer_to_the_original(
    make: Any, make_configuration: Any
) -> None:
    trainer = make(loss="kl", steps=40, learning_rate=2e-2)
    chosen = make_configuration(trainer, 0)
    (before,) = trainer.evaluate([chosen], "validation")
    report = trainer.train([chosen], 1)
    (after,) = trainer.evaluate([chosen], "validation")
    assert sum(report.losses[-5:]) < 0.9 * sum(report.losses[:5])
    assert after.metrics["kl"].value < before.metrics["kl"].value


def test_early_stopping_follows_it(make: Any, make_configuration: Any) -> None:
    early = {"examples": 4, "every": 2, "patience": 1, "configurations": 1}
    trainer = make(loss="kl", steps=4, early_stopping=early)
    chosen = make_configuration(trainer, 0)
    held_out = trainer.train([chosen], 1).details["held_out_loss"]
    (own,) = trainer.evaluate([chosen], "held-out")
    assert own.metrics["kl"].value >= held_out - 1e-6
    assert held_out < 0.5 * own.loss


def test_too_little_room_for_the_training_examples_is_one_message(
    make: Any, make_configuration: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qsearch_coalora.training.reference.MEBIBYTE", 2**17)
    trainer = make(loss="kl", reference_mebibytes=1)
    with pytest.raises(InputError, match=r"reference_mebibytes 1 holds .* training examples"):
        trainer.train([make_configuration(trainer, 0)], 1)


@pytest.mark.parametrize("method", [CoALoRATrainer, LQLoRATrainer, ComposedLoRATrainer])
def test_the_head_of_a_classifier_is_taught_by_the_unquantized_model_of_the_step(
    make_trainer: Any, make_configuration: Any, method: type
) -> None:
    trainer = make_trainer(method=method, loss="mixed", steps=3)
    chosen = make_configuration(trainer, 0)
    trainer.train([chosen], 1)
    adapted, batch = trainer.study.adapted, next(iter(trainer.study.task.batches("train", 4)))
    objective = Objective(trainer.study)
    targets = objective.targets(batch)
    adapted.peft_model.eval()
    with torch.no_grad(), adapted.unquantized():
        original = adapted.logits(batch)
    trainer.place(chosen)
    own = adapted.logits(batch)
    logs = [one.double().log_softmax(-1) for one in (original, own)]
    divergence = (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean()
    task = torch.nn.functional.cross_entropy(own, batch["labels"])
    expected = 0.5 * (divergence + task)
    assert divergence > 0
    assert objective(own, batch, targets).item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_divergence_of_a_head_that_learns_the_labels_is_refused_as_the_only_loss(
    make_trainer: Any,
) -> None:
    trainer = make_trainer(loss="kl")
    with pytest.raises(InputError, match=r"trainer\.loss kl: task 'classification' .* use mixed"):
        trainer.requirements()


def test_room_for_nothing_is_refused_before_any_work(make: Any) -> None:
    with pytest.raises(InputError, match=r"trainer\.reference_mebibytes 0 keeps nothing"):
        make(loss="mixed", reference_mebibytes=0).requirements()


def test_what_trains_nothing_needs_no_teacher(make: Any, make_configuration: Any) -> None:
    trainer = make(method=PTQTrainer, fine_tune=False, loss="kl")
    trainer.requirements()
    assert trainer.train([make_configuration(trainer, 0)], 1).steps == 0
