"""Checks of evaluations."""

from __future__ import annotations

import math

import pytest

from qsearch.plugins.capabilities import SupportsFullPrecision
from qsearch.plugins.evaluation import Evaluation, ExampleScores
from qsearch.plugins.trainer_knobs import trainer_knobs
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.testing.trainer.base import TrainerChecks, copied, saved


class EvaluationChecks(TrainerChecks):
    """An evaluation is a function of state and configuration."""

    def test_each_configuration_has_an_evaluation(self) -> None:
        trainer, configurations, _ = self.trained()
        evaluations = trainer.evaluate(configurations, self.split)
        assert len(evaluations) == len(configurations)
        for each in evaluations:
            _assert_finite(each)
            assert each.seconds > 0

    def test_configurations_have_losses_of_their_own(self) -> None:
        trainer = self.trained().trainer
        quantizer = self.quantizer()
        greatest = {knob.name: knob.values[-1] for knob in trainer_knobs(trainer)}
        by_bits = [
            LayerConfiguration({**one, **greatest})
            for one in sorted(quantizer.choices().layer_configurations, key=quantizer.storage_bits)
        ]
        uniform = [
            Configuration({layer.name: choice for layer in trainer.layers()})
            for choice in (by_bits[0], by_bits[-1])
        ]
        low, high = trainer.evaluate(uniform, self.split)
        assert low.loss != high.loss, f"losses with {by_bits[0]} and {by_bits[-1]} in all layers"

    def test_evaluations_repeat_whatever_their_order_and_company(self) -> None:
        trainer, configurations, _ = self.trained()
        every = [*configurations, self.configurations(trainer)[1]]
        expected = trainer.evaluate(every, self.split)
        again = {
            "evaluated again": trainer.evaluate(every, self.split),
            "in reverse order": trainer.evaluate(every[::-1], self.split)[::-1],
            "one at a time": [trainer.evaluate([one], self.split)[0] for one in every],
        }
        for what, evaluations in again.items():
            self.assert_same_evaluations(evaluations, expected, what)

    def test_an_evaluation_leaves_the_state_as_it_was(self) -> None:
        trainer, configurations, _ = self.trained()
        before = copied(trainer.state())
        trainer.evaluate(configurations, self.split)
        after = copied(trainer.state())
        self.assert_same_state(after, before, "state after an evaluation")
        assert after.metadata == before.metadata
        trainer.evaluate([self.configurations(trainer)[1]], self.split)
        self.assert_kept_state(trainer.state(), before, "state after another")

    def test_full_precision_is_evaluated_and_leaves_no_trace(self) -> None:
        trained = self.trained()
        trainer, configurations, _ = trained
        if not isinstance(trainer, SupportsFullPrecision):
            pytest.skip("this trainer does not evaluate full precision")
        state = saved(trained)
        before = trainer.evaluate(configurations, self.split)
        actual = trainer.evaluate_full_precision(self.split)
        _assert_finite(actual)
        again = trainer.evaluate_full_precision(self.split)
        self.assert_same_evaluations([again], [actual], "full precision, again")
        self.assert_same_state(trainer.state(), state, "state after full precision")
        after = trainer.evaluate(configurations, self.split)
        self.assert_same_evaluations(after, before, "evaluated after full precision")
        resumed = self.resumed(state)
        assert isinstance(resumed, SupportsFullPrecision)
        loaded = resumed.evaluate_full_precision(self.split)
        self.assert_same_evaluations([loaded], [actual], "full precision with the loaded state")


def _assert_finite(evaluation: Evaluation) -> None:
    assert isinstance(evaluation, Evaluation)
    assert math.isfinite(evaluation.loss), "loss"
    assert evaluation.metrics, "metrics"
    assert 0 <= evaluation.standard_error < math.inf, "standard error"
    for name, metric in evaluation.metrics.items():
        assert math.isfinite(metric.value), name
        error = metric.standard_error
        assert math.isnan(error) or 0 <= error < math.inf, f"standard error of {name}"
    if evaluation.examples is not None:
        _assert_of_examples(evaluation, evaluation.examples)


def _assert_of_examples(evaluation: Evaluation, examples: ExampleScores) -> None:
    """Assert that the loss is the weighted mean over its examples."""
    assert len(examples.losses) == len(examples.weights), "weights of examples"
    weighted = zip(examples.losses, examples.weights, strict=True)
    mean = sum(loss * weight for loss, weight in weighted) / sum(examples.weights)
    assert evaluation.loss == pytest.approx(mean, rel=1e-5), "loss, as the mean over examples"
    for name, values in examples.metrics.items():
        assert len(values) == len(examples.losses), f"{name} of examples"
