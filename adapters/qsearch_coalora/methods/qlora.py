"""QLoRA: one LoRA for each configuration on quantized weights."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from qsearch_quantizers.libraries.optional import is_importable

from qsearch.errors import InputError
from qsearch.plugins.protocols import Quantizer, Requirements, Task, TrainerState
from qsearch.space.configuration import Configuration
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.adapter.adapted_model import AdaptedModel
from qsearch_coalora.export.job import AdapterJob
from qsearch_coalora.methods.nf4 import four_bit_layers, in_four_bit
from qsearch_coalora.methods.own_adapters import OwnAdapters, requirements_of_each
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.settings.options import TrainingOptions
from qsearch_coalora.training.study_model import StudyModel


class QLoRATrainer(AdapterTrainer):
    """Trains a plain LoRA on each configuration's quantized weights.

    (Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs".) Layers quantized as
    bitsandbytes' NF4 with double quantization are bitsandbytes' own 4-bit layers where it is
    installed; all others are quantized by the study's quantizer. Its codes are not quite those of
    our normal float, so adapters of such layers are not loaded without it, nor ours with it.
    """

    method = "QLoRA"

    def __init__(
        self,
        options: TrainingOptions,
        model: ModelSpec,
        task: Task,
        quantizer: Quantizer,
        seed: int,
    ) -> None:
        study = StudyModel(options, model, task, quantizer, seed, self._complete)
        self._own = own = OwnAdapters(study, lambda configuration: self._initial)
        super().__init__(study, own)
        # Workers train configurations: the engine's capability SupportsSeparateTraining.
        self.untrained, self.train_separately, self.adopt = (
            own.untrained,
            own.train_separately,
            own.adopt,
        )

    @cached_property
    def _uses_bitsandbytes(self) -> bool:
        return self.study.quantizer.name == "normal-float" and is_importable("bitsandbytes")

    def _complete(self, adapted: AdaptedModel) -> None:
        """Note where every training starts, and have NF4 layers be bitsandbytes' own."""
        self._initial = adapted.tensors()
        if self._uses_bitsandbytes:
            layers, originals = adapted.adapted_layers, adapted.weights.originals
            place = four_bit_layers(layers, adapted.lora_layers, originals)
            adapted.followers.append(place)

    def requirements(self) -> Requirements:
        """Return what the study needs: with each configuration's first evaluation, a training."""
        return requirements_of_each(super().requirements(), self.study)

    def state(self) -> TrainerState:
        """Return all trained adapters, and whether bitsandbytes had a part in them."""
        state = super().state()
        return TrainerState(
            state.tensors, {**state.metadata, "bitsandbytes": self._uses_bitsandbytes}
        )

    def load_state(self, state: TrainerState) -> None:
        """Continue from a saved state, if it is this study's.

        Raises:
            InputError: If it has adapters of weights that bitsandbytes quantized where it is not
                installed, or the other way round.
        """
        super().load_state(state)
        saved = state.metadata.get("bitsandbytes")
        if saved != self._uses_bitsandbytes and any(
            in_four_bit(self.layers(), configuration) for configuration in self._own.trained
        ):
            raise InputError(
                "the saved adapter belongs to another study:"
                f" bitsandbytes was {'' if saved else 'not '}installed, which quantizes NF4"
                " layers by itself"
            )

    def export_job(self, configuration: Configuration) -> AdapterJob:
        """Return a configuration's LoRA; without its weights where they are bitsandbytes' own."""
        job = super().export_job(configuration)
        own = in_four_bit(self.layers(), configuration) if self._uses_bitsandbytes else ()
        return replace(job, foreign=tuple(own))
