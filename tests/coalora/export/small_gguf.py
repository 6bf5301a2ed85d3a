"""A GGUF file of a small random Llama with a tokenizer of bytes, in the form of SmolLM2's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers.convert_slow_tokenizer import bytes_to_unicode

BLOCKS = 2
VALUES: dict[str, Any] = {
    "general.type": "model",
    "general.name": "small",
    "general.languages": ["en"],
    "general.file_type": 0,
    "llama.block_count": BLOCKS,
    "llama.context_length": 256,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 1e5,
    "llama.rope.dimension_count": 16,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.padding_token_id": 2,
}
"""The metadata of SmolLM2's file, with the sizes of a small model."""
KEYS = 32
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ t", "h e", "Ġt he"]
LISTS = ("tokens", "token_type", "merges")
TOKENS = [*SPECIAL, *bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in MERGES)]


def finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_small(path: Path, width: int, inner: int) -> Path:
    """Write a model of heads of 16, whose layers have rows of the width, and of ``inner``."""
    draw, writer = np.random.default_rng(0), gguf.GGUFWriter(path, "llama")
    sizes = {
        "llama.embedding_length": width,
        "llama.feed_forward_length": inner,
        "llama.attention.head_count": width // 16,
        "llama.vocab_size": len(TOKENS),
    }
    tokenizer = {
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in TOKENS],
        "tokenizer.ggml.merges": MERGES,
    }
    add = {
        str: writer.add_string,
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        list: writer.add_array,
    }
    for name, value in (VALUES | sizes | tokenizer).items():
        add[type(value)](name, value)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (len(TOKENS), width),
        "output_norm": (width,),
    }
    for block in range(BLOCKS):
        for name, shape in {
            "attn_norm": (width,),
            "attn_q": (width, width),
            "attn_k": (KEYS, width),
            "attn_v": (KEYS, width),
            "attn_output": (width, width),
            "ffn_norm": (width,),
            "ffn_gate": (inner, width),
            "ffn_up": (inner, width),
            "ffn_down": (width, inner),
        }.items():
            shapes[f"blk.{block}.{name}"] = shape
    for name, shape in shapes.items():
        values = draw.normal(0, 0.08, shape).astype(np.float32)
        writer.add_tensor(f"{name}.weight", values + ("norm" in name))
    finish(writer)
    return path


SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def write_part(source: Path, path: Path, blocks: int, vocabulary: int) -> Path:
    """Write the first blocks and tokens of a model's file: to read all takes seconds, each time."""
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(path, "llama")
    lists = {name: reader.fields[f"tokenizer.ggml.{name}"].contents() for name in LISTS}
    tokens = lists["tokens"][:vocabulary]
    known = set(tokens)
    parts = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": lists["token_type"][:vocabulary],
        "tokenizer.ggml.merges": [
            merge for merge in lists["merges"] if merge.replace(" ", "") in known
        ],
        "llama.block_count": blocks,
        "llama.vocab_size": vocabulary,
    }
    for field in reader.fields.values():
        if field.name != "general.architecture" and not field.name.startswith("GGUF."):
            value = parts[field.name] if field.name in parts else field.contents()
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, value, field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        kind, _, rest = tensor.name.partition(".")
        if kind != "blk" or int(rest.partition(".")[0]) < blocks:
            rows = slice(vocabulary if kind == "token_embd" else None)
            writer.add_tensor(tensor.name, tensor.data[rows], raw_dtype=tensor.tensor_type)
    finish(writer)
    return path
