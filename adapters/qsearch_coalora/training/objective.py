"""What training lowers: the task's loss, or the divergence from the unquantized model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qsearch.errors import InputError
from qsearch.plugins.capabilities import SupportsExampleWeights
from qsearch.plugins.references import SupportsDistillation
from qsearch_coalora.tasks.batching import examples_in
from qsearch_coalora.training.evaluation import score

if TYPE_CHECKING:
    from qsearch_coalora.training.study_model import StudyModel


class Objective:
    """The mean loss of a batch, as ``trainer.loss`` says.

    Raises:
        InputError: If the task has no such loss, or what the unquantized model predicts on the
            training examples does not fit.
    """

    def __init__(self, study: StudyModel) -> None:
        self._task = study.task
        self._kind = study.options.loss or "task"
        self._teacher = None if self._kind == "task" else Teacher(study)

    def __call__(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the mean over a batch's examples, by their weights, with its graph."""
        if self._teacher is None:
            scores = score(self._task, logits, batch)
            return (scores.losses * scores.weights).sum() / scores.weights.sum()
        divergences = self._teacher.divergence(logits, batch)
        weights = self._weights(batch).to(divergences)
        losses = divergences
        if self._kind == "mixed":
            losses = 0.5 * divergences + 0.5 * score(self._task, logits, batch).losses
        return (losses * weights).sum() / weights.sum()

    def _weights(self, batch: Mapping[str, Tensor]) -> Tensor:
        if isinstance(self._task, SupportsExampleWeights):
            return self._task.example_weights(batch)
        return torch.ones(examples_in(batch))


class Teacher:
    """What the unquantized model predicts on the training examples, which are found by content."""

    def __init__(self, study: StudyModel) -> None:
        task = study.task
        assert isinstance(task, SupportsDistillation)
        self._task = task
        self._reference = study.references.of(study, task, "train")
        batches = task.batches("train", study.options.eval_batch_size)
        self._places = {
            key: place
            for place, key in enumerate(key for batch in batches for key in _contents(batch))
        }
        count, kept = len(self._reference.examples.losses), self._reference.count
        if kept < count:
            limit = study.options.reference_mebibytes
            needed = -(-limit * count // max(kept, 1))
            raise InputError(
                f"trainer.reference_mebibytes {limit} holds what the unquantized model predicts on"
                f" {kept} of {count} training examples, which trainer.loss"
                f" {study.options.loss} needs all; give about {needed}, or fewer examples"
            )

    def divergence(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return KL(unquantized ‖ model) of each example of a batch (n), nats."""
        places = [self._places[key] for key in _contents(batch)]
        rows = {
            name: torch.from_numpy(kept[places]).to(logits.device)
            for name, kept in self._reference.outputs.items()
        }
        on_device = {name: tensor.to(logits.device) for name, tensor in batch.items()}
        return self._task.divergence(logits.float(), on_device, rows)


def _contents(batch: Mapping[str, Tensor]) -> Iterator[bytes]:
    """Yield what identifies each example of a batch: its tokens, whatever they are padded to."""
    tokens = batch["input_ids"]
    mask = batch.get("attention_mask", torch.ones_like(tokens)).bool()
    for row, own in zip(tokens, mask, strict=True):
        yield row[own].numpy().tobytes()
