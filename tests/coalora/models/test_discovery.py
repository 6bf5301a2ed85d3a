from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import transformers

from qsearch.errors import InputError
from qsearch.models.discovery import discover_layers, full_layer_names
from tests.coalora.conftest import head_of, headed_class, small_config

ENCODER_ROLES = {"query", "key", "value", "attention_output", "intermediate", "output"}
DECODER_ROLES = {"query", "key", "value", "attention_output", "gate", "up", "down"}


def empty(kind: str, model_class: Any = None) -> torch.nn.Module:
    """A model on the meta device, headless without a class."""
    with torch.device("meta"):
        return (model_class or getattr(transformers, f"{kind}Model"))(small_config(kind))


@pytest.mark.parametrize(
    "kind", ["Bert", "Roberta", "MPNet", "Llama", "Qwen2", "Qwen3", "Mistral", "Gemma3Text"]
)
def test_known_architectures_have_each_role_once_in_each_block(kind: str) -> None:
    layers = discover_layers(empty(kind, headed_class(kind)))
    assert Counter((layer.block, layer.role) for layer in layers) == Counter(
        (block, role)
        for block in range(2)
        for role in (DECODER_ROLES if head_of(kind) == "CausalLM" else ENCODER_ROLES)
    )


def test_names_are_the_same_with_and_without_a_task_head() -> None:
    headed, headless = empty("Bert", headed_class("Bert")), empty("Bert")
    layers = discover_layers(headed)
    assert layers == discover_layers(headless)
    assert full_layer_names(headed, layers)[0] == "bert.encoder.layer.0.attention.self.query"
    shapes = {layer.role: layer.shape for layer in layers}  # Output by input features.
    assert (shapes["intermediate"], shapes["output"]) == ((64, 32), (32, 64))


def test_an_unknown_architecture_uses_paths_within_the_block_as_roles() -> None:
    layers = discover_layers(empty("DistilBert"))
    assert {layer.block for layer in layers} == {0, 1}
    assert "attention.q_lin" in {layer.role for layer in layers}
    assert len({layer.role for layer in layers}) == 6


def test_patterns_keep_only_matching_layers() -> None:
    layers = discover_layers(empty("Bert"), ["*.query", "*.value"])
    assert {layer.role for layer in layers} == {"query", "value"}
    with pytest.raises(InputError, match=r"q_proj.*encoder\.layer\.0\.attention"):
        discover_layers(empty("Bert"), ["*.q_proj"])


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(InputError, match="no linear layers inside"):
        discover_layers(torch.nn.Linear(2, 2))
