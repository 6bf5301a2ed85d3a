"""How much of the adapter's rank each layer has, where the search chooses it."""

from __future__ import annotations

from collections.abc import Sequence

from qsearch.plugins.trainer_knobs import without_trainer_knobs
from qsearch.space.configuration import Configuration, LayerConfiguration

RANK = "rank"
"""The knob."""


class LayerRanks:
    """Reads the knob :data:`RANK` of layer configurations, which may be missing.

    Args:
        names: The layers with an adapter.
        rank: What a layer has whose configuration does not say it.
        knobs: Names of the quantizer's knobs.
    """

    def __init__(self, names: Sequence[str], rank: int, knobs: Sequence[str]) -> None:
        self._names = tuple(names)
        self._rank = rank
        self._knobs = tuple(knobs)

    def of(self, configuration: Configuration) -> tuple[int, ...]:
        """Return the rank of each layer; all have the whole rank where nothing is quantized."""
        return tuple(self._of(configuration.get(name)) for name in self._names)

    def _of(self, one: LayerConfiguration | None) -> int:
        return self._rank if one is None or RANK not in one else one.integer(RANK)

    def plain(self, configuration: Configuration) -> Configuration:
        """Return a configuration with the quantizer's knobs alone."""
        return Configuration(
            {name: without_trainer_knobs(self._knobs, one) for name, one in configuration.items()}
        )
