"""GGUF files of models that came from no such file, by architecture, run by llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from qsearch_coalora.export.gguf_architectures import architecture_of
from qsearch_coalora.export.gguf_model import ModelOriginal
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.methods.lq_lora import LQLoRATrainer
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_quantizers.gguf.quantizer import GGUF
from qsearch_quantizers.integer.quantizer import Integer
from transformers import AutoConfig, AutoTokenizer

from qsearch.errors import InputError
from qsearch.plugins.components import space_of
from qsearch.space.configuration import Configuration
from qsearch.spec.sections import ModelSpec
from tests.coalora.conftest import small_config
from tests.coalora.export.gguf_converter import FACTS, facts_of
from tests.coalora.export.small_models import CONFIGS, LLAMA3, TEXT, save_model, write_float
from tests.coalora.exported import engine_logits, export, weight_files

gguf = pytest.importorskip("gguf")
pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")

TOKENS = 4096


def tokens_of(path: Path, count: int, words: int) -> torch.Tensor:
    """Random tokens in as many rows of a file's context as it takes."""
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    length = reader.fields[f"{architecture}.context_length"].contents()
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, words, (-(-count // length), length), generator=draw)


def divergence(
    expected: torch.Tensor, path: Path, tokens: torch.Tensor, adapter: Path | None = None
) -> float:
    """Mean KL of llama.cpp's predictions to logits (rows × tokens × words)."""
    rows = [engine_logits(path, row, adapter) for row in tokens.tolist()]
    found, expected = torch.stack(rows).log_softmax(-1), expected.log_softmax(-1)
    return float((expected.exp() * (expected - found)).sum(dim=-1).mean())


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(TEXT * 4))
    return path


METHODS = {
    "adapter": CoALoRATrainer,
    "decomposed": LQLoRATrainer,
    "integers": PTQTrainer,
    "merged": PTQTrainer,
}
STUDIES = [(kind, name) for kind in CONFIGS for name in ("adapter", "merged")]
STUDIES += [("llama", "decomposed"), ("llama", "integers")]


@pytest.fixture(scope="module", params=STUDIES, ids="-".join)
def trainer(
    request: Any, make_trainer: Any, text: Path, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A study of a model with an adapter next to it, or with what was trained merged."""
    kind, method = request.param
    merged = method == "merged"
    options = CausalLanguageModelling.Options(train=text, validation=text, length=32)
    made = make_trainer(
        method=METHODS[method],
        model=save_model(kind, tmp_path_factory.mktemp("models") / kind),
        task=CausalLanguageModelling(options),
        plugin=GGUF(GGUF.Options(types=("Q5_1", "Q8_0")))
        if merged
        else Integer(Integer.Options(bits=(4, 8), group_size=(32,))),
        batch_size=4,
        learning_rate=1e-2,
        embeddings=merged,
    )
    made.train([configuration(made)], 1)
    made.load_state(made.state())
    return made


def configuration(trainer: Any) -> Configuration:
    """Each layer with one of two layer configurations by turns."""
    space = space_of(trainer.study.quantizer, trainer.layers())
    chosen = space.choices.layer_configurations
    return Configuration({one.name: chosen[n % 2] for n, one in enumerate(trainer.layers())})


@torch.no_grad()
def study_logits(trainer: Any, tokens: torch.Tensor) -> torch.Tensor:
    adapted = trainer.study.adapted
    adapted.peft_model.eval()
    place = adapted.use if isinstance(trainer, CoALoRATrainer) else trainer.place
    place(configuration(trainer))
    return adapted.logits({"input_ids": tokens})


def test_llama_cpp_predicts_what_the_study_does(trainer: Any, tmp_path: Path) -> None:
    planned = export(trainer, configuration(trainer), tmp_path / "one", "gguf", "auto")
    assert planned == weight_files(tmp_path / "one")
    model, adapter = (tmp_path / "one" / f"{name}.gguf" for name in ("model", "adapter"))
    tokens = tokens_of(model, TOKENS, len(trainer.study.loaded.tokenizer))
    expected = study_logits(trainer, tokens)
    # What is left is llama.cpp's rounding of the inputs of quantized products to 8 bits.
    assert divergence(expected, model, tokens, adapter if adapter.exists() else None) < 0.005
    assert adapter.exists() != isinstance(trainer, PTQTrainer)
    if adapter.exists():
        assert divergence(expected[:1], model, tokens[:1]) > 0.005  # It does something.
    export(trainer, configuration(trainer), tmp_path / "again", "gguf", "auto")
    for path in (tmp_path / "one").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
YARN = LINEAR | {"rope_type": "yarn", "original_max_position_embeddings": 64}
GLOBAL = {"rope_type": "default", "rope_theta": 1000000.0}
LOCAL = {"rope_type": "default", "rope_theta": 10000.0}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in CONFIGS},
    "Llama, linear": ("llama", {"rope_parameters": LINEAR}),
    "Llama, yarn": ("llama", {"rope_parameters": YARN}),
    "Llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "Llama, wide heads": ("llama", {"head_dim": 32, "tie_word_embeddings": False}),
    "Mistral, no window": ("mistral", {"sliding_window": None}),
    "Qwen 2, yarn": ("qwen2", {"rope_parameters": YARN}),
    "Qwen 2, windows": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
    ),
    "Gemma 3, capped": ("gemma3_text", {"final_logit_softcapping": 5.0}),
    "Gemma 3, linear": (
        "gemma3_text",
        {
            "rope_parameters": {
                "full_attention": GLOBAL | {"rope_type": "linear", "factor": 8.0},
                "sliding_attention": LOCAL,
            }
        },
    ),
    "Gemma": ("gemma", {"head_dim": 32}),
    "Gemma 2": (
        "gemma2",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 24,
            "num_hidden_layers": 4,
            "attn_logit_softcapping": 1.0,
            "final_logit_softcapping": 5.0,
        },
    ),
    "Granite": (
        "granite",
        {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.1,
            "logits_scaling": 2.0,
        },
    ),
    "OLMo 2": ("olmo2", {}),
    "SmolLM 3": ("smollm3", {"num_hidden_layers": 4}),
    "Gemma 3, windows alone": ("gemma3_text", {"layer_types": ["sliding_attention"] * 3}),
}


@pytest.mark.parametrize(("kind", "changes"), VARIANTS.values(), ids=VARIANTS)
def test_llama_cpp_computes_the_same_with_the_weights_as_they_are(
    kind: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "float.gguf"
    module = write_float(save_model(kind, tmp_path / kind, **changes), path)
    tokens = tokens_of(path, 512, 380)
    with torch.no_grad():
        expected = module(tokens).logits
    # A wrong order of rows, window, offset or frequency makes 0.01 and more.
    assert divergence(expected, path, tokens) < 1e-6


MORE = {"tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"}
SIZES = {"attention.key_length", "attention.value_length", "rope.dimension_count", "vocab_size"}
DIFFERENCES = {
    # A token that is added and looks special is not special to transformers.
    "llama": {"tokenizer.ggml.token_type"},
    # The converter's file is not filled up to the embeddings, has one score for all tokens, and
    # attends to more than the window.
    "mistral": {
        "llama.context_length",
        *(f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type")),
        "tokenizer.ggml.add_space_prefix",
    },
    "gemma3_text": {
        "gemma3.attention.sliding_window_pattern",
        "tokenizer.ggml.add_space_prefix",
        *(f"tokenizer.ggml.{name}" for name in ("model", "merges", "scores", "token_type")),
    },
}
"""In which fields of a file the converter differs, other than that it leaves some of these out."""


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_file_is_what_llama_cpps_converter_writes(kind: str, tmp_path: Path) -> None:
    write_float(save_model(kind, tmp_path / kind), tmp_path / "own.gguf", torch.bfloat16)
    own, facts = facts_of(tmp_path / "own.gguf"), json.loads(FACTS.read_text())[kind]
    unlike, lacking = compared(own["fields"], facts["fields"])
    left_out = {name for name in lacking if name in MORE or name.partition(".")[2] in SIZES}
    assert unlike | (lacking - left_out) == DIFFERENCES.get(kind, set())
    unlike, lacking = compared(own["tensors"], facts["tensors"])
    # The factors are rounded otherwise, and of Gemma the converter cuts the table of embeddings.
    known = {"llama": {"rope_freqs.weight"}, "gemma3_text": {"token_embd.weight"}}
    assert unlike <= known.get(kind, set())
    assert not lacking


def compared(one: dict[str, Any], other: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Names that have different values, and those that only one has."""
    unlike = {name for name in one.keys() & other.keys() if one[name] != other[name]}
    return unlike, one.keys() ^ other.keys()


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "activation": ("Llama", {"hidden_act": "gelu"}, "the activation 'gelu'"),
    "rope": (
        "Qwen3",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
        r"the rotary embedding 'dynamic' \(full_attention\)",
    ),
    "factors": (
        "Qwen2",
        {"rope_parameters": LLAMA3},
        "the rotary embedding 'llama3'",
    ),
    "partly rotated": (
        "Llama",
        {"rope_parameters": LOCAL | {"partial_rotary_factor": 0.5}},
        "partial_rotary_factor 0.5",
    ),
    "scale": ("Gemma3Text", {"query_pre_attn_scalar": 100, "head_dim": 16}, "100, only with 16"),
    "both directions": (
        "Gemma3Text",
        {"query_pre_attn_scalar": 16, "head_dim": 16, "use_bidirectional_attention": True},
        "use_bidirectional_attention",
    ),
    "order of windows": (
        "Gemma3Text",
        {
            "query_pre_attn_scalar": 16,
            "head_dim": 16,
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        },
        "layer_types in this order",
    ),
    "head": (
        "Gemma2",
        {"query_pre_attn_scalar": 16, "head_dim": 16, "tie_word_embeddings": False},
        "an output head of its own",
    ),
    "capped": (
        "Gemma3Text",
        {"query_pre_attn_scalar": 16, "head_dim": 16, "attn_logit_softcapping": 5.0},
        "attn_logit_softcapping 5.0",
    ),
    "unrotated": ("SmolLM3", {"no_rope_layers": [1, 0]}, r"no_rope_layers \[1, 0\]"),
    "type": ("Bert", {}, "type 'bert' are not among those .*llama, .*convert_hf_to_gguf"),
}


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_llama_cpp_computes_otherwise_is_refused(
    name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        architecture_of(small_config(name, **changes), "gguf")


def test_the_models_card_is_kept(tmp_path: Path) -> None:
    folder = save_model("qwen2", tmp_path / "small-qwen")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags: [small]\n---\n# Small\n")
    job: Any = SimpleNamespace(
        module=SimpleNamespace(config=AutoConfig.from_pretrained(folder)),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        model=ModelSpec(name=str(folder)),
    )
    writer = gguf.GGUFWriter(None, "qwen2")
    ModelOriginal(job).add_fields(writer)
    (fields,) = writer.kv_data
    assert fields["general.license"].value == "apache-2.0"
    assert fields["general.tags"].value == ["small"]
    (folder / "README.md").write_text("---\n- [unclosed\n---\n")
    with pytest.raises(InputError, match=r"the model's card in .*small-qwen"):
        ModelOriginal(job).add_fields(gguf.GGUFWriter(None, "qwen2"))
