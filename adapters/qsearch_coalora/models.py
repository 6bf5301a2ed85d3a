"""Where a model is, how its weights are loaded, and its shape without them."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import nn

from qsearch.errors import InputError
from qsearch.plugins import ModelSpec

HUB_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class ModelSource:
    """Where transformers finds a model.

    Args:
        path: A folder, or a hub name.
        gguf_file: Name of the GGUF file in that folder, or None.
        is_local: Whether ``path`` is a folder.
    """

    path: str
    gguf_file: str | None
    is_local: bool

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for every ``from_pretrained`` of this source."""
        extra = {} if self.gguf_file is None else {"gguf_file": self.gguf_file}
        return {"pretrained_model_name_or_path": self.path, **extra}


def resolve_model(name: str) -> ModelSource:
    """Say where a model of :attr:`ModelSpec.name` is, without loading it.

    Args:
        name: A folder, a hub name, a ``.gguf`` file, or ``package:MODULE/PATH``.

    Raises:
        InputError: If the folder, file or package does not exist.
    """
    if name.startswith("package:"):
        return _local_source(name, _inside_package(name))
    path = Path(name).expanduser()
    if path.exists():
        return _local_source(name, path)
    if name.endswith(".gguf") or path.is_absolute() or name.startswith((".", "~")):
        raise InputError(f"model.name {name!r}: there is no such folder or file")
    if name.count("/") > 1:
        raise InputError(
            f"model.name {name!r} is neither a folder that exists nor a hub name"
            " (a hub name is 'name' or 'owner/name')"
        )
    return ModelSource(name, None, is_local=False)


def _inside_package(name: str) -> Path:
    module, _, inside = name.removeprefix("package:").partition("/")
    if not module or ".." in PurePosixPath(inside).parts:
        raise InputError(f"model.name {name!r} must be 'package:MODULE/PATH'")
    try:
        found = importlib.util.find_spec(module)
    except ImportError:
        found = None
    if found is None or not found.submodule_search_locations:
        raise InputError(
            f"model.name {name!r}: the Python package {module!r} is not installed"
            f" (pip install {module.replace('_', '-')})"
        )
    roots = [Path(root) for root in found.submodule_search_locations]
    for root in roots:
        if (root / inside).exists():
            return root / inside
    raise InputError(f"model.name {name!r}: package {module!r} has no {inside!r} in {roots[0]}")


def _local_source(name: str, path: Path) -> ModelSource:
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"model.name {name!r}: the folder {path} holds no config.json")
        return ModelSource(str(path), None, is_local=True)
    if path.suffix != ".gguf":
        raise InputError(f"model.name {name!r}: a model file must end in .gguf")
    return ModelSource(str(path.parent), path.name, is_local=True)


def load_config(model: ModelSpec) -> tuple[Any, tuple[str, ...]]:
    """Load a model's transformers configuration.

    Args:
        model: The model; its ``config`` serves when the hub cannot be reached.

    Returns:
        The configuration, and notes for the user (empty if the model is on this machine).

    Raises:
        InputError: If there is no configuration to be had, or the model is quantized already.
    """
    source = resolve_model(model.name)
    if source.is_local or _is_in_hub_cache(source):
        config = _from_pretrained(source, "AutoConfig")
        _require_float(model, source, config)
        return config, ()
    if model.config is not None:
        note = f"{model.name} is not on this machine; it is downloaded from the hub on first use"
        return _config_from_fields(model), (note,)
    note = f"{model.name} is downloaded from the hub on first use"
    config = _from_pretrained(source, "AutoConfig")
    _require_float(model, source, config)
    return config, (note,)


def _require_float(model: ModelSpec, source: ModelSource, config: Any) -> None:
    """Refuse a quantized checkpoint; GGUF files are dequantized as they are loaded."""
    quantized = getattr(config, "quantization_config", None)
    if quantized and source.gguf_file is None:
        told = quantized if isinstance(quantized, dict) else quantized.to_dict()
        raise InputError(
            f"model.name {model.name!r} is quantized already (quant_method"
            f" {told.get('quant_method')!r}); search on the float model that it was made of"
        )


def _config_from_fields(model: ModelSpec) -> Any:
    fields = dict(model.config or {})
    model_type = fields.pop("model_type", None)
    try:
        return import_transformers().AutoConfig.for_model(model_type, **fields)
    except Exception as error:
        raise InputError(
            f"model.config: model_type {model_type!r} cannot be used: {_first_line(error)}"
        ) from error


def skeleton(config: Any) -> nn.Module:
    """Return the headless model on the meta device: shapes and names, no weights.

    Raises:
        InputError: If no model can be built of the configuration.
    """
    build = import_transformers().AutoModel.from_config
    try:
        with torch.device("meta"):
            module: nn.Module = build(copy.deepcopy(config), trust_remote_code=False)
    except Exception as error:
        raise InputError(
            f"the model's configuration (model.config, or config.json) of type"
            f" {config.model_type!r} cannot be used: {_first_line(error)}"
        ) from error
    return module


