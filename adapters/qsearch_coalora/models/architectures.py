"""Shapes of the most used architectures, from their ``config.json`` alone.

Importing the model classes of transformers takes seconds, so these few are written down, and tests
compare them with what transformers builds. A configuration that is out of the ordinary is left to
transformers, which builds it or says what is wrong with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from qsearch.models.discovery import ROLES
from qsearch.space.layers import EMBEDDING, HEAD, LayerSpec

_EMBEDDINGS = {
    "bert": "embeddings.word_embeddings",
    "roberta": "embeddings.word_embeddings",
    "mpnet": "embeddings.word_embeddings",
    "gemma3_text": "embed_tokens",
    "llama": "embed_tokens",
    "mistral": "embed_tokens",
    "qwen2": "embed_tokens",
    "qwen3": "embed_tokens",
}
"""Path of the token embedding by model type."""

_TIED = {"gemma3_text": True, "llama": False, "mistral": False, "qwen2": False, "qwen3": False}
"""Whether the head of a causal language model is tied where its configuration does not say it."""


@dataclass(frozen=True)
class ModelShape:
    """What is known of a headless model without its weights.

    Args:
        layers: Its quantizable layers, in module order.
        parameters: How many it has.
        embedded: How many of them are in embeddings.
        positions: Most tokens that it can read at once, or None if it does not say.
        tables: Its embedding and output head, where they are asked for.
    """

    layers: tuple[LayerSpec, ...]
    parameters: int
    embedded: int
    positions: int | None
    tables: tuple[LayerSpec, ...] = ()


_Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"]


class _Config(BaseModel):
    """The fields of a ``config.json`` that shapes follow from; a size must be given."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    vocab_size: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    max_position_embeddings: PositiveInt
    # What would change the model, and is left to transformers.
    auto_map: None = None
    quantization_config: None = None
    pruned_heads: dict[str, Any] = Field(default_factory=dict, max_length=0)
    chunk_size_feed_forward: Literal[0] = 0

    def shape(self) -> ModelShape | None:
        """Return the shape; None where transformers would refuse the sizes."""
        raise NotImplementedError


class _Encoder(_Config):
    """What BERT, RoBERTa and MPNet have in common."""

    hidden_act: _Activation
    layer_norm_eps: float
    hidden_dropout_prob: float = Field(ge=0, le=1)
    attention_probs_dropout_prob: float = Field(ge=0, le=1)

    def _of_blocks(self, attention: Sequence[str], embedded: int, positions: int) -> ModelShape:
        """Return the shape with square layers of attention, by their paths in a block."""
        width, inner = self.hidden_size, self.intermediate_size
        linear = {
            **dict.fromkeys(attention, (width, width)),
            "intermediate.dense": (inner, width),
            "output.dense": (width, inner),
        }
        biases = sum(rows for rows, _ in linear.values())
        # A norm has a factor and a bias: one of the embeddings, two in each block; then the pooler.
        rest = 2 * width + self.num_hidden_layers * (biases + 4 * width) + width * width + width
        layers = _in_blocks("encoder.layer", self.num_hidden_layers, linear)
        return _with_parameters(layers, embedded, rest, positions)


class _Bert(_Encoder):
    """BERT and RoBERTa."""

    model_type: Literal["bert", "roberta"]
    type_vocab_size: PositiveInt
    pad_token_id: NonNegativeInt
    is_decoder: Literal[False] = False
    add_cross_attention: Literal[False] = False

    def shape(self) -> ModelShape | None:
        width, positions = self.hidden_size, self.max_position_embeddings
        if width % self.num_attention_heads or self.pad_token_id >= min(self.vocab_size, positions):
            return None
        attention = ("self.query", "self.key", "self.value", "output.dense")
        return self._of_blocks(
            [f"attention.{path}" for path in attention],
            (self.vocab_size + positions + self.type_vocab_size) * width,
            positions - (self.pad_token_id + 1) * (self.model_type == "roberta"),
        )


class _MPNet(_Encoder):
    """MPNet: its blocks share a bias of attention for each distance, an embedding by heads."""

    model_type: Literal["mpnet"]
    relative_attention_num_buckets: PositiveInt
    # The model's padding is position 1, whatever the configuration says.
    pad_token_id: Literal[1] = 1

    def shape(self) -> ModelShape | None:
        width, positions = self.hidden_size, self.max_position_embeddings
        if width % self.num_attention_heads or min(self.vocab_size, positions) <= 2:
            return None
        distances = self.relative_attention_num_buckets * self.num_attention_heads
        return self._of_blocks(
            [f"attention.attn.{path}" for path in "qkvo"],
            (self.vocab_size + positions) * width + distances,
            positions - 2,
        )


