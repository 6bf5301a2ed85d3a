"""Quantizing weights to codes of groups of a row, with float16 scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.integer.decoder import GroupedDecoder
from qsearch_quantizers.knobs import KnobQuantizer
from qsearch_quantizers.weights import CHUNK, check_weight, chunk_of


class GroupedQuantizer(KnobQuantizer, GroupedDecoder):
    """What quantizers share that store codes of groups of a row; a subclass quantizes."""

    def storage_bits(self, configuration: LayerConfiguration) -> float:
        """Return bits + (16 + bits of a zero point, if any) / group size, bits per weight."""
        layouts = self.layout((1, 1), configuration)
        of_group = sum(
            layout.bits or 8 * layout.dtype.itemsize
            for name, layout in layouts.items()
            if name != "codes"
        )
        return self.bits(configuration) + of_group / self.group_size(configuration, 1)

    def quantize_by_rows(
        self,
        weight: Tensor,
        configuration: LayerConfiguration,
        quantize: Callable[[Tensor], Mapping[str, Tensor]],
        chunk: int = CHUNK,
    ) -> QuantizedTensor:
        """Quantize some rows of a weight at a time.

        Args:
            weight: Checked here, as the layer configuration is.
            configuration: Of the weight.
            quantize: Returns the tensors of some rows (float32), perhaps with others.
            chunk: Weights at a time on a CPU; elsewhere all.
        """
        self._choices.index(configuration)
        check_weight(weight)
        rows, columns = weight.shape
        step = chunk_of(rows, columns, weight.device, chunk)
        tensors = {
            name: torch.empty(item.shape, dtype=item.dtype, device=weight.device)
            for name, item in self.layout((rows, columns), configuration).items()
        }
        for first in range(0, rows, step):
            part = quantize(weight.detach()[first : first + step].float())
            for name, tensor in tensors.items():
                tensor[first : first + step] = part[name]
        return QuantizedTensor(tensors, (rows, columns), configuration)
