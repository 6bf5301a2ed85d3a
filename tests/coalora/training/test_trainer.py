from __future__ import annotations

import math

import pytest
import torch
from qsearch_coalora.adapter.lora import ADAPTER
from qsearch_coalora.methods.coa_lora import CoALoRAOptions, CoALoRATrainer
from qsearch_coalora.tasks.classification import Classification
from qsearch_coalora.tasks.metrics import weighted_mean
from qsearch_coalora.tasks.subsets import one_example_in
from qsearch_coalora.training.sampling import SetSampler, uniform_pass

from qsearch.errors import EvaluationError, InputError
from qsearch.plugins.protocols import TrainerState
from qsearch.spec.sections import ModelSpec


def test_layers_and_requirements_need_no_weights_and_no_data(make_trainer) -> None:
    trainer = make_trainer()
    assert len(trainer.layers()) == 12
    assert trainer.requirements().parameters > 10_000
    assert "adapted" not in vars(trainer)


def test_training_is_a_function_of_seed_set_and_round(make_trainer, make_configuration) -> None:
    states = []
    for seed in (0, 0, 1):
        trainer = make_trainer(seed)
        chosen = [make_configuration(trainer, index) for index in range(3)]
        torch.manual_seed(len(states))  # the global generator must not matter
        trainer.train(chosen, 1)
        states.append(trainer.state().tensors)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_training_goes_on_from_a_saved_state_as_if_never_stopped(
    make_trainer, make_configuration
) -> None:
    first = make_trainer()
    chosen = [make_configuration(first, index) for index in range(3)]
    first.train(chosen, 1)
    saved = first.state()
    first.evaluate(chosen, "validation")
    first.train(chosen, 2)
    resumed = make_trainer()
    resumed.load_state(saved)
    resumed.train(chosen, 2)
    expected, found = first.state().tensors, resumed.state().tensors
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_training_lowers_the_loss_and_changes_every_part(make_trainer, make_configuration) -> None:
    trainer = make_trainer(steps=90, learning_rate=5e-3)
    before = trainer.state().tensors
    chosen = [make_configuration(trainer, index) for index in range(4)]
    seen = []
    report = trainer.train(chosen, 1, lambda *step: seen.append(step))
    assert report.steps == len(report.losses) == len(seen) == 90
    assert seen[-1][:2] == (90, 90)
    assert sum(report.losses[-10:]) < sum(report.losses[:10]) * 0.9
    after = trainer.state().tensors
    for part in ("lora.", "theta.", "head."):
        names = [name for name in before if name.startswith(part)]
        assert any(not torch.equal(before[name], after[name]) for name in names)


def test_base_weights_and_biases_are_not_trained(make_trainer, make_configuration) -> None:
    trainer = make_trainer()
    base = trainer.study.adapted.peft_model.get_base_model()
    frozen = {
        name: value.clone()
        for name, value in base.named_parameters()
        if not value.requires_grad and not name.endswith("base_layer.weight")
    }
    originals = [weight.clone() for weight in trainer.study.adapted.weights.originals]
    trainer.train([make_configuration(trainer, 0)], 1)
    now = dict(base.named_parameters())
    assert any(name.endswith("base_layer.bias") for name in frozen)
    assert all(torch.equal(now[name], value) for name, value in frozen.items())
    assert all(map(torch.equal, trainer.study.adapted.weights.originals, originals))


def test_every_configuration_of_the_set_is_drawn_once_in_each_pass() -> None:
    drawn = SetSampler(3, uniform_pass, torch.Generator().manual_seed(0))
    passes = [[next(drawn) for _ in range(3)] for _ in range(4)]
    assert all(sorted(once) == [0, 1, 2] for once in passes)
    assert len({tuple(once) for once in passes}) > 1


def test_a_step_shares_its_examples_among_configurations(
    make_trainer, make_configuration, monkeypatch
) -> None:
    trainer = make_trainer(steps=3, configurations_per_step=2)
    chosen = [make_configuration(trainer, index) for index in range(3)]
    used = []
    activate = trainer.study.adapted.activate
    monkeypatch.setattr(
        trainer.study.adapted, "activate", lambda wanted: (used.append(wanted), activate(wanted))
    )
    trainer.train(chosen, 1)
    assert len(used) == 6
    assert set(used) == set(chosen)


def test_later_learning_rate_holds_after_round_zero(make_trainer, make_configuration) -> None:
    trainer = make_trainer(steps=3, later_learning_rate=1e-12)
    chosen = [make_configuration(trainer, 0)]
    start = trainer.state().tensors
    trainer.train(chosen, 1)
    first = trainer.state().tensors
    trainer.train(chosen, 2)
    second = trainer.state().tensors
    assert max((first[name] - start[name]).abs().max() for name in start) > 1e-4
    assert max((second[name] - first[name]).abs().max() for name in start) < 1e-8


