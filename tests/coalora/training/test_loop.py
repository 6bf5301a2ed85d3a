from __future__ import annotations

import itertools
import math

import pytest
import torch
from qsearch_coalora.training.early_stopping import spread_over
from qsearch_coalora.training.schedule import rate_share

from qsearch.errors import InputError
from qsearch.plugins.capabilities import TrainingCheckpoint
from qsearch.plugins.protocols import TrainerState
from qsearch.storage.checkpoints import read_checkpoint
from qsearch.storage.directory import prepare_directory


def equal(first: TrainerState, second: TrainerState) -> bool:
    return set(first.tensors) == set(second.tensors) and all(
        torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors
    )


class StoppedError(Exception):
    """Stands for a killed process."""


def stopped_after(saves: int) -> tuple[TrainingCheckpoint, list[TrainerState]]:
    """Keep states, and stop the training at a save."""
    kept: list[TrainerState] = []

    def save(state: TrainerState) -> None:
        kept.append(state)
        if len(kept) == saves:
            raise StoppedError

    return TrainingCheckpoint(lambda: None, save), kept


@pytest.mark.parametrize("by", ["uniform", "segment", "loss"])
@pytest.mark.parametrize("saves", [1, 3])
def test_a_training_that_was_killed_goes_on_as_if_never_stopped(
    make_trainer, make_configuration, by: str, saves: int
) -> None:
    options = {
        "steps": 11,
        "checkpoint_steps": 3,
        "sampling": {"by": by},
        "early_stopping": {"examples": 16, "every": 4, "patience": 9},
    }
    whole = make_trainer(**options)
    chosen = [make_configuration(whole, index) for index in range(3)]
    expected = whole.train(chosen, 0)
    killed = make_trainer(**options)
    unfinished, kept = stopped_after(saves)
    with pytest.raises(StoppedError):
        killed.train_resumably(chosen, 0, None, unfinished)
    resumed = make_trainer(**options)
    seen: list[int] = []
    report = resumed.train_resumably(
        chosen,
        0,
        lambda step, total, loss: seen.append(step),
        TrainingCheckpoint(lambda: kept[-1], lambda state: None),
    )
    assert seen[0] == 3 * saves + 1
    assert report.losses == expected.losses
    assert equal(whole.state(), resumed.state())


@pytest.mark.parametrize("saves", [1, 4, -2, -1])
def test_a_training_that_was_killed_stops_as_early_as_if_never_stopped(
    make_trainer, make_configuration, tmp_path, saves: int
) -> None:
    """With all that a step depends on, through a file: the best look may precede the kill."""
    options = {
        "steps": 60,
        "learning_rate": 0.1,
        "schedule": "constant",
        "theta_start": 0.1,
        "checkpoint_steps": 1,
        "batch_size": 7,
        "accumulation_steps": 3,
        "precision": "bfloat16",
        "weight_decay": 0.1,
        "sampling": {"by": "loss"},
        "early_stopping": {"examples": 24, "every": 3, "patience": 2},
    }
    whole = make_trainer(**options)
    chosen = [make_configuration(whole, index) for index in range(3)]
    expected = whole.train(chosen, 0)
    assert 8 < expected.steps < 60
    prepare_directory(tmp_path / "study")
    file = read_checkpoint(tmp_path / "study", 0)
    last = saves if saves > 0 else expected.steps + 1 + saves
    count = itertools.count(1)

    def save(state: TrainerState) -> None:
        file.save(state)
        if next(count) == last:
            raise StoppedError

    with pytest.raises(StoppedError):
        make_trainer(**options).train_resumably(
            chosen, 0, None, TrainingCheckpoint(lambda: None, save)
        )
    resumed = make_trainer(**options)
    unfinished = TrainingCheckpoint(file.load, lambda state: None)
    report = resumed.train_resumably(chosen, 0, None, unfinished)
    assert report.losses == expected.losses
    assert report.details["held_out_loss"] == expected.details["held_out_loss"]
    assert equal(whole.state(), resumed.state())


