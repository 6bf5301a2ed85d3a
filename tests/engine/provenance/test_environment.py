"""What this process computes with."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import pytest
import torch

from qsearch.provenance.environment import find_machine, find_versions
from qsearch.provenance.session import Machine
from tests.engine.fake_study import study_spec


def test_versions_are_those_installed_of_plugins_too() -> None:
    versions = find_versions(study_spec())
    assert versions["python"] == platform.python_version()
    for name in ("qsearch-llm", "torch", "ax-platform", "botorch", "gpytorch", "numpy", "scipy"):
        assert versions[name] == metadata.version(name)
    assert versions["qsearch-fake"] == "1.0"
    own = {section: {"name": "none"} for section in ("quantizer", "task", "trainer")}
    assert "qsearch-fake" not in find_versions(study_spec(**own))


def test_the_machine_is_described() -> None:
    machine = find_machine()
    assert machine.system == platform.platform()
    assert machine.processor
    assert machine.instructions == torch.backends.cpu.get_cpu_capability()
    assert machine.cores is not None
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert machine.memory_gib is not None
    assert machine.memory_gib > 0.1
    assert bool(machine.accelerators) == torch.accelerator.is_available()


def test_what_cannot_be_found_out_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("nobody knows")

    for name in ("platform.platform", "os.sysconf", "torch.get_num_threads"):
        monkeypatch.setattr(name, fail)
    for name in ("_processor", "_cores", "_accelerators"):
        monkeypatch.setattr(f"qsearch.provenance.environment.{name}", fail)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", fail)
    assert find_machine() == Machine()


def test_nvidia_gpus_are_named_with_their_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As nvidia-smi writes it; a machine without one has a script in its place."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf 'NVIDIA H100 80GB HBM3, 570.1\\nNVIDIA L4, 570.1\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    machine = find_machine()
    assert machine.accelerators == ("NVIDIA H100 80GB HBM3", "NVIDIA L4")
    assert machine.driver == "570.1"