class _Rope(BaseModel):
    """Plain rotary position embeddings."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    rope_type: Literal["default"]
    rope_theta: float


class _Decoder(_Config):
    """What Llama and its kin have in common with Gemma 3."""

    num_key_value_heads: PositiveInt
    rms_norm_eps: float
    pad_token_id: NonNegativeInt | None = None
    attention_bias: Literal[False] = False
    rope_theta: float | None = None
    rope_scaling: None = None
    layer_types: Sequence[str] | None = None

    def _of_heads(self, head: int, of_block: int) -> ModelShape | None:
        """Return the shape with heads of some size, and so many other parameters in a block."""
        width, inner, heads = self.hidden_size, self.intermediate_size, self.num_attention_heads
        if (
            width % heads
            or heads % self.num_key_value_heads
            or len(self.layer_types or range(self.num_hidden_layers)) != self.num_hidden_layers
            or (self.pad_token_id or 0) >= self.vocab_size
        ):
            return None
        queries, keys = heads * head, self.num_key_value_heads * head
        linear = {
            "self_attn.q_proj": (queries, width),
            "self_attn.k_proj": (keys, width),
            "self_attn.v_proj": (keys, width),
            "self_attn.o_proj": (width, queries),
            "mlp.gate_proj": (inner, width),
            "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner),
        }
        layers = _in_blocks("layers", self.num_hidden_layers, linear)
        rest = self.num_hidden_layers * of_block + width
        return _with_parameters(layers, self.vocab_size * width, rest, self.max_position_embeddings)


class _Llama(_Decoder):
    """Llama, Mistral, Qwen2 and Qwen3."""

    model_type: Literal["llama", "mistral", "qwen2", "qwen3"]
    hidden_act: _Activation
    head_dim: PositiveInt | None = None
    mlp_bias: Literal[False] = False
    rope_parameters: _Rope | None = None
    layer_types: list[Literal["full_attention"]] | None = None
    use_sliding_window: Literal[False] = False

    def shape(self) -> ModelShape | None:
        head = self.head_dim
        if head is None and self.model_type != "qwen3":
            head = self.hidden_size // self.num_attention_heads
        if head is None:
            return None
        of_block = 2 * self.hidden_size  # Two norms.
        if self.model_type == "qwen2":
            of_block += (self.num_attention_heads + 2 * self.num_key_value_heads) * head
        if self.model_type == "qwen3":
            of_block += 2 * head
        return self._of_heads(head, of_block)


class _Gemma3(_Decoder):
    """The text models of Gemma 3: sliding windows in most blocks, norms of queries and keys."""

    model_type: Literal["gemma3_text"]
    hidden_activation: _Activation
    head_dim: PositiveInt
    rope_parameters: dict[Literal["full_attention", "sliding_attention"], _Rope] | None = None
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None
    use_bidirectional_attention: Literal[False] = False

    def shape(self) -> ModelShape | None:
        return self._of_heads(self.head_dim, 4 * self.hidden_size + 2 * self.head_dim)


def known_shape(folder: Path) -> ModelShape | None:
    """Return the shape of the model in a folder, if it is of a known architecture."""
    fields = _fields(folder)
    for architecture in (_Bert, _MPNet, _Llama, _Gemma3):
        try:
            return architecture.model_validate(fields).shape()
        except ValidationError:
            continue
    return None


def known_tables(folder: Path, has_output_head: bool) -> tuple[LayerSpec, ...] | None:
    """Return the tables of a model of a known architecture, named as discover_tables does.

    The output head is that of its causal language model.
    """
    fields = _fields(folder)
    if known_shape(folder) is None or fields["model_type"] not in _EMBEDDINGS:
        return None
    shape = (fields["vocab_size"], fields["hidden_size"])
    tables = [LayerSpec(_EMBEDDINGS[fields["model_type"]], EMBEDDING, 0, shape)]
    if has_output_head:
        tied = fields.get("tie_word_embeddings", _TIED.get(fields["model_type"]))
        if fields["model_type"] not in _TIED or not isinstance(tied, bool):
            return None
        if not tied:
            tables.append(LayerSpec("lm_head", HEAD, 0, shape))
    return tuple(tables)


def _fields(folder: Path) -> Any:
    """Return the fields of a ``config.json``; None if there are none."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _in_blocks(
    blocks: str, count: int, linear: Mapping[str, tuple[int, int]]
) -> tuple[LayerSpec, ...]:
    return tuple(
        LayerSpec(f"{blocks}.{block}.{path}", ROLES[path], block, shape)
        for block in range(count)
        for path, shape in linear.items()
    )


def _with_parameters(
    layers: tuple[LayerSpec, ...], embedded: int, rest: int, positions: int
) -> ModelShape:
    parameters = sum(layer.parameters for layer in layers) + embedded + rest
    return ModelShape(layers, parameters, embedded, positions)
