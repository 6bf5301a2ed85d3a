from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from qsearch_coalora.adapter.lora import ADAPTER
from qsearch_coalora.methods import decomposition, nf4
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.methods.decomposition import decompose
from qsearch_coalora.methods.importance import row_and_column_importance
from qsearch_coalora.methods.lq_lora import LQLoRATrainer
from qsearch_coalora.methods.nf4 import NF4, FourBitLayers, in_four_bit
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.methods.qlora import QLoRATrainer
from qsearch_coalora.methods.shared_lora import SharedLoRATrainer
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_coalora.tasks.classification import Classification
from qsearch_coalora.training.loop import DivergedError
from qsearch_coalora.weights.switching import FULL_PRECISION
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from safetensors.torch import load_file

from qsearch.errors import EvaluationError, InputError
from qsearch.plugins.capabilities import TrainingCheckpoint
from qsearch.search.allocation import allocate_front
from qsearch.space.configuration import Configuration
from qsearch.space.layers import LayerSpec
from qsearch.space.space import Space
from qsearch.spec.sections import ModelSpec
from tests.coalora.conftest import WORDS

METHODS = [SharedLoRATrainer, QLoRATrainer, LQLoRATrainer, PTQTrainer]
EACH = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
EACH_ITS_OWN = [QLoRATrainer, LQLoRATrainer]
PER_CONFIGURATION = pytest.mark.parametrize("method", EACH_ITS_OWN)

Make = Callable[..., AdapterTrainer]


@pytest.fixture
def make(bert_folder, table_files, quantizer) -> Make:
    """Return a maker of trainers of a method on the small BERT; options as keywords."""

    def maker(method: Any, plugin: Any = quantizer, **options: object) -> AdapterTrainer:
        train, validation = table_files
        task = Classification(Classification.Options(train=train, validation=validation))
        fields = {"rank": 4, "steps": 4, "batch_size": 8, "warmup_steps": 1} | options
        model = ModelSpec(name=str(bert_folder))
        return method(method.Options(**fields), model, task, plugin, 0)

    return maker


def losses(trainer: AdapterTrainer, chosen: list[Configuration]) -> list[float]:
    return [evaluation.loss for evaluation in trainer.evaluate(chosen, "validation")]


@EACH
def test_training_lowers_the_loss(make: Make, make_configuration, method) -> None:
    trainer = make(method, steps=120, learning_rate=1e-2)
    report = trainer.train([make_configuration(trainer, 0)], 1)
    assert report.steps == len(report.losses) == 120
    assert sum(report.losses[-10:]) < sum(report.losses[:10]) * 0.9


@EACH
def test_a_saved_state_evaluates_as_before(make: Make, make_configuration, method) -> None:
    trainer = make(method)
    chosen = [make_configuration(trainer, index) for index in range(3)]
    trainer.train(chosen, 1)
    expected = losses(trainer, chosen)
    assert len(set(expected)) == 3
    other = make(method)
    other.load_state(trainer.state())
    assert losses(other, chosen[::-1])[::-1] == expected


@EACH
def test_a_killed_training_goes_on_as_if_never_stopped(
    make: Make, make_configuration, method
) -> None:
    options = {"steps": 7, "checkpoint_steps": 2}
    whole = make(method, **options)
    chosen = [make_configuration(whole, index) for index in range(2)]
    expected = whole.train(chosen, 1)
    killed, kept = make(method, **options), []

    def save(state: Any) -> None:
        kept.append(state)
        if len(kept) == (2 if method in (SharedLoRATrainer, PTQTrainer) else 5):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed.train_resumably(chosen, 1, None, TrainingCheckpoint(lambda: None, save))
    resumed = make(method, **options)
    unfinished = TrainingCheckpoint(lambda: kept[-1], lambda state: None)
    report = resumed.train_resumably(chosen, 1, None, unfinished)
    assert report.losses == expected.losses
    assert report.steps == expected.steps
    assert report.seconds > 0
    assert losses(resumed, chosen) == losses(whole, chosen)


def test_shared_lora_is_the_same_for_all_configurations(make: Make, make_configuration) -> None:
    trainer = make(SharedLoRATrainer)
    assert trainer.study.adapted.theta is None
    assert trainer.study.adapted.adjustments(make_configuration(trainer, 0)) is None
    assert not [name for name in trainer.study.adapted.tensors() if name.startswith("theta.")]


