"""Methods with an adapter for each configuration, trained here or by workers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from qsearch_coalora.methods import own_adapters
from qsearch_coalora.methods.lq_lora import LQLoRATrainer
from qsearch_coalora.methods.qlora import QLoRATrainer
from qsearch_coalora.training.loop import DivergedError
from safetensors.torch import load_file

from qsearch.errors import EvaluationError
from qsearch.execution.ray_worker import decode_state, encode_state
from qsearch.plugins.capabilities import NO_CHECKPOINT, TrainingCheckpoint
from qsearch.plugins.protocols import TrainerState
from qsearch.space.configuration import Configuration
from tests.coalora.exported import export

Make = Callable[..., QLoRATrainer]


@pytest.fixture
def make(make_trainer) -> Make:
    """Return a maker of QLoRA's trainers; what they keep is kept the same way for LQ-LoRA."""
    return partial(make_trainer, method=QLoRATrainer, learning_rate=1e-2)


@pytest.fixture
def chosen(make: Make, make_configuration) -> list[Configuration]:
    """Three configurations."""
    trainer = make()
    return [make_configuration(trainer, index) for index in range(3)]


def in_memory() -> TrainingCheckpoint:
    states: list[TrainerState | None] = [None]
    return TrainingCheckpoint(lambda: states[-1], states.append)


def losses(trainer: QLoRATrainer, configurations: list[Configuration]) -> list[float]:
    return [evaluation.loss for evaluation in trainer.evaluate(configurations, "validation")]


def sent(state: TrainerState) -> TrainerState:
    """A state as it comes out of a message between processes."""
    return decode_state(encode_state(state))


def diverging(*configurations: Configuration) -> Any:
    """Have the training of some configurations diverge."""
    train = own_adapters.train_round

    def diverge(study: Any, trained: list[Configuration], *rest: Any) -> Any:
        if trained[0] in configurations:
            raise DivergedError("the training loss became nan")
        return train(study, trained, *rest)

    return mock.patch.object(own_adapters, "train_round", diverge)


@pytest.mark.parametrize("method", [QLoRATrainer, LQLoRATrainer])
def test_a_configuration_starts_from_the_same_whenever_and_wherever_it_is_trained(
    make: Make, chosen: list[Configuration], method
) -> None:
    early, late, resumed = (make(method=method) for _ in range(3))
    early.train(chosen[:2], 1)
    late.train(chosen[:1], 1)
    resumed.load_state(late.state())
    assert losses(resumed, chosen[:2]) == losses(late, chosen[:2]) == losses(early, chosen[:2])


def test_what_an_evaluation_trained_is_not_trained_again_in_the_next_set(
    make: Make, chosen: list[Configuration]
) -> None:
    trainer = make()
    trainer.train(chosen[:1], 1)
    end_of_round = trainer.state()
    expected = losses(trainer, chosen[:2])
    trainer.load_state(end_of_round)
    with mock.patch.object(own_adapters, "train_round") as trained:
        report = trainer.train(chosen[:2], 2)
    assert not trained.called
    assert (report.steps, report.seconds) == (4, 0)
    assert losses(trainer, chosen[:2]) == expected


def test_a_training_that_diverges_leaves_the_other_configurations_alone(
    make: Make, chosen: list[Configuration]
) -> None:
    trainer, whole = make(), make()
    whole.train(chosen[1:], 1)
    with diverging(chosen[0]):
        trainer.train(chosen, 1)
        with pytest.raises(EvaluationError, match="became nan"):
            trainer.evaluate(chosen[:1], "validation")
        with pytest.raises(DivergedError, match="became nan"):
            trainer.train(chosen[:1], 1)
        resumed = make()
        resumed.load_state(trainer.state())
        assert resumed.sensitivity(chosen, 1).shape == (len(resumed.layers()),)
        with pytest.raises(EvaluationError, match="became nan"):
            resumed.sensitivity(chosen[:1], 1)
    assert losses(trainer, chosen[1:]) == losses(whole, chosen[1:])


