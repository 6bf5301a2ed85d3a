"""What merging an adapter costs: into which weights, and whether they are quantized afterwards.

CoA-LoRA is trained on a fixed set, without a search, and taken at the allocator's configurations
of :data:`LEVELS` average bits. Their merged exports are loaded by transformers, and the layers'
weights in them replaced by those of each of :data:`WAYS`. What is finished is recorded under
``data/merging``. Writes a table of docs/benchmarks.md as well as ``results/merging.json``.

    python -m benchmarks.merging [--recorded]
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from qsearch_coalora.export.formats import MergedExporter
from qsearch_coalora.export.job import AdapterJob, auto_class
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.models.loading import load_pretrained
from qsearch_coalora.settings.device import autocast, parse_device, uses_bfloat16
from qsearch_coalora.tasks.metrics import weighted_mean
from qsearch_coalora.training.evaluation import score
from torch import Tensor

from benchmarks.adapter import sets_of
from benchmarks.confidence import half_width
from benchmarks.method_studies import (
    OURS,
    STUDIES,
    Entry,
    for_all,
    plan_digest,
    record_at,
    study_of,
)
from benchmarks.objectives import DATA, ROOT
from benchmarks.paper_text import prepare_text
from benchmarks.recording import Benchmark, fill_table, only_recorded
from qsearch._arrays import Floats
from qsearch.deployment.storage_options import StorageOptions
from qsearch.plugins.components import build_components
from qsearch.plugins.protocols import Scores
from qsearch.space.configuration import Configuration
from qsearch.spec.sections import ModelSpec

SEEDS = 3
LEVELS = (2.5, 3.0, 4.0)
CONFIGURATIONS = 16
"""Configurations of the set that is trained on; those of the levels need not be among them."""

CHANGES: Mapping[str, tuple[str, ...]] = {
    "sst2-minilm": ("trainer.first_steps=300",),
    "wikitext2-smollm2": ("task.test_tokens=4096",),
}
"""What makes a plan short, by its name."""

NAMES = {"sst2-minilm": "SST-2, MiniLM", "wikitext2-smollm2": "WikiText-2, SmolLM2"}
HEADER = (
    f"| | weights and adapter | {' | '.join(f'{level:g} bits' for level in LEVELS)} |",
    "|---|---|" + "---|" * len(LEVELS),
)
DOCS = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class LayerWeights:
    """What a layer's weight is made from, under one configuration.

    Args:
        original: The float weight W (output features × input features).
        dequantized: The same quantized and dequantized, W̃.
        update: What the adapter of that configuration adds, B·A′·α/r.
        rounded: Returns any weight quantized and dequantized as that configuration says.
    """

    original: Tensor
    dequantized: Tensor
    update: Tensor
    rounded: Callable[[Tensor], Tensor]


ADAPTED = "quantized, adapter apart or merged"
ORIGINAL = "adapter merged into the original weights, then quantized"
AGAIN = "adapter merged into dequantized weights, quantized again"
FLOAT_ADAPTED = "float, with the adapter"

WAYS: Mapping[str, Callable[[LayerWeights], Tensor]] = {
    "float": lambda layer: layer.original,
    FLOAT_ADAPTED: lambda layer: layer.original + layer.update,
    "quantized": lambda layer: layer.dequantized,
    ADAPTED: lambda layer: layer.dequantized + layer.update,
    ORIGINAL: lambda layer: layer.rounded(layer.original + layer.update),
    AGAIN: lambda layer: layer.rounded(layer.dequantized + layer.update),
}
"""The weight of a layer by what is done with the adapter. The task's head is the trained one."""

QUANTIZED_AFTERWARDS = (ORIGINAL, AGAIN)


def main() -> None:
    """Measure what is missing, then write the result file and the table of the documentation."""
    recorded = only_recorded(__doc__)
    benchmark = Benchmark("merging")
    lines: list[str] = []
    for name, changes in CHANGES.items():
        outcomes = []
        for seed in range(SEEDS):
            found = outcome_of(STUDIES[name], seed, changes, recorded)
            if found is not None:
                outcomes.append(found)
                for row in rows_of(found):
                    benchmark.row(study=name, seed=seed, **row)
        if outcomes:
            claim(benchmark, name, outcomes)
            lines += table_of(NAMES[name], outcomes)
    if lines:
        fill_table(DOCS, benchmark.name, [*HEADER, *lines])
    benchmark.write()


