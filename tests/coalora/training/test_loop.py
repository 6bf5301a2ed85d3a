from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from qsearch_coalora.methods.shared_lora import SharedLoRATrainer
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_coalora.training.early_stopping import HeldOutLoss, spread_over
from qsearch_coalora.training.evaluation import held_out_loss
from qsearch_coalora.training.loop import TrainingLoop
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


def test_a_training_that_was_killed_stops_as_early_as_if_never_stopped(
    make_trainer, make_configuration, tmp_path
) -> None:
    """With all that a step depends on, through a file: the best look may precede the kill."""
    options = {
        "steps": 60,
        "learning_rate": 0.1,
        "schedule": "constant",
        "theta_start": 0.1,
        "checkpoint_steps": 1,
        "batch_size": 7,
        "accumulation_steps": 2,
        "precision": "bfloat16",
        "weight_decay": 0.1,
        "sampling": {"by": "loss"},
        "early_stopping": {"examples": 24, "every": 3, "patience": 1},
    }
    whole = make_trainer(**options)
    chosen = [make_configuration(whole, index) for index in range(3)]
    prepare_directory(tmp_path / "study")
    file = read_checkpoint(tmp_path / "study", 1)
    steps = itertools.count(1)

    def keep_some(state: TrainerState) -> None:
        if next(steps) in (2, 8):
            file.save(state)

    expected = whole.train_resumably(chosen, 1, None, TrainingCheckpoint(lambda: None, keep_some))
    assert 8 < expected.steps < 60
    resumed = make_trainer(**options)
    seen: list[int] = []
    report = resumed.train_resumably(
        chosen,
        1,
        lambda step, total, loss: seen.append(step),
        TrainingCheckpoint(file.load, lambda state: None),
    )
    assert seen[0] == 9
    assert report.losses == expected.losses
    assert report.details["held_out_loss"] == expected.details["held_out_loss"]
    assert equal(whole.state(), resumed.state())


class CountedAlike(CausalLanguageModelling):
    """Does not say what its examples weigh."""

    example_weights = None


def test_packed_text_trains_as_if_each_example_counted_alike(
    make_trainer, make_causal_task, make_configuration, llama_folder
) -> None:
    """To the bit: all its sequences have equally many predicted tokens."""
    states = []
    for kind in (CausalLanguageModelling, CountedAlike):
        # Batches of 7 and 3 sequences, the larger ones in three unequal pieces.
        task = kind(make_causal_task(train_tokens=24 * 10).options)
        trainer = make_trainer(
            method=SharedLoRATrainer,
            task=task,
            model=llama_folder,
            batch_size=7,
            accumulation_steps=3,
            configurations_per_step=3,
        )
        trainer.train([make_configuration(trainer, seed) for seed in range(3)], 1)
        states.append(trainer.state())
    assert equal(*states)


@pytest.mark.parametrize(("round", "joined"), [(1, False), (2, True)])
def test_theta_joins_after_its_share_of_the_first_round(
    make_trainer, make_configuration, round: int, joined: bool
) -> None:
    trainer = make_trainer(steps=4, checkpoint_steps=2, theta_start=0.5)
    before = trainer.state().tensors
    kept: list[TrainerState] = []
    checkpoint = TrainingCheckpoint(lambda: None, kept.append)
    trainer.train_resumably([make_configuration(trainer, 0)], round, None, checkpoint)
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
        torch.nn.init.zeros_(trainer.study.adapted.theta.output.weight)
        torch.nn.init.zeros_(trainer.study.adapted.theta.output.bias)
        trainer.train([make_configuration(trainer, 0)], 1)
        states.append(trainer.state())
        own = [name for name in before if name.startswith("theta.") and "output" not in name]
        assert own
        assert all(torch.equal(before[name], states[-1].tensors[name]) for name in own)
    # With U = 0, whether θ has joined makes no difference then.
    assert equal(*states)


def test_early_stopping_takes_the_step_of_the_least_held_out_loss_once_theta_has_joined(
    make_trainer, make_configuration
) -> None:
    stopping = {"examples": 24, "every": 1, "patience": 1}
    trainer = make_trainer(steps=40, learning_rate=0.5, theta_start=0.5, early_stopping=stopping)
    chosen = [make_configuration(trainer, index) for index in range(3)]
    report = trainer.train(chosen, 1)
    assert 20 < report.steps < 40
    trainer.study.adapted.peft_model.eval()
    again = [held_out_loss(trainer.study, configuration) for configuration in chosen]
    assert sum(again) / 3 == pytest.approx(report.details["held_out_loss"], rel=1e-6)


