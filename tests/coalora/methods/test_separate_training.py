"""Methods with an adapter for each configuration: workers train, the study's trainer takes in."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.methods.lq_lora import LQLoRATrainer
from qsearch_coalora.methods.qlora import QLoRATrainer
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.training.loop import DivergedError

from qsearch.execution.ray_worker import decode_state, encode_state
from qsearch.plugins.capabilities import NO_CHECKPOINT, SupportsSeparateTraining, TrainingCheckpoint
from qsearch.plugins.protocols import TrainerState
from qsearch.space.configuration import Configuration

Make = Callable[..., AdapterTrainer]


@pytest.fixture(params=[QLoRATrainer, LQLoRATrainer], ids=lambda method: method.__name__)
def make(request: pytest.FixtureRequest, make_trainer) -> Make:
    """Return a maker of trainers of a method."""
    return partial(make_trainer, method=request.param)


class Kept:
    """Keeps the state of an unfinished training in memory."""

    def __init__(self) -> None:
        self.state: TrainerState | None = None
        self.unfinished = TrainingCheckpoint(lambda: self.state, self._save)

    def _save(self, state: TrainerState) -> None:
        self.state = state


@pytest.fixture
def chosen(make: Make, make_configuration) -> list[Configuration]:
    """Three configurations."""
    trainer = make()
    return [make_configuration(trainer, index) for index in range(3)]


def losses(trainer: AdapterTrainer, configurations: list[Configuration]) -> list[float]:
    return [evaluation.loss for evaluation in trainer.evaluate(configurations, "validation")]


def sent(state: TrainerState) -> TrainerState:
    """A state as it comes out of a message between processes."""
    return decode_state(encode_state(state))


def test_methods_with_one_adapter_for_all_train_nothing_apart() -> None:
    assert not issubclass(CoALoRATrainer, SupportsSeparateTraining)


def test_what_is_untrained_is_told_once_each(make: Make, chosen: list[Configuration]) -> None:
    trainer = make()
    assert isinstance(trainer, SupportsSeparateTraining)
    assert list(trainer.untrained([*chosen, *chosen], NO_CHECKPOINT)) == chosen
    trainer.train(chosen[:2], 1)
    assert list(trainer.untrained(chosen, NO_CHECKPOINT)) == chosen[2:]


def test_a_set_that_workers_trained_is_as_if_trained_here(
    make: Make, chosen: list[Configuration]
) -> None:
    here, trainer, kept = make(), make(), Kept()
    expected = here.train(chosen, 1)
    for configuration in reversed(chosen):
        trainer.adopt(sent(make().train_separately(configuration)), chosen, kept.unfinished)
    report = trainer.train_resumably(chosen, 1, None, kept.unfinished)
    assert report.steps == expected.steps
    assert report.losses == expected.losses
    assert report.seconds > 0
    assert losses(trainer, chosen) == losses(here, chosen)


def test_what_was_taken_in_is_kept_when_the_study_is_killed(
    make: Make, chosen: list[Configuration]
) -> None:
    kept = Kept()
    make().adopt(sent(make().train_separately(chosen[1])), chosen, kept.unfinished)
    resumed = make()
    assert list(resumed.untrained(chosen, kept.unfinished)) == [chosen[0], chosen[2]]
    other_set = chosen[:2]
    assert list(resumed.untrained(other_set, kept.unfinished)) == other_set


def test_what_an_evaluation_trained_is_not_trained_again_for_the_next_set(
    make: Make, chosen: list[Configuration]
) -> None:
    trainer, worker = make(), make()
    trainer.train(chosen[:2], 1)
    state = trainer.state()
    worker.load_state(sent(state))
    expected = losses(worker, chosen[2:])
    trainer.adopt(sent(worker.train_separately(chosen[2])))
    trainer.load_state(state)
    report = trainer.train(chosen, 2)
    assert report.seconds == 0
    assert losses(trainer, chosen[2:]) == expected


def test_a_training_that_diverges_on_a_worker_fails_when_it_is_evaluated(
    make: Make, chosen: list[Configuration], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, trainer, kept = make(), make(), Kept()

    def diverge(*_: object) -> None:
        raise DivergedError("the loss is not a number")

    monkeypatch.setattr(worker.adapters, "_train_one", diverge)
    trainer.adopt(sent(worker.train_separately(chosen[0])), chosen, kept.unfinished)
    assert list(trainer.untrained(chosen, kept.unfinished)) == chosen[1:]
    trainer.train_resumably(chosen, 1, None, kept.unfinished)
    with pytest.raises(Exception, match="the loss is not a number"):
        trainer.evaluate(chosen[:1], "validation")
    assert len(losses(trainer, chosen[1:])) == 2
