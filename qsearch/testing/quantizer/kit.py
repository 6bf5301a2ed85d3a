"""The kit for quantizers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from pydantic import BaseModel, ValidationError

from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.registry import installed_plugins
from qsearch.space.configuration import Choices, LayerConfiguration
from qsearch.testing.base import refuse_class, require, require_equal, require_refusal
from qsearch.testing.quantizer.accuracy import AccuracyChecks
from qsearch.testing.quantizer.allowances import Allowance
from qsearch.testing.quantizer.base import QuantizerChecks, made_again
from qsearch.testing.quantizer.calibrated import InputChecks
from qsearch.testing.quantizer.round_trip import WeightChecks
from qsearch.testing.quantizer.storage import StorageChecks
from qsearch.testing.samples import normal_weight, quantize


class ArgumentChecks(QuantizerChecks):
    """A quantizer has a name, knobs and options, and refuses what is none of them."""

    __test__ = False

    def test_it_has_a_name_and_knobs(self) -> None:
        quantizer = self.make()
        require(isinstance(quantizer, Quantizer), f"expected a Quantizer, found {quantizer!r}")
        name, choices = quantizer.name, quantizer.choices()
        require(isinstance(name, str) and name != "", f"name: expected text, found {name!r}")
        require(isinstance(choices, Choices), f"choices: expected Choices, found {choices!r}")
        require_equal("choices, called again", quantizer.choices(), choices)
        target = f"{type(quantizer).__module__}:{type(quantizer).__qualname__}"
        names = [one.name for one in installed_plugins("quantizers") if one.target == target]
        # Exports name the quantizer by its attribute, readers find it by its entry point.
        require(name in names or not names, f"name: expected that of {names}, found {name!r}")

    def test_options_refuse_fields_that_they_do_not_know(self) -> None:
        options: Any = getattr(self.make(), "Options", None)
        is_model = isinstance(options, type) and issubclass(options, BaseModel)
        require(is_model, f"class Options: expected a pydantic model, found {options!r}")
        require_refusal(
            "options with an unknown field",
            lambda: options.model_validate({"no_such_option": 1}),
            ValidationError,
        )

    def test_options_as_json_make_an_equal_quantizer(self) -> None:
        quantizer = self.make()
        require_equal("choices", made_again(quantizer).choices(), quantizer.choices())

    def test_allowances_are_for_layer_configurations_that_there_are(self) -> None:
        choices = self.make().choices()
        for allowance in self.allowances:
            require(
                allowance.fits(choices),
                f"allowance of {allowance.check}: expected values of the knobs"
                f" { {knob.name: knob.values for knob in choices.knobs} }, found"
                f" {dict(allowance.where)}, which no layer configuration has",
            )

    def test_layer_configurations_of_others_are_refused(self) -> None:
        quantizer = self.make()
        knobs, right = quantizer.choices().knobs, quantizer.choices().layer_configuration(0)
        wrong: dict[str, dict[str, int | str]] = {"an unknown knob": {**right, "no_such_knob": 1}}
        for knob in knobs:
            fewer = {name: value for name, value in right.items() if name != knob.name}
            wrong[f"no knob {knob.name!r}"] = fewer
            wrong[f"a value that {knob.name!r} has not"] = {**right, knob.name: "no such value"}
            if all(isinstance(value, int) for value in knob.values):
                above = 1 + max(value for value in knob.values if isinstance(value, int))
                wrong[f"{knob.name}={above}"] = {**right, knob.name: above}
        for name, values in wrong.items():
            bad = LayerConfiguration(values)
            require_refusal(name, partial(quantize, quantizer, normal_weight(16, 64), bad))

    def test_what_is_no_weight_is_refused(self) -> None:
        quantizer = self.make()
        chosen = quantizer.choices().layer_configuration(0)
        wrong = {
            "a vector": torch.ones(64),
            "a tensor of three dimensions": torch.ones(2, 4, 64),
            "a weight of integers": torch.ones(4, 64, dtype=torch.int32),
        }
        for value in (math.nan, math.inf, -math.inf):
            wrong[f"a weight with {value}"] = normal_weight(4, 64)
            wrong[f"a weight with {value}"][1, 2] = value
        for name, weight in wrong.items():
            require_refusal(name, partial(quantize, quantizer, weight, chosen))


class QuantizerConformance(
    ArgumentChecks, WeightChecks, StorageChecks, AccuracyChecks, InputChecks
):
    """What every quantizer must do; a subclass says which one.

    ::

        class TestMine(QuantizerConformance):
            def make(self) -> Mine:
                return Mine(Mine.Options())

    One that cannot meet a tolerance has ``allowances``, each with its reason.
    """

    __test__ = False


def check_quantizer(
    quantizer: Quantizer, most_configurations: int = 48, allowances: Sequence[Allowance] = ()
) -> None:
    """Run all checks of :class:`QuantizerConformance` on a quantizer; needs no pytest.

    Args:
        quantizer: The quantizer.
        most_configurations: Greatest number of layer configurations that are tried, beside the
            corners of each knob.
        allowances: Exemptions from tolerances, each with its reason.

    Raises:
        ConformanceError: If a check fails; an AssertionError that names each, and why it failed.
        TypeError: If it is a class, not a quantizer made of it.
    """
    refuse_class("quantizer", quantizer)
    most, allowed = most_configurations, allowances

    class Given(QuantizerConformance):
        __test__ = False
        most_configurations = most
        allowances = allowed

        def make(self) -> Quantizer:
            return quantizer

    Given().run(f"quantizer {getattr(quantizer, 'name', quantizer)!r}")
