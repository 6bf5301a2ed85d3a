"""What a session of a study ran on, as data: versions, machine, source code, model and examples.

Of host, user and folders it holds no name, so that a report can be passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from qsearch.plugins.digests import ExamplesDigest, Inputs


@dataclass(frozen=True)
class Machine:
    """The hardware, and how it computes; None where it could not be found out.

    Args:
        system: Operating system and architecture.
        processor: Model of the CPU.
        instructions: Vector instructions that PyTorch computes with, such as ``AVX512``.
        cores: CPU cores that the process may use.
        memory_gib: Memory of the machine, GiB.
        threads: Threads that PyTorch computes with.
        libraries: Libraries for linear algebra, with versions; NumPy's and SciPy's with the
            threads that they compute with.
        accelerators: Names of the accelerators.
        driver: Version of the accelerators' driver.
    """

    system: str | None = None
    processor: str | None = None
    instructions: str | None = None
    cores: int | None = None
    memory_gib: float | None = None
    threads: int | None = None
    libraries: tuple[str, ...] = ()
    accelerators: tuple[str, ...] = ()
    driver: str | None = None


@dataclass(frozen=True)
class Source:
    """State of a git repository.

    Args:
        commit: What is checked out; None before the first commit.
        branch: Its branch; None where none is checked out.
        changed: Whether tracked files differ from the commit.
    """

    commit: str | None
    branch: str | None
    changed: bool


@dataclass(frozen=True)
class Session:
    """What one start of a study ran on.

    Args:
        start: When, UTC, as ISO 8601.
        versions: Versions of Python, of libraries, and of the packages that bring the study's
            plugins.
        machine: The hardware.
        sources: Repositories: that of the ``working directory``, and that of ``qsearch`` where
            it runs from a checkout.
        inputs: Model and data.
    """

    start: str
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Machine = Machine()
    sources: Mapping[str, Source] = field(default_factory=dict)
    inputs: Inputs = field(default_factory=Inputs)


def session_values(session: Session) -> dict[str, Any]:
    """Return a session as JSON values."""
    return asdict(session)


def session_of(values: Mapping[str, Any]) -> Session:
    """Return the session that :func:`session_values` wrote.

    Raises:
        KeyError: If a part is missing.
        TypeError: If a part has other fields.
    """
    machine, inputs = values["machine"], values["inputs"]
    lists = {name: tuple(machine[name]) for name in ("libraries", "accelerators")}
    return Session(
        start=values["start"],
        versions=dict(values["versions"]),
        machine=Machine(**{**machine, **lists}),
        sources={name: Source(**found) for name, found in values["sources"].items()},
        inputs=Inputs(
            dict(inputs["model"]),
            {split: ExamplesDigest(**found) for split, found in inputs["data"].items()},
        ),
    )


def environment_changes(before: Session, after: Session) -> list[str]:
    """Return what of versions, machine and source code differs, one line for each."""
    lines = _differences(before.versions, after.versions)
    lines += _differences(asdict(before.machine), asdict(after.machine))
    # One that is told on one side only says where the study was started, not what changed.
    known = before.sources.keys() & after.sources.keys()
    return lines + _differences(
        {f"{name} source": _in_words(before.sources[name]) for name in known},
        {f"{name} source": _in_words(after.sources[name]) for name in known},
    )


def input_changes(before: Inputs, after: Inputs) -> list[str]:
    """Return what of model and examples differs, one line for each.

    What is told on one side only is no difference: an earlier version may not have told it. So a
    file of the model that comes later is none; but one that goes is, as others may be loaded in its
    place. A file of examples that differs is none either, where its examples are the same.
    """
    lines = []
    known = {name: after.model.get(name) for name in before.model}
    if after.model and known != before.model:
        lines += _differences(_named("model", before.model), _named("model", after.model))
    for split in before.data.keys() & after.data.keys():
        old, new = before.data[split].sha256, after.data[split].sha256
        lines += _differences({f"{split} examples": old}, {f"{split} examples": new})
    return sorted(lines)


def _named(prefix: str, digests: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix} {name}": digest for name, digest in digests.items()}


def _in_words(source: Source) -> str:
    return f"{source.commit or 'no commit'}{' with changes' if source.changed else ''}"


def _differences(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    return [
        f"{name}: {_shown(before.get(name))} → {_shown(after.get(name))}"
        for name in [*before, *(name for name in after if name not in before)]
        if before.get(name) != after.get(name)
    ]


def _shown(value: object) -> str:
    if isinstance(value, tuple | list):
        return "; ".join(map(str, value)) or "none"
    return "unknown" if value is None else str(value)
