"""What comparing with the unquantized model adds to an evaluation of a language model.

Evaluations with and without
the comparison take turns, so that both meet the same load of the machine.
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.training.evaluation import evaluate

from benchmarks.objectives import SHARED
from benchmarks.recording import Benchmark
from benchmarks.timing import alternate, median_ratio, medians
from qsearch.plugins.components import build_components
from qsearch.space.configuration import Configuration
from qsearch.spec.sections import PluginSpec
from qsearch.spec.study_spec import load_spec

TARGET = 1.1
"""Greatest ratio of the seconds with the comparison to those without."""

_STUDY = Path(__file__).parent.parent / "studies" / "smollm2.yaml"
_PTQ = {"fine_tune": False, "eval_batch_size": 1, "cache_mebibytes": 1024}


def kl_cost(length: int = 512, sequences: int = 4, repeats: int = 5) -> dict[str, Any]:
    """Return medians of the seconds of an evaluation with and without KL, and of their ratio.

    It is of SmolLM2 at 3 bits on WikiText-2, without an adapter; quantized weights are cached, so
    that KL is compared with the model's own work alone.
    """
    os.environ.setdefault("QSEARCH_DATA", str(SHARED))
    tokens = length * sequences
    overrides = [
        f"task.length={length}",
        f"task.validation_tokens={tokens}",
        f"task.train_tokens={tokens}",
    ]
    spec = load_spec(_STUDY, overrides)
    ptq = PluginSpec(name="ptq", **_PTQ)
    components = build_components(spec.model_copy(update={"trainer": ptq}))
    trainer, choices = components.trainer, components.space.choices.layer_configurations
    assert isinstance(trainer, AdapterTrainer)
    choice = next(choice for choice in choices if choice["bits"] == 3)
    configuration = Configuration({layer.name: choice for layer in trainer.layers()})
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / "state").mkdir()
        _ = trainer.study.adapted
        started = perf_counter()
        trainer.prepare_reference(directory)
        making = perf_counter() - started
        kept = sum(path.stat().st_size for path in (directory / "state").iterdir())
        place, reference = partial(trainer.place, configuration), trainer.reference("validation")
        calls = {
            "with KL": partial(evaluate, trainer.study, place, "validation", reference),
            "without": partial(evaluate, trainer.study, place, "validation"),
        }
        cpu: dict[str, list[float]] = {name: [] for name in calls}

        def timed(name: str) -> None:
            begun = process_time()
            calls[name]()
            cpu[name].append(process_time() - begun)

        seconds = alternate({name: partial(timed, name) for name in calls}, repeats)
        metrics = calls["with KL"]().metrics
    return {
        "model": spec.model.name,
        "length": length,
        "tokens": tokens,
        **{f"seconds {name}": round(value, 3) for name, value in medians(seconds).items()},
        "ratio": round(median_ratio(seconds["with KL"], seconds["without"]), 3),
        # Of the processor's time, which a machine that does other things too hardly changes.
        "ratio of CPU time": round(median_ratio(cpu["with KL"][1:], cpu["without"][1:]), 3),
        "seconds to make the reference": round(making, 3),
        "bytes of the reference": kept,
        "KL at 3 bits": round(metrics["kl"].value, 4),
        "perplexity at 3 bits": round(metrics["perplexity"].value, 2),
        "threads": torch.get_num_threads(),
    }


def measure_metrics(benchmark: Benchmark) -> None:
    """Measure what KL adds to an evaluation."""
    cost = kl_cost()
    benchmark.claim(
        "KL: seconds of an evaluation of SmolLM2 with it / without", cost["ratio"], TARGET, "lower"
    )
    benchmark.row(**cost)
