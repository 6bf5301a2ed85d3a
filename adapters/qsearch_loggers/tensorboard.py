"""TensorBoard: a study's values as event files in DIR/tensorboard."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from qsearch._distribution import install_extra
from qsearch.errors import InputError
from qsearch.monitoring.events import Observer
from qsearch_loggers.scalars import Scalar, Scalars

FOLDER = "tensorboard"
_FLUSH_SECONDS = 10


def tensorboard(directory: Path, name: str) -> AbstractContextManager[Observer]:
    """Return a logger that writes to ``directory/tensorboard``.

    TensorBoard shows runs by their folders, so the study's name is not used.

    Raises:
        InputError: If TensorBoard is not installed.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise InputError(
            "--logger tensorboard: TensorBoard is not installed; install the extra:"
            f" {install_extra('tensorboard')}"
        ) from error
    return _opened(directory)


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[Observer]:
    from torch.utils.tensorboard import SummaryWriter

    folder = directory / FOLDER
    scalars = Scalars(_last_steps(folder))
    with SummaryWriter(str(folder), flush_secs=_FLUSH_SECONDS) as writer:

        def write(values: Iterator[Scalar]) -> None:
            for scalar in values:
                writer.add_scalar(scalar.name, scalar.value, scalar.step, walltime=scalar.time)

        write(scalars.catch_up(directory))
        yield lambda event: write(scalars.of(event))


def _last_steps(folder: Path) -> dict[str, int]:
    """Return the last step by name of what earlier sessions have written."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    if not folder.is_dir():
        return {}
    # One value of each name is kept in memory: the last.
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 1}).Reload()
    return {name: events.Scalars(name)[-1].step for name in events.Tags()[SCALARS]}
