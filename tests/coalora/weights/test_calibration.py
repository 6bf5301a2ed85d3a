"""Moments of the layers' inputs: how they are measured, and where weights are quantized by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qsearch_coalora.adapter.adapted_model import AdaptedModel
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.methods.lq_lora import LQLoRATrainer
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.methods.shared_lora import SharedLoRATrainer
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.weights.layer_inputs import moment_bytes, second_moments
from qsearch_coalora.weights.quantization_error import quantization_errors
from qsearch_quantizers.integer.quantizer import Integer
from torch import Tensor, nn

from qsearch.errors import InputError
from qsearch.space.configuration import Configuration, LayerConfiguration

Make = Callable[..., AdapterTrainer]


def integer(rounding: str = "gptq", **options: Any) -> Integer:
    fields = {"bits": [2, 3, 4], "group_size": [32], "rounding": rounding} | options
    return Integer(Integer.Options.model_validate(fields))


@pytest.fixture
def make(make_trainer) -> Make:
    """Return a maker of trainers with the quantizer that needs inputs."""

    def maker(method: Any = CoALoRATrainer, plugin: Any = None, **options: Any) -> AdapterTrainer:
        fields = {"steps": 3, "calibration_batches": 3} | options
        return make_trainer(plugin=plugin or integer(), method=method, **fields)

    return maker


def alternating(trainer: AdapterTrainer) -> Configuration:
    return Configuration(
        {
            layer.name: LayerConfiguration({"bits": 2 + index % 3, "group_size": 32})
            for index, layer in enumerate(trainer.layers())
        }
    )


def inputs_of_first_query(trainer: AdapterTrainer, batch: Mapping[str, Tensor]) -> Tensor:
    """The base model's embeddings (tokens × features), computed apart, padding left out."""
    base: Any = trainer.study.task.load_model(trainer.study.model, trainer.study.seed).module.eval()
    with torch.no_grad():
        hidden = base.bert.embeddings(batch["input_ids"])
    return hidden[batch["attention_mask"].bool()]


# Measuring


def test_moments_are_those_of_what_the_layers_read(make: Make) -> None:
    trainer = make()
    moments = trainer.study.adapted.weights.moments
    batches = trainer.study.calibration_batches()
    assert any((batch["attention_mask"] == 0).any() for batch in batches)
    inputs = torch.cat([inputs_of_first_query(trainer, batch) for batch in batches])
    first = next(p for p, layer in enumerate(trainer.layers()) if layer.role == "query")
    expected = inputs.T @ inputs / len(inputs)
    torch.testing.assert_close(moments[first], expected, rtol=1e-4, atol=1e-5)


def test_moments_are_those_of_the_original_weights_without_adapter(make: Make) -> None:
    trained, fresh = make(learning_rate=0.1), make()
    trained.train([alternating(trained)], 1)
    batches = trained.study.calibration_batches()
    with trained.study.adapted.base_model():
        again = second_moments(
            trained.study.adapted.lora_layers, trained.study.adapted.logits, batches
        )
    for moment, expected in zip(again, fresh.study.adapted.weights.moments, strict=True):
        assert torch.equal(moment, expected)


def test_layers_that_read_one_tensor_share_its_moment(make: Make) -> None:
    trainer = make()
    moments = trainer.study.adapted.weights.moments
    by_role: dict[tuple[int, str], Tensor] = {
        (layer.block, layer.role): moment
        for layer, moment in zip(trainer.layers(), moments, strict=True)
    }
    for block in (0, 1):
        query, others = by_role[block, "query"], ("key", "value")
        assert all(by_role[block, role] is query for role in others)
        assert by_role[block, "attention_output"] is not query
    kept = {id(moment): moment.nbytes for moment in moments}
    assert sum(kept.values()) == moment_bytes(trainer.study.quantizer, trainer.layers())


def test_layers_that_share_only_some_inputs_have_their_own_moments() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    draw = torch.Generator().manual_seed(0)
    together, apart = (torch.randn(5, 4, generator=draw) for _ in range(2))

    def run(batch: Mapping[str, Tensor]) -> None:
        first(batch["x"])
        second(batch["y"])

    batches = [{"x": together, "y": together}, {"x": together, "y": apart}]
    found = second_moments([first, second], run, batches)
    for moment, inputs in zip(
        found, (torch.cat([together, together]), torch.cat([together, apart])), strict=True
    ):
        torch.testing.assert_close(moment, inputs.T @ inputs / 10)


