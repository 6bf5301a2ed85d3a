"""Running out of memory is one clear error."""

from __future__ import annotations

import pytest
import torch
from qsearch_coalora.settings.memory import OutOfMemoryError, clear_memory_errors

from qsearch.errors import EvaluationError

CPU_ERROR = "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: 1 TB"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.\nmore"),
        MemoryError(),
        RuntimeError(CPU_ERROR),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    ],
)
def test_running_out_of_memory_says_which_options_take_it(error: Exception) -> None:
    with (
        pytest.raises(OutOfMemoryError, match=r"trainer\.batch_size") as told,
        clear_memory_errors(),
    ):
        raise error
    assert "\n" not in str(told.value)


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), clear_memory_errors():
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize("part", ["train", "sensitivity", "quantization_error"])
def test_a_trainer_reports_it(
    make_trainer, make_configuration, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    trainer = make_trainer()
    chosen = [make_configuration(trainer, 0)]
    trainer.study.adapted  # noqa: B018

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer.study.adapted, "logits", fail)
    monkeypatch.setattr(trainer.study.quantizer, "quantize", fail)
    arguments = {"quantization_error": (list(chosen[0].values())[:1],)}
    with pytest.raises(OutOfMemoryError):
        getattr(trainer, part)(*arguments.get(part, (chosen, 1)))


def test_an_evaluation_without_memory_fails_alone_and_says_why(
    make_trainer, make_configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()
    trainer.study.adapted  # noqa: B018
    monkeypatch.setattr(trainer.study.adapted, "logits", lambda _: torch.empty(2**55))
    with pytest.raises(EvaluationError, match=r"trainer\.eval_batch_size"):
        trainer.evaluate([make_configuration(trainer, 0)], "validation")


def test_a_model_that_could_not_be_made_is_made_again(
    make_trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()
    with monkeypatch.context() as failing:
        failing.setattr(
            "qsearch_coalora.adapter.adapted_model.input_norms",
            lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")),
        )
        with pytest.raises(OutOfMemoryError):
            trainer.study.adapted  # noqa: B018
    # Not the half of it that had been made, whose residual factors would be in another norm.
    assert all(size is not None for size in trainer.study.adapted.input_sizes())
