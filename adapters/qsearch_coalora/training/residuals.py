"""How residual factors are found: in which norm, measured once a study, and in how many turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qsearch_coalora.settings.residual import ResidualOptions
from qsearch_coalora.training.study_model import StudyModel

if TYPE_CHECKING:
    from qsearch_coalora.adapter.adapted_model import AdaptedModel


def prepare_residuals(study: StudyModel, adapted: AdaptedModel) -> None:
    """Take residual factors in the norm and the turns that a study's options say."""
    options = study.options
    assert isinstance(options, ResidualOptions)
    if not options.fixed_rank:
        return
    if options.residual_norm == "inputs":
        _use_input_norms(study, adapted)
    if options.turns:
        adapted.residual.strip(options.turns)


def _use_input_norms(study: StudyModel, adapted: AdaptedModel) -> None:
    import torch

    from qsearch_coalora.training.sampling import round_seeds

    generator = torch.Generator().manual_seed(round_seeds(study.seed, 1).configurations)
    norms = study.measured(
        "norms of the layers' inputs",
        lambda: adapted.input_norms(study.calibration_batches(), generator),
    )
    adapted.use_input_norms(norms)