def test_an_input_that_is_changed_in_place_afterwards_counts_as_it_was_read() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    inputs = torch.ones(5, 4)

    def run(batch: Mapping[str, Tensor]) -> None:
        own = batch["x"].clone()
        first(own)
        own.zero_()
        second(own + 2)

    found = second_moments([first, second], run, [{"x": inputs}])
    assert torch.equal(found[0], torch.ones(4, 4))
    assert torch.equal(found[1], torch.full((4, 4), 4.0))


def test_one_module_that_reads_the_same_tensor_twice_counts_it_twice() -> None:
    layer, inputs = nn.Linear(3, 3), torch.randn(6, 3)
    batches = [{"x": inputs}, {"x": inputs}]
    moment = second_moments([layer], lambda batch: layer(batch["x"]), batches)[0]
    torch.testing.assert_close(moment, inputs.T @ inputs / 6)


def test_a_layer_without_inputs_has_a_moment_of_zeros() -> None:
    used, unused = nn.Linear(8, 2), nn.Linear(5, 2)
    found = second_moments([unused, used], lambda b: used(b["x"]), [{"x": torch.ones(3, 8)}])
    assert torch.equal(found[0], torch.zeros(5, 5))
    assert torch.equal(found[1], torch.ones(8, 8))


def test_equal_seeds_measure_equal_moments_and_other_seeds_others(make: Make) -> None:
    one, same, other = make(), make(), make(seed=1)
    first = [trainer.study.adapted.weights.moments[0] for trainer in (one, same, other)]
    assert torch.equal(first[0], first[1])
    assert not torch.allclose(first[0], first[2])


@pytest.mark.parametrize("method", [CoALoRATrainer, LQLoRATrainer, PTQTrainer])
def test_rounding_to_nearest_measures_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch, method
) -> None:
    runs: list[object] = []
    plain = AdaptedModel.logits

    def counted(self: AdaptedModel, batch: Mapping[str, Tensor]) -> Tensor:
        runs.append(batch)
        return plain(self, batch)

    monkeypatch.setattr(AdaptedModel, "logits", counted)
    # Input norms and importance, which some methods measure, are none of this.
    options = {"init": "shared"} if method is CoALoRATrainer else {}
    counts = []
    for rounding in ("nearest", "gptq"):
        runs.clear()
        trainer = make(method, integer(rounding), **options)
        trainer.study.adapted  # noqa: B018
        counts.append(len(runs))
    assert counts[1] - counts[0] == 3
    assert counts[0] == (3 if method is LQLoRATrainer else 0)


def test_nothing_is_trainable_that_was_not(make: Make) -> None:
    def trainable(trainer: AdapterTrainer) -> list[str]:
        model = trainer.study.adapted.peft_model
        return [name for name, p in model.named_parameters() if p.requires_grad]

    options = {"residual_rank": 4}
    assert trainable(make(**options)) == trainable(make(plugin=integer("nearest"), **options))


# Using


def test_the_weights_of_the_model_are_gptq_s(make: Make) -> None:
    trainer = make(SharedLoRATrainer)
    chosen, weights = alternating(trainer), trainer.study.adapted.weights
    trainer.study.adapted.activate(chosen)
    for layer, lora, original, moment in zip(
        trainer.layers(), trainer.study.adapted.lora_layers, weights.originals, weights.moments,
        strict=True,
    ):  # fmt: skip
        quantized = trainer.study.quantizer.quantize_for_inputs(
            original, chosen[layer.name], moment
        )
        assert torch.equal(lora.base_layer.weight, trainer.study.quantizer.dequantize(quantized))


def test_outputs_of_every_layer_are_nearer_than_by_rounding_to_nearest(make: Make) -> None:
    weights = make(batch_size=32).study.adapted.weights
    two_bits = LayerConfiguration({"bits": 2, "group_size": 32})
    for position, (original, moment) in enumerate(
        zip(weights.originals, weights.moments, strict=True)
    ):
        nearest = integer("nearest")
        plain = nearest.dequantize(nearest.quantize(original, two_bits)) - original
        ours = weights.approximated(position, original, two_bits) - original
        assert ((ours @ moment) * ours).sum() < ((plain @ moment) * plain).sum()


