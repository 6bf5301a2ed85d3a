"""A model of transformers that came from no GGUF file, in the words of one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from qsearch_quantizers.packed.stored_types import as_stored
from torch import Tensor

from qsearch.errors import InputError
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.export.gguf_architectures import (
    add_hyperparameters,
    architecture_of,
    rope_factors,
)
from qsearch_coalora.export.gguf_original import FORMAT, OriginalTensor, gguf_names
from qsearch_coalora.export.gguf_vocabulary import Vocabulary, vocabulary_of
from qsearch_coalora.export.job import AdapterJob
from qsearch_coalora.models.source import locate_model, source_folder

TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""ggml's names of floating types."""


class ModelOriginal:
    """A model as llama.cpp's converter would write it, in the types of the export.

    Norms, biases and other vectors are stored in float32, as llama.cpp needs them.
    """

    def __init__(self, job: AdapterJob) -> None:
        self._job, self._config = job, job.module.config
        self._known = architecture_of(self._config, FORMAT)
        self.architecture = self._known.name
        self.blocks = int(self._config.num_hidden_layers)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return vocabulary_of(self._job.tokenizer, self._config.vocab_size, FORMAT)

    def add_fields(self, writer: Any) -> None:
        """Say what the model and its tokenizer are."""
        add_description(self._job.model, self._config, writer)
        self._vocabulary.add_to(writer)

    @cached_property
    def tensors(self) -> list[OriginalTensor]:
        """All tensors, the factors of the rotary embedding first."""
        return list(self._planned())

    def _planned(self) -> Iterator[OriginalTensor]:
        for name, factors in rope_factors(self._config).items():
            yield _planned(name, factors, torch.float32, lambda factors=factors: factors)
        state, named = self._job.state(), gguf_names(self.architecture, self.blocks)
        own = {tensor.data_ptr() for name, tensor in state.items() if name != "lm_head.weight"}
        for name, tensor in state.items():
            if name == "lm_head.weight" and tensor.data_ptr() in own:
                continue  # A head that is tied to the embedding.
            stored = named(name)
            if stored is None:
                raise InputError(f"--format {FORMAT}: llama.cpp has no tensor for {name!r}")
            dtype = self._job.storage.dtype if tensor.ndim > 1 else torch.float32
            yield _planned(stored, tensor, dtype, partial(self._values, name, tensor, dtype))

    def _values(self, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a tensor of the model as the file has it."""
        values = tensor.detach().cpu().float()
        if name.endswith("norm.weight"):
            values = values + self._known.norm_offset
        path = name.rpartition(".")[0]
        values = values[self._known.row_order(path, len(values), self._config)]
        return as_stored(name, values, dtype).contiguous()

    def row_order(self, name: str, position: int) -> Tensor:
        """Return the layer's row that is each row of the file's tensor."""
        rows = self._job.adapted.layers[position].shape[0]
        return self._known.row_order(self._job.paths[position], rows, self._config)


def _planned(name: str, tensor: Tensor, dtype: torch.dtype, values: Any) -> OriginalTensor:
    import gguf

    *rows, columns = tensor.shape
    shape = (*rows, columns * dtype.itemsize)
    kind = gguf.GGMLQuantizationType[TYPES[dtype]]

    def stored() -> np.ndarray[Any, Any]:
        array: np.ndarray[Any, Any] = values().view(torch.uint8).numpy()
        return array

    return OriginalTensor(name, shape, np.dtype(np.uint8), kind, stored)


def add_description(model: ModelSpec, config: Any, writer: Any) -> None:
    """Say to a writer what a model is, by its card and its sizes.

    Raises:
        InputError: If llama.cpp is not known to compute as it does.
    """
    import gguf

    architecture = architecture_of(config, FORMAT)
    source = locate_model(model)
    folder = source_folder(source)
    # The folder of a hub model has the name of a commit.
    name = None if source.is_local else source.path.rpartition("/")[2]
    try:
        # The name of "." is that of the folder.
        card = gguf.Metadata.load(model_path=folder and folder.resolve(), model_name=name)
    except Exception as error:  # Whatever a malformed card makes its reader raise.
        raise InputError(f"--format {FORMAT}: the model's card in {folder}: {error}") from error
    card.name = card.name or model.name
    writer.add_type(gguf.GGUFType.MODEL)
    card.set_gguf_meta_model(writer)
    add_hyperparameters(architecture, config, writer)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
