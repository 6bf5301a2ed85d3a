"""One LoRA for each configuration, trained when it is first asked for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qsearch.errors import EvaluationError, InputError, QsearchError
from qsearch.plugins.capabilities import NO_CHECKPOINT, TrainingCheckpoint
from qsearch.plugins.evaluation import TrainReport
from qsearch.plugins.protocols import Progress, Requirements, TrainerState
from qsearch.space.configuration import Configuration
from qsearch_coalora.adapter.adapted_model import AdaptedModel
from qsearch_coalora.estimation.requirements import adapter_bytes
from qsearch_coalora.training.checkpoint import digest, require_own, saved_state
from qsearch_coalora.training.loop import DivergedError
from qsearch_coalora.training.trainer import AdapterTrainer

Adapter = Mapping[str, Tensor]

_SAVE_SECONDS = 60.0
"""Between two savings of what others trained: each writes all of it."""


@dataclass(frozen=True)
class Trained:
    """What a configuration's training came to.

    Args:
        adapter: The trained tensors.
        report: What it took, the making of its start included.
    """

    adapter: Adapter
    report: TrainReport


class PerConfigurationTrainer(AdapterTrainer):
    """Trains a LoRA of its own for every configuration, each from the same start, data and seed.

    A configuration is trained when it is in a training set for the first time, or else when it is
    evaluated or exported; the evaluation's seconds hold the training then. Trained adapters are
    kept in memory, on the CPU. Those that a loaded state lacks are kept until the next training
    set, which may hold them; trained again, a configuration comes out the same. One whose training
    diverges fails when it is evaluated, and leaves the others alone.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._trained: dict[Configuration, Trained] = {}
        self._spare: dict[Configuration, Trained] = {}
        self._diverged: dict[Configuration, str] = {}
        self._adopted: dict[Configuration, Trained] = {}
        self._adopted_saved = -_SAVE_SECONDS

    def make_adapted(self) -> AdaptedModel:
        """Return the adapted model; see :meth:`AdapterTrainer.make_adapted`."""
        adapted = super().make_adapted()
        self._start = adapted.tensors()  # Before anything can be trained or loaded.
        return adapted

    def start(self, configuration: Configuration) -> Adapter:
        """Return the adapter and head that a configuration's training starts from."""
        self.adapted  # noqa: B018
        return self._start

    def requirements(self) -> Requirements:
        """Say what the study needs: with each configuration's first evaluation, a training."""
        needs = super().requirements()
        first, _ = needs.training_flops
        return replace(
            needs,
            training_flops=(0.0, 0.0),
            first_evaluation_flops=first,
            configuration_bytes=adapter_bytes(self._layers, self.options.rank),
        )

    def train_resumably(
        self,
        configurations: Sequence[Configuration],
        round: int,
        progress: Progress | None,
        unfinished: TrainingCheckpoint,
    ) -> TrainReport:
        """Train those of the set that are not trained yet; see :meth:`AdapterTrainer.train`.

        Raises:
            InputError: If the set is empty.
            DivergedError: If the training of each configuration of the set diverges.
        """
        if not configurations:
            raise InputError("a training set needs at least one configuration")
        trains = self._set_digest(configurations)
        waiting = [c for c in dict.fromkeys(configurations) if c not in self._trained]
        self._trained |= self._saved(configurations, unfinished) | self._adopted
        self._adopted = {}
        steps = self.options.round_steps(0)
        for number, configuration in enumerate(waiting):
            if configuration in self._trained:
                continue

            def shifted(step: int, total: int, loss: float, number: int = number) -> None:
                if progress is not None:
                    progress(number * steps + step, len(waiting) * steps, loss)

            def keep(state: TrainerState) -> None:
                unfinished.save(_with_trained(state, self._trained, set=trains))

            try:
                self._train_one(configuration, shifted, TrainingCheckpoint(unfinished.load, keep))
                keep(TrainerState({}, {}))
            except DivergedError:
                if self._diverged.keys() >= set(configurations):
                    raise
        self._spare.clear()
        reports = [self._trained[one].report for one in waiting if one in self._trained]
        return TrainReport(
            steps=sum(report.steps for report in reports),
            seconds=sum(report.seconds for report in reports),
            losses=tuple(loss for report in reports for loss in report.losses),
            details={"trained_configurations": float(len(reports)), **_mean_details(reports)},
        )

    def untrained(
        self, configurations: Sequence[Configuration], unfinished: TrainingCheckpoint
    ) -> Sequence[Configuration]:
        """Return those of a set that training it would train."""
        known = {*self._trained, *self._spare, *self._diverged, *self._adopted}
        known |= self._saved(configurations, unfinished).keys()
        return [one for one in dict.fromkeys(configurations) if one not in known]

    def train_separately(self, configuration: Configuration) -> TrainerState:
        """Train a configuration, unless it is trained, and return what came out."""
        known = configuration in self._trained
        if not known:
            try:
                self._train_one(configuration, None, NO_CHECKPOINT)
            except DivergedError as error:
                told = {"diverged": [[configuration.to_json(), str(error)]]}
                return _with_trained(TrainerState({}, told), {})
        trained = self._trained[configuration]
        if known:  # Somewhere else its seconds are counted already.
            trained = replace(trained, report=replace(trained.report, seconds=0.0))
        return _with_trained(TrainerState({}, {}), {configuration: trained})

    def adopt(
        self,
        trained: TrainerState,
        configurations: Sequence[Configuration] = (),
        unfinished: TrainingCheckpoint = NO_CHECKPOINT,
    ) -> None:
        """Take in what another process trained."""
        for text, reason in trained.metadata.get("diverged", []):
            self._diverged[Configuration.from_json(text)] = reason
        found = _trained_of(trained)
        if not configurations:
            self._trained = found | self._trained
            return
        if not self._adopted:
            self._adopted = self._saved(configurations, unfinished)
        self._adopted |= found
        if time.monotonic() - self._adopted_saved >= _SAVE_SECONDS:
            told = {"set": self._set_digest(configurations)}
            unfinished.save(_with_trained(TrainerState({}, {}), self._adopted, **told))
            self._adopted_saved = time.monotonic()

    def _saved(
        self, configurations: Sequence[Configuration], unfinished: TrainingCheckpoint
    ) -> dict[Configuration, Trained]:
        """Return what an unfinished training of a set has trained."""
        saved = unfinished.load()
        if saved is None or saved.metadata.get("set") != self._set_digest(configurations):
            return {}
        return _trained_of(saved)

    def _set_digest(self, configurations: Sequence[Configuration]) -> str:
        return digest(list(configurations), self._training_identity())

    def _train_one(
        self,
        configuration: Configuration,
        progress: Progress | None,
        unfinished: TrainingCheckpoint,
    ) -> None:
        if configuration in self._spare:
            found = self._spare.pop(configuration)
            # Its seconds are an evaluation's already.
            self._trained[configuration] = replace(found, report=replace(found.report, seconds=0.0))
            return
        if configuration in self._diverged:
            raise DivergedError(self._diverged[configuration])
        started = time.perf_counter()
        # Before the start is made: what it puts into the cache would be forgotten with a change.
        self.adapted.weights.expect([configuration], self.adapted.shape.fixed_rank)
        self.adapted.load_tensors(self.start(configuration))
        before = time.perf_counter() - started
        try:
            # Round 0 for all: each has the same data, in the same order, at the same rates.
            report = super().train_resumably([configuration], 0, progress, unfinished)
        except DivergedError as error:
            self._diverged[configuration] = str(error)
            raise
        report = replace(report, seconds=report.seconds + before)
        self._trained[configuration] = Trained(self.adapted.tensors(), report)

    def prepare(self, configuration: Configuration) -> None:
        """Make the model the one of a configuration, trained now if it is not yet."""
        self._load_trained(configuration)
        super().prepare(configuration)

    def _load_trained(self, configuration: Configuration) -> None:
        self._require_trained(configuration)
        self.adapted.load_tensors(self._trained[configuration].adapter)

    def _require_trained(self, configuration: Configuration) -> None:
        if configuration in self._trained:
            return
        try:
            with torch.enable_grad():
                self._train_one(configuration, None, NO_CHECKPOINT)
        except QsearchError as error:
            raise EvaluationError(str(error)) from error
        self.adapted.peft_model.eval()

    def sensitivity(
        self, configurations: Sequence[Configuration], round: int
    ) -> npt.NDArray[np.float64]:
        """Return the sensitivities under those of the set whose training does not diverge.

        See :meth:`AdapterTrainer.sensitivity`.

        Raises:
            EvaluationError: If none is left.
        """
        for configuration in configurations:
            try:
                self._require_trained(configuration)
            except EvaluationError:
                # What else hinders a training, such as memory, ends the study.
                if configuration not in self._diverged:
                    raise
        kept = [one for one in configurations if one in self._trained]
        if configurations and not kept:
            raise EvaluationError(self._diverged[configurations[0]])
        return super().sensitivity(kept, round)

    def state(self) -> TrainerState:
        """Return all trained adapters, and what they belong to."""
        return _with_trained(
            saved_state({}, self._identity(), self.adapted.input_sizes()), self._trained
        )

    def load_state(self, state: TrainerState) -> None:
        """Continue from a saved state.

        Raises:
            InputError: If the state belongs to another model, other options or other data.
        """
        require_own(state, self._identity(), self.adapted.input_sizes())
        loaded = _trained_of(state)
        self._spare |= {one: found for one, found in self._trained.items() if one not in loaded}
        self._trained = loaded

    def export(self, configuration: Configuration, directory: Path, format: str) -> None:
        """Write the adapter of a configuration; see :meth:`AdapterTrainer.export`."""
        self.require_format(format)
        self._load_trained(configuration)
        super().export(configuration, directory, format)


