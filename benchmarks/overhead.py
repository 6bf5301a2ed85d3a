"""What configuration-awareness costs: θ in a step and in memory, switching, and a study's memory.

Steps are those of the paper's two plans, with their own options; a plain LoRA step by PEFT on the
same examples stands beside them. Memory is the peak of whole processes, of studies with their own
cache, and with one that holds all dequantized weights, where no switch costs anything.

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
from peft import LoraConfig, get_peft_model
from qsearch_coalora.adapted_model import score
from qsearch_coalora.discovery import full_layer_names
from qsearch_coalora.loop import TrainingLoop
from qsearch_coalora.precision import autocast, uses_bfloat16
from qsearch_coalora.trainer import CoALoRATrainer

from benchmarks.objectives import ROOT
from benchmarks.paper import OURS, PLANS
from benchmarks.paper_runs import for_all, study_of
from benchmarks.paper_text import environment, prepare_text
from benchmarks.recording import Benchmark
from benchmarks.timing import alternate, median_ratio, medians
from qsearch.assembly import Assembly, assemble
from qsearch.configuration import Configuration
from qsearch.plugins import LoadedModel
from qsearch.spec import load_spec

REPEATS = 40
SWITCHED = 4
"""Configurations that are switched among in the timed steps."""

CONFIGURATIONS = 50
"""Those of the study whose memory is measured, :data:`CANDIDATES` of them found by its search."""

CANDIDATES = 10

TRAINED_STEPS = 8
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
    too small for those holds.

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
    plain = plain_step(parts, parts.task.load_model(parts.spec.model, 0))
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


def plain_step(
    parts: Assembly, loaded: LoadedModel
) -> Callable[[Mapping[str, torch.Tensor]], object]:
    """Return a training step of plain LoRA on the unquantized model, with a study's options."""
    assert isinstance(parts.trainer, CoALoRATrainer)
    options = parts.trainer.options
    model = get_peft_model(
        loaded.module,
        LoraConfig(
            r=options.rank,
            target_modules=list(full_layer_names(loaded.module, parts.space.layers)),
            modules_to_save=list(loaded.head) or None,
        ),
    ).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
    )
    cpu = torch.device("cpu")

    def step(batch: Mapping[str, torch.Tensor]) -> None:
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        with autocast(uses_bfloat16(options.precision, cpu), cpu):
            logits = model(**inputs).logits
        scores = score(parts.task, logits, batch)
        ((scores.losses * scores.weights).sum() / scores.weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, options.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


PLAIN_TRAINING = """
import sys
from pathlib import Path
import torch
from benchmarks.overhead import TRAINED_STEPS, plain_step
from qsearch.assembly import assemble
from qsearch.spec import load_spec
parts = assemble(load_spec(Path(sys.argv[1]), sys.argv[2:]))
loaded, options = parts.task.load_model(parts.spec.model, 0), parts.trainer.options
parts.task.prepare(loaded.tokenizer)
step = plain_step(parts, loaded)
drawn = torch.Generator().manual_seed(0)
for batch, _ in zip(parts.task.batches("train", options.batch_size, drawn), range(TRAINED_STEPS)):
    step(batch)
"""


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
    all_held = f"trainer.cache_mebibytes={CONFIGURATIONS * quantizable // 2**20}"
    own, held = (
        f"study of {CONFIGURATIONS} configurations{cache}"
        for cache in ("", ", all dequantized in the cache")
    )
    plain = [sys.executable, "-c", PLAIN_TRAINING, str(job.study), *job.changes]
    theta = ("trainer.init=shared", "trainer.theta_start=0")
    peaks = {
        "plain LoRA by PEFT": statistics.median(peak_memory(plain) for _ in range(PROCESSES)),
        "training without θ": _study_peak(job, ("trainer.name=shared-lora", *alone), PROCESSES),
        "training with θ": _study_peak(job, (*theta, *alone), PROCESSES),
        own: _study_peak(job, study, 1),
        held: _study_peak(job, (*study, all_held), 1),
    }
    for subject, peak in peaks.items():
        benchmark.row(measure="peak memory", model=model, subject=subject, MiB=round(peak))
    for over, under, target in (
        ("training with θ", "training without θ", 1.02),
        (own, "plain LoRA by PEFT", 1.5),
        (held, "plain LoRA by PEFT", 1.5),
    ):
        claim = f"{model}: peak memory of {over} over {under}"
        benchmark.claim(claim, peaks[over] / peaks[under], target, "lower")


def _study_peak(job: Job, changes: Sequence[str], processes: int) -> float:
    """Return the median peak memory of a study of one round, MiB."""
    settings = (*job.changes, "search.rounds=1", *changes)
    told = [word for setting in settings for word in ("--set", setting)]
    peaks = []
    for _ in range(processes):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "qsearch.cli", "run", str(job.study)]
            peaks.append(peak_memory([*command, "--out", f"{folder}/run", *told]))
    return statistics.median(peaks)


def peak_memory(arguments: Sequence[str]) -> float:
    """Run a command and return its peak resident memory, MiB."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            list(arguments), stdout=output, stderr=output, env={**os.environ, **environment()}
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            output.seek(0)
            raise RuntimeError(output.read().decode()[-2000:])
    return usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
