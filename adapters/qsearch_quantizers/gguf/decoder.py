"""Reading ggml's types by ggml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import Elements, TensorLayout
from qsearch.space.configuration import KnobValue, LayerConfiguration
from qsearch_quantizers.decoding import KnobDecoder, Knobs
from qsearch_quantizers.gguf.ggml_library import dequantize_rows
from qsearch_quantizers.gguf.ggml_types import FLOAT16, TYPES, GGMLType, stored_type


class GGUFDecoder(KnobDecoder):
    """Reads the blocks of ggml's types; they are the values of one knob, by rising bits."""

    name = "gguf"
    KNOBS: ClassVar[Knobs] = {"types": tuple(TYPES)}
    UNREAD = frozenset({"importance", "rounding", "fit_scales", "dampening"})

    def knob_values(self, options: Mapping[str, Any]) -> dict[str, tuple[KnobValue, ...]]:
        """Return the types as values of the knob ``type``."""
        return {"type": super().knob_values(options)["types"]}

    def layout(
        self, shape: tuple[int, int], configuration: LayerConfiguration
    ) -> Mapping[str, TensorLayout]:
        """Return how the tensor of a weight of this shape is stored."""
        width = self._stored(shape, configuration).row_bytes(shape[1])
        return {"blocks": TensorLayout((shape[0], width), torch.uint8, None)}

    def ggml_type(self, shape: tuple[int, int], configuration: LayerConfiguration) -> str:
        """Return the name of the type that a weight of this shape gets."""
        return self._stored(shape, configuration).name

    def dequantize(self, quantized: QuantizedTensor) -> Tensor:
        """Return the float32 weight; on a GPU it is dequantized by the CPU."""
        kind, blocks = self._stored(quantized.shape, quantized.configuration), self.ggml_blocks
        return _dequantized(kind, blocks(quantized))

    def dequantize_rows(self, quantized: QuantizedTensor, first: int, last: int) -> Tensor:
        """Return some rows of the weight (last - first × input features), float32."""
        return self.dequantize(quantized.rows(first, last))

    def ggml_blocks(self, quantized: QuantizedTensor) -> Tensor:
        """Return a weight's bytes (output features × bytes of a row), uint8."""
        return quantized.tensors["blocks"]

    def look_up(
        self,
        elements: Mapping[str, Elements],
        shape: tuple[int, int],
        configuration: LayerConfiguration,
        rows: Tensor,
    ) -> Tensor:
        """Return some rows of the weight (rows × input features), float32."""
        kind = self._stored(shape, configuration)
        width = kind.row_bytes(shape[1])
        places = rows[:, None] * width + torch.arange(width, device=rows.device)
        return _dequantized(kind, elements["blocks"](places))

    def _wanted(self, configuration: LayerConfiguration) -> str:
        self._choices.index(configuration)
        return configuration.text("type")

    def _stored(self, shape: tuple[int, int], configuration: LayerConfiguration) -> GGMLType:
        return stored_type(self._wanted(configuration), shape[1])


def _dequantized(kind: GGMLType, blocks: Tensor) -> Tensor:
    if kind == FLOAT16:
        return blocks.view(torch.float16).float()
    return dequantize_rows(kind, blocks.cpu()).to(blocks.device)
