"""Comparison with the unquantized model: what tasks and trainers may do for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from qsearch.plugins.evaluation import Evaluation, ReferenceScores
from qsearch.plugins.protocols import Scores, Split

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@runtime_checkable
class SupportsReference(Protocol):
    """Optional for tasks. With it, configurations are compared with the unquantized model.

    Which that is, ``reference`` says: ``loaded`` is the model as it is loaded, without an adapter,
    one for the whole study; ``round`` is that of the same round, its adapter included, with no
    weight quantized. The latter is for tasks whose head means nothing before it is trained.
    """

    @property
    def reference(self) -> Literal["loaded", "round"]:
        """Which model configurations are compared with."""
        ...

    def reference_outputs(
        self, logits: Tensor, batch: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """Return what to keep of the unquantized model's outputs (n × …), float32 or integers."""
        ...

    def compare(
        self,
        scores: Scores,
        logits: Tensor,
        batch: Mapping[str, Tensor],
        reference: Mapping[str, Tensor],
    ) -> Scores:
        """Return a batch's scores with the metrics that compare its logits with a reference.

        That is what :meth:`reference_outputs` returned for the batch, or for its first examples,
        perhaps none: outputs are kept as far as they fit. Other examples have NaN.
        """
        ...


@runtime_checkable
class SupportsDistillation(SupportsReference, Protocol):
    """Optional for tasks. With it, training can lower the divergence from the unquantized model."""

    def divergence(
        self, logits: Tensor, batch: Mapping[str, Tensor], reference: Mapping[str, Tensor]
    ) -> Tensor:
        """Return KL(reference ‖ model) of each example (n), nats, with its graph to the logits.

        The reference is what :meth:`reference_outputs` returned for the batch.
        """
        ...


@runtime_checkable
class SupportsDrawnLabels(Protocol):
    """Optional for tasks. With it, sensitivities can be those of the model's own distribution.

    Gradients under labels that the model itself draws give its Fisher information, which is the
    Hessian of the divergence from it.
    """

    def draw_labels(
        self, logits: Tensor, batch: Mapping[str, Tensor], generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        """Return the batch with labels drawn from the distributions that logits give.

        The generator is one of the CPU. Where no loss is of a label, it stays.
        """
        ...


@runtime_checkable
class SupportsReferenceFile(Protocol):
    """Optional for trainers. With it, what evaluations are compared with is made before them.

    A trainer without it, or which was not asked, makes it in its first evaluation.
    """

    def prepare_reference(self, directory: Path) -> ReferenceScores | None:
        """Make ready what evaluations on the validation examples are compared with.

        Called before them, after each training or loading of a state, in every process that
        evaluates; where several do, first in the one that trains. What is the same for the whole
        study is kept in the study's directory, and read from there if it is there; a directory that
        does not exist is on another machine, and what is made here is kept elsewhere. The result is
        None where nothing is compared.

        Raises:
            DamagedFileError: If what is kept is damaged, or of another model or other examples.
        """
        ...


@runtime_checkable
class SupportsLoadedModel(Protocol):
    """Optional for trainers. With it, ``qsearch evaluate`` has the loaded model to compare with."""

    def evaluate_loaded(self, split: Split) -> Evaluation | None:
        """Evaluate the model as it is loaded, without an adapter.

        None where that means nothing, such as with a head that has to be trained. Later evaluations
        do not change.
        """
        ...
