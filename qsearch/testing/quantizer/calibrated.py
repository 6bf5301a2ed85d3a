"""Checks of a quantizer that suits weights to the inputs of their layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.quantizer_capabilities import SupportsCalibration, SupportsDiagonal
from qsearch.testing.comparison import assert_refused, assert_same, assert_same_tensors
from qsearch.testing.quantizer.base import QuantizerChecks
from qsearch.testing.samples import normal_weight


class InputChecks(QuantizerChecks):
    """Known inputs lower the error of a layer's outputs, and each row is on its own."""

    def test_known_inputs_lower_the_error_of_outputs(self) -> None:
        plain, for_inputs = self._calibrated()
        weight, moment = normal_weight(32, 128), _moment(128)
        known = unknown = 0.0
        for configuration in self.sample(plain):
            suited = for_inputs.quantize_for_inputs(weight, configuration, moment)
            usual = for_inputs.quantize_for_inputs(weight, configuration, torch.eye(128))
            known += _output_error(plain.dequantize(suited) - weight, moment)
            unknown += _output_error(plain.dequantize(usual) - weight, moment)
        assert known < unknown, "mean squared error of outputs, known inputs and uncorrelated ones"

    def test_each_row_depends_on_itself_and_the_inputs_alone(self) -> None:
        plain, for_inputs = self._calibrated()
        weight, moment = normal_weight(16, 200), _moment(200)
        for configuration in self.sample(plain):
            whole = plain.dequantize(for_inputs.quantize_for_inputs(weight, configuration, moment))
            rows = for_inputs.quantize_for_inputs(weight[5:9], configuration, moment)
            alone, what = plain.dequantize(rows), f"rows 5 to 9, {configuration}"
            if not (tolerance := self.tolerance("rows", configuration)):
                assert_same(alone, whole[5:9], what)
                continue
            errors = [_output_error(some - weight[5:9], moment) for some in (alone, whole[5:9])]
            assert errors[0] == pytest.approx(errors[1], rel=tolerance), what

    def test_a_moments_diagonal_gives_what_the_moment_gives(self) -> None:
        plain, for_inputs = self._calibrated()
        if not isinstance(for_inputs, SupportsDiagonal) or not for_inputs.takes_diagonal:
            pytest.skip("this quantizer needs more of a moment than its diagonal")
        weight, moment = normal_weight(8, 128), _moment(128)
        for configuration in self.sample(plain):
            expected = for_inputs.quantize_for_inputs(weight, configuration, moment).tensors
            diagonal = moment.diagonal()
            actual = for_inputs.quantize_for_inputs(weight, configuration, diagonal).tensors
            assert_same_tensors(actual, expected, f"the diagonal alone, {configuration}")

    def test_inputs_of_another_size_are_refused(self) -> None:
        plain, for_inputs = self._calibrated()
        configuration = plain.choices().layer_configuration(0)
        weight, moment = normal_weight(4, 128), torch.eye(64)
        assert_refused(
            lambda: for_inputs.quantize_for_inputs(weight, configuration, moment),
            "the moment of 64 inputs for a weight of 128",
        )

    def _calibrated(self) -> tuple[Quantizer, SupportsCalibration]:
        """Return one quantizer in its two roles."""
        quantizer = self.make()
        if not isinstance(quantizer, SupportsCalibration) or not quantizer.needs_inputs:
            pytest.skip("this quantizer does not use the layer's inputs")
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