@PER_CONFIGURATION
def test_each_configuration_has_a_lora_that_no_other_changes(
    make: Make, make_configuration, method
) -> None:
    alone, both = make(method), make(method)
    chosen = [make_configuration(alone, index) for index in range(2)]
    alone.train(chosen[:1], 1)
    both.train(chosen[::-1], 1)
    assert losses(alone, chosen[:1]) == losses(both, chosen[:1])


@PER_CONFIGURATION
def test_a_configuration_outside_the_set_is_trained_when_it_is_evaluated(
    make: Make, make_configuration, method
) -> None:
    early, late = make(method), make(method)
    chosen = [make_configuration(early, index) for index in range(2)]
    early.train(chosen, 1)
    late.train(chosen[:1], 1)
    assert losses(late, chosen) == losses(early, chosen)


@EACH
def test_every_method_can_stop_early(make: Make, make_configuration, method) -> None:
    stopping = {"examples": 16, "every": 2, "patience": 1}
    trainer = make(method, steps=30, learning_rate=0.5, early_stopping=stopping)
    report = trainer.train([make_configuration(trainer, index) for index in range(2)], 1)
    most = 30 * (2 if method in (QLoRATrainer, LQLoRATrainer) else 1)
    assert 0 < report.steps < most


@PER_CONFIGURATION
def test_what_an_evaluation_trained_is_not_trained_again_in_the_next_set(
    make: Make, make_configuration, method
) -> None:
    trainer = make(method)
    chosen = [make_configuration(trainer, index) for index in range(2)]
    trainer.train(chosen[:1], 1)
    end_of_round = trainer.state()
    expected = losses(trainer, chosen)
    trainer.load_state(end_of_round)
    with mock.patch.object(AdapterTrainer, "train_resumably") as trained:
        report = trainer.train(chosen, 2)
    assert not trained.called
    assert (report.steps, report.seconds) == (4, 0)
    assert losses(trainer, chosen) == expected


@PER_CONFIGURATION
def test_a_training_that_diverges_leaves_the_other_configurations_alone(
    make: Make, make_configuration, method
) -> None:
    trainer, whole = make(method), make(method)
    chosen = [make_configuration(trainer, index) for index in range(3)]
    whole.train(chosen[1:], 1)
    train = AdapterTrainer.train_resumably

    def diverge_first(own: Any, configurations: Any, *rest: Any) -> Any:
        if configurations == chosen[:1]:
            raise DivergedError("the training loss became nan")
        return train(own, configurations, *rest)

    with mock.patch.object(AdapterTrainer, "train_resumably", diverge_first):
        trainer.train(chosen, 1)
        with pytest.raises(EvaluationError, match="became nan"):
            trainer.evaluate(chosen[:1], "validation")
        with pytest.raises(DivergedError, match="became nan"):
            trainer.train(chosen[:1], 1)
        resumed = make(method)
        resumed.load_state(trainer.state())
        assert resumed.sensitivity(chosen, 1).shape == (len(resumed.layers()),)
        if method is QLoRATrainer:
            with pytest.raises(EvaluationError, match="became nan"):
                resumed.sensitivity(chosen[:1], 1)
    assert losses(trainer, chosen[1:]) == losses(whole, chosen[1:])


@PER_CONFIGURATION
def test_what_a_training_tells_of_its_cache_is_the_mean_over_configurations(
    make: Make, make_configuration, method
) -> None:
    trainer = make(method)
    details = trainer.train([make_configuration(trainer, index) for index in range(2)], 1).details
    assert details["trained_configurations"] == 2
    assert 0 <= details["cache_hit_rate"] <= 1
    assert details["cache_mebibytes_allowed"] == trainer.study.options.cache_mebibytes
    assert details["switch_seconds"] > 0


@PER_CONFIGURATION
def test_a_resumed_process_starts_each_configuration_where_the_first_did(
    make: Make, make_configuration, method
) -> None:
    whole = make(method, steps=20, learning_rate=1e-2)
    chosen = [make_configuration(whole, index) for index in range(2)]
    whole.train(chosen[:1], 1)
    resumed = make(method, steps=20, learning_rate=1e-2)
    resumed.load_state(whole.state())
    assert losses(resumed, chosen) == losses(whole, chosen)


