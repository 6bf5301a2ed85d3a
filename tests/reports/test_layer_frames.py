"""How layers are placed in a heatmap, and configurations coded by layer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from qsearch_reports import frames as layer_frames
from qsearch_reports.figures import difference_figure

from qsearch.errors import InputError
from qsearch.space.configuration import Choices, Configuration, Knob, LayerConfiguration
from qsearch.space.layers import LayerSpec


def test_heatmap_places_each_layer_by_role_and_block(record):
    text = str(record.trials["configuration"].iloc[0])
    configuration = Configuration.from_json(text)
    heatmap = layer_frames.heatmap_frame(record.layers, configuration, "block_size")
    assert heatmap.shape == (6, 6)
    for layer in record.layers:
        assert heatmap.loc[layer.role, layer.block] == configuration[layer.name]["block_size"]


def test_heatmap_gives_repeated_roles_their_own_rows_and_leaves_holes_empty():
    layers = [
        LayerSpec("a", "up", 0, (2, 2)),
        LayerSpec("b", "up", 0, (2, 2)),
        LayerSpec("c", "down", 2, (2, 2)),
    ]
    configuration = Configuration({n: LayerConfiguration({"bits": i}) for i, n in enumerate("abc")})
    heatmap = layer_frames.heatmap_frame(layers, configuration, "bits")
    assert heatmap.index.tolist() == ["up", "up 2", "down"]
    assert heatmap.columns.tolist() == [0, 2]
    assert heatmap.to_numpy().tolist() == [[0, None], [1, None], [None, 2]]


def test_heatmap_shows_bits_first_or_else_the_first_knob(record, integer_choices):
    assert layer_frames.default_knob(record.choices) == "bits"
    assert layer_frames.default_knob(integer_choices) == "precision"


def test_choice_indices_give_back_the_configurations(record):
    texts = [str(text) for text in record.trials["configuration"].iloc[:5]]
    indices = layer_frames.choice_indices(record.layers, record.choices, texts)
    for text, row in zip(texts, indices, strict=True):
        configuration = Configuration.from_json(text)
        for layer, index in zip(record.layers, row, strict=True):
            assert record.choices.layer_configuration(int(index)) == configuration[layer.name]


def test_configuration_without_one_of_the_layers_is_refused_by_name(record):
    with pytest.raises(InputError, match=r"encoder\.layer\.0\.query"):
        layer_frames.choice_indices(record.layers, record.choices, ["{}"])


TWO = [LayerSpec("a", "up", 0, (2, 2)), LayerSpec("b", "down", 1, (2, 2))]
KNOBS = Choices((Knob("bits", (2, 4, 8)), Knob("type", ("bf16", "fp16", "fp32"))))


def configuration_of(*layers):
    return Configuration(
        {
            name: LayerConfiguration({"bits": bits, "type": kind})
            for name, (bits, kind) in zip("ab", layers, strict=True)
        }
    )


A = configuration_of((2, "fp32"), (8, "bf16"))
B = configuration_of((8, "bf16"), (4, "bf16"))


def test_difference_is_what_the_second_configuration_has_more_in_values():
    frame = layer_frames.difference_frame(TWO, A, B, KNOBS, "bits")
    assert frame.attrs["unit"] == "values"
    assert frame.loc["up", 0] == 6
    assert frame.loc["down", 1] == -4
    assert math.isnan(frame.loc["up", 1])


def test_difference_of_texts_is_in_places():
    frame = layer_frames.difference_frame(TWO, A, B, KNOBS, "type")
    assert frame.attrs["unit"] == "places"
    assert frame.loc["up", 0] == -2
    assert frame.loc["down", 1] == 0


def test_difference_is_drawn_from_a_middle_of_zero_with_signed_values_in_the_cells():
    frame = layer_frames.difference_frame(TWO, A, B, KNOBS, "bits")
    (cells,) = difference_figure(frame, KNOBS.knobs[0]).data
    assert (cells.zmin, cells.zmax) == (-6, 6)
    assert [list(row) for row in cells.text] == [["+6", ""], ["", "−4"]]
    assert cells.texttemplate == "%{text}"


def test_equal_configurations_differ_by_zero_everywhere():
    frame = layer_frames.difference_frame(TWO, A, A, KNOBS, "bits")
    (cells,) = difference_figure(frame, KNOBS.knobs[0]).data
    assert (cells.zmin, cells.zmax) == (-1, 1)
    assert [list(row) for row in cells.text] == [["0", ""], ["", "0"]]


def test_knob_places_agree_with_the_choices(record):
    indices = np.arange(record.choices.size)
    for knob in record.choices.knobs:
        places = layer_frames.layers.knob_places(record.choices, indices, knob.name)
        values = [choice[knob.name] for choice in record.choices.layer_configurations]
        assert [knob.values[place] for place in places] == values
