"""Bytes of the weight files of a study's configurations: exact, and of the configuration alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qsearch._arrays import Integers
from qsearch._sizes import readable_size
from qsearch.errors import InputError
from qsearch.plugins.footprint import Footprint
from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.stored_bytes import stored_bytes
from qsearch.space.configuration_space import ConfigurationSpace


class FileBytes:
    """Bytes that configurations take as the format ``packed``, adapter and all else included.

    Quantized weights are filled up to whole bytes and whole scale blocks, so that bytes are an
    affine function of average bits but for a few.
    """

    def __init__(
        self, space: ConfigurationSpace, quantizer: Quantizer, footprint: Footprint
    ) -> None:
        self._space, self._quantizer, self._footprint = space, quantizer, footprint

    def __call__(self, index: Integers) -> Integers:
        """Return bytes (…) of choice indices (… × groups)."""
        table = self._group_bytes
        places = index + np.arange(len(table)) * table.shape[1]
        total: Integers = table.take(places).sum(axis=-1) + self._fixed_bytes
        return total

    def average_bits(self, nbytes: tuple[int, int]) -> tuple[float, float]:
        """Return the interval of average bits whose configurations all take such bytes.

        Raises:
            InputError: If no configuration takes so few, or so many.
        """
        space, weights = self._space, float(self._space.parameters)
        filling = self._group_bytes - space.group_bits * space.group_parameters[:, None] / 8
        of_pinned = self._pinned_bytes - space.pinned_bits * weights / 8
        of_groups = filling.max(axis=1, where=space.possible, initial=-np.inf)
        most_filling = float(of_groups.sum()) + of_pinned
        least, greatest = self.range
        fixed = self._footprint.fixed_bytes
        low, high = ((size - fixed) * 8 / weights for size in nbytes)
        high -= most_filling * 8 / weights
        fewest, most = space.average_bits_range
        if nbytes[0] >= greatest or high <= fewest or low >= min(high, most):
            raise InputError(
                f"search.bytes: [{nbytes[0]}, {nbytes[1]}] lies outside what the weight files of"
                f" this study take: {least} to {greatest} bytes, of which {fixed}"
                f" ({readable_size(fixed)}) are not quantized"
            )
        return max(low, fewest), min(high, most)

    @property
    def _fixed_bytes(self) -> int:
        """Bytes that every configuration takes: what is not quantized, and pinned layers."""
        return self._footprint.fixed_bytes + self._pinned_bytes

    @cached_property
    def _pinned_bytes(self) -> int:
        pinned = self._space.pinned
        return sum(
            stored_bytes(self._quantizer, layer.shape, pinned[layer.name])
            for layer in self._space.layers
            if layer.name in pinned
        )

    @cached_property
    def _group_bytes(self) -> Integers:
        """Bytes of the searched layers' quantized weights (groups × choices)."""
        space = self._space
        every = space.choices.layer_configurations
        by_shape = {
            shape: np.array([stored_bytes(self._quantizer, shape, one) for one in every])
            for shape in {layer.shape for layer in space.layers}
        }
        rows = [
            sum(by_shape[space.layers[member].shape] for member in group.members)
            for group in space.groups
        ]
        return np.array(rows, dtype=np.int64)

    @property
    def range(self) -> tuple[int, int]:
        """Least and greatest bytes."""
        table, possible, fixed = self._group_bytes, self._space.possible, self._fixed_bytes
        least = table.min(axis=1, where=possible, initial=table.max())
        greatest = table.max(axis=1, where=possible, initial=0)
        return int(least.sum()) + fixed, int(greatest.sum()) + fixed


@dataclass(frozen=True)
class SearchSize:
    """What a search trades the loss against.

    Args:
        bits: Interval of average bits that is searched.
        file_bytes: None where the trainer does not say how large its model is.
    """

    bits: tuple[float, float]
    file_bytes: FileBytes | None
