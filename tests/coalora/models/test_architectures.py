"""What is written down of architectures is what transformers builds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from qsearch_coalora.models import loading
from qsearch_coalora.models.architectures import known_shape, known_tables
from qsearch_coalora.models.loading import (
    CAUSAL,
    HEADLESS,
    load_config,
    load_shape,
    skeleton,
)
from qsearch_coalora.models.model_shape import shape_of

from qsearch.models.discovery import discover_tables
from qsearch.spec.sections import ModelSpec
from tests.coalora.conftest import small_config

BERT = {
    "model_type": "bert",
    "vocab_size": 63,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "hidden_act": "gelu",
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0,
    "position_embedding_type": "absolute",
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 63,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 40,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000,
    "rope_scaling": None,
}
MPNET = {
    "model_type": "mpnet",
    "vocab_size": 63,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 42,
    "hidden_act": "gelu",
    "pad_token_id": 1,
    "layer_norm_eps": 1e-5,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "relative_attention_num_buckets": 8,
}
GEMMA = {
    "model_type": "gemma3_text",
    "vocab_size": 63,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 40,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "sliding_window": 16,
    "_sliding_window_pattern": 6,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
}


def written(folder: Path, fields: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize(
    "fields",
    [
        BERT,
        BERT | {"model_type": "roberta", "pad_token_id": 1},
        LLAMA,
        LLAMA | {"head_dim": 16, "pad_token_id": 2, "num_key_value_heads": 1},
        LLAMA | {"model_type": "mistral", "sliding_window": 16},
        LLAMA | {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 16},
        LLAMA | {"model_type": "qwen3", "head_dim": 16},
        MPNET,
        GEMMA,
        GEMMA | {"layer_types": ["sliding_attention", "full_attention", "full_attention"]},
    ],
    ids=lambda fields: fields["model_type"],
)
def test_shapes_are_those_of_the_models(tmp_path: Path, fields: dict[str, Any]) -> None:
    folder = written(tmp_path, fields)
    config, _ = load_config(ModelSpec(name=str(folder)))
    assert known_shape(folder) == shape_of(skeleton(config))
    assert known_tables(folder, False) == discover_tables(skeleton(config))


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [{}, {"tie_word_embeddings": True}])
def test_output_heads_are_those_of_the_models(
    tmp_path: Path, kind: str, tied: dict[str, Any]
) -> None:
    folder = written(tmp_path, LLAMA | {"model_type": kind, "head_dim": 16} | tied)
    config, _ = load_config(ModelSpec(name=str(folder)))
    found = known_tables(folder, True)
    assert found == discover_tables(skeleton(config, None, CAUSAL))
    assert len(found) == 2 - len(tied)


def test_tables_of_an_unknown_architecture_are_those_of_its_model(tmp_path: Path) -> None:
    small_config("Gemma3Text", num_key_value_heads=1, head_dim=16).save_pretrained(tmp_path)
    model = ModelSpec(name=str(tmp_path))
    for auto_class in (CAUSAL, HEADLESS):  # Its head is tied to its embedding.
        shape, _ = load_shape(model, auto_class)
        assert [table.name for table in shape.tables] == ["embed_tokens"]


@pytest.mark.parametrize(
    "kind",
    ["Bert", "Roberta", "MPNet", "Llama", "Mistral", "Qwen2", "Qwen3", "Gemma3Text"],
)
def test_models_that_transformers_saves_are_known(tmp_path: Path, kind: str) -> None:
    config = small_config(kind, num_key_value_heads=1)
    config.save_pretrained(tmp_path)
    assert known_shape(tmp_path) == shape_of(skeleton(config))


@pytest.mark.parametrize(
    "fields",
    [
        BERT | {"model_type": "distilbert"},
        BERT | {"is_decoder": True, "add_cross_attention": True},
        BERT | {"hidden_size": 30},
        BERT | {"hidden_size": "32"},
        BERT | {"hidden_act": "none such"},
        BERT | {"pad_token_id": 63},
        BERT | {"auto_map": {"AutoModel": "own.Model"}},
        BERT | {"quantization_config": {"quant_method": "gptq"}},
        {name: value for name, value in BERT.items() if name != "intermediate_size"},
        LLAMA | {"attention_bias": True},
        LLAMA | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        LLAMA | {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
        LLAMA | {"model_type": "qwen2", "layer_types": ["full_attention"]},
        LLAMA | {"model_type": "qwen3"},
        MPNET | {"pad_token_id": 0},
        MPNET | {"hidden_size": 30},
        GEMMA | {"attention_bias": True},
        GEMMA | {"use_bidirectional_attention": True},
        GEMMA | {"layer_types": ["full_attention"]},
        [],
    ],
)
def test_what_is_out_of_the_ordinary_is_left_to_transformers(tmp_path: Path, fields: Any) -> None:
    assert known_shape(written(tmp_path, fields)) is None
    assert known_tables(tmp_path, False) is None


def test_the_shape_of_an_unknown_architecture_is_that_of_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config("DistilBert")
    config.save_pretrained(tmp_path)
    built = []
    monkeypatch.setattr(
        loading, "skeleton", lambda *arguments: built.append(1) or skeleton(*arguments)
    )
    shape, notes = load_shape(ModelSpec(name=str(tmp_path)))
    assert built
    assert not notes
    assert len(shape.layers) == 2 * 6
