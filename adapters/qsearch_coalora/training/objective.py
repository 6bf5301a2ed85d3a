"""What training lowers: the task's loss, or the divergence from the unquantized model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qsearch.errors import InputError
from qsearch.plugins.capabilities import SupportsExampleWeights
from qsearch.plugins.references import SupportsDistillation
from qsearch_coalora.settings.device import autocast, parse_device, uses_bfloat16
from qsearch_coalora.tasks.batching import examples_in
from qsearch_coalora.training.evaluation import score

if TYPE_CHECKING:
    from qsearch_coalora.training.study_model import StudyModel

Targets = Mapping[str, Tensor]
"""What the unquantized model predicts on a batch, as its task keeps outputs."""


class Objective:
    """The mean loss of a batch, as ``trainer.loss`` says.

    Raises:
        InputError: If the task has no such loss, or what the unquantized model predicts on the
            training examples does not fit.
    """

    def __init__(self, study: StudyModel) -> None:
        self._task = study.task
        self._kind = study.options.loss or "task"
        self._teacher: LoadedTeacher | RoundTeacher | None = None
        if self._kind != "task":
            task = study.task
            assert isinstance(task, SupportsDistillation)
            is_loaded = task.reference == "loaded"
            self._teacher = LoadedTeacher(study, task) if is_loaded else RoundTeacher(study, task)

    def targets(self, batch: Mapping[str, Tensor]) -> Targets | None:
        """Return what the unquantized model predicts on a batch, if it matters.

        It may take the place of the configuration in the model, which is put there afterwards.
        """
        return None if self._teacher is None else self._teacher.targets(batch)

    def __call__(
        self, logits: Tensor, batch: Mapping[str, Tensor], targets: Targets | None
    ) -> Tensor:
        """Return the mean over a batch's examples, by their weights, with its graph."""
        if targets is None:
            scores = score(self._task, logits, batch)
            return (scores.losses * scores.weights).sum() / scores.weights.sum()
        assert isinstance(self._task, SupportsDistillation)
        rows = {name: tensor.to(logits.device) for name, tensor in targets.items()}
        on_device = {name: tensor.to(logits.device) for name, tensor in batch.items()}
        divergences = self._task.divergence(logits.float(), on_device, rows)
        weights = self._weights(batch).to(divergences)
        losses = divergences
        if self._kind == "mixed":
            losses = 0.5 * divergences + 0.5 * score(self._task, logits, batch).losses
        return (losses * weights).sum() / weights.sum()

    def _weights(self, batch: Mapping[str, Tensor]) -> Tensor:
        if isinstance(self._task, SupportsExampleWeights):
            return self._task.example_weights(batch)
        return torch.ones(examples_in(batch))


class LoadedTeacher:
    """What the model as it is loaded predicts on the training examples, found by their content."""

    def __init__(self, study: StudyModel, task: SupportsDistillation) -> None:
        self._reference = study.references.of(study, task, "train")
        batches = study.task.batches("train", study.options.eval_batch_size)
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

    def targets(self, batch: Mapping[str, Tensor]) -> Targets:
        """Return what is kept of the examples of a batch."""
        places = [self._places[key] for key in _contents(batch)]
        outputs = self._reference.outputs
        return {name: torch.from_numpy(kept[places]) for name, kept in outputs.items()}


class RoundTeacher:
    """The unquantized model with the adapter as it is at a step, for heads that have to be trained.

    It learns the task with the model, and costs one forward pass more.
    """

    def __init__(self, study: StudyModel, task: SupportsDistillation) -> None:
        self._adapted = study.adapted
        self._task = task
        self._device = parse_device(study.options.device)
        self._bfloat16 = uses_bfloat16(study.options.precision, self._device)

    @torch.no_grad()
    def targets(self, batch: Mapping[str, Tensor]) -> Targets:
        """Return what it predicts, without dropout; no configuration is in the model afterwards."""
        model = self._adapted.peft_model
        model.eval()
        try:
            with self._adapted.unquantized(), autocast(self._bfloat16, self._device):
                logits = self._adapted.logits(batch).float()
        finally:
            model.train()
        return self._task.reference_outputs(logits, batch)


def _contents(batch: Mapping[str, Tensor]) -> Iterator[bytes]:
    """Yield what identifies each example of a batch: its tokens, whatever they are padded to."""
    tokens = batch["input_ids"]
    mask = batch.get("attention_mask", torch.ones_like(tokens)).bool()
    for row, own in zip(tokens, mask, strict=True):
        yield row[own].numpy().tobytes()
