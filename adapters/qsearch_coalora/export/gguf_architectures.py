"""Models of transformers in the words of GGUF files: what llama.cpp computes as they do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from qsearch.errors import InputError

ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp computes with an architecture.

    Args:
        name: llama.cpp's name of it.
        activation: Of its feed-forward layers.
        interleaved: Whether it rotates neighbouring features of queries and keys, not those of the
            two halves of a head, so that rows are in another order.
        norm_offset: What it does not add to the weights of norms, but transformers does.
        period: Which layer of how many attends to all tokens, where a file does not say it, and
            others to a window; 0 if there are no windows.
        wide_layers: With how many layers it scales attention by the model's width.
        frequencies: Whether it takes factors of the rotary embedding as a tensor.
        tied: Whether it has no head but the embedding.
        capped: Whether it caps the scores of attention.
        unrotated: Which layer of how many is not rotated; 0 if all are.
        scales: Fields of transformers, by what the writer of the package gguf calls them.
    """

    name: str
    activation: str = "silu"
    interleaved: bool = False
    norm_offset: float = 0.0
    period: int = 0
    wide_layers: int = 0
    frequencies: bool = False
    tied: bool = False
    capped: bool = False
    unrotated: int = 0
    scales: Mapping[str, str] = field(default_factory=dict)

    def row_order(self, path: str, rows: int, config: Any) -> Tensor:
        """Return the row of transformers' weight that is each row of the file's."""
        order = torch.arange(rows)
        projection = path.rpartition(".")[2]
        heads = {
            "q_proj": config.num_attention_heads,
            "k_proj": config.num_key_value_heads,
        }
        if not self.interleaved or projection not in heads:
            return order
        return order.view(heads[projection], 2, -1).transpose(1, 2).reshape(-1)


_GELU = "gelu_pytorch_tanh"
_MULTIPLIERS = {
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "attention_scale": "attention_multiplier",
    "logit_scale": "logits_scaling",
}

_ARCHITECTURES = {
    "llama": Architecture("llama", interleaved=True, frequencies=True),
    "mistral": Architecture("llama", interleaved=True, frequencies=True),
    "granite": Architecture("granite", interleaved=True, scales=_MULTIPLIERS),
    "smollm3": Architecture("smollm3", interleaved=True, unrotated=4),
    "olmo2": Architecture("olmo2"),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma": Architecture("gemma", _GELU, norm_offset=1.0, tied=True),
    "gemma2": Architecture(
        "gemma2", _GELU, norm_offset=1.0, period=2, wide_layers=46, tied=True, capped=True
    ),
    "gemma3_text": Architecture("gemma3", _GELU, norm_offset=1.0, period=6, wide_layers=62),
}
"""By the model types of transformers."""

_USUAL_ROPE = {
    "partial_rotary_factor": 1,
    "attention_factor": None,
    "mscale": None,
    "mscale_all_dim": None,
    "truncate": True,
}
"""Fields of a rotary embedding that llama.cpp computes with these values alone."""


def architecture_of(config: Any, format: str) -> Architecture:
    """Return how llama.cpp computes with a model's configuration.

    Raises:
        InputError: If it is not known to compute the same.
    """
    kind = config.model_type
    architecture = _ARCHITECTURES.get(kind)
    if architecture is None:
        raise InputError(
            f"--format {format}: models of type {kind!r} are not among those that qsearch writes as"
            f" GGUF: {', '.join(_ARCHITECTURES)}; make a GGUF file with llama.cpp's"
            " convert_hf_to_gguf.py and search on it"
        )
    problem = _problem(architecture, config)
    if problem is not None:
        raise InputError(f"--format {format}: llama.cpp computes no {kind} with {problem}")
    return architecture


