"""Whether llama.cpp runs every configuration of a space, told before a study runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qsearch.errors import InputError
from qsearch.plugins.protocols import Quantizer
from qsearch.space.configuration import LayerConfiguration
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.layers import LayerSpec
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.export.ggml_weights import TYPES, weight_type
from qsearch_coalora.export.gguf_architectures import architecture_of
from qsearch_coalora.export.gguf_file import require_layers, unread_parts
from qsearch_coalora.export.gguf_model import add_description
from qsearch_coalora.export.gguf_original import FORMAT
from qsearch_coalora.export.gguf_vocabulary import vocabulary_of
from qsearch_coalora.export.llama_tokens import compare_tokens, is_installed
from qsearch_coalora.models.loading import headed_paths, load_config
from qsearch_coalora.models.source import locate_model
from qsearch_coalora.models.tokenizers import load_tokenizer


def require_space(model: ModelSpec, quantizer: Quantizer, space: ConfigurationSpace) -> list[str]:
    """Check that a GGUF file holds every configuration of a space, and that llama.cpp runs it.

    Returns:
        Of which text llama.cpp makes other tokens than the tokenizer, or that this is not known;
        what transformers does not read of a GGUF file.

    Raises:
        InputError: If it does not; the message names layers, or says what llama.cpp lacks.
    """
    _require_types(quantizer, space)
    try:
        notes = require_model(model)
        _require_tensors(model, space)
    except InputError as error:
        names = ", ".join(layer.name for layer in space.layers[:2])
        raise InputError(f"{error} (the study's {len(space.layers)} layers: {names}, …)") from error
    return notes


def require_model(model: ModelSpec) -> list[str]:
    """Check that llama.cpp runs a model, whatever its weights' types; see :func:`require_space`."""
    source = locate_model(model)
    if source.gguf_file is not None:
        return unread_parts(Path(source.path) / source.gguf_file)
    config, _ = load_config(model)
    architecture, tokenizer = architecture_of(config, FORMAT), load_tokenizer(model)
    vocabulary = vocabulary_of(tokenizer, config.vocab_size, FORMAT)

    def add_fields(writer: Any) -> None:
        add_description(model, config, writer)
        vocabulary.add_to(writer)

    if is_installed():
        unlike = compare_tokens(add_fields, architecture.name, tokenizer)
        if unlike is None:
            return []
        return [f"llama.cpp makes other tokens than the tokenizer of {unlike.shown}"]
    return [
        "whether llama.cpp makes the same tokens of text is not known: install the extra gguf, and"
        " check again"
    ]


def _require_tensors(model: ModelSpec, space: ConfigurationSpace) -> None:
    """Refuse a GGUF source without a tensor of some layer."""
    source = locate_model(model)
    if source.gguf_file is None:  # The export writes a tensor for each layer.
        return
    config, _ = load_config(model)
    _, paths = headed_paths(config, model, space.layers)
    require_layers(Path(source.path) / source.gguf_file, paths.values())


def _require_types(quantizer: Quantizer, space: ConfigurationSpace) -> None:
    """Refuse layer configurations that no type of ggml holds, with the layers."""
    without: dict[str, list[str]] = {}
    for layer, configuration in _possible(space):
        if weight_type(quantizer, layer, configuration, FORMAT) is None:
            without.setdefault(layer.name, []).append(str(dict(configuration)))
    if not without:
        return
    name, configurations = next(iter(without.items()))
    others = f", and so with {len(without) - 1} more layers" if len(without) > 1 else ""
    raise InputError(
        f"--format {FORMAT}: GGUF has no type that holds layer {name!r} exactly with"
        f" {', '.join(configurations)}{others}; {TYPES}: leave such choices out of the quantizer's"
        " options, or such layers out of the study"
    )


def _possible(space: ConfigurationSpace) -> Iterator[tuple[LayerSpec, LayerConfiguration]]:
    """Yield each layer with each layer configuration that it can take."""
    every = space.choices.layer_configurations
    for group, possible in zip(space.groups, space.possible, strict=True):
        for layer in (space.layers[member] for member in group.members):
            if layer.name in space.pinned:
                yield layer, space.pinned[layer.name]
                continue
            for choice in possible.nonzero()[0]:
                yield layer, every[choice]
