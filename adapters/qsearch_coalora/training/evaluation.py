"""The loss and the metric of a model on a split: of a configuration, or in full precision."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from qsearch.errors import EvaluationError
from qsearch.plugins.evaluation import Evaluation
from qsearch.plugins.protocols import Scores, Split, Task
from qsearch.plugins.references import SupportsDrawnLabels, SupportsReference
from qsearch.space.configuration import Configuration
from qsearch_coalora.settings.device import autocast, parse_device, uses_bfloat16
from qsearch_coalora.settings.memory import clear_memory_errors
from qsearch_coalora.tasks.metrics import weighted_mean
from qsearch_coalora.training.reference import Reference
from qsearch_coalora.training.study_model import StudyModel


def evaluate(
    study: StudyModel,
    place: Callable[[], object],
    split: Split,
    reference: Reference | None = None,
) -> Evaluation:
    """Evaluate the model as ``place`` makes it, which counts for the evaluation's seconds.

    With a reference of the split, it is compared with that. A loss that is not a number is returned
    as it is.

    Raises:
        EvaluationError: If it cannot be made or evaluated.
    """

    def batches() -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
        place()
        yield from evaluation_batches(study, split)

    study.adapted.peft_model.eval()
    try:
        return evaluate_logits(study.task, batches(), reference)
    finally:
        study.adapted.projections.clear()


def evaluate_logits(
    task: Task,
    batches: Iterable[tuple[Tensor, Mapping[str, Tensor]]],
    reference: Reference | None = None,
) -> Evaluation:
    """Evaluate the logits of a split's batches, whoever computes them; see :func:`evaluate`."""
    started = time.perf_counter()
    try:
        with clear_memory_errors():
            scores = _scores(task, batches, reference)
    except (RuntimeError, ValueError, KeyError) as error:
        raise EvaluationError(f"evaluation failed: {type(error).__name__}: {error}") from error
    return evaluation_of(task, scores, time.perf_counter() - started)


def evaluation_of(task: Task, scores: Scores, seconds: float) -> Evaluation:
    """Return what the scores of a split come to."""
    loss, error = weighted_mean(scores.losses, scores.weights)
    return Evaluation(loss, error, task.summarise(scores), seconds, scores.examples())


def evaluate_full_precision(
    study: StudyModel, split: Split, reference: Reference | None = None
) -> Evaluation:
    """Evaluate the original weights with the adapter as it is trained: W + L1·L2.

    θ's adjustment U is zero, and where the rank holds residual factors, there are none: the
    residual of what is not quantized is zero.

    Raises:
        EvaluationError: If it cannot be evaluated.
    """
    if reference is not None and reference.scores is not None:  # It is that very model.
        return evaluation_of(study.task, reference.scores, reference.seconds)
    with study.adapted.unquantized():
        return evaluate(study, lambda: None, split, reference)


def drawn_scores(
    task: Task, logits: Tensor, batch: Mapping[str, Tensor], generator: torch.Generator
) -> Scores:
    """Return the scores of labels that the model draws; of the batch's, if the task draws none."""
    if isinstance(task, SupportsDrawnLabels):
        batch = task.draw_labels(logits, batch, generator)
    return score(task, logits, batch)


def held_out_loss(study: StudyModel, configuration: Configuration) -> float:
    """Return what training lowers, on held-out training examples, with the adapter as it is.

    The task's loss alone, where the unquantized model learns it with the adapter.
    """
    kind, task, reference = study.options.loss or "task", study.task, None
    if isinstance(task, SupportsReference) and task.reference == "round":
        kind = "task"
    if kind != "task":
        assert isinstance(task, SupportsReference)
        reference = study.references.of(study, task, "held-out")
    study.adapted.use(configuration)
    scores = _scores(task, evaluation_batches(study, "held-out"), reference)
    losses = scores.losses
    if kind != "task":
        divergences = scores.metrics["kl"]
        losses = divergences if kind == "kl" else 0.5 * (divergences + losses)
    return weighted_mean(losses, scores.weights)[0]


@torch.no_grad()
def _scores(
    task: Task,
    batches: Iterable[tuple[Tensor, Mapping[str, Tensor]]],
    reference: Reference | None = None,
) -> Scores:
    """Return what the logits of a split's batches score, on the CPU."""
    parts, position = [], 0
    for logits, batch in batches:
        scores = task.score(logits, batch)
        end = position + len(scores.losses)
        if reference is not None and isinstance(task, SupportsReference):
            rows = {
                name: kept.to(logits.device) for name, kept in reference.rows(position, end).items()
            }
            scores = task.compare(scores, logits, batch, rows)
        parts.append(scores)
        position = end
    return Scores.concatenate(parts)


def evaluation_batches(
    study: StudyModel, split: Split
) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
    """Yield float32 logits and the batch of each batch of a split, on the study's device."""
    options, device = study.options, parse_device(study.options.device)
    for batch in study.task.batches(split, options.eval_batch_size):
        with autocast(uses_bfloat16(options.eval_precision, device), device):
            logits = study.adapted.logits(batch)
        yield logits.float(), {name: tensor.to(logits.device) for name, tensor in batch.items()}


def score(task: Task, logits: Tensor, batch: Mapping[str, Tensor]) -> Scores:
    """Have a task score a batch's logits, in float32 and on their device."""
    on_device = {name: tensor.to(logits.device) for name, tensor in batch.items()}
    return task.score(logits.float(), on_device)
