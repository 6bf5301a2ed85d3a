"""What weights are quantized by: second moments of the layers' inputs, measured once a study."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from qsearch.plugins.quantizer_capabilities import needs_diagonal
from qsearch_coalora.adapter.adapted_model import AdaptedModel
from qsearch_coalora.tasks.batching import in_pieces
from qsearch_coalora.training.evaluation import drawn_scores
from qsearch_coalora.training.sampling import round_seeds
from qsearch_coalora.training.study_model import StudyModel
from qsearch_coalora.weights.layer_inputs import second_moments
from qsearch_coalora.weights.weighted_moments import weighted_moments

GRADIENT_PIECES = 4
"""Of a calibration batch: one at a time has all layers' inputs and gradients in memory."""


def calibrate(study: StudyModel, adapted: AdaptedModel) -> None:
    """Quantize weights by the moments of their inputs from now on.

    They are those of the model in full precision: what precedes a layer is quantized differently in
    every configuration. A table has them as far as it is an output head; see
    :meth:`~qsearch_coalora.weights.tables.Table.moment`.

    With gradients, a token counts by how much an error of the layer's output there would matter:
    labels that the model draws give the Hessian of the divergence from it (output-weighted moments
    as in GuidedQuant, arXiv 2505.07004, with one group of rows).
    """
    diagonal = needs_diagonal(study.quantizer)

    def measure() -> Mapping[str, Tensor]:
        modules, tables = adapted.multiplying, adapted.named_tables
        with adapted.base_model():
            if study.is_calibrated_by_gradients:
                runs = _runs(study, adapted)
                moments = weighted_moments(list(modules.values()), runs, diagonal)
            else:
                batches = study.calibration_batches()
                moments = second_moments(list(modules.values()), adapted.logits, batches, diagonal)
        return {
            name: tables[name].moment(moment) if name in tables else moment
            for name, moment in zip(modules, moments, strict=True)
        }

    adapted.weights.calibrate(study.measured("second moments of the layers' inputs", measure))


def _runs(study: StudyModel, adapted: AdaptedModel) -> Iterator[Callable[[], Tensor]]:
    generator = torch.Generator().manual_seed(round_seeds(study.seed, 1).data)

    def losses(piece: Mapping[str, Tensor]) -> Tensor:
        scores = drawn_scores(study.task, adapted.logits(piece), piece, generator)
        return scores.losses * scores.weights  # So that tokens of long examples count alike.

    for batch in study.calibration_batches():
        for piece in in_pieces(batch, GRADIENT_PIECES):
            yield partial(losses, piece)
