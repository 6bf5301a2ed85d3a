from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
from qsearch_coalora.methods.coa_lora import CoALoRAOptions, CoALoRATrainer
from qsearch_coalora.methods.lq_lora import LQLoRATrainer

from qsearch.errors import EvaluationError, InputError
from qsearch.plugins.protocols import TrainerState
from qsearch.space.configuration import Configuration


def test_training_lowers_the_loss_and_changes_every_part(make_trainer, make_configuration) -> None:
    trainer = make_trainer(steps=30, learning_rate=2e-2)
    before = trainer.state().tensors
    chosen = [make_configuration(trainer, index) for index in range(4)]
    report = trainer.train(chosen, 1)
    assert report.steps == 30
    assert sum(report.losses[-5:]) < sum(report.losses[:5]) * 0.98
    after = trainer.state().tensors
    for part in ("lora.", "theta.", "head."):
        names = [name for name in before if name.startswith(part)]
        assert any(not torch.equal(before[name], after[name]) for name in names)


def test_a_step_shares_its_examples_among_configurations(make_trainer, make_configuration) -> None:
    trainer = make_trainer(steps=3, configurations_per_step=2)
    chosen = [make_configuration(trainer, index) for index in range(3)]
    used: list[Configuration] = []
    trainer.study.adapted.followers.append(used.append)
    trainer.train(chosen, 1)
    assert len(used) == 6
    assert set(used) == set(chosen)


def test_without_a_number_no_more_configurations_share_a_batch_than_it_has_examples() -> None:
    assert CoALoRAOptions(batch_size=1).batch_configurations == 1
    assert CoALoRAOptions(batch_size=8).batch_configurations == 2


def test_the_first_round_may_have_its_own_number_of_steps(make_trainer, make_configuration) -> None:
    trainer = make_trainer(first_steps=3, steps=2)
    chosen = [make_configuration(trainer, 0)]
    assert trainer.train(chosen, 1).steps == 3
    assert trainer.train(chosen, 2).steps == 2


def test_a_loss_that_is_no_number_is_returned_as_it_is(make_trainer, make_configuration) -> None:
    trainer = make_trainer()
    wanted = make_configuration(trainer, 0)
    with torch.no_grad():
        trainer.study.adapted.theta.output.bias.fill_(float("nan"))
    assert math.isnan(trainer.evaluate([wanted], "validation")[0].loss)


def test_a_small_cache_changes_no_result(make_trainer, make_configuration) -> None:
    small, large = make_trainer(cache_mebibytes=0), make_trainer(cache_mebibytes=64)
    chosen = [make_configuration(small, index) for index in range(3)]
    assert small.train(chosen, 1).details["cache_hit_rate"] == 0
    details = large.train(chosen, 1).details
    assert 0 < details["cache_hit_rate"] < 1
    assert 0 < details["cache_mebibytes"] <= details["cache_mebibytes_allowed"] == 64
    assert details["switch_seconds"] > 0
    assert [e.loss for e in small.evaluate(chosen, "validation")] == [
        e.loss for e in large.evaluate(chosen, "validation")
    ]
    assert small.study.adapted.weights.cache.counts.nbytes == 0


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


def test_residual_factors_of_full_rank_leave_theta_and_the_head_alone_to_train(
    make_trainer, make_configuration
) -> None:
    trainer = make_trainer(residual_rank=4)
    factors = [factor for pair in trainer.study.adapted.factors() for factor in pair]
    assert not any(factor.requires_grad for factor in factors)
    before = trainer.state().tensors
    trainer.train([make_configuration(trainer, 0)], 1)
    after = trainer.state().tensors
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert {name.partition(".")[0] for name in changed} == {"theta", "head"}


@pytest.mark.parametrize(
    ("method", "rank", "message"),
    [
        (CoALoRATrainer, 80, r"residual_rank \(half of trainer.rank.*\) 40 .* 32"),
        (LQLoRATrainer, 33, r"trainer\.rank 33 is above .* 32"),
    ],
)
def test_a_rank_above_the_models_features_is_refused(make_trainer, method, rank, message) -> None:
    trainer = make_trainer(method=method, rank=rank)
    for use in (trainer.requirements, lambda: trainer.study.adapted):
        with pytest.raises(InputError, match=message):
            use()


def test_a_quantizer_that_fails_is_an_evaluation_error(
    make_trainer, make_configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()
    chosen, quantizer = [make_configuration(trainer, 0)], trainer.study.quantizer
    with monkeypatch.context() as failing:
        failing.setattr(quantizer, "quantize", mock.Mock(side_effect=RuntimeError("no codes")))
        with pytest.raises(EvaluationError, match="no codes"):
            trainer.evaluate(chosen, "validation")
    good, first = quantizer.dequantize, trainer.layers()[0].name
    monkeypatch.setattr(quantizer, "dequantize", lambda found: good(found) * float("nan"))
    with pytest.raises(EvaluationError, match=rf"'{first}' .*bits.* not finite"):
        trainer.evaluate(chosen, "validation")


def test_bfloat16_evaluates_about_as_float32(make_trainer, make_configuration) -> None:
    plain, other = make_trainer(learning_rate=1e-2), make_trainer(eval_precision="bfloat16")
    chosen = [make_configuration(plain, 0)]
    plain.train(chosen, 1)
    other.load_state(plain.state())
    (expected,), (found,) = (each.evaluate(chosen, "validation") for each in (plain, other))
    assert found.loss != expected.loss
    assert found.loss == pytest.approx(expected.loss, rel=0.02)


@pytest.mark.parametrize(
    ("saved", "difference"),
    [
        ({"theta": {"adjustment": "additive"}}, "theta was .*additive"),
        ({"residual_norm": "frobenius"}, "residual_norm was 'frobenius', is 'inputs'"),
    ],
)
def test_a_state_of_other_options_is_refused_with_what_differs(
    make_trainer, saved, difference: str
) -> None:
    state = make_trainer(**saved).state()
    with pytest.raises(InputError, match=difference):
        make_trainer().load_state(state)


@pytest.mark.parametrize(
    ("options", "fixed_rank", "scaling"),
    [
        ({}, 8, 2.0),
        ({"init": "shared"}, 0, 1.0),
        ({"residual_rank": 16}, 16, 1.0),
        ({"alpha": 16, "residual_rank": 4}, 4, 16 / 12),
    ],
)
def test_half_of_the_rank_is_residual_and_alpha_is_over_the_trained_rank(
    options, fixed_rank: int, scaling: float
) -> None:
    found = CoALoRAOptions(rank=16, **options)
    assert (found.fixed_rank, found.scaling) == (fixed_rank, pytest.approx(scaling))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": float("inf")}, "finite"),
        ({"init": "shared", "residual_rank": 2}, "residual_rank"),
        ({"init": "residual", "rank": 4, "residual_rank": 5}, "residual_rank"),
        ({"rank": 4, "theta": {"rank": 5}}, r"theta\.rank 5"),
        ({"batch_size": 1, "configurations_per_step": 2}, "configurations_per_step"),
        ({"calibration_batches": 0}, "greater than or equal to 1"),
        ({"unknown": 1}, "Extra"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CoALoRAOptions(**options)
