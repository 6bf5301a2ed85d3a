"""Small random models of the architectures that are written as GGUF, with their tokenizers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from gguf import GGUFWriter
from qsearch_coalora.export.gguf_model import ModelOriginal
from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from qsearch.plugins.exporters import Storage
from qsearch.spec.sections import ModelSpec
from tests.coalora.export.small_gguf import finish

TEXT = [
    "The film was good and the plot was fine, but it wasn't what they'd said it would be.",
    "def add(a: int, b: int) -> int:\n    return a + b\n\n\n\tprint(add(12, 345))\n",
    "Größe, façade; Привет, мир! Ελληνικά. 我想在工作中使用它。これは日本語です。 ✅ 🚀",
    "In 2026 there were 1,000,000 of 3.14159 and it's 12345 — they'll see   it  again.",
]

LLAMA3_REGEX = PRETOKENIZE_REGEX.replace(r"\p{N}|", r"\p{N}{1,3}|")
TEKKEN_REGEX = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT4O_REGEX = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]*"
    rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+{CONTRACTIONS}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]+"
    rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{CONTRACTIONS}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split_by(regex: str) -> Any:
    """Cut by a regular expression, then into bytes."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


RULES = {
    "gpt-2": (pre_tokenizers.ByteLevel(add_prefix_space=False), False),
    "smollm": (
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        ),
        False,
    ),
    "llama-bpe": (split_by(LLAMA3_REGEX), True),
    "smaug-bpe": (split_by(LLAMA3_REGEX), False),
    "tekken": (split_by(TEKKEN_REGEX), True),
    "gpt-4o": (split_by(GPT4O_REGEX), False),
}
"""How text is cut, and whether whole words come before merges, by llama.cpp's name of it."""


def trained(
    pre_tokenizer: Any, words_first: bool = False, size: int = 400, texts: Sequence[str] = TEXT
) -> Tokenizer:
    """Train merges of bytes on texts."""
    tokenizer = Tokenizer(BPE(ignore_merges=words_first))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|begin|>", "<|end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def of_bytes(rules: str, begins: bool = False, **training: Any) -> Any:
    """A tokenizer of bytes that cuts text by rules of :data:`RULES`, or those of Qwen."""
    if rules == "qwen2":
        vocabulary, merges = _pieces(trained(split_by(PRETOKENIZE_REGEX), **training))
        return transformers.Qwen2Tokenizer(
            vocabulary, merges, eos_token="<|end|>", unk_token="<|end|>", pad_token="<|end|>"
        )
    tokenizer = trained(*RULES[rules], **training)
    if begins:
        number = tokenizer.token_to_id("<|begin|>")
        tokenizer.post_processor = TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", number)]
        )
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>"
    )
    made.add_tokens([AddedToken("<|tool|>", normalized=False), AddedToken("<think>")])
    made.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return made


def _pieces(tokenizer: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def of_marks(kind: str, **options: Any) -> Any:
    """A tokenizer whose spaces are marks, as transformers makes it of a SentencePiece model."""
    first = {
        "Llama": ["<unk>", "<s>", "</s>"],
        "Gemma": ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"],
    }[kind]
    learner = Tokenizer(BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=250, show_progress=False)
    # No piece has the end of a line or a tab.
    learner.train_from_iterator([" ".join(text.split()) for text in TEXT], trainer)
    _, merges = _pieces(learner)
    made = ["".join(pair) for pair in merges]
    single = sorted({letter for text in TEXT for letter in text if letter not in " \n\t"} | {"▁"})
    pieces = [*first, *(f"<0x{number:02X}>" for number in range(256)), *made, *single]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [
        (piece[:place], piece[place:])
        for piece in made
        for place in range(1, len(piece))
        if piece[:place] in vocabulary and piece[place:] in vocabulary
    ]
    return getattr(transformers, f"{kind}Tokenizer")(vocabulary, merges, **options)


TOKENIZERS: dict[str, Any] = {
    "llama": lambda: of_bytes("llama-bpe", begins=True),
    "mistral": lambda: of_marks("Llama"),
    "qwen2": lambda: of_bytes("qwen2"),
    "qwen3": lambda: of_bytes("qwen2"),
    "gemma3_text": lambda: of_marks("Gemma"),
}

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": 96}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "gemma3_text": (
        "Gemma3Text",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 24,
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
}
"""By model type, the class of a small model and what is of its own in its configuration."""


MORE_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma": ("Gemma", {}),
    "gemma2": ("Gemma2", {}),
    "granite": ("Granite", {}),
    "olmo2": ("Olmo2", {}),
    "smollm3": ("SmolLM3", {"pad_token_id": 0}),
}


def save_model(kind: str, folder: Path, **changes: Any) -> Path:
    """Save a small random model of a type with its tokenizer."""
    name, own = (CONFIGS | MORE_CONFIGS)[kind]
    tokenizer = TOKENIZERS.get(kind, lambda: of_bytes("smollm"))()
    sizes = {
        "vocab_size": -(-len(tokenizer) // 32) * 32 + 32,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "max_position_embeddings": 256,
        "dtype": "bfloat16",
    }
    config = getattr(transformers, f"{name}Config")(**sizes | own | changes)
    model = getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM")(config)
    draw = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in model.parameters():
            is_norm = parameter.ndim == 1 and bool((parameter == 1).all())
            values = draw.normal(0, 0.1 if parameter.ndim > 1 else 0.2, parameter.shape)
            parameter.copy_(torch.from_numpy(values + is_norm))
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_float(folder: Path, path: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Write a model as it is, and return it."""
    module = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    job: Any = SimpleNamespace(
        module=module,
        tokenizer=transformers.AutoTokenizer.from_pretrained(folder),
        model=ModelSpec(name=str(folder)),
        storage=Storage(dtype),
        state=module.state_dict,
    )
    written = ModelOriginal(job)
    writer = GGUFWriter(path, written.architecture)
    written.add_fields(writer)
    for tensor in written.tensors:
        writer.add_tensor(tensor.name, tensor.values(), raw_dtype=tensor.kind)
    finish(writer)
    return module
