"""What a round's randomness is drawn from: batches, and configurations of the set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qsearch_coalora.settings.options import SamplingOptions

MEMORY = 0.9
"""How much of a configuration's mean loss a new loss leaves as it was."""

Pass = Callable[[Tensor, torch.Generator], Tensor]
"""Takes each configuration's mean loss, not a number where it has none, and returns the positions
that are drawn next."""


class RoundSeeds(NamedTuple):
    """Seeds of one round's random draws."""

    data: int
    configurations: int
    dropout: int


def round_seeds(seed: int, round: int) -> RoundSeeds:
    """Return a round's seeds, from the study's; rounds count from 1."""
    return RoundSeeds(*map(int, np.random.SeedSequence([seed, round - 1]).generate_state(3)))


class SetSampler:
    """Draws positions of a set's configurations without end, pass by pass."""

    def __init__(self, size: int, one_pass: Pass, generator: torch.Generator) -> None:
        self._one_pass = one_pass
        self._generator = generator
        self._losses = torch.full((size,), torch.nan, dtype=torch.float64)
        self._waiting = torch.empty(0, dtype=torch.int64)

    def __next__(self) -> int:
        if not len(self._waiting):
            self._waiting = self._one_pass(self._losses, self._generator)
        position, self._waiting = int(self._waiting[0]), self._waiting[1:]
        return position

    def note(self, position: int, loss: float) -> None:
        """Note the loss that training met at a configuration, if it is finite."""
        if not np.isfinite(loss):
            return
        before = float(self._losses[position])
        self._losses[position] = loss if np.isnan(before) else MEMORY * before + (1 - MEMORY) * loss

    def state(self) -> dict[str, Tensor]:
        """Return what :meth:`restore` needs to continue from here."""
        return {
            "losses": self._losses.clone(),
            "waiting": self._waiting.clone(),
            "generator": self._generator.get_state(),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a saved state."""
        self._losses = state["losses"].clone()
        self._waiting = state["waiting"].clone()
        self._generator.set_state(state["generator"])


def pass_of(options: SamplingOptions, average_bits: Callable[[], Sequence[float]]) -> Pass:
    """Return what draws a pass over a set, as options say.

    Average bits are asked for where they matter.
    """
    if options.by == "segment":
        return segment_pass(average_bits(), options.segments)
    return loss_weighted_pass if options.by == "loss" else uniform_pass


def uniform_pass(losses: Tensor, generator: torch.Generator) -> Tensor:
    """Return every configuration once, shuffled."""
    return torch.randperm(len(losses), generator=generator)


def loss_weighted_pass(losses: Tensor, generator: torch.Generator) -> Tensor:
    """Return as many configurations as there are, in proportion to their mean losses.

    Until each has a loss, every configuration is returned once.
    """
    if losses.isnan().any():
        return uniform_pass(losses, generator)
    weights = losses.clamp_min(torch.finfo(losses.dtype).tiny)
    return torch.multinomial(weights, len(losses), replacement=True, generator=generator)


def segment_pass(average_bits: Sequence[float], segments: int) -> Pass:
    """Return a pass that draws one configuration of each segment, segments shuffled.

    Segments are equal intervals between the set's least and greatest average bits; empty ones are
    left out. So each occupied segment has an equal share of the training, however many
    configurations it holds.
    """
    bits = np.asarray(average_bits)
    edges = np.linspace(bits.min(), bits.max(), segments + 1)[1:-1]
    of = np.digitize(bits, edges)
    members = [torch.from_numpy(np.flatnonzero(of == segment)) for segment in np.unique(of)]

    def one_pass(losses: Tensor, generator: torch.Generator) -> Tensor:
        drawn = [
            own[torch.randint(len(own), (), generator=generator)]
            for own in (members[i] for i in torch.randperm(len(members), generator=generator))
        ]
        return torch.stack(drawn)

    return one_pass


class BatchStream:
    """Batches without end, pass by pass, that can continue from a saved place.

    The generator's state decides which batches a pass has.
    """

    def __init__(
        self,
        one_pass: Callable[[torch.Generator], Iterator[Mapping[str, Tensor]]],
        generator: torch.Generator,
    ) -> None:
        self._one_pass = one_pass
        self._generator = generator
        self._start_pass()

    def _start_pass(self) -> None:
        self._at_start = self._generator.get_state()
        self._batches = self._one_pass(self._generator)
        self._taken = 0

    def __next__(self) -> Mapping[str, Tensor]:
        batch = next(self._batches, None)
        if batch is None:
            self._start_pass()
            batch = next(self._batches)
        self._taken += 1
        return batch

    def state(self) -> dict[str, Tensor]:
        """Return what :meth:`restore` needs to continue from here."""
        return {"generator": self._at_start, "taken": torch.tensor(self._taken)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a saved state: the pass is drawn again, and what was taken is skipped."""
        self._generator.set_state(state["generator"])
        self._start_pass()
        for _ in range(int(state["taken"])):
            next(self)