def test_an_exported_adapter_is_the_configurations_own(
    make: Make, make_configuration, tmp_path: Path
) -> None:
    trained = make(QLoRATrainer, steps=20, learning_rate=1e-2)
    chosen = [make_configuration(trained, index) for index in range(2)]
    trained.train(chosen, 1)
    trainer = make(QLoRATrainer, steps=20, learning_rate=1e-2)
    trainer.load_state(trained.state())
    trainer.evaluate(chosen[1:], "validation")
    trainer.export(chosen[0], tmp_path / "adapter", "adapter")
    exported = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    adapter = trained._trained[chosen[0]].adapter
    layer = trained.layers()[0].name
    (name,) = [name for name in exported if f"{layer}.lora_B" in name]
    assert exported[name].abs().max() > 0
    assert torch.equal(exported[name], adapter[f"lora.{layer}.B"])


def test_an_unfinished_training_with_other_options_begins_again(
    make: Make, make_configuration
) -> None:
    first = make(SharedLoRATrainer, steps=6, checkpoint_steps=2)
    chosen = [make_configuration(first, 0)]
    kept: list[Any] = []
    first.train_resumably(chosen, 1, None, TrainingCheckpoint(lambda: None, kept.append))
    unfinished = TrainingCheckpoint(lambda: kept[-1], lambda state: None)
    other = make(SharedLoRATrainer, steps=3, checkpoint_steps=2)
    expected = make(SharedLoRATrainer, steps=3).train(chosen, 1)
    assert other.train_resumably(chosen, 1, None, unfinished).losses == expected.losses


@PER_CONFIGURATION
def test_what_is_trained_is_kept_before_the_next_training_begins(
    make: Make, make_configuration, method
) -> None:
    killed, kept = make(method), []
    chosen = [make_configuration(killed, index) for index in range(3)]

    def kill_third(step: int, total: int, loss: float) -> None:
        if step == 2 * 4 + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed.train_resumably(chosen, 1, kill_third, TrainingCheckpoint(lambda: None, kept.append))
    resumed, whole = make(method), make(method)
    whole.train(chosen, 1)
    train, trained = AdapterTrainer.train_resumably, []

    def counted(own: Any, configurations: Any, *rest: Any) -> Any:
        trained.append(configurations)
        return train(own, configurations, *rest)

    with mock.patch.object(AdapterTrainer, "train_resumably", counted):
        unfinished = TrainingCheckpoint(lambda: kept[-1], lambda state: None)
        assert resumed.train_resumably(chosen, 1, None, unfinished).steps == 12
    assert trained == [chosen[2:]]
    assert losses(resumed, chosen) == losses(whole, chosen)


def test_every_method_sees_the_same_batches(make: Make, make_configuration) -> None:
    """Of each step, whatever configuration it is under; CoA-LoRA's among them."""
    seen: dict[str, list[list[torch.Tensor]]] = {}
    for method in (*METHODS, CoALoRATrainer):
        trainer = make(method, steps=3)
        chosen = [make_configuration(trainer, index) for index in range(2)]
        read = trainer.study.task.batches
        runs: list[list[torch.Tensor]] = []

        def batches(split: Any, *rest: Any, read: Any = read, runs: Any = runs) -> Any:
            inputs: list[torch.Tensor] = []
            runs.append(inputs)
            for batch in read(split, *rest):
                inputs.append(batch["input_ids"])
                yield batch

        trainer.study.loaded  # noqa: B018
        trainer.study.adapted  # noqa: B018
        runs.clear()
        with mock.patch.object(trainer.study.task, "batches", batches):
            trainer.train(chosen, 1)
        assert [len(run) for run in runs] == [3] * (2 if method in EACH_ITS_OWN else 1)
        seen[method.__name__] = runs
    (expected,) = seen["SharedLoRATrainer"]
    for runs in seen.values():
        for run in runs:
            assert all(torch.equal(one, other) for one, other in zip(run, expected, strict=True))


