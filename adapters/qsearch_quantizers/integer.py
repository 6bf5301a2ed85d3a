"""Integer quantizer: groups of weights on an even grid, with float16 scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, field_validator
from torch import Tensor

from qsearch.configuration import Choices, Knob, LayerConfiguration
from qsearch.layout import TensorLayout
from qsearch.plugins import QuantizedTensor
from qsearch_quantizers.checks import check_weight, in_order
from qsearch_quantizers.levels import chunk_of

Bits = Literal[2, 3, 4, 8]
GroupSize = Literal[32, 64, 128]
Scheme = Literal["symmetric", "asymmetric"]
SCHEMES: tuple[Scheme, ...] = ("symmetric", "asymmetric")
SCALE_BITS = 16


class Integer:
    """Round to the nearest multiple of a group's scale.

    A group is ``group_size`` neighbouring weights of one row (one output feature); the last
    group of a row is shorter where the size does not divide the input features.

    * ``symmetric``: weight = scale · (code - 2^(bits-1)). The scale is signed, so that the
      weight of greatest magnitude always gets code 0 and no code is wasted. Measured at groups
      of 128 on MiniLM, relative error at 2, 3 and 4 bits: .44, .22, .11, against .77, .29, .13
      for the common scale of absolute maximum / (2^(bits-1) - 1).
    * ``asymmetric``: weight = scale · (code - zero point), over the group's range with zero
      included; the zero point is an integer of ``bits`` bits.
    """

    name = "integer"

    class Options(BaseModel):
        """Which values of each knob a study may use, and the scheme or schemes."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        bits: tuple[Bits, ...] = (2, 3, 4, 8)
        group_size: tuple[GroupSize, ...] = (32, 64, 128)
        scheme: Scheme | tuple[Scheme, ...] = "symmetric"

        _ordered = field_validator("bits", "group_size")(in_order)

        @field_validator("scheme")
        @classmethod
        def _schemes(cls, value: Scheme | tuple[Scheme, ...]) -> Scheme | tuple[Scheme, ...]:
            if isinstance(value, tuple) and (not value or len(set(value)) != len(value)):
                raise ValueError(f"give one scheme, or a list of distinct ones, not {value}")
            return value

    def __init__(self, options: Options) -> None:
        self.options = options
        schemes = (options.scheme,) if isinstance(options.scheme, str) else options.scheme
        self._scheme: Scheme | None = schemes[0] if len(schemes) == 1 else None
        knobs = [Knob("bits", options.bits), Knob("group_size", options.group_size)]
        if self._scheme is None:
            knobs.append(Knob("scheme", SCHEMES))
        self._choices = Choices(tuple(knobs))

    def choices(self) -> Choices:
        """Return ``bits`` and ``group_size``, and ``scheme`` if the options list both schemes."""
        return self._choices

    def storage_bits(self, configuration: LayerConfiguration) -> float:
        """Return bits + (16 + bits of a zero point, if any) / group size, bits per weight."""
        bits = configuration.integer("bits")
        zero_point_bits = bits if self._asymmetric(configuration) else 0
        return bits + (SCALE_BITS + zero_point_bits) / configuration.integer("group_size")

    def quantize(self, weight: Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        """Quantize a weight.

        Args:
            weight: Floating-point weight (output features × input features).
            configuration: One of the quantizer's layer configurations.

        Returns:
            ``codes`` (output features × input features, uint8), ``scales`` (output features ×
            groups, float16) and, if asymmetric, ``zero_points`` (same, uint8).

        Raises:
            InputError: If the weight is no finite floating-point matrix, or the layer
                configuration is not one of the quantizer's.
        """
        self._choices.index(configuration)
        check_weight(weight)
        bits, size = configuration.integer("bits"), configuration.integer("group_size")
        rows, columns = weight.shape
        encode = _asymmetric_codes if self._asymmetric(configuration) else _symmetric_codes
        layout = self.layout((rows, columns), configuration)
        tensors = {
            name: torch.empty(item.shape, dtype=item.dtype, device=weight.device)
            for name, item in layout.items()
        }
        step = chunk_of(rows, columns, weight.device)
        for first in range(0, rows, step):
            part = weight.detach()[first : first + step].float()
            padded = torch.nn.functional.pad(part, (0, -columns % size))
            codes, *others = encode(padded.view(part.shape[0], -1, size), bits)
            found = (codes.view(padded.shape)[:, :columns], *others)
            for tensor, values in zip(tensors.values(), found, strict=True):
                tensor[first : first + step] = values
        return QuantizedTensor(tensors, (rows, columns), configuration)

    def dequantize(self, quantized: QuantizedTensor) -> Tensor:
        """Return the float32 weight (output features × input features)."""
        bits = quantized.configuration.integer("bits")
        size = quantized.configuration.integer("group_size")
        rows, columns = quantized.shape
        codes, scales = quantized.tensors["codes"], quantized.tensors["scales"]
        zero_points = quantized.tensors.get("zero_points")
        weight = torch.empty(quantized.shape, dtype=torch.float32, device=codes.device)
        whole = columns // size * size
        step = chunk_of(rows, columns, codes.device)
        for first in range(0, rows, step):
            part = slice(first, first + step)
            for columns_part, groups in (
                (slice(0, whole), slice(0, whole // size)),
                (slice(whole, columns), slice(whole // size, None)),
            ):
                some = codes[part, columns_part]
                if some.numel() == 0:
                    continue
                grouped = some.float().view(some.shape[0], scales[part, groups].shape[1], -1)
                zero: Tensor | float = 2.0 ** (bits - 1)
                if zero_points is not None:
                    zero = zero_points[part, groups].float().unsqueeze(2)
                grouped.sub_(zero).mul_(scales[part, groups].float().unsqueeze(2))
                weight[part, columns_part] = grouped.view(some.shape)
        return weight

    def layout(
        self, shape: tuple[int, int], configuration: LayerConfiguration
    ) -> Mapping[str, TensorLayout]:
        """Return how the tensors of a weight of this shape are stored."""
        bits = configuration.integer("bits")
        groups = (shape[0], -(-shape[1] // configuration.integer("group_size")))
        layout = {
            "codes": TensorLayout(shape, torch.uint8, bits),
            "scales": TensorLayout(groups, torch.float16, None),
        }
        if self._asymmetric(configuration):
            layout["zero_points"] = TensorLayout(groups, torch.uint8, bits)
        return layout

    def _asymmetric(self, configuration: LayerConfiguration) -> bool:
        return (self._scheme or configuration.text("scheme")) == "asymmetric"


def _symmetric_codes(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return codes (rows × groups × size) and signed scales (rows × groups)."""
    half = 2 ** (bits - 1)
    least, greatest = torch.aminmax(groups, dim=2)
    extreme = torch.where(greatest >= -least, greatest, least)
    scales = _float16(extreme / -half)
    codes = (groups / _divisor(scales)).round_().clamp_(-half, half - 1).add_(half)
    return codes.to(torch.uint8), scales


def _asymmetric_codes(groups: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes (rows × groups × size), scales and zero points (rows × groups)."""
    greatest_code = 2**bits - 1
    least, greatest = torch.aminmax(groups, dim=2)
    least, greatest = least.clamp(max=0), greatest.clamp(min=0)
    scales = _float16(greatest / greatest_code - least / greatest_code)
    divisor = _divisor(scales)
    zero_points = (-least.unsqueeze(2) / divisor).round_().clamp_(0, greatest_code)
    codes = (groups / divisor).round_().add_(zero_points).clamp_(0, greatest_code)
    return codes.to(torch.uint8), scales, zero_points.squeeze(2).to(torch.uint8)


def _float16(scales: Tensor) -> Tensor:
    """Round to float16 within its range; a scale below 2^-25 becomes zero."""
    limit = torch.finfo(torch.float16).max
    return scales.clamp(-limit, limit).to(torch.float16)


def _divisor(scales: Tensor) -> Tensor:
    """Return the scales to divide by; a zero scale divides nothing, so that codes stay finite."""
    wide = scales.float().unsqueeze(2)
    return torch.where(wide == 0, torch.inf, wide)