def _mean_details(reports: Sequence[TrainReport]) -> dict[str, float]:
    """Return each detail's mean over trainings."""
    names = dict.fromkeys(name for report in reports for name in report.details)
    return {
        name: fmean(report.details[name] for report in reports if name in report.details)
        for name in names
    }


def _with_trained(
    state: TrainerState, trained: Mapping[Configuration, Trained], **told: str
) -> TrainerState:
    """Return a state with trained adapters beside what it holds."""
    packed = {
        f"trained-{number}.{name}": tensor
        for number, one in enumerate(trained.values())
        for name, tensor in one.adapter.items()
    }
    reports = [
        {"configuration": configuration.to_json(), **asdict(one.report)}
        for configuration, one in trained.items()
    ]
    metadata = {**state.metadata, "trained": reports, **told}
    return TrainerState({**state.tensors, **packed}, metadata)


def _trained_of(state: TrainerState) -> dict[Configuration, Trained]:
    """Return the trained adapters that a state holds."""
    found: dict[Configuration, Trained] = {}
    for number, saved in enumerate(state.metadata["trained"]):
        prefix = f"trained-{number}."
        adapter = {
            name.removeprefix(prefix): tensor
            for name, tensor in state.tensors.items()
            if name.startswith(prefix)
        }
        told = {name: value for name, value in saved.items() if name != "configuration"}
        told["losses"] = tuple(told["losses"])
        found[Configuration.from_json(saved["configuration"])] = Trained(
            adapter, TrainReport(**told)
        )
    return found
