"""LQ-LoRA: one LoRA for each configuration, next to a quantized part that was found with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qsearch._threads import one_thread
from qsearch.errors import InputError
from qsearch.plugins.protocols import Quantizer, Requirements, Task
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.adapter.adapted_model import AdaptedModel
from qsearch_coalora.methods.decomposition import Decomposition, decompose
from qsearch_coalora.methods.importance import row_and_column_importance
from qsearch_coalora.methods.own_adapters import OwnAdapters, requirements_of_each
from qsearch_coalora.methods.trained_adapters import Adapter
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.settings.options import TrainingOptions
from qsearch_coalora.training.evaluation import score
from qsearch_coalora.training.study_model import StudyModel


class LQLoRATrainer(AdapterTrainer):
    """Decomposes each weight into a quantized and a low-rank part, then trains the latter.

    (Guo et al. 2024, "LQ-LoRA: Low-rank Plus Quantized Matrix Decomposition for Efficient Language
    Model Finetuning".) The error is weighted by Fisher information of ``calibration_batches``; a
    new task head is the one drawn, not trained, as no other method trains one beforehand.

    Exports hold the weights too: the adapter belongs to weights quantized without their low-rank
    part, which the study's configuration alone does not say.
    """

    def __init__(
        self,
        options: TrainingOptions,
        model: ModelSpec,
        task: Task,
        quantizer: Quantizer,
        seed: int,
    ) -> None:
        svd_rank = (options.rank, "trainer.rank")
        study = StudyModel(options, model, task, quantizer, seed, self._complete, svd_rank=svd_rank)
        own = OwnAdapters(study, self._start)
        super().__init__(study, own)
        # Workers train configurations: the engine's capability SupportsSeparateTraining.
        self.untrained, self.train_separately, self.adopt = (
            own.untrained,
            own.train_separately,
            own.adopt,
        )

    def _complete(self, adapted: AdaptedModel) -> None:
        """Measure importance, and quantize weights without their low-rank part from now on."""
        self._initial = adapted.tensors()
        adapted.peft_model.eval()

        def measure() -> dict[str, Tensor]:
            batches = iter(self.study.calibration_batches())

            def run() -> Tensor:
                batch = next(batches)
                return score(self.study.task, adapted.logits(batch), batch).losses

            runs = [run] * self.study.options.calibration_batches
            measured = row_and_column_importance(adapted.lora_layers, runs)
            return {
                f"{layer.name}.{of}": tensor
                for layer, pair in zip(adapted.layers, measured, strict=True)
                for of, tensor in zip(("rows", "columns"), pair, strict=True)
            }

        importance = self.study.measured("importance of the weights", measure)
        self._importance = [
            (importance[f"{layer.name}.rows"], importance[f"{layer.name}.columns"])
            for layer in adapted.layers
        ]
        adapted.weights.add(self._minus_low_rank)

    def search_embeddings(self) -> None:
        """Refuse: the method splits each weight into a quantized and a low-rank part.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "space.embeddings: trainer 'lq-lora' needs a LoRA next to each layer, which embeddings"
            " do not have; leave it false, or take another trainer"
        )

    def requirements(self) -> Requirements:
        """Return what the study needs: with each configuration's first evaluation, a training."""
        return requirements_of_each(super().requirements(), self.study)

    def _start(self, configuration: Configuration) -> Adapter:
        """Return the adapter of the decomposition's low-rank part, and the initial head."""
        tensors = dict(self._initial)
        for position, layer in enumerate(self.study.layers):
            parts = self._decomposed(position, configuration[layer.name])
            tensors[f"lora.{layer.name}.A"] = parts.L2.cpu()
            tensors[f"lora.{layer.name}.B"] = parts.L1.cpu() / self.study.options.scaling
        return tensors

    def _minus_low_rank(self, position: int, chosen: LayerConfiguration) -> Tensor:
        parts = self._decomposed(position, chosen)
        return -(parts.L1 @ parts.L2)

    def _decomposed(self, position: int, chosen: LayerConfiguration) -> Decomposition:
        weights = self.study.adapted.weights

        def make() -> Decomposition:
            return decompose(
                weights.originals[position],
                lambda matrix: weights.approximated(position, matrix, chosen),
                self.study.options.rank,
                self._importance[position],
                torch.Generator().manual_seed(position),
            )

        return weights.cache.get(("decomposition", position, chosen), make)

    @torch.no_grad()
    def quantization_error(
        self, layer_configurations: Sequence[LayerConfiguration]
    ) -> npt.NDArray[np.float64]:
        """Return squared errors weighted by Fisher information, per weight.

        The proxy allocator then minimises their sum, as the paper's integer program does (Guo et
        al. 2024, section 3.2), but for two things: the error is that of quantizing alone, where the
        authors' program has that of the decomposition, and the weights are the factors of
        :mod:`importance`, not one for each element.
        """
        layers = range(len(self.study.adapted.layers))
        with one_thread():
            return np.array(
                [[self._weighted_error(n, one) for one in layer_configurations] for n in layers]
            )

    def _weighted_error(self, position: int, chosen: LayerConfiguration) -> float:
        weights = self.study.adapted.weights
        weight = weights.originals[position]
        rows, columns = self._importance[position]
        off = weight - weights.approximated(position, weight, chosen)
        return float((off * rows[:, None] * columns[None]).double().square().mean())

    def sensitivity(
        self, configurations: Sequence[Configuration], round: int
    ) -> npt.NDArray[np.float64]:
        """Return each layer's number of weights: the errors are weighted already (layers)."""
        return np.array([layer.parameters for layer in self.study.adapted.layers], dtype=np.float64)