def test_an_exported_adapter_is_the_configurations_own(
    make: Make, chosen: list[Configuration], tmp_path: Path
) -> None:
    trainer = make()
    trainer.train(chosen, 1)
    trainer.evaluate(chosen[1:], "validation")
    export(trainer, chosen[0], tmp_path / "adapter", "adapter")
    exported = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    layer = trainer.layers()[0].name
    (name,) = [name for name in exported if f"{layer}.lora_B" in name]
    assert exported[name].abs().max() > 0
    assert torch.equal(
        exported[name], trainer.adapters.trained[chosen[0]].adapter[f"lora.{layer}.B"]
    )


def test_what_is_trained_is_saved_before_the_next_training_begins(
    make: Make, chosen: list[Configuration]
) -> None:
    checkpoint = in_memory()

    def kill_third(step: int, total: int, loss: float) -> None:
        if step == 2 * 4 + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make().train_resumably(chosen, 1, kill_third, checkpoint)
    resumed, whole = make(), make()
    whole.train(chosen, 1)
    train = own_adapters.train_round
    with mock.patch.object(own_adapters, "train_round", side_effect=train) as trained:
        assert resumed.train_resumably(chosen, 1, None, checkpoint).steps == 12
    assert [call.args[1] for call in trained.call_args_list] == [chosen[2:]]
    assert losses(resumed, chosen) == losses(whole, chosen)


# By workers


def test_what_is_untrained_is_returned_once_each(make: Make, chosen: list[Configuration]) -> None:
    trainer = make()
    assert list(trainer.untrained([*chosen, *chosen], NO_CHECKPOINT)) == chosen
    trainer.train(chosen[:2], 1)
    assert list(trainer.untrained(chosen, NO_CHECKPOINT)) == chosen[2:]


@pytest.mark.parametrize("method", [QLoRATrainer, LQLoRATrainer])
def test_a_set_that_workers_trained_is_as_if_trained_here(
    make: Make, chosen: list[Configuration], method
) -> None:
    here, trainer, checkpoint = make(method=method), make(method=method), in_memory()
    expected = here.train(chosen, 1)
    for configuration in reversed(chosen):
        worker = make(method=method)
        trainer.adopt(sent(worker.train_separately(configuration)), chosen, checkpoint)
    report = trainer.train_resumably(chosen, 1, None, checkpoint)
    assert report.losses == expected.losses
    assert report.seconds > 0
    assert report.details["trained_configurations"] == 3
    assert losses(trainer, chosen) == losses(here, chosen)


def test_what_was_adopted_is_saved_when_the_study_is_killed(
    make: Make, chosen: list[Configuration]
) -> None:
    checkpoint = in_memory()
    make().adopt(sent(make().train_separately(chosen[1])), chosen, checkpoint)
    resumed = make()
    assert list(resumed.untrained(chosen, checkpoint)) == [chosen[0], chosen[2]]
    other_set = chosen[:2]
    assert list(resumed.untrained(other_set, checkpoint)) == other_set


def test_what_a_workers_evaluation_trained_is_not_trained_again_for_the_next_set(
    make: Make, chosen: list[Configuration]
) -> None:
    trainer, worker = make(), make()
    trainer.train(chosen[:2], 1)
    state = trainer.state()
    worker.load_state(sent(state))
    expected = losses(worker, chosen[2:])
    trainer.adopt(sent(worker.train_separately(chosen[2])))
    trainer.load_state(state)
    assert trainer.train(chosen, 2).seconds == 0
    assert losses(trainer, chosen[2:]) == expected


def test_a_training_that_diverges_on_a_worker_fails_when_it_is_evaluated(
    make: Make, chosen: list[Configuration]
) -> None:
    trainer, checkpoint = make(), in_memory()
    with diverging(chosen[0]):
        trained = make().train_separately(chosen[0])
    trainer.adopt(sent(trained), chosen, checkpoint)
    assert list(trainer.untrained(chosen, checkpoint)) == chosen[1:]
    trainer.train_resumably(chosen, 1, None, checkpoint)
    with pytest.raises(EvaluationError, match="became nan"):
        trainer.evaluate(chosen[:1], "validation")
    assert len(losses(trainer, chosen[1:])) == 2
