"""Token embeddings and output heads as layers of a study: quantized, and without LoRA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.methods.lq_lora import LQLoRATrainer
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.methods.qlora import QLoRATrainer
from qsearch_coalora.methods.shared_lora import SharedLoRATrainer
from qsearch_quantizers.integer.quantizer import Integer

from qsearch.errors import InputError
from qsearch.models.discovery import full_layer_names
from qsearch.space.layers import EMBEDDING, HEAD

METHODS_AND_MODELS = [
    *((CoALoRATrainer, kind) for kind in ("bert", "llama", "tied")),
    *((method, "tied") for method in (SharedLoRATrainer, PTQTrainer, QLoRATrainer)),
]


@pytest.fixture
def make(make_trainer, bert_folder, llama_folder, tied_llama_folder, make_causal_task) -> Any:
    """Return a maker of trainers that quantize the embedding of a kind of model too."""
    folders = {"bert": bert_folder, "llama": llama_folder, "tied": tied_llama_folder}

    def made(kind: str, **options: Any) -> Any:
        task = None if kind == "bert" else make_causal_task()
        return make_trainer(model=folders[kind], task=task, embeddings=True, **options)

    return made


@torch.no_grad()
def float_losses(trainer: Any, configuration: Any) -> float:
    """Loss of the model with the adapter as it is and the dequantized weights, taken by hand."""
    study, adapted = trainer.study, trainer.study.adapted
    trainer.place(configuration)
    base = adapted.peft_model.get_base_model()
    paths = full_layer_names(base, study.layers)
    for layer, path, own in zip(study.layers, paths, adapted.weights.originals, strict=True):
        quantized = study.quantizer.quantize(own, configuration[layer.name])
        module = base.get_submodule(path)
        module = getattr(module, "base_layer", module)
        module.weight.data = study.quantizer.dequantize(quantized)
    losses, weights = [], []
    for batch in study.task.batches("validation", 8):
        scores = study.task.score(adapted.logits(batch), batch)
        losses.append(scores.losses * scores.weights)
        weights.append(scores.weights)
    return float(torch.cat(losses).sum() / torch.cat(weights).sum())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("bert", [("embeddings.word_embeddings", EMBEDDING)]),
        ("llama", [("embed_tokens", EMBEDDING), ("lm_head", HEAD)]),
        ("tied", [("embed_tokens", EMBEDDING)]),
    ],
)
def test_tables_come_after_the_layers_of_blocks(make, make_trainer, kind, expected) -> None:
    trainer = make(kind)
    blocks = [layer for layer in trainer.layers() if not layer.is_table]
    tables = trainer.layers()[len(blocks) :]
    assert [(table.name, table.role) for table in tables] == expected
    assert {table.shape for table in tables} == {(63, 32)}
    assert blocks == list(make_trainer(model=trainer.study.model.name).layers())
    # Before the model is loaded and after it, which require_same_layers compares.
    assert trainer.study.loaded


@pytest.mark.parametrize(("method", "kind"), METHODS_AND_MODELS)
def test_a_configuration_of_the_tables_is_evaluated_and_saved(
    make, make_configuration, kind, method
) -> None:
    trainer = make(kind, method=method, learning_rate=1e-2)
    chosen = [make_configuration(trainer, index) for index in range(2)]
    trainer.train(chosen, 1)
    evaluations = trainer.evaluate(chosen, "validation")
    state = trainer.state()
    tables = [layer.name for layer in trainer.layers() if layer.is_table]
    assert not any(name in tensor for tensor in state.tensors for name in tables)
    again = make(kind, method=method, learning_rate=1e-2)
    again.load_state(state)
    losses = [one.loss for one in again.evaluate(chosen, "validation")]
    assert losses == [one.loss for one in evaluations]
    if method is not PTQTrainer:  # Its weights are not the originals.
        assert losses[0] == pytest.approx(float_losses(again, chosen[0]), abs=1e-5)


@pytest.mark.parametrize("kind", ["bert", "llama", "tied"])
def test_each_table_is_switched_and_a_tied_head_with_it(make, make_configuration, kind) -> None:
    trainer = make(kind)
    adapted, chosen = trainer.study.adapted, make_configuration(trainer, 0)
    adapted.use(chosen)
    base = adapted.peft_model.get_base_model()
    for layer, path in zip(trainer.layers(), full_layer_names(base, trainer.layers()), strict=True):
        if layer.is_table:
            position = trainer.layers().index(layer)
            expected = adapted.weights.dequantized(position, chosen[layer.name])
            assert torch.equal(base.get_submodule(path).weight, expected)
            assert not torch.equal(expected, adapted.weights.originals[position])
    if kind == "tied":
        assert base.lm_head.weight is base.model.embed_tokens.weight
    with adapted.unquantized():
        for position, path in enumerate(full_layer_names(base, trainer.layers())):
            module = base.get_submodule(path)
            weight = getattr(module, "base_layer", module).weight
            assert torch.equal(weight, adapted.weights.originals[position])


def test_sensitivities_and_errors_are_of_all_layers(make, make_configuration) -> None:
    trainer = make("tied")
    chosen = [make_configuration(trainer, index) for index in range(2)]
    trainer.train(chosen, 1)
    found = trainer.sensitivity(chosen, 1)
    errors = trainer.quantization_error(trainer.study.quantizer.choices().layer_configurations)
    assert len(found) == len(errors) == len(trainer.layers())
    assert (found > 0).all()
    assert (errors > 0).all()
    assert np.isfinite(found).all()


@pytest.mark.parametrize(("kind", "nearest"), [("bert", [True]), ("llama", [True, False])])
def test_an_embedding_is_rounded_to_nearest_and_a_head_by_its_inputs(make, kind, nearest) -> None:
    gptq = Integer(Integer.Options(bits=(4,), group_size=(32,), rounding="gptq"))
    plain = Integer(Integer.Options(bits=(4,), group_size=(32,)))
    trainer = make(kind, plugin=gptq)
    (chosen,) = gptq.choices().layer_configurations
    weights = trainer.study.adapted.weights
    alike = []
    for position in range(len(trainer.layers())):
        expected = plain.quantize(weights.originals[position], chosen).tensors
        found = weights.quantized(position, chosen).tensors
        alike.append(all(torch.equal(found[name], expected[name]) for name in expected))
    layers = len(trainer.layers()) - len(nearest)
    assert alike == [False] * layers + nearest
    trainer.load_state(trainer.state())  # The sizes of inputs are those of layers with LoRA.


@torch.no_grad()
def head_moment(trainer: Any) -> torch.Tensor:
    """Return the second moment of the head's inputs on the calibration text."""
    adapted, rows = trainer.study.adapted, []
    head = adapted.peft_model.get_base_model().lm_head
    handle = head.register_forward_pre_hook(lambda _, given: rows.append(given[0]))
    with adapted.base_model():
        for batch in trainer.study.calibration_batches():
            adapted.logits(batch)
            rows[-1] = rows[-1][batch["attention_mask"].bool()]
    handle.remove()
    inputs = torch.cat(rows)
    return inputs.T @ inputs / len(inputs)


@pytest.mark.parametrize("kind", ["llama", "tied"])
def test_moments_of_a_head_are_of_its_inputs_and_a_tied_one_counts_look_ups_too(make, kind) -> None:
    gptq = Integer(Integer.Options(bits=(4,), group_size=(32,), rounding="gptq"))
    trainer = make(kind, plugin=gptq, calibrate_by="inputs")
    found, expected = trainer.study.adapted.weights.moments[-1], head_moment(trainer)
    if kind == "tied":
        expected = expected / expected.diagonal().mean() + torch.eye(len(expected))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_lq_lora_refuses_embeddings(make_trainer) -> None:
    with pytest.raises(InputError, match="trainer 'lq-lora' needs a LoRA next to each layer"):
        make_trainer(method=LQLoRATrainer, embeddings=True)
