from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.prune import l1_unstructured

import qsearch
from qsearch.errors import InputError
from qsearch.plugins.registry import load_plugin
from tests.engine.api.conftest import OPTIONS


class Block(nn.Module):
    """Two layers of names that transformers do not use."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(32, 64)
        self.second = nn.Linear(64, 32)


class Blocks(nn.Module):
    """A list of blocks with a layer before it and one behind."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(32, 8)


def names(space: qsearch.Space) -> list[str]:
    return [layer.name for layer in space.layers]


def test_layers_are_those_of_blocks() -> None:
    space = qsearch.Space.from_model(Blocks(), "integer", OPTIONS)
    assert names(space) == [
        f"blocks.{block}.{name}" for block in (0, 1) for name in ("first", "second")
    ]
    assert [(layer.block, layer.role) for layer in space.layers[2:]] == [
        (1, "first"),
        (1, "second"),
    ]


def test_layers_are_all_where_there_is_no_block(space: qsearch.Space) -> None:
    assert [(layer.name, layer.block, layer.role) for layer in space.layers] == [
        ("0", 0, "linear"),
        ("2", 2, "linear"),
        ("4", 4, "linear"),
    ]


def test_patterns_name_layers_anywhere() -> None:
    space = qsearch.Space.from_model(Blocks(), "integer", OPTIONS, layers=["head", "*.first"])
    assert names(space) == ["blocks.0.first", "blocks.1.first", "head"]
    assert space.layers[-1].role == "head"


def test_tied_roles_share_a_configuration() -> None:
    space = qsearch.Space.from_model(Blocks(), "integer", OPTIONS, tied=[["first", "second"]])
    configuration = space.sample(seed=3)
    for block in ("blocks.0", "blocks.1"):
        assert configuration[f"{block}.first"] == configuration[f"{block}.second"]


def test_a_quantizer_may_be_an_object(model: nn.Module, space: qsearch.Space) -> None:
    plugin = load_plugin("quantizers", "integer")
    made = qsearch.Space.from_model(model, plugin(plugin.Options(**OPTIONS)))
    assert made.average_bits_range == space.average_bits_range
    kind = "qsearch_quantizers.integer.quantizer.Integer"
    assert made.quantizer_section.options == {**OPTIONS, "python_class": kind}


def test_average_bits_are_those_of_the_weights(space: qsearch.Space) -> None:
    configuration = space.sample(bits=(3.0, 5.0), seed=1)
    stored = [space.quantizer.storage_bits(configuration[layer.name]) for layer in space.layers]
    sizes = [layer.parameters for layer in space.layers]
    expected = sum(b * n for b, n in zip(stored, sizes, strict=True)) / sum(sizes)
    assert space.average_bits(configuration) == pytest.approx(expected, rel=1e-12)
    assert 3.0 <= expected <= 5.0


def test_the_space_keeps_the_weights_that_the_model_had() -> None:
    model = nn.Sequential(nn.Linear(64, 4), nn.Linear(4, 32))
    space = qsearch.Space.from_model(model, "integer", OPTIONS)
    with qsearch.quantized(model, space.sample()):
        error = space.quantization_error
        with pytest.raises(InputError, match="model Sequential has quantized weights already"):
            qsearch.Space.from_model(model, "integer", OPTIONS)
    again = qsearch.Space.from_model(model, "integer", OPTIONS)
    assert (again.quantization_error == error).all()
    assert again.digest() == space.digest()


def test_pinned_layers_are_in_every_configuration(model: nn.Module) -> None:
    pinned = {"bits": 8, "group_size": 32}
    space = qsearch.Space.from_model(model, "integer", OPTIONS, fixed={"0": pinned})
    samples = [space.sample(seed=seed) for seed in range(5)]
    assert all(dict(one["0"]) == pinned for one in samples)
    assert len({one["2"] for one in samples}) > 1
    whole = qsearch.Space.from_model(model, "integer", OPTIONS)
    for one in samples:
        assert space.average_bits(one) == pytest.approx(whole.average_bits(one))


def test_a_weight_that_two_layers_have_counts_once() -> None:
    block = Block()
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    model[1].weight = model[0].weight
    assert names(qsearch.Space.from_model(model, "integer", OPTIONS)) == ["0"]
    repeated = nn.ModuleDict({"blocks": nn.ModuleList([block, block])})
    space = qsearch.Space.from_model(repeated, "integer", OPTIONS)
    assert names(space) == ["blocks.0.first", "blocks.0.second"]


def test_a_weight_that_an_embedding_shares_is_refused() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(64, 32), "head": nn.Linear(32, 64, bias=False)})
    model["head"].weight = model["embed"].weight
    with pytest.raises(InputError, match=r"'head' shares its weight with 'embed'.*take both"):
        qsearch.Space.from_model(model, "integer", OPTIONS)


