"""Knobs of quantizers from the options that list their values."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationInfo

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
