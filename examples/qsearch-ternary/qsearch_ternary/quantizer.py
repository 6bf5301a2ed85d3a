"""Ternary quantizer: a weight is a sum of planes, each -1, 0 or 1 times a group's scale.

One plane is Ternary Weight Networks (Li and Liu, arXiv:1605.04711): weights below a threshold
become 0, the others keep their sign and share the mean of their magnitudes as scale. A further
plane does the same to what the planes before it left over.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from qsearch.errors import InputError
from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import TensorLayout
from qsearch.space.configuration import Choices, Knob, LayerConfiguration

TRITS = 5
"""Ternary digits in a byte: 3⁵ = 243 values."""

SCALE_BITS = 16


class Ternary:
    """Sum of ternary planes.

    Knobs:

    * ``planes``: how many planes are summed;
    * ``group_size``: neighbouring weights of a row that share a scale in each plane;
    * ``threshold``: the least magnitude that is not 0, in percent of the group's mean magnitude.
    """

    name = "ternary"
    contract: ClassVar[int] = 2

    class Options(BaseModel):
        """Which values of each knob a study may use."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        planes: tuple[Literal[1, 2, 3], ...] = (1, 2, 3)
        group_size: tuple[Literal[32, 64, 128], ...] = (32, 64, 128)
        threshold: tuple[Literal[50, 75, 100], ...] = (50, 75, 100)

    def __init__(self, options: Options) -> None:
        self.options = options
        self._choices = Choices(
            tuple(Knob(name, getattr(options, name)) for name in type(options).model_fields)
        )

    def choices(self) -> Choices:
        """Return the three knobs, restricted as the options say."""
        return self._choices

    def storage_bits(self, configuration: LayerConfiguration) -> float:
        """Return planes · (8 / 5 + 16 / group size), bits per weight."""
        group_size = configuration.integer("group_size")
        return configuration.integer("planes") * (8 / TRITS + SCALE_BITS / group_size)

    def quantize(self, weight: Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        """Quantize a weight.

        Args:
            weight: Floating-point weight (output features × input features).
            configuration: One of the quantizer's layer configurations.

        Returns:
            ``codes`` (planes × bytes, uint8), five weights a byte, and ``scales`` (planes ×
            output features × groups, float16).

        Raises:
            InputError: If the weight is not a finite floating-point matrix, or the layer
                configuration is not one of the quantizer's.
        """
        self._choices.index(configuration)
        if weight.ndim != 2 or not weight.is_floating_point() or not weight.isfinite().all():
            raise InputError(f"ternary needs a finite float matrix, not {tuple(weight.shape)}")
        rest = _grouped(weight.detach().float(), configuration.integer("group_size"))
        codes, scales = [], []
        for _ in range(configuration.integer("planes")):
            threshold = rest.abs().mean(-1, keepdim=True) * configuration.integer("threshold") / 100
            trits = rest.sign() * (rest.abs() > threshold)
            count = trits.abs().sum(-1, keepdim=True).clamp_min(1)
            scale = ((rest * trits).sum(-1, keepdim=True) / count).half()
            rest = rest - scale.float() * trits
            codes.append(_pack(trits))
            scales.append(scale.squeeze(-1))
        rows, columns = weight.shape
        tensors = {"codes": torch.stack(codes), "scales": torch.stack(scales)}
        return QuantizedTensor(tensors, (rows, columns), configuration)

    def dequantize(self, quantized: QuantizedTensor) -> Tensor:
        """Return the float32 weight (output features × input features)."""
        rows, columns = quantized.shape
        scales = quantized.tensors["scales"].float()
        group_size = quantized.configuration.integer("group_size")
        trits = _unpack(quantized.tensors["codes"], scales[0].numel() * group_size)
        planes = trits.view(*scales.shape, group_size) * scales[..., None]
        return planes.sum(0).view(rows, -1)[:, :columns].contiguous()

    def layout(
        self, shape: tuple[int, int], configuration: LayerConfiguration
    ) -> dict[str, TensorLayout]:
        """Return the tensors of a weight of this shape; only the ``packed`` export needs it."""
        planes, size = configuration.integer("planes"), configuration.integer("group_size")
        groups = math.ceil(shape[1] / size)
        codes = math.ceil(shape[0] * groups * size / TRITS)
        return {
            "codes": TensorLayout((planes, codes), torch.uint8, None),
            "scales": TensorLayout((planes, shape[0], groups), torch.float16, None),
        }


def _grouped(weight: Tensor, group_size: int) -> Tensor:
    """Cut rows into groups (output features × groups × group size), padded with zeros."""
    padded = torch.nn.functional.pad(weight, (0, -weight.shape[1] % group_size))
    return padded.view(weight.shape[0], -1, group_size)


def _pack(trits: Tensor) -> Tensor:
    """Pack values -1, 0, 1 (any shape) into bytes."""
    digits = (trits + 1).flatten().to(torch.uint8)
    digits = torch.nn.functional.pad(digits, (0, -len(digits) % TRITS))
    return (digits.view(-1, TRITS) * _places(trits.device)).sum(-1).to(torch.uint8)


def _unpack(codes: Tensor, count: int) -> Tensor:
    """Return the first values -1, 0, 1 of each row of bytes, float32 (rows × count)."""
    digits = codes[..., None].int() // _places(codes.device) % 3 - 1
    return digits.flatten(1)[:, :count].float()


def _places(device: torch.device) -> Tensor:
    # No constant of the module: transformers may import it while new tensors have no data.
    return 3 ** torch.arange(TRITS, device=device)
