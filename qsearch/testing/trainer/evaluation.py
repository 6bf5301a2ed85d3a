"""Checks of evaluations."""

from __future__ import annotations

import math
from unittest import SkipTest

from qsearch.plugins.capabilities import SupportsFullPrecision
from qsearch.plugins.evaluation import Evaluation
from qsearch.space.configuration import Configuration
from qsearch.testing.base import require, require_equal
from qsearch.testing.trainer.base import TrainerChecks, copied, saved


class EvaluationChecks(TrainerChecks):
    """An evaluation is a function of state and configuration."""

    __test__ = False

    def test_each_configuration_has_an_evaluation(self) -> None:
        trainer, chosen, _ = self.trained()
        found = trainer.evaluate(chosen, self.split)
        require_equal("number of evaluations", len(found), len(chosen))
        for one in found:
            require(isinstance(one, Evaluation), f"expected an Evaluation, found {one!r}")
            for name in ("loss", "standard_error", "metric", "metric_standard_error"):
                value = getattr(one, name)
                require(math.isfinite(value), f"{name}: expected a finite number, found {value}")
            errors = (one.standard_error, one.metric_standard_error)
            require(min(errors) >= 0, f"standard errors: expected 0 or more, found {errors}")
            require(one.seconds > 0, f"seconds: expected more than 0, found {one.seconds}")

    def test_configurations_have_losses_of_their_own(self) -> None:
        trainer, _, _ = self.trained()
        quantizer = self.quantizer()
        by_bits = sorted(quantizer.choices().layer_configurations, key=quantizer.storage_bits)
        uniform = [
            Configuration({layer.name: choice for layer in trainer.layers()})
            for choice in (by_bits[0], by_bits[-1])
        ]
        losses = [one.loss for one in trainer.evaluate(uniform, self.split)]
        require(
            losses[0] != losses[1],
            f"losses with {by_bits[0]} and with {by_bits[-1]} in all layers: expected two,"
            f" found {losses[0]} for both",
        )

    def test_evaluations_repeat_whatever_their_order_and_company(self) -> None:
        trainer, chosen, _ = self.trained()
        every = [*chosen, self.configurations(trainer)[1]]
        expected = trainer.evaluate(every, self.split)
        again = {
            "evaluated again": trainer.evaluate(every, self.split),
            "in reverse order": trainer.evaluate(every[::-1], self.split)[::-1],
            "one at a time": [trainer.evaluate([one], self.split)[0] for one in every],
        }
        for name, found in again.items():
            self.require_same_evaluations(name, found, expected)

    def test_an_evaluation_leaves_the_state_as_it_was(self) -> None:
        trainer, chosen, _ = self.trained()
        before = copied(trainer.state())
        trainer.evaluate(chosen, self.split)
        after = copied(trainer.state())
        self.require_same_state("state after an evaluation", after, before)
        require_equal("its metadata", after.metadata, before.metadata)
        trainer.evaluate([self.configurations(trainer)[1]], self.split)
        self.require_kept_state("state after another", trainer.state(), before)

    def test_full_precision_is_evaluated_and_leaves_no_trace(self) -> None:
        trainer, chosen, report = self.trained()
        if not isinstance(trainer, SupportsFullPrecision):
            raise SkipTest("this trainer does not evaluate full precision")
        state = saved(trainer.state(), report)
        before = trainer.evaluate(chosen, self.split)
        found = trainer.evaluate_full_precision(self.split)
        require(isinstance(found, Evaluation), f"expected an Evaluation, found {found!r}")
        figures = (found.loss, found.standard_error, found.metric)
        require(all(map(math.isfinite, figures)), f"expected finite figures, found {found}")
        again = trainer.evaluate_full_precision(self.split)
        self.require_same_evaluations("full precision, again", [again], [found])
        self.require_same_state("state after full precision", trainer.state(), state)
        after = trainer.evaluate(chosen, self.split)
        self.require_same_evaluations("evaluated after full precision", after, before)
        resumed = self.make()
        resumed.load_state(state)
        assert isinstance(resumed, SupportsFullPrecision)
        loaded = resumed.evaluate_full_precision(self.split)
        self.require_same_evaluations("full precision with the loaded state", [loaded], [found])
