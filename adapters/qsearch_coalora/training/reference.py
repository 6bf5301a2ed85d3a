"""What the unquantized model predicts, with which evaluations are compared."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from qsearch.errors import DamagedFileError, InputError
from qsearch.plugins.evaluation import ExampleScores
from qsearch.plugins.protocols import Scores, Split
from qsearch.plugins.references import SupportsDistillation, SupportsReference
from qsearch.storage.mapped_arrays import Array, form_of, read_mapped, write_mapped
from qsearch.storage.paths import reference_path
from qsearch_coalora.tasks.divergence import TOKEN_BYTES

if TYPE_CHECKING:
    from torch import Tensor

    from qsearch_coalora.tasks.workload import Workload
    from qsearch_coalora.training.study_model import StudyModel

    Batch = Mapping[str, Tensor]

MEBIBYTE = 2**20

_PREFIX = "reference."
"""How names of what a task keeps begin in a file, apart from losses and weights."""


@dataclass(frozen=True)
class Reference:
    """What the unquantized model scored on a split, and what a task keeps of its outputs.

    Args:
        outputs: Of the split's first examples, in order: each array's first dimension is theirs.
        scores: Of all examples, where they were scored just now.
    """

    outputs: Mapping[str, Array]
    examples: ExampleScores
    scores: Scores | None = None
    seconds: float = 0.0

    def rows(self, first: int, last: int) -> dict[str, Tensor]:
        """Return what is kept of examples ``first`` to ``last``, or of those of them it has."""
        import torch

        return {name: torch.from_numpy(kept[first:last]) for name, kept in self.outputs.items()}

    @property
    def count(self) -> int:
        """Number of the examples whose outputs are kept."""
        return min((len(kept) for kept in self.outputs.values()), default=0)


@dataclass
class References:
    """The references of a study's splits, made at need.

    That of the loaded model is made once a study, and kept in a folder, if there is one; that of a
    round is made after each training, and kept in memory.
    """

    folder: Path | None = None
    _of_study: dict[Split, Reference] = field(default_factory=dict)
    _of_round: dict[Split, Reference] = field(default_factory=dict)

    def forget_round(self) -> None:
        """Forget those of a round, whose adapter is replaced."""
        self._of_round.clear()

    @cached_property
    def _temporary(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="qsearch-reference-")

    def of(self, study: StudyModel, task: SupportsReference, split: Split) -> Reference:
        """Return the reference of a split, made if it is not there.

        Raises:
            DamagedFileError: If its file is damaged, or of another model or other examples.
        """
        if task.reference == "round":
            if split not in self._of_round:
                self._of_round[split] = _of_round(study, task, split)
            return self._of_round[split]
        if split not in self._of_study:
            folder = self.folder
            if folder is None or not (folder / "state").is_dir():
                folder = Path(self._temporary.name)
                (folder / "state").mkdir(exist_ok=True)
            self._of_study[split] = _of_study(study, task, split, reference_path(folder, split))
        return self._of_study[split]


def require_room(study: StudyModel, workload: Workload | None) -> None:
    """Raise InputError unless what is kept of one of a task's examples fits, or nothing is kept."""
    limit, task = study.options.reference_mebibytes, study.task
    if workload is None or not limit or not isinstance(task, SupportsReference):
        return
    if workload.reference_bytes > limit * MEBIBYTE:
        what = f"one example ({workload.tokens_option} {workload.example_tokens})"
        raise _no_room(limit, what, workload.reference_bytes)


def require_distillation(study: StudyModel) -> None:
    """Raise InputError if the task cannot be trained as ``trainer.loss`` says."""
    loss, task = study.options.loss, study.task
    if loss in (None, "task"):
        return
    if not isinstance(task, SupportsDistillation):
        raise InputError(
            f"trainer.loss {loss}: task {task.name!r} does not compare training examples with the"
            " unquantized model; use task"
        )
    if task.reference == "round":
        if loss == "kl":
            raise InputError(
                f"trainer.loss kl: task {task.name!r} compares with a head that learns the labels"
                " with the adapter; use mixed or task"
            )
        return
    if not study.options.reference_mebibytes:
        raise InputError(
            f"trainer.loss {loss}: trainer.reference_mebibytes 0 keeps nothing of what the"
            " unquantized model predicts; give at least 1"
        )


def _no_room(limit: int, what: str, nbytes: int) -> InputError:
    return InputError(
        f"trainer.reference_mebibytes {limit} does not hold what the unquantized model predicts on"
        f" {what}; give at least {-(-nbytes // MEBIBYTE)}, or 0 to compare with no model"
    )


