"""How alike the errors of two layer configurations are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from qsearch_quantizers.integer.quantizer import Integer
from qsearch_quantizers.normal_float.quantizer import NormalFloat

from qsearch._arrays import Floats
from qsearch.errors import InputError
from qsearch.plugins.protocols import QuantizedTensor, Quantizer
from qsearch.space.configuration import LayerConfiguration
from qsearch.surrogate.error_correlation import error_correlation


def quantizers() -> list[Quantizer]:
    return [
        NormalFloat(
            NormalFloat.Options(
                bits=(2, 4), scale_bits=(8,), scale_dtype=("float16", "float32"), block_size=(64,)
            )
        ),
        Integer(Integer.Options()),
    ]


@pytest.fixture(scope="module", params=quantizers(), ids=lambda quantizer: str(quantizer.name))
def measured(request: pytest.FixtureRequest) -> tuple[Quantizer, Floats]:
    return request.param, error_correlation(request.param)


def test_all_choices_have_one_correlation_matrix(
    measured: tuple[Quantizer, Floats],
) -> None:
    correlation = measured[1]
    assert correlation == pytest.approx(correlation.T, abs=1e-6)
    assert np.diag(correlation) == pytest.approx(1)
    assert np.abs(correlation).max() <= 1 + 1e-5
    assert np.linalg.eigvalsh(correlation).min() > -1e-4


def test_two_choices_correlate_as_their_errors_do(measured: tuple[Quantizer, Floats]) -> None:
    quantizer, correlation = measured
    weight = torch.randn(256, 512, generator=torch.Generator().manual_seed(7))
    choices = quantizer.choices().layer_configurations
    first, second = (
        (quantizer.dequantize(quantizer.quantize(weight, choices[n])) - weight).flatten()
        for n in (0, 1)
    )
    expected = float(torch.nn.functional.cosine_similarity(first, second, dim=0))
    assert correlation[0, 1] == pytest.approx(expected, abs=0.02)


def test_a_choice_without_error_correlates_with_itself_alone() -> None:
    class Exact(Integer):
        """Leaves weights as they are under its first choice."""

        def quantize(
            self, weight: torch.Tensor, configuration: LayerConfiguration
        ) -> QuantizedTensor:
            self.weight = weight
            return super().quantize(weight, configuration)

        def dequantize(self, quantized: QuantizedTensor) -> torch.Tensor:
            exact = quantized.configuration == self.choices().layer_configuration(0)
            return self.weight if exact else super().dequantize(quantized)

    correlation = error_correlation(Exact(Integer.Options()))
    assert correlation[0, 0] == 1
    assert (correlation[0, 1:] == 0).all()
    assert np.isfinite(correlation).all()


def test_weights_that_are_not_finite_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    quantizer = Integer(Integer.Options())

    def broken(quantized: QuantizedTensor) -> torch.Tensor:
        return torch.full((128, 512), torch.nan)

    monkeypatch.setattr(quantizer, "dequantize", broken)
    with pytest.raises(InputError, match=r"'integer' gives weights .* LayerConfiguration\(bits=2"):
        error_correlation(quantizer)


def test_leaves_the_global_generator_alone_and_is_repeatable() -> None:
    before = torch.get_rng_state()
    quantizer = quantizers()[1]
    assert np.array_equal(error_correlation(quantizer), error_correlation(quantizer))
    assert torch.equal(torch.get_rng_state(), before)
