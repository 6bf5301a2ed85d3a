"""Quantizers by name, configurations that know theirs, and their weights in a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from qsearch.errors import InputError
from qsearch.models.quantized_weights import quantized_weights
from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.quantizer_capabilities import needs_inputs
from qsearch.plugins.registry import load_plugin
from qsearch.space.configuration import Configuration, KnobValue, LayerConfiguration
from qsearch.spec.sections import PluginSpec
from qsearch.spec.validation import validate

PYTHON_CLASS = "python_class"
"""Option of a quantizer that was given as an object, which no file can make again."""


class QuantizerConfiguration(Configuration):
    """A configuration together with the quantizer that it is for, or the section that names it.

    Two are equal when their layers are, whatever the quantizer.
    """

    __slots__ = ("quantizer",)

    def __init__(
        self, layers: Mapping[str, LayerConfiguration], quantizer: Quantizer | PluginSpec
    ) -> None:
        super().__init__(layers)
        self.quantizer = quantizer

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self), self.quantizer)


def quantizer_of(
    quantizer: str | Quantizer, options: Mapping[str, Any]
) -> tuple[Quantizer, PluginSpec]:
    """Return a quantizer, by its plugin's name or as it is, and the section that describes it.

    Raises:
        InputError: If no quantizer has the name, it refuses the options, it has a single
            configuration, or it needs the inputs of layers.
    """
    if isinstance(quantizer, str):
        plugin = load_plugin("quantizers", quantizer)
        chosen = validate(plugin.Options, dict(options), f"quantizer {quantizer!r}", "options")
        made: Quantizer = plugin(chosen)
        section = PluginSpec(name=quantizer, **chosen.model_dump(mode="json"))
    elif isinstance(quantizer, Quantizer):
        if options:
            raise InputError(
                "options are for a quantizer that is given by its name; this one is made already"
            )
        made = quantizer
        kind = type(quantizer)
        knobs = {knob.name: list(knob.values) for knob in quantizer.choices().knobs}
        own = {PYTHON_CLASS: f"{kind.__module__}.{kind.__qualname__}"}
        section = PluginSpec(name=quantizer.name, **knobs, **own)
    else:
        raise InputError(
            f"quantizer: give the name of a plugin or an object with the methods of"
            f" qsearch.plugins.protocols.Quantizer, not {quantizer!r}"
        )
    if needs_inputs(made):
        raise InputError(
            f"quantizer {made.name!r} with these options needs the inputs of each layer, which an"
            " objective has no trainer to measure; leave out rounding: gptq, and for gguf give"
            " importance: none"
        )
    if made.choices().size == 1:
        raise InputError(
            f"quantizer {made.name!r} has one configuration with these options; give a knob two"
            " values or more"
        )
    return made, section


@contextmanager
def quantized(
    model: nn.Module,
    configuration: Mapping[str, Mapping[str, KnobValue]],
    quantizer: str | Quantizer | None = None,
) -> Iterator[nn.Module]:
    """Put a configuration's weights into a model; take them out again after the block.

    Layers that the configuration does not name stay as they are. The model's own parameters hold
    the dequantized weights meanwhile, in their type and on their device. The study's adapter, if it
    trained one, is not applied: ``qsearch export`` writes it.

    Args:
        model: Any module that has the configuration's layers.
        configuration: Of a trial, or any mapping of layer to knobs.
        quantizer: For a configuration that comes from elsewhere than a study or a space: an
            ordinary one does not know its quantizer.

    Raises:
        InputError: If the model lacks a layer, or has quantized weights already.

    >>> import torch, qsearch
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> space = qsearch.Space.from_model(model, quantizer="normal-float")
    >>> before = model[0].weight.clone()
    >>> with qsearch.quantized(model, space.sample(seed=0)):
    ...     torch.equal(model[0].weight, before)
    False
    >>> torch.equal(model[0].weight, before)
    True
    """
    own = quantizer or getattr(configuration, "quantizer", None)
    if own is None:
        raise InputError(
            "this configuration does not know its quantizer; give it: quantized(model,"
            " configuration, quantizer=…)"
        )
    if isinstance(own, PluginSpec) and PYTHON_CLASS in own.options:
        raise InputError(
            f"the quantizer of this configuration is an object of {own.options[PYTHON_CLASS]}; give"
            " it: quantized(model, configuration, quantizer=…)"
        )
    if isinstance(own, PluginSpec):
        own, _ = quantizer_of(own.name, own.options)
    elif isinstance(own, str):
        own, _ = quantizer_of(own, {})
    layers = {name: LayerConfiguration(layer) for name, layer in configuration.items()}
    with quantized_weights(model, layers, own):
        yield model
