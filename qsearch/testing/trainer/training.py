"""Checks of training, of its state, and of resuming from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from qsearch.plugins.capabilities import SupportsCheckpoints, TrainingCheckpoint
from qsearch.plugins.evaluation import TrainReport
from qsearch.plugins.protocols import Trainer, TrainerState
from qsearch.space.configuration import Configuration
from qsearch.storage.checkpoints import read_checkpoint
from qsearch.testing.comparison import assert_refused
from qsearch.testing.samples import global_seed
from qsearch.testing.trainer.base import Trained, TrainerChecks, copied, saved


class _Killed(BaseException):
    """Ends a training as a killed process would."""


class TrainingChecks(TrainerChecks):
    """Training is a function of state, set, seed and round, so that studies resume exactly."""

    def test_a_round_reports_its_steps_and_losses(self) -> None:
        report = self.trained().report
        assert isinstance(report, TrainReport)
        assert len(report.losses) == report.steps
        assert all(map(math.isfinite, [*report.losses, report.seconds, *report.details.values()]))
        assert report.seconds >= 0

    def test_progress_is_reported(self) -> None:
        trainer = self.make()
        configurations, _ = self.configurations(trainer)
        calls: list[tuple[int, int, float]] = []
        report = trainer.train(configurations, 1, lambda *step: calls.append(step))
        assert calls or not report.steps, "no progress was reported"
        steps = [step for step, _, _ in calls]
        assert steps == sorted(set(steps)), "each step once and in order"
        for step, total, loss in calls:
            assert 1 <= step <= total
            assert math.isfinite(loss)

    def test_training_is_a_function_of_state_set_seed_and_round(self) -> None:
        states = []
        for seed in (1, 2):  # Of the process; the trainers have the same.
            with global_seed(seed):
                states.append(copied(self.trained().trainer.state()))
        self.assert_same_state(states[1], states[0], "state of another trainer")

    def test_an_empty_set_is_refused(self) -> None:
        assert_refused(lambda: self.make().train([], 1), "training on an empty set")

    def test_a_saved_state_evaluates_as_before(self) -> None:
        trained = self.trained()
        state = saved(trained)
        expected = trained.trainer.evaluate(trained.configurations, self.split)
        other = self.resumed(state)
        actual = other.evaluate(trained.configurations, self.split)
        self.assert_same_evaluations(actual, expected, "with the loaded state")
        self.assert_same_state(other.state(), state, "state after loading it")

    def test_training_resumes_from_a_saved_state_as_if_never_stopped(self) -> None:
        trained = self.trained()
        trainer, configurations, _ = trained
        state = saved(trained)
        trainer.evaluate(configurations, self.split)
        # As in a search, the next set holds one of this set and a new one.
        following = [self.configurations(trainer)[1], configurations[0]]
        trainer.train(following, 2)
        with global_seed(1):
            resumed = self.resumed(state)
            resumed.train(following, 2)
        self.assert_same_state(resumed.state(), trainer.state(), "state after round 2")

    def test_a_state_of_another_model_or_other_options_is_refused(self) -> None:
        other = self.make_other()
        configurations, _ = self.configurations(other)
        foreign = saved(Trained(other, configurations, other.train(configurations, 1)))
        assert_refused(lambda: self.make().load_state(foreign), "state of another trainer")

    def test_a_killed_training_resumes_as_if_never_stopped(self, tmp_path: Path) -> None:
        whole = self.trained()
        checkpoint = self._killed(tmp_path, whole.configurations)
        trainer, resumable = self._resumable()
        with global_seed(1):
            report = resumable.train_resumably(whole.configurations, 1, None, checkpoint)
        assert report.losses == whole.report.losses, "losses of the training that was killed"
        self.assert_same_state(trainer.state(), whole.trainer.state(), "state after it")

    def test_a_checkpoint_of_another_set_is_not_used(self, tmp_path: Path) -> None:
        whole = self.trained()
        checkpoint = self._killed(tmp_path, whole.configurations[::-1][:-1])
        trainer, resumable = self._resumable()
        resumable.train_resumably(whole.configurations, 1, None, checkpoint)
        self.assert_same_state(trainer.state(), whole.trainer.state(), "state")

    def _resumable(self) -> tuple[Trainer, SupportsCheckpoints]:
        """Return one trainer in its two roles."""
        trainer = self.make()
        if not isinstance(trainer, SupportsCheckpoints):
            pytest.skip("this trainer begins a killed training again")
        return trainer, trainer

    def _killed(
        self, directory: Path, configurations: Sequence[Configuration]
    ) -> TrainingCheckpoint:
        """Return what a training leaves that is killed when it has saved its state."""
        _, trainer = self._resumable()
        (directory / "state").mkdir()
        checkpoint = read_checkpoint(directory, 1)

        def save(state: TrainerState) -> None:
            checkpoint.save(state)
            raise _Killed

        try:
            trainer.train_resumably(
                configurations, 1, None, TrainingCheckpoint(checkpoint.load, save)
            )
        except _Killed:
            return checkpoint
        pytest.skip("this training ends before it is saved; make one of more steps")