@pytest.fixture
def make_causal(llama_folder, tmp_path, quantizer) -> Make:
    """Return a maker of trainers of a method on the small Llama."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(" ".join(WORDS[n:] + WORDS[:n]) for n in range(40)))

    def maker(method: Any, **options: object) -> AdapterTrainer:
        task = CausalLanguageModelling(
            CausalLanguageModelling.Options(train=text, validation=text, length=24)
        )
        fields = {"rank": 4, "steps": 40, "batch_size": 8, "learning_rate": 1e-2} | options
        model = ModelSpec(name=str(llama_folder))
        return method(method.Options(**fields), model, task, quantizer, 0)

    return maker


@EACH
def test_every_method_trains_a_causal_model(make_causal: Make, make_configuration, method) -> None:
    trainer = make_causal(method)
    chosen = [make_configuration(trainer, index) for index in range(2)]
    untrained = losses(make_causal(PTQTrainer, fine_tune=False), chosen)
    trainer.train(chosen, 1)
    after = losses(trainer, chosen)
    assert all(new < old for new, old in zip(after, untrained, strict=True))
    resumed = make_causal(method)
    resumed.load_state(trainer.state())
    assert losses(resumed, chosen) == after


@PER_CONFIGURATION
def test_what_is_trained_is_not_trained_again(make: Make, make_configuration, method) -> None:
    trainer = make(method)
    chosen = [make_configuration(trainer, 0)]
    trainer.train(chosen, 1)
    before = losses(trainer, chosen)
    assert trainer.train(chosen, 2).steps == 0
    assert losses(trainer, chosen) == before


def test_ptq_quantizes_the_merged_weights_and_adds_nothing(make: Make, make_configuration) -> None:
    trainer = make(PTQTrainer, steps=20, learning_rate=1e-2)
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


def test_ptq_trains_in_full_precision(make: Make, make_configuration) -> None:
    trainer = make(PTQTrainer)
    used: list[Configuration] = []
    adapted = trainer.study.adapted
    adapted.after_activation(used.append)
    trainer.train([make_configuration(trainer, 0)], 1)
    assert set(used) == {FULL_PRECISION}


def test_ptq_without_fine_tuning_takes_no_step(make: Make, make_configuration) -> None:
    trainer = make(PTQTrainer, fine_tune=False)
    assert trainer.train([make_configuration(trainer, 0)], 1).steps == 0


def test_bitsandbytes_gets_no_matrix_whose_rows_it_would_decode_wrongly() -> None:
    layers = [LayerSpec("whole", "query", 0, (96, 64)), LayerSpec("not", "key", 0, (64, 96))]
    assert in_four_bit(layers, Configuration({"whole": NF4, "not": NF4})) == ["whole"]


def test_bitsandbytes_layers_are_where_the_configuration_is_nf4() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    plugin = NormalFloat(NormalFloat.Options())
    layers = [LayerSpec(name, "query", 0, (96, 64)) for name in ("first", "second")]
    lora_layers = [SimpleNamespace(base_layer=torch.nn.Linear(64, 96)) for _ in layers]
    originals = [layer.base_layer.weight.data for layer in lora_layers]
    four_bit = FourBitLayers(layers, lora_layers, originals)
    other = plugin.choices().layer_configuration(0)
    four_bit.place(Configuration({"first": NF4, "second": other}))
    placed = lora_layers[0].base_layer
    assert isinstance(placed, bitsandbytes.nn.Linear4bit)
    assert type(lora_layers[1].base_layer) is torch.nn.Linear
    inputs = torch.randn(5, 64)
    ours = plugin.dequantize(plugin.quantize(originals[0], NF4))
    mine = torch.nn.functional.linear(inputs, ours, placed.bias)
    exact = torch.nn.functional.linear(inputs, originals[0], placed.bias)
    # Our quantizer refines its scales, so the codes differ; the errors are of one size.
    ratio = float((placed(inputs) - exact).norm() / (mine - exact).norm())
    assert 0.8 < ratio < 1.3
    four_bit.place(Configuration({"first": other, "second": other}))
    assert type(lora_layers[0].base_layer) is torch.nn.Linear


def test_bitsandbytes_layers_train_after_they_were_evaluated(make: Make) -> None:
    pytest.importorskip("bitsandbytes")
    # The small model's layers are below the size from which bitsandbytes decodes rightly.
    with mock.patch.object(nf4, "_BLOCK", 1):
        trainer = make(QLoRATrainer, NormalFloat(NormalFloat.Options()), steps=2)
        names = [layer.name for layer in trainer.layers()]
        other = trainer.study.quantizer.choices().layer_configuration(0)
        all_nf4 = Configuration(dict.fromkeys(names, NF4))
        nearly = Configuration({name: NF4 if name != names[0] else other for name in names})
        trainer.train([all_nf4], 1)
        sensitivity = trainer.sensitivity([all_nf4], 1)
        assert sensitivity.shape == (len(names),)
        assert (sensitivity > 0).all()
        first, second = trainer.evaluate([all_nf4, nearly], "validation")
        assert first.loss != second.loss
        assert trainer.train([nearly], 2).steps == 0


def test_weights_of_bitsandbytes_are_not_exported_as_ours(make: Make, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    with mock.patch.object(nf4, "_BLOCK", 1):
        trainer = make(QLoRATrainer, NormalFloat(NormalFloat.Options()), steps=1)
        names = [layer.name for layer in trainer.layers()]
        all_nf4 = Configuration(dict.fromkeys(names, NF4))
        trainer.train([all_nf4], 1)
        with pytest.raises(InputError, match=r"packed: .* bitsandbytes quantized \(12 layers"):
            trainer.export(all_nf4, tmp_path / "packed", "packed")
        trainer.export(all_nf4, tmp_path / "adapter", "adapter")
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "# QLoRA adapter for" in card
    assert "adjustment U" not in card
    assert f"quantized by bitsandbytes (`nf4`, double quantization): {names[0]}, " in card


def test_an_export_holds_nothing_of_bitsandbytes_of_an_earlier_configuration(
    make: Make, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    plugin = NormalFloat(NormalFloat.Options())
    with mock.patch.object(nf4, "_BLOCK", 1):
        trainer = make(QLoRATrainer, plugin, steps=1)
        names = [layer.name for layer in trainer.layers()]
        other = plugin.choices().layer_configuration(0)
        trainer.evaluate([Configuration(dict.fromkeys(names, NF4))], "validation")
        trainer.export(Configuration(dict.fromkeys(names, other)), tmp_path, "packed")
    found = load_file(tmp_path / "model.safetensors")
    inside = {"codes", "scale_codes", "scales", "adapter_A", "adapter_B", "bias"}
    for name in names:
        prefix = f"bert.{name}."
        assert {k.removeprefix(prefix) for k in found if k.startswith(prefix)} == inside


def test_what_was_trained_on_weights_of_bitsandbytes_is_not_loaded_without(make: Make) -> None:
    pytest.importorskip("bitsandbytes")
    plugin = NormalFloat(NormalFloat.Options())
    other = plugin.choices().layer_configuration(0)
    without = mock.patch("qsearch_coalora.methods.qlora.is_importable", return_value=False)
    for chosen, loads in ((NF4, False), (other, True)):
        with mock.patch.object(nf4, "_BLOCK", 1):
            trainer = make(QLoRATrainer, plugin, steps=1)
            names = [layer.name for layer in trainer.layers()]
            trainer.train([Configuration(dict.fromkeys(names, chosen))], 1)
            state = trainer.state()
            expected = nullcontext() if loads else pytest.raises(InputError, match="bitsandbytes")
            with without, expected:
                make(QLoRATrainer, plugin, steps=1).load_state(state)


def test_qlora_places_them_with_normal_float_alone(make: Make, make_configuration) -> None:
    pytest.importorskip("bitsandbytes")
    for plugin, expected in ((NormalFloat(NormalFloat.Options()), 1), (None, 0)):
        trainer = make(QLoRATrainer) if plugin is None else make(QLoRATrainer, plugin)
        assert len(trainer.study.adapted._followers) == expected


@pytest.fixture
def decomposed() -> Callable[[], Any]:
    """Return a maker of a decomposition with its quantizing function, weight and importance."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 64, generator=generator)
    quantizer = NormalFloat(NormalFloat.Options())
    chosen = quantizer.choices().layer_configuration(0)
    importance = (torch.rand(48, generator=generator) + 0.5, torch.rand(64, generator=generator))

    def quantized(matrix: torch.Tensor) -> torch.Tensor:
        return quantizer.dequantize(quantizer.quantize(matrix, chosen))

    def make() -> Any:
        found = decompose(weight, quantized, 4, importance, torch.Generator().manual_seed(0))
        return found, quantized, weight, importance[0][:, None] * importance[1][None]

    return make