@pytest.mark.parametrize(
    "computed", [weight_norm, lambda layer: l1_unstructured(layer, "weight", 3)]
)
def test_a_computed_weight_is_refused(computed: Callable[[nn.Linear], object]) -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    computed(model[1])
    with pytest.raises(InputError, match="layer '1' computes its weight, by a parametrization or"):
        qsearch.Space.from_model(model, "integer", OPTIONS)
    assert names(qsearch.Space.from_model(model, "integer", OPTIONS, layers=["0"])) == ["0"]


def test_a_plain_mapping_has_average_bits(space: qsearch.Space) -> None:
    plain = {layer.name: {"bits": 4, "group_size": 32} for layer in space.layers}
    assert space.average_bits(plain) == 4.5


class Words(nn.Module):
    """Blocks between an embedding, next to one of positions, and a head."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.places = nn.Embedding(16, 32)
        self.words = nn.Embedding(40, 32)
        self.blocks = nn.ModuleList([Block()])
        self.head = nn.Linear(32, 40, bias=False)
        if tied:
            self.head.weight = self.words.weight


BLOCK = ["blocks.0.first", "blocks.0.second"]


@pytest.mark.parametrize(
    ("tied", "patterns", "expected"),
    [
        (True, None, ["words", *BLOCK]),
        (False, None, ["words", *BLOCK]),
        (False, ["head", "w*"], ["words", "head"]),
        (True, ["head", "w*"], ["words"]),  # The head is the embedding's weight.
        (False, ["*"], ["places", "words", *BLOCK, "head"]),
    ],
)
def test_embeddings_are_layers_if_wanted(
    tied: bool, patterns: list[str] | None, expected: list[str]
) -> None:
    model = Words(tied)
    space = qsearch.Space.from_model(model, "integer", OPTIONS, layers=patterns, embeddings=True)
    assert names(space) == expected
    roles = {layer.name: layer.role for layer in space.layers}
    assert roles["words"] == "embedding"
    assert space.quantization_error.shape[0] == len(expected)
    before = model.words.weight.clone()
    with qsearch.quantized(model, space.sample()):
        assert not torch.equal(model.words.weight, before)
        assert torch.equal(model.head.weight, model.words.weight) == tied
    assert torch.equal(model.words.weight, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_in_half_precision_have_errors_and_digests(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(64, 32)).to(dtype)
    space = qsearch.Space.from_model(model, "integer", OPTIONS)
    assert (space.quantization_error > 0).all()
    assert len(space.digest()) == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": nn.ReLU()}, r"model ReLU has no linear layers \(torch.nn.Linear\)"),
        ({"model": "minilm"}, "model: give a torch.nn.Module, not str"),
        ({"layers": ["x*"]}, r"layers: \['x\*'\] match none of the model's 3 layers"),
        ({"quantizer": "nope"}, "no quantizer is called 'nope'; installed: .*'integer'"),
        ({"quantizer": 3}, "quantizer: give the name of a plugin or an object .*, not 3"),
        ({"options": {"bits": [5]}}, "quantizer 'integer': options.bits.0: .* 2, 3, 4 or 8, not 5"),
        ({"options": {"rounding": "gptq"}}, "quantizer 'integer' .* needs the inputs"),
        ({"quantizer": "gguf"}, "quantizer 'gguf' .* for gguf give importance: none"),
        ({"options": {"bits": [4], "group_size": [32]}}, "'integer' has one configuration"),
        ({"tied": [["a", "b"]]}, r"tied: no layer has the role 'a'; roles: \['linear'\]"),
        ({"layers": [3]}, r"layers: give shell patterns of module paths, not \[3\]"),
        ({"options": [3]}, r"options: give a mapping of option to value, not \[3\]"),
        ({"name": 5}, "name: give a text, not 5"),
        ({"tied": "all"}, "Space.from_model: tied: .*, not 'all'"),
        ({"embeddings": True}, "model Sequential has no token embedding"),
        ({"embeddings": 3}, "Space.from_model: embeddings: .*, not 3"),
        ({"fixed": {"0": {"bits": 9}}}, r"space\.fixed: '0': layer configuration has knobs"),
        ({"fixed": {"x": {"bits": 8}}}, r"space\.fixed: 'x' matches none of the 3 layers"),
    ],
)
def test_bad_arguments_are_named(
    model: nn.Module, arguments: dict[str, object], message: str
) -> None:
    given = {"model": model, "quantizer": "integer", **arguments}
    with pytest.raises(InputError, match=message):
        qsearch.Space.from_model(**given)  # type: ignore[arg-type]
