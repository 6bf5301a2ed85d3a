"""LQ-LoRA: one LoRA for each configuration, beside a quantized part that was found with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qsearch._threads import one_thread
from qsearch.plugins.protocols import Requirements
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch_coalora.adapter.adapted_model import AdaptedModel, score
from qsearch_coalora.adapter.residual import require_rank
from qsearch_coalora.export.formats import WHOLE_MODELS
from qsearch_coalora.methods.decomposition import Decomposition, decompose
from qsearch_coalora.methods.importance import row_and_column_importance
from qsearch_coalora.methods.per_configuration import Adapter, PerConfigurationTrainer
from qsearch_coalora.training.options import TrainingOptions
from qsearch_coalora.training.schedule import seeds


class LQLoRATrainer(PerConfigurationTrainer):
    """Decomposes each weight into a quantized and a low-rank part, then trains the latter.

    (Guo et al. 2024, "LQ-LoRA: Low-rank Plus Quantized Matrix Decomposition for Efficient Language
    Model Finetuning".) The error is weighted by Fisher information of ``calibration_batches``; a
    new task head is the one drawn, not trained, as no other method trains one beforehand.

    Exports hold the weights too: the adapter belongs to weights quantized without their low-rank
    part, which the study's configuration alone does not tell.
    """

    Options = TrainingOptions
    export_formats = WHOLE_MODELS

    def make_adapted(self) -> AdaptedModel:
        """Return the adapted model, whose weights are quantized without their low-rank part.

        Raises:
            InputError: If the rank is above a layer's feature count.
        """
        self._require_rank()
        adapted = super().make_adapted()
        self._importance = self._measured_importance(adapted)
        adapted.weights.add(self._minus_low_rank)
        return adapted

    def requirements(self) -> Requirements:
        """Say what the study needs; see :meth:`PerConfigurationTrainer.requirements`."""
        self._require_rank()
        return super().requirements()

    def _require_rank(self) -> None:
        require_rank(self.options.rank, self.layers(), "trainer.rank")

    def _measured_importance(self, adapted: AdaptedModel) -> list[tuple[Tensor, Tensor]]:
        """Return D_row and D_col of each layer, from the model in full precision."""
        adapted.peft_model.eval()
        batches = self._batches(torch.Generator().manual_seed(seeds(self.seed, 0)[0]))

        def run() -> Tensor:
            batch = next(batches)
            return score(self.task, adapted.logits(batch), batch).losses

        return row_and_column_importance(
            adapted.lora_layers, [run] * self.options.calibration_batches
        )

    def start(self, configuration: Configuration) -> Adapter:
        """Return the adapter of the decomposition's low-rank part, and the initial head."""
        tensors = dict(super().start(configuration))
        for position, layer in enumerate(self.adapted.layers):
            found = self._decomposed(position, configuration[layer.name])
            tensors[f"lora.{layer.name}.A"] = found.L2.cpu()
            tensors[f"lora.{layer.name}.B"] = found.L1.cpu() / self.options.scaling
        return tensors

    def _minus_low_rank(self, position: int, chosen: LayerConfiguration) -> Tensor:
        found = self._decomposed(position, chosen)
        return -(found.L1 @ found.L2)

    def _decomposed(self, position: int, chosen: LayerConfiguration) -> Decomposition:
        weights = self.adapted.weights

        def make() -> Decomposition:
            return decompose(
                weights.originals[position],
                lambda matrix: weights.approximated(position, matrix, chosen),
                self.options.rank,
                self._importance[position],
                torch.Generator().manual_seed(position),
            )

        return self.adapted.cache.get(("decomposition", position, chosen), make)

    @torch.no_grad()
    def quantization_error(
        self, layer_configurations: Sequence[LayerConfiguration]
    ) -> npt.NDArray[np.float64]:
        """Return squared errors weighted by Fisher information, per weight.

        The proxy allocator then minimises their sum, as the paper's integer program does (Guo et
        al. 2024, section 3.2), but for two things: the error is that of quantizing alone, where the
        authors' program has that of the decomposition, and the weights are the factors of
        :mod:`importance`, not one for each element.

        Args:
            layer_configurations: What to measure.

        Returns:
            Errors (layers × layer configurations).
        """
        adapted = self.adapted
        with one_thread():
            return np.array(
                [
                    [self._weighted_error(position, chosen) for chosen in layer_configurations]
                    for position in range(len(adapted.layers))
                ]
            )

    def _weighted_error(self, position: int, chosen: LayerConfiguration) -> float:
        weights = self.adapted.weights
        weight = weights.originals[position]
        rows, columns = self._importance[position]
        off = weight - weights.approximated(position, weight, chosen)
        return float((off * rows[:, None] * columns[None]).double().square().mean())

    def sensitivity(
        self, configurations: Sequence[Configuration], round: int
    ) -> npt.NDArray[np.float64]:
        """Return each layer's number of weights: the errors are weighted already (layers)."""
        return np.array([layer.parameters for layer in self.adapted.layers], dtype=np.float64)
