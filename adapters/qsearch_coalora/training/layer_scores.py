"""How much the loss depends on each layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qsearch.space.configuration import Configuration
from qsearch_coalora.settings.memory import clear_memory_errors
from qsearch_coalora.tasks.batching import in_pieces
from qsearch_coalora.training.calibration import GRADIENT_PIECES
from qsearch_coalora.training.evaluation import drawn_scores, score
from qsearch_coalora.training.sampling import SetSampler, round_seeds, uniform_pass
from qsearch_coalora.training.study_model import StudyModel
from qsearch_coalora.weights.sensitivity import layer_sensitivities


@clear_memory_errors()
def sensitivities(
    study: StudyModel,
    place: Callable[[Configuration], None],
    configurations: Sequence[Configuration],
    round: int,
    own_labels: bool = False,
) -> npt.NDArray[np.float64]:
    """Return the expected rise of the loss per unit of relative squared error (layers).

    From gradients of ``calibration_batches`` training batches, each under a configuration drawn
    from the set, with the adapter as it is now.

    ``place`` makes the model the one of a configuration. With ``own_labels``, the model draws the
    labels, if the task can let it: then it is the divergence from this model that rises.
    """
    adapted, seeds = study.adapted, round_seeds(study.seed, round)
    adapted.peft_model.eval()
    batches = study.batches(torch.Generator().manual_seed(seeds.data))
    drawn = SetSampler(
        len(configurations), uniform_pass, torch.Generator().manual_seed(seeds.configurations)
    )

    drawing = torch.Generator().manual_seed(seeds.data)

    def losses(piece: Mapping[str, Tensor]) -> Tensor:
        logits = adapted.logits(piece)
        if own_labels:
            return drawn_scores(study.task, logits, piece, drawing).losses
        return score(study.task, logits, piece).losses

    def runs() -> Iterator[Callable[[], Tensor]]:
        for _ in range(study.options.calibration_batches):
            place(configurations[next(drawn)])
            pieces = max(GRADIENT_PIECES, study.options.batch_configurations)
            for piece in in_pieces(next(batches), pieces):
                yield partial(losses, piece)

    try:
        return layer_sensitivities(
            adapted.lora_layers, adapted.weights.originals, runs(), adapted.tables
        )
    finally:
        adapted.projections.clear()
