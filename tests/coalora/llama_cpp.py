"""What llama.cpp computes with a GGUF file, by the package llama-cpp-py-sync."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def engine_logits(path: Path, tokens: Sequence[int], adapter: Path | None = None) -> Tensor:
    """Return llama.cpp's logits (tokens × vocabulary) after each of some tokens."""
    from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

    ffi, lib = get_ffi(), get_lib()
    lib.llama_log_set(_silence(), ffi.NULL)
    lib.llama_backend_init()
    settings = lib.llama_model_default_params()
    settings.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(str(path).encode(), settings)
    assert model != ffi.NULL, f"llama.cpp cannot load {path}"
    parameters = lib.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = len(tokens)
    parameters.n_threads = parameters.n_threads_batch = 1
    context = lib.llama_init_from_model(model, parameters)
    if adapter is not None:
        lora = lib.llama_adapter_lora_init(model, str(adapter).encode())
        assert lora != ffi.NULL, f"llama.cpp cannot load {adapter}"
        scales = ffi.new("float[]", [1.0])
        loras = ffi.new("struct llama_adapter_lora *[]", [lora])
        assert lib.llama_set_adapters_lora(context, loras, 1, scales) == 0
    batch = lib.llama_batch_init(len(tokens), 0, 1)
    try:
        for place, token in enumerate(tokens):
            batch.token[place], batch.pos[place], batch.logits[place] = token, place, 1
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        batch.n_tokens = len(tokens)
        assert lib.llama_decode(context, batch) == 0
        width = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        raw = ffi.buffer(lib.llama_get_logits(context), 4 * width * len(tokens))
        logits = np.frombuffer(raw, dtype=np.float32).reshape(len(tokens), width).copy()
    finally:
        lib.llama_batch_free(batch)
        lib.llama_free(context)
        lib.llama_model_free(model)
    return torch.from_numpy(logits)


@cache
def _silence() -> Any:
    """Return what C calls instead of printing; it is kept, since C calls it later."""
    from llama_cpp_py_sync._cffi_bindings import get_ffi

    signature = "void(enum ggml_log_level, const char *, void *)"
    return get_ffi().callback(signature, lambda *_: None)
