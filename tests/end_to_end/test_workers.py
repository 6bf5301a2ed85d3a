"""Studies of real models on two workers, next to the same studies in one process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pandas.testing import assert_frame_equal

from qsearch.storage.checkpoints import read_adapter
from tests.end_to_end.conftest import command, run, small_study
from tests.end_to_end.tiny_study import write_tiny_study
from tests.engine.support import results

if not os.environ.get("CI"):
    pytest.importorskip("ray", reason="the extra ray is not installed")

pytestmark = pytest.mark.ray


def test_minilm_on_two_workers_equals_minilm_in_one_process(study: Path, tmp_path: Path) -> None:
    """The processes have one thread each, as the study in one process has."""
    directory = tmp_path / "workers"
    run([*small_study(directory), "--workers", "2", "--worker-threads", "1"])
    assert_frame_equal(results(directory), results(study), check_exact=True)


def test_one_adapter_for_each_configuration_trained_by_workers_equals_the_serial_run(
    tmp_path: Path,
) -> None:
    """With lq-lora; qlora trains by the same code, with another start."""
    path = write_tiny_study(tmp_path, "normal-float", (2.3, 4.3))
    serial, workers = tmp_path / "serial", tmp_path / "workers"
    arguments = command("run", path, "--set", "trainer.name=lq-lora", "--out")
    run([*arguments, str(serial)])
    run([*arguments, str(workers), "--workers", "2", "--worker-threads", "1"])
    assert_frame_equal(results(workers), results(serial), check_exact=True)
    (expected, _), (found, report) = read_adapter(serial, 1), read_adapter(workers, 1)
    assert expected.tensors.keys() == found.tensors.keys()
    assert report.steps > 0
    assert "training-" not in " ".join(path.name for path in (workers / "state").iterdir())
