"""Configurations evaluated on a split that no search has seen, compared with other models."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

from qsearch._text import warn
from qsearch.claims.claims import baselines
from qsearch.claims.paired_difference import PairedDifference, paired_scores
from qsearch.deployment.kept_evaluations import kept_evaluations
from qsearch.deployment.study_trainer import (
    input_digests,
    load_last_state,
    own_inputs,
    study_components,
)
from qsearch.errors import InputError, QsearchError
from qsearch.plugins.capabilities import SupportsFullPrecision
from qsearch.plugins.components import StudyComponents
from qsearch.plugins.digests import STUDY_SPLITS, Inputs
from qsearch.plugins.engines import EngineEvaluation, SupportsEngines
from qsearch.plugins.evaluation import Evaluation
from qsearch.plugins.protocols import Split, Trainer
from qsearch.plugins.references import SupportsLoadedModel
from qsearch.storage.example_scores import FULL_PRECISION as FULL_PRECISION_NAME
from qsearch.storage.split_evaluations import LOADED as LOADED_NAME
from qsearch.storage.split_evaluations import Evaluated
from qsearch.storage.study_record import StudyRecord, row_bytes, row_configuration
from qsearch.study.warnings import study_warnings

FULL_PRECISION = "full precision"
"""The adapter of the last finished round with no weight quantized."""

LOADED = "loaded model"
"""The model as it is loaded, without an adapter."""

Progress = Callable[[str], None]
"""Called with the name of what is evaluated next."""


@dataclass(frozen=True)
class EvaluatedModel:
    """What a model scored on a split; the row of ``trials.parquet`` if it is a configuration.

    Args:
        name: Of a picked configuration its trial, of a baseline, such as ``uniform 4 bits``, its
            name, else what it is.
        baseline: The name as a baseline, also of one that is picked.
        kept: Whether an earlier call evaluated it.
        engine: Of the files of a configuration in an inference engine.
    """

    name: str
    evaluation: Evaluation
    row: pd.Series | None = None
    baseline: str | None = None
    kept: bool = False
    engine: EngineEvaluation | None = None

    @property
    def file_bytes(self) -> int | None:
        """Bytes of the files in the engine, or as ``packed``; None where that is not known."""
        return row_bytes(self.row) if self.engine is None else self.engine.file_bytes

    @property
    def label(self) -> str:
        """The name with that as a baseline, for tables."""
        return self.name if self.baseline in (None, self.name) else f"{self.name}, {self.baseline}"

    def examples(self, metric: str = "loss") -> int | None:
        """Return how many examples the loss, or a metric, is of; None where that is not known.

        A metric that compares with the unquantized model may be of fewer than the loss.
        """
        scores = self.evaluation.examples
        values = None if scores is None else {"loss": scores.losses, **scores.metrics}.get(metric)
        return None if values is None else sum(not math.isnan(value) for value in values)


@dataclass(frozen=True)
class Difference:
    """A picked configuration's loss, or metric of examples, less that of another model."""

    name: str
    other: str
    metric: str
    difference: PairedDifference


