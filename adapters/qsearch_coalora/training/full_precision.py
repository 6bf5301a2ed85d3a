"""Methods whose adapter means something where no weight is quantized."""

from __future__ import annotations

from qsearch.plugins.evaluation import Evaluation
from qsearch.plugins.protocols import Split
from qsearch_coalora.training.trainer import AdapterTrainer


class FullPrecisionTrainer(AdapterTrainer):
    """A trainer of one adapter for all configurations, and so for the original weights too."""

    def evaluate_full_precision(self, split: Split) -> Evaluation:
        """Evaluate the original weights with the adapter as it is trained: W + L1·L2.

        θ's adjustment U is zero, and where the rank holds residual factors, there are none: the
        residual of what is not quantized is zero.

        Raises:
            EvaluationError: If it cannot be evaluated.
        """
        adapted = self.adapted
        with adapted.unquantized():
            return self.evaluate_model(lambda: None, split)
