"""What all checks of quantizers have in common: the quantizer, and what it is tried on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor, Quantizer
from qsearch.space.configuration import LayerConfiguration
from qsearch.testing.samples import normal_weight, quantize, sample_layer_configurations

SHAPES = ((1, 1), (1, 64), (5, 7), (130, 1), (16, 200))
"""The least shape there is, and such as no group size divides."""

TOLERANCES: Mapping[str, float] = {
    "magnitude": 0.25,
    "half precision": 0.25,
    "gpu": 0.25,
    "zeros": 0.0,
    "rows": 0.0,
}
"""By which part of itself an error may differ where weights have another magnitude or type or lie
on a GPU; by which part of :data:`~qsearch.testing.samples.TYPICAL` zeros may come back as others;
by which part of itself the error of some rows' outputs may differ where they are quantized alone.
"""


class QuantizerChecks:
    """The quantizer that is checked.

    Attributes:
        configurations: How many layer configurations are tried, next to the corners of each
            knob; see :func:`~qsearch.testing.samples.sample_layer_configurations`.
    """

    configurations: ClassVar[int] = 48

    def make(self) -> Quantizer:
        """Return the quantizer; called in each check."""
        raise NotImplementedError(f"{type(self).__name__} needs a method make")

    def tolerance(self, check: str, configuration: LayerConfiguration) -> float:
        """Return one of :data:`TOLERANCES`; a quantizer that truly has a floor may return more."""
        return TOLERANCES[check]

    @pytest.fixture(autouse=True)
    def _settings(self) -> Iterator[None]:
        """Keep PyTorch to one thread, which is faster for small weights; then undo all settings."""
        before = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before[0])
        torch.set_grad_enabled(before[1])
        torch.set_default_dtype(before[2])

    def sample(self, quantizer: Quantizer) -> tuple[LayerConfiguration, ...]:
        """Return the layer configurations that are tried."""
        return sample_layer_configurations(quantizer.choices(), self.configurations)

    def quantized(
        self, quantizer: Quantizer
    ) -> Iterator[tuple[Tensor, LayerConfiguration, QuantizedTensor]]:
        """Yield weights of each shape, quantized with each of these layer configurations."""
        for shape in SHAPES:
            for configuration in self.sample(quantizer):
                weight = normal_weight(*shape)
                yield weight, configuration, quantize(quantizer, weight, configuration)

    def assert_error(
        self, check: str, configuration: LayerConfiguration, actual: float, expected: float
    ) -> None:
        """Assert that a relative error is the usual one, to a tolerance of :data:`TOLERANCES`."""
        tolerance = self.tolerance(check, configuration)
        assert actual == pytest.approx(expected, rel=tolerance, abs=0), (
            f"{check}: relative error with {configuration}"
        )


def made_again(quantizer: Quantizer) -> Quantizer:
    """Return another instance from the options as JSON, as readers of exports make it."""
    plugin: Any = type(quantizer)
    options = getattr(quantizer, "options", None)
    assert isinstance(options, BaseModel), "attribute options"
    again: Quantizer = plugin(plugin.Options.model_validate_json(options.model_dump_json()))
    assert again is not quantizer
    return again
