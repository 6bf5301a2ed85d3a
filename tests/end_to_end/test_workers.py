"""Studies of real models on two workers, next to the same studies in one process."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pandas.testing import assert_frame_equal

from qsearch.execution.workers import Workers
from qsearch.spec.study_spec import load_spec
from qsearch.storage.checkpoints import read_adapter
from qsearch.study.run import run_spec
from tests.end_to_end.conftest import run, small_study
from tests.end_to_end.tiny_study import write_tiny_study
from tests.engine.fake_study import results

if not os.environ.get("CI"):
    pytest.importorskip("ray", reason="the extra ray is not installed")

pytestmark = pytest.mark.ray


def test_minilm_on_two_workers_equals_minilm_in_one_process(study: Path, tmp_path: Path) -> None:
    """The processes have one thread each, as the study in one process has.

    Whatever cluster happens to run on this machine, these workers are of one of their own.
    """
    directory = tmp_path / "workers"
    command = [*small_study(directory), "--workers", "2", "--worker-threads", "1"]
    run(command, RAY_ADDRESS="127.0.0.1:1")
    assert_frame_equal(results(directory), results(study), check_exact=True)


def start_here(kind: type) -> Any:
    """What Ray makes of an actor's class, but in this process: a call is made when it is got."""

    def start(*arguments: Any) -> Any:
        worker = kind(*arguments)

        def method(name: str) -> Any:
            return SimpleNamespace(remote=lambda argument: partial(getattr(worker, name), argument))

        return SimpleNamespace(**{name: method(name) for name in ("use", "evaluate", "train")})

    return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=start))


def test_one_adapter_for_each_configuration_trained_by_workers_equals_the_serial_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With lq-lora; qlora trains by the same code, with another start. Each worker has a model."""
    import ray

    from qsearch.execution import ray_executor

    path = write_tiny_study(tmp_path, "normal-float", (2.3, 4.3))
    search = ("search.rounds=1", "search.initial=4", "search.candidates=1")
    knobs = (
        "quantizer.scale_bits=[8]",
        "quantizer.block_size=[32]",
        "quantizer.scale_dtype=[float16]",
    )
    spec = load_spec(path, ["trainer.name=lq-lora", *search, *knobs])
    serial, parallel = tmp_path / "serial", tmp_path / "parallel"
    run_spec(spec, serial)
    here = SimpleNamespace(
        remote=start_here,
        put=lambda value: lambda: value,
        get=lambda reference: reference(),
        wait=lambda references, **_: (references[:1], references[1:]),
        shutdown=ray.shutdown,
    )
    monkeypatch.setattr(ray_executor, "ray", here)
    monkeypatch.setattr(ray, "get", here.get)  # What a worker calls.
    for name in ("connect", "kill"):
        monkeypatch.setattr(ray_executor, name, lambda _: None)
    run_spec(spec, parallel, workers=Workers(2, threads=torch.get_num_threads()))
    assert_frame_equal(results(parallel), results(serial), check_exact=True)
    (expected, _), (found, report) = read_adapter(serial, 1), read_adapter(parallel, 1)
    assert expected.tensors.keys() == found.tensors.keys()
    assert report.steps > 0
    assert "training-" not in " ".join(path.name for path in (parallel / "state").iterdir())
