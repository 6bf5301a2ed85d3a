"""Loading packed exports with ``from_pretrained``: our quantization method in transformers."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from qsearch.errors import InputError
from qsearch.plugins.tensor_layout import Decoder
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch_quantizers.packed.adapter_owner import AdapterGuard, owner_digest
from qsearch_quantizers.packed.embedding import PackedEmbedding, TiedHead
from qsearch_quantizers.packed.fields import checked_fields, rank_of
from qsearch_quantizers.packed.layers import (
    QUANT_METHOD,
    SETTINGS,
    build_decoder,
    check_configuration,
    is_output_head,
    packable_layer,
    scale_of,
    tied_names,
)
from qsearch_quantizers.packed.linear import PackedLinear
from qsearch_quantizers.packed.verification import (
    Stored,
    require_digests,
    require_tensors,
    settings_digest,
)
from qsearch_quantizers.packed.weight import PackedModule

if TYPE_CHECKING:  # transformers may still be importing itself when this module is loaded
    from transformers import PreTrainedModel


@register_quantization_config(QUANT_METHOD)
class QsearchConfig(QuantizationConfigMixin):
    """:mod:`~qsearch_quantizers.packed.fields` as transformers has them."""

    quantizer: str
    quantizer_options: dict[str, Any]
    layers: dict[str, Any]
    adapter_rank: int | dict[str, int]
    adapter_bits: int | None
    sha256: dict[str, Any] | None

    def __init__(self, quant_method: str = QUANT_METHOD, **fields: object) -> None:
        self.quant_method = quant_method  # type: ignore[assignment]  # an enum of theirs only
        vars(self).update(checked_fields(fields))

    @property
    def settings(self) -> dict[str, Any]:
        """What decides how weights are read, of which a digest is kept."""
        names = ("quantizer", "quantizer_options", "layers", "adapter_rank", "adapter_bits")
        return {name: getattr(self, name) for name in names}

    @property
    def configuration(self) -> Configuration:
        """The layer configurations as a configuration."""
        return Configuration({name: LayerConfiguration(c) for name, c in self.layers.items()})


@register_quantizer(QUANT_METHOD)
class QsearchHfQuantizer(HfQuantizer):
    """Replaces configured layers by packed ones before weights are loaded."""

    requires_calibration = True
    quantization_config: QsearchConfig

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: Sequence[str] | None = None, **_: Any
    ) -> None:
        config = self.quantization_config
        paths = [Path(file) for file in checkpoint_files or ()]
        if config.sha256 is not None and paths:
            expected = dict(config.sha256)
            if expected.pop(SETTINGS, None) != settings_digest(config.settings):
                raise InputError(
                    "config.json: quantization_config is not what was written (its SHA-256"
                    " differs); export or copy it again"
                )
            require_digests(paths, expected)
        config.sha256 = None  # What is saved from here on has other files.
        stored = self._pack_layers(model)
        if paths:
            require_tensors(paths, stored, _names_of_unpacked(model))

    def _pack_layers(self, model: PreTrainedModel) -> dict[str, Stored]:
        """Replace configured layers; return the tensors that they need, by name in the files."""
        config = self.quantization_config
        decoder = build_decoder(config.quantizer, config.quantizer_options)
        check_configuration(decoder, config.configuration)
        stored: dict[str, Stored] = {}
        own_layers, own_ranks = {}, {}
        modules = {name for name, _ in model.named_modules(remove_duplicate=False)}
        for name, layer in config.configuration.items():
            own_name = _name_in(modules, model.base_model_prefix, name)
            if own_name is None:
                continue
            own_layers[own_name] = dict(layer)
            rank = own_ranks[own_name] = rank_of(config.adapter_rank, name)
            packed = _pack_layer(model, own_name, layer, decoder, rank, config.adapter_bits)
            stored |= {f"{name}.{key}": value for key, value in _stored(packed).items()}
        config.layers = own_layers  # As an export of this model names them.
        if not isinstance(config.adapter_rank, int):
            config.adapter_rank = own_ranks
        return stored

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        config, prefix = self.quantization_config, model.base_model_prefix
        digest = owner_digest(config.quantizer, config.quantizer_options, config.layers, prefix)
        AdapterGuard(digest, bool(config.adapter_rank)).watch(model)

    def is_serializable(self) -> bool:
        """Packed buffers are saved as they were loaded."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Whether adapters can be trained on it: gradients flow to inputs and biases."""
        return True


