"""Evaluations on a split that a study's directory has, so that none is made twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qsearch._text import warn
from qsearch.plugins.components import StudyComponents
from qsearch.plugins.digests import Inputs
from qsearch.plugins.evaluation import Evaluation
from qsearch.plugins.protocols import Split
from qsearch.provenance.environment import find_versions
from qsearch.storage.paths import adapter_path
from qsearch.storage.split_evaluations import (
    Evaluated,
    KeptEvaluation,
    delete_evaluation,
    evaluations_folder,
    read_evaluation,
    read_evaluations,
    write_evaluation,
)

_CONFIGURATION = "configuration"
"""The name of what is evaluated, among what an evaluation is measured from."""

_NOT_OF_A_MODEL = {"name", "search", "failures"}
"""Sections of a study that no evaluation of a configuration depends on."""


@dataclass
class KeptEvaluations:
    """The evaluations on data of a study, such as ``test-512``, under the state of a round.

    Args:
        origin: What they are measured from; None if nothing says which examples these are, and
            then none is kept.
        differing: In what the kept ones differ from that, which are measured again.
    """

    directory: Path
    data: str
    origin: Mapping[str, str] | None
    differing: list[str] = field(default_factory=list)
    _valid: dict[Evaluated, KeptEvaluation] = field(default_factory=dict)
    _outdated: list[Evaluated] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.origin is None:
            return
        for of, kept in read_evaluations(self.directory, self.data).items():
            differing = [
                name for name, value in self.origin.items() if kept.origin.get(name) != value
            ]
            if differing:
                self._outdated.append(of)
                self.differing += [name for name in differing if name not in self.differing]
            else:
                self._valid[of] = kept

    @property
    def folder(self) -> Path:
        """Where they are kept."""
        return evaluations_folder(self.directory, self.data)

    def get(self, of: Evaluated, configuration: str = "") -> Evaluation | None:
        """Return what is kept of a trial's configuration, as JSON, or of an unquantized model."""
        kept = self._valid.get(of)
        if kept is None or kept.origin.get(_CONFIGURATION) != _digest(configuration):
            return None
        return kept.evaluation

    def keep(self, of: Evaluated, evaluation: Evaluation, configuration: str = "") -> Evaluation:
        """Keep an evaluation, and return it as it will be read, if it can be kept.

        Outdated ones make room for it.
        """
        if self.origin is None:
            return evaluation
        kept = KeptEvaluation({**self.origin, _CONFIGURATION: _digest(configuration)}, evaluation)
        try:
            while self._outdated:
                delete_evaluation(self.directory, self.data, self._outdated.pop())
            if not write_evaluation(self.directory, self.data, of, kept):
                return evaluation
        except OSError as error:
            warn(f"{self.folder}: evaluations are not kept: {error.strerror or error}")
            self.origin = None
            return evaluation
        return read_evaluation(self.directory, self.data, of).evaluation


def kept_evaluations(
    directory: Path, components: StudyComponents, round: int, split: Split, inputs: Inputs
) -> KeptEvaluations:
    """Return what is kept of evaluations on a split, under the state of a round.

    ``inputs`` are the model, and the examples of the split as they are evaluated.
    """
    length = components.spec.task.options.get("length")
    data = f"{split}-{length}" if isinstance(length, int) else split
    path = adapter_path(directory, round)
    # What is missing or damaged is refused when it is loaded.
    if not inputs.model or split not in inputs.data or not path.is_file():
        return KeptEvaluations(directory, data, None)
    sections = components.spec.model_dump(mode="json", exclude=_NOT_OF_A_MODEL)
    with path.open("rb") as stream:
        adapter = hashlib.file_digest(stream, "sha256").hexdigest()
    origin = {
        "model": _digest(dict(inputs.model)),
        "examples": inputs.data[split].sha256,
        "round": str(round),
        "adapter": adapter,
        "study": _digest(sections),
        "versions": _digest(find_versions(components.spec)),
    }
    return KeptEvaluations(directory, data, origin)


def _digest(values: object) -> str:
    text = values if isinstance(values, str) else json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
