"""The CoA-LoRA trainer: one adapter, trained on the expected loss over a set."""

from __future__ import annotations

from typing import Any

from qsearch_coalora.adapted_model import AdapterShape
from qsearch_coalora.options import CoALoRAOptions
from qsearch_coalora.set_trainer import SetTrainer
from qsearch_coalora.theta import ThetaOptions


class CoALoRATrainer(SetTrainer):
    """Trains one configuration-aware adapter: L1·(I + U)·L2 with U = θ(configuration).

    (CoA-LoRA, ICLR 2026.)
    """

    Options = CoALoRAOptions
    options: CoALoRAOptions

    @property
    def shape(self) -> AdapterShape:
        """θ, and how much of the rank holds residual factors."""
        options = self.options
        return AdapterShape(options.theta, options.theta_learning_rate, options.fixed_rank)

    def _identity(self) -> dict[str, Any]:
        return {
            **super()._identity(),
            "residual_rank": self.options.fixed_rank,
            "theta": _identity_of(self.options.theta, self.seed),
        }


def _identity_of(theta: ThetaOptions, seed: int) -> dict[str, Any]:
    """Return θ's shape: its sizes, and what else is not as by default, which old states lack."""
    sizes = {"embedding_dim": theta.embedding_dim, "hidden": theta.hidden}
    # The additive adjustment's bases are drawn from the seed, not saved.
    drawn = {"basis_seed": seed} if theta.adjustment == "additive" else {}
    return sizes | theta.model_dump(exclude_defaults=True) | drawn
