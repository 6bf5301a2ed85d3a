"""TensorBoard's event files, read by TensorBoard."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from qsearch_loggers.tensorboard import tensorboard

from qsearch.errors import InputError
from tests.loggers.runs import Recording

pytest.importorskip("tensorboard", reason="the dev extra brings tensorboard")

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator


def logged(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """All values by name as (step, value), in the order in which TensorBoard reads them."""
    folder = str(directory / "tensorboard")
    events = EventAccumulator(folder, size_guidance={SCALARS: 0}).Reload()
    names = events.Tags()[SCALARS]
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in names}


def test_a_resumed_study_continues_its_values_even_after_half_an_event(
    recording: Recording, tmp_path: Path
) -> None:
    recording.first.play("tensorboard", tmp_path)
    (file,) = (tmp_path / "tensorboard").iterdir()
    with file.open("ab") as stream:
        stream.write(b"\x18\x00\x00\x00\x00\x00")
    recording.second.play("tensorboard", tmp_path)
    recording.assert_complete(logged(tmp_path))
    assert [step for step, _ in logged(tmp_path)["training/loss"]] == [1, 2, 3, 4, 5, 6]


def test_without_tensorboard_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'qsearch-llm\[tensorboard\]'"):
        tensorboard(tmp_path, "fake")
    assert list(tmp_path.iterdir()) == []
