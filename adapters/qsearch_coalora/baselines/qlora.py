"""QLoRA: one LoRA for each configuration on quantized weights."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from qsearch.configuration import Configuration
from qsearch.errors import InputError
from qsearch_coalora.adapted_model import AdaptedModel
from qsearch_coalora.baselines.nf4 import FourBitLayers, bitsandbytes_is_installed, in_four_bit
from qsearch_coalora.baselines.per_configuration import PerConfigurationTrainer
from qsearch_coalora.training_options import TrainingOptions

_QUANTIZED_BY_BITSANDBYTES = """
These layers were quantized by bitsandbytes (`nf4`, double quantization): {layers}.
"""


class QLoRATrainer(PerConfigurationTrainer):
    """Trains a plain LoRA on each configuration's quantized weights.

    (Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs".) Layers quantized as
    bitsandbytes' NF4 with double quantization are bitsandbytes' own 4-bit layers where it is
    installed; all others are quantized by the study's quantizer. What was trained with it is not
    loaded without it, since its codes are not quite those of our normal float.
    """

    Options = TrainingOptions
    method = "QLoRA"

    @cached_property
    def adapted(self) -> AdaptedModel:
        """The adapted model; reading it loads the model and the data."""
        adapted = super().adapted
        if self._uses_bitsandbytes:
            layers = FourBitLayers(adapted.layers, adapted.lora_layers, adapted.weights.originals)
            adapted.after_activation(layers.place)
        return adapted

    @cached_property
    def _uses_bitsandbytes(self) -> bool:
        return self.quantizer.name == "normal-float" and bitsandbytes_is_installed()

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "bitsandbytes": self._uses_bitsandbytes}

    def export(self, configuration: Configuration, directory: Path, format: str) -> None:
        """Write a configuration's LoRA; see :meth:`AdapterTrainer.export`.

        Raises:
            InputError: If the format holds weights, and these are bitsandbytes' own.
        """
        own = in_four_bit(self.layers(), configuration) if self._uses_bitsandbytes else []
        if own and format == "packed":
            raise InputError(
                "--format packed: this configuration's LoRA was trained on weights that"
                f" bitsandbytes quantized ({len(own)} layers, the first {own[0]!r}), which this"
                " format does not hold; --format adapter writes the LoRA alone"
            )
        super().export(configuration, directory, format)
        if own:
            with (directory / "README.md").open("a", encoding="utf-8") as card:
                card.write(_QUANTIZED_BY_BITSANDBYTES.format(layers=", ".join(own)))