def test_round_zero_may_have_its_own_number_of_steps(make_trainer, make_configuration) -> None:
    trainer = make_trainer(first_steps=3, steps=2)
    chosen = [make_configuration(trainer, 0)]
    assert trainer.train(chosen, 1).steps == 3
    assert trainer.train(chosen, 2).steps == 2


def test_an_empty_set_is_refused(make_trainer) -> None:
    with pytest.raises(InputError, match="at least one configuration"):
        make_trainer().train([], 1)


def test_evaluations_are_repeatable_and_independent_of_order(
    make_trainer, make_configuration
) -> None:
    trainer = make_trainer()
    chosen = [make_configuration(trainer, index) for index in range(3)]
    forward = trainer.evaluate(chosen, "validation")
    backward = trainer.evaluate(chosen[::-1], "validation")[::-1]
    assert [e.loss for e in forward] == [e.loss for e in backward]
    assert len({e.loss for e in forward}) == 3
    assert all(0 <= e.metric <= 1 and e.standard_error > 0 for e in forward)


def test_a_part_is_the_same_examples_for_all_configurations(
    make_trainer, make_configuration, monkeypatch
) -> None:
    trainer = make_trainer()
    chosen = [make_configuration(trainer, index) for index in range(2)]
    summarise, scored = trainer.study.task.summarise, []

    def seen(scores):
        scored.append(scores)
        return summarise(scores)

    monkeypatch.setattr(trainer.study.task, "summarise", seen)
    whole = trainer.evaluate(chosen, "validation")
    part = trainer.evaluate_part(chosen, "validation", 3)
    again = trainer.evaluate_part(chosen[::-1], "validation", 3)[::-1]
    assert [e.loss for e in part] == [e.loss for e in again]
    assert [e.loss for e in part] != [e.loss for e in whole]
    size = trainer.study.options.eval_batch_size
    sizes = [len(b["labels"]) for b in trainer.study.task.batches("validation", size)]
    assert len(scored[0].losses) == trainer.study.task.examples("validation") == sum(sizes)
    assert {len(scores.losses) for scores in scored[2:]} == {-(-sum(sizes) // 3)}


def test_a_part_is_counted_over_batches() -> None:
    batches = [{"labels": torch.arange(at, at + 4)} for at in range(0, 20, 4)]
    for one_in in (1, 3, 8, 100):
        kept = torch.cat([batch["labels"] for batch in one_example_in(one_in, iter(batches))])
        assert kept.tolist() == list(range(0, 20, one_in))


def test_a_part_of_all_is_the_whole(make_trainer, make_configuration) -> None:
    trainer = make_trainer()
    wanted = [make_configuration(trainer, 0)]
    assert (
        trainer.evaluate_part(wanted, "validation", 1)[0].loss
        == trainer.evaluate(wanted, "validation")[0].loss
    )


def test_a_loss_that_is_no_number_is_returned_as_it_is(make_trainer, make_configuration) -> None:
    trainer = make_trainer()
    wanted = make_configuration(trainer, 0)
    with torch.no_grad():
        trainer.study.adapted.theta.output.bias.fill_(float("nan"))
    assert math.isnan(trainer.evaluate([wanted], "validation")[0].loss)


def test_a_quantizer_that_fails_is_an_evaluation_error(
    make_trainer, make_configuration, monkeypatch
) -> None:
    trainer = make_trainer()
    wanted = make_configuration(trainer, 0)

    def fail(*_: object) -> None:
        raise RuntimeError("out of codes")

    monkeypatch.setattr(trainer.study.quantizer, "quantize", fail)
    with pytest.raises(EvaluationError, match="out of codes"):
        trainer.evaluate([wanted], "validation")


@pytest.mark.parametrize("bound", [0, 1])
def test_a_small_cache_changes_no_result(make_trainer, make_configuration, bound) -> None:
    small, large = make_trainer(cache_mebibytes=bound), make_trainer(cache_mebibytes=64)
    chosen = [make_configuration(small, index) for index in range(3)]
    small.train(chosen, 1)
    large.train(chosen, 1)
    assert [e.loss for e in small.evaluate(chosen, "validation")] == [
        e.loss for e in large.evaluate(chosen, "validation")
    ]
    assert small.study.adapted.weights.cache.counts.nbytes <= bound * 2**20


def test_a_state_of_other_options_is_refused_with_what_differs(make_trainer) -> None:
    with pytest.raises(InputError, match="rank was 4, is 2"):
        make_trainer(rank=2).load_state(make_trainer().state())


def test_a_state_with_a_tensor_missing_is_refused(make_trainer) -> None:
    trainer = make_trainer()
    state = trainer.state()
    name = next(iter(state.tensors))
    fewer = {key: value for key, value in state.tensors.items() if key != name}
    with pytest.raises(InputError, match="other tensors"):
        trainer.load_state(TrainerState(fewer, state.metadata))


@pytest.mark.parametrize("residual_rank", [None, 4])
def test_residual_factors_follow_the_configuration_and_are_not_trained(
    make_trainer, make_configuration, residual_rank
) -> None:
    trainer = make_trainer(residual_rank=residual_rank, residual_norm="frobenius", weight_decay=0.1)
    wanted = make_configuration(trainer, 0)
    adapted = trainer.study.adapted
    fixed = trainer.study.options.fixed_rank

    def fixed_product() -> torch.Tensor:
        adapted.activate(wanted)
        A, B = next(adapted.factors())
        return (B[:, :fixed] @ A[:fixed]).detach() * trainer.study.options.scaling

    before = fixed_product()
    quantized = adapted.lora_layers[0].base_layer.weight
    residual = adapted.weights.originals[0] - quantized
    best = torch.linalg.svdvals(residual)[fixed:].norm()
    assert (residual - before).norm() <= 1.02 * best
    trainer.train([make_configuration(trainer, 1), wanted], 1)
    assert torch.equal(fixed_product(), before)


def test_residual_training_resumes_exactly(make_trainer, make_configuration) -> None:
    options = {"init": "residual", "residual_rank": 2}
    first, resumed = make_trainer(**options), make_trainer(**options)
    chosen = [make_configuration(first, index) for index in range(2)]
    first.train(chosen, 1)
    resumed.load_state(first.state())
    assert [e.loss for e in first.evaluate(chosen, "validation")] == [
        e.loss for e in resumed.evaluate(chosen, "validation")
    ]


@pytest.mark.parametrize("norm", ["inputs", "frobenius"])
def test_residual_factors_of_full_rank_leave_theta_and_the_head_alone_to_train(
    make_trainer, make_configuration, norm
) -> None:
    trainer = make_trainer(residual_rank=4, residual_norm=norm)
    factors = [factor for pair in trainer.study.adapted.factors() for factor in pair]
    assert not any(factor.requires_grad for factor in factors)
    before = trainer.state().tensors
    trainer.train([make_configuration(trainer, 0)], 1)
    after = trainer.state().tensors
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert {name.partition(".")[0] for name in changed} == {"theta", "head"}


def test_half_of_the_rank_is_residual_unless_told_otherwise() -> None:
    assert CoALoRAOptions(rank=16).fixed_rank == 8
    assert CoALoRAOptions(rank=16, init="shared").fixed_rank == 0
    assert CoALoRAOptions(rank=16, residual_rank=16).fixed_rank == 16


def test_alpha_is_divided_by_the_trained_rank() -> None:
    assert CoALoRAOptions(rank=16, alpha=16, residual_rank=4).scaling == pytest.approx(16 / 12)
    assert CoALoRAOptions(rank=16, init="shared").scaling == 1
    assert CoALoRAOptions(rank=16, residual_rank=16).scaling == 1


def test_a_residual_rank_above_the_model_is_refused(make_trainer) -> None:
    trainer = make_trainer(rank=80)
    for use in (trainer.requirements, lambda: trainer.study.adapted):
        with pytest.raises(InputError, match=r"residual_rank \(half of trainer.rank.*\) 40 .* 32"):
            use()


def test_residual_factors_are_by_default_in_the_norm_of_the_inputs(
    make_trainer, make_configuration
) -> None:
    found = {}
    for norm in ("inputs", "frobenius"):
        trainer = make_trainer(rank=8, residual_norm=norm)
        assert make_trainer(rank=8).study.options.residual_norm == "inputs"
        trainer.place(make_configuration(trainer, 0))
        layer = trainer.study.adapted.lora_layers[3]
        A, B = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        off = trainer.study.adapted.weights.originals[3] - layer.base_layer.weight
        found[norm] = off - (B[:, :4] @ A[:4]).detach() * trainer.study.options.scaling
        inputs: list[torch.Tensor] = []
        layer.register_forward_pre_hook(lambda _, given, seen=inputs: seen.append(given[0]))
        trainer.evaluate([make_configuration(trainer, 0)], "validation")
        x = torch.cat([rows.reshape(-1, rows.shape[-1]) for rows in inputs])
    # Each is the better one in its own norm.
    assert found["frobenius"].norm() < found["inputs"].norm()
    assert (x @ found["inputs"].T).norm() < (x @ found["frobenius"].T).norm()


def test_weights_that_are_not_finite_are_told_with_their_layer(
    make_trainer, make_configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()
    good = trainer.study.quantizer.dequantize
    monkeypatch.setattr(
        trainer.study.quantizer, "dequantize", lambda found: good(found) * float("nan")
    )
    first = trainer.layers()[0].name
    with pytest.raises(EvaluationError, match=rf"'{first}' .*bits.* not finite"):
        trainer.evaluate([make_configuration(trainer, 0)], "validation")


def test_other_training_data_than_the_adapters_is_refused(
    bert_folder, table_files, quantizer, make_configuration, tmp_path
) -> None:
    """Residual factors follow from its inputs: the adapter would be another one."""
    train = tmp_path / "train.tsv"
    train.write_text(table_files[0].read_text())

    def make() -> CoALoRATrainer:
        task = Classification(Classification.Options(train=train, validation=table_files[1]))
        options = CoALoRATrainer.Options(rank=4, steps=2, batch_size=8)
        return CoALoRATrainer(options, ModelSpec(name=str(bert_folder)), task, quantizer, 0)

    trained = make()
    trained.train([make_configuration(trained, 0)], 1)
    state = trained.state()
    make().load_state(state)
    unknown = {k: v for k, v in state.metadata.items() if k != "input_sizes"}
    make().load_state(TrainerState(state.tensors, unknown))
    with train.open("a") as stream:
        stream.write("w59 w58 w57\tright\n")
    with pytest.raises(InputError, match=r"other training data.*root mean square"):
        make().load_state(state)


@pytest.mark.parametrize("field", ["learning_rate", "theta_learning_rate", "alpha"])
def test_rates_without_bound_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match="finite"):
        CoALoRAOptions(**{field: float("inf")})


@pytest.mark.parametrize(
    "options",
    [
        {"init": "shared", "residual_rank": 2},
        {"init": "residual", "rank": 4, "residual_rank": 5},
        {"rank": 4, "theta": {"rank": 5}},
        {"batch_size": 1, "configurations_per_step": 2},
        {"unknown": 1},
    ],
)
def test_options_that_do_not_fit_are_refused(options) -> None:
    with pytest.raises(
        ValueError, match=r"residual_rank|theta\.rank 5|configurations_per_step|Extra"
    ):
        CoALoRAOptions(**options)


def test_the_weighted_mean_of_equal_weights_has_the_textbook_standard_error() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 9.0])
    mean, error = weighted_mean(values, torch.full((4,), 3.0))
    assert mean == pytest.approx(4.0)
    assert error == pytest.approx(values.std().item() / 2)


