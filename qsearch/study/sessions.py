"""The sessions of a study, each with what it ran on; model and data must stay the same."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from qsearch.errors import InputError
from qsearch.monitoring.events import Emit, EventKind
from qsearch.plugins.capabilities import SupportsInputDigests
from qsearch.plugins.components import StudyComponents
from qsearch.plugins.digests import Inputs
from qsearch.provenance.environment import find_machine, find_versions
from qsearch.provenance.git import source_states
from qsearch.provenance.session import Session, environment_changes, input_changes
from qsearch.storage.directory import has_results
from qsearch.storage.session_files import read_sessions, write_sessions


def record_session(directory: Path, components: StudyComponents, emit: Emit) -> tuple[Session, ...]:
    """Record what this session runs on, and report what changed since the one before.

    Call it before anything is measured; model and data may be loaded for it. The sessions are
    returned, this one included. Results of another model or other examples are an InputError.
    """
    before = read_sessions(directory) if has_results(directory) else ()
    session = Session(
        start=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=find_versions(components.spec),
        machine=find_machine(),
        sources=source_states(),
        inputs=_inputs(components),
    )
    for earlier in before:
        if differing := input_changes(earlier.inputs, session.inputs):
            raise InputError(
                f"{directory} has results of another model or other examples (SHA-256):"
                f" {'; '.join(differing)}; bring back those of when the study began, or give"
                " another --out"
            )
    sessions = (*before, session)
    write_sessions(directory, sessions)
    changed = environment_changes(before[-1], session) if before else []
    if changed:
        emit(EventKind.ENVIRONMENT_CHANGED, changed=changed)
    return sessions


def _inputs(components: StudyComponents) -> Inputs:
    trainer = components.trainer
    return trainer.input_digests() if isinstance(trainer, SupportsInputDigests) else Inputs()