def outcome_of(
    study: Path, seed: int, changes: Sequence[str], recorded: bool = False
) -> dict[str, Any] | None:
    """Return what each way came to, from its record or else by training an adapter.

    Args:
        study: YAML of the study; its records are in a folder of its name.
        seed: Seed.
        changes: What of the study is changed.
        recorded: Whether to return None rather than train anything.

    Raises:
        InputError: If the record is of another plan.
    """
    entries = {OURS: for_all(OURS, *changes)}
    own = (plan_digest(study, OURS, seed, entries), CONFIGURATIONS, *LEVELS)
    plan = "-".join(map(str, own))
    path = DATA / "merging" / study.stem / f"{seed}.json"
    make = partial(_measure, study, seed, entries, plan)
    return record_at(path, plan, None if recorded else make)


def _measure(study: Path, seed: int, entries: Mapping[str, Entry], plan: str) -> dict[str, Any]:
    prepare_text(study)
    components = build_components(study_of(study, OURS, seed, entries))
    space, trainer = components.space, components.trainer
    assert isinstance(trainer, AdapterTrainer)
    first_set, levels = sets_of(components, seed, CONFIGURATIONS, LEVELS)
    trainer.train([space.decode(index) for index in first_set], 1)
    configurations = [space.decode(index) for index in levels]
    studied = trainer.evaluate(configurations, "test")
    return {
        "plan": plan,
        "metric_name": components.task.metrics[0].name,
        "average_bits": space.average_bits(levels).tolist(),
        "studied_loss": [one.loss for one in studied],
        "measured": [measure(trainer, one) for one in configurations],
    }


@torch.no_grad()
def measure(trainer: AdapterTrainer, configuration: Configuration) -> dict[str, Any]:
    """Return what a configuration's adapter comes to by each way, on the test split.

    Args:
        trainer: The trainer, trained.
        configuration: The configuration.
    """
    job = trainer.export_job(configuration)
    module, layers = load_merged(trainer, job), list(layer_weights(job))
    apart = logits_apart(trainer, configuration, module)
    as_loaded = evaluate(trainer, module)
    ways = {}
    for way, weight_of in WAYS.items():
        if way == ADAPTED:
            ways[way] = as_loaded
            continue
        for name, layer in zip(job.paths, layers, strict=True):
            module.get_submodule(name).weight.data = weight_of(layer)
        ways[way] = evaluate(trainer, module)
    kept = {way: kept_share(layers, WAYS[way]) for way in QUANTIZED_AFTERWARDS}
    return {"logits_apart": apart, "ways": ways, "kept": kept}


def load_merged(trainer: AdapterTrainer, job: AdapterJob) -> Any:
    """Return the model that transformers loads from the merged export of a configuration."""
    with tempfile.TemporaryDirectory() as folder:
        exact = StorageOptions("float32").job(trainer.export_job(job.configuration))
        MergedExporter().write(exact, Path(folder))
        module, _ = load_pretrained(ModelSpec(name=folder), auto_class(job.module))
    return module.to(trainer.study.options.device)


def layer_weights(job: AdapterJob) -> Iterator[LayerWeights]:
    """Yield what the weight of each layer is made from, in layer order."""
    weights = job.adapted.weights
    for position, (A, B) in enumerate(job.factors()):
        assert A is not None
        assert B is not None
        chosen = job.configuration[job.adapted.layers[position].name]
        yield LayerWeights(
            weights.originals[position],
            weights.dequantized(position, chosen),
            B @ A,
            partial(weights.approximated, position, configuration=chosen),
        )


def logits_apart(
    trainer: AdapterTrainer, configuration: Configuration, module: torch.nn.Module
) -> float:
    """Return how far a model's logits are from the study's, over the largest of these.

    In float32, on the first batch of the test split.
    """
    batch = next(iter(trainer.study.task.batches("test", trainer.study.options.eval_batch_size)))
    trainer.study.adapted.peft_model.eval()
    trainer.study.adapted.use(configuration)
    expected = trainer.study.adapted.logits(batch)
    trainer.study.adapted.projections.clear()
    found = module(**_inputs(trainer, batch)).logits
    return float((found - expected).abs().max() / expected.abs().max())


