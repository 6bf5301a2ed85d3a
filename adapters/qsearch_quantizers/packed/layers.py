"""The quantizer and the layers that a packed export names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from qsearch.errors import InputError
from qsearch.plugins.registry import load_plugin
from qsearch.plugins.tensor_layout import PackableQuantizer
from qsearch.space.configuration import Configuration
from qsearch.spec.validation import validate
from qsearch_quantizers.packed.linear import PackedLinear

QUANT_METHOD = "qsearch"
FORMAT_VERSION = 3
SETTINGS = "quantization_config"
"""The section of ``config.json``, and where its ``sha256`` has the digest of the other fields."""


def build_quantizer(name: str, options: Mapping[str, Any]) -> PackableQuantizer:
    """Construct a quantizer plugin whose tensors can be packed.

    Raises:
        InputError: If the plugin is unknown, its options are wrong, or it has no layout.
    """
    plugin = load_plugin("quantizers", name)
    section = f"{SETTINGS}.quantizer_options"
    quantizer = plugin(validate(plugin.Options, options, "config.json", section))
    if not isinstance(quantizer, PackableQuantizer):
        raise InputError(
            f"quantizer {name!r} has no layout() and cannot be packed;"
            " see qsearch.plugins.tensor_layout.PackableQuantizer"
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
        InputError: If there is no such module, or it is not a ``torch.nn.Linear``.
    """
    try:
        module = model.get_submodule(name)
    except AttributeError as error:
        raise InputError(f"{type(model).__name__} has no layer {name!r}") from error
    if not isinstance(module, nn.Linear) or isinstance(module, PackedLinear):
        raise InputError(
            f"layer {name!r} is a {type(module).__name__}; only torch.nn.Linear can be packed"
        )
    return module
