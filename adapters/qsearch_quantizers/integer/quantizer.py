"""Integer quantizer: groups of weights on an even grid, with float16 scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Literal, get_args

from pydantic import field_validator
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import IntegerWeight
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.fitted_scales import scale_factors
from qsearch_quantizers.gptq import FeedbackFactors, compensated_codes
from qsearch_quantizers.input_options import InputOptions
from qsearch_quantizers.integer.decoder import IntegerDecoder
from qsearch_quantizers.integer.grid import (
    Grid,
    GridFinder,
    asymmetric_grid,
    joined,
    nearest_codes,
    symmetric_grid,
    to_float16,
)
from qsearch_quantizers.integer.grouped import GroupedQuantizer
from qsearch_quantizers.weights import CHUNK, check_weight

Bits = Literal[2, 3, 4, 8]
GroupSize = Literal[32, 64, 128]
Scheme = Literal["symmetric", "asymmetric"]


class Integer(GroupedQuantizer, IntegerDecoder):
    """Round to multiples of a group's scale.

    * ``symmetric``: weight = scale · (code - 2^(bits-1)). The scale is signed, so that the
      weight of greatest magnitude always gets code 0 and no code is wasted: at 2 bits, the
      relative error is 0.44, not 0.77 as with the common scale.
    * ``asymmetric``: weight = scale · (code - zero point), over the group's range with zero
      included; the zero point is an integer of ``bits`` bits.

    Multiples are the nearest ones, or follow from the layer's inputs, as scales may
    (:class:`~qsearch_quantizers.input_options.InputOptions`). What is stored is the same. GPTQ's
    order by the inputs' size ("act-order") is left out, since a reader would need each column's
    group.
    """

    options: Options

    class Options(InputOptions):
        """Which values of each knob a study may use, and the scheme or schemes.

        Args:
            bits: Bits of a weight's code.
            group_size: Neighbouring weights of a row that share a scale.
            scheme: One scheme, or several as one more knob.
        """

        bits: tuple[Bits, ...] = (2, 3, 4, 8)
        group_size: tuple[GroupSize, ...] = (32, 64, 128)
        scheme: Scheme | tuple[Scheme, ...] = "symmetric"

        @field_validator("scheme")
        @classmethod
        def _one_or_both(cls, value: Scheme | tuple[Scheme, ...]) -> Scheme | tuple[Scheme, ...]:
            if isinstance(value, str):
                return value
            return value[0] if len(value) == 1 else get_args(Scheme)

    def require_installed(self) -> None:
        """Do nothing: it needs no package of its own."""

    @property
    def needs_inputs(self) -> bool:
        """Whether weights depend on a layer's inputs (``rounding: gptq``, ``fit_scales``)."""
        return self.options.need_inputs

    def quantize(self, weight: Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        """Quantize a weight by rounding to nearest; an InputError if inputs are needed."""
        if self.needs_inputs:
            raise self.options.missing_inputs_error()
        return self._quantized(weight, configuration, nearest_codes)

    def quantize_for_inputs(
        self, weight: Tensor, configuration: LayerConfiguration, moment: Tensor
    ) -> QuantizedTensor:
        """Quantize a weight as the options say, into the tensors of :meth:`quantize`.

        The moment is E[x·xᵀ] of the layer's inputs x (input features × input features); one of
        another shape, or not positive semidefinite, is an InputError.
        """
        if not self.needs_inputs:
            return self.quantize(weight, configuration)
        check_weight(weight)
        quantized = self._rounded(weight, configuration, moment)
        return self._fitted(weight, quantized, moment) if self.options.fit_scales else quantized

    def _rounded(
        self, weight: Tensor, configuration: LayerConfiguration, moment: Tensor
    ) -> QuantizedTensor:
        """Return a weight as rounded by the option."""
        is_nearest = self.options.rounding == "nearest"
        factor = None if is_nearest else self._factors.of(weight, moment)
        if factor is None:
            return self._quantized(weight, configuration, nearest_codes)

        def rounded(rows: Tensor, size: int, find_grid: GridFinder) -> tuple[Tensor, Grid]:
            codes, grids = compensated_codes(factor, rows, size, lambda some, _: find_grid(some, 0))
            return codes, joined(grids)

        # All rows at once: for each column, PyTorch has to be called some ten times.
        return self._quantized(weight, configuration, rounded, weight.numel())

    def _fitted(
        self, weight: Tensor, quantized: QuantizedTensor, moment: Tensor
    ) -> QuantizedTensor:
        """Return a quantized weight with scales that suit its codes."""
        (factors,) = scale_factors(
            weight.detach().float(),
            [self.dequantize(quantized).float()],
            moment,
            self.group_size(quantized.configuration, weight.shape[1]),
            self.options.dampening,
        )
        scales = to_float16(quantized.tensors["scales"].float() * factors)
        return replace(quantized, tensors={**quantized.tensors, "scales": scales})

    @cached_property
    def _factors(self) -> FeedbackFactors:
        return FeedbackFactors(self.options.dampening)

    def _quantized(
        self,
        weight: Tensor,
        configuration: LayerConfiguration,
        rounded: Callable[[Tensor, int, GridFinder], tuple[Tensor, Grid]],
        chunk: int = CHUNK,
    ) -> QuantizedTensor:
        """Return a weight as rounded, a chunk of weights at a time, to grids of its groups."""
        bits = self.bits(configuration)
        grid_of = asymmetric_grid if self.is_asymmetric(configuration) else symmetric_grid

        def quantize(rows: Tensor) -> dict[str, Tensor]:
            size = self.group_size(configuration, rows.shape[1])
            codes, grid = rounded(rows, size, partial(grid_of, bits=bits))
            return {"codes": codes, "scales": grid.scales, "zero_points": grid.zero_points}

        return self.quantize_by_rows(weight, configuration, quantize, chunk)

    def as_integers(self, quantized: QuantizedTensor) -> IntegerWeight:
        """Return a quantized weight as integers on a grid, exactly."""
        return self.integer_weight(quantized)
