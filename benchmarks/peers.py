"""What qsearch allocates, next to the tools that do so, at equal sizes and without training.

Each tool is asked for an allocation of bits to layers at five sizes, with the same integers and the
same calibration text. Its process is timed, and its peak memory is read from the kernel. Every
allocation is then evaluated in the same way on text that no tool saw. Times that are compared are
the processor's, since other programs may be busy. What is finished stays under ``runs/peers``, so a
benchmark that was killed continues.

    python -m benchmarks.peers [--recorded] [smollm2 gemma3]
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from qsearch_coalora.models.loading import CAUSAL, load_pretrained
from qsearch_coalora.models.tokenizers import load_tokenizer

from benchmarks.language_models import Kept, LanguageModels
from benchmarks.objectives import ROOT
from benchmarks.peer_tools.inputs import (
    ALLOCATIONS,
    MODEL,
    TEXTS,
    Allocation,
    Inputs,
    read_allocations,
)
from benchmarks.peer_tools.study import PeerStudy
from benchmarks.recipes import install
from benchmarks.recording import Benchmark
from qsearch.claims.paired_difference import PairedDifference, paired_difference
from qsearch.storage.files import write_json

OURS = "qsearch"

TIMES = 5
"""Times of AutoScheme's search for one size that qsearch's for all sizes may take."""

BETTER_AT = 3
"""Sizes at which qsearch is to be better than the best of the others."""


@dataclass(frozen=True)
class Tool:
    """A tool that allocates.

    Args:
        script: A module of :mod:`benchmarks.peer_tools`.
        package: What :func:`benchmarks.recipes.install` installs for it, if anything.
        arguments: Of the script.
    """

    script: str
    package: str | None = None
    arguments: tuple[str, ...] = ()


TOOLS = {
    OURS: Tool("qsearch_study"),
    "AutoScheme": Tool("auto_scheme", "auto-round"),
    "ModelOpt, gradient": Tool("auto_quantize", "modelopt", ("gradient",)),
    "ModelOpt, KL": Tool("auto_quantize", "modelopt", ("kl_div",)),
    "exllamav3's greedy": Tool("greedy_kl"),
    "torchao's search": Tool("bayesian_blocks"),
    "allocator": Tool("allocator"),
    "uniform": Tool("uniform"),
}


def main() -> None:
    """Measure what is missing; write the result file and the documentation's table."""
    LanguageModels("peers", measure, report).run(__doc__)


# Measuring


def measure(plan: Path, folder: Path) -> dict[str, Any]:
    """Ask all tools for allocations, and evaluate them."""
    study = PeerStudy(plan)
    inputs = write_inputs(study, plan, folder)
    asked = {title: _Asked(folder / title, tool, inputs) for title, tool in TOOLS.items()}
    for one in asked.values():
        one.ask(folder)
    kept = Kept(folder / "evaluated.json")
    tools = {}
    for title, one in asked.items():
        costs = json.loads(one.costs.read_text(encoding="utf-8"))
        if "reason" not in costs:
            found = read_allocations(one.allocations)
            costs["sizes"] = {
                str(size): kept.of(
                    json.dumps(sorted(found[size].items())), partial(_evaluate, study, found[size])
                )
                for size in inputs.sizes
            }
        tools[title] = costs
    return {"sizes": inputs.sizes, "tools": tools}


def write_inputs(study: PeerStudy, plan: Path, folder: Path) -> Inputs:
    """Write what tools are given: the model, the calibration text, and what is asked for."""
    search, choices = study.spec.search, study.space.choices.layer_configurations
    tokenizer = load_tokenizer(study.spec.model)
    if not (folder / MODEL / "tokenizer.json").is_file():
        model, _ = load_pretrained(study.spec.model, CAUSAL)
        model.save_pretrained(folder / MODEL)
        tokenizer.save_pretrained(folder / MODEL)
    task: Any = study.trainer.study.task
    task.prepare(tokenizer)
    tokens = tuple(
        tuple(row)
        for batch in task.batches("validation", 1, None)
        for row in batch["input_ids"].tolist()
    )
    text = tokenizer.decode([token for row in tokens for token in row], skip_special_tokens=True)
    # A tool that tokenizes again, and cuts at its length, reads the same sequences.
    starts = [len(text) * number // len(tokens) for number in range(len(tokens))]
    texts = [text[start:] + text[:start] for start in starts]
    (folder / TEXTS).write_text(json.dumps(texts), encoding="utf-8")
    inputs = Inputs(
        plan=str(plan),
        sizes=tuple(search.budgets),
        bits=tuple(sorted({int(one["bits"]) for one in choices})),
        group_size=int(choices[0]["group_size"]),
        tied=tuple(
            tuple(f"{role}_proj" for role in roles) for roles in (("q", "k", "v"), ("gate", "up"))
        ),
        tokens=tokens,
    )
    inputs.write(folder)
    return inputs


class _Asked:
    """What a tool answered, and what that took."""

    def __init__(self, folder: Path, tool: Tool, inputs: Inputs) -> None:
        self.allocations, self.costs = folder / ALLOCATIONS, folder / "costs.json"
        self._tool, self._inputs = tool, inputs

    def ask(self, inputs: Path) -> None:
        """Run the tool, unless it has been run."""
        if self.costs.is_file():
            return
        self.costs.parent.mkdir(exist_ok=True)
        environment, reason = dict(os.environ), ""
        if self._tool.package is not None:
            environment, reason = install(self._tool.package)
        costs = {"reason": reason} if reason else self._run(inputs, environment)
        write_json(self.costs, costs)
        print(f"{self.costs.parent.name}: {costs}", flush=True)

    def _run(self, inputs: Path, environment: Mapping[str, str]) -> dict[str, Any]:
        module = f"benchmarks.peer_tools.{self._tool.script}"
        own = (str(inputs), str(self.allocations), *self._tool.arguments)
        start, first_processor = time.monotonic(), math.nan
        with (self.costs.parent / "log.txt").open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *own],
                stdout=log,
                stderr=log,
                env=dict(environment),
                cwd=ROOT,
            )
            watched = psutil.Process(process.pid)
            while True:
                if math.isnan(first_processor) and self.allocations.is_file():
                    first_processor = _processor_seconds(watched)
                ended, status, usage = os.wait4(process.pid, os.WNOHANG)
                if ended:
                    break
                time.sleep(0.2)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            lines = (self.costs.parent / "log.txt").read_text(encoding="utf-8").split("\n")
            return {"reason": next((line for line in reversed(lines) if line.strip()), "")[:300]}
        return {
            "seconds": time.monotonic() - start,
            "processor_seconds": usage.ru_utime + usage.ru_stime,
            "processor_seconds_of_first": first_processor,
            "peak_mebibytes": usage.ru_maxrss / 1024,
        }


