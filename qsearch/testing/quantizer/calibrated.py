"""Checks of a quantizer that suits weights to the inputs of their layer."""

from __future__ import annotations

from unittest import SkipTest

import torch
from torch import Tensor

from qsearch.plugins.capabilities import SupportsCalibration
from qsearch.plugins.protocols import Quantizer
from qsearch.testing.base import require, require_refusal
from qsearch.testing.quantizer.base import QuantizerChecks
from qsearch.testing.samples import normal_weight
from qsearch.testing.tensors import require_same


class InputChecks(QuantizerChecks):
    """Known inputs lower the error of a layer's outputs, and each row is on its own."""

    __test__ = False

    def test_known_inputs_lower_the_error_of_outputs(self) -> None:
        quantizer, for_inputs = self._for_inputs()
        weight, moment = normal_weight(32, 128), _moment(128)
        found = expected = 0.0
        for chosen in self.sample(quantizer):
            knowing = for_inputs.quantize_for_inputs(weight, chosen, moment)
            unknowing = for_inputs.quantize_for_inputs(weight, chosen, torch.eye(128))
            found += _output_error(quantizer.dequantize(knowing) - weight, moment)
            expected += _output_error(quantizer.dequantize(unknowing) - weight, moment)
        require(
            found < expected,
            "mean squared error of outputs, summed over layer configurations: expected less than"
            f" {expected:.4g}, as for uncorrelated inputs, found {found:.4g}",
        )

    def test_each_row_depends_on_itself_and_the_inputs_alone(self) -> None:
        quantizer, for_inputs = self._for_inputs()
        weight, moment = normal_weight(16, 200), _moment(200)
        for chosen in self.sample(quantizer):
            whole = quantizer.dequantize(for_inputs.quantize_for_inputs(weight, chosen, moment))
            some = for_inputs.quantize_for_inputs(weight[5:9], chosen, moment)
            require_same(f"rows 5 to 9, {chosen}", quantizer.dequantize(some), whole[5:9])

    def test_inputs_of_another_size_are_refused(self) -> None:
        quantizer, for_inputs = self._for_inputs()
        chosen = quantizer.choices().layer_configuration(0)
        require_refusal(
            "the moment of 64 inputs for a weight of 128",
            lambda: for_inputs.quantize_for_inputs(normal_weight(4, 128), chosen, torch.eye(64)),
        )

    def _for_inputs(self) -> tuple[Quantizer, SupportsCalibration]:
        quantizer = self.make()
        if not isinstance(quantizer, SupportsCalibration) or not quantizer.needs_inputs:
            raise SkipTest("this quantizer does not use the layer's inputs")
        return quantizer, quantizer


def _moment(features: int) -> Tensor:
    """Return the second moment of correlated inputs of unlike sizes (features × features)."""
    inputs = normal_weight(4 * features, 8, 1.0, seed=1) @ normal_weight(8, features, 1.0, seed=2)
    inputs += normal_weight(4 * features, features, 0.5, seed=3)
    inputs *= torch.linspace(0.1, 2.0, features)
    return inputs.T @ inputs / len(inputs)


def _output_error(difference: Tensor, moment: Tensor) -> float:
    """Return the mean squared error of outputs for an error of the weight: tr(D M Dᵀ) / rows."""
    return float(((difference @ moment) * difference).sum() / len(difference))
