"""What runs in a worker of a Ray cluster: one model, and evaluations with it.

Messages are JSON and safetensors, as files are; Ray's own transport carries them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from qsearch._text import in_one_line, reason_of
from qsearch.errors import EvaluationError, QsearchError
from qsearch.execution.executor import Failure, Result, evaluate_one
from qsearch.plugins.capabilities import (
    NO_CHECKPOINT,
    SupportsInputDigests,
    SupportsSeparateTraining,
)
from qsearch.plugins.components import StudyComponents, build_components
from qsearch.plugins.evaluation import Evaluation
from qsearch.plugins.protocols import TrainerState
from qsearch.plugins.references import SupportsReferenceFile
from qsearch.provenance.environment import find_versions
from qsearch.space.configuration import Configuration
from qsearch.spec.study_spec import StudySpec


def encode_state(state: TrainerState) -> bytes:
    """Return a trainer's state as the bytes of a safetensors file."""
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in state.tensors.items()}
    return save(tensors, metadata={"state": json.dumps(dict(state.metadata))})


def decode_state(message: bytes) -> TrainerState:
    """Return what :func:`encode_state` was given."""
    size = int.from_bytes(message[:8], "little")
    header = json.loads(message[8 : 8 + size])
    return TrainerState(load(message), json.loads(header["__metadata__"]["state"]))


@dataclass(frozen=True)
class Answer:
    """What a worker sends back: JSON, and the state of what was trained separately.

    The JSON is the evaluation, a ``failure`` of the configuration, or an ``error`` that no worker
    would be spared.
    """

    message: str
    trained: bytes | None = None

    @property
    def result(self) -> Result:
        """The evaluation, or the failure."""
        values = json.loads(self.message)
        return Failure(values["failure"]) if "failure" in values else Evaluation.from_values(values)

    @property
    def error(self) -> str | None:
        """Why the worker cannot continue, for the user."""
        reason: str | None = json.loads(self.message).get("error")
        return reason


class Worker:
    """An actor of Ray that holds a study's model, and does what its driver asks.

    Its arguments are the resolved study and the driver's :func:`identity` as JSON, CPU threads, and
    the study's directory, which another node need not have.
    """

    def __init__(self, spec: str, driver: str, threads: int, directory: str) -> None:
        torch.set_num_threads(threads)
        self._spec = StudySpec.model_validate_json(spec)
        self._driver: dict[str, str] = json.loads(driver)
        self._directory = Path(directory)
        self._trainer: Any = None

    def use(self, state: Sequence[Any] = ()) -> Answer:
        """Load the study's model, and a state of its trainer.

        The state is Ray's reference to an encoded one, in a list, because Ray would otherwise fetch
        it again for each call. Before the first training the list is empty.
        """
        import ray

        try:
            if self._trainer is None:
                components = build_components(self._spec)
                _require_same(self._driver, identity(components))
                self._trainer = components.trainer
            if state:
                self._trainer.load_state(decode_state(ray.get(state[0])))
                if isinstance(self._trainer, SupportsReferenceFile):
                    with contextlib.suppress(EvaluationError):  # Each evaluation says why.
                        self._trainer.prepare_reference(self._directory)
        except Exception as error:
            return _cannot(error)
        return Answer("{}")

    def evaluate(self, configuration: str) -> Answer:
        """Evaluate a configuration, as JSON, under the state in use."""
        candidate, trainer = Configuration.from_json(configuration), self._trainer
        trains = isinstance(trainer, SupportsSeparateTraining) and trainer.untrained(
            [candidate], NO_CHECKPOINT
        )
        result = evaluate_one(trainer, candidate)
        if isinstance(result, Failure):
            return Answer(json.dumps({"failure": result.reason}))
        # The next set may hold what was trained for this evaluation.
        trained = encode_state(trainer.train_separately(candidate)) if trains else None
        return Answer(json.dumps(asdict(result)), trained)

    def train(self, configuration: str) -> Answer:
        """Train a configuration, as JSON, separately."""
        try:
            trained = self._trainer.train_separately(Configuration.from_json(configuration))
        except Exception as error:
            return _cannot(error)
        return Answer("{}", encode_state(trained))


def _cannot(error: Exception) -> Answer:
    """Return the answer of a worker that cannot continue, and that no other could replace."""
    reason = in_one_line(error) if isinstance(error, QsearchError) else reason_of(error)
    return Answer(json.dumps({"error": reason}))


def identity(components: StudyComponents) -> dict[str, str]:
    """Return what driver and workers must have in common to come to the same results.

    This may load model and data.
    """
    versions = find_versions(components.spec)
    names = {f"version of {name}": version for name, version in versions.items()}
    if isinstance(components.trainer, SupportsInputDigests):
        inputs = components.trainer.input_digests()
        names |= {f"SHA-256 of {name}": digest for name, digest in inputs.model.items()}
        names |= {f"SHA-256 of {split}": data.sha256 for split, data in inputs.data.items()}
    return names


def _require_same(driver: dict[str, str], worker: dict[str, str]) -> None:
    differing = [
        f"{name}: {driver.get(name)}, there {worker.get(name)}"
        for name in sorted({*driver, *worker})
        if driver.get(name) != worker.get(name)
    ]
    if differing:
        raise QsearchError(
            "a node differs from the machine that drives the study, and so might its losses:"
            f" {'; '.join(differing)}"
        )
