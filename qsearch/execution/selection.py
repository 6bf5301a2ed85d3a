"""Who evaluates for a study: this process, or workers of a Ray cluster."""

from __future__ import annotations

from pathlib import Path

from qsearch._distribution import install_extra
from qsearch.errors import InputError
from qsearch.execution.executor import Executor
from qsearch.execution.serial import SerialExecutor
from qsearch.execution.workers import Workers
from qsearch.plugins.components import StudyComponents


def open_executor(
    components: StudyComponents, workers: Workers | None, directory: Path
) -> Executor:
    """Return what evaluates for a study in a directory; without workers, that is this process."""
    if workers is None:
        return SerialExecutor(components.trainer, components.spec.failures, directory)
    try:
        from qsearch.execution.ray_executor import RayExecutor
    except ImportError as error:
        raise InputError(
            f"workers need Ray, which is not installed; install the extra: {install_extra('ray')}"
        ) from error
    return RayExecutor(components, workers, directory)
