"""The plans and methods of the paper's comparison, each method as a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.method_studies import OURS, Entry, for_all

ADAPTER_BITS = 8
"""What adapters are shipped in, by every method that has one."""


@dataclass(frozen=True)
class Plan:
    """One comparison.

    Args:
        study: YAML under ``plans/paper``.
        model: What its tables call the model.
        megabytes: The sizes that each method has to serve: of all weight files, adapter included.
        bits: Average bits that fit in each size next to an adapter.
        bits_alone: Average bits that fit in each size without one.
        seeds: Seeds of each method by its name.
        better: Those of the sizes at which CoA-LoRA is to be better than every other method.
        metric: What tables have next to the loss, with its unit and the units in a difference of 1.
        benchmark: Whose plan it is; its records and runs are in folders of that name.
        methods: Those that it may have; the paper's where none are given.
        other_task: What the models are tested on besides: its name, and the task of a study.
    """

    study: Path
    model: str
    megabytes: tuple[float, ...]
    bits: tuple[float, ...]
    bits_alone: tuple[float, ...]
    seeds: Mapping[str, int]
    better: tuple[float, ...]
    metric: tuple[str, str, float]
    benchmark: str = "paper"
    methods: Mapping[str, Method] | None = None
    other_task: tuple[str, Mapping[str, Any]] | None = None

    def method(self, name: str) -> Method:
        """Return a method by its name."""
        return (METHODS if self.methods is None else self.methods)[name]

    @property
    def name(self) -> str:
        """Name of the comparison."""
        return self.study.stem

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The methods by name."""
        return {name: self.method(name).entry(self) for name in self.seeds}


@dataclass(frozen=True)
class Method:
    """A method, and the configurations that its study begins with.

    Args:
        trainer: Name of the trainer.
        first: Of which kinds the first set has one configuration for each size.
        is_searched: Whether random configurations and a search join them.
        has_adapter: Whether an adapter is shipped.
        changes: Assignments such as ``quantizer.name=integer``.
        by_plan: More of them, by the name of the plan.
        rank_is_searched: Whether average bits have the adapter's bits in them.
    """

    trainer: str
    first: tuple[str, ...]
    is_searched: bool
    has_adapter: bool = True
    changes: tuple[str, ...] = ()
    by_plan: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rank_is_searched: bool = False

    def entry(self, plan: Plan) -> Entry:
        """Return the method as what a plan's study is changed by."""
        apart = self.has_adapter and not self.rank_is_searched
        bits = plan.bits if apart else plan.bits_alone
        first = ", ".join(f"{kind}: {list(bits)}" for kind in self.first)
        if self.is_searched:
            make, rest = _searched, (f"search.initial={{{first}, random: {RANDOM}}}",)
        else:
            make, rest = _served_alone, (f"search.initial={{{first}}}",)
        return make(self.trainer, (*self.changes, *self.by_plan.get(plan.name, ()), *rest))


RANDOM = 4
"""Random configurations in the first set of a search."""


def _searched(trainer: str, changes: Sequence[str]) -> Entry:
    return Entry(trainer, tuple(changes)) if trainer == "ptq" else for_all(trainer, *changes)


def _served_alone(trainer: str, changes: Sequence[str]) -> Entry:
    return Entry(trainer, ("search.rounds=1", "search.candidates=0", *changes))


BOTH = ("uniform", "allocated")
CALIBRATED = "quantizer={name: integer, rounding: gptq, group_size: [32, 64, 128]}"

METHODS: Mapping[str, Method] = {
    OURS: Method(OURS, BOTH, is_searched=True),
    "shared-lora": Method("shared-lora", BOTH, is_searched=True),
    "lq-lora": Method(
        "lq-lora",
        ("allocated",),
        is_searched=False,
        # It trains principal components of the weights: at the others' rate it was behind PTQ.
        by_plan={"minilm": ("trainer.learning_rate=3.0e-4",)},
    ),
    "qlora": Method("qlora", ("uniform",), is_searched=False),
    "ptq": Method("ptq", BOTH, is_searched=True, has_adapter=False),
    "ptq-gptq": Method("ptq", BOTH, is_searched=True, has_adapter=False, changes=(CALIBRATED,)),
    "uniform-gptq": Method(
        "ptq", ("uniform",), is_searched=False, has_adapter=False, changes=(CALIBRATED,)
    ),
}
"""QLoRA has the best uniform configuration within each size, LQ-LoRA the allocator's: one LoRA for
each. The others are searched alike."""
