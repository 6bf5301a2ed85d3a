"""The kit for quantizers."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from qsearch.plugins.contract import require_contract
from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.registry import installed_plugins
from qsearch.space.configuration import Choices, LayerConfiguration
from qsearch.testing.comparison import assert_refused
from qsearch.testing.quantizer.accuracy import AccuracyChecks
from qsearch.testing.quantizer.base import QuantizerChecks, made_again
from qsearch.testing.quantizer.calibrated import InputChecks
from qsearch.testing.quantizer.layers import LayerChecks
from qsearch.testing.quantizer.round_trip import RoundTripChecks
from qsearch.testing.quantizer.storage import StorageChecks
from qsearch.testing.samples import normal_weight, quantize

NO_WEIGHTS = {
    "a vector": torch.ones(64),
    "three dimensions": torch.ones(2, 4, 64),
    "integers": torch.ones(4, 64, dtype=torch.int32),
    **{str(value): torch.full((4, 64), value) for value in (math.nan, math.inf, -math.inf)},
}


class ArgumentChecks(QuantizerChecks):
    """A quantizer has a name, knobs and options, and refuses what is none of them."""

    def test_it_has_a_name_and_knobs(self) -> None:
        quantizer = self.make()
        assert isinstance(quantizer, Quantizer)
        assert isinstance(quantizer.name, str)
        assert quantizer.name
        assert isinstance(quantizer.choices(), Choices)
        assert quantizer.choices() == quantizer.choices(), "choices, called again"

    def test_it_is_written_for_the_contract_of_this_qsearch(self) -> None:
        require_contract(self.make(), "the quantizer")

    def test_its_name_is_that_of_its_entry_point(self) -> None:
        quantizer = self.make()
        target = f"{type(quantizer).__module__}:{type(quantizer).__qualname__}"
        names = [one.name for one in installed_plugins("quantizers") if one.target == target]
        # Exports name the quantizer by its attribute, readers find it by its entry point.
        assert quantizer.name in (names or [quantizer.name])

    def test_options_refuse_fields_that_they_do_not_know(self) -> None:
        options: Any = type(self.make()).Options  # type: ignore[attr-defined]
        assert issubclass(options, BaseModel)
        with pytest.raises(ValidationError):
            options.model_validate({"no_such_option": 1})

    def test_options_as_json_make_an_equal_quantizer(self) -> None:
        quantizer = self.make()
        assert made_again(quantizer).choices() == quantizer.choices()

    def test_layer_configurations_of_others_are_refused(self) -> None:
        quantizer = self.make()
        right = dict(quantizer.choices().layer_configuration(0))
        wrong: list[dict[str, int | str]] = [{**right, "no_such_knob": 1}]
        for knob in quantizer.choices().knobs:
            wrong.append({name: value for name, value in right.items() if name != knob.name})
            wrong.append({**right, knob.name: "no such value"})
            numbers = [value for value in knob.values if isinstance(value, int)]
            if numbers:
                wrong.append({**right, knob.name: max(numbers) + 1})
        for values in wrong:
            bad = LayerConfiguration(values)
            assert_refused(partial(quantize, quantizer, normal_weight(16, 64), bad), str(values))

    @pytest.mark.parametrize("weight", NO_WEIGHTS.values(), ids=NO_WEIGHTS.keys())
    def test_what_is_no_weight_is_refused(self, weight: Tensor) -> None:
        quantizer = self.make()
        configuration = quantizer.choices().layer_configuration(0)
        assert_refused(partial(quantize, quantizer, weight, configuration), str(weight))


class QuantizerConformance(
    ArgumentChecks, RoundTripChecks, StorageChecks, AccuracyChecks, InputChecks, LayerChecks
):
    """What every quantizer must do; a subclass says which one.

    ::

        class TestMine(QuantizerConformance):
            def make(self) -> Mine:
                return Mine(Mine.Options())
    """