def _pack_layer(
    model: PreTrainedModel,
    name: str,
    configuration: LayerConfiguration,
    decoder: Decoder,
    rank: int,
    adapter_bits: int | None,
) -> PackedModule:
    """Put a packed layer, which has no values yet, into the place of a model's layer."""
    layer = packable_layer(model, name)
    like: dict[str, Any] = {"dtype": layer.weight.dtype, "device": layer.weight.device}
    packed: PackedModule
    if isinstance(layer, nn.Embedding):
        sizes, scale = (layer.num_embeddings, layer.embedding_dim), scale_of(layer, name)
        packed = PackedEmbedding(*sizes, configuration, decoder, scale, layer.padding_idx, **like)
        _tie_heads(model, name, packed)
    else:
        sizes, has_bias = (layer.in_features, layer.out_features), layer.bias is not None
        rank = 0 if is_output_head(model, name) else rank
        like["adapter_bits"] = adapter_bits
        packed = PackedLinear(*sizes, has_bias, configuration, decoder, rank, **like)
    model.set_submodule(name, packed)
    return packed


def _tie_heads(model: PreTrainedModel, name: str, table: PackedEmbedding) -> None:
    """Have the output head that is tied to an embedding compute with its packed table."""
    for weight in tied_names(model.all_tied_weights_keys, name):
        head = weight.removesuffix(".weight")
        linear = packable_layer(model, head)
        if not isinstance(linear, nn.Linear):
            raise InputError(
                f"layer {name!r} shares its weight with {head!r}, which is not an output head, and"
                " cannot be packed"
            )
        model.set_submodule(head, TiedHead(table, linear.bias))
        # There is no weight to tie from now on, here and where transformers asks again.
        model.all_tied_weights_keys.pop(weight, None)
        model.all_tied_weights_keys.pop(f"{name}.weight", None)
    known = model._tied_weights_keys or {}
    gone = {f"{name}.weight", *tied_names(known, name)}
    model._tied_weights_keys = {
        target: source for target, source in known.items() if not {target, source} & gone
    }


def _names_of_unpacked(model: PreTrainedModel) -> set[str]:
    """Return the layers that are not packed, by the names that a packed export may have."""
    prefix = f"{model.base_model_prefix}."
    own = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding) and not isinstance(module, PackedModule)
    }
    return own | {prefix + name for name in own} | {name.removeprefix(prefix) for name in own}


def _stored(layer: PackedModule) -> dict[str, Stored]:
    """Return shape and type of a layer's packed tensors and adapter, by name."""
    stored: dict[str, Stored] = {
        name: (tuple(buffer.shape), buffer.dtype)
        for name, buffer in layer.named_buffers()
        if name in layer.stored_names
    }
    for name, parameter in layer.named_parameters():
        if name != "bias":  # The adapter is in the type of the model that was saved.
            stored[name] = (tuple(parameter.shape), None)
    return stored


def _name_in(modules: Container[str], prefix: str, name: str) -> str | None:
    """Return a packed export's layer by its path among modules, or None if it is of a head.

    The model may lack the head that it was saved with, or have one that it was saved without;
    ``prefix`` is where a model with a head has the rest.
    """
    inside = f"{prefix}.{name}"
    if prefix in modules:
        return inside if name not in modules and inside in modules else name
    if name.startswith(f"{prefix}."):
        return name.removeprefix(f"{prefix}.")
    return name if name in modules else None