def _processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _evaluate(study: PeerStudy, allocation: Allocation) -> dict[str, Any]:
    """Return the size of an allocation, and what it scores on the test split."""
    configuration = study.configuration(allocation)
    result = study.evaluate(configuration, "test")
    assert result.examples is not None
    (bits,) = study.trainer.study.average_bits([configuration])
    return {
        "bits": bits,
        "kl": result.metrics["kl"].value,
        "perplexity": result.metrics["perplexity"].value,
        "sequences": result.examples.metrics["kl"],
    }


# Reporting


def report(benchmark: Benchmark, title: str, record: Mapping[str, Any]) -> list[str]:
    """Add a model's rows and claims; return its table as Markdown."""
    sizes = [str(size) for size in record["sizes"]]
    tools = {name: one for name, one in record["tools"].items() if "sizes" in one}
    lines = [
        f"### {title}: allocations of other tools",
        "",
        f"| KL | {' | '.join(f'{size} bits' for size in sizes)} | minutes, processor's | GiB |",
        "|---|" + "---|" * (len(sizes) + 2),
    ]
    for name, one in tools.items():
        own = [one["sizes"][size] for size in sizes]
        minutes, busy = one["seconds"] / 60, one["processor_seconds"] / 60
        memory = one["peak_mebibytes"] / 1024
        cells = [f"{each['kl']:.4f}" for each in own]
        lines.append(f"| {name} | {' | '.join(cells)} | {minutes:.1f}, {busy:.1f} | {memory:.1f} |")
        for size, each in zip(sizes, own, strict=True):
            difference = _difference(tools[OURS], one, size)
            benchmark.row(
                model=record["model"],
                tool=name,
                size=float(size),
                bits=round(each["bits"], 4),
                kl=round(each["kl"], 5),
                perplexity=round(each["perplexity"], 3),
                difference=round(difference.difference, 5),
                low=round(difference.low, 5),
                high=round(difference.high, 5),
                minutes=round(minutes, 2),
                processor_minutes=round(busy, 2),
                processor_minutes_of_first=round(one["processor_seconds_of_first"] / 60, 2),
                gibibytes=round(memory, 2),
            )
    lines.append("")
    for name, one in record["tools"].items():
        if "reason" in one:
            lines += [f"{name} did not run: {one['reason']}", ""]
            benchmark.row(model=record["model"], tool=name, reason=one["reason"])
    _claim(benchmark, title, sizes, tools)
    return lines


def _difference(ours: Mapping[str, Any], other: Mapping[str, Any], size: str) -> PairedDifference:
    return paired_difference(ours["sizes"][size]["sequences"], other["sizes"][size]["sequences"])


def _claim(
    benchmark: Benchmark, title: str, sizes: list[str], tools: Mapping[str, Mapping[str, Any]]
) -> None:
    """Claim no KL above any tool's, less than the best one's at some sizes, and the time."""
    ours, better = tools[OURS], 0
    for size in sizes:
        rivals = {
            name: one["sizes"][size]["kl"]
            for name, one in tools.items()
            if name != OURS and one["sizes"][size]["bits"] <= float(size) + 1e-9
        }
        best = min(rivals, key=lambda name: rivals[name])
        ratio = ours["sizes"][size]["kl"] / rivals[best]
        benchmark.claim(
            f"{title}, {size} bits: KL of qsearch over that of the best other ({best})",
            *(ratio, 1.0, "lower"),
        )
        better += _difference(ours, tools[best], size).high < 0
    benchmark.claim(
        f"{title}: sizes of {len(sizes)} at which qsearch is better than the best other, with an"
        " interval below zero",
        *(better, BETTER_AT, "higher"),
    )
    if "AutoScheme" in tools:
        times = ours["processor_seconds"] / tools["AutoScheme"]["processor_seconds_of_first"]
        benchmark.claim(
            f"{title}: processor time of qsearch for all sizes over that of AutoScheme for one",
            *(times, float(TIMES), "lower"),
        )


if __name__ == "__main__":
    main()
