"""What a session of a study ran on, as data: versions, machine, source code, model and examples.

Of host, user and folders it holds no name, so that a report can be passed on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from qsearch.errors import InputError
from qsearch.plugins.digests import Inputs
from qsearch.plugins.source_precision import SourcePrecision


@dataclass(frozen=True)
class Machine:
    """The hardware, and how it computes; None where it could not be found out.

    Args:
        system: Operating system and architecture.
        instructions: Vector instructions that PyTorch computes with, such as ``AVX512``.
        cores: CPU cores that the process may use.
        threads: Threads that PyTorch computes with.
        driver: Version of the accelerators' driver.
    """

    system: str | None = None
    processor: str | None = None
    instructions: str | None = None
    cores: int | None = None
    memory_gib: float | None = None
    threads: int | None = None
    accelerators: tuple[str, ...] = ()
    driver: str | None = None


@dataclass(frozen=True)
class Source:
    """State of a git repository, and whether tracked files differ from its commit.

    Before the first commit there is none, and where no branch is checked out no branch.
    """

    commit: str | None
    branch: str | None
    changed: bool


@dataclass(frozen=True)
class Session:
    """What one start of a study ran on.

    Args:
        start: UTC, as ISO 8601.
        versions: Of Python, of libraries, and of the packages that bring the study's plugins.
        sources: Git repositories: that of the ``working directory``, and that of ``qsearch`` where
            it runs from a checkout.
        source_precision: Of the model's files, where it is known.
        warnings: What limits the results, as ``qsearch check`` says it too.
    """

    start: str
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Machine = Machine()
    sources: Mapping[str, Source] = field(default_factory=dict)
    inputs: Inputs = field(default_factory=Inputs)
    source_precision: SourcePrecision | None = None
    warnings: tuple[str, ...] = ()


def environment_changes(before: Session, after: Session) -> list[str]:
    """Return what of versions, machine and source code differs, one line each."""
    lines = _differences(before.versions, after.versions)
    lines += _differences(asdict(before.machine), asdict(after.machine))
    # One that only one side has says where the study was started, not what changed.
    known = before.sources.keys() & after.sources.keys()
    return lines + _differences(
        {f"{name} source": _as_text(before.sources[name]) for name in known},
        {f"{name} source": _as_text(after.sources[name]) for name in known},
    )


def input_changes(before: Inputs, after: Inputs) -> list[str]:
    """Return what of model and examples differs, one line each.

    What only one side has is not a difference, save a file of the model that is gone, since others
    may be loaded instead. Nor is another file with the same examples.
    """
    lines = []
    known = {name: after.model.get(name) for name in before.model}
    if after.model and known != before.model:
        lines += _differences(_named("model", before.model), _named("model", after.model))
    for split in before.data.keys() & after.data.keys():
        old, new = before.data[split].sha256, after.data[split].sha256
        lines += _differences({f"{split} examples": old}, {f"{split} examples": new})
    return sorted(lines)


def require_same_inputs(
    directory: Path, earlier: Iterable[Session], inputs: Inputs, otherwise: str = ""
) -> None:
    """Raise InputError unless a study's earlier sessions ran on the same model and examples.

    ``otherwise`` says what can be done, other than to bring them back.
    """
    for session in earlier:
        if differing := input_changes(session.inputs, inputs):
            raise InputError(
                f"{directory} has results of another model or other examples (SHA-256):"
                f" {'; '.join(differing)}; bring back those of when the study began{otherwise}"
            )


def _named(prefix: str, digests: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix} {name}": digest for name, digest in digests.items()}


def _as_text(source: Source) -> str:
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
