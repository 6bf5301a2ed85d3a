"""Digests by which a study recognises its model and its examples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from qsearch.plugins.capabilities import SupportsDataDigest
from qsearch.plugins.digests import ExamplesDigest
from qsearch.plugins.protocols import Split, Task
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.models.source import locate_model, source_folder

_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where transformers looks for weights, in its order; an index names the files."""

_SETTINGS = ("config.json", "tokenizer_config.json")
_TOKENIZER = "tokenizer.json"
_OLDER_TOKENIZER = (
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""What a tokenizer is built from where it is not one file; otherwise they are copies."""


def model_digests(model: ModelSpec) -> dict[str, str]:
    """Return the SHA-256 of a model's files by name; it must be loaded."""
    return {path.name: file_sha256(path) for path in model_files(model)}


def data_digests(task: Task, splits: Sequence[Split]) -> Mapping[str, ExamplesDigest]:
    """Return which examples a task's splits have; the model must be loaded."""
    return task.data_digests(splits) if isinstance(task, SupportsDataDigest) and splits else {}


def model_files(model: ModelSpec) -> tuple[Path, ...]:
    """Return the files of a model's weights, settings and tokenizer, as far as they are here."""
    source = locate_model(model)
    folder = source_folder(source)
    if folder is None:
        return ()
    if source.gguf_file is not None:  # It has all that in it.
        return (folder / source.gguf_file,)
    weights = [name for name in _WEIGHTS if (folder / name).is_file()][:1]
    if weights and weights[0].endswith(".json"):
        index = json.loads((folder / weights[0]).read_text(encoding="utf-8"))
        weights = sorted(set(index["weight_map"].values()))
    whole = (folder / _TOKENIZER).is_file()
    others = (*_SETTINGS, *((_TOKENIZER,) if whole else _OLDER_TOKENIZER))
    names = (*weights, *(name for name in others if (folder / name).is_file()))
    return tuple(folder / name for name in names)


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256, as ``sha256sum`` gives it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
