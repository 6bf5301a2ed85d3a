"""Right quantizers, of which those with a fault are made."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict

from qsearch.errors import InputError
from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import TensorLayout
from qsearch.space.configuration import Choices, Knob, LayerConfiguration


class Rounding:
    """Rounds to nearest on a symmetric grid of each group of a row; float16 scales."""

    name = "rounding"

    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid", frozen=True)

        bits: tuple[Literal[2, 3, 4, 8], ...] = (2, 3, 4, 8)
        group_size: tuple[Literal[16, 32], ...] = (16, 32)

    def __init__(self, options: Any) -> None:
        self.options = options

    def choices(self) -> Choices:
        options = self.options
        return Choices((Knob("bits", options.bits), Knob("group_size", options.group_size)))

    def storage_bits(self, configuration: LayerConfiguration) -> float:
        return configuration.integer("bits") + 16 / configuration.integer("group_size")

    def check(self, weight: torch.Tensor, configuration: LayerConfiguration) -> None:
        self.choices().index(configuration)
        if weight.ndim != 2 or not weight.is_floating_point() or not weight.isfinite().all():
            raise InputError("no finite floating-point matrix")

    def grid(self, groups: torch.Tensor, bits: int) -> torch.Tensor:
        return groups.abs().amax(-1, keepdim=True) / 2 ** (bits - 1)

    def quantize(self, weight: torch.Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        self.check(weight, configuration)
        bits, size = configuration.integer("bits"), configuration.integer("group_size")
        rows, columns = weight.shape
        padded = torch.nn.functional.pad(weight.detach().float(), (0, -columns % size))
        groups = padded.view(rows, -1, size)
        scales = self.grid(groups, bits).half()
        wide, half = scales.float(), 2 ** (bits - 1)
        codes = (groups / torch.where(wide == 0, torch.inf, wide)).round().clamp(-half, half - 1)
        codes = (codes + half).to(torch.uint8).view(rows, -1)[:, :columns].contiguous()
        tensors = {"codes": codes, "scales": scales.squeeze(-1)}
        return QuantizedTensor(tensors, (rows, columns), configuration)

    def dequantize(self, quantized: QuantizedTensor) -> torch.Tensor:
        return self.dequantize_rows(quantized, 0, quantized.shape[0])

    def dequantize_rows(self, quantized: QuantizedTensor, first: int, last: int) -> torch.Tensor:
        size = quantized.configuration.integer("group_size")
        half = 2 ** (quantized.configuration.integer("bits") - 1)
        codes = quantized.tensors["codes"][first:last].float() - half
        scales = quantized.tensors["scales"][first:last].float().repeat_interleave(size, 1)
        return codes * scales[:, : quantized.shape[1]]

    def layout(
        self, shape: tuple[int, int], configuration: LayerConfiguration
    ) -> dict[str, TensorLayout]:
        groups = (shape[0], math.ceil(shape[1] / configuration.integer("group_size")))
        return {
            "codes": TensorLayout(shape, torch.uint8, configuration.integer("bits")),
            "scales": TensorLayout(groups, torch.float16, None),
        }


class ForInputs(Rounding):
    """Shrinks a group's scale where that is better for the inputs, each row on its own."""

    needs_inputs = True

    def quantize_for_inputs(self, weight: Any, configuration: Any, moment: Any) -> Any:
        if moment.shape != (weight.shape[-1], weight.shape[-1]):
            raise InputError("the moment has another shape")
        return self.better(weight, configuration, moment)

    def better(self, weight: Any, configuration: Any, moment: Any) -> Any:
        right = self.quantize(weight, configuration)
        shrunk = replace(right, tensors={**right.tensors, "scales": right.tensors["scales"] * 0.9})
        off = [self.dequantize(one) - weight.detach().float() for one in (right, shrunk)]
        plain, small = (((D @ moment) * D).sum(1, keepdim=True) for D in off)
        scales = torch.where(
            small < plain, shrunk.tensors["scales"], right.tensors["scales"]
        ).contiguous()
        return replace(right, tensors={**right.tensors, "scales": scales})


def made(plugin: Any) -> Any:
    return plugin(plugin.Options(bits=(2, 4, 8)))
