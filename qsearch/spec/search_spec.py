"""A study's ``search`` section: how long and where to look."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from qsearch._sizes import parse_size
from qsearch.errors import InputError
from qsearch.spec.sections import Number

_MAX = 100_000
"""Rounds, their configurations, and segments: each takes memory, and a study needs far fewer."""


DEFAULT_BITS = (2.25, 7.25)
"""Interval of average bits that is searched unless the study names another."""


def _bytes(value: object) -> object:
    if isinstance(value, str):
        try:
            return int(parse_size(value, "size")[0])
        except InputError as error:
            raise ValueError(str(error)) from error
    return value


_Bytes = Annotated[int, BeforeValidator(_bytes), Field(strict=True)]


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
        recipes: Files whose configurations join the first set: recipes of other tools
            (:class:`~qsearch.plugins.recipes.SupportsRecipe`), or a configuration as JSON.
        size: What the size of a configuration is in reports and messages: ``bytes`` of its weight
            files, or ``average_bits``. One is an affine function of the other.
        average_bits: Interval of average bits that is searched.
        bytes: Interval of bytes of weight files, instead; such as ``20MB``.
        budgets: Sizes, as those of the interval, that configurations are wanted for: every second
            candidate is the one of least estimated loss within one of them.
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
    recipes: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    candidates: int = Field(strict=True, default=12, ge=0, le=_MAX)
    segments: int = Field(strict=True, default=40, ge=1, le=_MAX)
    size: Literal["average_bits", "bytes"] = "average_bits"
    average_bits: tuple[float, float] | None = None
    bytes: tuple[_Bytes, _Bytes] | None = None
    budgets: tuple[Annotated[float, BeforeValidator(_bytes)], ...] = ()
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
        own = self.initial if isinstance(self.initial, int) else self.initial.count
        return own + len(self.recipes)

    @field_validator("average_bits", "bytes")
    @classmethod
    def _interval(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 < value[0] < value[1] < math.inf:
            raise ValueError("must be [low, high] with 0 < low < high")
        return value

    @model_validator(mode="after")
    def _one_interval(self) -> SearchSpec:
        if self.bytes is not None:
            if self.size != "bytes":
                raise ValueError("bytes is the interval of size: bytes; give that, or average_bits")
            if self.average_bits is not None:
                raise ValueError("give one interval, average_bits or bytes, not both")
        return self

    @model_validator(mode="after")
    def _budgets_inside(self) -> SearchSpec:
        interval = self.bytes or self.bits
        assert interval is not None
        for budget in self.budgets:
            if not interval[0] < budget <= interval[1]:
                name = "average_bits" if self.bytes is None else "bytes"
                raise ValueError(f"budgets: {budget:.10g} is not within {name}: {list(interval)}")
        return self

    @property
    def bits(self) -> tuple[float, float] | None:
        """Interval of average bits that is searched; None if it follows from that of bytes."""
        if self.bytes is not None:
            return None
        return self.average_bits or DEFAULT_BITS
