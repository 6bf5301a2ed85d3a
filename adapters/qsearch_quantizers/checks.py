"""What every quantizer here makes of its options, and checks of its weights."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationInfo
from torch import Tensor

from qsearch.errors import InputError
from qsearch.space.configuration import Choices, Knob


def in_order(cls: type[Any], values: Any, info: ValidationInfo) -> Any:
    """Return a knob's values in the order of the field's default; a pydantic field validator.

    Raises:
        ValueError: If there is no value, or a value occurs twice.
    """
    if not isinstance(values, tuple):
        return values
    if not values:
        raise ValueError("give at least one value")
    if len(set(values)) != len(values):
        raise ValueError(f"values must be distinct, not {list(values)}")
    assert info.field_name is not None
    order = list(cls.model_fields[info.field_name].default)
    return tuple(sorted(values, key=order.index))


def choices_of(options: BaseModel) -> Choices:
    """Return a knob for each field of options, with the values that it lists."""
    names = type(options).model_fields
    return Choices(tuple(Knob(name, getattr(options, name)) for name in names))


def check_weight(weight: Tensor) -> None:
    """Check that a tensor can be quantized.

    Raises:
        InputError: If it is no floating-point matrix with elements, or holds NaN or infinity.
    """
    if weight.ndim != 2 or weight.numel() == 0 or not weight.is_floating_point():
        raise InputError(
            f"weight of shape {tuple(weight.shape)} and type {weight.dtype} cannot be quantized;"
            " it must be a floating-point matrix (output features × input features)"
        )
    # min and max carry NaN and infinity through, and need no temporary of the weight's size
    if not all(bool(extreme.isfinite()) for extreme in weight.detach().aminmax()):
        raise InputError(
            f"weight of shape {tuple(weight.shape)} holds NaN or infinity; it must be finite"
        )


def check_moment(moment: Tensor, features: int) -> None:
    """Check that a tensor can be the second moment of a layer's inputs.

    Args:
        moment: The tensor.
        features: Input features of the layer.

    Raises:
        InputError: If it has another shape or type, or holds NaN or infinity.
    """
    if moment.shape != (features, features) or not moment.is_floating_point():
        raise InputError(
            f"the inputs' second moment must be a floating-point matrix of shape"
            f" {(features, features)}, not of shape {tuple(moment.shape)} and type {moment.dtype}"
        )
    if not all(bool(extreme.isfinite()) for extreme in moment.detach().aminmax()):
        raise InputError("the inputs' second moment holds NaN or infinity; it must be finite")
