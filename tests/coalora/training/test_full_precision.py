"""The model without quantization, under an adapter that serves all configurations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.methods.shared_lora import SharedLoRATrainer
from torch import Tensor

from qsearch.plugins.evaluation import Evaluation
from qsearch.plugins.protocols import QuantizedTensor
from qsearch.space.configuration import Configuration, LayerConfiguration
from tests.coalora.conftest import RoundingQuantizer

FIGURES = ("loss", "standard_error")


class Exact(RoundingQuantizer):
    """A quantizer that loses nothing: then every configuration is the model in full precision."""

    def quantize(self, weight: Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        return QuantizedTensor({"weight": weight.clone()}, tuple(weight.shape), configuration)

    def dequantize(self, quantized: QuantizedTensor) -> Tensor:
        return quantized.tensors["weight"]


def figures(evaluation: Evaluation) -> list[float]:
    metrics = evaluation.metrics.values()
    of_metrics = [value for metric in metrics for value in (metric.value, metric.standard_error)]
    return [*(getattr(evaluation, name) for name in FIGURES), *of_metrics]


def uniform(trainer: Any) -> Configuration:
    chosen = trainer.study.quantizer.choices().layer_configuration(0)
    return Configuration({layer.name: chosen for layer in trainer.layers()})


@pytest.mark.parametrize("method", [SharedLoRATrainer, PTQTrainer])
def test_it_is_any_configuration_of_a_quantizer_that_loses_nothing(
    make_trainer: Any, method: Any
) -> None:
    trainer = make_trainer(method=method, plugin=Exact(), learning_rate=1e-2)
    trainer.train([uniform(trainer)], 1)
    (expected,) = trainer.evaluate([uniform(trainer)], "validation")
    found = trainer.evaluate_full_precision("validation")
    assert figures(found) == pytest.approx(figures(expected), abs=1e-6)
    assert found.seconds > 0


def test_adjustments_and_residual_factors_are_left_out(make_trainer: Any) -> None:
    trainer = make_trainer(
        method=CoALoRATrainer, plugin=Exact(), residual_rank=2, theta_start=0.0, learning_rate=1e-2
    )
    trainer.train([uniform(trainer)], 1)
    (adjusted,) = trainer.evaluate([uniform(trainer)], "validation")
    found = trainer.evaluate_full_precision("validation")
    assert found.loss != adjusted.loss
    with torch.no_grad():
        for parameter in trainer.study.adapted.theta.parameters():
            parameter.zero_()
    (plain,) = trainer.evaluate([uniform(trainer)], "validation")
    assert figures(found) == pytest.approx(figures(plain), abs=1e-6)