def evaluate(trainer: AdapterTrainer, module: torch.nn.Module) -> dict[str, float]:
    """Return loss and metric of a plain model on the test split, in the study's precision."""
    options, task = trainer.study.options, trainer.study.task
    device = parse_device(options.device)
    scores = []
    with autocast(uses_bfloat16(options.eval_precision, device), device):
        for batch in task.batches("test", options.eval_batch_size):
            scores.append(score(task, module(**_inputs(trainer, batch)).logits, batch))
    joined = Scores.concatenate(scores)
    loss, _ = weighted_mean(joined.losses, joined.weights)
    return {"loss": loss, "metric": task.summarise(joined)[task.metrics[0].name].value}


def _inputs(trainer: AdapterTrainer, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    device = trainer.study.options.device
    return {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}


def kept_share(
    layers: Sequence[LayerWeights], weight_of: Callable[[LayerWeights], Tensor]
) -> float:
    """Return the share of the update that a way leaves in the weights, along the update.

    1 where weights differ from the dequantized ones by the update, whatever is next to it at right
    angles; 0 where the update is rounded away; more than 1 where what quantizing took, which the
    update makes up for, is there as well.
    """
    along = [((weight_of(one) - one.dequantized) * one.update).sum() for one in layers]
    squares = [one.update.square().sum() for one in layers]
    return float(torch.stack(along).sum() / torch.stack(squares).sum())


def rows_of(outcome: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each configuration and way of an outcome."""
    rows = []
    for bits, studied, one in zip(
        outcome["average_bits"], outcome["studied_loss"], outcome["measured"], strict=True
    ):
        for way, figures in one["ways"].items():
            row = {"average bits": round(bits, 4), "way": way, "loss": round(figures["loss"], 4)}
            row[outcome["metric_name"]] = round(figures["metric"], 4)
            if way == ADAPTED:
                row["loss in the study"] = round(studied, 4)
                row["logits apart"] = one["logits_apart"]
            if way in one["kept"]:
                row["share of the update kept"] = round(one["kept"][way], 3)
            rows.append(row)
    return rows


def losses_of(outcomes: Sequence[Mapping[str, Any]], way: str, figure: str = "loss") -> Floats:
    """Return a figure of a way (seeds × levels)."""
    return np.array(
        [[measured["ways"][way][figure] for measured in one["measured"]] for one in outcomes]
    )


def claim(benchmark: Benchmark, study: str, outcomes: Sequence[Mapping[str, Any]]) -> None:
    """Claim that the merged export is the study's model, and what other places of merging cost.

    Args:
        benchmark: Where claims go.
        study: Name of the study.
        outcomes: Those of its seeds.
    """
    apart = max(one["logits_apart"] for outcome in outcomes for one in outcome["measured"])
    what = "logits of the merged export less the study's over the largest, float32, greatest"
    benchmark.claim(f"{study}: {what}", apart, 1e-4, "lower")
    own = losses_of(outcomes, ADAPTED)
    for way in (FLOAT_ADAPTED, *QUANTIZED_AFTERWARDS):
        gaps = losses_of(outcomes, way) - own
        for level, column in zip(LEVELS, gaps.T, strict=True):
            what = (
                f"{study}: loss of {way!r} less that of {ADAPTED!r}, {level:g} bits,"
                f" nats, {len(outcomes)} seeds"
            )
            benchmark.claim(f"{what}, mean", float(column.mean()), None, "lower")
            if len(column) > 1:
                half = half_width(column)
                benchmark.claim(f"{what}, half of the 95 % interval", half, None, "lower")


def table_of(study: str, outcomes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a study in the documentation's table: means over seeds.

    Args:
        study: What the table calls it.
        outcomes: Those of its seeds.
    """
    is_classifier = outcomes[0]["metric_name"] == "accuracy"
    lines = []
    for way in WAYS:
        losses = losses_of(outcomes, way).mean(axis=0)
        accuracies = losses_of(outcomes, way, "metric").mean(axis=0)
        cells = [
            f"{loss:.3f} ({accuracy:.3f})" if is_classifier else f"{loss:.2f}"
            for loss, accuracy in zip(losses, accuracies, strict=True)
        ]
        lines.append(f"| {' | '.join([study, way, *cells])} |")
    return lines


if __name__ == "__main__":
    main()
