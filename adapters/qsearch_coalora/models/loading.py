"""How a model's weights are loaded, and its shape without them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from qsearch.errors import InputError
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.models.source import (
    ModelSource,
    is_in_hub_cache,
    locate_model,
    needs_words,
    require_hub,
)

_RUNS_CODE = "runs code that comes with the model (model.remote_code)"


def load_config(model: ModelSpec) -> tuple[Any, tuple[str, ...]]:
    """Load a model's transformers configuration.

    The model's ``config`` serves when the hub cannot be reached.

    Returns:
        The configuration, and notes for the user: what is downloaded, and what code runs.

    Raises:
        InputError: If there is no configuration to be had, or the model is quantized already.
    """
    source = locate_model(model)
    notes = (_RUNS_CODE,) if source.remote_code else ()
    if source.is_local or is_in_hub_cache(source):
        config = from_pretrained(source, "AutoConfig")
        _require_float(model, source, config)
        return config, notes
    if model.config is not None:
        note = f"{model.name} is not on this machine; it is downloaded from the hub on first use"
        return _config_from_fields(model), (note, *notes)
    note = f"{model.name} is downloaded from the hub on first use"
    config = from_pretrained(source, "AutoConfig")
    _require_float(model, source, config)
    return config, (note, *notes)


def _require_float(model: ModelSpec, source: ModelSource, config: Any) -> None:
    """Refuse a quantized checkpoint; GGUF files are dequantized as they are loaded."""
    quantized = getattr(config, "quantization_config", None)
    if quantized and source.gguf_file is None:
        settings = quantized if isinstance(quantized, dict) else quantized.to_dict()
        raise InputError(
            f"model.name {model.name!r} is quantized already (quant_method"
            f" {settings.get('quant_method')!r}); search on the float model that it was made of"
        )


def _config_from_fields(model: ModelSpec) -> Any:
    fields = dict(model.config or {})
    model_type = fields.pop("model_type", None)
    if "auto_map" in fields:
        raise InputError(
            "model.config: auto_map names code; only a model's own config.json may, and that code"
            " runs if model.remote_code says so"
        )
    try:
        return import_transformers().AutoConfig.for_model(model_type, **fields)
    except Exception as error:
        raise InputError(
            f"model.config: model_type {model_type!r} cannot be used: {_first_line(error)}"
        ) from error


def skeleton(config: Any, model: ModelSpec | None = None) -> nn.Module:
    """Return the headless model on the meta device: shapes and names, no weights.

    Code that comes with a model may have classes with heads alone; then it is one of these.

    Code that comes with the model runs only if the model is given and says so.

    Raises:
        InputError: If no model can be built of the configuration.
    """
    own = _own_class(config, model)
    build = own or import_transformers().AutoModel.from_config
    arguments = {} if own else {"trust_remote_code": False}
    try:
        with torch.device("meta"):
            module: nn.Module = build(copy.deepcopy(config), **arguments)
    except Exception as error:
        raise InputError(
            f"the model's configuration (model.config, or config.json) of type"
            f" {config.model_type!r} cannot be used: {_first_line(error)}"
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
        The module in evaluation mode, and the names of parameters that the checkpoint lacked
        and that were drawn from PyTorch's global generator.

    Raises:
        InputError: If the model cannot be found, reached or loaded.
    """
    source = locate_model(model)
    module, report = from_pretrained(
        source,
        auto_class,
        dtype=torch.float32,
        output_loading_info=True,
        **arguments,
    )
    if source.gguf_file is not None and getattr(module, "hf_quantizer", None) is not None:
        # Its weights were dequantized: it is saved as any float model, under its own names.
        module.hf_quantizer.remove_quantization_config(module)
    return module.eval(), set(report["missing_keys"])


def import_transformers() -> Any:
    """Import transformers at use.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            "transformers is not installed; install the extra: pip install 'qsearch[llm]'"
        ) from error
    return transformers


def from_pretrained(source: ModelSource, auto_class: str, **arguments: Any) -> Any:
    transformers = import_transformers()
    load = getattr(transformers, auto_class).from_pretrained
    arguments = {**source.arguments, **arguments}
    with _clear_errors(source), quiet_transformers():
        if source.is_local or is_in_hub_cache(source):
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


def _require_own_code(source: ModelSource, **where: Any) -> None:
    """Refuse a model whose code is another hub model's: no commit that is named pins it."""
    if not source.remote_code:
        return
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    where = {"revision": source.revision, **where}
    config = import_transformers().PreTrainedConfig.get_config_dict(source.path, **where)[0]
    for file in (config, get_tokenizer_config(source.path, **where)):
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
            raise needs_words(source) from error
        raise InputError(
            f"model.name {source.path!r} cannot be loaded: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
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
    logging = import_transformers().utils.logging
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
