"""Factors by layer and layer configuration: whose gradients train them, and what they make."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from qsearch_coalora.adapter.row_entries import PREFIX
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.methods.composed_lora import ComposedLoRATrainer

from qsearch.errors import InputError
from qsearch.plugins.protocols import TrainerState
from qsearch.space.configuration import Configuration


@pytest.fixture
def make(make_trainer: Any) -> Any:
    """Return a maker of trainers whose rows are in the plain norm."""

    def trainer(**options: Any) -> Any:
        values = {"residual_norm": "frobenius", "residual_rank": 2, "steps": 3} | options
        return make_trainer(method=ComposedLoRATrainer, **values)

    return trainer


def uniform(trainer: Any, choice: int) -> Configuration:
    every = trainer.study.quantizer.choices().layer_configurations
    return Configuration({layer.name: every[choice] for layer in trainer.layers()})


def rows(trainer: Any) -> dict[str, torch.Tensor]:
    tensors = trainer.state().tensors
    return {name: one for name, one in tensors.items() if name.startswith(PREFIX)}


def test_before_training_it_is_the_residual_factors_next_to_plain_lora(
    make: Any, make_trainer: Any
) -> None:
    fixed = make_trainer(method=CoALoRATrainer, residual_norm="frobenius", residual_rank=2)
    trained = make(residual_turns=0)
    for trainer in (fixed, trained):
        trainer.study.adapted.activate(uniform(trainer, 0))
    for own, other in zip(
        trained.study.adapted.factors(), fixed.study.adapted.factors(), strict=True
    ):
        assert torch.equal(own[0], other[0])
        assert torch.equal(own[1], other[1])


def test_quantized_and_low_rank_part_are_found_by_turns(make: Any) -> None:
    errors = []
    for turns in (0, 4):
        trainer = make(residual_turns=turns, residual_norm="inputs", calibration_batches=2)
        adapted, chosen = trainer.study.adapted, uniform(trainer, 0)
        adapted.activate(chosen)
        left = 0.0
        for position, (A, B) in enumerate(adapted.factors()):
            norm, weights = adapted.residual.norms[position], adapted.weights
            low_rank = (B @ A).detach() * adapted.options.scaling
            active = adapted.lora_layers[position].base_layer.weight
            off = weights.originals[position] - active - low_rank
            left += float(norm.whiten(off).square().sum())
        errors.append(left)
    assert errors[1] < errors[0]


def test_where_ranks_are_searched_there_are_no_turns(make: Any) -> None:
    assert ComposedLoRATrainer.Options(rank=4, ranks=(0, 4)).turns == 0
    with pytest.raises(ValueError, match="residual_turns must be 0"):
        ComposedLoRATrainer.Options(rank=4, ranks=(0, 4), residual_turns=2)


def test_a_training_makes_factors_for_the_layer_configurations_that_it_meets(make: Any) -> None:
    trainer = make()
    assert rows(trainer) == {}
    trainer.train([uniform(trainer, 0), uniform(trainer, 3)], 1)
    layer = trainer.layers()[0].name
    own = [name for name in rows(trainer) if name.startswith(f"{PREFIX}{layer}.")]
    assert own == [f"{PREFIX}{layer}.choice-{n}.{which}" for n in (0, 3) for which in "AB"]


def test_a_step_moves_the_factors_of_its_configuration_alone(make: Any) -> None:
    trainer = make(steps=1, configurations_per_step=1, learning_rate=1e-2)
    first, second = uniform(trainer, 0), uniform(trainer, 3)
    before = {c: [*trainer.study.adapted.folded_factors(c)] for c in (first, second)}
    seen: list[Configuration] = []
    trainer.study.adapted.followers.append(seen.append)
    trainer.train([first, second], 1)
    (drawn,) = seen
    for configuration in (first, second):
        for own, old in zip(
            trainer.study.adapted.folded_factors(configuration),
            before[configuration],
            strict=True,
        ):
            assert torch.equal(own[0][:2], old[0][:2]) == (configuration != drawn)
            assert torch.equal(own[1][:, :2], old[1][:, :2]) == (configuration != drawn)


def test_where_little_is_left_to_mend_factors_move_little(make: Any) -> None:
    trainer = make(learning_rate=1e-2, steps=4, configurations_per_step=2)
    every = trainer.study.quantizer.choices().layer_configurations
    two, eight = (next(n for n, one in enumerate(every) if one["bits"] == b) for b in (2, 8))
    chosen = [uniform(trainer, two), uniform(trainer, eight)]
    trainer.study.adapted.residual.open_entries(chosen)
    before = trainer.study.adapted.residual.entries.tensors()
    trainer.train(chosen, 1)
    moved: dict[int, float] = dict.fromkeys((two, eight), 0.0)
    for name, tensor in rows(trainer).items():
        number = int(name.rpartition(".choice-")[2].split(".")[0])
        moved[number] = max(moved[number], float((tensor - before[name]).abs().max()))
    assert moved[two] > 1e-2
    assert 0 < moved[eight] < 0.1 * moved[two]


def test_gradients_are_those_of_the_rows_that_the_model_computes_with(
    make: Any, make_configuration: Any
) -> None:
    trainer = make()
    adapted, wanted = trainer.study.adapted, make_configuration(trainer, 0)
    adapted.residual.open_entries([wanted])
    adapted.activate(wanted)
    batch = next(iter(trainer.study.task.batches("train", 4)))
    adapted.logits(batch).square().sum().backward()
    # By finite differences, on the factor with the largest gradient.
    grads = [
        factor.grad
        for position, layer in enumerate(adapted.adapted_layers)
        for factor in adapted.residual.entries.get(position, wanted[layer.name])
    ]
    position = max(range(0, len(grads), 2), key=lambda place: grads[place].norm().item())
    gradient = grads[position]
    factor = adapted.lora_layers[position // 2].lora_A["default"].weight
    step = 1e-2 * gradient / gradient.norm()
    losses = []
    with torch.no_grad():
        for sign in (1, -2):
            factor[:2] += sign * step
            losses.append(adapted.logits(batch).double().square().sum().item())
    assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(gradient.norm().item(), rel=2e-2)
    for own, _ in adapted.factors():
        assert not own.grad[:2].any()


def test_an_unseen_configuration_is_composed_of_what_was_trained_and_of_residual_factors(
    make: Any,
) -> None:
    trainer = make(learning_rate=1e-2)
    trainer.train([uniform(trainer, 0), uniform(trainer, 3)], 1)
    every = trainer.study.quantizer.choices().layer_configurations
    names = [layer.name for layer in trainer.layers()]
    chosen = [every[(0, 3, 5)[place % 3]] for place in range(len(names))]
    mixed = Configuration(dict(zip(names, chosen, strict=True)))
    parts = {n: [*trainer.study.adapted.folded_factors(uniform(trainer, n))] for n in (0, 3, 5)}
    for place, own in enumerate(trainer.study.adapted.folded_factors(mixed)):
        expected = parts[(0, 3, 5)[place % 3]][place]
        assert torch.equal(own[0], expected[0])
        assert torch.equal(own[1], expected[1])


@pytest.mark.parametrize("residual_rank", [2, 4])
def test_a_state_has_all_that_was_trained(make: Any, residual_rank: int) -> None:
    trainer, other = make(residual_rank=residual_rank), make(residual_rank=residual_rank)
    wanted = uniform(trainer, 0)
    trainer.train([wanted], 1)
    other.load_state(trainer.state())
    (own,), (loaded,) = (one.evaluate([wanted], "validation") for one in (trainer, other))
    assert own.loss == loaded.loss
    assert rows(other).keys() == rows(trainer).keys()


def test_rows_of_an_unknown_layer_are_refused(make: Any) -> None:
    trainer = make()
    trainer.train([uniform(trainer, 0)], 1)
    state = trainer.state()
    wrong = {f"{PREFIX}elsewhere.choice-0.A": torch.zeros(2, 32)}
    with pytest.raises(InputError, match=r"elsewhere\.choice-0\.A, which is not of this study"):
        trainer.load_state(TrainerState({**state.tensors, **wrong}, state.metadata))


def test_a_rank_of_layer_configurations_alone_trains_without_shared_factors(make: Any) -> None:
    trainer = make(residual_rank=4, learning_rate=1e-2)
    wanted = uniform(trainer, 0)
    before = [(A.clone(), B.clone()) for A, B in trainer.study.adapted.folded_factors(wanted)]
    trainer.train([wanted], 1)
    after = [*trainer.study.adapted.folded_factors(wanted)]
    assert all(not torch.equal(a[1], b[1]) for a, b in zip(after, before, strict=True))
    shared = [n for n in trainer.state().tensors if n.startswith("lora.")]
    assert all(not trainer.state().tensors[name].any() for name in shared)