def test_time_in_held_out_looks_is_no_part_of_the_steps(
    make_trainer, make_configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = {"examples": 8, "every": 1, "patience": 9}
    trainer = make_trainer(steps=4, theta_start=0, early_stopping=stopping)
    loop = TrainingLoop(trainer.study, [make_configuration(trainer, 0)], 1)
    now = [0.0]

    def taking(seconds: float, work: Callable[..., object]) -> Callable[..., object]:
        def slow(*arguments: object) -> object:
            now[0] += seconds
            return work(*arguments)

        return slow

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr(HeldOutLoss, "look", taking(10.0, HeldOutLoss.look))
    adapted = trainer.study.adapted
    monkeypatch.setattr(adapted, "activate", taking(1.0, adapted.activate))
    report = loop.run(None, lambda state: None)
    # Each step switches twice, each look once more. The look before the first step counts nowhere.
    assert report.seconds == 4 * (2.0 + 10.0 + 1.0)
    assert report.details["switch_share"] == 1.0


def test_a_round_that_only_harms_ends_with_the_adapter_it_began_with(
    make_trainer, make_configuration
) -> None:
    stopping = {"examples": 24, "every": 2, "patience": 2}
    trainer = make_trainer(steps=10, theta_start=0, early_stopping=stopping)
    chosen = [make_configuration(trainer, index) for index in range(3)]
    trainer.train(chosen, 1)
    before = trainer.state().tensors
    harmful = make_trainer(steps=40, learning_rate=0.5, early_stopping=stopping)
    harmful.load_state(trainer.state())
    report = harmful.train(chosen, 2)
    assert report.steps == 4
    for name, tensor in harmful.state().tensors.items():
        assert torch.equal(tensor, before[name])


def test_held_out_examples_are_not_trained_on(make_trainer) -> None:
    trainer, whole = make_trainer(early_stopping={"examples": 30}), make_trainer()
    digests, _ = (each.input_digests().data for each in (trainer, whole))
    counts = {split: digest.count for split, digest in digests.items()}
    assert counts == {"train": 66, "held-out": 30, "validation": 40}
    task = trainer.study.task
    both = sorted(task._read("train").texts + task._read("held-out").texts)
    assert both == sorted(whole.study.task._read("train").texts)
    with pytest.raises(InputError, match=r"early_stopping\.examples 96 must be below the 96"):
        make_trainer(early_stopping={"examples": 96}).study.loaded  # noqa: B018


def test_followed_configurations_are_spread_over_average_bits() -> None:
    bits = [3.0, 8.0, 2.0, 5.0, 4.0]  # Configurations, and their average bits.
    assert spread_over(bits, 3, list) == [2.0, 4.0, 8.0]
    assert spread_over(bits, 1, list) == [4.0]
    assert spread_over(bits, 9, list) == bits


def test_bfloat16_trains_about_as_float32_and_keeps_float32_factors(
    make_trainer, make_configuration
) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        trainer = make_trainer(steps=10, learning_rate=5e-3, precision=precision)
        chosen = [make_configuration(trainer, index) for index in range(3)]
        inputs: set[torch.dtype] = set()
        factor = trainer.study.adapted.lora_layers[-1].lora_A["default"]
        factor.register_forward_pre_hook(lambda _, given, seen=inputs: seen.add(given[0].dtype))
        report = trainer.train(chosen, 1)
        assert inputs == {getattr(torch, precision)}
        losses[precision] = sum(report.losses) / 10
        assert report.details["bfloat16"] == (precision == "bfloat16")
        assert all(t.dtype == torch.float32 for t in trainer.state().tensors.values())
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.15)


@pytest.mark.parametrize(
    ("schedule", "middle", "last"),
    [("linear", 0.5, 1 / 90), ("cosine", 0.5, 3e-4), ("constant", 1.0, 1.0)],
)
def test_rates_rise_in_the_warm_up_and_never_after(schedule, middle, last) -> None:
    shares = [rate_share(schedule, step, 100, 10) for step in range(100)]
    assert shares[:10] == [(step + 1) / 11 for step in range(10)]
    assert shares[10] == 1.0
    assert all(after <= before for before, after in itertools.pairwise(shares[10:]))
    assert (shares[55], shares[99]) == (pytest.approx(middle), pytest.approx(last, rel=0.02))