def test_a_state_from_before_theta_had_more_options_is_read(make_trainer) -> None:
    trainer = make_trainer()
    state = trainer.state()
    assert state.metadata["belongs_to"]["theta"] == {"embedding_dim": 8, "hidden": 128}
    make_trainer().load_state(state)


def test_a_state_of_another_adjustment_is_refused(make_trainer) -> None:
    state = make_trainer(theta={"adjustment": "additive"}).state()
    with pytest.raises(InputError, match=r"theta was .*additive"):
        make_trainer().load_state(state)


@pytest.mark.parametrize(
    "theta", [{"adjustment": "additive"}, {"rank": 2}, {"role": False, "block": False}]
)
def test_every_shape_of_theta_trains_and_folds(make_trainer, make_configuration, theta) -> None:
    trainer = make_trainer(theta=theta, learning_rate=1e-2)
    chosen = make_configuration(trainer, 0)
    trainer.train([chosen], 1)
    adapted = trainer.study.adapted
    adapted.peft_model.eval()
    trainer.place(chosen)
    batch = next(iter(trainer.study.task.batches("validation", 8)))
    with torch.no_grad():
        adjusted = adapted.logits(batch)
        factors = list(adapted.folded_factors(chosen))
        adapted.projections.clear()
        plain = adapted.logits(batch)
        for own, plain_lora in zip(adapted.factors(), factors, strict=True):
            for one, other in zip(own, plain_lora, strict=True):
                one.copy_(other)
        folded = adapted.logits(batch)
    assert not torch.allclose(adjusted, plain, atol=1e-6)
    torch.testing.assert_close(folded, adjusted, atol=1e-5, rtol=1e-4)


def test_bfloat16_evaluates_about_as_float32_and_trains_the_same(
    make_trainer, make_configuration
) -> None:
    found, factors = {}, {}
    for precision in ("float32", "bfloat16"):
        trainer = make_trainer(steps=20, learning_rate=5e-3, eval_precision=precision)
        chosen = make_configuration(trainer, 0)
        trainer.train([chosen], 1)
        (found[precision],) = trainer.evaluate([chosen], "validation")
        factors[precision] = trainer.state().tensors
    assert found["bfloat16"].loss != found["float32"].loss
    assert found["bfloat16"].loss == pytest.approx(found["float32"].loss, rel=0.02)
    for name, tensor in factors["float32"].items():
        assert torch.equal(tensor, factors["bfloat16"][name])
