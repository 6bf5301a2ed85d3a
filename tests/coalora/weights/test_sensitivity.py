"""Sensitivities against gradients taken one example at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from qsearch_coalora.training import layer_scores
from qsearch_coalora.weights.sensitivity import layer_sensitivities
from qsearch_coalora.weights.tables import table_at
from torch import Tensor, nn
from transformers.models.bart.modeling_bart import BartScaledWordEmbedding


class Stack(nn.Module):
    """Two linear layers, applied to vectors or to each position of sequences."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(5, 7)
        self.second = nn.Linear(7, 3, bias=False)
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        # Positions are mixed, so an example's gradient is no sum of independent ones.
        hidden = torch.tanh(self.first(inputs))
        if hidden.dim() == 3:
            hidden = hidden + hidden.roll(1, dims=1)
        return self.second(hidden)


def losses_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each example: the mean over its positions."""
    logits = model(inputs)
    losses = nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), reduction="none"
    )
    return losses.reshape(len(inputs), -1).mean(dim=1)


def batches_of(shape: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, *shape, 5, generator=generator),
            torch.randint(3, (size, *shape), generator=generator),
        )
        for size in (4, 3)
    ]


def measured(model: Stack, batches: list[tuple[Tensor, Tensor]]) -> np.ndarray:
    modules = [model.first, model.second]
    runs = [lambda inputs=i, labels=x: losses_of(model, inputs, labels) for i, x in batches]
    return layer_sensitivities(modules, [m.weight for m in modules], runs)


@pytest.mark.parametrize("shape", [(), (1,), (6,)], ids=["vectors", "one position", "sequences"])
def test_equals_explicit_gradients_of_single_examples(shape: tuple[int, ...]) -> None:
    model, batches = Stack(), batches_of(shape)
    found = measured(model, batches)
    expected = []
    for module in (model.first, model.second):
        weight = module.weight.requires_grad_(True)
        losses = torch.cat([losses_of(model, *batch) for batch in batches])
        gradients = [torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in losses]
        squared = [gradient.square().sum().item() for gradient in gradients]
        weight.requires_grad_(False)
        norm = weight.square().sum().item()
        expected.append(0.5 * np.mean(squared) * norm / weight.numel())
    assert found == pytest.approx(expected, rel=1e-5)


class Tokens(nn.Module):
    """A token embedding, perhaps scaled, and an output head, perhaps with the same weight."""

    def __init__(self, tied: bool, scale: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = BartScaledWordEmbedding(9, 5, None, scale)
        self.head = nn.Linear(5, 9, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        self.requires_grad_(False)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, ids: Tensor) -> Tensor:
        hidden = torch.tanh(self.embedding(ids))
        return self.head(hidden + hidden.roll(1, dims=1))


@pytest.mark.parametrize(("tied", "paths"), [(True, ["embedding"]), (False, ["embedding", "head"])])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_tables_have_the_sensitivity_of_their_explicit_gradients(
    tied: bool, paths: list[str], scale: float
) -> None:
    model, generator = Tokens(tied, scale), torch.Generator().manual_seed(1)
    # Few ids, so that a row is looked up several times.
    batches = [torch.randint(4, (size, 6), generator=generator) for size in (4, 3)]
    weights = [model.get_submodule(path).weight for path in paths]
    runs = [lambda ids=ids: losses_of(model, ids, ids.flip(1)) for ids in batches]
    found = layer_sensitivities([], weights, runs, [table_at(model, path) for path in paths])
    expected = []
    for weight in weights:
        weight.requires_grad_(True)
        losses = torch.cat([run() for run in runs])
        gradients = [torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in losses]
        weight.requires_grad_(False)
        mean = np.mean([gradient.square().sum().item() for gradient in gradients])
        expected.append(0.5 * mean * weight.square().mean().item())
    assert found == pytest.approx(expected, rel=1e-4)


def test_predicts_the_mean_square_of_the_loss_change_by_random_errors() -> None:
    """The meaning of the formula: ½ E[(g·D)²] for errors D of no preferred direction."""
    model, (batch, _) = Stack(), batches_of((6,))
    found = measured(model, [batch])
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        before = losses_of(model, *batch)
        for module, sensitivity in zip((model.first, model.second), found, strict=True):
            weight, changes = module.weight.clone(), []
            error = 1e-3 * weight.norm()
            for _ in range(300):
                direction = torch.randn(weight.shape, generator=generator)
                module.weight.copy_(weight + error * direction / direction.norm())
                changes.append((losses_of(model, *batch) - before).square().mean().item())
            module.weight.copy_(weight)
            assert 0.5 * np.mean(changes) / 1e-6 == pytest.approx(sensitivity, rel=0.15)


@pytest.mark.parametrize("fails", [False, True])
def test_no_weight_gets_a_gradient_and_no_hook_stays(fails: bool) -> None:
    model = Stack()
    (batch, _) = batches_of((6,))
    if fails:
        with pytest.raises(ValueError, match="batch_size"):
            measured(model, [(batch[0], batch[1][:1])])
    else:
        measured(model, [batch])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_without_batches_there_is_no_sensitivity() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        measured(Stack(), [])


# The trainer's own


def test_another_round_or_seed_draws_anew(make_trainer, make_configuration) -> None:
    trainer, other = make_trainer(calibration_batches=2), make_trainer(1, calibration_batches=2)
    chosen = [make_configuration(trainer, n) for n in range(3)]
    first = trainer.sensitivity(chosen, 1).tolist()
    torch.manual_seed(1)  # The global generator must not matter.
    assert trainer.sensitivity(chosen, 1).tolist() == first
    assert trainer.sensitivity(chosen, 2).tolist() != first
    assert other.sensitivity(chosen, 1).tolist() != first


def test_trainer_takes_as_many_training_batches_as_asked(
    make_trainer, make_configuration, monkeypatch
) -> None:
    trainer = make_trainer(calibration_batches=3)
    chosen = [make_configuration(trainer, n) for n in range(2)]
    _ = trainer.study.adapted  # Measures the layers' inputs, on batches too.
    seen = []
    batches = trainer.study.task.batches

    def spy(split, *given):
        for batch in batches(split, *given):
            seen.append((split, len(batch["labels"])))
            yield batch

    monkeypatch.setattr(trainer.study.task, "batches", spy)
    trainer.sensitivity(chosen, 1)
    assert seen == [("train", 8)] * 3


def test_parts_of_a_batch_give_the_sensitivities_of_the_whole(
    make_trainer, make_configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for parts in (1, 4):
        monkeypatch.setattr(layer_scores, "GRADIENT_PIECES", parts)
        trainer = make_trainer(calibration_batches=2)
        found.append(trainer.sensitivity([make_configuration(trainer, 0)], 1))
    assert found[0] == pytest.approx(found[1], rel=1e-4)
