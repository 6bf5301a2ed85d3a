"""Checks of how near to a weight its quantized one is."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from qsearch.space.configuration import LayerConfiguration
from qsearch.testing.comparison import assert_more_bits_pay
from qsearch.testing.quantizer.base import QuantizerChecks
from qsearch.testing.samples import TYPICAL, normal_weight, relative_error, round_trip

MAGNITUDES = (TYPICAL / 20, TYPICAL * 10_000)
"""Standard deviations of unusual weights: about the least of trained layers, whose scales of 2e-5
float16 still resolves, and one that float16 still holds."""


def _some_constant_rows() -> Tensor:
    weight = normal_weight(8, 200)
    weight[2], weight[4], weight[5] = 0.0, TYPICAL, -TYPICAL
    return weight


class AccuracyChecks(QuantizerChecks):
    """Errors are finite, and fall with the bits that are spent."""

    def test_the_relative_error_is_below_one(self) -> None:
        quantizer = self.make()
        for configuration in self.sample(quantizer):
            # A quantizer that returns zeros has an error of 1.
            assert relative_error(quantizer, normal_weight(64, 512), configuration) < 1

    def test_zeros_stay_zeros(self) -> None:
        quantizer = self.make()
        for configuration in self.sample(quantizer):
            largest = float(round_trip(quantizer, torch.zeros(8, 200), configuration).abs().max())
            assert largest <= TYPICAL * self.tolerance("zeros", configuration), configuration

    @pytest.mark.parametrize(
        "weight", [_some_constant_rows(), torch.full((8, 200), TYPICAL)], ids=["some", "all"]
    )
    def test_rows_of_one_value_stay_finite(self, weight: Tensor) -> None:
        quantizer = self.make()
        for configuration in self.sample(quantizer):
            assert round_trip(quantizer, weight, configuration).isfinite().all(), configuration

    def test_more_bits_give_less_error(self) -> None:
        quantizer = self.make()
        knobs = {knob.name: knob.values for knob in quantizer.choices().knobs}
        values = sorted(bits for bits in knobs.get("bits", ()) if isinstance(bits, int))
        if len(values) < 2:
            pytest.skip("this quantizer has no knob 'bits' of several numbers")
        weight = normal_weight(64, 512)
        for configuration in self.sample(quantizer):
            if configuration["bits"] != values[0]:
                continue
            rising = [LayerConfiguration({**configuration, "bits": bits}) for bits in values]
            errors = [relative_error(quantizer, weight, one) for one in rising]
            assert all(more > less for more, less in pairwise(errors)), (
                f"errors with {values} bits, {configuration}: expected each below the one before,"
                f" not {errors}"
            )

    def test_more_storage_bits_do_not_give_more_error(self) -> None:
        quantizer, weight = self.make(), normal_weight(64, 512)
        sample = self.sample(quantizer)
        errors = [relative_error(quantizer, weight, configuration) for configuration in sample]
        assert_more_bits_pay([quantizer.storage_bits(each) for each in sample], errors)

    @pytest.mark.parametrize("std", MAGNITUDES)
    def test_the_error_does_not_depend_on_the_weights_magnitude(self, std: float) -> None:
        quantizer = self.make()
        for configuration in self.sample(quantizer):
            actual = relative_error(quantizer, normal_weight(16, 512, std), configuration)
            expected = relative_error(quantizer, normal_weight(16, 512), configuration)
            self.assert_error("magnitude", configuration, actual, expected)
