"""What configuration-awareness costs: θ in a step and in memory, switching, and a study's memory.

Steps are those of the paper's two plans, with their own options; a plain LoRA step by PEFT on the
same examples stands beside them. Memory is the peak of whole processes, of studies with the default
bound of the cache, with their own, and with one that holds all dequantized weights, so that no
switch dequantizes.

    python -m benchmarks.overhead
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from qsearch_coalora.loop import TrainingLoop
from qsearch_coalora.trainer import CoALoRATrainer

from benchmarks.objectives import ROOT
from benchmarks.paper import OURS, PLANS
from benchmarks.paper_runs import for_all, study_of
from benchmarks.paper_text import environment, prepare_text
from benchmarks.plain_lora import TRAINED_STEPS, plain_step
from benchmarks.recording import Benchmark
from benchmarks.timing import alternate, median_ratio, medians
from qsearch.assembly import Assembly, assemble
from qsearch.configuration import Configuration
from qsearch.spec import load_spec

REPEATS = 40
SWITCHED = 4
"""Configurations that are switched among in the timed steps."""

CONFIGURATIONS = 50
"""Those of the study whose memory is measured, :data:`CANDIDATES` of them found by its search."""

CANDIDATES = 10

PROCESSES = 3
"""Times that a process is run whose peak is compared to within some per cent."""


@dataclass(frozen=True)
class Job:
    """A study whose memory is measured.

    Args:
        study: Its YAML.
        changes: What makes its evaluations fewer; each is as large as before.
    """

    study: Path
    changes: tuple[str, ...]


JOBS = {
    "MiniLM-L6": Job(ROOT / "studies" / "quickstart.yaml", ()),
    "SmolLM2-135M": Job(
        ROOT / "studies" / "smollm2.yaml",
        ("task.validation_tokens=512",),
    ),
}


def main() -> None:
    """Measure all and write ``results/overhead.json``."""
    warnings.filterwarnings("ignore")
    benchmark = Benchmark("overhead")
    for plan in PLANS.values():
        steps(benchmark, plan.name, plan.study)
    for model, job in JOBS.items():
        memory(benchmark, model, job)
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
    parts = assemble(study_of(study, OURS, 0))
    quantizable = sum(4 * layer.parameters for layer in parts.space.layers)
    half = f"trainer.cache_mebibytes={SWITCHED * quantizable // 2**21}"
    small = assemble(study_of(study, OURS, 0, {OURS: for_all(OURS, half)}))
    bits, generator = parts.spec.search.average_bits, np.random.default_rng(0)
    sample = parts.space.sample(1 + SWITCHED, bits, generator)
    constant, *switched = (parts.space.decode(index) for index in sample)
    adapted, its_adapted = _trainer(parts).adapted, _trainer(small).adapted
    # The same examples for all: padding would otherwise decide the comparison.
    batch_size = _trainer(parts).options.batch_size
    batch = next(iter(parts.task.batches("train", batch_size, torch.Generator())))
    loaded = parts.task.load_model(parts.spec.model, 0)
    plain = plain_step(loaded, parts.space.layers, parts.task, _trainer(parts).options)
    calls: dict[str, Callable[[], object]] = {
        "plain": lambda: plain(batch),
        # θ takes no part in the first half of round 0's steps.
        "without θ": _loop(parts, batch, [constant], 0),
        "with θ": _loop(parts, batch, [constant], 1),
        "switching": _loop(parts, batch, switched, 1),
        "dequantizing": _loop(small, batch, switched, 1),
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
        ("dequantizing", "with θ", "a step after a switch that dequantizes over one without", None),
        ("switching", "plain", "a step with θ and a switch over a plain LoRA step by PEFT", 1.10),
    ):
        benchmark.claim(f"{name}: {what}", median_ratio(times[over], times[under]), target, "lower")


def _trainer(parts: Assembly) -> CoALoRATrainer:
    assert isinstance(parts.trainer, CoALoRATrainer)
    return parts.trainer


def _loop(
    parts: Assembly,
    batch: Mapping[str, torch.Tensor],
    configurations: Sequence[Configuration],
    round: int,
) -> Callable[[], object]:
    """Return the training step of a round on one batch."""
    trainer = _trainer(parts)
    # As many steps as are timed, or θ would join the loop without it.
    enough = {"first_steps": 4 * REPEATS, "steps": 4 * REPEATS}
    options = trainer.options.model_copy(update=enough)
    plan = replace(trainer._plan(configurations, round), batches=repeat(batch))
    return TrainingLoop(trainer.adapted, parts.task, options, plan)._step


def memory(benchmark: Benchmark, model: str, job: Job) -> None:
    """Compare peaks: θ's part of a training, and a whole study beside one plain LoRA training.

    Args:
        benchmark: Where rows and claims go.
        model: The model's name.
        job: The study.
    """
    alone = (
        f"trainer.first_steps={TRAINED_STEPS}",
        "search.initial={uniform: [3.0, 4.0]}",
        "search.candidates=0",
    )
    study = (
        f"trainer.first_steps={CONFIGURATIONS // 2}",
        f"search.initial={CONFIGURATIONS - CANDIDATES}",
        f"search.candidates={CANDIDATES}",
    )
    parts = assemble(load_spec(job.study, job.changes, environment()))
    quantizable = sum(4 * layer.parameters for layer in parts.space.layers)
    bounds = {
        CoALoRATrainer.Options().cache_mebibytes,
        _trainer(parts).options.cache_mebibytes,
        CONFIGURATIONS * quantizable // 2**20,
    }
    studies = {
        f"study of {CONFIGURATIONS} configurations, cache of {bound} MiB": (
            *study,
            f"trainer.cache_mebibytes={bound}",
        )
        for bound in sorted(bounds)
    }
    plain = [sys.executable, "-m", "benchmarks.plain_lora", str(job.study), *job.changes]
    theta = ("trainer.init=shared", "trainer.theta_start=0")
    peaks = {
        "plain LoRA by PEFT": statistics.median(peak_memory(plain) for _ in range(PROCESSES)),
        "training without θ": _study_peak(job, ("trainer.name=shared-lora", *alone), PROCESSES),
        "training with θ": _study_peak(job, (*theta, *alone), PROCESSES),
        **{name: _study_peak(job, changes, 1) for name, changes in studies.items()},
    }
    for subject, peak in peaks.items():
        benchmark.row(measure="peak memory", model=model, subject=subject, MiB=round(peak))
    for over, under, target in (
        ("training with θ", "training without θ", 1.02),
        *((name, "plain LoRA by PEFT", 1.5) for name in studies),
    ):
        claim = f"{model}: peak memory of {over} over {under}"
        benchmark.claim(claim, peaks[over] / peaks[under], target, "lower")


def _study_peak(job: Job, changes: Sequence[str], processes: int) -> float:
    """Return the median peak memory of a study of one round, MiB."""
    # One configuration a step: a backward pass then has as many examples as plain LoRA's.
    whole_batch = "trainer.configurations_per_step=1"
    settings = (*job.changes, "search.rounds=1", whole_batch, *changes)
    told = [word for setting in settings for word in ("--set", setting)]
    peaks = []
    for _ in range(processes):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "qsearch.cli", "run", str(job.study)]
            peaks.append(peak_memory([*command, "--out", f"{folder}/run", *told]))
    return statistics.median(peaks)


_MEASURED = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def peak_memory(arguments: Sequence[str]) -> float:
    """Run a command and return its peak resident memory, MiB.

    A small process starts it: to Linux, a new process has had the memory of the one it came from.

    Raises:
        RuntimeError: If it fails; with the end of its output.
    """
    found = subprocess.run(
        [sys.executable, "-c", _MEASURED, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment()},
    )
    if found.returncode:
        raise RuntimeError(found.stderr[-2000:])
    return int(found.stdout) / 1024


if __name__ == "__main__":
    main()
