"""What all methods have in common, and how they differ."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.methods.lq_lora import LQLoRATrainer
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.methods.qlora import QLoRATrainer
from qsearch_coalora.methods.shared_lora import SharedLoRATrainer
from qsearch_coalora.methods.trainer import AdapterTrainer

from qsearch.plugins.capabilities import TrainingCheckpoint
from qsearch.space.configuration import Configuration
from qsearch.spec.sections import ModelSpec

METHODS = [SharedLoRATrainer, QLoRATrainer, LQLoRATrainer, PTQTrainer]
EACH = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
EACH_ITS_OWN = [QLoRATrainer, LQLoRATrainer]


def losses(trainer: AdapterTrainer, chosen: list[Configuration]) -> list[float]:
    return [evaluation.loss for evaluation in trainer.evaluate(chosen, "validation")]


def test_shared_lora_is_the_same_for_all_configurations(make_trainer, make_configuration) -> None:
    trainer = make_trainer(method=SharedLoRATrainer)
    assert trainer.study.adapted.theta is None
    assert trainer.study.adapted.adjustments(make_configuration(trainer, 0)) is None
    assert not [name for name in trainer.study.adapted.tensors() if name.startswith("theta.")]


@EACH
def test_every_method_can_stop_early(make_trainer, make_configuration, method) -> None:
    stopping = {"examples": 16, "every": 2, "patience": 1}
    trainer = make_trainer(method=method, steps=30, learning_rate=0.5, early_stopping=stopping)
    report = trainer.train([make_configuration(trainer, index) for index in range(2)], 1)
    most = 30 * (2 if method in (QLoRATrainer, LQLoRATrainer) else 1)
    assert 0 < report.steps < most


def test_an_unfinished_training_with_other_options_begins_again(
    make_trainer, make_configuration
) -> None:
    first = make_trainer(method=SharedLoRATrainer, steps=6, checkpoint_steps=2)
    chosen = [make_configuration(first, 0)]
    kept: list[Any] = []
    first.train_resumably(chosen, 1, None, TrainingCheckpoint(lambda: None, kept.append))
    unfinished = TrainingCheckpoint(lambda: kept[-1], lambda state: None)
    other = make_trainer(method=SharedLoRATrainer, steps=3, checkpoint_steps=2)
    expected = make_trainer(method=SharedLoRATrainer, steps=3).train(chosen, 1)
    assert other.train_resumably(chosen, 1, None, unfinished).losses == expected.losses


def test_every_method_sees_the_same_batches(make_trainer, make_configuration) -> None:
    """Of each step, whatever configuration it is under; CoA-LoRA's among them."""
    seen: dict[str, list[list[torch.Tensor]]] = {}
    for method in (*METHODS, CoALoRATrainer):
        trainer = make_trainer(method=method, steps=3)
        chosen = [make_configuration(trainer, index) for index in range(2)]
        read = trainer.study.task.batches
        runs: list[list[torch.Tensor]] = []

        def batches(split: Any, *rest: Any, read: Any = read, runs: Any = runs) -> Any:
            inputs: list[torch.Tensor] = []
            runs.append(inputs)
            for batch in read(split, *rest):
                inputs.append(batch["input_ids"])
                yield batch

        trainer.study.loaded  # noqa: B018
        trainer.study.adapted  # noqa: B018
        runs.clear()
        with mock.patch.object(trainer.study.task, "batches", batches):
            trainer.train(chosen, 1)
        assert [len(run) for run in runs] == [3] * (2 if method in EACH_ITS_OWN else 1)
        seen[method.__name__] = runs
    (expected,) = seen["SharedLoRATrainer"]
    for runs in seen.values():
        for run in runs:
            assert all(torch.equal(one, other) for one, other in zip(run, expected, strict=True))


@EACH
def test_every_method_trains_a_causal_model(
    llama_folder, make_causal_task, quantizer, make_configuration, method
) -> None:
    def make_causal(method: Any, **options: object) -> AdapterTrainer:
        fields = {"rank": 4, "steps": 12, "batch_size": 8, "learning_rate": 3e-2} | options
        model = ModelSpec(name=str(llama_folder))
        return method(method.Options(**fields), model, make_causal_task(), quantizer, 0)

    trainer = make_causal(method)
    chosen = [make_configuration(trainer, index) for index in range(2)]
    untrained = losses(make_causal(PTQTrainer, fine_tune=False), chosen)
    trainer.train(chosen, 1)
    after = losses(trainer, chosen)
    assert all(new < old for new, old in zip(after, untrained, strict=True))
