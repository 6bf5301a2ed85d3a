"""How a model's weights are loaded, and its shape without them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qsearch_quantizers.libraries.optional import optional_module

from qsearch.errors import InputError
from qsearch.models.discovery import discover_tables
from qsearch.space.layers import HEAD, LayerSpec
from qsearch.spec.sections import REMOTE_CODE, ModelSpec
from qsearch_coalora.models.architectures import ModelShape, known_shape, known_tables
from qsearch_coalora.models.model_shape import shape_of
from qsearch_coalora.models.source import ModelSource, locate_model, require_hub, source_folder

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

HEADLESS, CAUSAL = "AutoModel", "AutoModelForCausalLM"
"""Classes of transformers that load models: without a head, and with one that predicts tokens."""


def load_shape(
    model: ModelSpec, tables_of: str | None = None
) -> tuple[ModelShape, tuple[str, ...]]:
    """Return a model's shape without loading weights, and notes as :func:`load_config` does.

    With its tables as a class of transformers has them, if one is given.

    Raises:
        InputError: As :func:`load_config` and :func:`skeleton` do, or if there is no embedding.
    """
    folder = _plain_folder(model)
    shape = None if folder is None else known_shape(folder)
    tables = None if folder is None else known_tables(folder, tables_of == CAUSAL)
    if shape is not None and tables_of is None:
        return shape, ()
    if shape is not None and tables is not None:
        return replace(shape, tables=tables), ()
    config, notes = load_config(model)
    shape = shape or shape_of(skeleton(config, model))
    if tables_of is not None:
        shape = replace(shape, tables=discover_tables(skeleton(config, model, tables_of)))
    return shape, notes


def _plain_folder(model: ModelSpec) -> Path | None:
    """Return the folder whose ``config.json`` says all of a model's shape, if there is one."""
    source = locate_model(model)
    return None if source.gguf_file is not None or source.remote_code else source_folder(source)


def load_config(model: ModelSpec) -> tuple[Any, tuple[str, ...]]:
    """Load a model's transformers configuration; ``model.config`` stands in for a hub model's.

    Returns:
        The configuration, and notes for the user: what is downloaded, and what code runs.

    Raises:
        InputError: If there is no configuration to be had, or the model is quantized already.
    """
    source = locate_model(model)
    notes: tuple[str, ...] = ()
    if source.remote_code:
        notes = ("runs code that comes with the model (model.remote_code)",)
    if source_folder(source) is None:
        notes = (f"{model.name} is downloaded from the hub on first use", *notes)
        if model.config is not None:
            return _config_from_fields(model.config), notes
    config = from_pretrained(source, "AutoConfig")
    quantized = getattr(config, "quantization_config", None)
    if quantized and source.gguf_file is None:  # GGUF files are dequantized as they are loaded.
        settings = quantized if isinstance(quantized, dict) else quantized.to_dict()
        raise InputError(
            f"model.name {model.name!r} is quantized already (quant_method"
            f" {settings.get('quant_method')!r}); search on the float model that it was made of"
        )
    return config, notes


def _config_from_fields(given: Mapping[str, Any]) -> Any:
    fields = dict(given)
    model_type = fields.pop("model_type", None)
    if "auto_map" in fields:
        raise InputError(
            "model.config: auto_map names code; only a model's own config.json may, and that code"
            " runs if model.remote_code says so"
        )
    try:
        return import_library("transformers").AutoConfig.for_model(model_type, **fields)
    except Exception as error:
        raise InputError(
            f"model.config: model_type {model_type!r} cannot be used: {first_line(error)}"
        ) from error


def headed_paths(
    config: Any, model: ModelSpec, layers: Sequence[LayerSpec]
) -> tuple[str, dict[str, str]]:
    """Return what precedes a path in a model with a head, and layers' paths there by their names.

    The model is not loaded.
    """
    own = getattr(skeleton(config, model), "base_model_prefix", "")
    prefix = f"{own}." if own else ""
    return prefix, {
        layer.name: layer.name if layer.role == HEAD else prefix + layer.name for layer in layers
    }


def skeleton(config: Any, model: ModelSpec | None = None, auto_class: str = HEADLESS) -> nn.Module:
    """Return the model of a class on the meta device: shapes and names, no weights.

    Code that comes with the model runs only if the model is given and says so. It may have classes
    with heads alone; then it is one of these.

    Raises:
        InputError: If no model can be built of the configuration.
    """
    import torch

    own = _own_class(config, model)
    build = own or getattr(import_library("transformers"), auto_class).from_config
    arguments = {} if own else {"trust_remote_code": False}
    try:
        with torch.device("meta"):
            module: nn.Module = build(copy.deepcopy(config), **arguments)
    except Exception as error:
        raise InputError(
            f"the model's configuration (model.config, or config.json) of type"
            f" {config.model_type!r} cannot be used: {first_line(error)}"
        ) from error
    return module


