"""How layers are placed in a heatmap, and configurations coded by layer."""

from __future__ import annotations

import pytest
from qsearch_reports import frames as layer_frames

from qsearch.errors import InputError
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.space.layers import LayerSpec


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


def test_an_embedding_has_a_row_of_its_own_after_the_roles_of_blocks():
    layers = [
        LayerSpec("layers.0.up", "up", 0, (2, 2)),
        LayerSpec("layers.1.up", "up", 1, (2, 2)),
        LayerSpec("embed_tokens", "embedding", 0, (8, 2)),
    ]
    grid = layer_frames.layer_grid(layers)
    assert grid.rows == ("up", "embedding")
    assert grid.positions.tolist() == [[0, 1], [2, -1]]


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