def test_a_decomposition_is_better_than_quantizing(decomposed) -> None:
    found, quantized, weight, scale = decomposed()
    low_rank = found.L1 @ found.L2
    assert torch.linalg.matrix_rank(low_rank) == 4
    error = ((weight - quantized(weight - low_rank) - low_rank) * scale).double().square().sum()
    assert found.error == pytest.approx(float(error), rel=1e-6)
    torch.testing.assert_close(found.L1.norm(dim=0), found.L2.norm(dim=1))
    plain = float(((weight - quantized(weight)) * scale).double().square().sum())
    assert found.error < 0.7 * plain


def test_a_decomposition_takes_turns_until_its_error_rises(
    decomposed, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = decomposed()[0]
    errors = []
    for turns in range(1, found.turns + 2):
        monkeypatch.setattr(decomposition, "MOST_TURNS", turns)
        errors.append(decomposed()[0].error)
    assert found.turns > 1
    assert errors[:-1] == sorted(set(errors), reverse=True)
    assert errors[-1] == found.error


def test_lq_lora_starts_from_its_decomposition(make: Make, make_configuration) -> None:
    trainer = make(LQLoRATrainer)
    chosen = make_configuration(trainer, 0)
    start = trainer.start(chosen)
    adapted = trainer.study.adapted
    adapted.load_tensors(start)
    adapted.activate(chosen)
    for layer, original in zip(adapted.lora_layers, adapted.weights.originals, strict=True):
        A, B = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        quantized = layer.base_layer.weight
        assert (original - quantized - B @ A).norm() < (original - quantized).norm()


def test_lq_lora_decomposes_each_weight_once(make: Make, make_configuration) -> None:
    trainer = make(LQLoRATrainer)
    chosen = [make_configuration(trainer, index) for index in range(2)]
    pairs = {(layer.name, one[layer.name]) for one in chosen for layer in trainer.layers()}
    with mock.patch(
        "qsearch_coalora.methods.lq_lora.decompose", side_effect=decompose
    ) as decomposed:
        trainer.train(chosen, 1)
        trainer.evaluate(chosen, "validation")
    assert decomposed.call_count == len(pairs)


def test_lq_lora_weights_errors_by_fisher_information(make: Make) -> None:
    trainer = make(LQLoRATrainer)
    chosen = trainer.study.quantizer.choices().layer_configurations
    errors = trainer.quantization_error(chosen)
    assert errors.shape == (len(trainer.layers()), len(chosen))
    plain = make(QLoRATrainer).quantization_error(chosen)
    # Both fall with bits, but layers compare otherwise.
    assert (np.argsort(errors[0]) == np.argsort(plain[0])).all()
    assert np.corrcoef(errors[:, 0], plain[:, 0])[0, 1] < 0.99


def test_lq_lora_allocates_bits_to_the_layers_that_the_loss_depends_on(make: Make) -> None:
    trainer = make(LQLoRATrainer)
    layers, choices = trainer.layers(), trainer.study.quantizer.choices()
    storage = tuple(map(trainer.study.quantizer.storage_bits, choices.layer_configurations))
    space = Space(layers, choices, storage)
    given = []
    trainer.study.adapted  # noqa: B018  # Measures the importance that is changed below.
    for factor in (1.0, 1e6):
        rows, columns = trainer._importance[0]
        trainer._importance[0] = (rows * factor, columns)
        errors = trainer.quantization_error(choices.layer_configurations)
        scores = trainer.sensitivity([], 1)[:, None] * errors
        (index,) = allocate_front(space, scores, (3.0,))
        given.append(space.decode(index)[layers[0].name].integer("bits"))
    assert given[0] < given[1] == 8


def test_a_rank_above_the_models_features_is_refused(make: Make) -> None:
    with pytest.raises(InputError, match=r"trainer\.rank 33 is above .* 32"):
        make(LQLoRATrainer, rank=33).study.adapted  # noqa: B018


def test_importance_has_the_mean_of_the_fisher_information() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(3, 2, bias=False)
    inputs, targets = torch.randn(5, 4, 3), torch.randn(5, 4, 2)

    def run() -> torch.Tensor:
        return (linear(inputs) - targets).square().sum(dim=(1, 2))

    ((rows, columns),) = row_and_column_importance([linear], [run])
    gradients = []
    for example in range(5):
        loss = (linear(inputs[example]) - targets[example]).square().sum()
        gradients.append(torch.autograd.grad(loss, linear.weight)[0])
    fisher = torch.stack(gradients).square().mean(dim=0)
    assert float((rows.square()[:, None] * columns.square()).mean()) == pytest.approx(
        float(fisher.mean()), rel=1e-5
    )
    torch.testing.assert_close(rows.square(), fisher.mean(dim=1))
    torch.testing.assert_close(columns.square(), fisher.mean(dim=0) / fisher.mean())