def test_a_saved_step_of_another_set_or_round_is_not_used(make_trainer, make_configuration) -> None:
    options = {"steps": 4, "checkpoint_steps": 2}
    first = make_trainer(**options)
    chosen = [make_configuration(first, index) for index in range(3)]
    unfinished, kept = stopped_after(1)
    with pytest.raises(StoppedError):
        first.train_resumably(chosen, 0, None, unfinished)
    for other, round in ((chosen[:2], 0), (chosen, 1)):
        plain, offered = make_trainer(**options), make_trainer(**options)
        plain.train(other, round)
        offered.train_resumably(
            other, round, None, TrainingCheckpoint(lambda: kept[0], lambda state: None)
        )
        assert equal(plain.state(), offered.state())


@pytest.mark.parametrize(("round", "joined"), [(0, False), (1, True)])
def test_theta_joins_after_its_share_of_the_first_round(
    make_trainer, make_configuration, round: int, joined: bool
) -> None:
    trainer = make_trainer(steps=4, checkpoint_steps=2, theta_start=0.5)
    before = trainer.state().tensors
    kept: list[TrainerState] = []
    unfinished = TrainingCheckpoint(lambda: None, kept.append)
    trainer.train_resumably([make_configuration(trainer, 0)], round, None, unfinished)
    weight = "theta.output.weight"
    changed = [not torch.equal(state.tensors[f"model.{weight}"], before[weight]) for state in kept]
    assert changed == [joined]
    assert not torch.equal(trainer.state().tensors[weight], before[weight])


def test_a_rate_of_zero_leaves_theta_alone_and_out_of_the_gradient_norm(
    make_trainer, make_configuration
) -> None:
    states = []
    for start in (0.0, 0.9):
        trainer = make_trainer(
            steps=3, theta_learning_rate=0, theta_start=start, max_grad_norm=1e-3, init="shared"
        )
        before = trainer.state().tensors
        torch.nn.init.zeros_(trainer.adapted.theta.output.weight)
        torch.nn.init.zeros_(trainer.adapted.theta.output.bias)
        trainer.train([make_configuration(trainer, 0)], 0)
        states.append(trainer.state())
        own = [name for name in before if name.startswith("theta.") and "output" not in name]
        assert own
        assert all(torch.equal(before[name], states[-1].tensors[name]) for name in own)
    # With U = 0, whether θ has joined makes no difference then.
    assert equal(*states)


def test_accumulated_batches_are_one_large_batch(make_trainer, make_configuration) -> None:
    # Without dropout and with one pass over the data a step, both see the same examples.
    states = []
    for size, accumulated in ((96, 1), (24, 4)):
        trainer = make_trainer(
            steps=2,
            batch_size=size,
            accumulation_steps=accumulated,
            configurations_per_step=1,
            learning_rate=1e-2,
        )
        for module in trainer.adapted.peft_model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer.train([make_configuration(trainer, 0)], 0)
        states.append(trainer.state().tensors)
    # Within a hundredth of what AdamW's first step moves: it magnifies how sums are rounded.
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-3, atol=1e-4)


def test_early_stopping_takes_the_step_of_the_least_held_out_loss(
    make_trainer, make_configuration
) -> None:
    trainer = make_trainer(
        steps=400,
        learning_rate=0.3,
        schedule="constant",
        early_stopping={"examples": 24, "every": 2, "patience": 2},
    )
    chosen = [make_configuration(trainer, index) for index in range(3)]
    report = trainer.train(chosen, 0)
    assert report.steps < 400
    trainer.adapted.peft_model.eval()
    again = [trainer._held_out_loss(configuration) for configuration in chosen]
    assert sum(again) / 3 == pytest.approx(report.details["held_out_loss"], rel=1e-6)


def test_a_round_that_only_harms_ends_with_the_adapter_it_began_with(
    make_trainer, make_configuration
) -> None:
    stopping = {"examples": 24, "every": 2, "patience": 2}
    trainer = make_trainer(steps=40, theta_start=0, early_stopping=stopping)
    chosen = [make_configuration(trainer, index) for index in range(3)]
    trainer.train(chosen, 0)
    before = trainer.state().tensors
    harmful = make_trainer(steps=40, learning_rate=0.5, early_stopping=stopping)
    harmful.load_state(trainer.state())
    report = harmful.train(chosen, 1)
    assert report.steps == 4
    for name, tensor in harmful.state().tensors.items():
        assert torch.equal(tensor, before[name])


