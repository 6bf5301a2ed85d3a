"""What ``qsearch check --format compressed-tensors`` refuses, and what it tells."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from qsearch_coalora.export.formats import CompressedTensorsExporter
from qsearch_coalora.models.loading import CAUSAL, load_shape
from qsearch_quantizers.compressed_tensors.quantizer import CompressedTensors
from qsearch_quantizers.integer.quantizer import Integer

from qsearch.errors import InputError
from qsearch.models.discovery import matching_layers
from qsearch.plugins.components import space_of
from qsearch.spec.sections import ModelSpec, SpaceSpec


def checked(
    folder: Path,
    quantizer: Any,
    *,
    tied: bool = True,
    patterns: tuple[str, ...] = ("*",),
    embeddings: bool = False,
    fixed: Any = None,
) -> list[str]:
    """The notes on the space of a quantizer over a model's layers."""
    model = ModelSpec(name=str(folder), layers=patterns)
    shape, _ = load_shape(model, CAUSAL if embeddings else None)
    layers = matching_layers(shape.layers, patterns) + shape.tables
    space = space_of(
        quantizer, layers, SpaceSpec(tied="fused" if tied else "none", fixed=fixed or {})
    )
    return CompressedTensorsExporter().require_space(model, quantizer, space)


def integers(**options: object) -> Integer:
    return Integer(Integer.Options(group_size=(32,), **options))


def schemes(*names: str) -> CompressedTensors:
    return CompressedTensors(CompressedTensors.Options(scheme=names))


def test_what_engines_load_passes(tied_llama_folder: Path) -> None:
    assert checked(tied_llama_folder, schemes("W4A16-g32", "W4A16-channel")) == [
        "vLLM 0.32 has no kernel on CPUs for 4 bits"  # Keys of 16 features.
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"tied": False},
            r"fuse 'layers\.0\.self_attn\.q_proj', '.*k_proj', '.*v_proj', and so in 3 more places,"
            r" .* search with space\.tied: fused",
        ),
        (
            {"patterns": ("*q_proj", "*k_proj", "*down_proj")},
            r"fuse .*; have model\.layers name 'layers\.0\.self_attn\.v_proj' too, or none of them",
        ),
    ],
    ids=["not tied", "partly quantized"],
)
def test_layers_that_engines_fuse_must_be_alike(
    tied_llama_folder: Path, options: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        checked(tied_llama_folder, integers(bits=(4, 8)), **options)


def test_fused_layers_that_are_all_left_out_pass(tied_llama_folder: Path) -> None:
    notes = checked(tied_llama_folder, integers(bits=(4, 8)), patterns=("*o_proj",), tied=False)
    assert notes == ["vLLM 0.32 has no kernel on CPUs for 8 bits"]


def test_groups_that_do_not_divide_rows_are_refused_with_the_layers(llama_folder: Path) -> None:
    names = r"layers 'layers\.0\.mlp\.down_proj', 'layers\.1\.mlp\.down_proj': each"
    with pytest.raises(InputError, match=names + " has 48 input features, which groups of 32 do"):
        checked(llama_folder, integers(bits=(4, 8)))


def test_zero_points_that_do_not_fill_words_are_refused(llama_folder: Path) -> None:
    with pytest.raises(InputError, match=r"k_proj', .*: each has 16 output features, whose zero"):
        checked(llama_folder, schemes("W3A16-channel-asym", "W8A16-channel"))


@pytest.mark.parametrize(
    ("tied", "names", "message"),
    [
        (True, ("W4A16-channel",), "'embed_tokens' is an embedding without an output head"),
        (False, ("W4A16-channel-asym",), r"not of 4 bits, asymmetric, with one scale a row"),
        (False, ("W3A16-channel",), r"not of 3 bits"),
        (False, ("FP8",), r"not of 8 bits, floating point"),
    ],
)
def test_embeddings_that_engines_do_not_look_up_are_refused(
    llama_folder: Path,
    tied_llama_folder: Path,
    tied: bool,
    names: tuple[str, ...],
    message: str,
) -> None:
    folder = tied_llama_folder if tied else llama_folder
    with pytest.raises(InputError, match=message):
        checked(folder, schemes("W8A16-channel", *names), embeddings=True)


def test_pinned_layers_have_their_own_scheme_alone(llama_folder: Path) -> None:
    names = ("W8A16-channel", "W3A16-channel")
    fixed = {"embed_tokens": {"scheme": "W8A16-channel"}}
    assert checked(llama_folder, schemes(*names), embeddings=True, fixed=fixed)
    fixed = {"embed_tokens": {"scheme": "W3A16-channel"}}
    with pytest.raises(InputError, match=r"'embed_tokens' is an embedding, .* not of 3 bits"):
        checked(llama_folder, schemes(*names), embeddings=True, fixed=fixed)


ONE, OTHER = {"scheme": "W8A16-channel"}, {"scheme": "W4A16-channel"}


@pytest.mark.parametrize(
    ("fixed", "patterns", "remedy"),
    [
        ({"*q_proj": OTHER, "*[kv]_proj": ONE}, ("*",), "pin them together by space.fixed, and al"),
        ({"*q_proj": ONE}, ("*",), "pin them together by space.fixed, and alike"),
        ({"*q_proj": ONE}, ("*q_proj", "*o_proj"), "name 'layers.0.self_attn.k_proj', 'layers."),
        ({"*[qkv]_proj": ONE}, ("*",), None),
    ],
    ids=["differently", "one of them", "others in float", "alike"],
)
def test_layers_that_engines_fuse_may_be_pinned_alike(
    llama_folder: Path, fixed: Any, patterns: tuple[str, ...], remedy: str | None
) -> None:
    quantizer, pinned = schemes("W8A16-channel", "W4A16-channel"), {**fixed, "*mlp*": ONE}
    pinned = pinned if patterns == ("*",) else fixed
    expected = nullcontext() if remedy is None else pytest.raises(InputError, match=remedy)
    with expected:
        checked(llama_folder, quantizer, tied=False, patterns=patterns, fixed=pinned)


def test_embeddings_with_a_head_of_their_own_pass(llama_folder: Path) -> None:
    assert checked(llama_folder, schemes("W8A16-channel", "W4A16-channel"), embeddings=True)