def room_note(study: StudyModel, workload: Workload | None) -> tuple[str, ...]:
    """Return a sentence for the user if a task's examples do not fit, as far as that is known."""
    task = study.task
    if workload is None or workload.evaluated_examples is None:
        return ()
    if not isinstance(task, SupportsReference) or task.reference == "round":
        return ()
    tokens = workload.evaluated_examples * workload.example_tokens
    limit = study.options.reference_mebibytes
    needed = -(-tokens * TOKEN_BYTES // MEBIBYTE)
    if needed <= limit or not limit:
        return ()
    return (
        f"kl is over the first {limit * MEBIBYTE // TOKEN_BYTES:,} of {tokens:,} validation tokens;"
        f" for all of them set trainer.reference_mebibytes to {needed}",
    )


def _of_round(study: StudyModel, task: SupportsReference, split: Split) -> Reference:
    """Return what the model scores with the adapter as it is and nothing quantized."""
    import numpy as np

    started = time.perf_counter()
    parts: list[Scores] = []
    kept: list[dict[str, Array]] = []
    # Closed, so that the model is as it was also where this is interrupted.
    with closing(_scored(study, split, study.adapted.unquantized())) as scored:
        for scores, logits, batch in scored:
            own = task.reference_outputs(logits, batch)
            parts.append(task.compare(scores, logits, batch, own))
            kept.append({name: tensor.cpu().numpy() for name, tensor in own.items()})
    joined = Scores.concatenate(parts)
    outputs = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
    return Reference(outputs, joined.examples(), joined, time.perf_counter() - started)


def _of_study(study: StudyModel, task: SupportsReference, split: Split, path: Path) -> Reference:
    """Return what the loaded model scores without an adapter, from its file, made if missing."""
    identity = _identity(study, split)
    if not path.is_file():
        _write(study, task, split, path, identity)
    facts, arrays = read_mapped(path)
    differing = [name for name, value in identity.items() if facts.get(name) != value]
    if differing:
        raise DamagedFileError(
            f"{path}: differs from this study in {', '.join(differing)}; delete it, then run the"
            " study again, which makes it again"
        )
    outputs = {
        name.removeprefix(_PREFIX): array
        for name, array in arrays.items()
        if name.startswith(_PREFIX)
    }
    losses, weights = (tuple(arrays[name].tolist()) for name in ("losses", "weights"))
    return Reference(outputs, ExampleScores(losses, weights))


def _write(
    study: StudyModel,
    task: SupportsReference,
    split: Split,
    path: Path,
    identity: Mapping[str, str],
) -> None:
    import numpy as np

    count = int(identity["examples"])
    limit = study.options.reference_mebibytes * MEBIBYTE
    with closing(_scored(study, split, study.adapted.base_model())) as scored:
        first = next(scored)
        example = {
            f"{_PREFIX}{name}": tensor[:1].cpu().numpy()
            for name, tensor in task.reference_outputs(first[1][:1], _first(first[2])).items()
        }
        nbytes = sum(array.nbytes for array in example.values())
        if nbytes > limit:  # Of a task that does not say it before.
            raise _no_room(study.options.reference_mebibytes, "one example", nbytes)
        kept = min(count, limit // nbytes)
        forms = {"losses": np.zeros(count, "<f4"), "weights": np.zeros(count, "<f4")}
        forms |= {
            # An array of any length, of which no element takes memory.
            name: np.broadcast_to(array[0], (kept, *array.shape[1:]))
            for name, array in example.items()
        }

        def fill(arrays: Mapping[str, Array]) -> None:
            position = 0
            batch: tuple[Scores, Tensor, Batch] | None = first
            while batch is not None:
                scores, logits, inputs = batch
                end = position + len(scores.losses)
                arrays["losses"][position:end] = scores.losses.cpu().numpy()
                arrays["weights"][position:end] = scores.weights.cpu().numpy()
                if position < kept:
                    for name, tensor in task.reference_outputs(logits, inputs).items():
                        rows = tensor.cpu().numpy()[: kept - position]
                        arrays[f"{_PREFIX}{name}"][position : position + len(rows)] = rows
                position = end
                batch = next(scored, None)

        write_mapped(path, {name: form_of(form) for name, form in forms.items()}, identity, fill)


def _first(batch: Batch) -> Batch:
    return {name: tensor[:1] for name, tensor in batch.items()}


def _identity(study: StudyModel, split: Split) -> dict[str, str]:
    """Return what a file must have been made from, by its name in messages."""
    model = study.model_digests  # Which loads it, and the tokenizer with it.
    digest, count = hashlib.sha256(), 0
    for batch in study.task.batches(split, study.options.eval_batch_size):
        count += len(next(iter(batch.values())))
        for name, tensor in sorted(batch.items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
    options = study.options
    return {
        "model": json.dumps(model, sort_keys=True),
        "data": digest.hexdigest(),
        "examples": str(count),
        "precision": options.eval_precision,
        "reference_mebibytes": str(options.reference_mebibytes),
    }


def _scored(
    study: StudyModel, split: Split, model: AbstractContextManager[None]
) -> Generator[tuple[Scores, Tensor, Batch]]:
    """Yield the scores, the logits and each batch of a split, of what the context makes."""
    import torch

    from qsearch_coalora.training.evaluation import evaluation_batches

    study.adapted.peft_model.eval()
    with torch.no_grad(), model:
        for logits, batch in evaluation_batches(study, split):
            yield study.task.score(logits, batch), logits, batch
