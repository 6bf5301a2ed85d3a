"""One LoRA for each configuration, trained when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from qsearch.capabilities import UnfinishedTraining
from qsearch.configuration import Configuration
from qsearch.errors import EvaluationError, InputError, QsearchError
from qsearch.evaluation import TrainReport
from qsearch.plugins import Progress, TrainerState
from qsearch_coalora.base_trainer import AdapterTrainer
from qsearch_coalora.saved_state import digest, require_own, saved_state

Adapter = Mapping[str, Tensor]


class PerConfigurationTrainer(AdapterTrainer):
    """Trains a LoRA of its own for every configuration, each from the same start, data and seed.

    A configuration is trained when it is in a training set for the first time, or else when it is
    evaluated; the evaluation's seconds hold the training then. A configuration that is trained is
    never trained again. Trained adapters are kept in memory, on the CPU.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._trained: dict[Configuration, Adapter] = {}
        self._start: Adapter | None = None

    def start(self, configuration: Configuration) -> Adapter:
        """Return the adapter and head that a configuration's training starts from."""
        if self._start is None:
            self._start = self.adapted.tensors()
        return self._start

    def train_resumably(
        self,
        configurations: Sequence[Configuration],
        round: int,
        progress: Progress | None,
        unfinished: UnfinishedTraining,
    ) -> TrainReport:
        """Train those of the set that are not trained yet; see :meth:`AdapterTrainer.train`."""
        if not configurations:
            raise InputError("a training set needs at least one configuration")
        trains = digest(list(configurations), self._identity())
        saved = unfinished.load()
        if saved is not None and saved.metadata.get("set") == trains:
            self._trained |= _trained_of(saved)
        waiting = [c for c in dict.fromkeys(configurations) if c not in self._trained]
        steps = self.options.round_steps(0)
        reports = []
        for number, configuration in enumerate(waiting):

            def shifted(step: int, total: int, loss: float, number: int = number) -> None:
                if progress is not None:
                    progress(number * steps + step, len(waiting) * steps, loss)

            def keep(state: TrainerState) -> None:
                unfinished.save(_with_trained(state, self._trained, set=trains))

            reports.append(
                self._train_one(configuration, shifted, UnfinishedTraining(unfinished.load, keep))
            )
        return TrainReport(
            steps=sum(report.steps for report in reports),
            seconds=sum(report.seconds for report in reports),
            losses=tuple(loss for report in reports for loss in report.losses),
            details={"trained_configurations": float(len(waiting))},
        )

    def _train_one(
        self,
        configuration: Configuration,
        progress: Progress | None,
        unfinished: UnfinishedTraining,
    ) -> TrainReport:
        self.adapted.load_tensors(self.start(configuration))
        # Round 0 for all: each has the same data, in the same order, at the same rates.
        report = super().train_resumably([configuration], 0, progress, unfinished)
        self._trained[configuration] = self.adapted.tensors()
        return report

    def prepare(self, configuration: Configuration) -> None:
        """Make the model the one of a configuration, trained now if it is not yet."""
        if configuration not in self._trained:
            try:
                with torch.enable_grad():
                    nowhere = UnfinishedTraining(lambda: None, lambda state: None)
                    self._train_one(configuration, None, nowhere)
            except QsearchError as error:
                raise EvaluationError(str(error)) from error
            self.adapted.peft_model.eval()
        self.adapted.load_tensors(self._trained[configuration])
        super().prepare(configuration)

    def state(self) -> TrainerState:
        """Return all trained adapters, and what they belong to."""
        return _with_trained(saved_state({}, self._identity()), self._trained)

    def load_state(self, state: TrainerState) -> None:
        """Continue from a saved state.

        Raises:
            InputError: If the state belongs to another model or other options.
        """
        require_own(state, self._identity())
        self._trained = _trained_of(state)


def _with_trained(
    state: TrainerState, trained: Mapping[Configuration, Adapter], **told: str
) -> TrainerState:
    """Return a state with trained adapters beside what it holds."""
    packed = {
        f"trained-{number}.{name}": tensor
        for number, adapter in enumerate(trained.values())
        for name, tensor in adapter.items()
    }
    names = [configuration.to_json() for configuration in trained]
    return TrainerState({**state.tensors, **packed}, {**state.metadata, "trained": names, **told})


def _trained_of(state: TrainerState) -> dict[Configuration, Adapter]:
    """Return the trained adapters that a state holds."""
    found: dict[Configuration, Adapter] = {}
    for number, text in enumerate(state.metadata["trained"]):
        prefix = f"trained-{number}."
        found[Configuration.from_json(text)] = {
            name.removeprefix(prefix): tensor
            for name, tensor in state.tensors.items()
            if name.startswith(prefix)
        }
    return found
