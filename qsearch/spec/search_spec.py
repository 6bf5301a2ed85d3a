"""A study's ``search`` section: where to look, how long, and what to believe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

_MAX = 100_000
"""Rounds, their configurations, and segments: each takes memory, and a study needs far fewer."""


class StopSpec(BaseModel):
    """What ends a study before its last round.

    Args:
        evaluations: Most evaluations of the whole study, failures included.
        hours: Most wall time of the whole study, over all its sessions.
        tolerance: Least rise of the normalised hypervolume over the best round before that
            counts as a gain.
        patience: Successive rounds without such a gain that end the study.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    evaluations: int | None = Field(strict=True, default=None, ge=2)
    hours: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    tolerance: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    patience: int = Field(strict=True, default=2, ge=1)

    @field_validator("hours", "tolerance", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        # Numbers are not read strictly, since YAML reads 1e-3 as text; true is no number.
        if isinstance(value, bool):
            raise ValueError("must be a number")
        return value


class InitialSpec(BaseModel):
    """A first set that is named budget by budget.

    Args:
        uniform: Average bits; for each, the configuration of least error within them that
            quantizes all layers alike.
        allocated: Average bits; for each, the proxy allocator's configuration within them.
        random: Number of random configurations.
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
        rounds: Most rounds of train, evaluate, search, filter.
        initial: Configurations of the first set: how many, a third each uniform, allocated and
            random; or which.
        candidates: New configurations that each round evaluates.
        segments: Segments of the Pareto filter.
        average_bits: Interval of average bits to search.
        target: What the search lowers: ``task`` is the loss on the task, for which it is sampling
            noise how well a configuration suits the validation examples; ``examples`` is the loss
            on these examples, sampling noise included.
        propose: Where candidates come from: ``improvement`` is the search; ``random`` draws them
            uniformly over average bits.
        walks: Whether candidates are improved by finite differences, one changed group at a time.
        keep: What a round passes on as the next set: ``segments`` is the Pareto front within each
            segment of average bits; ``front`` the Pareto front; ``all`` whatever it evaluated.
        stop: What ends the study before its last round.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rounds: int = Field(strict=True, default=3, ge=1, le=_MAX)
    initial: _Initial = 24
    candidates: int = Field(strict=True, default=12, ge=0, le=_MAX)
    segments: int = Field(strict=True, default=40, ge=1, le=_MAX)
    average_bits: tuple[float, float] = (2.25, 7.25)
    target: Literal["task", "examples"] = "task"
    propose: Literal["improvement", "random"] = "improvement"
    local_search: bool = Field(strict=True, default=True)
    keep: Literal["segments", "front", "all"] = "segments"
    stop: StopSpec = StopSpec()

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
