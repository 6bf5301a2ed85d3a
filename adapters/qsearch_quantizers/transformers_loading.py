"""Loading packed checkpoints with ``from_pretrained``: our quantization method in transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from qsearch.configuration import Configuration, LayerConfiguration
from qsearch.errors import InputError
from qsearch.layout import PackableQuantizer
from qsearch.plugins import load_plugin
from qsearch_quantizers.packed_linear import PackedLinear

if TYPE_CHECKING:  # transformers may still be importing itself when this module is loaded
    from transformers import PreTrainedModel

QUANT_METHOD = "qsearch"
FORMAT_VERSION = 1


@register_quantization_config(QUANT_METHOD)
class QsearchConfig(QuantizationConfigMixin):
    """The ``quantization_config`` of a packed checkpoint's ``config.json``.

    Args:
        format_version: Version of the file format.
        quantizer: Name of the quantizer plugin.
        quantizer_options: Its options.
        layers: Layer configuration by module path.
        unknown: Anything else is refused, since a reader that ignores it would be wrong.

    Raises:
        InputError: If the version is unknown, or a field is missing, unknown or malformed.
    """

    def __init__(
        self,
        format_version: object = None,
        quantizer: object = None,
        quantizer_options: object = None,
        layers: object = None,
        quant_method: str = QUANT_METHOD,
        **unknown: object,
    ) -> None:
        if format_version != FORMAT_VERSION:
            raise InputError(
                f"quantization_config: format_version is {format_version!r};"
                f" this qsearch reads {FORMAT_VERSION}"
            )
        if unknown:
            raise InputError(f"quantization_config has unknown fields {sorted(unknown)}")
        if not isinstance(quantizer, str) or not isinstance(quantizer_options, dict):
            raise InputError(
                "quantization_config needs quantizer (a name) and quantizer_options (a mapping)"
            )
        if not isinstance(layers, dict) or not all(isinstance(v, dict) for v in layers.values()):
            raise InputError("quantization_config needs layers: {module path: {knob: value}}")
        self.quant_method = quant_method  # type: ignore[assignment]  # an enum of theirs only
        self.format_version = FORMAT_VERSION
        self.quantizer = quantizer
        self.quantizer_options = quantizer_options
        self.layers = layers

    @property
    def configuration(self) -> Configuration:
        """The layer configurations as a configuration."""
        return Configuration({name: LayerConfiguration(c) for name, c in self.layers.items()})


@register_quantizer(QUANT_METHOD)
class QsearchHfQuantizer(HfQuantizer):
    """Replaces configured linear layers by :class:`PackedLinear` before weights are loaded."""

    requires_calibration = True
    quantization_config: QsearchConfig

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        quantizer = build_quantizer(
            self.quantization_config.quantizer, self.quantization_config.quantizer_options
        )
        check_configuration(quantizer, self.quantization_config.configuration)
        for name, layer in self.quantization_config.configuration.items():
            linear = linear_layer(model, name)
            model.set_submodule(
                name,
                PackedLinear(
                    linear.in_features,
                    linear.out_features,
                    linear.bias is not None,
                    layer,
                    quantizer,
                    dtype=linear.weight.dtype,
                    device=linear.weight.device,
                ),
            )

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        # transformers warns of missing tensors and fills them; packed ones would be garbage
        for name in self.quantization_config.configuration:
            for key, tensor in model.get_submodule(name).named_buffers(recurse=False):
                if not getattr(tensor, "_is_hf_initialized", False):
                    raise InputError(
                        f"checkpoint lacks the packed tensor {name}.{key}, or has it in"
                        f" another shape than {tuple(tensor.shape)}"
                    )

    def is_serializable(self) -> bool:
        """Packed buffers are saved as they were loaded."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Whether adapters can be trained on it: gradients flow to inputs and biases."""
        return True


def build_quantizer(name: str, options: Mapping[str, Any]) -> PackableQuantizer:
    """Construct a quantizer plugin whose tensors can be packed.

    Raises:
        InputError: If the plugin is unknown, its options are wrong, or it has no layout.
    """
    plugin = load_plugin("quantizers", name)
    model: type[BaseModel] = plugin.Options
    try:
        quantizer = plugin(model.model_validate(dict(options)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"options of quantizer {name!r}: {where}: {first['msg']}") from error
    if not isinstance(quantizer, PackableQuantizer):
        raise InputError(
            f"quantizer {name!r} has no layout() and cannot be packed;"
            " see qsearch.layout.PackableQuantizer"
        )
    return quantizer


def check_configuration(quantizer: PackableQuantizer, configuration: Configuration) -> None:
    """Check that every layer configuration is one of the quantizer's.

    Raises:
        InputError: If one is not; the message names the layer.
    """
    choices = quantizer.choices()
    for name, layer in configuration.items():
        try:
            choices.index(layer)
        except InputError as error:
            raise InputError(f"layer {name!r}: {error}") from error


def linear_layer(model: nn.Module, name: str) -> nn.Linear:
    """Return a model's linear layer by module path.

    Raises:
        InputError: If there is no such module, or it is no ``torch.nn.Linear``.
    """
    try:
        module = model.get_submodule(name)
    except AttributeError as error:
        raise InputError(f"{type(model).__name__} has no layer {name!r}") from error
    if not isinstance(module, nn.Linear):
        raise InputError(
            f"layer {name!r} is a {type(module).__name__}; only torch.nn.Linear can be packed"
        )
    return module