def _own_class(config: Any, model: ModelSpec | None) -> Any:
    """Return the model class that comes with a model, or None if it has none or it may not run."""
    classes = getattr(config, "auto_map", None) or {}
    named = sorted(name for name in classes if name.startswith("AutoModel"))
    if model is None or model.remote_code is None or not named:
        return None
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    source = locate_model(model)
    # AutoModel.from_config would take the code of the main branch, whatever the revision.
    with _clear_errors(source):
        return get_class_from_dynamic_module(
            classes[named[0]], source.path, revision=source.revision
        )


def load_pretrained(model: ModelSpec, auto_class: str, **arguments: Any) -> tuple[Any, set[str]]:
    """Load a model in float32 from where :func:`locate_model` finds it.

    Further arguments are configuration fields, such as ``num_labels``.

    Returns:
        The module in evaluation mode, and the names of parameters that the files lacked
        and that were drawn from PyTorch's global generator.

    Raises:
        InputError: If the model cannot be found, reached or loaded.
    """
    import torch

    source = locate_model(model)
    module, report = from_pretrained(
        source, auto_class, dtype=torch.float32, output_loading_info=True, **arguments
    )
    if source.gguf_file is not None and getattr(module, "hf_quantizer", None) is not None:
        # Its weights were dequantized: it is saved as any float model, under its own names.
        module.hf_quantizer.remove_quantization_config(module)
    return module.eval(), set(report["missing_keys"])


def import_library(name: str) -> Any:
    """Import a library of the extra ``llm`` at use; InputError if it is not installed."""
    return optional_module(name, "llm", "this study")


def from_pretrained(source: ModelSource, auto_class: str, **arguments: Any) -> Any:
    load = getattr(import_library("transformers"), auto_class).from_pretrained
    arguments = {**source.arguments, **arguments}
    with _clear_errors(source), quiet_transformers():
        if source_folder(source) is not None:
            try:
                _require_own_code(source, local_files_only=True)
                return load(**arguments, local_files_only=True)
            except (OSError, ValueError):
                # The hub cache may hold the model's configuration only.
                if source.is_local:
                    raise
        require_hub(source)
        _require_own_code(source)
        return load(**arguments)


def _require_own_code(source: ModelSource, **access: Any) -> None:
    """Refuse a model whose code is another hub model's: no commit that is named pins it."""
    if not source.remote_code:
        return
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    access = {"revision": source.revision, **access}
    configuration = import_library("transformers").PreTrainedConfig
    config, _ = configuration.get_config_dict(source.path, **access)
    for file in (config, get_tokenizer_config(source.path, **access)):
        classes = file.get("auto_map") or {}
        for named in classes.values() if isinstance(classes, dict) else classes:
            for name in named if isinstance(named, list | tuple) else [named]:
                owner, separator, _ = str(name).partition("--")
                if separator and (source.is_local or owner != source.path):
                    raise InputError(
                        f"model.name {source.path!r}: its code is another model's, {owner!r};"
                        " download that code into the model's folder, and name it in auto_map"
                    )


@contextmanager
def _clear_errors(source: ModelSource) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    # A damaged file raises whatever its reader happens to meet.
    except Exception as error:
        if not source.remote_code and "trust_remote_code" in str(error):
            pin = "" if source.is_local else ", and pin it by model.revision: COMMIT"
            raise InputError(
                f"model.name {source.path!r} cannot be loaded without code that comes with it,"
                " which runs with your rights: read that code, then write"
                f" 'model.remote_code: {REMOTE_CODE}'{pin}"
            ) from error
        raise InputError(
            f"model.name {source.path!r} cannot be loaded: {first_line(error)}"
        ) from error


def first_line(error: Exception) -> str:
    """Return what an error of a library says, on one line."""
    # PyTorch would advise to load such a file all the same.
    if "weights_only" in str(error):
        return (
            "its weights are a pickle that holds more than tensors, which could run code; save them"
            " as safetensors (save_pretrained)"
        )
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from warnings and progress bars."""
    logging = import_library("transformers").utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def require_gradient_checkpointing(module: nn.Module) -> None:
    """Raise InputError unless a model can compute activations again in the backward pass."""
    if not getattr(module, "supports_gradient_checkpointing", False):
        raise InputError(
            f"trainer.gradient_checkpointing: {type(module).__name__} cannot do it; leave it false"
        )
