"""What all checks of trainers have in common: trainers, configurations, and comparisons."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, NamedTuple

import pytest

from qsearch.plugins.evaluation import Evaluation, TrainReport
from qsearch.plugins.protocols import Quantizer, Split, Trainer, TrainerState
from qsearch.plugins.trainer_knobs import all_choices, taken_values, trainer_knobs
from qsearch.space.configuration import Choices, Configuration, LayerConfiguration
from qsearch.storage.checkpoints import read_adapter, write_adapter
from qsearch.storage.paths import adapter_path
from qsearch.testing.comparison import assert_same, assert_same_tensors
from qsearch.testing.samples import draw_configurations

SET = 3
"""Configurations that trainers are trained on."""


class Trained(NamedTuple):
    """A trainer after its first round, the set it was trained on, and the round's report."""

    trainer: Trainer
    configurations: list[Configuration]
    report: TrainReport


class TrainerChecks:
    """The trainer that is checked.

    Attributes:
        tolerance: By which part results may differ that should be the same. On a CPU the same
            operations in one process give the same bits, so it is 0; a trainer on a GPU that adds
            in no fixed order needs some 1e-5. Resuming is then as exact, and no more.
        split: The examples that are evaluated on.
    """

    tolerance: ClassVar[float] = 0.0
    split: ClassVar[Split] = "validation"

    def make(self) -> Trainer:
        """Return a new trainer, always with the same options, model, data, quantizer and seed."""
        raise NotImplementedError(f"{type(self).__name__} needs a method make")

    def make_other(self) -> Trainer:
        """Return a new trainer of another model or other options, whose state must be refused."""
        raise NotImplementedError(f"{type(self).__name__} needs a method make_other")

    def quantizer(self) -> Quantizer:
        """Return a quantizer with the knobs of the trainers', of which configurations are made."""
        raise NotImplementedError(f"{type(self).__name__} needs a method quantizer")

    def configurations(self, trainer: Trainer) -> tuple[list[Configuration], Configuration]:
        """Return the set that trainers are trained on, and a configuration outside it."""
        drawn = draw_configurations(trainer.layers(), self.choices(trainer), SET + 1)
        *members, other = (_taken(trainer, configuration) for configuration in drawn)
        return members, other

    def choices(self, trainer: Trainer) -> Choices:
        """Return the layer configurations that there are, with the knobs that the trainer adds."""
        return all_choices(self.quantizer(), trainer)

    def trained(self) -> Trained:
        """Train a new trainer for a round."""
        trainer = self.make()
        configurations, _ = self.configurations(trainer)
        return Trained(trainer, configurations, trainer.train(configurations, 1))

    def resumed(self, state: TrainerState) -> Trainer:
        """Return a new trainer that continues from a state."""
        trainer = self.make()
        trainer.load_state(state)
        return trainer

    def assert_same_state(self, actual: TrainerState, expected: TrainerState, what: str) -> None:
        """Assert that two states hold the same tensors."""
        assert_same_tensors(actual.tensors, expected.tensors, what, self.tolerance)

    def assert_kept_state(self, actual: TrainerState, before: TrainerState, what: str) -> None:
        """Assert that a state holds what it held before.

        It may hold more, such as an adapter for a configuration that was not trained on.
        """
        assert set(before.tensors) <= set(actual.tensors), what
        for name, tensor in before.tensors.items():
            assert_same(actual.tensors[name], tensor, f"{what}: {name!r}", self.tolerance)

    def assert_same_evaluations(
        self, actual: Sequence[Evaluation], expected: Sequence[Evaluation], what: str
    ) -> None:
        """Assert that evaluations agree in all but the time that they took."""
        assert len(actual) == len(expected), f"{what}: number of evaluations"
        for place, (one, other) in enumerate(zip(actual, expected, strict=True)):
            # A standard error is rounded as the value that it is of.
            assert set(one.metrics) == set(other.metrics), f"{what}: metrics of number {place}"
            for (name, left, _), (_, right, size) in zip(_sizes(one), _sizes(other), strict=True):
                bound = self.tolerance * max(abs(size), abs(right))
                assert left == pytest.approx(right, rel=0, abs=bound, nan_ok=True), (
                    f"{what}: {name} of number {place}"
                )


def _taken(trainer: Trainer, configuration: Configuration) -> Configuration:
    """Return a configuration with values of the trainer's knobs that each layer can have."""
    knobs = trainer_knobs(trainer)
    if not knobs:
        return configuration
    chosen = {}
    for layer in trainer.layers():
        taken = taken_values(trainer, layer)
        own = {knob.name: configuration[layer.name][knob.name] for knob in knobs}
        values = own if own in [dict(one) for one in taken] else taken[0]
        chosen[layer.name] = LayerConfiguration({**configuration[layer.name], **values})
    return Configuration(chosen)


def _sizes(evaluation: Evaluation) -> Iterator[tuple[str, float, float]]:
    """Yield each number of an evaluation: its name, itself, and the value that it is of."""
    loss = evaluation.loss
    yield from (("loss", loss, loss), ("standard error", evaluation.standard_error, loss))
    for name, metric in sorted(evaluation.metrics.items()):
        yield name, metric.value, metric.value
        yield f"standard error of {name}", metric.standard_error, metric.value


def copied(state: TrainerState) -> TrainerState:
    """Return a state that training and loading do not change."""
    return TrainerState(
        {name: tensor.detach().clone() for name, tensor in state.tensors.items()},
        json.loads(json.dumps(dict(state.metadata))),
    )


def saved(trained: Trained) -> TrainerState:
    """Return a trainer's state as a resumed study finds it: saved and loaded as the engine does."""
    with TemporaryDirectory() as folder:
        directory = Path(folder)
        adapter_path(directory, 1).parent.mkdir()
        write_adapter(directory, 1, trained.trainer.state(), trained.report)
        state, report = read_adapter(directory, 1)
    assert report == trained.report, "report, saved and loaded"
    return state
