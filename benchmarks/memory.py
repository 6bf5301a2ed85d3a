"""What memory configuration-awareness costs: θ's part of a training, and that of a whole study.

Figures are peaks of whole processes. Studies are measured with the default bound of the cache, with
their own, and with one that holds all dequantized weights, so that no switch dequantizes; the
training of one plain LoRA by PEFT stands next to them.

    python -m benchmarks.memory
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qsearch_coalora.methods.coa_lora import CoALoRATrainer

from benchmarks.objectives import ROOT
from benchmarks.paper_text import environment
from benchmarks.plain_lora import TRAINED_STEPS
from benchmarks.recording import Benchmark
from qsearch.plugins.components import build_components
from qsearch.spec.study_spec import load_spec

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
    """Measure all and write ``results/memory.json``."""
    warnings.filterwarnings("ignore")
    benchmark = Benchmark("memory")
    for model, job in JOBS.items():
        compare(benchmark, model, job)
    benchmark.write()


def compare(benchmark: Benchmark, model: str, job: Job) -> None:
    """Compare peaks: θ's part of a training, and a whole study next to one plain LoRA training.

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
    components = build_components(load_spec(job.study, job.changes, environment()))
    quantizable = sum(4 * layer.parameters for layer in components.space.layers)
    all_dequantized = CONFIGURATIONS * quantizable // 2**20
    assert isinstance(components.trainer, CoALoRATrainer)
    own, default = components.trainer.study.options, CoALoRATrainer.Options()
    # Who pays for all dequantized weights wants speed, so there is no target for it.
    targets = {all_dequantized: None, own.cache_mebibytes: 1.5, default.cache_mebibytes: 1.5}
    studies = {
        f"study of {CONFIGURATIONS} configurations, cache of {bound} MiB": bound
        for bound in sorted(targets)
    }
    plain = [sys.executable, "-m", "benchmarks.plain_lora", str(job.study), *job.changes]
    theta = ("trainer.init=shared", "trainer.theta_start=0")
    peaks = {
        "plain LoRA by PEFT": statistics.median(peak_memory(plain) for _ in range(PROCESSES)),
        "training without θ": _study_peak(job, ("trainer.name=shared-lora", *alone), PROCESSES),
        "training with θ": _study_peak(job, (*theta, *alone), PROCESSES),
        **{
            name: _study_peak(job, (*study, f"trainer.cache_mebibytes={bound}"), 1)
            for name, bound in studies.items()
        },
    }
    for subject, peak in peaks.items():
        benchmark.row(measure="peak memory", model=model, subject=subject, MiB=round(peak))
    for over, under, target in (
        ("training with θ", "training without θ", 1.02),
        *((name, "plain LoRA by PEFT", targets[bound]) for name, bound in studies.items()),
    ):
        claim = f"{model}: peak memory of {over} over {under}"
        benchmark.claim(claim, peaks[over] / peaks[under], target, "lower")


def _study_peak(job: Job, changes: Sequence[str], processes: int) -> float:
    """Return the median peak memory of a study of one round, MiB."""
    # One configuration a step: a backward pass then has as many examples as plain LoRA's.
    whole_batch = "trainer.configurations_per_step=1"
    settings = (*job.changes, "search.rounds=1", whole_batch, *changes)
    assignments = [word for setting in settings for word in ("--set", setting)]
    peaks = []
    for _ in range(processes):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "qsearch", "run", str(job.study)]
            peaks.append(peak_memory([*command, "--out", f"{folder}/run", *assignments]))
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
