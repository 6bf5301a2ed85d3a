"""Checks of training, of its state, and of going on from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import SkipTest

from qsearch.plugins.capabilities import SupportsCheckpoints, TrainingCheckpoint
from qsearch.plugins.evaluation import TrainReport
from qsearch.plugins.protocols import Trainer, TrainerState
from qsearch.space.configuration import Configuration
from qsearch.storage.checkpoints import read_checkpoint
from qsearch.testing.base import require, require_equal, require_refusal
from qsearch.testing.samples import global_seed
from qsearch.testing.trainer.base import TrainerChecks, copied, saved


class _Killed(BaseException):
    """Ends a training as a killed process would."""


class TrainingChecks(TrainerChecks):
    """Training is a function of state, set, seed and round, so that studies resume exactly."""

    __test__ = False

    def test_a_round_reports_its_steps_and_losses(self) -> None:
        _, _, report = self.trained()
        require(isinstance(report, TrainReport), f"expected a TrainReport, found {report!r}")
        require_equal("number of losses of the round's steps", len(report.losses), report.steps)
        figures = {f"loss of step {step}": loss for step, loss in enumerate(report.losses)}
        for name, value in {**figures, "seconds": report.seconds, **report.details}.items():
            require(math.isfinite(value), f"{name}: expected a finite number, found {value}")
        require(report.seconds >= 0, f"seconds: expected 0 or more, found {report.seconds}")

    def test_progress_is_told(self) -> None:
        trainer = self.make()
        chosen, _ = self.configurations(trainer)
        told: list[tuple[int, int, float]] = []
        report = trainer.train(chosen, 0, lambda *step: told.append(step))
        require(
            bool(told) or not report.steps, f"expected progress of {report.steps} steps, found none"
        )
        steps = [step for step, _, _ in told]
        require_equal("steps, each told once and in order", steps, sorted(set(steps)))
        for step, total, loss in told:
            right = 1 <= step <= total and math.isfinite(loss)
            found = f"step {step} of {total}, loss {loss}"
            require(right, f"expected a step of all steps and a finite loss, found {found}")

    def test_training_is_a_function_of_state_set_seed_and_round(self) -> None:
        states = []
        for seed in (1, 2):  # Of the process; the trainers have the same.
            with global_seed(seed):
                trainer, _, _ = self.trained()
                states.append(copied(trainer.state()))
        self.require_same_state("state of another trainer", states[1], states[0])

    def test_an_empty_set_is_refused(self) -> None:
        trainer = self.make()
        require_refusal("training on an empty set", lambda: trainer.train([], 0))

    def test_a_saved_state_evaluates_as_before(self) -> None:
        trainer, chosen, report = self.trained()
        state = saved(trainer.state(), report)
        expected = trainer.evaluate(chosen, self.split)
        other = self.make()
        other.load_state(state)
        found = other.evaluate(chosen, self.split)
        self.require_same_evaluations("with the loaded state", found, expected)
        self.require_same_state("state after loading it", other.state(), state)

    def test_training_goes_on_from_a_saved_state_as_if_never_stopped(self) -> None:
        trainer, chosen, report = self.trained()
        state = saved(trainer.state(), report)
        trainer.evaluate(chosen, self.split)
        # As in a search, the next set holds one of this set and a new one.
        following = [self.configurations(trainer)[1], chosen[0]]
        trainer.train(following, 1)
        resumed = self.make()
        with global_seed(1):
            resumed.load_state(state)
            resumed.train(following, 1)
        self.require_same_state("state after round 1", resumed.state(), trainer.state())

    def test_a_state_of_another_model_or_other_options_is_refused(self) -> None:
        other = self.make_other()
        report = other.train(self.configurations(other)[0], 0)
        foreign = saved(other.state(), report)
        trainer = self.make()
        require_refusal("state of another trainer", lambda: trainer.load_state(foreign))

    def test_a_killed_training_goes_on_as_if_never_stopped(self) -> None:
        trainer, resumable = self._resumable()
        whole, chosen, expected = self.trained()
        with TemporaryDirectory() as folder:
            unfinished = self._killed(Path(folder), chosen)
            with global_seed(1):
                report = resumable.train_resumably(chosen, 0, None, unfinished)
        require_equal("losses of the training that was killed", report.losses, expected.losses)
        self.require_same_state("state after it", trainer.state(), whole.state())

    def test_an_unfinished_training_of_another_set_is_not_used(self) -> None:
        trainer, resumable = self._resumable()
        whole, chosen, _ = self.trained()
        with TemporaryDirectory() as folder:
            unfinished = self._killed(Path(folder), chosen[::-1][:-1])
            resumable.train_resumably(chosen, 0, None, unfinished)
        self.require_same_state("state", trainer.state(), whole.state())

    def _resumable(self) -> tuple[Trainer, SupportsCheckpoints]:
        trainer = self.make()
        if not isinstance(trainer, SupportsCheckpoints):
            raise SkipTest("this trainer begins a killed training anew")
        return trainer, trainer

    def _killed(self, folder: Path, chosen: Sequence[Configuration]) -> TrainingCheckpoint:
        """Return what a training leaves that is killed when it has saved its state."""
        _, trainer = self._resumable()
        (folder / "state").mkdir()
        kept = read_checkpoint(folder, 0)

        def save(state: TrainerState) -> None:
            kept.save(state)
            raise _Killed

        try:
            trainer.train_resumably(chosen, 0, None, TrainingCheckpoint(kept.load, save))
        except _Killed:
            return kept
        raise SkipTest("this training ends before it is saved; make one of more steps")
