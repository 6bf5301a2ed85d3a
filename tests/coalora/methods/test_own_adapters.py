"""Methods with an adapter for each configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from qsearch_coalora.methods import own_adapters
from qsearch_coalora.methods.lq_lora import LQLoRATrainer
from qsearch_coalora.methods.qlora import QLoRATrainer
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.training.loop import DivergedError
from safetensors.torch import load_file

from qsearch.errors import EvaluationError
from qsearch.plugins.capabilities import TrainingCheckpoint
from qsearch.space.configuration import Configuration

EACH_ITS_OWN = [QLoRATrainer, LQLoRATrainer]
PER_CONFIGURATION = pytest.mark.parametrize("method", EACH_ITS_OWN)


def losses(trainer: AdapterTrainer, chosen: list[Configuration]) -> list[float]:
    return [evaluation.loss for evaluation in trainer.evaluate(chosen, "validation")]


@PER_CONFIGURATION
def test_a_configuration_outside_the_set_is_trained_when_it_is_evaluated(
    make_trainer, make_configuration, method
) -> None:
    early, late = make_trainer(method=method), make_trainer(method=method)
    chosen = [make_configuration(early, index) for index in range(2)]
    early.train(chosen, 1)
    late.train(chosen[:1], 1)
    assert losses(late, chosen) == losses(early, chosen)


@PER_CONFIGURATION
def test_what_an_evaluation_trained_is_not_trained_again_in_the_next_set(
    make_trainer, make_configuration, method
) -> None:
    trainer = make_trainer(method=method)
    chosen = [make_configuration(trainer, index) for index in range(2)]
    trainer.train(chosen[:1], 1)
    end_of_round = trainer.state()
    expected = losses(trainer, chosen)
    trainer.load_state(end_of_round)
    with mock.patch.object(own_adapters, "train_round") as trained:
        report = trainer.train(chosen, 2)
    assert not trained.called
    assert (report.steps, report.seconds) == (4, 0)
    assert losses(trainer, chosen) == expected


@PER_CONFIGURATION
def test_a_training_that_diverges_leaves_the_other_configurations_alone(
    make_trainer, make_configuration, method
) -> None:
    trainer, whole = make_trainer(method=method), make_trainer(method=method)
    chosen = [make_configuration(trainer, index) for index in range(3)]
    whole.train(chosen[1:], 1)
    train = own_adapters.train_round

    def diverge_first(own: Any, configurations: Any, *rest: Any) -> Any:
        if configurations == chosen[:1]:
            raise DivergedError("the training loss became nan")
        return train(own, configurations, *rest)

    with mock.patch.object(own_adapters, "train_round", diverge_first):
        trainer.train(chosen, 1)
        with pytest.raises(EvaluationError, match="became nan"):
            trainer.evaluate(chosen[:1], "validation")
        with pytest.raises(DivergedError, match="became nan"):
            trainer.train(chosen[:1], 1)
        resumed = make_trainer(method=method)
        resumed.load_state(trainer.state())
        assert resumed.sensitivity(chosen, 1).shape == (len(resumed.layers()),)
        if method is QLoRATrainer:
            with pytest.raises(EvaluationError, match="became nan"):
                resumed.sensitivity(chosen[:1], 1)
    assert losses(trainer, chosen[1:]) == losses(whole, chosen[1:])


@PER_CONFIGURATION
def test_what_a_training_tells_of_its_cache_is_the_mean_over_configurations(
    make_trainer, make_configuration, method
) -> None:
    trainer = make_trainer(method=method)
    details = trainer.train([make_configuration(trainer, index) for index in range(2)], 1).details
    assert details["trained_configurations"] == 2
    assert 0 <= details["cache_hit_rate"] <= 1
    assert details["cache_mebibytes_allowed"] == trainer.study.options.cache_mebibytes
    assert details["switch_seconds"] > 0


@PER_CONFIGURATION
def test_a_resumed_process_starts_each_configuration_where_the_first_did(
    make_trainer, make_configuration, method
) -> None:
    whole = make_trainer(method=method, steps=20, learning_rate=1e-2)
    chosen = [make_configuration(whole, index) for index in range(2)]
    whole.train(chosen[:1], 1)
    resumed = make_trainer(method=method, steps=20, learning_rate=1e-2)
    resumed.load_state(whole.state())
    assert losses(resumed, chosen) == losses(whole, chosen)


def test_an_exported_adapter_is_the_configurations_own(
    make_trainer, make_configuration, tmp_path: Path
) -> None:
    trained = make_trainer(method=QLoRATrainer, steps=20, learning_rate=1e-2)
    chosen = [make_configuration(trained, index) for index in range(2)]
    trained.train(chosen, 1)
    trainer = make_trainer(method=QLoRATrainer, steps=20, learning_rate=1e-2)
    trainer.load_state(trained.state())
    trainer.evaluate(chosen[1:], "validation")
    trainer.export(chosen[0], tmp_path / "adapter", "adapter")
    exported = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    adapter = trained.adapters.trained[chosen[0]].adapter
    layer = trained.layers()[0].name
    (name,) = [name for name in exported if f"{layer}.lora_B" in name]
    assert exported[name].abs().max() > 0
    assert torch.equal(exported[name], adapter[f"lora.{layer}.B"])


@PER_CONFIGURATION
def test_what_is_trained_is_kept_before_the_next_training_begins(
    make_trainer, make_configuration, method
) -> None:
    killed, kept = make_trainer(method=method), []
    chosen = [make_configuration(killed, index) for index in range(3)]

    def kill_third(step: int, total: int, loss: float) -> None:
        if step == 2 * 4 + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed.train_resumably(chosen, 1, kill_third, TrainingCheckpoint(lambda: None, kept.append))
    resumed, whole = make_trainer(method=method), make_trainer(method=method)
    whole.train(chosen, 1)
    train, trained = own_adapters.train_round, []

    def counted(own: Any, configurations: Any, *rest: Any) -> Any:
        trained.append(configurations)
        return train(own, configurations, *rest)

    with mock.patch.object(own_adapters, "train_round", counted):
        unfinished = TrainingCheckpoint(lambda: kept[-1], lambda state: None)
        assert resumed.train_resumably(chosen, 1, None, unfinished).steps == 12
    assert trained == [chosen[2:]]
    assert losses(resumed, chosen) == losses(whole, chosen)