def test_the_decomposition_of_lq_lora_is_of_weights_quantized_by_inputs(make: Make) -> None:
    trainer = make(LQLoRATrainer)
    chosen = alternating(trainer)
    trainer.study.adapted.activate(chosen)
    name, lora = trainer.layers()[0].name, trainer.study.adapted.lora_layers[0]
    found, weights = trainer._decomposed(0, chosen[name]), trainer.study.adapted.weights
    rest = weights.originals[0] - found.L1 @ found.L2
    assert torch.equal(lora.base_layer.weight, weights.approximated(0, rest, chosen[name]))


@pytest.mark.parametrize("method", [SharedLoRATrainer, LQLoRATrainer])
def test_errors_are_measured_without_quantizing_to_nearest(make: Make, method) -> None:
    trainer = make(method)
    choices = trainer.study.quantizer.choices().layer_configurations
    errors = trainer.quantization_error(choices)
    assert errors.shape == (len(trainer.layers()), len(choices))
    assert (np.diff(errors, axis=1) < 0).all()
    assert np.array_equal(make(method).quantization_error(choices), errors)


def test_requirements_count_the_moments(make: Make) -> None:
    ours, nearest = make(), make(plugin=integer("nearest"))
    more = ours.requirements().memory_bytes - nearest.requirements().memory_bytes
    # Three moments of 32 features a block, that of query, key and value once, and one of 64.
    assert more == 2 * (3 * 32**2 + 64**2) * 4


def test_a_packed_model_holds_the_weights_that_were_evaluated(make: Make, tmp_path: Path) -> None:
    import qsearch_quantizers  # noqa: F401
    from transformers import AutoModelForSequenceClassification

    trainer = make(PTQTrainer, fine_tune=False)
    chosen = alternating(trainer)
    trainer.export(chosen, tmp_path, "packed")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    trainer.place(chosen)
    batch = next(trainer.study.task.batches("validation", 8))
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.no_grad():
        found, expected = loaded(**inputs).logits, trainer.study.adapted.logits(batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# Going on


@pytest.mark.parametrize(
    ("method", "rounding"), [(CoALoRATrainer, "nearest"), (SharedLoRATrainer, "gptq")]
)
def test_other_data_than_the_saved_state_s_is_refused(
    make: Make, table_files, tmp_path: Path, method, rounding: str
) -> None:
    """Residual factors, or the weights, follow from the inputs: the adapter would be another."""
    files = tmp_path / "train.tsv", table_files[1]
    files[0].write_text(table_files[0].read_text())
    state = make(method, integer(rounding), files=files).state()
    make(method, integer(rounding), files=files).load_state(state)
    with files[0].open("a") as stream:
        stream.write("w59 w58 w57\tright\n")
    with pytest.raises(InputError, match=r"other training data.*root mean square"):
        make(method, integer(rounding), files=files).load_state(state)


# Errors of sampled rows


def test_sampled_rows_are_rounded_as_the_whole_weight_is() -> None:
    draw = torch.Generator().manual_seed(0)
    weights = [torch.randn(512, 64, generator=draw) for _ in range(2)]
    inputs = torch.randn(300, 64, generator=draw) @ torch.randn(64, 64, generator=draw)
    moment = inputs.T @ inputs / 300
    chosen = [LayerConfiguration({"bits": 3, "group_size": 32})]
    whole = quantization_errors(weights, integer(), chosen, moments=[moment, moment])
    sampled = quantization_errors(weights, integer(), chosen, 8192, [moment, moment])
    np.testing.assert_allclose(sampled, whole, rtol=0.2)
    assert not np.array_equal(sampled, whole)


def test_layers_of_one_width_are_rounded_each_by_its_own_inputs() -> None:
    draw = torch.Generator().manual_seed(0)
    weights = [torch.randn(16, 64, generator=draw)] * 2
    inputs = torch.randn(300, 64, generator=draw) @ torch.randn(64, 64, generator=draw)
    moments = [inputs.T @ inputs / 300, torch.eye(64)]
    chosen = [LayerConfiguration({"bits": 3, "group_size": 32})]
    found = quantization_errors(weights, integer(), chosen, moments=moments)
    alone = [
        quantization_errors([weight], integer(), chosen, moments=[moment])[0]
        for weight, moment in zip(weights, moments, strict=True)
    ]
    assert found.tolist() == [one.tolist() for one in alone]
    assert found[0, 0] != found[1, 0]
