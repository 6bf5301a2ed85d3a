"""How the format ``compressed-tensors`` holds weights: tensors, and ``quantization_config``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from qsearch_quantizers.libraries.optional import optional_module
from qsearch_quantizers.packed.tensor_files import planned
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor, Quantizer
from qsearch.plugins.tensor_layout import Float8Weight, IntegerWeight, SupportsFloat8
from qsearch_coalora.export.engines import require_integers

FORMAT = "compressed-tensors"

_INTEGERS, _FLOATS, _BOTH = "pack-quantized", "naive-quantized", "mixed-precision"


@dataclass(frozen=True, order=True)
class WeightScheme:
    """What ``quantization_config`` says of a weight; a group size of 0 is a whole row."""

    bits: int
    group_size: int
    symmetric: bool = True
    is_float: bool = False

    def __str__(self) -> str:
        kind = (
            "floating point" if self.is_float else "symmetric" if self.symmetric else "asymmetric"
        )
        groups = f"in groups of {self.group_size}" if self.group_size else "with one scale a row"
        return f"{self.bits} bits, {kind}, {groups}"


def engine_weight(quantizer: Quantizer, quantized: QuantizedTensor) -> IntegerWeight | Float8Weight:
    """Return a quantized weight as the format has it.

    Raises:
        InputError: If it is neither integers nor 8-bit floating point.
    """
    integers = require_integers(quantizer, FORMAT)
    if isinstance(quantizer, SupportsFloat8):
        float8 = quantizer.as_float8(quantized)
        if float8 is not None:
            return float8
    return integers.as_integers(quantized)


def scheme_of(weight: IntegerWeight | Float8Weight) -> WeightScheme:
    """Return the scheme of a weight; a group that holds a whole row is one."""
    if isinstance(weight, Float8Weight):
        return WeightScheme(8, 0, is_float=True)
    of_rows = weight.group_size >= weight.codes.shape[1]
    size = 0 if of_rows else weight.group_size
    return WeightScheme(weight.bits, size, weight.zero_points is None)


def planned_tensors(weight: IntegerWeight | Float8Weight) -> dict[str, Tensor]:
    """Return the plan of a layer's tensors by their names in the format."""
    rows, columns = weight.codes.shape
    if isinstance(weight, Float8Weight):
        return {
            "weight": planned((rows, columns), torch.float8_e4m3fn),
            "weight_scale": planned((rows, 1), torch.float32),
        }
    groups = weight.scales.shape[1]
    tensors = {
        "weight_packed": planned((rows, _words(columns, weight.bits)), torch.int32),
        "weight_scale": planned((rows, groups), torch.float16),
        "weight_shape": planned((2,), torch.int64),
    }
    if weight.zero_points is not None:
        tensors["weight_zero_point"] = planned((_words(rows, weight.bits), groups), torch.int32)
    return tensors


def stored_tensors(weight: IntegerWeight | Float8Weight) -> dict[str, Tensor]:
    """Return a layer's tensors by their names in the format; zero points are packed by column."""
    if isinstance(weight, Float8Weight):
        return {"weight": weight.codes, "weight_scale": weight.scales}
    helpers = package("compressors.pack_quantized.helpers")
    middle = 2 ** (weight.bits - 1)

    def signed(codes: Tensor) -> Tensor:
        centred: Tensor = codes.to(torch.int16) - middle
        return centred.to(torch.int8)

    tensors = {
        "weight_packed": helpers.pack_to_int32(signed(weight.codes), weight.bits),
        "weight_scale": weight.scales,
        "weight_shape": torch.tensor(weight.codes.shape),
    }
    if weight.zero_points is not None:
        zero_points = helpers.pack_to_int32(signed(weight.zero_points), weight.bits, packed_dim=0)
        tensors["weight_zero_point"] = zero_points.contiguous()
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def quantization_config(
    targets: Mapping[WeightScheme, Sequence[str]], ignore: Sequence[str]
) -> dict[str, Any]:
    """Return ``quantization_config``: a group for each scheme, with the paths of its modules."""
    quantization = package("quantization")
    formats = {_FLOATS if scheme.is_float else _INTEGERS for scheme in targets}
    groups = {
        f"group_{number}": quantization.QuantizationScheme(
            targets=list(paths),
            weights=quantization.QuantizationArgs(
                num_bits=scheme.bits,
                type="float" if scheme.is_float else "int",
                symmetric=scheme.symmetric,
                strategy="group" if scheme.group_size else "channel",
                group_size=scheme.group_size or None,
            ),
            format=_FLOATS if scheme.is_float else _INTEGERS,
        )
        for number, (scheme, paths) in enumerate(sorted(targets.items()))
    }
    config = quantization.QuantizationConfig(
        config_groups=groups,
        format=formats.pop() if len(formats) == 1 else _BOTH,
        quantization_status="compressed",
        ignore=list(ignore),
    )
    result: dict[str, Any] = json.loads(config.model_dump_json())
    return result


def package(module: str) -> Any:
    """Import a module of the package compressed-tensors; InputError if it is not installed."""
    return optional_module(f"compressed_tensors.{module}", FORMAT, f"--format {FORMAT}")


def _words(count: int, bits: int) -> int:
    return math.ceil(count * bits / 32)
