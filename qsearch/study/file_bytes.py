"""Bytes of the weight files of a study's configurations: exact, and of the configuration alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from qsearch._arrays import Integers
from qsearch._sizes import readable_size
from qsearch.errors import InputError
from qsearch.plugins.footprint import Footprint
from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.trainer_knobs import layer_bytes
from qsearch.space.configuration_space import ConfigurationSpace


class FileBytes:
    """Bytes that configurations take as the format ``packed``, adapter and all else included.

    Quantized weights are filled up to whole bytes and whole scale blocks, so that bytes are an
    affine function of average bits but for a few.
    """

    def __init__(
        self,
        space: ConfigurationSpace,
        quantizer: Quantizer,
        footprint: Footprint,
        trainer: object = None,
    ) -> None:
        self._space, self._footprint = space, footprint
        self._bytes_of = partial(layer_bytes, quantizer, trainer)

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
        least, greatest = self.range
        fixed = self._footprint.fixed_bytes
        low, high = self._bits_without_filling(nbytes[0]), self.bits_within(nbytes[1])
        fewest, most = self._space.average_bits_range
        if nbytes[0] >= greatest or high <= fewest or low >= min(high, most):
            raise InputError(
                f"search.bytes: [{nbytes[0]}, {nbytes[1]}] lies outside what the weight files of"
                f" this study take: {least} to {greatest} bytes, of which {fixed}"
                f" ({readable_size(fixed)}) are not quantized"
            )
        return max(low, fewest), min(high, most)

    def bits_within(self, nbytes: float) -> float:
        """Return the average bits up to which every configuration takes at most so many bytes."""
        space = self._space
        filling = self._group_bytes - space.group_bits * space.group_parameters[:, None] / 8
        of_groups = filling.max(axis=1, where=space.possible, initial=-np.inf)
        of_pinned = self._pinned_bytes - space.pinned_bits * space.parameters / 8
        return self._bits_without_filling(nbytes - float(of_groups.sum()) - of_pinned)

    def _bits_without_filling(self, nbytes: float) -> float:
        return (nbytes - self._footprint.fixed_bytes) * 8 / self._space.parameters

    @property
    def _fixed_bytes(self) -> int:
        """Bytes that every configuration takes: what is not quantized, and pinned layers."""
        return self._footprint.fixed_bytes + self._pinned_bytes

    @cached_property
    def _pinned_bytes(self) -> int:
        pinned = self._space.pinned
        return sum(
            self._bytes_of(layer.shape, pinned[layer.name])
            for layer in self._space.layers
            if layer.name in pinned
        )

    @cached_property
    def _group_bytes(self) -> Integers:
        """Bytes of the searched layers' quantized weights (groups × choices)."""
        space = self._space
        every = space.choices.layer_configurations
        by_shape = {
            shape: np.array([self._bytes_of(shape, one) for one in every])
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
        budgets: Average bits that configurations are wanted right below.
    """

    bits: tuple[float, float]
    file_bytes: FileBytes | None
    budgets: tuple[float, ...] = ()