def _problem(architecture: Architecture, config: Any) -> str | None:
    """Return what of a configuration llama.cpp computes otherwise, if there is something."""
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation != architecture.activation:
        return f"the activation {activation!r}"
    for layers_of, rope in _ropes(config).items():
        kinds = {"default"}
        if layers_of != "sliding_attention":
            kinds |= {"linear", "yarn", *(["llama3"] if architecture.frequencies else [])}
        if rope["rope_type"] not in kinds:
            return f"the rotary embedding {rope['rope_type']!r} ({layers_of})"
        for name, usual in _USUAL_ROPE.items():
            if rope.get(name, usual) not in (usual, None):
                return f"{name} {rope[name]} of the rotary embedding"
    if architecture.tied and not config.tie_word_embeddings:
        return "an output head of its own"
    if not architecture.capped and getattr(config, "attn_logit_softcapping", None):
        return f"attn_logit_softcapping {config.attn_logit_softcapping}"
    if getattr(config, "use_bidirectional_attention", False):
        return "use_bidirectional_attention"
    layers, rotated = config.num_hidden_layers, getattr(config, "no_rope_layers", None)
    if rotated is not None and list(map(bool, rotated)) != _periodic(
        architecture.unrotated, layers
    ):
        return f"no_rope_layers {list(rotated)}"
    scalar = getattr(config, "query_pre_attn_scalar", None)
    if scalar is not None:
        wide = layers == architecture.wide_layers
        expected = config.hidden_size // config.num_attention_heads if wide else config.head_dim
        if scalar != expected:
            return f"query_pre_attn_scalar {scalar}, only with {expected}"
    if architecture.period and _sliding(config) != _periodic(_period(architecture, config), layers):
        return "layer_types in this order"
    return None


def _ropes(config: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return the parameters of the rotary embeddings, by the type of layers that have them."""
    parameters: Mapping[str, Any] = config.rope_parameters
    if "full_attention" in parameters or "sliding_attention" in parameters:
        return parameters
    return {"full_attention": parameters}


def _sliding(config: Any) -> list[bool]:
    """Return which layers attend to a window."""
    types = getattr(config, "layer_types", None) or ()
    if types:
        return [kind == "sliding_attention" for kind in types]
    window = getattr(config, "sliding_window", None) is not None
    return [window] * config.num_hidden_layers


def _period(architecture: Architecture, config: Any) -> int:
    """Return which layer of how many attends to all tokens."""
    sliding = _sliding(config)
    return sliding.index(False) + 1 if False in sliding else architecture.period


def _periodic(period: int, layers: int) -> list[bool]:
    """Return False for one layer of so many, the last; True for all if there are no such."""
    return [not period or layer % period < period - 1 for layer in range(layers)]


def add_hyperparameters(architecture: Architecture, config: Any, writer: Any) -> None:
    """Describe a model to a writer of the package gguf."""
    sliding = _sliding(config)
    context = config.max_position_embeddings
    if any(sliding) and not architecture.period:
        # It attends to all tokens, which is the same up to there.
        context = min(context, config.sliding_window)
    width, heads = config.hidden_size, config.num_attention_heads
    head = getattr(config, "head_dim", None) or width // heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head)
    ropes = _ropes(config)
    _add_rope(ropes["full_attention"], writer)
    if architecture.period and any(sliding):
        writer.add_sliding_window(config.sliding_window)
        if "sliding_attention" in ropes:
            writer.add_rope_freq_base_swa(ropes["sliding_attention"]["rope_theta"])
        if _period(architecture, config) != architecture.period:
            writer.add_sliding_window_pattern(_period(architecture, config))
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(config, cap, None):
            getattr(writer, f"add_{cap}")(getattr(config, cap))
    for name, own in architecture.scales.items():
        getattr(writer, f"add_{name}")(getattr(config, own))


def _add_rope(rope: Mapping[str, Any], writer: Any) -> None:
    from gguf import RopeScalingType

    writer.add_rope_freq_base(rope["rope_theta"])
    kinds = {"linear": RopeScalingType.LINEAR, "yarn": RopeScalingType.YARN}
    if rope["rope_type"] not in kinds:
        return
    writer.add_rope_scaling_type(kinds[rope["rope_type"]])
    writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        for name in ("beta_fast", "beta_slow"):
            if rope.get(name) is not None:
                getattr(writer, f"add_rope_scaling_yarn_{name}")(rope[name])


def rope_factors(config: Any) -> dict[str, Tensor]:
    """Return by how much the frequencies of a rotary embedding are divided, if not all alike."""
    rope = _ropes(config)["full_attention"]
    if rope["rope_type"] != "llama3":
        return {}
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    head = 2 * len(scaled)
    plain = rope["rope_theta"] ** -(torch.arange(0, head, 2, dtype=torch.float32) / head)
    return {ROPE_FACTORS: plain / scaled}
