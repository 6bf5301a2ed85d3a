"""One LoRA for each configuration, trained when it is first asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from qsearch.errors import EvaluationError, QsearchError
from qsearch.plugins.capabilities import NO_CHECKPOINT, TrainingCheckpoint
from qsearch.plugins.evaluation import TrainReport
from qsearch.plugins.protocols import Progress, Requirements, TrainerState
from qsearch.space.configuration import Configuration
from qsearch_coalora.estimation.requirements import adapter_bytes
from qsearch_coalora.methods.trained_adapters import (
    Adapter,
    TrainedAdapter,
    joined_report,
    trained_in,
    with_trained,
)
from qsearch_coalora.training.loop import DivergedError, train_round
from qsearch_coalora.training.saved_state import digest, require_own, saved_state, training_identity
from qsearch_coalora.training.study_model import StudyModel

_SAVE_SECONDS = 60.0
"""Between two savings of what others trained: each writes all of it."""


class OwnAdapters:
    """A LoRA for each configuration, each trained from the same start, data and seed.

    A configuration is trained when it is in a training set for the first time, or else when it is
    evaluated or exported; the evaluation's seconds hold the training then. Trained adapters are
    kept in memory, on the CPU. Those that a loaded state lacks are kept until the next training
    set, which may hold them; trained again, a configuration comes out the same. One whose training
    diverges fails when it is evaluated, and leaves the others alone.

    ``start`` returns the adapter and head that a configuration's training starts from.
    """

    def __init__(self, study: StudyModel, start: Callable[[Configuration], Adapter]) -> None:
        self._study = study
        self._start = start
        self.trained: dict[Configuration, TrainedAdapter] = {}
        self._spare: dict[Configuration, TrainedAdapter] = {}
        self._diverged: dict[Configuration, str] = {}
        self._adopted: dict[Configuration, TrainedAdapter] = {}
        self._adopted_saved = -_SAVE_SECONDS

    def train(
        self,
        configurations: Sequence[Configuration],
        round: int,
        progress: Progress | None,
        checkpoint: TrainingCheckpoint,
    ) -> TrainReport:
        """Train those of the set that are not trained yet.

        Raises:
            DivergedError: If the training of each configuration of the set diverges.
        """
        trains = self._set_digest(configurations)
        waiting = [c for c in dict.fromkeys(configurations) if c not in self.trained]
        self.trained |= self._saved(configurations, checkpoint) | self._adopted
        self._adopted = {}
        steps = self._study.options.round_steps(1)
        for number, configuration in enumerate(waiting):
            if configuration in self.trained:
                continue

            def shifted(step: int, total: int, loss: float, number: int = number) -> None:
                if progress is not None:
                    progress(number * steps + step, len(waiting) * steps, loss)

            def save(state: TrainerState) -> None:
                checkpoint.save(with_trained(state, self.trained, set=trains))

            try:
                self._train_one(configuration, shifted, TrainingCheckpoint(checkpoint.load, save))
                save(TrainerState({}, {}))
            except DivergedError:
                if self._diverged.keys() >= set(configurations):
                    raise
        self._spare.clear()
        return joined_report([self.trained[c].report for c in waiting if c in self.trained])

    def _train_one(
        self,
        configuration: Configuration,
        progress: Progress | None = None,
        checkpoint: TrainingCheckpoint = NO_CHECKPOINT,
    ) -> None:
        if configuration in self._spare:
            # Its seconds are an evaluation's already.
            self.trained[configuration] = self._spare.pop(configuration).counted_elsewhere()
            return
        if configuration in self._diverged:
            raise DivergedError(self._diverged[configuration])
        started, adapted = time.perf_counter(), self._study.adapted
        # Before the start is made: a change would clear what that puts into the cache.
        adapted.weights.expect([configuration], adapted.shape.fixed_rank)
        adapted.load_tensors(self._start(configuration))
        before = time.perf_counter() - started
        try:
            # Round 1 for all: each has the same data, in the same order, at the same rates.
            report = train_round(self._study, [configuration], 1, progress, checkpoint)
        except DivergedError as error:
            self._diverged[configuration] = str(error)
            raise
        report = replace(report, seconds=report.seconds + before)
        self.trained[configuration] = TrainedAdapter(adapted.tensors(), report)

    def load(self, configuration: Configuration) -> None:
        """Put a configuration's LoRA into the model, trained now if it is not yet.

        Raises:
            EvaluationError: If it cannot be trained.
        """
        self._require_trained(configuration)
        self._study.adapted.load_tensors(self.trained[configuration].adapter)

    def _require_trained(self, configuration: Configuration) -> None:
        """Train a configuration now if it is not trained yet."""
        if configuration in self.trained:
            return
        try:
            with torch.enable_grad():
                self._train_one(configuration)
        except QsearchError as error:
            raise EvaluationError(str(error)) from error
        self._study.adapted.peft_model.eval()

    def usable(self, configurations: Sequence[Configuration]) -> Sequence[Configuration]:
        """Return those of the set whose training does not diverge.

        Raises:
            EvaluationError: If there is none.
        """
        for configuration in configurations:
            try:
                self._require_trained(configuration)
            except EvaluationError:
                # What else hinders a training, such as memory, ends the study.
                if configuration not in self._diverged:
                    raise
        usable = [one for one in configurations if one in self.trained]
        if not usable:
            raise EvaluationError(self._diverged[configurations[0]])
        return usable

    # Training in several processes

    def untrained(
        self, configurations: Sequence[Configuration], checkpoint: TrainingCheckpoint
    ) -> Sequence[Configuration]:
        """Return those of a set that training it would train."""
        done = {*self.trained, *self._spare, *self._diverged, *self._adopted}
        done |= self._saved(configurations, checkpoint).keys()
        return [one for one in dict.fromkeys(configurations) if one not in done]

    def train_separately(self, configuration: Configuration) -> TrainerState:
        """Train a configuration, unless it is trained, and return the result."""
        trained_before = configuration in self.trained
        if not trained_before:
            try:
                self._train_one(configuration)
            except DivergedError as error:
                diverged = {"diverged": [[configuration.to_json(), str(error)]]}
                return with_trained(TrainerState({}, diverged), {})
        result = self.trained[configuration]
        if trained_before:
            result = result.counted_elsewhere()
        return with_trained(TrainerState({}, {}), {configuration: result})

    def adopt(
        self,
        trained: TrainerState,
        configurations: Sequence[Configuration] = (),
        checkpoint: TrainingCheckpoint = NO_CHECKPOINT,
    ) -> None:
        """Add what another process trained, for a set or, without one, for an evaluation."""
        for text, reason in trained.metadata.get("diverged", []):
            self._diverged[Configuration.from_json(text)] = reason
        results = trained_in(trained)
        if not configurations:
            self.trained = results | self.trained
            return
        if not self._adopted:
            self._adopted = self._saved(configurations, checkpoint)
        self._adopted |= results
        if time.monotonic() - self._adopted_saved >= _SAVE_SECONDS:
            trains = self._set_digest(configurations)
            checkpoint.save(with_trained(TrainerState({}, {}), self._adopted, set=trains))
            self._adopted_saved = time.monotonic()

    # State

    def _saved(
        self, configurations: Sequence[Configuration], checkpoint: TrainingCheckpoint
    ) -> dict[Configuration, TrainedAdapter]:
        """Return what an interrupted training of a set has trained."""
        saved = checkpoint.load()
        if saved is None or saved.metadata.get("set") != self._set_digest(configurations):
            return {}
        return trained_in(saved)

    def _set_digest(self, configurations: Sequence[Configuration]) -> str:
        return digest(list(configurations), training_identity(self._study))

    def state(self) -> TrainerState:
        """Return all trained adapters, and what they belong to."""
        return with_trained(saved_state(self._study, {}), self.trained)

    def load_state(self, state: TrainerState) -> None:
        """Continue from a saved state, if it is this study's."""
        require_own(self._study, state)
        loaded = trained_in(state)
        self._spare |= {one: result for one, result in self.trained.items() if one not in loaded}
        self.trained = loaded


def requirements_of_each(needs: Requirements, study: StudyModel) -> Requirements:
    """Return what a study needs whose training comes with each first evaluation."""
    return replace(
        needs,
        training_flops=(0.0, 0.0),
        first_evaluation_flops=needs.training_flops[0],
        configuration_bytes=adapter_bytes(study.layers, study.options.rank),
    )