def test_no_training_stops_before_theta_has_joined(make_trainer, make_configuration) -> None:
    stopping = {"examples": 24, "every": 1, "patience": 1}
    trainer = make_trainer(steps=40, learning_rate=0.5, theta_start=0.5, early_stopping=stopping)
    report = trainer.train([make_configuration(trainer, index) for index in range(3)], 0)
    assert 20 < report.steps < 40


def test_held_out_examples_are_not_trained_on(make_trainer) -> None:
    trainer = make_trainer(early_stopping={"examples": 30})
    trainer.loaded  # noqa: B018
    task = trainer.task
    assert (task.examples("train"), task.examples("held-out")) == (66, 30)
    whole = make_trainer()
    whole.loaded  # noqa: B018
    both = sorted(task._read("train").texts + task._read("held-out").texts)
    assert both == sorted(whole.task._read("train").texts)


def test_more_held_out_examples_than_there_are_is_refused(make_trainer) -> None:
    with pytest.raises(InputError, match=r"early_stopping\.examples 96 must be below the 96"):
        make_trainer(early_stopping={"examples": 96}).loaded  # noqa: B018


def test_followed_configurations_are_spread_over_average_bits() -> None:
    bits = [3.0, 8.0, 2.0, 5.0, 4.0]
    assert [bits[position] for position in spread_over(bits, 3)] == [2.0, 4.0, 8.0]
    assert [bits[position] for position in spread_over(bits, 1)] == [4.0]
    assert len(spread_over(bits, 9)) == 5


def test_bfloat16_trains_about_as_float32_and_keeps_float32_factors(
    make_trainer, make_configuration
) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        trainer = make_trainer(steps=60, learning_rate=5e-3, precision=precision)
        chosen = [make_configuration(trainer, index) for index in range(3)]
        report = trainer.train(chosen, 0)
        losses[precision] = sum(report.losses[-10:]) / 10
        assert report.details["bfloat16"] == (precision == "bfloat16")
        assert all(t.dtype == torch.float32 for t in trainer.state().tensors.values())
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.15)


@pytest.mark.parametrize(
    ("precision", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_inputs_of_factors_keep_the_precision_of_training(
    make_trainer, make_configuration, precision: str, expected: torch.dtype
) -> None:
    trainer = make_trainer(steps=1, precision=precision)
    seen: set[torch.dtype] = set()
    factor = trainer.adapted.lora_layers[-1].lora_A["default"]
    factor.register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].dtype))
    trainer.train([make_configuration(trainer, 0)], 0)
    assert seen == {expected}


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_rates_rise_in_the_warm_up_and_never_after(schedule) -> None:
    shares = [rate_share(schedule, step, 100, 10) for step in range(100)]
    assert shares[:10] == [(step + 1) / 11 for step in range(10)]
    assert shares[10] == 1.0
    assert all(after <= before for before, after in itertools.pairwise(shares[10:]))
    assert all(share >= 0 for share in shares)


def test_the_cosine_is_at_half_in_the_middle_and_ends_near_zero() -> None:
    assert rate_share("cosine", 50, 100, 0) == pytest.approx(0.5)
    assert rate_share("cosine", 99, 100, 0) < 1e-3
    assert rate_share("linear", 75, 100, 0) == pytest.approx(0.25)
    assert math.isclose(rate_share("constant", 99, 100, 0), 1.0)


def test_a_training_tells_its_cache_and_its_switches(make_trainer, make_configuration) -> None:
    trainer = make_trainer(steps=12, cache_mebibytes=3)
    chosen = [make_configuration(trainer, index) for index in range(2)]
    first, again = trainer.train(chosen, 0).details, trainer.train(chosen, 1).details
    # Of 12 steps, 2 configurations a step, the first pass alone finds nothing in the cache.
    assert 0.5 < first["cache_hit_rate"] < again["cache_hit_rate"] == 1
    assert first["cache_mebibytes_allowed"] == 3
    assert 0 < first["cache_mebibytes"] <= 3
    assert 0 < first["switch_share"] < 1
    assert first["switch_seconds"] > 0


def test_a_cache_without_room_is_told_by_its_hit_rate(make_trainer, make_configuration) -> None:
    trainer = make_trainer(steps=4, cache_mebibytes=0)
    details = trainer.train([make_configuration(trainer, index) for index in range(2)], 0).details
    assert details["cache_hit_rate"] == details["cache_mebibytes"] == 0
