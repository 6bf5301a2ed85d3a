"""Tokenizers in the words of GGUF files: llama.cpp makes the same tokens, or they are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from qsearch_coalora.export.gguf_vocabulary import Vocabulary, vocabulary_of
from qsearch_coalora.export.llama_tokens import TEXTS, compare_tokens
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from qsearch.errors import InputError
from tests.coalora.conftest import small_tokenizer
from tests.coalora.export.small_models import RULES, of_bytes, of_marks

gguf = pytest.importorskip("gguf")

SIZE = 1024


def fields_of(vocabulary: Vocabulary) -> Callable[[Any], None]:
    """What describes a Llama with a vocabulary, and no more of it."""

    def add(writer: Any) -> None:
        writer.add_block_count(1)
        writer.add_context_length(64)
        writer.add_embedding_length(32)
        writer.add_head_count(1)
        writer.add_layer_norm_rms_eps(1e-5)
        vocabulary.add_to(writer)

    return add


def changed(tokenizer: Any, **rules: Any) -> PreTrainedTokenizerFast:
    """A tokenizer with other rules, as its file has them; fields of its model by ``model``."""
    given = json.loads(tokenizer.backend_tokenizer.to_str())
    given["model"] |= rules.pop("model", {})
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(given | rules)), bos_token="<|begin|>"
    )


PREPENDED = {
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    },
    "pre_tokenizer": None,
}
"""How older files of Llama's tokenizer have it."""

TRAINING: dict[str, Any] = {"size": SIZE, "texts": TEXTS}
"""Each word of the compared texts is a token, so that where they are cut shows."""

EXPRESSIBLE = {
    **{name: (lambda name=name: of_bytes(name, **TRAINING), name) for name in (*RULES, "qwen2")},
    "by merges alone": (
        lambda: changed(of_bytes("tekken", **TRAINING), model={"ignore_merges": False}),
        "tekken",
    ),
    "with a token at the begin": (
        lambda: of_bytes("llama-bpe", begins=True, **TRAINING),
        "llama-bpe",
    ),
    "Llama": (lambda: of_marks("Llama"), "default"),
    "Llama, prepended": (lambda: changed(of_marks("Llama"), **PREPENDED), "default"),
    "Llama without a space in front": (
        lambda: of_marks("Llama", add_prefix_space=False),
        "default",
    ),
    "Gemma": (lambda: of_marks("Gemma"), "default"),
}


@pytest.mark.parametrize(("make", "name"), EXPRESSIBLE.values(), ids=EXPRESSIBLE)
def test_llama_cpp_makes_the_same_tokens(make: Callable[[], Any], name: str) -> None:
    pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")
    tokenizer = make()
    vocabulary = vocabulary_of(tokenizer, SIZE, "gguf")
    assert vocabulary.pre == name
    unlike = compare_tokens(fields_of(vocabulary), "llama", tokenizer)
    # Marks of vowels are no parts of words to llama.cpp with these rules.
    if name in ("tekken", "gpt-4o"):
        assert unlike is not None
        assert "हिन्दी" in unlike.shown
    else:
        assert unlike is None


def test_other_tokens_of_plain_text_are_refused() -> None:
    pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")
    tokenizer = of_bytes("smollm")
    vocabulary = vocabulary_of(of_bytes("gpt-2"), SIZE, "gguf")
    with pytest.raises(InputError, match=r"different tokens of .*: \['.*'\] and \['.*'\]"):
        compare_tokens(fields_of(vocabulary), "llama", tokenizer)


def test_tokens_that_text_has_as_they_are_are_told_from_special_ones() -> None:
    tokenizer = of_bytes("llama-bpe")
    vocabulary = vocabulary_of(tokenizer, SIZE, "gguf")
    kinds = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    names = {int(kind): kind.name for kind in gguf.TokenType}
    assert {token: names[kinds[token]] for token in ("<|begin|>", "<|tool|>", "<think>", "a")} == {
        "<|begin|>": "CONTROL",
        "<|tool|>": "USER_DEFINED",
        "<think>": "USER_DEFINED",
        "a": "NORMAL",
    }
    assert vocabulary.tokens[-1] == f"[PAD{SIZE - 1}]"
    assert names[vocabulary.types[-1]] == "UNUSED"


