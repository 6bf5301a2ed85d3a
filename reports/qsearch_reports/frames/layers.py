"""The layers of a study and of its configurations, as a heatmap shows them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from qsearch.errors import InputError
from qsearch.space.configuration import Choices, Configuration, Knob
from qsearch.space.layers import LayerSpec


@dataclass(frozen=True)
class LayerGrid:
    """Where each layer sits in a heatmap of roles by blocks.

    A role that occurs several times in a block has one row per occurrence. ``positions`` are those
    of layers in the model's list (rows × blocks), −1 where a block has no such layer.
    """

    rows: tuple[str, ...]
    blocks: tuple[int, ...]
    positions: npt.NDArray[np.int64]


def layer_grid(layers: Sequence[LayerSpec]) -> LayerGrid:
    """Return where each layer sits in a heatmap of roles by blocks."""
    blocks = tuple(sorted({layer.block for layer in layers}))
    seen: dict[tuple[str, int], int] = {}
    cells: dict[tuple[str, int], dict[int, int]] = {}
    for position, layer in enumerate(layers):
        occurrence = seen.get((layer.role, layer.block), 0)
        seen[layer.role, layer.block] = occurrence + 1
        cells.setdefault((layer.role, occurrence), {})[layer.block] = position
    roles = list(dict.fromkeys(layer.role for layer in layers))
    keys = sorted(cells, key=lambda key: (roles.index(key[0]), key[1]))
    positions = [[cells[key].get(block, -1) for block in blocks] for key in keys]
    return LayerGrid(
        tuple(role if occurrence == 0 else f"{role} {occurrence + 1}" for role, occurrence in keys),
        blocks,
        np.array(positions, dtype=np.int64).reshape(len(keys), len(blocks)),
    )


def heatmap_frame(
    layers: Sequence[LayerSpec], configuration: Configuration, knob: str
) -> pd.DataFrame:
    """Return one knob of a configuration by role and block; None where a block has no such role."""
    grid = layer_grid(layers)
    values = [configuration[layer.name][knob] for layer in layers]
    cells = [[None if at < 0 else values[at] for at in row] for row in grid.positions]
    return pd.DataFrame(cells, index=list(grid.rows), columns=list(grid.blocks), dtype=object)


def is_numeric(knob: Knob) -> bool:
    """Return whether all of a knob's values are numbers."""
    return all(isinstance(value, int) for value in knob.values)


def value_amounts(knob: Knob) -> npt.NDArray[np.float64]:
    """Return what a mean over a knob's values is taken of: the numbers, or else their places."""
    return np.array(knob.values if is_numeric(knob) else range(len(knob.values)), dtype=np.float64)


def knob_places(
    choices: Choices, indices: npt.NDArray[np.int64], knob: str
) -> npt.NDArray[np.int64]:
    """Return the place of one knob's value, in the knob's order, for each choice index."""
    place = choices.names.index(knob)
    after = math.prod(choices.sizes[place + 1 :])
    return indices // after % choices.sizes[place]


def weight_shares(layers: Sequence[LayerSpec]) -> npt.NDArray[np.float64]:
    """Return the share of the quantized weights that each layer holds (layers)."""
    parameters = np.array([layer.parameters for layer in layers], dtype=np.float64)
    total = parameters.sum()
    return parameters / total if total else parameters


def default_knob(choices: Choices) -> str:
    """Return the knob that a heatmap shows first: ``bits`` if there is one, else the first."""
    return "bits" if "bits" in choices.names else choices.names[0]


def choice_indices(
    layers: Sequence[LayerSpec], choices: Choices, configurations: Sequence[str]
) -> npt.NDArray[np.int64]:
    """Return the choice index of each layer of each configuration (configurations × layers).

    Raises:
        InputError: If a configuration lacks a layer or holds a value that no knob has.
    """
    known: dict[tuple[tuple[str, int | str], ...], int] = {}
    names = [layer.name for layer in layers]
    indices = np.empty((len(configurations), len(layers)), dtype=np.int64)
    for row, text in enumerate(configurations):
        try:
            # Thousands of configurations hold few distinct choices, which were checked before.
            loaded = json.loads(text)
            indices[row] = [known[tuple(loaded[name].items())] for name in names]
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            configuration = Configuration.from_json(text)
            for name in names:
                if name not in configuration:
                    raise InputError(
                        f"a configuration in the study lacks the layer {name!r}"
                    ) from None
                chosen = configuration[name]
                known[tuple(chosen.items())] = choices.index(chosen)
            indices[row] = [known[tuple(configuration[name].items())] for name in names]
    return indices
