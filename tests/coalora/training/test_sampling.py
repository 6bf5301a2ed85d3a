from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import pytest
import torch
from qsearch_coalora.training.sampling import (
    BatchStream,
    SetSampler,
    loss_weighted_pass,
    segment_pass,
    uniform_pass,
)
from torch import Tensor

from qsearch.space.configuration import Configuration


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(sampler: SetSampler, count: int) -> list[int]:
    return [next(sampler) for _ in range(count)]


def test_configurations_of_equal_bits_are_one_segment() -> None:
    assert set(drawn(SetSampler(3, segment_pass([3.0, 3.0, 3.0], 4), generator()), 60)) == {0, 1, 2}


def test_losses_draw_in_proportion_once_all_are_known() -> None:
    sampler = SetSampler(3, loss_weighted_pass, generator())
    for position, loss in zip(drawn(sampler, 3), [1.0, 1.0, 1.0], strict=True):
        sampler.note(position, loss)
    for _ in range(200):
        sampler.note(2, 8.0)
    found = Counter(drawn(sampler, 3000))
    assert found[2] / 3000 == pytest.approx(0.8, abs=0.04)


def test_a_training_by_segment_gives_segments_equal_shares(make_trainer) -> None:
    sampling = {"by": "segment", "segments": 2}
    trainer = make_trainer(steps=12, configurations_per_step=1, sampling=sampling)
    choices, names = trainer.study.quantizer.choices(), [one.name for one in trainer.layers()]
    low, high = choices.layer_configuration(0), choices.layer_configuration(choices.size - 1)
    # Three of nearly two bits, one of eight.
    chosen = [Configuration(dict.fromkeys(names, low) | {names[n]: high}) for n in range(3)]
    chosen.append(Configuration(dict.fromkeys(names, high)))
    seen: list[Configuration] = []
    trainer.study.adapted.followers.append(seen.append)
    trainer.train(chosen, 1)
    assert seen.count(chosen[3]) == 6


def test_a_training_by_loss_goes_by_the_losses_that_it_met(
    make_trainer, make_configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[Tensor] = []

    def one_pass(losses: Tensor, generator: torch.Generator) -> Tensor:
        met.append(losses.clone())
        return loss_weighted_pass(losses, generator)

    monkeypatch.setattr("qsearch_coalora.training.sampling.loss_weighted_pass", one_pass)
    trainer = make_trainer(steps=3, configurations_per_step=1, sampling={"by": "loss"})
    report = trainer.train([make_configuration(trainer, index) for index in range(2)], 1)
    assert met[0].isnan().all()
    assert sorted(met[1].tolist()) == pytest.approx(sorted(report.losses[:2]))


def test_until_all_have_finite_losses_each_is_drawn_once_in_a_pass() -> None:
    sampler = SetSampler(4, loss_weighted_pass, generator())
    for position, loss in enumerate((100.0, 1.0, 1.0, float("inf"))):
        sampler.note(position, loss)
    assert sorted(drawn(sampler, 4)) == [0, 1, 2, 3]


def test_a_noted_loss_moves_the_mean_by_a_tenth() -> None:
    sampler = SetSampler(1, uniform_pass, generator())
    sampler.note(0, 1.0)
    sampler.note(0, 2.0)
    assert float(sampler.state()["losses"][0]) == pytest.approx(1.1)


def shuffled_numbers(source: torch.Generator) -> Iterator[Mapping[str, Tensor]]:
    for number in torch.randperm(5, generator=source):
        yield {"number": number}


def test_every_pass_of_a_stream_has_every_batch() -> None:
    stream = BatchStream(shuffled_numbers, generator())
    passes = [sorted(int(next(stream)["number"]) for _ in range(5)) for _ in range(3)]
    assert passes == [[0, 1, 2, 3, 4]] * 3
