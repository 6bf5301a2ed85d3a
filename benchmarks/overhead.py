"""What time configuration-awareness costs: θ in a training step, and switches of weights.

Steps are those of the paper's two plans, with their own options; a plain LoRA step by PEFT on the
same examples stands next to them. ``benchmarks.memory`` measures the memory.

    python -m benchmarks.overhead
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.training.loop import TrainingLoop
from qsearch_coalora.training.sampling import BatchStream

from benchmarks.method_studies import OURS, STUDIES, for_all, study_of
from benchmarks.paper_text import prepare_text
from benchmarks.plain_lora import plain_step
from benchmarks.recording import Benchmark
from benchmarks.timing import alternate, median_ratio, medians
from qsearch.plugins.components import StudyComponents, build_components
from qsearch.space.configuration import Configuration
from qsearch.space.sampling import sample_configurations

REPEATS = 40
SWITCHED = 4
"""Configurations that are switched among in the timed steps."""


def main() -> None:
    """Measure all and write ``results/overhead.json``."""
    warnings.filterwarnings("ignore")
    benchmark = Benchmark("overhead")
    for name, study in STUDIES.items():
        steps(benchmark, name, study)
    benchmark.write()


def steps(benchmark: Benchmark, name: str, study: Path) -> None:
    """Time a step without θ, with it, with a switch before it, and a plain one by PEFT.

    Switches are timed from dequantized weights in the cache, and from quantized ones, which a cache
    of half their size holds. Every step but the plain one copies residual factors.

    Args:
        benchmark: Where rows and claims go.
        name: Name of the plan.
        study: Its YAML.
    """
    prepare_text(study)
    # As many steps as are timed, or θ would join the loop without it.
    enough = (f"trainer.first_steps={4 * REPEATS}", f"trainer.steps={4 * REPEATS}")
    components = build_components(study_of(study, OURS, 0, {OURS: for_all(OURS, *enough)}))
    quantizable = sum(4 * layer.parameters for layer in components.space.layers)
    half = f"trainer.cache_mebibytes={SWITCHED * quantizable // 2**21}"
    small = build_components(study_of(study, OURS, 0, {OURS: for_all(OURS, half, *enough)}))
    bits, generator = components.spec.search.bits, np.random.default_rng(0)
    assert bits is not None
    sample = sample_configurations(components.space, 1 + SWITCHED, bits, generator)
    constant, *switched = (components.space.decode(index) for index in sample)
    adapted, its_adapted = _trainer(components).study.adapted, _trainer(small).study.adapted
    # The same examples for all: padding would otherwise decide the comparison.
    task, options = _trainer(components).study.task, _trainer(components).study.options
    batch = next(iter(task.batches("train", options.batch_size, torch.Generator())))
    loaded = task.load_model(components.spec.model, 0)
    plain = plain_step(loaded, components.space.layers, task, options)
    calls: dict[str, Callable[[], object]] = {
        "plain": lambda: plain(batch),
        # θ takes no part in the first half of round 1's steps.
        "without θ": _loop(components, batch, [constant], 1),
        "with θ": _loop(components, batch, [constant], 2),
        "switching": _loop(components, batch, switched, 2),
        "dequantizing": _loop(small, batch, switched, 2),
    }
    for both in (adapted, its_adapted):
        for configuration in (*switched, constant):
            both.activate(configuration)
        both.peft_model.train()

    def switch_away() -> None:
        adapted.activate(constant)
        its_adapted.activate(constant)

    times = alternate(calls, REPEATS, before=switch_away)
    shown = {f"{call} (s)": round(seconds, 4) for call, seconds in medians(times).items()}
    benchmark.row(plan=name, **shown)
    for over, under, what, target in (
        ("with θ", "without θ", "a step with θ over one without", 1.05),
        ("switching", "with θ", "a step after a switch (warm cache) over one without", 1.05),
        ("dequantizing", "with θ", "a step after a switch that dequantizes over one without", 1.05),
        ("switching", "plain", "a step with θ and a switch over a plain LoRA step by PEFT", 1.10),
    ):
        benchmark.claim(f"{name}: {what}", median_ratio(times[over], times[under]), target, "lower")


def _trainer(components: StudyComponents) -> CoALoRATrainer:
    assert isinstance(components.trainer, CoALoRATrainer)
    return components.trainer


def _loop(
    components: StudyComponents,
    batch: Mapping[str, torch.Tensor],
    configurations: Sequence[Configuration],
    round: int,
) -> Callable[[], object]:
    """Return the training step of a round on one batch."""
    loop = TrainingLoop(_trainer(components).study, configurations, round)
    loop._batches = BatchStream(lambda _: repeat(batch), torch.Generator())
    return loop._step


if __name__ == "__main__":
    main()
