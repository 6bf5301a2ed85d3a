"""Integer quantizer: groups of weights on an even grid, with float16 scales."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

from pydantic import Field, field_validator
from torch import Tensor

from qsearch.errors import InputError
from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import IntegerWeight
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.integer.decoder import IntegerDecoder
from qsearch_quantizers.integer.gptq import compensated_codes, feedback_factor
from qsearch_quantizers.integer.grid import (
    Grid,
    GridFinder,
    asymmetric_grid,
    nearest_codes,
    symmetric_grid,
)
from qsearch_quantizers.integer.grouped import GroupedQuantizer
from qsearch_quantizers.knobs import KnobOptions
from qsearch_quantizers.weights import CHUNK, check_moment, check_weight

Bits = Literal[2, 3, 4, 8]
GroupSize = Literal[32, 64, 128]
Scheme = Literal["symmetric", "asymmetric"]
Rounding = Literal["nearest", "gptq"]


class Integer(GroupedQuantizer, IntegerDecoder):
    """Round to multiples of a group's scale.

    * ``symmetric``: weight = scale · (code - 2^(bits-1)). The scale is signed, so that the
      weight of greatest magnitude always gets code 0 and no code is wasted: at 2 bits, the
      relative error is 0.44, not 0.77 as with the common scale.
    * ``asymmetric``: weight = scale · (code - zero point), over the group's range with zero
      included; the zero point is an integer of ``bits`` bits.

    Multiples are the nearest ones, or with ``rounding: gptq`` those that make up for the errors of
    the row's earlier weights (:mod:`~qsearch_quantizers.integer.gptq`). What is stored is the same.
    GPTQ's order by the inputs' size ("act-order") is left out, since a reader would need each
    column's group.
    """

    options: Options

    class Options(KnobOptions):
        """Which values of each knob a study may use, the scheme or schemes, and the rounding.

        Args:
            bits: Bits of a weight's code.
            group_size: Neighbouring weights of a row that share a scale.
            scheme: One scheme, or several as one more knob.
            rounding: ``nearest``, or ``gptq``, which needs the moments of the layers' inputs. It
                is not a knob: it costs no bits, so a search would have nothing to weigh.
            dampening: What ``gptq`` adds to each input's mean square, as a share of their mean.
        """

        bits: tuple[Bits, ...] = (2, 3, 4, 8)
        group_size: tuple[GroupSize, ...] = (32, 64, 128)
        scheme: Scheme | tuple[Scheme, ...] = "symmetric"
        rounding: Rounding = "nearest"
        dampening: float = Field(default=0.01, gt=0, allow_inf_nan=False)

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
        """Whether weights are rounded to suit a layer's inputs (``rounding: gptq``)."""
        return self.options.rounding == "gptq"

    def quantize(self, weight: Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        """Quantize a weight by rounding to nearest.

        With ``rounding: gptq`` this is an InputError: a caller that knows nothing of inputs would
        get, and perhaps publish, other weights than the study's.
        """
        if self.needs_inputs:
            raise InputError(
                "quantizer.rounding 'gptq' needs the second moment of the layer's inputs, which"
                " was not given here; where nothing measures inputs, use rounding 'nearest'"
            )
        return self._quantized(weight, configuration, nearest_codes)

    def quantize_for_inputs(
        self, weight: Tensor, configuration: LayerConfiguration, moment: Tensor
    ) -> QuantizedTensor:
        """Quantize a weight by the option's rounding, into the tensors of :meth:`quantize`.

        The moment is E[x·xᵀ] of the layer's inputs x (input features × input features); one of
        another shape, or not positive semidefinite, is an InputError.
        """
        if not self.needs_inputs:
            return self.quantize(weight, configuration)
        check_weight(weight)
        check_moment(moment, weight.shape[1])
        try:
            factor = feedback_factor(moment.detach().to(weight.device), self.options.dampening)
        except ValueError as error:
            raise InputError(
                f"weight of shape {tuple(weight.shape)} cannot be rounded by its inputs: {error}"
            ) from error
        if int(factor.count_nonzero()) == len(factor):
            # R = I: nothing makes up for an error, such as in the rows of an embedding.
            return self._quantized(weight, configuration, nearest_codes)
        # All rows at once: for each column, PyTorch has to be called some ten times.
        rounded = partial(compensated_codes, factor)
        return self._quantized(weight, configuration, rounded, weight.numel())

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
