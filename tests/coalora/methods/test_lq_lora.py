"""LQ-LoRA: what training starts from, and the scores of layers."""

from __future__ import annotations

from unittest import mock

import numpy as np
from qsearch_coalora.adapter.lora import ADAPTER
from qsearch_coalora.methods.decomposition import decompose
from qsearch_coalora.methods.lq_lora import LQLoRATrainer
from qsearch_coalora.methods.qlora import QLoRATrainer


def test_lq_lora_starts_from_its_decomposition(make_trainer, make_configuration) -> None:
    trainer = make_trainer(method=LQLoRATrainer)
    chosen = make_configuration(trainer, 0)
    adapted = trainer.study.adapted
    adapted.load_tensors(trainer._start(chosen))
    adapted.activate(chosen)
    for layer, original in zip(adapted.lora_layers, adapted.weights.originals, strict=True):
        A, B = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        quantized = layer.base_layer.weight
        assert (original - quantized - B @ A).norm() < (original - quantized).norm()


def test_lq_lora_decomposes_each_weight_once(make_trainer, make_configuration) -> None:
    trainer = make_trainer(method=LQLoRATrainer)
    chosen = [make_configuration(trainer, index) for index in range(2)]
    pairs = {(layer.name, one[layer.name]) for one in chosen for layer in trainer.layers()}
    with mock.patch(
        "qsearch_coalora.methods.lq_lora.decompose", side_effect=decompose
    ) as decomposed:
        trainer.train(chosen, 1)
        trainer.evaluate(chosen, "validation")
    assert decomposed.call_count == len(pairs)


def test_lq_lora_weights_errors_by_fisher_information(make_trainer) -> None:
    trainer = make_trainer(method=LQLoRATrainer)
    chosen = trainer.study.quantizer.choices().layer_configurations
    errors = trainer.quantization_error(chosen)
    assert errors.shape == (len(trainer.layers()), len(chosen))
    plain = make_trainer(method=QLoRATrainer).quantization_error(chosen)
    # Both fall with bits, but layers compare otherwise.
    assert (np.argsort(errors[0]) == np.argsort(plain[0])).all()
    assert np.corrcoef(errors[:, 0], plain[:, 0])[0, 1] < 0.99
    # Errors are means over a layer's weights, and scores are sums.
    parameters = [layer.parameters for layer in trainer.layers()]
    assert trainer.sensitivity([], 1).tolist() == parameters
