"""PTQ: fine-tuned in full precision, merged, quantized."""

from __future__ import annotations

import numpy as np
import pytest
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


def test_sensitivities_of_the_loaded_model_predict_how_far_it_diverges(
    make_trainer, make_causal_task, llama_folder
) -> None:
    task = make_causal_task()
    options = {"fine_tune": False, "batch_size": 4, "calibration_batches": 64}
    trainer = make_trainer(method=PTQTrainer, task=task, model=llama_folder, **options)
    sensitivity = trainer.sensitivity([], 1)
    adapted = trainer.study.adapted
    batch = next(task.batches("train", 16, torch.Generator().manual_seed(0)))
    generator, ratio = torch.Generator().manual_seed(1), 1e-3

    @torch.no_grad()
    def logs() -> torch.Tensor:
        return adapted.logits(batch)[:, :-1].double().log_softmax(-1)

    original, tokens = logs(), batch["labels"].shape[1] - 1
    measured = []
    for layer in adapted.lora_layers:
        weight = layer.base_layer.weight.data
        kept, diverged = weight.clone(), []
        for _ in range(8):
            noise = torch.randn(weight.shape, generator=generator)
            weight.add_(noise * (ratio**0.5 * kept.norm() / noise.norm()))
            diverged.append((original.exp() * (original - logs())).sum(-1).mean().item())
            weight.copy_(kept)
        measured.append(np.mean(diverged) / ratio)
    # A loss is the mean over a sequence's tokens, whose labels are drawn independently.
    assert sensitivity * tokens == pytest.approx(measured, rel=0.3)


def test_sensitivities_after_fine_tuning_are_those_of_the_set(
    make_trainer, make_configuration
) -> None:
    trainer = make_trainer(method=PTQTrainer)
    assert not trainer.sensitivity_is_fixed
    chosen = [make_configuration(trainer, seed) for seed in (0, 1)]
    trainer.train(chosen, 1)
    one, other = (trainer.sensitivity([configuration], 1) for configuration in chosen)
    assert (one != other).any()
