"""A small model in memory, its space, and a study of it that has been searched."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn

import qsearch
from qsearch.space.configuration import LayerConfiguration

OPTIONS = {"bits": [2, 3, 4, 8], "group_size": [32]}
BITS = (2.75, 7.0)
TRIALS, INITIAL = 10, 5

Loss = Callable[[Mapping[str, LayerConfiguration]], float]


@pytest.fixture(scope="session")
def model() -> nn.Module:
    """A module that qsearch has never heard of; no test changes it."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 32)
    )


@pytest.fixture(scope="session")
def loss(model: nn.Module) -> Loss:
    """How far a configuration moves the model's outputs."""
    inputs = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        outputs = model(inputs)

    def objective(configuration: Mapping[str, LayerConfiguration]) -> float:
        with torch.no_grad(), qsearch.quantized(model, configuration):
            return float(nn.functional.mse_loss(model(inputs), outputs))

    return objective


@pytest.fixture(scope="session")
def space(model: nn.Module) -> qsearch.Space:
    return qsearch.Space.from_model(model, "integer", OPTIONS)


@pytest.fixture(scope="session")
def searched(
    space: qsearch.Space, loss: Loss, tmp_path_factory: pytest.TempPathFactory
) -> qsearch.Study:
    """A study that has been optimized; read-only for tests."""
    directory = tmp_path_factory.mktemp("searched") / "mine"
    study = qsearch.create_study(space, directory, bits=BITS, initial=INITIAL)
    study.optimize(loss, trials=TRIALS)
    return study
