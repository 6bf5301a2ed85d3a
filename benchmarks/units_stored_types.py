"""What storing in 16 bits, and an adapter in 8, does to the loss.

A short CoA-LoRA training of each plan; its packed exports at some average bits are loaded as users
load them, and evaluated on the same examples. Differences are paired, by example (a sentence, or a
token), to the export in float32, which computes what the study does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from qsearch_coalora.export.job import auto_class
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.models.loading import quiet_transformers
from qsearch_coalora.training.evaluation import score

from benchmarks.confidence import half_width
from benchmarks.method_studies import OURS, STUDIES, for_all, study_of
from benchmarks.paper_text import prepare_text
from benchmarks.recording import Benchmark
from qsearch.deployment.storage_options import StorageOptions
from qsearch.plugins.components import build_components
from qsearch.plugins.protocols import Scores
from qsearch.plugins.registry import load_plugin
from qsearch.space.configuration import Configuration
from qsearch.space.configuration_space import ConfigurationSpace

LEVELS = (2.5, 4.0)
BATCHES = {"sst2-minilm": 16, "wikitext2-smollm2": 4}
"""Batches of the test split that are evaluated, by the name of the plan."""

CHANGES: Mapping[str, tuple[str, ...]] = {
    "sst2-minilm": ("trainer.first_steps=120", "trainer.eval_batch_size=64"),
    "wikitext2-smollm2": (
        "task.test_tokens=2048",
        "trainer.first_steps=8",
        "trainer.init=shared",
        "trainer.eval_batch_size=4",
    ),
}
"""What makes a plan short, by its name."""

EXACT = "float32"
STORED: Mapping[str, StorageOptions] = {
    EXACT: StorageOptions("float32"),
    "bfloat16": StorageOptions("bfloat16"),
    "float16": StorageOptions("float16"),
    "bfloat16, adapter of 8 bits": StorageOptions("bfloat16", 8),
}

TARGET = 0.002
"""Greatest size of a mean change of the loss, nats; of a loss of 0.3 that is 0.7 %. Named before
anything was measured."""


def measure_stored_types(name: str, benchmark: Benchmark) -> None:
    """Measure a plan, and claim the change of the loss by each way of storing."""
    study, changes = STUDIES[name], CHANGES[name]
    prepare_text(study)
    components = build_components(study_of(study, OURS, 0, {OURS: for_all(OURS, *changes)}))
    space, trainer = components.space, components.trainer
    assert isinstance(trainer, AdapterTrainer)
    configurations = [uniform(space, level) for level in LEVELS]
    trainer.train(configurations, 1)
    for bits, configuration in zip(LEVELS, configurations, strict=True):
        losses = {
            stored: losses_of(trainer, configuration, options, BATCHES[name])
            for stored, options in STORED.items()
        }
        compare(benchmark, name, bits, losses)


def uniform(space: ConfigurationSpace, level: float) -> Configuration:
    """Return the largest configuration of layers that are all alike, within some average bits."""
    choices = [np.full(len(space.groups), choice) for choice in range(space.choices.size)]
    bits = space.average_bits(np.stack(choices))
    return space.decode(choices[int(np.where(bits <= level, bits, 0).argmax())])


def losses_of(
    trainer: AdapterTrainer, configuration: Configuration, options: StorageOptions, count: int
) -> Any:
    """Return the loss of each example of the packed export of a configuration, and its bytes."""
    import qsearch_quantizers  # noqa: F401  # It makes transformers know the format.
    import transformers

    task = trainer.study.task
    job = trainer.export_job(configuration)
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        load_plugin("exporters", "packed")().write(options.job(job), Path(folder))
        size = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
        loader = getattr(transformers, auto_class(job.module))
        module = loader.from_pretrained(folder).eval()
    batches = islice(task.batches("test", trainer.study.options.eval_batch_size), count)
    scores = []
    with torch.no_grad():
        for batch in batches:
            inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
            scores.append(score(task, module(**inputs).logits, batch))
    joined = Scores.concatenate(scores)
    return np.asarray(joined.losses, dtype=np.float64), np.asarray(joined.weights), size


def compare(benchmark: Benchmark, name: str, bits: float, losses: Mapping[str, Any]) -> None:
    """Record losses, weights and bytes of each way of storing, and the change from exact ones."""
    exact, weights, _ = losses[EXACT]
    for stored, (own, _, size) in losses.items():
        shares = weights / weights.mean()
        change = (own - exact) * shares
        benchmark.row(
            study=name,
            average_bits=bits,
            stored=stored,
            file_bytes=size,
            loss=round(float((own * shares).mean()), 5),
            change=round(float(change.mean()), 6),
            half_of_interval=round(half_width(change), 6),
            examples=len(own),
        )
        if stored != EXACT:
            what = f"stored types: {name}, {bits:g} bits, {stored}: |change of the loss|, nats"
            benchmark.claim(what, abs(float(change.mean())), TARGET, "lower")
