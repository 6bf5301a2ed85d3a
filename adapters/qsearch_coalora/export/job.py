"""What is exported, and the tensors that every format is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from qsearch.errors import InputError
from qsearch.models.discovery import full_layer_names
from qsearch.plugins.exporters import ExportJob, Storage
from qsearch.plugins.protocols import QuantizedTensor, Quantizer
from qsearch.plugins.tensor_layout import PackableQuantizer
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.space.layers import LayerSpec
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.adapter.lora import ADAPTER
from qsearch_coalora.models.loading import CAUSAL
from qsearch_coalora.models.stored_type import stored_type

if TYPE_CHECKING:
    from torch import Tensor

    from qsearch_coalora.adapter.adapted_model import AdaptedModel


@dataclass(frozen=True)
class AdapterJob:
    """The engine's export job for the trainers of this package, with their adapted model.

    ``searched`` is the configuration with all knobs, those of the trainer too. ``foreign`` names
    layers whose quantized weights another library made, so that they cannot be exported; the LoRA
    that was trained next to them can.
    """

    adapted: AdaptedModel
    model: ModelSpec
    tokenizer: Any
    searched: Configuration
    quantizer: Quantizer
    method: str
    foreign: tuple[str, ...] = ()

    @cached_property
    def configuration(self) -> Configuration:
        """The layer configurations, as the quantizer has them."""
        return self.adapted.ranks.plain(self.searched)

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """The quantizable layers."""
        return self.adapted.layers

    @property
    def module(self) -> Any:
        """The transformers model inside the adapted one."""
        return self.adapted.peft_model.get_base_model()

    @property
    def paths(self) -> tuple[str, ...]:
        """Module path of each layer in :attr:`module`, in layer order."""
        return full_layer_names(self.module, self.adapted.layers)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes that a classifier tells apart."""
        if auto_class(self.module) != CLASSIFIER:
            return ()
        return tuple(self.module.config.id2label.values())

    @property
    def storage(self) -> Storage:
        """What is not quantized is stored in the checkpoint's own 16-bit type, or bfloat16.

        The adapter is stored as the study says.
        """
        return Storage(stored_type(self.model), self.adapted.options.adapter_bits)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Of each layer's adapter, 0 without one; tables have none."""
        own = self.adapted.ranks.of(self.searched) if self.has_adapter else ()
        return (*own, *(0,) * (len(self.layers) - len(own)))

    @property
    def one_rank(self) -> bool:
        """Whether all layers have the adapter's whole rank."""
        rank = self.adapted.options.rank
        return all(own == rank for own in self.adapted.ranks.of(self.searched))

    @property
    def has_adapter(self) -> bool:
        """Whether there is more than the quantized weights."""
        ranks = self.adapted.ranks.of(self.searched)
        scalings = (layer.scaling[ADAPTER] for layer in self.adapted.lora_layers)
        return any(rank and scaling for rank, scaling in zip(ranks, scalings, strict=True))

    def state(self) -> dict[str, Tensor]:
        """Return the module's tensors by the names that they have without an adapter.

        Weights of quantizable layers are the original ones, the task head is the trained one, and
        nothing is copied.
        """
        state: dict[str, Tensor] = {}
        for name, tensor in self.module.state_dict().items():
            if ".lora_" in name or ".original_module." in name:
                continue
            # Another method's layer may stand in the place of one, with tensors of its own.
            if ".base_layer." in name and not name.endswith(".bias"):
                continue
            plain = name.replace(".base_layer.", ".").replace(f".modules_to_save.{ADAPTER}.", ".")
            state[plain] = tensor
        weights = self.adapted.weights.originals
        state |= {f"{path}.weight": one for path, one in zip(self.paths, weights, strict=True)}
        own = weights[len(self.adapted.adapted_layers) :]
        for table, weight in zip(self.adapted.tables, own, strict=True):
            if table.head_path is not None:
                state[f"{table.head_path}.weight"] = weight
        return state

    def require_own_weights(self) -> None:
        """Raise InputError if another library made weights, so that no format holds them."""
        if self.foreign:
            raise InputError(
                f"this configuration's LoRA was trained on weights that bitsandbytes quantized"
                f" ({len(self.foreign)} layers, the first {self.foreign[0]!r}), which this format"
                " does not hold; --format adapter writes the LoRA alone"
            )

    def quantized(self, position: int) -> QuantizedTensor:
        """Return the quantized weight of the layer at a position."""
        self.require_own_weights()
        name = self.adapted.layers[position].name
        return self.adapted.weights.quantized(position, self.configuration[name])

    def factors(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield A′ and B·α/r of each layer, of rank 0 for tables; none where it is merged."""
        if not self.has_adapter:
            return
        for A, B in self.adapted.folded_factors(self.searched):
            yield A, B * self.adapted.options.scaling
        for layer in self.layers[len(self.adapted.adapted_layers) :]:
            rows, columns = layer.shape
            yield A.new_empty(0, columns), B.new_empty(rows, 0)


CLASSIFIER = "AutoModelForSequenceClassification"


def auto_class(module: Any) -> str:
    """Return the name of the transformers class that loads such a model."""
    name = type(module).__name__
    for known in (CLASSIFIER, CAUSAL):
        if name.endswith(known.removeprefix("AutoModel")):
            return known
    return name


def require_own_weights(job: ExportJob) -> None:
    """Raise InputError, before anything is planned, if a job cannot give its weights."""
    require = getattr(job, "require_own_weights", None)  # Jobs of other packages have none.
    if require is not None:
        require()


def adapter_ranks(job: ExportJob) -> dict[str, int]:
    """Return the rank of each layer's adapter, by module path; 0 is none."""
    # Jobs of this package say it; of others, the factors do.
    ranks: tuple[int, ...] | None = getattr(job, "ranks", None)
    if ranks is None:
        ranks = tuple(len(A) for A, _ in job.factors()) or (0,) * len(job.layers)
    return dict(zip(job.paths, ranks, strict=True))


def layer_configurations(job: ExportJob) -> dict[str, LayerConfiguration]:
    """Return the layer configurations by module path, in layer order."""
    chosen = (job.configuration[layer.name] for layer in job.layers)
    return dict(zip(job.paths, chosen, strict=True))


def transformers_module(job: ExportJob, format: str) -> Any:
    """Return the module of a job, for a format that transformers writes.

    Raises:
        InputError: If it is not one of transformers.
    """
    if not hasattr(job.module, "save_pretrained"):
        raise InputError(
            f"--format {format} is for models of transformers; this study's is a"
            f" {type(job.module).__name__}"
        )
    return job.module


def adapter_state(job: AdapterJob) -> dict[str, Tensor]:
    """Return the adapter as PEFT has it, which is not yet that of the configuration."""
    from peft import get_peft_model_state_dict

    peft_model = job.adapted.peft_model
    state: dict[str, Tensor] = get_peft_model_state_dict(peft_model, adapter_name=ADAPTER)
    return state


def folded_adapter(job: AdapterJob) -> Iterator[tuple[str, Tensor]]:
    """Yield the configuration's factors by their names in :func:`adapter_state`.

    With A′ = (I + U)·A in the place of A, plain PEFT gives the same outputs. Layers of rank 0 have
    none. Where ranks differ, B holds the scaling, since PEFT's depends on the rank.
    """
    adapted = job.adapted
    names = {id(module): name for name, module in adapted.peft_model.named_modules()}
    factors = adapted.folded_factors(job.searched)
    for layer, (A, B) in zip(adapted.lora_layers, factors, strict=True):
        name = names[id(layer)]
        if len(A):
            yield f"{name}.lora_A.weight", A
            yield f"{name}.lora_B.weight", B if job.one_rank else B * adapted.options.scaling


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