@dataclass(frozen=True)
class SplitEvaluation:
    """What models scored on a split of a study's data, and how picked ones differ from others.

    Args:
        folder: Where what examples scored is kept for later calls.
        outdated: In what evaluations of earlier calls differed from these, which replace them.
    """

    study: str
    split: str
    models: tuple[EvaluatedModel, ...]
    differences: tuple[Difference, ...]
    folder: Path
    outdated: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values, nothing rounded; None for what is not known."""
        return {
            "study": self.study,
            "split": self.split,
            "outdated": list(self.outdated),
            "models": [_model_values(model) for model in self.models],
            "differences": [
                {"model": one.name, "other": one.other, "metric": one.metric}
                | asdict(one.difference)
                for one in self.differences
            ],
        }


def evaluate_split(
    directory: Path,
    record: StudyRecord,
    rows: Sequence[pd.Series],
    split: Split,
    length: int | None = None,
    show: Progress = lambda name: None,
    engine: str | None = None,
) -> SplitEvaluation:
    """Evaluate rows of the last finished round, its baselines and the unquantized model on a split.

    ``length`` is that of sequences, instead of the study's own (``task.length``). What an earlier
    call evaluated from the same model, examples and state is not evaluated again. With an engine,
    the files of each row are evaluated there, too, by each call.

    Raises:
        InputError: If the study names no such split, its data or the model cannot be read, or they
            are not those of the study, or the engine does not run its files.
        QsearchError: If an evaluation fails.
    """
    components = study_components(directory, record, length)
    trainer = components.trainer
    for warning in study_warnings(components):
        warn(warning)
    if engine is not None:
        _require_engine(trainer, engine)
    show("whether model and data are those of the study")
    inputs = _inputs(directory, record, components, split, length)
    round = int(record.latest["round"].iloc[0])
    kept = kept_evaluations(directory, components, round, split, inputs)
    models: list[EvaluatedModel] = []

    @cache
    def load_state() -> None:
        show("the state of the last finished round")
        load_last_state(directory, record, trainer)

    def add(
        name: str,
        of: Evaluated,
        evaluate: Callable[[], Evaluation | None],
        row: pd.Series | None = None,
        baseline: str | None = None,
    ) -> None:
        configuration = "" if row is None else str(row["configuration"])
        evaluation = kept.get(of, configuration)
        is_kept = evaluation is not None
        if evaluation is None:
            if of != LOADED_NAME:
                load_state()
            show(name)
            evaluation = evaluate()
            if evaluation is None:
                return
            _require_finite(name, evaluation, split)
            evaluation = kept.keep(of, evaluation, configuration)
        models.append(EvaluatedModel(name, evaluation, row, baseline, is_kept))

    def add_in_engine(name: str, row: pd.Series) -> None:
        load_state()
        show(name)
        assert isinstance(trainer, SupportsEngines)
        result = trainer.evaluate_in(str(engine), row_configuration(row), split)
        _require_finite(name, result.evaluation, split)
        models.append(EvaluatedModel(name, result.evaluation, row, engine=result))

    picked = {int(row["trial"]): row for row in rows}
    uniform = {int(row["trial"]): (name, row) for name, row in baselines(record).items()}
    for number, row in picked.items():
        baseline, _ = uniform.pop(number, (None, None))
        evaluate = partial(_evaluate, trainer, row, split)
        add(f"trial {number}", number, evaluate, row, baseline)
        if engine is not None:
            add_in_engine(f"trial {number} in {engine}", row)
    for number, (name, row) in uniform.items():
        add(name, number, partial(_evaluate, trainer, row, split), row, name)
    if isinstance(trainer, SupportsFullPrecision):
        add(FULL_PRECISION, FULL_PRECISION_NAME, lambda: trainer.evaluate_full_precision(split))
    if isinstance(trainer, SupportsLoadedModel):
        add(LOADED, LOADED_NAME, lambda: trainer.evaluate_loaded(split))
    return SplitEvaluation(
        record.name,
        split,
        tuple(models),
        tuple(_differences(models)),
        kept.folder,
        tuple(kept.differing),
    )


def _require_finite(name: str, evaluation: Evaluation, split: Split) -> None:
    if not math.isfinite(evaluation.loss):
        raise QsearchError(f"{name}: its loss on the {split} data is {evaluation.loss}")


def _require_engine(trainer: Trainer, engine: str) -> None:
    engines = trainer.engines if isinstance(trainer, SupportsEngines) else ()
    if engine not in engines:
        have = f"it has {', '.join(engines)}" if engines else "it has none"
        raise InputError(f"--in {engine!r}: the study's trainer knows no such engine; {have}")
    assert isinstance(trainer, SupportsEngines)
    trainer.require_engine(engine)


def _inputs(
    directory: Path,
    record: StudyRecord,
    components: StudyComponents,
    split: Split,
    length: int | None,
) -> Inputs:
    """Return the model and the examples that are evaluated, if the study's own are as they were."""
    if length is None:
        splits = tuple(dict.fromkeys((*STUDY_SPLITS, split)))
        return own_inputs(directory, record, components, splits)
    components.trainer.requirements()  # Which refuses a length before anything is loaded.
    own_inputs(directory, record, study_components(directory, record), STUDY_SPLITS)
    gc.collect()  # Its model goes before another one is loaded.
    return input_digests(components, (split,))


def _evaluate(trainer: Trainer, row: pd.Series, split: Split) -> Evaluation:
    return trainer.evaluate([row_configuration(row)], split)[0]


def _differences(models: Sequence[EvaluatedModel]) -> list[Difference]:
    """Return how each picked configuration, named by its trial, differs from all other models."""
    found = []
    for model in models:
        if not model.name.startswith("trial "):
            continue
        for other in models:
            own, compared = model.evaluation.examples, other.evaluation.examples
            if other is model or own is None or compared is None or len(own.losses) < 2:
                continue
            for metric in ("loss", *sorted(own.metrics.keys() & compared.metrics.keys())):
                with suppress(InputError):  # No example has the metric under both.
                    difference = paired_scores(own, compared, metric)
                    found.append(Difference(model.name, other.name, metric, difference))
    return found


def _model_values(model: EvaluatedModel) -> dict[str, Any]:
    row, evaluation = model.row, model.evaluation
    return {
        "name": model.name,
        "baseline": model.baseline,
        "trial": None if row is None else int(row["trial"]),
        "average_bits": None if row is None else float(row["average_bits"]),
        "file_bytes": model.file_bytes,
        "examples": model.examples(),
        "loss": evaluation.loss,
        "standard_error": evaluation.standard_error,
        "metrics": {
            name: {
                "value": metric.value,
                "standard_error": None
                if math.isnan(metric.standard_error)
                else metric.standard_error,
                "examples": model.examples(name),
            }
            for name, metric in evaluation.metrics.items()
        },
        "seconds": evaluation.seconds,
        "kept": model.kept,
        "engine": None if model.engine is None else asdict(model.engine.speed),
    }
