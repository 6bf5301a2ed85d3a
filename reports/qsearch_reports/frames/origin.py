"""How a study was made: what its sessions ran on, as rows of names and values for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qsearch.plugins.digests import Inputs
from qsearch.provenance.session import Machine, Session, Source, environment_changes
from qsearch.storage.study_record import StudyRecord

Rows = list[tuple[str, str]]


def origin(record: StudyRecord) -> dict[str, Any]:
    """Return what the section "How it was made" shows.

    Returns:
        ``groups``, the last session's facts as (title, rows of name and value); ``inputs``, rows
        of the digests of model and examples; ``sessions``, a row for each.
    """
    groups = [("Versions", sorted(record.versions.items()))]
    for last in record.sessions[-1:]:
        sources = [(name, source_words(source)) for name, source in last.sources.items()]
        groups += [("Machine", machine_rows(last.machine)), ("Source code", sources)]
    return {
        "groups": [(title, rows) for title, rows in groups if rows],
        "inputs": [row for last in record.sessions[-1:] for row in input_rows(last.inputs)],
        "sessions": session_rows(record.sessions),
    }


def machine_rows(machine: Machine) -> Rows:
    """Return what is known of a machine."""
    memory = machine.memory_gib
    rows = [
        ("system", machine.system),
        ("processor", machine.processor),
        ("vector instructions", machine.instructions),
        ("cores", machine.cores),
        ("memory", None if memory is None else f"{memory:g} GiB"),
        ("PyTorch's threads", machine.threads),
        ("accelerators", ", ".join(machine.accelerators) or "none"),
        ("driver", machine.driver),
    ]
    return [(name, str(value)) for name, value in rows if value is not None]


def source_words(source: Source) -> str:
    """Return the state of a repository in words."""
    branch = f", branch {source.branch}" if source.branch else ""
    changed = "with changes that are not committed" if source.changed else "unchanged"
    return f"{source.commit or 'no commit'}{branch}, {changed}"


def input_rows(inputs: Inputs) -> list[dict[str, str]]:
    """Return a row for each file of weights, and for each split: ``what``, ``of``, ``sha256``."""
    rows = [("model", name, digest) for name, digest in inputs.model.items()]
    for split, examples in inputs.data.items():
        rows.append((split, f"{examples.count:,} examples", examples.sha256))
        if examples.file_sha256 is not None:
            rows.append((split, "its file", examples.file_sha256))
    return [dict(zip(("what", "of", "sha256"), row, strict=True)) for row in rows]


def session_rows(sessions: Sequence[Session]) -> list[dict[str, Any]]:
    """Return a row for each session: ``start``, ``machine``, ``threads`` and what ``changed``."""
    rows = []
    for at, session in enumerate(sessions):
        machine = session.machine
        parts = (machine.processor, *machine.accelerators)
        rows.append(
            {
                "start": session.start.replace("T", " ").removesuffix("+00:00"),
                "machine": ", ".join(part for part in parts if part) or "unknown",
                "threads": "unknown" if machine.threads is None else str(machine.threads),
                "changed": environment_changes(sessions[at - 1], session) if at else [],
            }
        )
    return rows
