"""What training leaves on disk: a round's checkpoint, and resuming from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from qsearch.plugins.capabilities import TrainingCheckpoint
from qsearch.plugins.evaluation import TrainReport
from qsearch.plugins.protocols import Progress, TrainerState
from qsearch.plugins.registry import load_plugin
from qsearch.space.configuration import Configuration
from qsearch.storage.checkpoints import read_checkpoint
from qsearch.storage.directory import prepare_directory
from qsearch.study.run import run_study
from tests.engine.support import SMALL, stopping_at, study_spec

STATE = TrainerState({"weight": torch.arange(6.0).view(2, 3)}, {"step": 3, "of": ["a", "b"]})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    prepare_directory(tmp_path / "run")
    return tmp_path / "run"


def test_a_saved_state_comes_back_with_its_tensors_and_metadata(directory: Path) -> None:
    checkpoint = read_checkpoint(directory, 1)
    assert checkpoint.load() is None
    checkpoint.save(STATE)
    loaded = read_checkpoint(directory, 1).load()
    assert loaded is not None
    assert torch.equal(loaded.tensors["weight"], STATE.tensors["weight"])
    assert loaded.metadata == STATE.metadata
    assert read_checkpoint(directory, 2).load() is None


def test_a_killed_round_resumes_from_its_saved_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = load_plugin("trainers", "fake")
    taken: list[int] = []

    def train_resumably(
        self: Any,
        configurations: Sequence[Configuration],
        round: int,
        progress: Progress | None,
        checkpoint: TrainingCheckpoint,
    ) -> TrainReport:
        saved = checkpoint.load()
        first = 0 if saved is None else int(saved.metadata["step"])
        for step in range(first, 5):
            taken.append(step)
            checkpoint.save(TrainerState({"none": torch.zeros(1)}, {"step": step + 1}))
            if len(taken) == 3:
                raise KeyboardInterrupt
        report: TrainReport = self.train(configurations, round, progress)
        return report

    monkeypatch.setattr(trainer, "train_resumably", train_resumably, raising=False)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_study(
                study_spec(**SMALL),
                tmp_path,
                observer=stopping_at("measuring full precision", error=KeyboardInterrupt),
            )
    assert taken == [0, 1, 2, 3, 4]
    assert not list((tmp_path / "state").glob("training-*"))
