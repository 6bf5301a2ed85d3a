"""What all methods have in common, and how they differ."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.methods.composed_lora import ComposedLoRATrainer
from qsearch_coalora.methods.lq_lora import LQLoRATrainer
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.methods.qlora import QLoRATrainer
from qsearch_coalora.methods.shared_lora import SharedLoRATrainer
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.training.sampling import BatchStream

from qsearch.plugins.capabilities import (
    SupportsFullPrecision,
    SupportsSeparateTraining,
    TrainingCheckpoint,
)
from qsearch.plugins.protocols import TrainerState
from qsearch.space.configuration import Configuration

ONE_FOR_ALL = [CoALoRATrainer, ComposedLoRATrainer, SharedLoRATrainer, PTQTrainer]
EACH_ITS_OWN = [QLoRATrainer, LQLoRATrainer]


def losses(trainer: AdapterTrainer, chosen: list[Configuration]) -> list[float]:
    return [evaluation.loss for evaluation in trainer.evaluate(chosen, "validation")]


@pytest.mark.parametrize("method", ONE_FOR_ALL + EACH_ITS_OWN)
def test_one_adapter_for_all_has_full_precision_and_own_ones_are_trained_apart(
    method, make_trainer
) -> None:
    trainer = make_trainer(method=method)
    assert isinstance(trainer, SupportsFullPrecision) == (method in ONE_FOR_ALL)
    assert isinstance(trainer, SupportsSeparateTraining) == (method in EACH_ITS_OWN)


def test_a_training_of_one_configuration_can_stop_early(make_trainer, make_configuration) -> None:
    stopping = {"examples": 16, "every": 2, "patience": 1}
    options = {"steps": 30, "learning_rate": 0.5, "early_stopping": stopping}
    trainer = make_trainer(method=QLoRATrainer, **options)
    report = trainer.train([make_configuration(trainer, index) for index in range(2)], 1)
    assert 0 < report.steps < 2 * 30


def test_an_interrupted_training_with_other_options_begins_again(
    make_trainer, make_configuration
) -> None:
    first = make_trainer(method=SharedLoRATrainer, steps=6, checkpoint_steps=2)
    chosen = [make_configuration(first, 0)]
    saved: list[TrainerState] = []
    first.train_resumably(chosen, 1, None, TrainingCheckpoint(lambda: None, saved.append))
    checkpoint = TrainingCheckpoint(lambda: saved[-1], lambda state: None)
    other = make_trainer(method=SharedLoRATrainer, steps=3, checkpoint_steps=2)
    expected = make_trainer(method=SharedLoRATrainer, steps=3).train(chosen, 1)
    assert other.train_resumably(chosen, 1, None, checkpoint).losses == expected.losses


def test_every_method_sees_the_same_batches(make_trainer, make_configuration) -> None:
    """Of each step, whatever configuration it is under."""
    draw, seen = BatchStream.__next__, []

    def noting(own: BatchStream) -> Any:
        batch = draw(own)
        seen.append(batch["input_ids"])
        return batch

    expected: list[torch.Tensor] = []
    for method in ONE_FOR_ALL + EACH_ITS_OWN:
        trainer = make_trainer(method=method, steps=3)
        chosen = [make_configuration(trainer, index) for index in range(2)]
        trainer.study.adapted  # noqa: B018  # What is measured before takes batches too.
        seen.clear()
        with mock.patch.object(BatchStream, "__next__", noting):
            trainer.train(chosen, 1)
        expected = expected or seen[:]
        trainings = 2 if method in EACH_ITS_OWN else 1
        assert len(seen) == 3 * trainings
        assert all(map(torch.equal, seen, expected * trainings))


@pytest.mark.parametrize(
    "method", [SharedLoRATrainer, ComposedLoRATrainer, PTQTrainer, *EACH_ITS_OWN]
)
def test_every_method_trains_a_causal_model(
    make_trainer, llama_folder, make_causal_task, make_configuration, method
) -> None:
    make_causal = partial(make_trainer, model=llama_folder, task=make_causal_task())
    trainer = make_causal(method=method, steps=12, learning_rate=3e-2)
    chosen = [make_configuration(trainer, index) for index in range(2)]
    untrained = losses(make_causal(method=PTQTrainer, fine_tune=False), chosen)
    trainer.train(chosen, 1)
    after = losses(trainer, chosen)
    assert all(new < old for new, old in zip(after, untrained, strict=True))
