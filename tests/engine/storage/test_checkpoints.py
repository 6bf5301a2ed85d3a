"""What training leaves on disk: a round's checkpoint, and resuming from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qsearch.monitoring.events import Event
from qsearch.plugins.protocols import TrainerState
from qsearch.storage.checkpoints import read_checkpoint
from qsearch.storage.directory import prepare_directory
from qsearch.study.run import run_spec
from tests.engine.fake_study import SMALL, study_spec

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


def test_a_killed_round_resumes_from_its_saved_step(tmp_path: Path) -> None:
    steps: list[int] = []

    def observe(event: Event) -> None:
        if event.kind == "training":
            steps.append(event.fields["step"])
            if len(steps) == 3:
                raise KeyboardInterrupt

    spec = study_spec(**SMALL, trainer__name="resuming", search__rounds=1)
    with pytest.raises(KeyboardInterrupt):
        run_spec(spec, tmp_path, observer=observe)
    run_spec(spec, tmp_path, observer=observe)
    assert steps == [1, 2, 3, 4]
    assert not list((tmp_path / "state").glob("training-*"))
