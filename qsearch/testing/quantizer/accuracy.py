"""Checks of how near to a weight its quantized one is."""

from __future__ import annotations

from itertools import pairwise
from unittest import SkipTest

import torch

from qsearch.space.configuration import LayerConfiguration
from qsearch.testing.base import require
from qsearch.testing.quantizer.base import QuantizerChecks
from qsearch.testing.samples import (
    TYPICAL,
    normal_weight,
    rank_correlation,
    relative_error,
    round_trip,
)
from qsearch.testing.tensors import require_finite

MAGNITUDES = (TYPICAL / 20, TYPICAL * 10_000)
"""Standard deviations of unusual weights. The smaller is about the least of trained layers; at 8
bits, a scale is then 2e-5, which float16 still tells to 1 part in 600. With the larger, the
greatest weight is about 1,000, and float16 ends at 65,504."""


class AccuracyChecks(QuantizerChecks):
    """Errors are finite, and fall with the bits that are spent."""

    __test__ = False

    def test_the_relative_error_is_below_one(self) -> None:
        quantizer = self.make()
        for chosen in self.sample(quantizer):
            error = relative_error(quantizer, normal_weight(64, 512), chosen)
            # A quantizer that returns zeros has an error of 1.
            require(error < 1, f"relative error with {chosen}: expected less than 1, found {error}")

    def test_zeros_stay_zeros(self) -> None:
        quantizer = self.make()
        for chosen in self.sample(quantizer):
            found = float(round_trip(quantizer, torch.zeros(8, 200), chosen).detach().abs().max())
            most = TYPICAL * self.tolerance("test_zeros_stay_zeros", chosen)
            require(
                found <= most,
                f"greatest magnitude of a matrix of zeros with {chosen}: expected"
                f" {f'at most {most:.3g}' if most else 0}, found {found:.3g}",
            )

    def test_rows_without_spread_stay_finite(self) -> None:
        quantizer = self.make()
        with_rows = normal_weight(8, 200)
        with_rows[2], with_rows[4], with_rows[5] = 0.0, TYPICAL, -TYPICAL
        matrices = {"rows of one value": with_rows, "one value": torch.full((8, 200), TYPICAL)}
        for name, weight in matrices.items():
            for chosen in self.sample(quantizer):
                restored = round_trip(quantizer, weight, chosen)
                require_finite(f"matrix with {name}, {chosen}", restored)

    def test_more_bits_give_less_error(self) -> None:
        quantizer = self.make()
        knobs = {knob.name: knob.values for knob in quantizer.choices().knobs}
        values = sorted(bits for bits in knobs.get("bits", ()) if isinstance(bits, int))
        if len(values) < 2:
            raise SkipTest("this quantizer has no knob 'bits' of several numbers")
        weight = normal_weight(64, 512)
        for chosen in self.sample(quantizer):
            if chosen["bits"] != values[0]:
                continue
            rising = [LayerConfiguration({**chosen, "bits": bits}) for bits in values]
            errors = [relative_error(quantizer, weight, one) for one in rising]
            require(
                all(more > less for more, less in pairwise(errors)),
                f"relative errors with bits {values} in {chosen}: expected each below the one"
                f" before, found {[round(error, 4) for error in errors]}",
            )

    def test_the_error_falls_as_storage_bits_grow(self) -> None:
        quantizer = self.make()
        sample = self.sample(quantizer)
        bits = [quantizer.storage_bits(chosen) for chosen in sample]
        if len(set(bits)) < 2:
            raise SkipTest("all layer configurations have the same storage bits")
        weight = normal_weight(64, 512)
        found = rank_correlation(bits, [relative_error(quantizer, weight, c) for c in sample])
        require(
            found < 0,
            "rank correlation of storage bits and error over layer configurations: expected less"
            f" than 0, found {found:.3f}",
        )

    def test_the_error_does_not_depend_on_the_weights_magnitude(self) -> None:
        quantizer = self.make()
        for chosen in self.sample(quantizer):
            expected = relative_error(quantizer, normal_weight(16, 512), chosen)
            for std in MAGNITUDES:
                self.require_expected_error(
                    "test_the_error_does_not_depend_on_the_weights_magnitude",
                    chosen,
                    f"weights with standard deviation {std}, against {TYPICAL},",
                    relative_error(quantizer, normal_weight(16, 512, std), chosen),
                    expected,
                )
