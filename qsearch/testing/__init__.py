"""Conformance kits: what every quantizer and every trainer must do, as tests for its author.

A plugin's package needs one class, of which pytest collects a test for each behaviour::

    from qsearch.testing import QuantizerConformance

    class TestMine(QuantizerConformance):
        def make(self):
            return Mine(Mine.Options())

or, in a script without pytest, one call: ``check_quantizer(Mine(Mine.Options()))``. Trainers have
:class:`TrainerConformance` and :func:`check_trainer`. A quantizer that cannot meet a tolerance says
so, and why, with an :class:`Allowance`.
"""

from qsearch.testing.base import ConformanceError
from qsearch.testing.quantizer.allowances import Allowance
from qsearch.testing.quantizer.kit import QuantizerConformance, check_quantizer
from qsearch.testing.trainer.kit import TrainerConformance, check_trainer

__all__ = [
    "Allowance",
    "ConformanceError",
    "QuantizerConformance",
    "TrainerConformance",
    "check_quantizer",
    "check_trainer",
]
