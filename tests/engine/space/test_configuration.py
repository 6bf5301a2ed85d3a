"""Knobs, layer configurations and configurations."""

from __future__ import annotations

import contextlib
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.errors import InputError
from qsearch.space.configuration import Choices, Configuration, Knob, LayerConfiguration

VALUES = st.one_of(st.integers(0, 64), st.text("abcdefgh", min_size=1, max_size=3))
KNOBS = st.builds(
    Knob,
    st.text("abcdefgh", min_size=1, max_size=6),
    st.lists(VALUES, min_size=1, max_size=4, unique=True).map(tuple),
)
CHOICES = st.lists(KNOBS, min_size=1, max_size=4, unique_by=lambda knob: knob.name).map(
    lambda knobs: Choices(tuple(knobs))
)


@given(CHOICES, st.data())
def test_choice_index_round_trip(choices: Choices, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, choices.size - 1))
    assert choices.index(choices.layer_configuration(index)) == index


@given(CHOICES)
def test_layer_configurations_are_the_product_of_the_knobs(choices: Choices) -> None:
    # The last knob varies fastest.
    expected = itertools.product(*(knob.values for knob in choices.knobs))
    assert [tuple(c.values()) for c in choices.layer_configurations] == list(expected)


@pytest.mark.parametrize(
    ("values", "said"), [((), "has no values"), ((2, 3, 2), "lists a value twice")]
)
def test_knob_refuses_values(values: tuple[int, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Knob("bits", values)


@pytest.mark.parametrize("value", [5, "2", 2.0, True, None])
def test_unknown_knob_value_names_knob_value_and_what_is_allowed(value: object) -> None:
    with pytest.raises(InputError) as caught:
        Knob("bits", (1, 2, 3)).index(value)
    assert "'bits'" in str(caught.value)
    assert repr(value) in str(caught.value)
    assert "[1, 2, 3]" in str(caught.value)


@pytest.mark.parametrize("knobs", [(), (Knob("a", (1,)), Knob("a", (2,)))])
def test_choices_need_distinct_knobs(knobs: tuple[Knob, ...]) -> None:
    with pytest.raises(InputError, match="distinct names"):
        Choices(knobs)


@pytest.mark.parametrize("values", [{"bits": 2}, {"bits": 2, "size": 1, "more": 1}])
def test_missing_and_unknown_knobs_are_refused(values: dict[str, int]) -> None:
    choices = Choices((Knob("bits", (2, 3)), Knob("size", (1,))))
    with pytest.raises(InputError, match="the quantizer has"):
        choices.index(values)


def test_layer_configurations_with_equal_items_are_equal_and_hash_alike() -> None:
    one, other = LayerConfiguration({"a": 1, "b": "x"}), LayerConfiguration({"b": "x", "a": 1})
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other, LayerConfiguration({"a": 2, "b": "x"})}) == 2


def test_knobs_are_read_with_their_type() -> None:
    layer = LayerConfiguration({"bits": 2, "dtype": "float16"})
    assert layer.integer("bits") == 2
    assert layer.text("dtype") == "float16"
    with pytest.raises(InputError, match="must be an integer, not 'float16'"):
        layer.integer("dtype")
    with pytest.raises(InputError, match="must be a string, not None"):
        layer.text("absent")


@given(st.dictionaries(st.text(max_size=5), st.dictionaries(st.text(max_size=5), VALUES)))
def test_json_round_trip(layers: dict[str, dict[str, int | str]]) -> None:
    configuration = Configuration({k: LayerConfiguration(v) for k, v in layers.items()})
    again = Configuration.from_json(configuration.to_json())
    assert again == configuration
    assert hash(again) == hash(configuration)
    assert list(again) == list(configuration)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(st.one_of(st.text(), JSON.map(json.dumps)))
def test_other_text_gives_a_configuration_or_an_input_error(text: str) -> None:
    with contextlib.suppress(InputError):
        assert isinstance(Configuration.from_json(text), Configuration)
