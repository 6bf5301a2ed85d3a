"""QLoRA: one LoRA for each configuration on quantized weights."""

from __future__ import annotations

from functools import cached_property

from qsearch_coalora.adapted_model import AdaptedModel
from qsearch_coalora.baselines.nf4 import FourBitLayers, bitsandbytes_is_installed
from qsearch_coalora.baselines.per_configuration import PerConfigurationTrainer
from qsearch_coalora.training_options import TrainingOptions


class QLoRATrainer(PerConfigurationTrainer):
    """Trains a plain LoRA on each configuration's quantized weights.

    (Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs".) Layers quantized as
    bitsandbytes' NF4 with double quantization are bitsandbytes' own 4-bit layers where it is
    installed; all others are quantized by the study's quantizer.
    """

    Options = TrainingOptions

    @cached_property
    def adapted(self) -> AdaptedModel:
        """The adapted model; reading it loads the model and the data."""
        adapted = super().adapted
        if self.quantizer.name == "normal-float" and bitsandbytes_is_installed():
            layers = FourBitLayers(adapted.layers, adapted.lora_layers, adapted.weights.originals)
            adapted.after_activation(layers.place)
        return adapted
