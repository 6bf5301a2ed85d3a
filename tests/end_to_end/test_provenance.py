"""What a study on the real MiniLM says of where it comes from."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import torch

from qsearch.storage.study_record import read_study
from tests.end_to_end.conftest import command, run


def test_the_study_records_its_versions_machine_and_threads(study: Path) -> None:
    (session,) = read_study(study).sessions
    for name in ("torch", "transformers", "peft", "tokenizers", "safetensors", "botorch"):
        assert session.versions[name] == metadata.version(name)
    assert session.machine.threads == 1
    assert session.machine.instructions == torch.backends.cpu.get_cpu_capability()


def test_report_and_export_have_the_digests(study: Path, tmp_path: Path) -> None:
    (session,) = read_study(study).sessions
    page = (study / "report.html").read_text(encoding="utf-8")
    sums = [*session.inputs.model.values(), *(d.sha256 for d in session.inputs.data.values())]
    assert len(sums) == len(session.inputs.model) + 2
    assert all(f"<code>{digest}</code>" in page for digest in sums)
    run(command("export", study, "--bits", "3.0", "--to", tmp_path / "adapter"))
    facts = json.loads((tmp_path / "adapter" / "qsearch.json").read_text())
    assert [*facts["model_sha256"].values(), *facts["examples_sha256"].values()] == sums
