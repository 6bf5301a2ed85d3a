"""A study's ``search`` section: how long and where to look."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from qsearch.spec.sections import Number

_MAX = 100_000
"""Rounds, their configurations, and segments: each takes memory, and a study needs far fewer."""


class StopSpec(BaseModel):
    """What ends a study before its last round.

    Evaluations include failures, and hours are wall time over all sessions. ``patience`` successive
    rounds end a study if none has the gain ``tolerance``: how far a round's normalised hypervolume
    exceeds that of the best round before it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    evaluations: int | None = Field(strict=True, default=None, ge=2)
    hours: Number | None = Field(default=None, gt=0, allow_inf_nan=False)
    tolerance: Number | None = Field(default=None, ge=0, allow_inf_nan=False)
    patience: int = Field(strict=True, default=2, ge=1)


class InitialSpec(BaseModel):
    """A first set given by budgets in average bits, and a number of random configurations.

    A budget gives the configuration of least error that quantizes all layers alike (``uniform``),
    or the proxy allocator's (``allocated``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    uniform: tuple[float, ...] = ()
    allocated: tuple[float, ...] = ()
    random: int = Field(strict=True, default=0, ge=0, le=_MAX)

    @property
    def count(self) -> int:
        """Number of configurations, if none occurs twice."""
        return len(self.uniform) + len(self.allocated) + self.random

    @model_validator(mode="after")
    def _enough(self) -> InitialSpec:
        if self.count < 2:
            raise ValueError("name two configurations or more")
        return self


# Tags have brackets so that messages leave them out, as pydantic's own names of alternatives.
def _alternative(value: object) -> str:
    return "[named]" if isinstance(value, Mapping | InitialSpec) else "[number]"


_Initial = Annotated[
    Annotated[int, Field(strict=True, ge=2, le=_MAX), Tag("[number]")]
    | Annotated[InitialSpec, Tag("[named]")],
    Discriminator(_alternative),
]


class SearchSpec(BaseModel):
    """How long and where to search.

    Args:
        initial: Configurations of the first set: how many, a third each uniform, allocated and
            random; or which.
        objective: What the search lowers, and fronts are of: the loss, or the metric ``kl`` of a
            task that has it. Sampling noise is modelled of losses alone, so the target is
            ``examples`` with ``kl``.
        target: What the search lowers: ``task`` is the loss on the task, for which it is sampling
            noise how well a configuration suits the validation examples; ``examples`` is the loss
            on these examples, sampling noise included.
        propose: Where candidates come from: ``improvement`` is the search; ``random`` draws them
            uniformly over average bits.
        local_search: Whether candidates are improved by finite differences, one group at a time.
        keep: The set of the next round: ``segments`` is the Pareto front within each segment of
            average bits; ``front`` the Pareto front; ``all`` everything that was evaluated.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rounds: int = Field(strict=True, default=3, ge=1, le=_MAX)
    initial: _Initial = 24
    candidates: int = Field(strict=True, default=12, ge=0, le=_MAX)
    segments: int = Field(strict=True, default=40, ge=1, le=_MAX)
    average_bits: tuple[float, float] = (2.25, 7.25)
    objective: Literal["loss", "kl"] = "loss"
    target: Literal["task", "examples"] = "task"
    propose: Literal["improvement", "random"] = "improvement"
    local_search: bool = Field(strict=True, default=True)
    keep: Literal["segments", "front", "all"] = "segments"
    stop: StopSpec = StopSpec()

    @model_validator(mode="before")
    @classmethod
    def _target_of_kl(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("objective") == "kl":
            if values.get("target", "examples") != "examples":
                raise ValueError(
                    f"target {values['target']!r} is of sampling noise, which is modelled of losses"
                    " alone; with objective kl, leave target out"
                )
            return {**values, "target": "examples"}
        return values

    @property
    def initial_count(self) -> int:
        """Most configurations of the first set."""
        return self.initial if isinstance(self.initial, int) else self.initial.count

    @field_validator("average_bits")
    @classmethod
    def _interval(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] < value[1] < math.inf:
            raise ValueError("must be [low, high] with 0 < low < high")
        return value
