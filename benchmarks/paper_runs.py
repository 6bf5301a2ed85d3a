"""One method's study in the paper's comparison: run once, and what it serves recorded.

A record is two files: ``METHOD-SEED.json``, and ``METHOD-SEED.parquet`` with what each example of
the test split scored, so that methods are compared example by example.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.training.data_facts import DataFacts
from qsearch_quantizers.packed.stored_types import factor_plan

from benchmarks.method_studies import plan_digest, record_at, study_of
from benchmarks.objectives import DATA, ROOT
from benchmarks.paper_methods import ADAPTER_BITS, Plan
from benchmarks.paper_text import prepare_text
from benchmarks.recording import COMMIT, machine
from qsearch.deployment.selection import best_among
from qsearch.errors import QsearchError
from qsearch.plugins.capabilities import SupportsFullPrecision
from qsearch.plugins.components import build_components
from qsearch.plugins.evaluation import Evaluation, ExampleScores
from qsearch.spec.sections import PluginSpec
from qsearch.spec.study_spec import StudySpec
from qsearch.storage.checkpoints import read_adapter
from qsearch.storage.clock import Clock
from qsearch.storage.study_record import StudyRecord, read_study, row_configuration
from qsearch.study.run import run_spec

FULL_PRECISION = "full precision"
LOADED = "loaded model"


@dataclass(frozen=True)
class Served:
    """What a method serves, or a model that is not quantized.

    Args:
        name: The size in megabytes that was asked for, or what the model is.
        nbytes: Bytes of the weight files with an adapter of 8 bits; None where nothing is exported.
        average_bits: Of the quantized weights; None where there are none.
        loss: On the test split, nats.
        metrics: Those of the task there, each with its standard error if that is known.
    """

    name: str
    nbytes: int | None
    average_bits: float | None
    loss: float
    metrics: Mapping[str, tuple[float, float | None]]


@dataclass(frozen=True)
class Outcome:
    """A method's study with one seed.

    Args:
        method: Name of the method.
        seed: The study's seed.
        plan: Digest of the study and the sizes, so that no other plan's record is taken for it.
        served: One for each size, then the models that are not quantized.
        minutes: Wall time of the study until all sizes could be served: loading, scores,
            training, evaluations, fits and searches, over all sessions.
        train_minutes: Those of training in the rounds.
        evaluations: How many configurations were evaluated, each round's counted.
        steps: Optimizer steps.
        machine: Where it ran, of what commit, and how busy that machine was at the end.
        path: The record.
    """

    method: str
    seed: int
    plan: str
    served: tuple[Served, ...]
    minutes: float
    train_minutes: float
    evaluations: int
    steps: int
    machine: Mapping[str, Any]
    path: Path

    @cached_property
    def examples(self) -> Mapping[str, ExampleScores]:
        """What each example scored, by the name of what is served."""
        table = pd.read_parquet(_examples_path(self.path))
        return {
            str(name): ExampleScores(
                tuple(rows["loss"].astype(float)),
                tuple(rows["weight"].astype(float)),
                {
                    str(metric): tuple(rows[metric].astype(float))
                    for metric in rows.columns.difference(["served", "weight", "loss"])
                },
            )
            for name, rows in table.groupby("served", sort=False, observed=True)
        }


def size_name(megabytes: float, tested_on: str | None = None) -> str:
    """Return what a size is called in records and tables, where it is tested on another task."""
    return on_task(f"{megabytes:g} MB", tested_on)


def on_task(name: str, tested_on: str | None) -> str:
    """Return what a model is called in records where it is tested on another task."""
    return name if tested_on is None else f"{name}, {tested_on}"


def outcome_of(plan: Plan, method: str, seed: int, recorded: bool = False) -> Outcome | None:
    """Return what a method came to, from its record or else by running its study.

    Args:
        plan: The comparison; its records are in a folder of its name.
        method: Name of the method.
        seed: Seed.
        recorded: Whether to return None rather than run anything.

    Raises:
        InputError: If the record is of another plan.
        QsearchError: If the study serves nothing within one of the sizes.
    """
    path = DATA / plan.benchmark / plan.name / f"{method}-{seed}.json"
    digest = "-".join([plan_digest(plan.study, method, seed, plan.entries), *_tests(plan)])

    def run() -> dict[str, Any]:
        directory = ROOT / "runs" / plan.benchmark / plan.name / f"{method}-{seed}"
        prepare_text(plan.study)
        spec = study_of(plan.study, method, seed, plan.entries)
        path.parent.mkdir(parents=True, exist_ok=True)
        record, examples = _run(plan, plan.method(method).has_adapter, spec, directory)
        examples.to_parquet(_examples_path(path), index=False, compression="zstd")
        return {"method": method, "seed": seed, "plan": digest, **record}

    found = record_at(path, digest, None if recorded else run)
    if found is None:
        return None
    served = tuple(
        Served(**{**one, "metrics": {name: tuple(value) for name, value in one["metrics"].items()}})
        for one in found.pop("served")
    )
    return Outcome(served=served, path=path, **found)


def _tests(plan: Plan) -> list[str]:
    """Return what models are tested at and on, which is part of what a record is of."""
    other = [] if plan.other_task is None else [json.dumps(plan.other_task, sort_keys=True)]
    return [*(f"{megabytes:g}" for megabytes in plan.megabytes), *other]


def _examples_path(record: Path) -> Path:
    return record.with_suffix(".parquet")


def _run(
    plan: Plan, has_adapter: bool, spec: StudySpec, directory: Path
) -> tuple[dict[str, Any], pd.DataFrame]:
    run_spec(spec, directory)
    minutes = 60 * Clock(directory).hours
    record = read_study(directory)
    trainer = _trainer(spec, directory, len(record.rounds))
    saved = _saved_bytes(trainer) if has_adapter else 0
    rows = {
        size_name(megabytes): _best_within(record, megabytes * 1e6 + saved)
        for megabytes in plan.megabytes
    }
    models = _tested(trainer, rows)
    if plan.other_task is not None:
        name, task = plan.other_task
        # What was measured on the training text of this study, which all weights follow from.
        facts = trainer.study.facts
        del trainer
        other = spec.model_copy(update={"task": PluginSpec.model_validate(task)})
        trainer = _trainer(other, directory, len(record.rounds), facts)
        models |= {on_task(key, name): one for key, one in _tested(trainer, rows).items()}
    served = [
        Served(
            name,
            None if row is None else int(row["bytes"]) - saved,
            None if row is None else float(row["average_bits"]),
            one.loss,
            {
                metric: (value.value, _known(value.standard_error))
                for metric, value in one.metrics.items()
            },
        )
        for name, (row, one) in models.items()
    ]
    outcome = {
        "served": [asdict(one) for one in served],
        "minutes": minutes,
        "train_minutes": sum(entry.train_seconds for entry in record.rounds) / 60,
        "evaluations": len(record.trials),
        "steps": sum(len(entry.train_losses) for entry in record.rounds),
        "machine": {**machine(), "commit": COMMIT},
    }
    tables = [_examples(name, one) for name, (_, one) in models.items()]
    return outcome, pd.concat(tables, ignore_index=True).astype({"served": "category"})


def _trainer(
    spec: StudySpec, directory: Path, rounds: int, facts: DataFacts | None = None
) -> AdapterTrainer:
    """Return the trainer of a study as it is after some rounds, with the facts that it measured."""
    trainer = build_components(spec).trainer
    assert isinstance(trainer, AdapterTrainer)
    if facts is not None:
        trainer.study.facts = facts
    trainer.load_state(read_adapter(directory, rounds)[0])
    return trainer


def _tested(
    trainer: AdapterTrainer, rows: Mapping[str, pd.Series]
) -> dict[str, tuple[pd.Series | None, Evaluation]]:
    """Return what configurations, and the models that are not quantized, score on the test split.

    By their names, with the rows of the configurations.
    """
    trials = {int(row["trial"]): row_configuration(row) for row in rows.values()}
    tested = dict(zip(trials, trainer.evaluate([*trials.values()], "test"), strict=True))
    models: dict[str, tuple[pd.Series | None, Evaluation]] = {
        name: (row, tested[int(row["trial"])]) for name, row in rows.items()
    }
    if isinstance(trainer, SupportsFullPrecision):  # One LoRA for each configuration has none.
        models[FULL_PRECISION] = (None, trainer.evaluate_full_precision("test"))
    if (loaded := trainer.evaluate_loaded("test")) is not None:
        models[LOADED] = (None, loaded)
    return models


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _saved_bytes(trainer: AdapterTrainer) -> int:
    """Return the bytes by which an adapter of 8 bits is smaller than that which a study counts."""
    if trainer.study.options.adapter_bits == ADAPTER_BITS:
        return 0
    rank, dtype = trainer.study.options.rank, torch.bfloat16
    return trainer.footprint().adapter_bytes - sum(
        tensor.nbytes
        for layer in trainer.layers()
        for tensor in factor_plan(rank, layer.shape, dtype, ADAPTER_BITS).values()
    )


def _best_within(record: StudyRecord, nbytes: float) -> pd.Series:
    rows = record.latest
    fitting = rows[rows["bytes"] <= nbytes]
    if fitting.empty:
        raise QsearchError(f"{record.name} serves nothing within {nbytes:.0f} bytes")
    return best_among(fitting, record.objective)


def examples_of(evaluation: Evaluation) -> ExampleScores:
    """Return what each example scored.

    Raises:
        QsearchError: If the trainer does not say.
    """
    if evaluation.examples is None:
        raise QsearchError("the trainer does not say what each example scored")
    return evaluation.examples


def _examples(name: str, evaluation: Evaluation) -> pd.DataFrame:
    examples = examples_of(evaluation)
    columns = {"weight": examples.weights, "loss": examples.losses, **examples.metrics}
    return pd.DataFrame(
        {"served": name} | {k: np.array(v, dtype=np.float32) for k, v in columns.items()}
    )


def outcomes_of(plan: Plan, recorded: bool) -> Sequence[Outcome]:
    """Return what is recorded of a plan, and run the rest, one seed of all methods at a time."""
    found = [
        outcome_of(plan, method, seed, recorded)
        for seed in range(max(plan.seeds.values()))
        for method, seeds in plan.seeds.items()
        if seed < seeds
    ]
    return [one for one in found if one is not None]
