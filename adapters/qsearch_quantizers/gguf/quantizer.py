"""Quantizer of ggml's types, which llama.cpp computes with."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from qsearch.errors import InputError
from qsearch.plugins.protocols import QuantizedTensor
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.gguf.compensated import CODES, compensated_blocks
from qsearch_quantizers.gguf.decoder import GGUFDecoder
from qsearch_quantizers.gguf.fitted import fitted_blocks
from qsearch_quantizers.gguf.ggml_library import quantize_rows, require_library
from qsearch_quantizers.gguf.ggml_types import FLOAT16, TYPES, fits
from qsearch_quantizers.gptq import FeedbackFactors
from qsearch_quantizers.weights import check_moment, check_weight

Type = Literal[
    "IQ2_XXS",
    "IQ2_XS",
    "IQ2_S",
    "Q2_K",
    "IQ3_XXS",
    "Q3_K",
    "IQ3_S",
    "MXFP4",
    "IQ4_XS",
    "Q4_0",
    "IQ4_NL",
    "Q4_K",
    "Q4_1",
    "Q5_0",
    "Q5_K",
    "Q5_1",
    "Q6_K",
    "Q8_0",
]

DEFAULT: tuple[Type, ...] = (
    *("Q2_K", "Q3_K", "MXFP4", "IQ4_XS", "Q4_0", "IQ4_NL", "Q4_K"),
    *("Q4_1", "Q5_0", "Q5_K", "Q5_1", "Q6_K", "Q8_0"),
)
"""Those that take at most 0.3 µs a weight to quantize, and that llama.cpp is quick with."""

LIMIT = 2.0**14
"""Greatest magnitude of weights: scales of ggml's blocks are float16, and its search for them goes
a few times beyond the weights. ggml aborts the process where numbers overflow."""


class GGUF(GGUFDecoder):
    """ggml's types of weights, as GGUF files hold them, quantized and dequantized by ggml.

    Neighbours of a row share the scales of a block: 32 of them, or 256 in the types K and IQ (but
    IQ4_NL). A layer takes the types whose blocks divide its rows. Other weights get what
    llama-quantize gives them: another type, or float16.

    With ``importance: inputs`` squared errors are weighted by the mean squares of a layer's inputs
    (:class:`~qsearch.plugins.quantizer_capabilities.SupportsCalibration`), as llama.cpp does with
    an importance matrix of the same texts. Q8_0 and MXFP4 make no use of them. With ``rounding:
    gptq``, codes of the types of :data:`~qsearch_quantizers.gguf.compensated.CODES` make up for the
    errors of those before them in the row, on the scales that ggml finds. With ``fit_scales``,
    the float16 numbers of ggml's blocks are replaced by those that bring the layer's outputs
    nearest to the original's (:mod:`~qsearch_quantizers.fitted_scales`); MXFP4 has none.
    """

    class Options(BaseModel):
        """Which types a study may use, and what weighs their errors.

        Args:
            types: Names of ggml's types.
            importance: ``inputs``, or ``none``, with which all inputs count the same.
            rounding: ``ggml``, or ``gptq`` (:mod:`~qsearch_quantizers.gptq`).
            fit_scales: Whether scales, once the codes are found, are those that bring the layer's
                outputs nearest to the original's.
            dampening: What both add to each input's mean square, as a share of their mean.
        """

        model_config = ConfigDict(extra="forbid", frozen=True)

        types: tuple[Type, ...] = DEFAULT
        importance: Literal["inputs", "none"] = "inputs"
        rounding: Literal["ggml", "gptq"] = "ggml"
        fit_scales: bool = False
        dampening: float = Field(default=0.01, gt=0, allow_inf_nan=False)

        @field_validator("types")
        @classmethod
        def _by_rising_bits(cls, types: tuple[Type, ...]) -> tuple[Type, ...]:
            if not types:
                raise ValueError("give at least one type")
            if len(set(types)) != len(types):
                raise ValueError(f"types must be distinct, not {list(types)}")
            return tuple(sorted(types, key=list(TYPES).index))

    def __init__(self, options: Options) -> None:
        super().__init__(dict(options))
        self.options = options
        self._factors = FeedbackFactors(options.dampening)

    def require_installed(self) -> None:
        """Check that ggml is installed."""
        require_library()

    # What a weight takes

    def takes(self, shape: tuple[int, int], configuration: LayerConfiguration) -> bool:
        """Return whether the rows of a layer are whole blocks of a type."""
        return fits(self._wanted(configuration), shape[1])

    def storage_bits(self, configuration: LayerConfiguration) -> float:
        """Return the bits per weight of rows of whole blocks."""
        return TYPES[self._wanted(configuration)].bits

    def storage_bits_of(self, shape: tuple[int, int], configuration: LayerConfiguration) -> float:
        """Return the bits per weight of what a weight of this shape gets."""
        return self._stored(shape, configuration).bits

    # Quantizing

    @property
    def needs_inputs(self) -> bool:
        """Whether weights depend on a layer's inputs: by their importance, or by whole moments."""
        return self.options.importance == "inputs" or not self.takes_diagonal

    @property
    def takes_diagonal(self) -> bool:
        """Whether moments matter by their diagonals alone, as they do for ggml."""
        return self.options.rounding == "ggml" and not self.options.fit_scales

    def quantize(self, weight: Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        """Quantize a weight whose inputs count the same.

        If inputs are needed this is an InputError: a caller that knows nothing of inputs would get,
        and perhaps publish, other weights than the study's.
        """
        if self.needs_inputs:
            option = "fit_scales" if self.options.fit_scales else "importance 'inputs'"
            if self.options.rounding == "gptq":
                option = "rounding 'gptq'"
            raise InputError(
                f"quantizer.{option} needs the second moment of the layer's inputs, which was not"
                " given here; where nothing measures inputs, use importance 'none' and rounding"
                " 'ggml' without fit_scales"
            )
        check_weight(weight)
        return self._quantized(weight, configuration, torch.ones(weight.shape[1]), None)

    def quantize_for_inputs(
        self, weight: Tensor, configuration: LayerConfiguration, moment: Tensor
    ) -> QuantizedTensor:
        """Quantize a weight as the options say for its layer's inputs.

        Their moment may be its diagonal (input features), if :attr:`takes_diagonal`; of another
        shape it is an InputError.
        """
        if not self.needs_inputs:
            return self.quantize(weight, configuration)
        check_weight(weight)
        squares = moment.detach()
        is_diagonal = squares.ndim == 1 and self.takes_diagonal
        check_moment(squares, weight.shape[1], diagonal=is_diagonal)
        if not is_diagonal:
            squares = squares.diagonal()
        if self.options.importance == "none":
            squares = torch.ones(weight.shape[1])
        of_gptq = moment if self.options.rounding == "gptq" else None
        quantized = self._quantized(weight, configuration, _importance(squares), of_gptq)
        return self._fitted(weight, quantized, moment) if self.options.fit_scales else quantized

    def _fitted(
        self, weight: Tensor, quantized: QuantizedTensor, moment: Tensor
    ) -> QuantizedTensor:
        """Return a quantized weight with scales that suit its codes."""
        blocks = self.ggml_blocks(quantized)
        found = fitted_blocks(
            self._stored(quantized.shape, quantized.configuration),
            blocks.cpu(),
            weight.detach().float().cpu(),
            moment.detach().cpu(),
            self.options.dampening,
        )
        return replace(quantized, tensors={"blocks": found.to(blocks.device)})

    def _quantized(
        self,
        weight: Tensor,
        configuration: LayerConfiguration,
        importance: Tensor,
        moment: Tensor | None,
    ) -> QuantizedTensor:
        shape = (weight.shape[0], weight.shape[1])
        kind = self._stored(shape, configuration)
        values = weight.detach().float().cpu().contiguous()
        if float(values.abs().max()) > LIMIT:
            raise InputError(
                f"weight of shape {shape} holds values beyond ±{LIMIT:g}, which ggml's types do not"
                " hold"
            )
        factor = None
        if moment is not None and kind.name in CODES:
            factor = self._factors.of(values, moment)
        if kind == FLOAT16:
            blocks = values.half().view(torch.uint8)
        elif factor is not None:
            blocks = compensated_blocks(kind, values, importance, factor)
        else:
            blocks = quantize_rows(kind, values, importance)
        return QuantizedTensor({"blocks": blocks.to(weight.device)}, shape, configuration)


def _importance(squares: Tensor) -> Tensor:
    """Return mean squares of inputs (columns) as ggml takes them: not all of them zero.

    They are divided by a power of two, so that ggml's sums do not overflow; no weight changes.
    """
    mean = squares.double().mean()
    if mean == 0:
        return torch.ones(len(squares))
    power = torch.frexp(mean).exponent
    return torch.ldexp(squares.double(), -power).float().cpu().contiguous()
