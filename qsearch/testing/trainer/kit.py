"""The kit for trainers."""

from __future__ import annotations

from qsearch.testing.trainer.evaluation import EvaluationChecks
from qsearch.testing.trainer.exports import ExportChecks
from qsearch.testing.trainer.model import LayerScoreChecks, ModelChecks
from qsearch.testing.trainer.training import TrainingChecks


class TrainerConformance(
    ModelChecks, TrainingChecks, EvaluationChecks, LayerScoreChecks, ExportChecks
):
    """What every trainer must do; a subclass says which one.

    ::

        class TestMine(TrainerConformance):
            def make(self) -> MyTrainer:
                return MyTrainer(MyTrainer.Options(rank=4), MODEL, task(), self.quantizer(), 0)

            def make_other(self) -> MyTrainer:
                return MyTrainer(MyTrainer.Options(rank=2), MODEL, task(), self.quantizer(), 0)

            def quantizer(self) -> Quantizer:
                return Integer(Integer.Options())

    A model of a few layers and a task of some dozen examples will do: every check makes one or
    more trainers and trains most of them. Fixtures of pytest reach these methods by a fixture of
    the class that is ``autouse`` and keeps them in ``self``.
    """
