"""The loss and the metric of a model on a split: of a configuration, or in full precision."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from qsearch.errors import EvaluationError
from qsearch.plugins.evaluation import Evaluation
from qsearch.plugins.protocols import Scores, Split, Task
from qsearch.space.configuration import Configuration
from qsearch_coalora.settings.device import autocast, parse_device, uses_bfloat16
from qsearch_coalora.settings.memory import clear_memory_errors
from qsearch_coalora.tasks.metrics import weighted_mean
from qsearch_coalora.training.study_model import StudyModel


def evaluate(study: StudyModel, place: Callable[[], object], split: Split) -> Evaluation:
    """Evaluate the model as ``place`` makes it, which counts for the evaluation's seconds.

    A loss that is not a number is returned as it is.

    Raises:
        EvaluationError: If it cannot be made or evaluated.
    """
    started = time.perf_counter()
    study.adapted.peft_model.eval()
    try:
        with clear_memory_errors():
            place()
            scores = _split_scores(study, split)
    except (RuntimeError, ValueError, KeyError) as error:
        raise EvaluationError(f"evaluation failed: {type(error).__name__}: {error}") from error
    finally:
        study.adapted.projections.clear()
    loss, standard_error = weighted_mean(scores.losses, scores.weights)
    metric, metric_error = study.task.summarise(scores)
    return Evaluation(loss, standard_error, metric, metric_error, time.perf_counter() - started)


def evaluate_full_precision(study: StudyModel, split: Split) -> Evaluation:
    """Evaluate the original weights with the adapter as it is trained: W + L1·L2.

    θ's adjustment U is zero, and where the rank holds residual factors, there are none: the
    residual of what is not quantized is zero.

    Raises:
        EvaluationError: If it cannot be evaluated.
    """
    with study.adapted.unquantized():
        return evaluate(study, lambda: None, split)


def held_out_loss(study: StudyModel, configuration: Configuration) -> float:
    """Return the loss on held-out training examples, with the adapter as it is."""
    study.adapted.use(configuration)
    scores = _split_scores(study, "held-out")
    return weighted_mean(scores.losses, scores.weights)[0]


@torch.no_grad()
def _split_scores(study: StudyModel, split: Split) -> Scores:
    """Return what the model scores as it is, on the CPU."""
    options, device = study.options, parse_device(study.options.device)
    with autocast(uses_bfloat16(options.eval_precision, device), device):
        return Scores.concatenate(
            [
                score(study.task, study.adapted.logits(batch), batch)
                for batch in study.task.batches(split, options.eval_batch_size)
            ]
        )


def score(task: Task, logits: Tensor, batch: Mapping[str, Tensor]) -> Scores:
    """Have a task score a batch's logits, in float32 and on their device."""
    on_device = {name: tensor.to(logits.device) for name, tensor in batch.items()}
    return task.score(logits.float(), on_device)