def test_an_added_token_without_an_embedding_is_left_out() -> None:
    tokenizer = of_bytes("llama-bpe")
    size = len(tokenizer)
    tokenizer.add_tokens([AddedToken("<image>")])
    assert len(vocabulary_of(tokenizer, size, "gguf").tokens) == size


def test_chat_templates_are_kept_by_their_names() -> None:
    tokenizer = of_bytes("llama-bpe")
    tokenizer.chat_template = {"default": "plain", "tool-use": "tools"}
    writer = gguf.GGUFWriter(None, "llama")
    vocabulary_of(tokenizer, SIZE, "gguf").add_to(writer)
    (fields,) = writer.kv_data
    assert fields["tokenizer.chat_template"].value == "plain"
    assert fields["tokenizer.chat_template.tool_use"].value == "tools"
    assert fields["tokenizer.chat_templates"].value == ["tool_use"]


def bytes_with(**rules: Any) -> Callable[[], Any]:
    return lambda: changed(of_bytes("gpt-2"), **rules)


def marks_with(**rules: Any) -> Callable[[], Any]:
    return lambda: changed(of_marks("Llama"), **rules)


def of_characters() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin|>")


def with_a_closing_token_of_its_own() -> Any:
    tokenizer = of_bytes("gpt-2")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|tool|>", special_tokens=[("<|tool|>", len(tokenizer) - 2)]
    )
    return tokenizer


REFUSED = {
    "words": (small_tokenizer, "its pieces are WordLevel, not BPE"),
    "lower case": (of_characters, "it normalizes text by Lowercase"),
    "a space in front": (
        bytes_with(
            pre_tokenizer={
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            }
        ),
        "not of bytes without a space in front",
    ),
    "another expression": (
        bytes_with(
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [
                    {
                        "type": "Split",
                        "pattern": {"Regex": "[a-z]+"},
                        "behavior": "Isolated",
                        "invert": False,
                    },
                    {
                        "type": "ByteLevel",
                        "add_prefix_space": False,
                        "trim_offsets": True,
                        "use_regex": False,
                    },
                ],
            }
        ),
        r"not known to cut text by '\[a-z\]\+'",
    ),
    "words first": (bytes_with(model={"ignore_merges": True}), "the rules of GPT-2"),
    "marked pieces": (
        bytes_with(model={"continuing_subword_prefix": "##", "merges": []}),
        "within words have",
    ),
    "no bytes": (bytes_with(model={"byte_fallback": True}), "no token <0x00> for a byte"),
    "marks that are cut": (
        marks_with(
            pre_tokenizer={
                "type": "Metaspace",
                "replacement": "▁",
                "prepend_scheme": "first",
                "split": True,
            }
        ),
        "cuts text by Metaspace",
    ),
    "spaces stay": (marks_with(pre_tokenizer=None), "its spaces do not become marks"),
    "stripped": (
        marks_with(normalizer={"type": "Strip", "strip_left": True, "strip_right": True}),
        "it normalizes text by Strip",
    ),
    "a token at the end": (with_a_closing_token_of_its_own, "puts more around a text"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_llama_cpp_has_no_rules_for_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"cannot be expressed .*{message}.*convert_hf_to_gguf"):
        vocabulary_of(make(), SIZE, "gguf")


def test_merges_that_no_scores_order_are_refused() -> None:
    tokenizer = of_marks("Llama")
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    made = ["".join(pair) for pair in merges]
    moved = next(pair for pair, piece in zip(merges, made, strict=True) if made.count(piece) > 1)
    merges = [*(pair for pair in merges if pair != moved), moved]
    with pytest.raises(InputError, match="come at several places"):
        vocabulary_of(changed(tokenizer, model={"merges": merges}), SIZE, "gguf")
