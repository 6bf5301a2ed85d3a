"""Trained low-rank factors of each layer's layer configurations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qsearch.errors import InputError
from qsearch.space.configuration import LayerConfiguration


class Entry(NamedTuple):
    """The factors of one layer under one layer configuration, as they stand in A and B.

    Args:
        A: rank × input features.
        B: Output features × rank.
    """

    A: nn.Parameter
    B: nn.Parameter


class RowEntries:
    """Entries by layer and layer configuration, those that a training has met.

    Args:
        names: The layers, by position.
        choices: The layer configurations that there are.
    """

    def __init__(self, names: tuple[str, ...], choices: tuple[LayerConfiguration, ...]) -> None:
        self._names = names
        self._choices = choices
        self._numbers = {chosen: number for number, chosen in enumerate(choices)}
        self._entries: dict[tuple[int, int], Entry] = {}

    def number(self, chosen: LayerConfiguration) -> int:
        """Return the place of a layer configuration among all."""
        return self._numbers[chosen]

    def get(self, position: int, chosen: LayerConfiguration) -> Entry | None:
        """Return an entry, or None if no training has met it."""
        return self._entries.get((position, self._numbers[chosen]))

    def add(self, position: int, chosen: LayerConfiguration, A: Tensor, B: Tensor) -> None:
        """Make an entry, which begins with some factors."""
        entry = Entry(nn.Parameter(A.detach().clone()), nn.Parameter(B.detach().clone()))
        self._entries[position, self._numbers[chosen]] = entry

    def tensors(self) -> dict[str, Tensor]:
        """Return copies of all entries by name, on the CPU."""
        return {name: value.detach().clone().cpu() for name, value in self._named()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Take over what :meth:`tensors` returned, and no others.

        Those that there are stay the same parameters, which an optimizer may hold.

        Raises:
            InputError: If a name is not one of a layer and a layer configuration.
        """
        places = {name: position for position, name in enumerate(self._names)}
        pairs: dict[tuple[int, int], dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            layer, _, rest = name.removeprefix(PREFIX).rpartition(".choice-")
            number, _, which = rest.partition(".")
            if layer not in places or not number.isdigit() or int(number) >= len(self._choices):
                raise InputError(f"the saved adapter has {name}, which is not of this study")
            pairs.setdefault((places[layer], int(number)), {})[which] = tensor
        self._entries = {key: one for key, one in self._entries.items() if key in pairs}
        for (position, choice), pair in pairs.items():
            own = self._entries.get((position, choice))
            if own is None:
                A, B = pair["A"].to(device), pair["B"].to(device)
                self.add(position, self._choices[choice], A, B)
            else:
                own.A.copy_(pair["A"])
                own.B.copy_(pair["B"])

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        for position, number in sorted(self._entries):
            name = f"{PREFIX}{self._names[position]}.choice-{number}"
            for which, parameter in self._entries[position, number]._asdict().items():
                yield f"{name}.{which}", parameter


PREFIX = "rows."
"""How the names of entries begin among an adapter's tensors."""
