"""Loading packed checkpoints with ``from_pretrained``: our quantization method in transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from qsearch.errors import InputError
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch_quantizers.packed.adapter_owner import AdapterGuard, owner_digest
from qsearch_quantizers.packed.bit_packing import packed_layout
from qsearch_quantizers.packed.layers import (
    FORMAT_VERSION,
    QUANT_METHOD,
    SETTINGS,
    build_quantizer,
    check_configuration,
    linear_layer,
)
from qsearch_quantizers.packed.linear import PackedLinear
from qsearch_quantizers.packed.verification import (
    Stored,
    require_digests,
    require_tensors,
    settings_digest,
)

if TYPE_CHECKING:  # transformers may still be importing itself when this module is loaded
    from transformers import PreTrainedModel


@register_quantization_config(QUANT_METHOD)
class QsearchConfig(QuantizationConfigMixin):
    """The ``quantization_config`` of a packed checkpoint's ``config.json``.

    ``layers`` has layer configurations by module path, ``adapter_rank`` the rank of every layer's
    adapter (0 is none), and ``sha256`` the digests of the weight files by name, and of the
    other fields under ``quantization_config``; nothing is checked if it is None.

    Raises:
        InputError: If the version is unknown, or a field is missing, unknown (a reader that ignores
            it would be wrong) or malformed.
    """

    def __init__(
        self,
        format_version: object = None,
        quantizer: object = None,
        quantizer_options: object = None,
        layers: object = None,
        adapter_rank: object = 0,
        sha256: object = None,
        quant_method: str = QUANT_METHOD,
        **unknown: object,
    ) -> None:
        if format_version != FORMAT_VERSION:
            raise InputError(
                f"quantization_config: format_version is {format_version!r};"
                f" this qsearch reads {FORMAT_VERSION}; export again"
            )
        if unknown:
            raise InputError(f"quantization_config has unknown fields {sorted(unknown)}")
        if not isinstance(quantizer, str) or not isinstance(quantizer_options, dict):
            raise InputError(
                "quantization_config needs quantizer (a name) and quantizer_options (a mapping)"
            )
        if not isinstance(layers, dict) or not all(map(_is_layer, layers.values())):
            raise InputError(
                "quantization_config needs layers: {module path: {knob: integer or text}}"
            )
        if type(adapter_rank) is not int or adapter_rank < 0:
            raise InputError(
                f"quantization_config: adapter_rank must be an integer from 0, not {adapter_rank!r}"
            )
        if sha256 is not None and not isinstance(sha256, dict):
            raise InputError("quantization_config: sha256 must be {file name: digest}")
        self.quant_method = quant_method  # type: ignore[assignment]  # an enum of theirs only
        self.format_version = FORMAT_VERSION
        self.quantizer = quantizer
        self.quantizer_options = quantizer_options
        self.layers = layers
        self.adapter_rank = adapter_rank
        self.sha256 = sha256

    @property
    def settings(self) -> dict[str, Any]:
        """What decides how weights are read, of which a digest is kept."""
        names = ("quantizer", "quantizer_options", "layers", "adapter_rank")
        return {name: getattr(self, name) for name in names}

    @property
    def configuration(self) -> Configuration:
        """The layer configurations as a configuration."""
        return Configuration({name: LayerConfiguration(c) for name, c in self.layers.items()})


@register_quantizer(QUANT_METHOD)
class QsearchHfQuantizer(HfQuantizer):
    """Replaces configured linear layers by :class:`PackedLinear` before weights are loaded."""

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
        quantizer = build_quantizer(config.quantizer, config.quantizer_options)
        check_configuration(quantizer, config.configuration)
        stored: dict[str, Stored] = {}
        own_layers = {}
        for name, layer in config.configuration.items():
            own_name = name_in(model, name)
            if own_name is None:
                continue
            own_layers[own_name] = dict(layer)
            linear = linear_layer(model, own_name)
            packed = PackedLinear(
                linear.in_features,
                linear.out_features,
                linear.bias is not None,
                layer,
                quantizer,
                config.adapter_rank,
                dtype=linear.weight.dtype,
                device=linear.weight.device,
            )
            model.set_submodule(own_name, packed)
            stored |= {f"{name}.{key}": value for key, value in _stored(packed).items()}
        config.layers = own_layers  # As a checkpoint of this model names them.
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


def _names_of_unpacked(model: PreTrainedModel) -> set[str]:
    """Return the linear layers that are not packed, by the names that a checkpoint may have."""
    prefix = f"{model.base_model_prefix}."
    own = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not isinstance(module, PackedLinear)
    }
    return own | {prefix + name for name in own} | {name.removeprefix(prefix) for name in own}


def _stored(layer: PackedLinear) -> dict[str, Stored]:
    """Return shape and type of a layer's packed tensors and adapter, by name."""
    shape = (layer.out_features, layer.in_features)
    stored: dict[str, Stored] = {}
    for name, layout in layer.quantizer.layout(shape, layer.configuration).items():
        packed = packed_layout(layout)
        stored[name] = (packed.shape, packed.dtype)
    if layer.rank:
        # In the type of the model that was saved.
        stored["adapter_A"] = ((layer.rank, layer.in_features), None)
        stored["adapter_B"] = ((layer.out_features, layer.rank), None)
    return stored


def name_in(model: PreTrainedModel, name: str) -> str | None:
    """Return a checkpoint's layer by its module path in a model, or None if it is of a head.

    The model may lack the head that it was saved with, or have one that it was saved without.
    """
    prefix = f"{model.base_model_prefix}."
    if hasattr(model, model.base_model_prefix):
        inside = getattr(model, model.base_model_prefix)
        own = f"{prefix}{name}"
        return own if not _has(model, name) and _has(inside, name) else name
    if name.startswith(prefix):
        return name.removeprefix(prefix)
    return name if _has(model, name) or not model.base_model_prefix else None


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True


def _is_layer(value: object) -> bool:
    return isinstance(value, dict) and all(type(one) in (int, str) for one in value.values())
