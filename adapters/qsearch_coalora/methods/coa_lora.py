"""The CoA-LoRA trainer: one adapter, trained on the expected loss over a set."""

from __future__ import annotations

from typing import Any

import torch

from qsearch_coalora.adapter.adapted_model import AdaptedModel, AdapterShape
from qsearch_coalora.adapter.theta import ThetaOptions
from qsearch_coalora.methods.coa_lora_options import CoALoRAOptions
from qsearch_coalora.training.calibration import calibration_batches
from qsearch_coalora.training.schedule import seeds
from qsearch_coalora.training.set_trainer import SetTrainer


class CoALoRATrainer(SetTrainer):
    """Trains one configuration-aware adapter: L1·(I + U)·L2 with U = θ(configuration).

    (CoA-LoRA, ICLR 2026.)
    """

    Options = CoALoRAOptions
    options: CoALoRAOptions
    method = "CoA-LoRA"

    @property
    def shape(self) -> AdapterShape:
        """θ, and how much of the rank holds residual factors."""
        options = self.options
        # Where residual factors are all of the rank, there is no plain LoRA to begin with.
        start = options.theta_start if options.fixed_rank < options.rank else 0.0
        return AdapterShape(options.theta, options.theta_rate, start, options.fixed_rank)

    def make_adapted(self) -> AdaptedModel:
        """Return the adapted model, with the norms of its layers' inputs if those are used."""
        adapted = super().make_adapted()
        if self.options.fixed_rank and self.options.residual_norm == "inputs":
            count, set_seed = self.options.calibration_batches, seeds(self.seed, 0)[1]
            batches = calibration_batches(self._batches, self.seed, count)
            adapted.measure_inputs(batches, torch.Generator().manual_seed(set_seed))
        return adapted

    def _identity(self) -> dict[str, Any]:
        # States from before there was another norm lack it.
        norm = self.options.residual_norm if self.options.fixed_rank else "frobenius"
        return {
            **super()._identity(),
            "residual_rank": self.options.fixed_rank,
            **({"residual_norm": norm} if norm != "frobenius" else {}),
            "theta": _identity_of(self.options.theta, self.seed),
        }


def _identity_of(theta: ThetaOptions, seed: int) -> dict[str, Any]:
    """Return θ's shape: its sizes, and what else is not as by default, which old states lack."""
    sizes = {"embedding_dim": theta.embedding_dim, "hidden": theta.hidden}
    # The additive adjustment's bases are drawn from the seed, not saved.
    drawn = {"basis_seed": seed} if theta.adjustment == "additive" else {}
    return sizes | theta.model_dump(exclude_defaults=True) | drawn
