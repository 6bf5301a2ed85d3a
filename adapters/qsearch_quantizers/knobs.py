"""Quantizers whose options list the values of their knobs."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from qsearch_quantizers.decoding import KnobDecoder


class KnobOptions(BaseModel):
    """Options; each tuple among them has the values of a knob, in the order of its default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*")
    @classmethod
    def _in_order(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, tuple):
            return values
        if not values:
            raise ValueError("give at least one value")
        if len(set(values)) != len(values):
            raise ValueError(f"values must be distinct, not {list(values)}")
        assert info.field_name is not None
        default = cls.model_fields[info.field_name].default
        return tuple(sorted(values, key=default.index)) if isinstance(default, tuple) else values


class KnobQuantizer(KnobDecoder):
    """What quantizers share that have a knob for each tuple of their options."""

    def __init__(self, options: KnobOptions) -> None:
        super().__init__(dict(options))
        self.options = options
