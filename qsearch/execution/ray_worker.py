"""What runs in a worker of a Ray cluster: one model, and evaluations with it.

Messages are JSON and safetensors, as files are; Ray's own transport carries them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors.torch import load, save

from qsearch._text import in_one_line, reason_of
from qsearch.errors import QsearchError
from qsearch.execution.executor import Failure, Result, evaluate_one
from qsearch.plugins.capabilities import (
    NO_CHECKPOINT,
    SupportsInputDigests,
    SupportsSeparateTraining,
)
from qsearch.plugins.components import StudyComponents, build_components
from qsearch.plugins.evaluation import Evaluation
from qsearch.plugins.protocols import TrainerState
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
    """What a worker sends back.

    Args:
        figures: The evaluation's figures, or the reason why there is none, or why the worker
            cannot work at all.
        trained: State of what was trained apart.
    """

    figures: str
    trained: bytes | None = None

    @property
    def result(self) -> Result:
        """The evaluation, or the failure."""
        told = json.loads(self.figures)
        return Failure(told["failure"]) if "failure" in told else Evaluation(**told)

    @property
    def error(self) -> str | None:
        """Why the worker cannot go on, in words for the user."""
        reason: str | None = json.loads(self.figures).get("error")
        return reason


class Worker:
    """Holds a study's parts, and does what its driver asks; an actor of Ray.

    Args:
        spec: The study, resolved, as JSON.
        known: What :func:`identity` returned of the driver, as JSON.
        threads: CPU threads that it may use.
    """

    def __init__(self, spec: str, known: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._spec = StudySpec.model_validate_json(spec)
        self._known: dict[str, str] = json.loads(known)
        self._trainer: Any = None

    def use(self, state: Sequence[Any] = ()) -> Answer:
        """Load the study's model, and a state of its trainer.

        Args:
            state: Ray's reference to an encoded state, in a list: Ray would else fetch it anew for
                each worker's call, known or not. None before the first training.
        """
        import ray

        try:
            if self._trainer is None:
                components = build_components(self._spec)
                _require_same(self._known, identity(components))
                self._trainer = components.trainer
            if state:
                self._trainer.load_state(decode_state(ray.get(state[0])))
        except Exception as error:
            return _cannot(error)
        return Answer("{}")

    def evaluate(self, configuration: str) -> Answer:
        """Evaluate a configuration under the state in use.

        Args:
            configuration: The configuration, as JSON.
        """
        wanted = Configuration.from_json(configuration)
        trainer = self._trainer
        trains = isinstance(trainer, SupportsSeparateTraining) and trainer.untrained(
            [wanted], NO_CHECKPOINT
        )
        result = evaluate_one(trainer, wanted)
        if isinstance(result, Failure):
            return Answer(json.dumps({"failure": result.reason}))
        # What was trained for this evaluation, the next set may hold.
        trained = encode_state(trainer.train_separately(wanted)) if trains else None
        return Answer(json.dumps(asdict(result)), trained)

    def train(self, configuration: str) -> Answer:
        """Train a configuration apart.

        Args:
            configuration: The configuration, as JSON.
        """
        try:
            trained = self._trainer.train_separately(Configuration.from_json(configuration))
        except Exception as error:
            return _cannot(error)
        return Answer("{}", encode_state(trained))


def _cannot(error: Exception) -> Answer:
    """Return the answer of a worker that cannot go on, and that no other could replace."""
    words = in_one_line(str(error)) if isinstance(error, QsearchError) else reason_of(error)
    return Answer(json.dumps({"error": words}))


def identity(components: StudyComponents) -> dict[str, str]:
    """Return what driver and workers must have alike to come to the same results.

    Args:
        components: The study; model and data may be loaded.
    """
    found = {f"version of {name}": text for name, text in find_versions(components.spec).items()}
    if isinstance(components.trainer, SupportsInputDigests):
        inputs = components.trainer.input_digests()
        found |= {f"SHA-256 of {name}": digest for name, digest in inputs.model.items()}
        found |= {f"SHA-256 of {split}": data.sha256 for split, data in inputs.data.items()}
    return found


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
