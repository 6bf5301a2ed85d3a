"""What is exported, and the tensors that every format is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from qsearch.errors import InputError
from qsearch.plugins.protocols import QuantizedTensor, Quantizer
from qsearch.plugins.tensor_layout import PackableQuantizer
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.adapter.lora import ADAPTER
from qsearch_coalora.models.discovery import full_layer_names

if TYPE_CHECKING:
    from torch import Tensor

    from qsearch_coalora.adapter.adapted_model import AdaptedModel


@dataclass(frozen=True)
class ExportJob:
    """What is exported; exporting changes none of the adapted model's tensors."""

    adapted: AdaptedModel
    model: ModelSpec
    tokenizer: Any
    configuration: Configuration
    quantizer: Quantizer
    method: str

    @property
    def base(self) -> Any:
        """The transformers model inside the adapted one."""
        return self.adapted.peft_model.get_base_model()

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Module path of each layer in :attr:`base`, in layer order."""
        return full_layer_names(self.base, self.adapted.layers)

    @property
    def layer_configurations(self) -> dict[str, LayerConfiguration]:
        """Layer configuration by module path, in layer order."""
        chosen = (self.configuration[layer.name] for layer in self.adapted.layers)
        return dict(zip(self.layer_names, chosen, strict=True))

    def quantized_weights(self) -> Iterator[tuple[str, QuantizedTensor]]:
        """Yield each layer's module path and quantized weight, in layer order."""
        for position, (name, chosen) in enumerate(self.layer_configurations.items()):
            yield name, self.adapted.weights.quantized(position, chosen)

    @property
    def auto_class(self) -> str:
        """Name of the transformers class that loads such a model."""
        name = type(self.base).__name__
        for kind in ("SequenceClassification", "CausalLM"):
            if name.endswith(f"For{kind}"):
                return f"AutoModelFor{kind}"
        return name

    @property
    def has_adapter(self) -> bool:
        """Whether there is more than the quantized weights."""
        return any(layer.scaling[ADAPTER] for layer in self.adapted.lora_layers)


def plain_state(job: ExportJob) -> dict[str, Tensor]:
    """Return the base model's tensors by the names that they have without an adapter.

    Weights of quantizable layers are the original ones, the task head is the trained one, and
    nothing is copied.
    """
    weights = job.adapted.weights.originals
    state = {f"{n}.weight": tensor for n, tensor in zip(job.layer_names, weights, strict=True)}
    for name, tensor in job.base.state_dict().items():
        if ".lora_" in name or ".original_module." in name:
            continue
        # Another method's layer may stand in the place of one, with tensors of its own.
        if ".base_layer." in name and not name.endswith(".bias"):
            continue
        plain = name.replace(".base_layer.", ".").replace(f".modules_to_save.{ADAPTER}.", ".")
        state[plain] = tensor
    return state


def plain_factors(job: ExportJob) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield A′ and B·α/r of each layer."""
    for A, B in job.adapted.folded_factors(job.configuration):
        yield A, B * job.adapted.options.scaling


def adapter_state(job: ExportJob) -> dict[str, Tensor]:
    """Return the PEFT state of the adapter with (I + U) folded into A.

    With A′ = (I + U)·A in the place of A, plain PEFT gives the same outputs.
    """
    from peft import get_peft_model_state_dict

    adapted = job.adapted
    state = get_peft_model_state_dict(adapted.peft_model, adapter_name=ADAPTER)
    tensors = {name: tensor.detach().cpu() for name, tensor in state.items()}
    names = {id(module): name for name, module in adapted.peft_model.named_modules()}
    factors = adapted.folded_factors(job.configuration)
    for layer, (A, B) in zip(adapted.lora_layers, factors, strict=True):
        name = names[id(layer)]
        tensors[f"{name}.lora_A.weight"] = A.cpu().contiguous()
        tensors[f"{name}.lora_B.weight"] = B.cpu().contiguous()
    return tensors


def packable(quantizer: Quantizer, format: str) -> tuple[PackableQuantizer, dict[str, Any]]:
    """Return a quantizer and its options, for a format that a reader needs them for.

    Raises:
        InputError: If its tensors cannot be packed, or it does not say its options.
    """
    options = getattr(quantizer, "options", None)
    if not isinstance(quantizer, PackableQuantizer):
        raise InputError(
            f"quantizer {quantizer.name!r} cannot be exported as {format}: it has no layout();"
            " see qsearch.plugins.tensor_layout.PackableQuantizer"
        )
    if not isinstance(options, BaseModel):
        raise InputError(
            f"quantizer {quantizer.name!r} cannot be exported as {format}: it has no attribute"
            " 'options' with the options it was made from"
        )
    return quantizer, options.model_dump(mode="json")
