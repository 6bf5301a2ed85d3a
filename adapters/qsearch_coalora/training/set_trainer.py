"""Methods with one adapter for a whole set of configurations."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qsearch.space.configuration import Configuration
from qsearch_coalora.training.full_precision import FullPrecisionTrainer
from qsearch_coalora.training.options import SetTrainingOptions
from qsearch_coalora.training.sampling import (
    SetSampler,
    loss_weighted_pass,
    segment_pass,
    uniform_pass,
)


class SetTrainer(FullPrecisionTrainer):
    """Trains one adapter under configurations drawn from the set."""

    options: SetTrainingOptions

    @property
    def configurations_per_step(self) -> int:
        """How many share the examples of a batch."""
        return self.options.configurations_per_step

    def sampler(
        self, configurations: Sequence[Configuration], generator: torch.Generator
    ) -> SetSampler:
        """Return what draws configurations, as ``sampling`` says."""
        sampling = self.options.sampling
        if sampling.by == "segment":
            one_pass = segment_pass(self.average_bits(configurations), sampling.segments)
        else:
            one_pass = loss_weighted_pass if sampling.by == "loss" else uniform_pass
        return SetSampler(len(configurations), one_pass, generator)
