"""Normal-float quantizer with two-level scales (QLoRA, arXiv:2305.14314; LQ-LoRA, 2311.12023)."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Literal, cast

from qsearch.plugins.protocols import QuantizedTensor
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.input_options import InputOptions
from qsearch_quantizers.knobs import KnobQuantizer
from qsearch_quantizers.normal_float.decoder import NormalFloatDecoder

if TYPE_CHECKING:
    from torch import Tensor

    from qsearch_quantizers.gptq import FeedbackFactors

Bits = Literal[2, 3, 4, 8]
ScaleDtype = Literal["bfloat16", "float16", "float32"]
BlockSize = Literal[16, 32, 64]
ScaleBlockSize = Literal[16, 64, 256]

SCALE_BITS: dict[ScaleDtype, int] = {"bfloat16": 16, "float16": 16, "float32": 32}

SHRINK: dict[int, float] = {2: 0.65, 3: 0.85, 4: 0.93, 8: 1.0}
"""By bits, the second scale tried for a block as a part of the first; 1 means the next lower."""


class NormalFloat(KnobQuantizer, NormalFloatDecoder):
    """Codes on normal quantiles, blocks scaled by quantized absolute maxima.

    A weight is flattened row by row and cut into blocks of ``block_size``; only the last block
    can be partial, so the storage formula holds up to one block whatever the shape. Blocks form
    scale blocks of ``scale_block_size``. The greatest absolute value of a scale block is kept in
    ``scale_dtype``, and each block's scale is a multiple of 2^-scale_bits of it, from 1 to
    2^scale_bits. So no scale is zero, and a block at the maximum keeps it.

    Two scales are tried for each block: the least multiple that is not below its absolute
    maximum, and a smaller one (:data:`SHRINK`) that clips the largest weights to represent the
    others better. The one with the least squared error of the block is kept, and codes belong to
    the scale as stored. Measured relative errors are far below those of the nearest multiple at 8
    bits (0.006, not 0.03) and at 2 bits (0.44, not 0.57), and as good at 4. The error need not fall
    as ``scale_bits`` grows: a coarse grid clips more, which helps at 2 bits.

    Codes are those of the nearest levels, or follow from the layer's inputs, as scales may
    (:class:`~qsearch_quantizers.input_options.InputOptions`). GPTQ's codes are on the same scales;
    fitted scales are multiples too, and left as they are where blocks go on in the next row.
    """

    options: Options

    class Options(InputOptions):
        """Which values of each knob a study may use."""

        bits: tuple[Bits, ...] = (2, 3, 4, 8)
        scale_bits: tuple[Bits, ...] = (2, 3, 4, 8)
        scale_dtype: tuple[ScaleDtype, ...] = ("bfloat16", "float16", "float32")
        block_size: tuple[BlockSize, ...] = (16, 32, 64)
        scale_block_size: tuple[ScaleBlockSize, ...] = (16, 64, 256)

    def require_installed(self) -> None:
        """Do nothing: it needs no package of its own."""

    def storage_bits(self, configuration: LayerConfiguration) -> float:
        """Return b0 + b1/B0 + bits(b2)/(B0·B1), bits per weight."""
        block_size = configuration.integer("block_size")
        scale_block_size = configuration.integer("scale_block_size")
        scale_dtype_bits = SCALE_BITS[cast(ScaleDtype, configuration.text("scale_dtype"))]
        return (
            configuration.integer("bits")
            + configuration.integer("scale_bits") / block_size
            + scale_dtype_bits / (block_size * scale_block_size)
        )

    @property
    def needs_inputs(self) -> bool:
        """Whether weights depend on a layer's inputs (``rounding: gptq``, ``fit_scales``)."""
        return self.options.need_inputs

    def quantize(self, weight: Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        """Quantize a weight by rounding to nearest; an InputError if inputs are needed.

        Returns:
            ``codes`` (packed, with the halves of each byte swapped at 4 bits, uint8),
            ``scale_codes`` (blocks, uint8) and ``scales`` (scale blocks, in the scale dtype).
        """
        if self.needs_inputs:
            raise self.options.missing_inputs_error()
        return self._nearest(weight, configuration)

    def quantize_for_inputs(
        self, weight: Tensor, configuration: LayerConfiguration, moment: Tensor
    ) -> QuantizedTensor:
        """Quantize a weight as the options say, into the tensors of :meth:`quantize`.

        The moment is E[x·xᵀ] of the layer's inputs x (input features × input features); one of
        another shape, or not positive semidefinite, is an InputError.
        """
        quantized = self._nearest(weight, configuration)
        if not self.needs_inputs:
            return quantized
        from qsearch_quantizers.normal_float.for_inputs import compensated, fitted
        from qsearch_quantizers.weights import check_moment

        check_moment(moment, weight.shape[1])
        options = self.options
        factor = self._factors.of(weight, moment) if options.rounding == "gptq" else None
        if factor is not None:
            quantized = compensated(weight, quantized, factor)
        if not options.fit_scales:
            return quantized
        return fitted(weight, quantized, moment, options.dampening, self.dequantize)

    @cached_property
    def _factors(self) -> FeedbackFactors:
        from qsearch_quantizers.gptq import FeedbackFactors

        return FeedbackFactors(self.options.dampening)

    def _nearest(self, weight: Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        import torch

        from qsearch_quantizers.normal_float.blocks import (
            absolute_maxima,
            blocks_of,
            empty_codes,
            least_error_codes,
            pack_blocks,
        )
        from qsearch_quantizers.normal_float.levels import level_table
        from qsearch_quantizers.normal_float.scales import block_scales, quantize_scales, shrunk
        from qsearch_quantizers.weights import check_weight, chunk_of

        self._choices.index(configuration)
        check_weight(weight)
        bits, block_size = configuration.integer("bits"), configuration.integer("block_size")
        flat = weight.detach().contiguous().view(-1)
        absmax = absolute_maxima(flat, block_size)
        scale_codes, scales = quantize_scales(absmax, configuration)
        upper = block_scales(scale_codes, scales, configuration)
        lower_codes = shrunk(scale_codes, SHRINK[bits])
        lower = block_scales(lower_codes, scales, configuration)
        table = level_table(bits, weight.device)
        codes = empty_codes(flat, bits)
        step = chunk_of(absmax.numel(), block_size, weight.device)
        for first in range(0, absmax.numel(), step):
            part = slice(first, first + step)
            blocks = blocks_of(flat, first, step, block_size)
            best, use_lower = least_error_codes(blocks, upper[part], lower[part], table)
            pack_blocks(best, bits, codes, first, flat.numel())
            scale_codes[part] = torch.where(use_lower, lower_codes[part], scale_codes[part])
        return QuantizedTensor(
            {"codes": codes, "scale_codes": scale_codes, "scales": scales},
            (weight.shape[0], weight.shape[1]),
            configuration,
        )