def load_pretrained(model: ModelSpec, auto_class: str, **arguments: Any) -> tuple[Any, set[str]]:
    """Load a model in float32 from where :func:`resolve_model` finds it.

    Args:
        model: The model.
        auto_class: Name of the transformers class, such as ``AutoModelForCausalLM``.
        arguments: Further configuration fields, such as ``num_labels``.

    Returns:
        The module in evaluation mode, and the names of parameters that the checkpoint lacked
        and that were drawn anew from PyTorch's global generator.

    Raises:
        InputError: If the model cannot be found, reached or loaded.
    """
    source = resolve_model(model.name)
    module, report = _from_pretrained(
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


def load_tokenizer(model: ModelSpec) -> Any:
    """Load the model's tokenizer; a padding token is set if it has none.

    Raises:
        InputError: If it cannot be found or reached, or knows no words.
    """
    tokenizer = _from_pretrained(resolve_model(model.name), "AutoTokenizer")
    # What transformers makes of a folder without a tokenizer's files.
    if not _words(tokenizer):
        raise InputError(
            f"model.name {model.name!r} has no tokenizer: its vocabulary holds special tokens only;"
            " save the tokenizer beside the model (tokenizer.save_pretrained)"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise InputError(
            f"model.name {model.name!r}: the tokenizer has no padding, end or unknown token; give"
            " it a pad_token and save it"
        )
    return tokenizer


def require_embeddings(model: ModelSpec, module: nn.Module, tokenizer: Any) -> None:
    """Check that a model has an embedding for each word of its tokenizer.

    Special and added tokens need none: text seldom has them.

    Args:
        model: The model, for messages.
        module: The model as loaded; one without a table of embeddings is not checked.
        tokenizer: Its tokenizer.

    Raises:
        InputError: If it lacks one.
    """
    try:
        embeddings: Any = module.get_input_embeddings()  # type: ignore[operator]
    except NotImplementedError:
        return
    known = getattr(embeddings, "num_embeddings", None)
    words = _words(tokenizer)
    last = max(words, key=lambda token: words[token], default=None)
    if known is not None and last is not None:
        require_embedding(model.name, known, "token", last, words[last])


def require_embedding(model: str, known: int, kind: str, token: str, number: int) -> None:
    """Check that a model has an embedding for one token.

    Args:
        model: The model's name, for messages.
        known: How many embeddings it has.
        kind: What the token is, for messages.
        token: The token.
        number: Its number.

    Raises:
        InputError: If it has none.
    """
    if number >= known:
        raise InputError(
            f"model.name {model!r} has {known} embeddings, but its tokenizer's {kind} {token!r}"
            f" has number {number}; resize the model's embeddings, or save the tokenizer that"
            " belongs to it"
        )


def _words(tokenizer: Any) -> dict[str, int]:
    """Return the numbers of a tokenizer's tokens that are neither special nor added."""
    # The word boundary alone is what transformers gives T5 and its kin without a vocabulary.
    others = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab(), "\u2581"}
    return {token: index for token, index in tokenizer.get_vocab().items() if token not in others}


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


def _from_pretrained(source: ModelSource, auto_class: str, **arguments: Any) -> Any:
    transformers = import_transformers()
    load = getattr(transformers, auto_class).from_pretrained
    arguments = {**source.arguments, "trust_remote_code": False, **arguments}
    with _clear_errors(source.path), quiet_transformers():
        if source.is_local or _is_in_hub_cache(source):
            try:
                return load(**arguments, local_files_only=True)
            except (OSError, ValueError):
                # The hub cache may hold the model's configuration only.
                if source.is_local:
                    raise
        _check_hub(source)
        return load(**arguments)


def _is_in_hub_cache(source: ModelSource) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(source.path, "config.json"), str)


def _check_hub(source: ModelSource) -> None:
    # transformers alone would try each file six times before it gives up.
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        HfApi().model_info(source.path, timeout=HUB_TIMEOUT_SECONDS)
    except RepositoryNotFoundError as error:
        raise InputError(
            f"model.name {source.path!r} is no folder here and no model on the hub"
            " (or it is private: log in with 'hf auth login')"
        ) from error
    except HfHubHTTPError as error:
        raise InputError(f"model.name {source.path!r}: the hub refuses: {error}") from error
    except Exception as error:
        raise InputError(
            f"model.name {source.path!r} is no folder here, is not in the hub cache, and the hub"
            f" cannot be reached ({type(error).__name__}); give a folder, or connect and try again"
        ) from error


@contextmanager
def _clear_errors(name: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    # A damaged file raises whatever its reader happens to meet.
    except Exception as error:
        raise InputError(f"model.name {name!r} cannot be loaded: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
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
    """Check that a model can compute activations again in the backward pass.

    Raises:
        InputError: If it cannot.
    """
    if not getattr(module, "supports_gradient_checkpointing", False):
        raise InputError(
            f"trainer.gradient_checkpointing: {type(module).__name__} cannot do it; leave it false"
        )
