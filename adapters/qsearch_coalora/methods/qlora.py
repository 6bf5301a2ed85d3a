"""QLoRA: one LoRA for each configuration on quantized weights."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from qsearch_quantizers.libraries.optional import is_importable

from qsearch.errors import InputError
from qsearch.plugins.protocols import TrainerState
from qsearch.space.configuration import Configuration
from qsearch_coalora.adapter.adapted_model import AdaptedModel
from qsearch_coalora.methods.nf4 import four_bit_layers, in_four_bit
from qsearch_coalora.methods.own_adapters import OwnAdaptersTrainer

_QUANTIZED_BY_BITSANDBYTES = """
These layers were quantized by bitsandbytes (`nf4`, double quantization): {layers}.
"""


class QLoRATrainer(OwnAdaptersTrainer):
    """Trains a plain LoRA on each configuration's quantized weights.

    (Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs".) Layers quantized as
    bitsandbytes' NF4 with double quantization are bitsandbytes' own 4-bit layers where it is
    installed; all others are quantized by the study's quantizer. Its codes are not quite those of
    our normal float, so adapters of such layers are not loaded without it, nor ours with it.
    """

    method = "QLoRA"

    @cached_property
    def _uses_bitsandbytes(self) -> bool:
        return self.study.quantizer.name == "normal-float" and is_importable("bitsandbytes")

    def complete(self, adapted: AdaptedModel) -> None:
        """Note where every training starts, and have NF4 layers be bitsandbytes' own."""
        super().complete(adapted)
        if self._uses_bitsandbytes:
            place = four_bit_layers(adapted.layers, adapted.lora_layers, adapted.weights.originals)
            adapted.followers.append(place)

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
            in_four_bit(self.layers(), configuration) for configuration in self.trained
        ):
            raise InputError(
                "the saved adapter belongs to another study:"
                f" bitsandbytes was {'' if saved else 'not '}installed, which quantizes NF4"
                " layers by itself"
            )

    def export(self, configuration: Configuration, directory: Path, format: str) -> None:
        """Write a configuration's LoRA; see :meth:`AdapterTrainer.export`.

        Raises:
            InputError: If the format holds weights, and these are bitsandbytes' own.
        """
        own = in_four_bit(self.layers(), configuration) if self._uses_bitsandbytes else []
        if own and format != "adapter":
            raise InputError(
                f"--format {format}: this configuration's LoRA was trained on weights that"
                f" bitsandbytes quantized ({len(own)} layers, the first {own[0]!r}), which this"
                " format does not hold; --format adapter writes the LoRA alone"
            )
        super().export(configuration, directory, format)
        if own:
            with (directory / "README.md").open("a", encoding="utf-8") as card:
                card.write(_QUANTIZED_BY_BITSANDBYTES.format(layers=", ".join(own)))
