"""PTQ: fine-tuned in full precision, merged, quantized."""

from __future__ import annotations

import torch
from qsearch_coalora.adapter.lora import ADAPTER
from qsearch_coalora.methods.ptq import PTQTrainer


def test_ptq_quantizes_the_merged_weights_and_adds_nothing(
    make_trainer, make_configuration
) -> None:
    trainer = make_trainer(method=PTQTrainer, steps=20, learning_rate=1e-2)
    chosen = make_configuration(trainer, 0)
    trainer.train([chosen], 1)
    adapted = trainer.study.adapted
    adapted.activate(chosen)
    layer = adapted.lora_layers[0]
    A, B = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    assert (B @ A).abs().max() > 0
    merged = adapted.weights.originals[0] + B @ A
    quantizer = trainer.study.quantizer
    expected = quantizer.dequantize(quantizer.quantize(merged, chosen[adapted.layers[0].name]))
    assert torch.equal(layer.base_layer.weight.data, expected.detach())
    inputs = torch.randn(2, 5, 32)
    torch.testing.assert_close(layer(inputs), layer.base_layer(inputs))


def test_ptq_without_fine_tuning_takes_no_step(make_trainer, make_configuration) -> None:
    trainer = make_trainer(method=PTQTrainer, fine_tune=False)
    assert trainer.train([make_configuration(trainer, 0)], 1).steps == 0
