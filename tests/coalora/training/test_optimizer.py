"""What the training loop has its optimizer do."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from qsearch_coalora.models.loading import require_gradient_checkpointing
from qsearch_coalora.settings.device import multiplies_bfloat16, uses_bfloat16
from qsearch_coalora.training.loop import TrainingLoop
from qsearch_coalora.training.schedule import rate_share

from qsearch.errors import InputError


def rates_of(trainer: Any, configurations: Any, round: int) -> list[list[float]]:
    """Return the rate of each group at each step."""
    seen: list[list[float]] = []
    step = torch.optim.AdamW.step

    def noting(own: Any, *rest: Any) -> Any:
        seen.append([group["lr"] for group in own.param_groups])
        return step(own, *rest)

    with mock.patch.object(torch.optim.AdamW, "step", noting):
        trainer.train(configurations, round)
    return seen


@pytest.mark.parametrize(("schedule", "round", "scale"), [("linear", 1, 1.0), ("cosine", 2, 0.25)])
def test_each_step_has_the_rate_of_its_schedule(
    make_trainer, make_configuration, schedule: str, round: int, scale: float
) -> None:
    trainer = make_trainer(
        steps=9,
        warmup_steps=3,
        schedule=schedule,
        learning_rate=4e-3,
        later_learning_rate=1e-3,
        theta_learning_rate=8e-3,
    )
    found = rates_of(trainer, [make_configuration(trainer, 0)], round)
    shares = [rate_share(schedule, step, 9, 3) for step in range(9)]
    assert len(set(shares)) > 2
    assert [rates[0] for rates in found] == pytest.approx([4e-3 * scale * s for s in shares])
    assert [rates[1] for rates in found] == pytest.approx([8e-3 * scale * s for s in shares])


def test_weight_decay_shrinks_what_is_trained(make_trainer, make_configuration) -> None:
    states = []
    for decay in (0.0, 0.5):
        options = {"steps": 1, "warmup_steps": 0, "learning_rate": 1e-2, "init": "shared"}
        trainer = make_trainer(weight_decay=decay, **options)
        before = trainer.state().tensors
        trainer.train([make_configuration(trainer, 0)], 1)
        states.append(trainer.state().tensors)
    plain, decayed = states
    (name, *_) = [name for name in before if name.endswith(".A")]
    # AdamW takes rate x decay of the weight away, in addition to the same step.
    expected = plain[name] - 1e-2 * 0.5 * before[name]
    torch.testing.assert_close(decayed[name], expected, rtol=1e-4, atol=1e-7)
    assert not torch.equal(decayed[name], plain[name])


def test_each_example_of_accumulated_batches_counts_alike(make_trainer, make_configuration) -> None:
    # 96 examples in batches of 64: the pass ends with one of 32.
    states = []
    for size, accumulated in ((96, 1), (64, 2)):
        trainer = make_trainer(
            steps=1, batch_size=size, accumulation_steps=accumulated, configurations_per_step=1
        )
        for module in trainer.study.adapted.peft_model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        with mock.patch.object(torch.optim.AdamW, "zero_grad"):
            report = trainer.train([make_configuration(trainer, 0)], 1)
        states.append(
            (report.losses, [p.grad for p in trainer.study.adapted.head_parameters().values()])
        )
    (loss, gradients), (its_loss, its_gradients) = states
    assert loss == pytest.approx(its_loss, rel=1e-5)
    for one, other in zip(gradients, its_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("multiplies", [True, False])
def test_auto_is_bfloat16_where_the_hardware_multiplies_it(
    multiplies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: multiplies)
    assert multiplies_bfloat16(cpu) is multiplies
    assert uses_bfloat16("auto", cpu) is multiplies
    assert uses_bfloat16("bfloat16", cpu)
    assert not uses_bfloat16("float32", cpu)


def test_a_model_that_cannot_checkpoint_is_refused() -> None:
    with pytest.raises(InputError, match=r"gradient_checkpointing: Linear cannot"):
        require_gradient_checkpointing(torch.nn.Linear(2, 2))


def test_a_saved_step_is_due_by_steps_or_by_time(
    make_trainer, make_configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("qsearch_coalora.training.loop.time.monotonic", lambda: now[0])

    def progress(step: int, total: int, loss: float) -> None:
        # The fifth step takes long.
        now[0] += 100.0 if step == 5 else 1.0

    trainer = make_trainer(steps=8, checkpoint_steps=4)
    loop = TrainingLoop(trainer.study, [make_configuration(trainer, 0)], 1)
    kept: list[int] = []
    loop.run(progress, lambda state: kept.append(len(state.tensors["losses"])))
    # After four steps, after the long one, and not at the end, where the round is saved.
    assert kept == [4, 5]
