"""What all checks of quantizers have in common: the quantizer, and what it is tried on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from pydantic import BaseModel
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor, Quantizer
from qsearch.space.configuration import LayerConfiguration
from qsearch.testing.base import Conformance, require
from qsearch.testing.quantizer.allowances import TOLERANCES, Allowance
from qsearch.testing.samples import normal_weight, quantize, sample_layer_configurations

SHAPES = ((1, 1), (1, 64), (5, 7), (130, 1), (16, 200))
"""The least shape there is, and such as no group size divides."""


class QuantizerChecks(Conformance):
    """The quantizer that is checked.

    Attributes:
        most_configurations: Greatest number of layer configurations that are tried, beside the
            corners of each knob; see :func:`~qsearch.testing.samples.sample_layer_configurations`.
        allowances: Exemptions from tolerances; none for a quantizer whose error is the same part
            of a weight of any magnitude.
    """

    __test__ = False
    most_configurations: ClassVar[int] = 48
    allowances: ClassVar[Sequence[Allowance]] = ()

    def setup_method(self) -> None:
        """Keep PyTorch to one thread, on which weights as small as these are faster."""
        self._before = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()
        torch.set_num_threads(1)
        torch.set_grad_enabled(True)

    def teardown_method(self) -> None:
        """Undo that, and what a quantizer may have done to PyTorch's settings."""
        threads, gradients, dtype = self._before
        torch.set_num_threads(threads)
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)

    def make(self) -> Quantizer:
        """Return the quantizer; called in each check."""
        raise NotImplementedError(f"{type(self).__name__} needs a method make")

    def sample(self, quantizer: Quantizer) -> tuple[LayerConfiguration, ...]:
        """Return the layer configurations that are tried."""
        return sample_layer_configurations(quantizer.choices(), self.most_configurations)

    def tolerance(self, check: str, chosen: LayerConfiguration) -> float:
        """Return a check's tolerance: its exemption for this layer configuration, or the kit's.

        Args:
            check: Name of the check.
            chosen: The layer configuration.
        """
        allowed = [one.tolerance for one in self.allowances if one.is_for(check, chosen)]
        return max(allowed, default=TOLERANCES[check])

    def require_expected_error(
        self, check: str, chosen: LayerConfiguration, what: str, found: float, expected: float
    ) -> None:
        """Check that an error is the expected one, to a check's tolerance.

        Args:
            check: Name of the check.
            chosen: The layer configuration.
            what: Of what the error is, for the message.
            found: Relative error, ‖W−W̃‖/‖W‖.
            expected: That of a usual weight on the CPU: float32, of standard deviation TYPICAL.
        """
        tolerance = self.tolerance(check, chosen)
        require(
            abs(found - expected) <= tolerance * expected,
            f"relative error of {what} with {chosen}: expected {expected:.4f} ± {tolerance:.0%},"
            f" found {found:.4f}",
        )

    def quantized(
        self, quantizer: Quantizer
    ) -> Iterator[tuple[Tensor, LayerConfiguration, QuantizedTensor]]:
        """Yield weights of each shape, quantized with each of these layer configurations."""
        for shape in SHAPES:
            for chosen in self.sample(quantizer):
                weight = normal_weight(*shape)
                yield weight, chosen, quantize(quantizer, weight, chosen)


def made_again(quantizer: Quantizer) -> Quantizer:
    """Return another instance from the options as JSON, as readers of exports make it."""
    plugin: Any = type(quantizer)
    options = getattr(quantizer, "options", None)
    if not isinstance(options, BaseModel):
        raise AssertionError(f"attribute options: expected a pydantic model, found {options!r}")
    written = json.dumps(options.model_dump(mode="json"))
    again: Quantizer = plugin(plugin.Options.model_validate(json.loads(written)))
    require(again is not quantizer, "expected a new quantizer for each call of the class")
    return again
