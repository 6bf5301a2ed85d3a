"""What a study measured on its training data: kept with it, so that an export needs no data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from qsearch.errors import InputError
from qsearch.plugins.capabilities import SupportsDataCheck
from qsearch.plugins.facts import SupportsTaskFacts
from qsearch.plugins.protocols import Task, TrainerState

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = Mapping[str, Tensor]

MAX_BYTES = 2**27
"""Of the tensors of one measurement; those of a larger one are not kept. For a layer of 4096
inputs, a norm takes 2 MiB, but a second moment 64 MiB."""


class DataFacts:
    """Measurements by name, each several tensors by name, and what the task knows of its data.

    They are made in this process, or those that a study has kept.
    """

    def __init__(self) -> None:
        self.kept = False
        self._measured: dict[str, Tensors] = {}

    def measured(self, name: str, task: Task, measure: Callable[[], Tensors]) -> Tensors:
        """Return a measurement as it was kept, or else measure it now, which reads the data.

        Raises:
            InputError: If it was not kept, and the data are not there.
        """
        if name not in self._measured:
            if self.kept and isinstance(task, SupportsDataCheck):
                try:
                    task.require_data()
                except InputError as error:
                    raise InputError(
                        f"{error}; it is needed to measure the {name} again, which the study did"
                        f" not keep, since they take more than {MAX_BYTES >> 20} MiB"
                    ) from error
            self._measured[name] = measure()
        return self._measured[name]

    def state(self, task: Task) -> TrainerState:
        """Return what is to be kept; equal tensors are there once."""
        tensors: dict[str, Tensor] = {}
        places: dict[str, dict[str, str]] = {}
        for name, measured in self._measured.items():
            own: dict[str, Tensor] = {}
            place: dict[str, str] = {}
            for inner, tensor in measured.items():
                plain = tensor.detach().cpu().contiguous()
                shape = ",".join(map(str, plain.shape))
                content = hashlib.sha256(plain.numpy().data).hexdigest()
                place[inner] = f"{shape}:{plain.dtype}:{content}"
                own[place[inner]] = plain
            if sum(tensor.nbytes for tensor in own.values()) <= MAX_BYTES:
                places[name] = place
                tensors |= own
        numbers = {key: str(number) for number, key in enumerate(tensors)}
        return TrainerState(
            {numbers[key]: tensor for key, tensor in tensors.items()},
            {
                "measured": {
                    name: {inner: numbers[key] for inner, key in place.items()}
                    for name, place in places.items()
                },
                "task": dict(task.facts()) if isinstance(task, SupportsTaskFacts) else None,
            },
        )

    def use(self, state: TrainerState, task: Task, device: str) -> None:
        """Take what a study kept: before the model is loaded, on the study's device."""
        tensors = {name: tensor.to(device) for name, tensor in state.tensors.items()}
        measured: Mapping[str, Mapping[str, str]] = state.metadata["measured"]
        self._measured = {
            name: {inner: tensors[number] for inner, number in place.items()}
            for name, place in measured.items()
        }
        of_task: Mapping[str, Any] | None = state.metadata["task"]
        if of_task is not None and isinstance(task, SupportsTaskFacts):
            task.use_facts(of_task)
            self.kept = True
