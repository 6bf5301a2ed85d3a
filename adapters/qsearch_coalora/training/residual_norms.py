"""The norm of the layers' inputs that residual factors are nearest in, measured once a study."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qsearch_coalora.settings.residual import ResidualOptions
from qsearch_coalora.training.study_model import StudyModel

if TYPE_CHECKING:
    from qsearch_coalora.adapter.adapted_model import AdaptedModel


def use_residual_norms(study: StudyModel, adapted: AdaptedModel) -> None:
    """Take residual factors in the norm that a study's options say."""
    options = study.options
    assert isinstance(options, ResidualOptions)
    if not options.fixed_rank or options.residual_norm != "inputs":
        return
    import torch

    from qsearch_coalora.training.sampling import round_seeds

    generator = torch.Generator().manual_seed(round_seeds(study.seed, 1).configurations)
    norms = study.measured(
        "norms of the layers' inputs",
        lambda: adapted.input_norms(study.calibration_batches(), generator),
    )
    adapted.use_input_norms(norms)
